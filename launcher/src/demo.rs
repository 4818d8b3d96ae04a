//! `blip2 demo`: corpus, both stages, evaluation and report on this machine; run again, it does what is missing.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::Context;
use configs::{Run, Stage};
use serde_json::{Value, json};

use crate::cli::{DemoArgs, LaunchArgs, Split};
use crate::eval::{Evaluation, Task};
use crate::exit::Unusable;
use crate::progress::bytes;
use crate::ranks::{HostPolicy, Interrupts, Log, Programs};
use crate::source::{RunSource, local_folder};
use crate::{launch, relaunch, report, tables};

/// Runs the demo to its report.
///
/// # Errors
/// Whatever one of its parts says; the same command continues.
pub fn run(args: &DemoArgs, programs: &Programs) -> anyhow::Result<()> {
    let source = RunSource::find(&format!("preset:{}", args.preset));
    let set = overrides(args, &source.load(&[])?)?;
    let run = source.load(&set)?;
    let output = run.run.output.as_str();
    let folder = local_folder(output).with_context(|| {
        Unusable(format!("run.output is {output}; expected a folder on this machine. Name one with --output DIR"))
    })?;
    let started = Instant::now();
    let interrupts = Interrupts::watch()?;
    let launch_args = LaunchArgs { run: source.argument(), set, ..LaunchArgs::default() };
    let plan = |hosts: &HostPolicy| launch::plan(&source, &run, &launch_args, programs, hosts);
    let mut peak_bytes = relaunch::start(&run, &plan, &interrupts, Log::default())?.peak_bytes;
    let mut results = Vec::new();
    for (task, stage) in tasks(&run) {
        for split in Split::ALL {
            let scored = Scored { task, stage, split };
            results.push(scored.evaluate((&folder, output), programs, &interrupts, &mut peak_bytes)?);
        }
    }
    let cost = Cost { seconds: started.elapsed().as_secs_f64(), peak_bytes };
    cost.note(&folder)?;
    let page = report::write(output)?;
    answer(&results, &page, &cost);
    if args.open {
        open(&page);
    }
    Ok(())
}

/// The preset's overrides: those of `--output` and `--seed`, then those of `--set`, which win.
fn overrides(args: &DemoArgs, preset: &Run) -> anyhow::Result<Vec<String>> {
    let mut set = Vec::new();
    if let Some(output) = &args.output {
        let output = output.trim_end_matches('/');
        let below = |uri: &str| Some(format!("{output}{}", uri.strip_prefix(preset.run.output.as_str())?));
        let model = &preset.model;
        let mut uris = vec![
            ("run.output".to_owned(), preset.run.output.as_str()),
            ("model.image_encoder.weights.uri".to_owned(), model.image_encoder.weights().uri.as_str()),
            ("model.language_model.weights.uri".to_owned(), model.language_model.settings().weights.uri.as_str()),
        ];
        for (place, source) in preset.data.sources.iter().enumerate() {
            uris.push((format!("data.sources[{place}].uri"), source.uri().as_str()));
        }
        set.extend(uris.iter().filter_map(|(key, uri)| Some(format!("{key}={}", yaml_text(&below(uri)?)))));
    }
    set.extend(args.seed.iter().map(|seed| format!("run.seed={seed}")));
    set.extend(args.set.iter().cloned());
    Ok(set)
}

/// Text as an override's value: as it is, or in quotes where it would begin a list, a map or a quotation.
fn yaml_text(text: &str) -> String {
    if text.starts_with(['[', '{', '"', '\'']) { Value::from(text).to_string() } else { text.to_owned() }
}

/// Candidates that are re-ranked, of some hundred scenes; the paper has 128 of thousands.
const CANDIDATES: u64 = 16;
/// Questions that are asked of each split.
const QUESTIONS: u64 = 500;

/// What is scored, with the stage whose checkpoint is used.
fn tasks(run: &Run) -> Vec<(Task, &str)> {
    let tasks_of = |stage: &Stage| match stage {
        Stage::Representation(_) => vec![Task::Retrieval(CANDIDATES)],
        Stage::Generative(_) => vec![Task::Caption, Task::Vqa],
    };
    run.stages.iter().flat_map(|stage| tasks_of(stage).into_iter().map(|task| (task, stage.name()))).collect()
}

/// One score of the demo.
struct Scored<'a> {
    task: Task,
    stage: &'a str,
    split: Split,
}

