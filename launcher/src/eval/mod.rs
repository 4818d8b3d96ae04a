//! `blip2 eval` and `blip2 caption`: ranks that score a checkpoint or describe images, scores of predictions, and the paper's
//! tables.

mod paper;
mod score;
mod table;

use anyhow::Context;
use serde_json::Value;

use crate::cli::{CaptionArgs, EvalCommand, RetrievalArgs};
use crate::data::print_json;
use crate::ranks::{Interrupts, Job, Outcome, Plan, Programs};
use crate::tables;

/// What stays after a failure.
const NEXT: &str = "nothing was changed; the same command starts again";

/// What is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Images and captions find each other; so many candidates of each are re-ranked.
    Retrieval(u64),
    /// Captions are written.
    Caption,
    /// Questions are answered.
    Vqa,
}

impl Task {
    /// Its name on command lines and in file names.
    pub fn name(self) -> &'static str {
        match self {
            Task::Retrieval(_) => "retrieval",
            Task::Caption => "caption",
            Task::Vqa => "vqa",
        }
    }
}

/// One evaluation.
#[derive(Default)]
pub struct Evaluation<'a> {
    /// A checkpoint, or a run's output folder.
    pub checkpoint: &'a str,
    /// Of a run's output folder, the stage.
    pub stage: Option<&'a str>,
    /// Captions or questions of a published set, and where its answers and images are.
    pub files: [Option<&'a str>; 3],
    /// Which held-out scenes, or which split of the set.
    pub split: Option<&'a str>,
    /// Only the first so many.
    pub limit: Option<u64>,
    /// Ranks that share the work.
    pub ranks: usize,
    /// How texts are written: a JSON object.
    pub decoding: Option<String>,
    /// Where the result goes with every single answer.
    pub output: Option<&'a str>,
}

impl Evaluation<'_> {
    fn arguments(&self, task: Task) -> Vec<String> {
        let mut words = vec!["eval".to_owned(), task.name().to_owned(), self.checkpoint.to_owned()];
        let [annotations, answers, images] = self.files;
        let (limit, candidates) = (
            self.limit.map(|limit| limit.to_string()),
            match task {
                Task::Retrieval(candidates) => Some(candidates.to_string()),
                Task::Caption | Task::Vqa => None,
            },
        );
        let options = [
            ("--stage", self.stage),
            ("--annotations", annotations),
            ("--answers", answers),
            ("--images", images),
            ("--split", self.split),
            ("--limit", limit.as_deref()),
            ("--candidates", candidates.as_deref()),
            ("--decoding", self.decoding.as_deref()),
            ("--output", self.output),
        ];
        for (option, value) in options {
            words.extend(value.into_iter().flat_map(|value| [option.to_owned(), value.to_owned()]));
        }
        words
    }

    /// Scores the checkpoint and returns the result.
    ///
    /// # Errors
    /// A rank that fails or gives no result, or an interruption.
    pub fn run(&self, task: Task, programs: &Programs, interrupts: &Interrupts) -> anyhow::Result<(Value, Outcome)> {
        ranks(self.ranks.max(1), self.arguments(task), programs, interrupts)
    }
}

/// Runs `blip2-rank` alone on all cores, and takes the result from what it reports.
pub(crate) fn one_rank(
    arguments: Vec<String>,
    programs: &Programs,
    interrupts: &Interrupts,
) -> anyhow::Result<(Value, Outcome)> {
    ranks(1, arguments, programs, interrupts)
}

/// Runs so many ranks of `blip2-rank`, which share the cores, and takes the result from what they report.
fn ranks(
    count: usize,
    arguments: Vec<String>,
    programs: &Programs,
    interrupts: &Interrupts,
) -> anyhow::Result<(Value, Outcome)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let plan = Plan::local(programs, count, (cores / count).max(1), arguments)?;
    let mut outcome = Job { plan: &plan, interrupts, hold: None, guard: None, next: NEXT }.run()?;
    let result = outcome.result.take().with_context(|| {
        format!("{plan}\nended well and reported no result; expected one. Is this blip2-rank of another version?")
    })?;
    Ok((result, outcome))
}

/// `blip2 eval …`
///
/// # Errors
/// As [`Evaluation::run`], and what is wrong with files.
pub fn run(command: &EvalCommand, programs: impl Fn() -> anyhow::Result<Programs>) -> anyhow::Result<()> {
    let (task, args) = match command {
        EvalCommand::Retrieval(RetrievalArgs { eval, candidates }) => (Task::Retrieval(*candidates), eval),
        EvalCommand::Caption(args) => (Task::Caption, args),
        EvalCommand::Vqa(args) => (Task::Vqa, args),
        EvalCommand::Score(args) => return answer(&score::score(args)?, args.json),
        EvalCommand::Table(args) => return answer(&table::table(args)?, args.json),
    };
    let decoding = serde_json::to_string(&args.decoding)?;
    let evaluation = Evaluation {
        checkpoint: &args.checkpoint,
        stage: args.stage.as_deref(),
        files: [args.annotations.as_deref(), args.answers.as_deref(), args.images.as_deref()],
        split: args.split.as_deref(),
        limit: args.limit,
        ranks: usize::try_from(args.ranks)?,
        decoding: (task.name() != "retrieval").then_some(decoding),
        output: args.output.as_deref(),
    };
    let (result, _) = evaluation.run(task, &programs()?, &Interrupts::watch()?)?;
    answer(&result, args.json)
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
