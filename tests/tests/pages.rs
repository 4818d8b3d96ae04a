//! The pages of the documentation are true: every command that they show is run by a test, every message that they
//! explain can appear, and what they say of files lets others read them.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use integration_tests::pages::{self, Page};
use integration_tests::programs::{all_output, built, checkout, run_within};
use integration_tests::runs::{SCHEDULE, last_checkpoints};

/// A command that pages show: how it begins, options that it may have, and the test that runs it with these.
struct Row(&'static str, &'static [&'static str], Test);

enum Test {
    /// [`the_commands_of_pages_work`] runs it as it stands on the page, with other places.
    Here,
    /// A function of another file.
    Of(&'static str, &'static str),
}

use Test::{Here, Of};

const EVALUATION: &str = "tests/tests/evaluation.rs";
const DASHBOARD: &str = "tests/tests/dashboard.rs";
const DOCTOR: &str = "tests/tests/doctor/main.rs";
const PUBLISHED: &str = "published_layouts_are_scored_as_their_predictions_are";

/// Every shape of a command that a page may show; the first row that fits counts. A page with a new one needs a row,
/// and the row a test.
const ROWS: &[Row] = &[
    Row("blip2 --version", &["--version"], Here),
    Row("blip2 bench data", &["--images"], Here),
    Row("blip2 bench step", &["--stage", "--batch"], Here),
    Row("blip2 caption", &["--beams", "--prompt"], Here),
    Row("blip2 checkpoints export", &["--output", "--format"], Here),
    Row("blip2 checkpoints list", &[], Here),
    Row("blip2 checkpoints prune", &["--keep-last"], Here),
    Row("blip2 checkpoints show", &[], Here),
    Row("blip2 checkpoints verify", &[], Here),
    Row("blip2 config check", &["--set"], Here),
    Row("blip2 config show", &["--set"], Here),
    Row("blip2 data caption", &["--out", "--ranks", "--texts"], Here),
    Row(
        "blip2 data fetch",
        &["--out", "--retry-failed", "--shards"],
        Of("tests/tests/fetch/resume.rs", "machines_share_an_output_by_taking_different_shards"),
    ),
    Row(
        "blip2 data fetch",
        &["--out", "--min-side", "--shards"],
        Of("tests/tests/fetch/answers.rs", "every_kind_of_answer_becomes_a_row_with_its_reason"),
    ),
    Row("blip2 data filter", &["--out", "--ranks", "--scorer"], Here),
    Row("blip2 data index", &[], Here),
    Row("blip2 data inspect", &["--html"], Here),
    Row("blip2 data synth", &["--out", "--scenes"], Here),
    Row("blip2 dashboard", &["--port"], Of(DASHBOARD, "the_page_and_programs_are_told_the_same")),
    Row("blip2 demo", &[], Of("tests/tests/launch.rs", "the_demo_goes_to_its_report_and_does_nothing_twice")),
    Row(
        "blip2 doctor",
        &["--slurm"],
        Of(DOCTOR, "every_node_of_an_allocation_is_looked_at_and_the_one_that_differs_is_named"),
    ),
    Row(
        "blip2 plan",
        &["--calibrate"],
        Of("tests/tests/commands.rs", "a_calibrated_plan_counts_measured_steps_and_its_own_error"),
    ),
    Row(
        "blip2 doctor",
        &["--json", "--only", "--set"],
        Of(DOCTOR, "a_run_that_works_passes_and_nothing_of_it_is_touched"),
    ),
    Row("blip2 eval caption", &["--annotations", "--images"], Of(EVALUATION, PUBLISHED)),
    Row("blip2 eval caption", &["--annotations", "--images", "--ranks"], Of(EVALUATION, "ranks_share_an_evaluation")),
    Row("blip2 eval retrieval", &["--split", "--stage"], Here),
    Row("blip2 eval retrieval", &["--annotations", "--images"], Of(EVALUATION, PUBLISHED)),
    Row("blip2 eval score", &["--annotations"], Of(EVALUATION, PUBLISHED)),
    Row("blip2 eval table", &[], Of(EVALUATION, PUBLISHED)),
    Row("blip2 eval vqa", &["--annotations", "--answers", "--images"], Of(EVALUATION, PUBLISHED)),
    Row(
        "blip2 launch preset:tiny_finetune_vqa",
        &[],
        Of(EVALUATION, "fine_tuning_trains_the_image_encoder_to_the_same_bits_on_any_number_of_ranks"),
    ),
    Row("blip2 launch", &["--ranks"], Here),
    Row("blip2 launch", &["--dashboard"], Of(DASHBOARD, "a_launch_serves_the_page_as_long_as_it_lasts")),
    Row(
        "blip2 plan",
        &["--gpu", "--ranks"],
        Of("tests/tests/commands.rs", "a_plan_tells_the_published_figures_and_the_page_of_the_docs"),
    ),
    Row("blip2 report", &[], Here),
    Row("blip2 status", &["--json"], Here),
    Row("blip2 status", &["--json", "--watch"], Of(DASHBOARD, "a_watch_ends_with_the_run")),
    Row(
        "blip2 verify exactness",
        &[],
        Of("tests/tests/exactness.rs", "any_number_of_ranks_and_any_restart_train_the_same_bits"),
    ),
    Row("blip2 weights export", &["--output"], Here),
    Row("blip2 weights import", &["--config", "--output"], Here),
    Row("blip2-rank self-check", &[], Of("tests/tests/linking.rs", "one_rank_starts_alone_and_finds_its_libraries")),
];

/// Pages whose blocks marked `sh` are typed as they stand by another test.
const LITERAL: &[(&str, &str)] = &[("docs/run-on-slurm.md", "tests/tests/guide.rs")];

/// The row of a command of `blip2` or `blip2-rank`, if there is one.
fn row_of(name: &str, arguments: &[String]) -> Option<&'static Row> {
    let command = format!("{name} {}", arguments.join(" "));
    ROWS.iter().find(|Row(begins, options, _)| {
        let is_it = command.strip_prefix(begins).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
        let words = arguments.iter().filter(|word| word.starts_with("--") && *word != "--");
        is_it && words.into_iter().all(|word| options.contains(&word.split('=').next().unwrap_or(word)))
    })
}

/// The commands of `blip2` and `blip2-rank` on a page: words after the name, by name.
fn commands(page: &Page) -> Vec<(String, Vec<String>)> {
    let all = page.commands();
    let ours = all.iter().filter_map(|words| pages::ours(words)).filter(|(name, _)| name.starts_with("blip2"));
    ours.map(|(name, arguments)| (name.to_owned(), arguments.to_vec())).collect()
}

fn is_literal(page: &Page) -> bool {
    LITERAL.iter().any(|(name, _)| page.name == *name)
}

fn without_test(page: &Page) -> Vec<String> {
    let missing = commands(page).into_iter().filter(|(name, arguments)| row_of(name, arguments).is_none());
    missing.map(|(name, arguments)| format!("{}: {name} {}", page.name, arguments.join(" "))).collect()
}

#[test]
fn every_command_on_a_page_has_a_test() {
    let all = pages::all();
    let missing: Vec<String> = all.iter().filter(|page| !is_literal(page)).flat_map(without_test).collect();
    assert!(missing.is_empty(), "add a row to ROWS, and the test that it names, for\n{}", missing.join("\n"));
    for (page, test) in LITERAL {
        assert!(fs::read_to_string(checkout().join(test)).unwrap().contains(page), "{test} does not read {page}");
    }
    let page = |text: &str| Page { name: "a.md".to_owned(), text: format!("```sh\n{text}\n```\n") };
    for untested in ["blip2 data mend", "blip2 data index run.yaml --json", "blip2 launcher x", "blip2-rank train"] {
        assert_eq!(without_test(&page(untested)), [format!("a.md: {untested}")]);
    }
    assert_eq!(without_test(&page("x/blip2 launch tiny --ranks 3 | cat; ls")), Vec::<String>::new());
}

#[test]
fn the_tests_that_rows_name_are_there_and_give_the_options() {
    for Row(command, options, test) in ROWS {
        let Of(file, function) = test else { continue };
        let path = checkout().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(&format!("fn {function}()")), "{command}: {file} has no test {function}");
        // Tests of a folder share what starts their commands.
        let beside = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
        let in_folder = !path.parent().is_some_and(|folder| folder.ends_with("tests/tests"));
        let all = beside.filter(|file| in_folder && file.is_file()).map(|file| fs::read_to_string(file).unwrap());
        let all: String = all.chain([text]).collect();
        for option in *options {
            assert!(all.contains(&format!("\"{option}")), "{command}: {file} gives no {option}");
        }
    }
}

