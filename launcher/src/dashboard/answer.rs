//! What is served: the page at `/`, the same for programs at `/status.json`.

use serde::Serialize;
use serde_json::{Value, json};

use super::live::{Known, Live};
use super::page::{self, View};
use super::server::Reply;
use crate::report::faults::counts;
use crate::report::gather::Record;
use crate::report::time::StepTime;
use crate::status::{Seen, State, Status, now};

/// Seconds between two loads of the page while a run goes on.
const REFRESH_S: u64 = 5;
/// The same of a run that has ended.
const REFRESH_ENDED_S: u64 = 30;
/// Records over which the time of a step is averaged.
const RECENT: usize = 10;

/// The answer to a path; `None` where there is nothing.
pub fn answer(path: &str, live: &Live) -> Option<Reply> {
    match path {
        "/" | "/index.html" => Some(Reply::html(page_of(&live.known(), now()))),
        "/status.json" => Some(json_of(&live.known())),
        _ => None,
    }
}

/// The page on what is known.
pub(super) fn page_of(known: &Known, now: f64) -> String {
    let seen = known.seen.as_deref();
    let has_ended = seen.is_some_and(|seen| matches!(seen.status.state, State::Done | State::Failed));
    page::html(&View {
        seen,
        error: known.error.as_deref(),
        age_s: seen.map_or(0.0, |seen| (now - seen.now).max(0.0)),
        refresh_s: if has_ended { REFRESH_ENDED_S } else { REFRESH_S },
    })
}

/// What `blip2 status --json` says, and more.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    status: &'a Status,
    /// When this was seen, in seconds since 1970, and when what happened.
    times: Value,
    /// Seconds of a step by part, a mean of the last records; null where nothing was measured.
    step_time_s: Value,
    lr: Option<f64>,
    grad_norm: Option<f64>,
    tflop_per_s: Option<f64>,
    mfu: Option<f64>,
    faults: Value,
}

fn json_of(known: &Known) -> Reply {
    let Some(seen) = known.seen.as_deref().filter(|_| known.error.is_none()) else {
        let error = known.error.as_deref().unwrap_or("the run has not been read yet; ask again");
        return Reply::json(503, &json!({ "schema_version": 1, "error": error }));
    };
    Reply::json(200, &report(seen))
}

/// The object for programs.
pub(super) fn report(seen: &Seen) -> Value {
    let Seen { found, status, now, .. } = seen;
    let last = found.record();
    let counted: serde_json::Map<String, Value> =
        counts(found).into_iter().map(|(what, number)| (what.replace(' ', "_"), number.into())).collect();
    let report = Report {
        status,
        times: json!({ "now": now, "launched": found.launched, "last_record": last.and_then(|record| record.time),
            "last_checkpoint": found.commit().map(|commit| commit.time), "train_s": found.train_seconds }),
        step_time_s: json!(step_time(seen).map(|time| time.by_name())),
        lr: last.and_then(|record| record.lr),
        grad_norm: last.and_then(|record| value(record, "grad_norm")),
        tflop_per_s: last.and_then(|record| value(record, "tflop_per_s")),
        mfu: last.and_then(|record| value(record, "mfu")),
        faults: json!({ "counts": counted, "failures": found.faults.failures, "changes": found.faults.changes }),
    };
    serde_json::to_value(report).unwrap_or_default()
}

/// A value of a record that is a finite number.
pub(super) fn value(record: &Record, name: &str) -> Option<f64> {
    record.values.get(name).and_then(Value::as_f64).filter(|value| value.is_finite())
}

/// The time of a step lately, in the stage that runs.
pub(super) fn step_time(seen: &Seen) -> Option<StepTime> {
    let records = seen.found.records_of(&seen.found.record()?.stage);
    StepTime::over(&records[records.len().saturating_sub(RECENT)..])
}
