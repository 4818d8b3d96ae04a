//! From what was found to one word on the run, and the numbers beside it.

use configs::Stage;
use serde::Serialize;
use serde_json::Value;

use super::found::Found;
use crate::exit;
use crate::report::duration;
use crate::slurm_job::JobState;

/// Seconds without a sign of life after which a run of no known process counts as unknown, at least.
const SILENCE_S: f64 = 120.0;
/// A run stalls when its next record is late by so many times the usual time between two.
const LATE: f64 = 10.0;
/// Seconds within which no run counts as stalled.
const PATIENCE_S: f64 = 60.0;
/// Records whose distances say what is usual.
const USUAL_OF: usize = 50;

/// One word on a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its job waits for its first start.
    Queued,
    /// It trains.
    Running,
    /// It was told to leave, committed a checkpoint, and goes on when it is started again.
    Preempted,
    /// All stages are trained.
    Done,
    /// Its last launch failed.
    Failed,
    /// None of these can be told.
    Unknown,
}

/// What is known from elsewhere than the run's folder.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// The SLURM job.
    pub job: Option<JobState>,
    /// Whether the launcher that holds the run was seen alive on this machine.
    pub launcher_alive: bool,
    /// Seconds since 1970.
    pub now: f64,
}

/// The answer of `blip2 status`, as `--json` gives it.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Version of this object.
    pub schema_version: u32,
    /// One word.
    pub state: State,
    /// The run's name.
    pub name: Option<String>,
    /// Its output folder.
    pub output: String,
    /// The stage.
    pub stage: Option<String>,
    /// Steps done in it.
    pub step: Option<u64>,
    /// Steps of it.
    pub steps: Option<u64>,
    /// The last losses.
    pub losses: std::collections::BTreeMap<String, Option<f64>>,
    /// Images per second over all ranks.
    pub images_per_s: Option<f64>,
    /// Why the run seems to stand still, where it is not known to have ended: no record for much longer than usual.
    pub stalled: Option<String>,
    /// Seconds until all stages are done, at the speeds seen so far.
    pub eta_s: Option<f64>,
    /// The last committed checkpoint.
    pub last_checkpoint: Option<Checkpoint>,
    /// How often the run was launched.
    pub launches: u64,
    /// Launches after the first.
    pub restarts: u64,
    /// What the last launch ended with, where it failed.
    pub failure: Option<String>,
    /// The SLURM job.
    pub job: Option<JobState>,
    /// What the supervision noted of each rank.
    pub ranks: Vec<Value>,
}

/// A checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Checkpoint {
    /// The stage.
    pub stage: String,
    /// Steps done.
    pub step: u64,
    /// Where it lies.
    pub uri: String,
    /// Seconds since it was committed.
    pub age_s: f64,
}

/// Judges.
pub fn status(found: &Found, outside: &Outside, output: &str) -> Status {
    let state = state(found, outside);
    let place = place(found);
    // Of ranks that ended nobody wants the last words here.
    let ranks =
        found.ranks.as_ref().filter(|_| state == State::Running).and_then(|ranks| ranks["ranks"].as_array().cloned());
    let failed = state == State::Failed;
    let outcome = found.outcome.as_ref().map(|outcome| outcome.message.clone()).filter(|_| failed);
    let stalled = stalled(found, outside).filter(|_| matches!(state, State::Running | State::Unknown));
    let ended = outside
        .job
        .as_ref()
        .filter(|_| failed)
        .and_then(|job| job.state.clone())
        .map(|state| format!("SLURM: {state}"));
    Status {
        schema_version: 1,
        state,
        stalled,
        name: found.config.as_ref().map(|config| config.run.name.clone()),
        output: output.to_owned(),
        eta_s: eta_s(found, place.as_ref()).filter(|_| state != State::Done),
        stage: place.as_ref().map(|(stage, _)| stage.clone()),
        step: place.as_ref().map(|(_, step)| *step),
        steps: place.as_ref().and_then(|(stage, _)| Some(stage_of(found, stage)?.steps())),
        losses: found.record().map(|record| record.losses.clone()).unwrap_or_default(),
        images_per_s: found.record().and_then(|record| record.images_per_s),
        last_checkpoint: found.commit().map(|commit| Checkpoint {
            stage: commit.stage.clone(),
            step: commit.step,
            uri: commit.uri.clone(),
            age_s: (outside.now - commit.time).max(0.0).round(),
        }),
        launches: found.launches,
        restarts: found.launches.saturating_sub(1),
        failure: outcome.or(ended),
        job: outside.job.clone(),
        ranks: ranks.unwrap_or_default(),
    }
}