/// What stands for a place, a file or a size on a page, and what is taken here.
const INSTEAD: &[(&str, &str)] = &[
    ("RUN", "runs/tiny"),
    ("RUN|CHECKPOINT", "runs/tiny"),
    ("DIR", "exported-checkpoint"),
    ("runs/captioner", "runs/tiny"),
    ("hf://openai/clip-vit-large-patch14", "runs/tiny"),
    ("~/models/opt-2.7b", "given"),
    ("vitg_opt2.7b", "run.yaml"),
    ("s3://bucket/laion400m", "corpus/train"),
    ("s3://bucket/web", "few/train"),
    ("s3://bucket/captioned", "web-captioned"),
    ("s3://bucket/filtered", "web-filtered"),
    ("shards/laion400m", "corpus/train"),
    ("shards", "corpus/train"),
    ("20000", "300"),
    ("10", "2"),
    ("16", "2"),
    ("8", "2"),
];

/// A command of a page as it is run here.
fn adapted(name: &str, arguments: &[String], checkpoint: &str) -> Vec<String> {
    let instead = |word: &String| match word.as_str() {
        "CHECKPOINT" => checkpoint.to_owned(),
        word => INSTEAD.iter().find(|(shown, _)| *shown == word).map_or(word, |(_, taken)| taken).to_owned(),
    };
    let mut words: Vec<String> = std::iter::once(name.to_owned()).chain(arguments.iter().map(instead)).collect();
    match words.get(1..3).map(|two| two.join(" ")).as_deref() {
        // Many texts for each image take long.
        Some("data caption") => {
            let source = words.iter_mut().find(|word| matches!(word.as_str(), "corpus/train" | "shards/cc3m"));
            source.into_iter().for_each(|word| *word = "few/train".to_owned());
        }
        Some("data inspect" | "bench data") => {
            words.iter_mut().filter(|word| *word == "shards/cc3m").for_each(|word| *word = "corpus/train".to_owned());
        }
        Some("bench step") => words.extend(["--steps", "1", "--warmup", "0"].map(str::to_owned)),
        _ => {}
    }
    words
}

