//! What a rank is doing: written by the thread that trains, read by the one that tells the launcher.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::Calls;
use data_pipeline::loader::Awaited;

/// What a rank does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// The process has begun.
    #[default]
    Starting,
    /// It waits for the other ranks to start.
    Joining,
    /// It trains a tower of its own.
    PreTraining,
    /// It reads weights, a checkpoint or catalogues.
    Loading,
    /// It waits for the samples of a step.
    DataWait,
    /// It computes a step.
    Step,
    /// It scores the model on data that is held out.
    Evaluation,
    /// It writes a checkpoint.
    Checkpoint,
    /// Its work is done.
    Leaving,
}

impl Phase {
    /// As people read it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Joining => "joining",
            Self::PreTraining => "pre-training",
            Self::Loading => "loading weights",
            Self::DataWait => "data wait",
            Self::Step => "step",
            Self::Evaluation => "evaluation",
            Self::Checkpoint => "checkpoint",
            Self::Leaving => "leaving",
        }
    }

    /// Whether steps were made whose results a checkpoint would keep.
    pub fn can_save(self) -> bool {
        matches!(self, Self::DataWait | Self::Step | Self::Evaluation | Self::Checkpoint)
    }
}

/// What a rank does, how far it is, and whether it was asked to leave.
#[derive(Debug)]
pub struct Activity {
    /// The calls to other ranks.
    pub calls: Calls,
    since: Instant,
    place: Mutex<Place>,
    changed: AtomicU64,
    leave: AtomicBool,
    fault: Option<Fault>,
}

/// For tests of the launcher: something that goes wrong once a step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Counted over all stages of this launch, from 1.
    pub after_steps: u64,
    /// What happens then.
    pub kind: FaultKind,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The rank panics.
    Panic,
    /// The rank does nothing any more.
    Hang,
    /// Every further step takes so much longer.
    Slow(Duration),
}

/// Where a rank is.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// What it does.
    pub phase: Phase,
    /// The stage, or the tower that it trains.
    pub stage: String,
    /// Steps of the stage that are done.
    pub step: u64,
    /// Steps made in this launch.
    pub steps_made: u64,
    /// Time of the steps that this rank did not spend waiting for others.
    pub own: Duration,
    awaited: Option<Awaited>,
    step_began: Option<(Instant, Duration)>,
}

impl Place {
    /// The shards that the next samples are read from, while the rank waits for them.
    pub fn reading(&self) -> Option<String> {
        if self.phase != Phase::DataWait {
            return None;
        }
        self.awaited.as_ref()?.shards()
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self::with_fault(None)
    }
}

impl Activity {
    /// Of a rank that has just begun, and in which something goes wrong.
    pub fn with_fault(fault: Option<Fault>) -> Self {
        Self {
            calls: Calls::default(),
            since: Instant::now(),
            place: Mutex::default(),
            changed: 0.into(),
            leave: false.into(),
            fault,
        }
    }

    /// The rank now does something else.
    pub fn enter(&self, phase: Phase) {
        self.place().phase = phase;
        self.progress();
    }

    /// The rank begins a stage, or a tower, at one of its steps.
    pub fn enter_stage(&self, phase: Phase, stage: &str, step: u64) {
        let mut place = self.place();
        (place.phase, place.stage, place.step) = (phase, stage.to_owned(), step);
        place.step_began = Some((Instant::now(), self.calls.standing().waited));
        drop(place);
        self.progress();
    }

    /// Where samples come from in this stage.
    pub fn read_from(&self, awaited: Awaited) {
        self.place().awaited = Some(awaited);
    }

    /// So many steps of the stage are done.
    pub fn step_done(&self, step: u64) {
        let mut place = self.place();
        place.step = step;
        place.steps_made += 1;
        let (now, waited) = (Instant::now(), self.calls.standing().waited);
        if let Some((began, waited_before)) = place.step_began.replace((now, waited)) {
            place.own += (now - began).saturating_sub(waited.saturating_sub(waited_before));
        }
        let made = place.steps_made;
        drop(place);
        self.progress();
        self.go_wrong(made);
    }

    /// Something was done within the phase.
    pub fn progress(&self) {
        self.changed.store(self.since.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// Since the rank last did anything that is noted here, or came out of a call to other ranks.
    pub fn idle(&self) -> Duration {
        let changed = Duration::from_nanos(self.changed.load(Ordering::Relaxed));
        self.since.elapsed().saturating_sub(changed).min(self.calls.standing().unchanged)
    }

    /// Where the rank is.
    pub fn at(&self) -> Place {
        self.place().clone()
    }

    /// Asks the rank to write a checkpoint and leave.
    pub fn ask_to_leave(&self) {
        self.leave.store(true, Ordering::Relaxed);
    }

    /// Whether the rank was asked to leave.
    pub fn is_to_leave(&self) -> bool {
        self.leave.load(Ordering::Relaxed)
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn go_wrong(&self, steps_made: u64) {
        let Some(fault) = self.fault.filter(|fault| steps_made >= fault.after_steps) else { return };
        match fault.kind {
            FaultKind::Panic => panic!("planted: step {steps_made} of this launch is done"),
            FaultKind::Hang => std::thread::sleep(Duration::MAX),
            FaultKind::Slow(time) => std::thread::sleep(time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_calls_is_not_the_ranks_own() {
        let activity = Activity::default();
        activity.enter_stage(Phase::Step, "representation", 7);
        std::thread::sleep(Duration::from_millis(20));
        activity.step_done(8);
        let place = activity.at();
        assert_eq!((place.stage.as_str(), place.step, place.steps_made), ("representation", 8, 1));
        assert!(place.own >= Duration::from_millis(20) && activity.idle() < Duration::from_millis(20));
        assert!(place.phase.can_save() && !Phase::Loading.can_save());
    }

    #[test]
    fn a_planted_fault_waits_for_its_step() {
        let fault = Fault { after_steps: 2, kind: FaultKind::Panic };
        let activity = Activity::with_fault(Some(fault));
        activity.step_done(1);
        assert!(std::panic::catch_unwind(|| activity.step_done(2)).is_err());
    }
}
