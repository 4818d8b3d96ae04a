//! What people see while ranks work: a bar on a terminal, a line now and then in a log, on standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use serde_json::{Value, json};

use super::event::{Event, Step};
use crate::progress::count;

/// Time between two lines in a log.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// The bar; `{msg}` carries losses and speed.
const TEMPLATE: &str = "{prefix} {wide_bar} {human_pos}/{human_len}  {msg}  ETA {eta}";

/// What of the ranks' own lines is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Log {
    /// Those of rank 0, and problems of any rank.
    #[default]
    Problems,
    /// All.
    All,
    /// Everything, and reports too, as one JSON object per line.
    Json,
}

/// Shows reports.
pub struct View {
    terminal: bool,
    log: Log,
    ranks: usize,
    phase: Option<Phase>,
}

/// The phase that runs.
struct Phase {
    name: String,
    bar: ProgressBar,
    /// The first step seen: a resumed phase does not begin at 0.
    first: Option<(u64, Instant)>,
    last: Option<Step>,
    last_line: Instant,
}

impl View {
    /// For where standard error leads, and so many ranks.
    pub fn new(log: Log, ranks: usize) -> Self {
        let terminal = log != Log::Json && std::io::stderr().is_terminal();
        Self { terminal, log, ranks, phase: None }
    }

    /// Shows one report.
    pub fn show(&mut self, event: &Event) {
        if self.log == Log::Json {
            return print_json(json!({ "level": "info", "event": event }));
        }
        match event {
            Event::Phase { name, what, steps } => self.begin(name, what, *steps),
            Event::Progress(step) => self.advance(step),
            Event::Checkpoint { stage, step, uri } => self.line(&format!("{stage}: checkpoint at step {step}: {uri}")),
            Event::Message { text } => self.line(text),
            Event::Result { .. } | Event::Done => self.finish(),
        }
    }

    /// Shows a line that is no report, above the bar.
    pub fn line(&self, text: &str) {
        match self.log {
            Log::Json => print_json(json!({ "level": "info", "text": text })),
            _ => self.print(text),
        }
    }

    /// Shows a line on something that is not as it should be.
    pub fn problem(&self, text: &str) {
        match self.log {
            Log::Json => print_json(json!({ "level": "error", "text": text })),
            _ => self.print(text),
        }
    }

    /// Shows what became of a rank; programs are told its number.
    pub fn failure(&self, rank: Option<usize>, text: &str) {
        match (self.log, rank) {
            (Log::Json, Some(rank)) => print_json(json!({ "level": "error", "rank": rank, "text": text })),
            _ => self.problem(text),
        }
    }

    /// Shows a line that a rank wrote to standard error, if it is to be shown.
    pub fn rank_line(&self, rank: usize, text: &str) {
        let level = if is_problem(text) { "error" } else { "info" };
        match self.log {
            Log::Json => print_json(json!({ "level": level, "rank": rank, "text": text })),
            Log::Problems if rank > 0 && level == "info" => {}
            _ if self.ranks > 1 => self.print(&format!("[{rank}] {text}")),
            _ => self.print(text),
        }
    }

    #[expect(clippy::print_stderr, reason = "progress is what this module prints")]
    fn print(&self, text: &str) {
        match &self.phase {
            Some(phase) if self.terminal => phase.bar.suspend(|| eprintln!("{text}")),
            _ => eprintln!("{text}"),
        }
    }

    /// Closes the phase that runs with a line on what came of it.
    pub fn finish(&mut self) {
        if let Some(phase) = self.phase.take() {
            phase.bar.finish_and_clear();
            if let Some(text) = phase.closing() {
                self.line(&text);
            }
        }
    }