impl Scored<'_> {
    /// The result that an earlier call left, if nothing was trained since; else a new one, kept for the next call.
    fn evaluate(
        &self,
        (folder, output): (&Path, &str),
        programs: &Programs,
        interrupts: &Interrupts,
        peak_bytes: &mut u64,
    ) -> anyhow::Result<Value> {
        let name = format!("{}-{}.json", self.task.name(), self.split.name());
        let file = folder.join("eval").join(&name);
        if modified(&file) > last_trained(folder)
            && let Some(kept) = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok())
        {
            return Ok(kept);
        }
        let place = format!("{output}/eval/{name}");
        let evaluation = Evaluation {
            checkpoint: output,
            stage: Some(self.stage),
            split: Some(self.split.name()),
            limit: (self.task == Task::Vqa).then_some(QUESTIONS),
            output: Some(&place),
            ..Evaluation::default()
        };
        let (result, outcome) = evaluation.run(self.task, programs, interrupts)?;
        *peak_bytes = outcome.peak_bytes.max(*peak_bytes);
        Ok(result)
    }
}

fn modified(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|meta| meta.modified()).ok()
}

/// When the last step was recorded. A launch that found all work done leaves a segment without steps, which counts
/// for nothing.
fn last_trained(folder: &Path) -> Option<SystemTime> {
    let segments = std::fs::read_dir(folder.join("metrics")).into_iter().flatten().flatten();
    let with_steps = |file: &PathBuf| std::fs::read_to_string(file).is_ok_and(|text| text.contains("\"losses\""));
    segments.map(|entry| entry.path()).filter(with_steps).filter_map(|file| modified(&file)).max()
}

/// Writes a file that appears complete or not at all.
fn write_whole(file: &Path, value: &Value) -> anyhow::Result<()> {
    let beside = file.with_extension("json.tmp");
    let write = || {
        std::fs::create_dir_all(file.parent().unwrap_or(file))?;
        std::fs::write(&beside, format!("{value:#}\n"))?;
        std::fs::rename(&beside, file)
    };
    write()
        .inspect_err(|_| drop(std::fs::remove_file(&beside)))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// What the demo took.
struct Cost {
    seconds: f64,
    peak_bytes: u64,
}

impl Cost {
    /// Keeps the figures of the call that did the most, which is the one that trained: a later call does little.
    fn note(&self, folder: &Path) -> anyhow::Result<()> {
        let file = folder.join("launch/demo.json");
        let before: Value =
            std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        if before["seconds"].as_f64().is_some_and(|seconds| seconds > self.seconds) {
            return Ok(());
        }
        let note = json!({ "schema_version": 1, "seconds": self.seconds, "peak_memory_bytes": self.peak_bytes });
        write_whole(&file, &note)
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn answer(results: &[Value], page: &str, cost: &Cost) {
    for result in results {
        if let Some(table) = tables::of(result) {
            println!("{table}");
        }
    }
    println!(
        "this call took {} and at most {} of memory (the peak resident sizes of all processes, summed)",
        report::duration(cost.seconds),
        bytes(cost.peak_bytes)
    );
    println!("report: {page}");
}

/// Opens the page with the desktop's program; that it could not is no failure of the demo.
#[expect(clippy::print_stderr, reason = "says what to do instead")]
fn open(page: &str) {
    if std::process::Command::new("xdg-open").arg(page).spawn().is_err() {
        eprintln!("found no xdg-open; open {page} in a browser");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_moves_everything_and_set_wins() {
        let args = DemoArgs {
            output: Some("/tmp/x/".into()),
            set: vec!["run.seed=9".into()],
            seed: Some(7),
            preset: "tiny".into(),
            open: false,
        };
        let source = RunSource::find("tiny");
        let set = overrides(&args, &source.load(&[]).unwrap()).unwrap();
        let run = source.load(&set).unwrap();
        assert_eq!(run.run.output.as_str(), "/tmp/x");
        assert!(!run.to_yaml().contains("runs/tiny"), "{}", run.to_yaml());
        assert!(run.to_yaml().contains("uri: /tmp/x/shards"));
        assert_eq!(run.run.seed, 9);
        let expected =
            [(Task::Retrieval(CANDIDATES), "representation"), (Task::Caption, "generative"), (Task::Vqa, "generative")];
        assert_eq!(tasks(&run), expected);
    }
}