/// Runs a command in a folder to its end.
fn run(folder: &Path, words: &[String]) {
    let mut command = Command::new(built(&words[0]));
    command.args(&words[1..]).current_dir(folder);
    let output = run_within(300, &command);
    assert!(output.status.success(), "{}\n{}", words.join(" "), all_output(&output));
}

fn words(text: &str) -> Vec<String> {
    pages::commands(text).remove(0)
}

/// The small sizes, as options.
fn small() -> Vec<String> {
    let sets = configs::SMALL.iter().chain(SCHEDULE).chain(&["cluster.ranks_per_node=2"]);
    sets.flat_map(|set| ["--set".to_owned(), (*set).to_owned()]).collect()
}

/// A folder as someone has it who has come to the end of the README: a run, shards, a picture, a config.
fn prepare(folder: &Path) {
    symlink(checkout().join("configs"), folder.join("configs")).unwrap();
    run(folder, &[words("blip2 launch configs/tiny.yaml --ranks 2"), small()].concat());
    let show = Command::new(built("blip2"))
        .args(["config", "show", "configs/tiny.yaml", "--set", "run.output=runs/indexed"])
        .args(small())
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(show.status.success(), "{}", all_output(&show));
    fs::write(folder.join("run.yaml"), &show.stdout).unwrap();
    run(folder, &words("blip2 data synth --out few --scenes 20 --test-scenes 0"));
    run(folder, &words("blip2 weights export runs/tiny --output given"));
    image::RgbImage::from_pixel(64, 64, image::Rgb([200, 40, 40])).save(folder.join("picture.jpg")).unwrap();
}

#[test]
fn the_commands_of_pages_work() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let mut runs = 0;
    let all = pages::all();
    // The README first: others use what it makes.
    let (first, rest): (Vec<&Page>, Vec<&Page>) = all.iter().partition(|page| page.name == "README.md");
    for page in first.into_iter().chain(rest).filter(|page| !is_literal(page)) {
        for (name, arguments) in commands(page) {
            if !matches!(row_of(&name, &arguments), Some(Row(_, _, Here))) {
                continue;
            }
            let checkpoint = last_checkpoints(&folder.path().join("runs/tiny"))[&2].display().to_string();
            let mut words = adapted(&name, &arguments, &checkpoint);
            if words[1] == "launch" {
                words.extend(small());
            }
            run(folder.path(), &words);
            runs += 1;
        }
    }
    assert!(runs > 25, "{runs} commands were run");
}

// Messages.

/// The texts between `…` that the first column of a page's tables shows as messages.
fn messages(page: &Page) -> Vec<String> {
    let rows = page.text.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let codes = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let pieces = codes.flat_map(|code| code.split('…')).map(|piece| piece.trim().to_owned());
    pieces.filter(|piece| !piece.is_empty()).collect()
}

/// The source below a folder, with strings that go over several lines joined.
fn source(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all += &source(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all += &joined(&fs::read_to_string(&path).unwrap());
        }
    }
    all
}

fn joined(source: &str) -> String {
    let mut lines = source.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |all, line| all + line.trim_start())
}