    fn begin(&mut self, name: &str, what: &str, steps: u64) {
        self.finish();
        let target = if self.terminal { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(name.to_owned());
        self.phase = Some(Phase { name: name.to_owned(), bar, first: None, last: None, last_line: Instant::now() });
        let steps = if steps > 0 { format!(" ({} steps)", count(steps)) } else { String::new() };
        if !what.is_empty() {
            self.line(&format!("{name}: {what}{steps}"));
        }
    }

    fn advance(&mut self, step: &Step) {
        if self.phase.as_ref().is_none_or(|phase| phase.name != step.name) {
            self.begin(&step.name, "", step.steps);
        }
        let terminal = self.terminal;
        let Some(phase) = &mut self.phase else { return };
        phase.bar.set_length(step.steps);
        phase.bar.set_position(step.step);
        phase.bar.set_message(numbers(step));
        if phase.first.is_none() {
            phase.first = Some((step.step, Instant::now()));
            phase.bar.reset_eta();
        }
        phase.last = Some(step.clone());
        if !terminal && phase.last_line.elapsed() >= LINE_EVERY {
            phase.last_line = Instant::now();
            let text = phase.log_line(step);
            self.line(&text);
        }
    }
}

/// Whether a line speaks of an error or a warning, as our own, Rust's and the libraries' do.
fn is_problem(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    ["error", "warn", "panicked", "fatal", "abort", "exception", "terminate called"]
        .iter()
        .any(|word| lower.contains(word))
}

#[expect(clippy::print_stderr, reason = "progress is what this module prints")]
fn print_json(mut line: Value) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    line["time"] = since.as_secs_f64().into();
    eprintln!("{line}");
}

impl Phase {
    fn log_line(&self, step: &Step) -> String {
        let mut line = format!("{}: {}/{}", self.name, step.step, step.steps);
        for part in [Some(numbers(step)), self.eta(step)].into_iter().flatten().filter(|part| !part.is_empty()) {
            line.push_str("  ");
            line.push_str(&part);
        }
        line
    }

    fn eta(&self, step: &Step) -> Option<String> {
        let (first, since) = self.first?;
        let done = step.step.checked_sub(first).filter(|done| *done > 0)?;
        let left = step.steps.checked_sub(step.step).filter(|left| *left > 0)?;
        let seconds = since.elapsed().as_secs_f64() / done as f64 * left as f64;
        Some(format!("ETA {}", HumanDuration(Duration::try_from_secs_f64(seconds).ok()?)))
    }

    fn closing(&self) -> Option<String> {
        let (last, (first, since)) = (self.last.as_ref()?, self.first?);
        let took = HumanDuration(since.elapsed());
        let done = last.step.saturating_sub(first) + 1;
        Some(format!(
            "{}: {} of {} steps, {} of them in {took}  {}",
            self.name,
            last.step,
            last.steps,
            done,
            numbers(last)
        ))
    }
}

/// `itc 3.10  itm 0.60  total 5.90  131 images/s`.
fn numbers(step: &Step) -> String {
    let mut parts: Vec<String> = Vec::new();
    for (name, value) in step.terms() {
        parts.push(value.map_or_else(|| format!("{name} not finite"), |value| format!("{name} {value:.3}")));
    }
    if let Some(rate) = step.images_per_s {
        parts.push(format!("{rate:.0} images/s"));
    }
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_told_from_other_lines() {
        for line in ["error: the disk is full", "thread 'main' (7) panicked at src/a.rs:1:1:", "[W123] Warning: slow"] {
            assert!(is_problem(line), "{line}");
        }
        assert!(!is_problem("loading") && !is_problem(""));
    }

    #[test]
    fn a_log_line_says_where_the_run_is() {
        let mut step = Step { name: "representation".into(), step: 110, steps: 500, ..Step::default() };
        step.losses = [("total".to_owned(), Some(5.9)), ("itc".to_owned(), Some(3.1)), ("itm".to_owned(), None)].into();
        step.images_per_s = Some(131.4);
        let phase = Phase {
            name: "representation".into(),
            bar: ProgressBar::hidden(),
            first: Some((100, Instant::now().checked_sub(Duration::from_secs(10)).unwrap())),
            last: Some(step.clone()),
            last_line: Instant::now(),
        };
        let line = phase.log_line(&step);
        assert!(
            line.starts_with("representation: 110/500  itc 3.100  itm not finite  total 5.900  131 images/s"),
            "{line}"
        );
        // 10 steps took 10 s, 390 are left.
        assert!(line.ends_with("ETA 7 minutes"), "{line}");
        assert!(phase.closing().unwrap().contains("110 of 500 steps, 11 of them in 10 seconds"));
    }
}
