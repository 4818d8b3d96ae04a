//! What went wrong in a run, or changed, from what the run noted: failures, restarts, updates that were left out,
//! samples that could not be used, changes of what is computed and on what.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::gather::Record;
use crate::html::{escape, push};
use crate::progress::count;
use crate::status::Found;

/// Most lines of a kind on a page; the newest are shown.
const MOST_LINES: usize = 12;

/// What a run's folder says of failures and changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Failures of ranks and damaged checkpoints, oldest first.
    pub failures: Vec<Noted>,
    /// Values of the configuration that a launch changed with leave, and what it computes on where that differs.
    pub changes: Vec<Noted>,
}

/// Something that was noted.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Noted {
    /// When, in seconds since 1970.
    pub time: f64,
    /// What, in a line.
    pub text: String,
}

/// How often what happened, worst first; kinds that did not happen have 0.
pub fn counts(found: &Found) -> Vec<(&'static str, u64)> {
    let mut last: BTreeMap<&str, &Record> = BTreeMap::new();
    for record in &found.records {
        last.insert(&record.stage, record);
    }
    // These counts grow within a stage.
    let sum = |wanted: &dyn Fn(&str) -> bool| -> u64 {
        let values = last.values().flat_map(|record| &record.values).filter(|(name, _)| wanted(name));
        values.filter_map(|(_, value)| value.as_f64()).sum::<f64>() as u64
    };
    let is_finite = |record: &&Record| {
        record.losses.values().all(|loss| loss.is_some_and(f64::is_finite))
            && record.values.get("grad_norm").is_none_or(|norm| *norm != Value::Null)
    };
    let is_replaced = |name: &str| name.strip_prefix("data/").is_some_and(|rest| rest.ends_with("/skipped"));
    vec![
        ("failures", found.faults.failures.len() as u64),
        ("restarts", found.launches.saturating_sub(1)),
        ("values not finite", found.records.iter().filter(|record| !is_finite(record)).count() as u64),
        ("updates left out", sum(&|name| name == "skipped_updates")),
        ("samples replaced", sum(&is_replaced)),
        ("checkpoints left out", sum(&|name| name == "checkpoint/skipped")),
        ("changes", found.faults.changes.len() as u64),
    ]
}

/// The section of a page; `when` says a time (seconds since 1970) in words.
pub fn section(found: &Found, when: &dyn Fn(f64) -> String) -> String {
    let counts: Vec<_> = counts(found).into_iter().filter(|(_, number)| *number > 0).collect();
    if counts.is_empty() {
        return "<h2>Faults</h2>\n<p class=\"soft\">No failure, no restart, no update left out, no sample replaced.</p>\n"
            .to_owned();
    }
    let mut html = String::from("<h2>Faults</h2>\n<ul class=\"counts\">\n");
    for (what, number) in &counts {
        push(&mut html, format_args!("<li>{}: <b>{}</b></li>\n", escape(what), count(*number)));
    }
    html.push_str("</ul>\n");
    for (name, noted) in [("Failures", &found.faults.failures), ("Changes", &found.faults.changes)] {
        html.push_str(&lines(name, noted, when));
    }
    html
}

/// The newest lines of a kind, the newest first.
fn lines(name: &str, noted: &[Noted], when: &dyn Fn(f64) -> String) -> String {
    if noted.is_empty() {
        return String::new();
    }
    let mut html = format!("<div class=\"wide\"><table class=\"facts\"><caption>{}</caption>\n", escape(name));
    for Noted { time, text } in noted.iter().rev().take(MOST_LINES) {
        push(&mut html, format_args!("<tr><th>{}</th><td>{}</td></tr>\n", escape(&when(*time)), escape(text)));
    }
    let left = noted.len().saturating_sub(MOST_LINES);
    if left > 0 {
        push(&mut html, format_args!("<tr><th></th><td class=\"soft\">and {left} before these</td></tr>\n"));
    }
    html.push_str("</table></div>\n");
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Record {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn counts_of_a_stage_are_those_of_its_last_record() {
        let found = Found {
            launches: 3,
            records: vec![
                record(
                    r#"{"stage": "a", "step": 1, "losses": {"itc": 1.0}, "skipped_updates": 1, "data/x/skipped": 1}"#,
                ),
                record(
                    r#"{"stage": "a", "step": 2, "losses": {"itc": null}, "skipped_updates": 2, "data/x/skipped": 3,
                    "data/x/skipped/truncated": 3}"#,
                ),
                record(r#"{"stage": "b", "step": 1, "losses": {"lm": 1.0}, "grad_norm": null, "data/x/skipped": 4}"#),
            ],
            ..Found::default()
        };
        let counts: Vec<u64> = counts(&found).into_iter().map(|(_, number)| number).collect();
        assert_eq!(counts, [0, 2, 2, 2, 7, 0, 0]);
        let html = section(&found, &|_| String::new());
        assert!(html.contains("samples replaced: <b>7</b>") && !html.contains("failures"), "{html}");
    }

    #[test]
    fn failures_are_said_newest_first_and_as_text() {
        let noted = |n: usize| Noted { time: n as f64, text: format!("rank {n} <script>") };
        let mut found = Found::default();
        assert!(section(&found, &|_| String::new()).contains("No failure"));
        found.faults.failures = (0..20).map(noted).collect();
        let html = section(&found, &|time| format!("at {time}"));
        assert!(html.contains("<th>at 19</th><td>rank 19 &lt;script&gt;</td>"), "{html}");
        assert!(!html.contains("rank 7 ") && html.contains("and 8 before these"), "{html}");
    }
}
