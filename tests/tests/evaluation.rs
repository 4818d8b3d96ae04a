//! Scores: of checkpoints on held-out scenes and on sets in published layouts, of predictions, and during training; and
//! fine-tuning, which trains the image encoder too.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use integration_tests::programs::{all_output, built, refused, run_within};
use integration_tests::runs::{assert_same, last_checkpoints, launch, trained, undisturbed};
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn done(command: &Command) -> String {
    let output = run_within(300, command);
    assert!(output.status.success(), "{}", all_output(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn blip2(arguments: &[&str]) -> Command {
    let mut command = Command::new(built("blip2"));
    command.args(arguments);
    command
}

fn answer(arguments: &[&str]) -> Value {
    serde_json::from_str(&done(blip2(arguments).arg("--json"))).unwrap()
}

/// The evaluation sets of a small corpus.
fn benchmarks() -> &'static PathBuf {
    static SETS: OnceLock<PathBuf> = OnceLock::new();
    SETS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap().keep();
        let out = folder.join("corpus").display().to_string();
        let sizes = ["--scenes", "100", "--test-scenes", "20", "--benchmarks", "--benchmark-scenes", "20"];
        done(blip2(&["data", "synth", "--out", &out]).args(sizes).args(["--benchmark-train-scenes", "20"]));
        folder.join("corpus/benchmarks")
    })
}

fn file(name: &str) -> String {
    benchmarks().join(name).display().to_string()
}

#[test]
fn evaluation_during_training_is_recorded_and_changes_no_bit() {
    let (shared, expected) = undisturbed();
    let output = shared.join("evaluated");
    let mut command = launch(&output, shared, 2);
    let sets = [
        "evaluation.every_steps=8",
        "evaluation.limit=20",
        "evaluation.candidates=4",
        "checkpoint.every_steps=8",
        "checkpoint.keep_last=1",
        "checkpoint.keep_best=1",
        "checkpoint.best_by=evaluation",
        "checkpoint.background=false",
    ];
    for set in sets {
        command.args(["--set", set]);
    }
    done(&command);
    assert_same("with evaluation", &trained(&output), expected);
    let mut lines = Vec::new();
    for entry in fs::read_dir(output.join("metrics")).unwrap() {
        lines.extend(fs::read_to_string(entry.unwrap().path()).unwrap().lines().map(str::to_owned));
    }
    for name in ["eval/itc_r1", "eval/itm_r1", "eval/cider", "eval/bleu_4"] {
        let found = lines.iter().filter(|line| line.contains(name)).count();
        assert_eq!(found, if name.contains("_r1") { 3 } else { 2 }, "{name}");
    }
    let listed = answer(&["checkpoints", "list", &output.display().to_string()]);
    assert!(listed.to_string().contains("\"evaluation\""), "{listed}");
    let state = answer(&["status", &output.display().to_string()]);
    assert_eq!(state["state"], "done", "{state}");
}