/// The messages of the errors that a source defines with `#[error("…")]`.
fn errors(source: &str) -> Vec<String> {
    let source = joined(source);
    let starts = source.split("#[error(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
    starts.map(|rest| rest.split('"').next().unwrap_or_default().to_owned()).collect()
}

/// Errors that no message of the page is a part of. What has hardly a word of its own is made of others' words.
fn unexplained(source: &str, messages: &[String]) -> Vec<String> {
    let own = |error: &str| {
        let pieces = error.split('{').map(|piece| piece.split_once('}').map_or(piece, |(_, rest)| rest).trim());
        pieces.map(str::len).max().unwrap_or(0)
    };
    let is_told = |error: &String| messages.iter().any(|piece| piece.len() >= 8 && error.contains(piece.as_str()));
    errors(source).into_iter().filter(|error| own(error) >= 12 && !is_told(error)).collect()
}

#[test]
fn messages_that_are_explained_can_appear_and_errors_are_explained() {
    let page = pages::page("docs/troubleshooting.md");
    let messages = messages(&page);
    assert!(messages.len() > 100, "{} messages", messages.len());
    let rooms = ["configs/src", "cluster", "data-pipeline/src", "launcher/src", "trainer"];
    let all: String = rooms.iter().map(|room| source(&checkout().join(room))).collect();
    let gone: Vec<&String> = messages.iter().filter(|piece| !all.contains(piece.as_str())).collect();
    assert!(gone.is_empty(), "{} explains what no source says: {gone:#?}", page.name);
    let files = [
        "trainer/src/error.rs",
        "trainer/scores/src/error.rs",
        "cluster/src/error.rs",
        "cluster/nccl-rs/src/lib.rs",
        "data-pipeline/src/error.rs",
        "data-pipeline/src/image/error.rs",
        "launcher/src/exit.rs",
        "launcher/src/ranks/failure.rs",
        "launcher/src/ranks/hold.rs",
    ];
    for file in files {
        let source = fs::read_to_string(checkout().join(file)).unwrap();
        let missing = unexplained(&source, &messages);
        assert!(missing.is_empty(), "{} has no row for these of {file}: {missing:#?}", page.name);
    }
}

#[test]
fn an_error_without_a_row_is_seen() {
    let source =
        "#[error(\"the cat is {0}, expected \\\n      asleep\")]\n#[error(transparent)]\n#[error(\"{a}: {b}\")]";
    assert_eq!(errors(source), ["the cat is {0}, expected asleep", "{a}: {b}"]);
    assert_eq!(unexplained(source, &["the dog is".to_owned()]), ["the cat is {0}, expected asleep"]);
    assert_eq!(unexplained(source, &["expected asleep".to_owned()]), Vec::<String>::new());
    let page = Page { name: String::new(), text: "| `a … b`, `c` | `d` |\n| none | `e` |\n".to_owned() };
    assert_eq!(messages(&page), ["a", "b", "c"]);
}

// Snippets of Python.

/// The only block of Python on a page.
fn snippet(name: &str) -> String {
    let blocks = pages::page(name).blocks();
    let python: Vec<_> = blocks.into_iter().filter(|block| block.language == "python").collect();
    assert_eq!(python.len(), 1, "{name}");
    python[0].text.clone()
}

#[test]
fn python_alone_reads_checkpoints_of_both_versions() {
    let script = snippet("docs/checkpoint-format.md");
    let read = |version: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", &script]).arg(checkout().join("tests/golden/checkpoints").join(version));
        let output = run_within(60, &command);
        assert!(output.status.success(), "{}", all_output(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let (one, two) = (read("v1"), read("v2"));
    assert!(one.starts_with("generative step 5 of format 1\n"), "{one}");
    assert!(two.starts_with("generative step 5 of format 2\n"), "{two}");
    assert_eq!(two.lines().count(), 50, "a line for each of 49 tensors: {two}");
    assert_eq!(one.lines().nth(1), two.lines().nth(1), "the same run, written by two versions");
}

#[test]
fn curves_are_drawn_from_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let golden = |version: &str| checkout().join("tests/golden/checkpoints").join(version);
    let mut command = Command::new("python3");
    command.arg(checkout().join("tests/peers/curves.py")).arg(golden("v1")).arg(golden("v2"));
    command.args(["--json", "curves.json", "--svg", "curves.svg"]).current_dir(folder.path());
    let output = run_within(60, &command);
    assert!(output.status.success(), "{}", all_output(&output));
    let written = fs::read(folder.path().join("curves.json")).unwrap();
    let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
    let itg = &written["rows"].as_array().unwrap().iter().find(|row| row["term"] == "itg").unwrap();
    assert_eq!(itg["expected"]["ln words"], 4.5643, "the vocabulary has 96 words: {itg}");
    let first = itg["first report"][0].as_f64().unwrap();
    assert!((first - 4.5643).abs() < 0.05, "it begins as a guess among all words: {first}");
    let picture = fs::read_to_string(folder.path().join("curves.svg")).unwrap();
    assert_eq!(picture.matches("<polyline").count(), 2 * 6, "a line for each run and term");
}
