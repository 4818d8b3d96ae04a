//! A run's state for people.

use serde_json::Value;

use super::judge::{State, Status};
use crate::ranks::event::term_order;
use crate::report::duration;

/// Columns of the table of ranks, each with the place of its values in what the supervision notes.
const COLUMNS: [(&str, &str); 7] = [
    ("rank", "/rank"),
    ("host", "/host"),
    ("does", "/beat/phase"),
    ("step", "/beat/step"),
    ("quiet s", "/quiet_s"),
    ("times slower", "/slow_factor"),
    ("failed", "/failed"),
];

/// Several lines.
pub fn text(status: &Status) -> String {
    let name = status.name.as_deref().unwrap_or(&status.output);
    let mut lines = vec![format!("{name}: {}", word(status.state)), format!("  output      {}", status.output)];
    let mut add = |name: &str, value: String| lines.push(format!("  {name:<11} {value}"));
    if let Some(stalled) = &status.stalled {
        add("stalled", stalled.clone());
    }
    if let (Some(stage), Some(step)) = (&status.stage, status.step) {
        let of = status.steps.map_or_else(String::new, |steps| format!(" of {steps}"));
        add("stage", format!("{stage}, step {step}{of}"));
    }
    if !status.losses.is_empty() {
        add("loss", losses(status));
    }
    if let Some(speed) = status.images_per_s {
        add("speed", format!("{speed:.0} images/s"));
    }
    if let Some(seconds) = status.eta_s {
        add("time left", format!("{} at the speed so far", duration(seconds)));
    }
    if let Some(last) = &status.last_checkpoint {
        add("checkpoint", format!("{}, step {}, {} ago: {}", last.stage, last.step, duration(last.age_s), last.uri));
    }
    add("launches", format!("{} ({} restarts)", status.launches, status.restarts));
    if let Some(job) = &status.job {
        let words = [job.state.clone(), job.reason.clone(), job.nodes.as_ref().map(|nodes| format!("on {nodes}"))];
        let words: Vec<String> = words.into_iter().flatten().collect();
        let known = if words.is_empty() { "unknown to SLURM by now".to_owned() } else { words.join(", ") };
        add("SLURM job", format!("{}: {known}", job.job));
    }
    if let Some(failure) = &status.failure {
        add("failure", failure.clone());
    }
    lines.extend(table(&status.ranks));
    // Names and messages of a run must not move a terminal's cursor.
    let plain = |line: String| line.chars().filter(|c| !c.is_control()).collect::<String>();
    lines.into_iter().map(plain).collect::<Vec<_>>().join("\n") + "\n"
}

/// One line, for a log.
pub fn line(status: &Status) -> String {
    let name = status.name.as_deref().unwrap_or(&status.output);
    let state = if status.stalled.is_some() { "stalled" } else { state(status.state) };
    let mut parts = vec![format!("{name}: {state}")];
    if let (Some(stage), Some(step)) = (&status.stage, status.step) {
        parts.push(status.steps.map_or_else(|| format!("{stage} {step}"), |steps| format!("{stage} {step}/{steps}")));
    }
    if !status.losses.is_empty() {
        parts.push(losses(status));
    }
    parts.extend(status.images_per_s.map(|speed| format!("{speed:.0} images/s")));
    parts.extend(status.eta_s.map(|seconds| format!("{} left", duration(seconds))));
    parts.extend(status.last_checkpoint.as_ref().map(|last| format!("checkpoint at {}", last.step)));
    parts.extend(status.stalled.clone());
    parts.extend(status.failure.clone());
    parts.join("  ").chars().filter(|c| !c.is_control()).collect()
}

/// `itc 3.100  total 5.900`.
fn losses(status: &Status) -> String {
    let mut losses: Vec<_> = status.losses.iter().collect();
    losses.sort_by_key(|(name, _)| term_order(name));
    let value = |value: &Option<f64>| value.map_or("not finite".to_owned(), |value| format!("{value:.3}"));
    losses.iter().map(|(name, loss)| format!("{name} {}", value(loss))).collect::<Vec<_>>().join("  ")
}

/// The word alone.
pub fn state(state: State) -> &'static str {
    match state {
        State::Queued => "queued",
        State::Running => "running",
        State::Preempted => "preempted",
        State::Done => "done",
        State::Failed => "failed",
        State::Unknown => "unknown",
    }
}

/// The word with what it means, where it does not say so itself.
fn word(of: State) -> String {
    match of {
        State::Preempted => "preempted; it goes on when it is started again".to_owned(),
        State::Unknown => "unknown: no process, job or outcome of it was found".to_owned(),
        _ => state(of).to_owned(),
    }
}

/// A row for each rank, with those columns that any has.
fn table(ranks: &[Value]) -> Vec<String> {
    let cell = |rank: &Value, place: &str| match rank.pointer(place) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if number.is_f64() => format!("{:.1}", number.as_f64().unwrap_or_default()),
        Some(other) => other.to_string(),
    };
    let has = |place: &str| ranks.iter().any(|rank| rank.pointer(place).is_some_and(|value| !value.is_null()));
    let columns: Vec<_> = COLUMNS.into_iter().filter(|(_, place)| has(place)).collect();
    if columns.is_empty() {
        return Vec::new();
    }
    let head = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let row = |rank| columns.iter().map(|(_, place)| cell(rank, place)).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(ranks.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