#[test]
fn a_stage_waits_for_the_score_that_it_needs() {
    let (shared, _) = undisturbed();
    let output = shared.join("gated");
    let launch = |score: &str| {
        let mut command = launch(&output, shared, 1);
        command.args(["--set", "evaluation.every_steps=100", "--set", "evaluation.limit=20"]);
        command.args(["--set", &format!("stages.generative.needs_score={score}")]);
        command
    };
    refused(&launch("100.1"), &["the stage before generative ended with a score of", "needs_score", "at least 100.1"]);
    assert_eq!(last_checkpoints(&output).into_keys().collect::<Vec<_>>(), [1], "stage 2 was begun");
    refused(&launch("0.0"), &["--accept-change"]);
    done(launch("0.0").args(["--accept-change", "stages.generative.needs_score"]));
    assert_eq!(last_checkpoints(&output).into_keys().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn ranks_share_an_evaluation() {
    let (shared, _) = undisturbed();
    let run = shared.join("one").display().to_string();
    for (task, stage) in [("retrieval", "representation"), ("caption", "generative"), ("vqa", "generative")] {
        let score = |ranks: &str| {
            let out = shared.join(format!("{task}-{ranks}.json")).display().to_string();
            let result =
                answer(&["eval", task, &run, "--stage", stage, "--limit", "30", "--ranks", ranks, "--output", &out]);
            let whole: Value = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
            assert_eq!(result["items_uri"], out.as_str(), "{task}");
            assert!(result["metrics"].is_object() && result["items"].is_null(), "{task}: {result}");
            (whole["metrics"].clone(), whole["items"].clone())
        };
        assert_eq!(score("1"), score("2"), "{task}");
    }
}

#[test]
fn published_layouts_are_scored_as_their_predictions_are() {
    let (shared, _) = undisturbed();
    let run = shared.join("one").display().to_string();
    let (captions, images) = (file("captions_test_seen.json"), file("images"));
    let out = |name: &str| shared.join(name).display().to_string();
    let [r, c, v] = ["r.json", "c.json", "v.json"].map(out);
    let on_files = ["--annotations", &captions, "--images", &images];

    let retrieval = [&["eval", "retrieval", &run, "--stage", "representation", "--output", &r], &on_files[..]];
    let result = answer(&[&retrieval.concat()[..], &["--candidates", "4"]].concat());
    assert_eq!((result["images"].as_u64(), result["texts"].as_u64()), (Some(20), Some(100)), "{result}");

    let decoding = ["--beams", "2", "--max-tokens", "12", "--min-tokens", "2"];
    let caption = [&["eval", "caption", &run, "--output", &c], &on_files[..], &decoding].concat();
    let result = answer(&caption);
    assert_eq!(result["settings"]["decoding"]["length_penalty"], 0.0, "LAVIS HEAD's default: {result}");
    let items: Value = serde_json::from_slice(&fs::read(&c).unwrap()).unwrap();
    let predictions = items["items"].as_array().unwrap().iter();
    let predictions: Vec<Value> = predictions
        .map(|item| json!({ "image_id": item["image_id"].as_str().unwrap().parse::<u64>().unwrap(), "caption": item["caption"] }))
        .collect();
    fs::write(out("captions.json"), json!(predictions).to_string()).unwrap();
    let scored = answer(&["eval", "score", &out("captions.json"), "--annotations", &captions]);
    assert_eq!(scored["metrics"], result["metrics"], "the same captions");
    assert_eq!(scored["data_sha256"], result["data_sha256"]);

    let (questions, answers) = (file("questions_test_seen.json"), file("annotations_test_seen.json"));
    let on_questions = ["--annotations", &questions, "--answers", &answers, "--images", &images];
    let vqa = [&["eval", "vqa", &run, "--output", &v, "--prompt", "{}"], &on_questions[..]].concat();
    let result = answer(&[&vqa[..], &["--limit", "40"]].concat());
    assert_eq!(result["questions"], 40, "{result}");
    assert!(result["metrics"]["official"]["overall"].is_number(), "{result}");
    // The paper's prompt has words that the corpus does not have.
    let zero_shot = [&["eval", "vqa", &run], &on_questions[..]].concat();
    refused(&blip2(&zero_shot), &["Question:  Answer:", "--prompt"]);

    let table = done(&blip2(&["eval", "table", "5", &r]));
    assert!(table.contains("paper  ViT-g") && table.contains("no result for: Flickr TR@1"), "{table}");
}

#[test]
fn wrong_predictions_and_sets_are_named_all_at_once() {
    let (shared, _) = undisturbed();
    let path = shared.join("wrong.json").display().to_string();
    let predictions = json!([
        { "image_id": 999_999, "caption": "a red circle" }, { "image_id": 999_999, "caption": "a red circle" },
    ]);
    fs::write(&path, predictions.to_string()).unwrap();
    let captions = file("captions_test_seen.json");
    refused(&blip2(&["eval", "score", &path, "--annotations", &captions]), &["999999", "problems"]);
    fs::write(&path, "{\"a\": 1}").unwrap();
    refused(&blip2(&["eval", "score", &path, "--annotations", &path]), &["keys a", "expected a list"]);
    let run = shared.join("one").display().to_string();
    let empty = shared.join("empty");
    fs::create_dir_all(&empty).unwrap();
    let missing = ["eval", "caption", &run, "--annotations", &captions, "--images", &empty.display().to_string()];
    refused(&blip2(&missing), &["20 problems", "no image of this name"]);
}

/// The tensors of the image encoder in a run's last checkpoint, and all tensors.
fn encoder(output: &Path) -> (usize, Vec<u8>) {
    let folder = &last_checkpoints(output)[&1];
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut all = std::collections::BTreeMap::new();
    for path in files.iter().filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("trainable")) {
        let bytes = fs::read(path).unwrap();
        let Ok(tensors) = SafeTensors::deserialize(&bytes) else { continue };
        all.extend(tensors.tensors().into_iter().map(|(name, tensor)| (name, tensor.data().to_vec())));
    }
    let of_encoder = all.keys().filter(|name| name.starts_with("vision_model.encoder.")).count();
    (of_encoder, all.into_values().flatten().collect())
}

#[test]
fn fine_tuning_trains_the_image_encoder_to_the_same_bits_on_any_number_of_ranks() {
    let (shared, _) = undisturbed();
    let start = shared.join("one").display().to_string();
    for (task, stage, from) in
        [("retrieval", "representation", "/stage1"), ("caption", "generative", ""), ("vqa", "generative", "")]
    {
        let tune = |ranks: usize| {
            let output = shared.join(format!("{task}-{ranks}"));
            let mut command =
                blip2(&["launch", &format!("preset:tiny_finetune_{task}"), "--ranks", &ranks.to_string()]);
            let sets = [
                format!("run.output={}", output.display()),
                format!("data.sources[0].uri={}", shared.join("shards").display()),
                format!("model.image_encoder.weights.uri={}", shared.join("image_encoder.safetensors").display()),
                format!("model.language_model.weights.uri={}", shared.join("language_model.safetensors").display()),
                format!("model.start_from.uri={start}{from}"),
                "data.lanes=4".into(),
                format!("stages.{task}.steps=4"),
                format!("stages.{task}.global_batch=8"),
                format!("stages.{task}.slices=4"),
                format!("stages.{task}.lr_schedule.warmup_steps=1"),
                "evaluation.every_steps=4".into(),
                "evaluation.limit=10".into(),
            ];
            for set in configs::SMALL.iter().map(|set| (*set).to_owned()).chain(sets) {
                command.args(["--set", &set]);
            }
            done(&command);
            output
        };
        let (one, three) = (tune(1), tune(3));
        let (found, bits) = encoder(&one);
        assert!(found > 10, "{task}: {found} tensors of the image encoder were trained");
        assert!(bits == encoder(&three).1, "{task} on 1 and 3 ranks");
        let metric = if task == "vqa" { "vqa" } else { task };
        let result = answer(&["eval", metric, &one.display().to_string(), "--limit", "10"]);
        assert_eq!(result["stage"], task, "{stage}: {result}");
    }
}
