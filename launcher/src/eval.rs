//! `blip2 eval` and `blip2 caption`: one rank that scores a checkpoint or describes images.

use anyhow::Context;
use serde_json::Value;

use crate::cli::{CaptionArgs, EvalArgs, EvalCommand, Split};
use crate::data::print_json;
use crate::ranks::{Interrupts, Job, Outcome, Plan, Programs};
use crate::tables;

/// What stays after a failure.
const NEXT: &str = "nothing was changed; the same command starts again";

/// What is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Images and captions find each other.
    Retrieval,
    /// Captions are generated.
    Caption,
}

impl Task {
    /// Its name on command lines and in file names.
    pub fn name(self) -> &'static str {
        match self {
            Task::Retrieval => "retrieval",
            Task::Caption => "caption",
        }
    }
}

/// One evaluation.
pub struct Evaluation<'a> {
    /// What is scored.
    pub task: Task,
    /// A checkpoint, or a run's output folder.
    pub checkpoint: &'a str,
    /// Of a run's output folder, the stage.
    pub stage: Option<&'a str>,
    /// Which scenes.
    pub split: Split,
    /// Only the first so many.
    pub limit: Option<u64>,
}

impl Evaluation<'_> {
    fn arguments(&self) -> Vec<String> {
        let mut words = vec!["eval".to_owned(), self.task.name().to_owned(), self.checkpoint.to_owned()];
        words.extend(self.stage.iter().flat_map(|stage| ["--stage".to_owned(), (*stage).to_owned()]));
        words.extend(["--split".to_owned(), self.split.name().to_owned()]);
        words.extend(self.limit.iter().flat_map(|limit| ["--limit".to_owned(), limit.to_string()]));
        words
    }

    /// Scores the checkpoint and returns the result.
    ///
    /// # Errors
    /// A rank that fails or gives no result, or an interruption.
    pub fn run(&self, programs: &Programs, interrupts: &Interrupts) -> anyhow::Result<(Value, Outcome)> {
        one_rank(self.arguments(), programs, interrupts)
    }
}

/// Runs `blip2-rank` alone on all cores, and takes the result from what it reports.
pub(crate) fn one_rank(
    arguments: Vec<String>,
    programs: &Programs,
    interrupts: &Interrupts,
) -> anyhow::Result<(Value, Outcome)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let plan = Plan::local(programs, 1, cores, arguments)?;
    let mut outcome = Job { plan: &plan, interrupts, hold: None, guard: None, next: NEXT }.run()?;
    let result = outcome.result.take().with_context(|| {
        format!("{plan}\nended well and reported no result; expected one. Is this blip2-rank of another version?")
    })?;
    Ok((result, outcome))
}

/// `blip2 eval retrieval | caption`.
///
/// # Errors
/// As [`Evaluation::run`].
pub fn run(command: &EvalCommand, programs: &Programs) -> anyhow::Result<()> {
    let (task, args) = match command {
        EvalCommand::Retrieval(args) => (Task::Retrieval, args),
        EvalCommand::Caption(args) => (Task::Caption, args),
    };
    let EvalArgs { checkpoint, stage, split, limit, json } = args;
    let evaluation = Evaluation { task, checkpoint, stage: stage.as_deref(), split: *split, limit: *limit };
    let (result, _) = evaluation.run(programs, &Interrupts::watch()?)?;
    answer(&result, *json)
}

/// `blip2 caption`.
///
/// # Errors
/// A rank that fails or gives no result, or an interruption.
pub fn caption(args: &CaptionArgs, programs: &Programs) -> anyhow::Result<()> {
    let mut words = vec!["caption".to_owned(), args.checkpoint.clone()];
    words.extend(args.images.iter().map(|image| image.display().to_string()));
    words.extend(["--decoding".to_owned(), serde_json::to_string(&args.decoding)?]);
    let (result, _) = one_rank(words, programs, &Interrupts::watch()?)?;
    answer(&result, args.json)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn answer(result: &Value, json: bool) -> anyhow::Result<()> {
    match tables::of(result) {
        Some(table) if !json => {
            print!("{table}");
            Ok(())
        }
        _ => print_json(result),
    }
}