fn state(found: &Found, outside: &Outside) -> State {
    let job = outside.job.as_ref();
    if found.is_done() {
        return State::Done;
    }
    if outside.launcher_alive || job.is_some_and(JobState::runs) {
        return State::Running;
    }
    if let Some(job) = job.filter(|job| job.waits()) {
        return if job.restarts.unwrap_or(0) > 0 { State::Preempted } else { State::Queued };
    }
    // What ended after the last launch began tells of that launch.
    if let Some(outcome) = found.outcome.as_ref().filter(|outcome| outcome.time as f64 + 1.0 >= found.launched) {
        return match outcome.code {
            exit::PREEMPTED | exit::INTERRUPTED => State::Preempted,
            exit::DONE => State::Done,
            _ => State::Failed,
        };
    }
    if job.and_then(|job| job.state.as_deref()).is_some_and(|state| state != "COMPLETED") {
        return State::Failed;
    }
    let silence =
        found.config.as_ref().map_or(SILENCE_S, |config| (config.cluster.timeouts_s.step as f64).max(SILENCE_S));
    let last = found.record().and_then(|record| record.time);
    match last {
        Some(time) if outside.now - time < silence => State::Running,
        _ => State::Unknown,
    }
}

/// Stage and step: of the newest metrics or of the newest checkpoint, whichever is further.
fn place(found: &Found) -> Option<(String, u64)> {
    let number = |name: &str| found.config.as_ref()?.stages.iter().position(|stage| stage.name() == name);
    let record = found.record().map(|record| (record.stage.clone(), record.step));
    let commit = found.commit().map(|commit| (commit.stage.clone(), commit.step));
    record.into_iter().chain(commit).max_by_key(|(stage, step)| (number(stage), *step))
}

fn stage_of<'a>(found: &'a Found, name: &str) -> Option<&'a Stage> {
    found.config.as_ref()?.stages.iter().find(|stage| stage.name() == name)
}

/// Seconds for the steps that are left; a stage without a speed of its own counts with that of the last records.
fn eta_s(found: &Found, place: Option<&(String, u64)>) -> Option<f64> {
    let (config, (stage, step)) = (found.config.as_ref()?, place?);
    let now = config.stages.iter().position(|known| known.name() == stage)?;
    let speeds = found.speeds();
    let last = speeds.last()?.1;
    let speed = |name: &str| speeds.iter().rfind(|(known, _)| *known == name).map_or(last, |(_, speed)| *speed);
    let seconds = config.stages.iter().enumerate().skip(now).map(|(index, stage)| {
        let done = if index == now { *step } else { 0 };
        stage.steps().saturating_sub(done) as f64 * stage.global_batch() as f64 / speed(stage.name())
    });
    Some(seconds.sum::<f64>().round()).filter(|seconds| seconds.is_finite())
}

/// Why a run seems to stand still: since its last sign of life much more time has passed than usually between two
/// records.
fn stalled(found: &Found, outside: &Outside) -> Option<String> {
    let times = found.records.iter().filter_map(|record| record.time);
    let last_record = times.clone().next_back().filter(|time| *time >= found.launched);
    let sign = last_record.unwrap_or(found.launched).max(found.commit().map_or(0.0, |commit| commit.time));
    if sign <= 0.0 {
        return None;
    }
    let quiet = outside.now - sign;
    let usual = usual_gap(found);
    let timeouts = found.config.as_ref().map(|config| &config.cluster.timeouts_s);
    // Before the first record of a launch, and while ranks do something else than steps, the first step's time is
    // allowed.
    let mut ranks = found.ranks.as_ref().and_then(|ranks| ranks["ranks"].as_array()).into_iter().flatten();
    let steps = |rank: &Value| matches!(rank["beat"]["phase"].as_str(), None | Some("step" | "data wait"));
    let is_between = last_record.is_none() || ranks.any(|rank| !steps(rank));
    let between = timeouts.map_or(SILENCE_S, |timeouts| timeouts.first_step as f64);
    let allowed = match usual {
        Some(usual) => (LATE * usual).max(PATIENCE_S),
        None => timeouts.map_or(SILENCE_S, |timeouts| timeouts.step as f64).max(SILENCE_S),
    };
    let allowed = if is_between { allowed.max(between) } else { allowed };
    let usual = usual.map_or_else(String::new, |usual| format!("; usually one comes every {}", gap(usual)));
    (quiet > allowed).then(|| format!("no record for {}{usual}", duration(quiet)))
}

/// The median time between two of the last records of the last launch, in seconds.
fn usual_gap(found: &Found) -> Option<f64> {
    let newest = found.records.iter().rev().take(USUAL_OF).filter_map(|record| record.time);
    let times: Vec<f64> = newest.filter(|time| *time >= found.launched).collect();
    let mut gaps: Vec<f64> = times.windows(2).map(|pair| (pair[0] - pair[1]).max(0.0)).collect();
    gaps.sort_by(f64::total_cmp);
    gaps.get(gaps.len() / 2).copied()
}

/// A time between two records in words.
fn gap(seconds: f64) -> String {
    if seconds < 10.0 { format!("{seconds:.1} s") } else { duration(seconds) }
}
