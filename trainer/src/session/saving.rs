//! Checkpoints that are written while training goes on. A step waits for a copy of the state in memory; a thread of each
//! rank sends its part to the store, and when all have done so rank 0 commits.
//!
//! ```text
//! every rank   Idle --copy--> Writing --own part is stored--> Written --all are--> Idle
//! rank 0                                                      Written --all are--> Committing --the log has it--> Idle
//! ```
//!
//! Ranks learn of each other once a step, in the exchange that also says whether a checkpoint is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cluster::{Collective, broadcast_text, gather_texts};

use super::kept::Copied;
use crate::TrainerError;
use crate::checkpoint::{About, Attempt, Committed, Lease, PartRecord, Retention, RunPrefix};
use crate::events::Events;
use crate::shim;
use crate::storage::Patience;

/// Where a rank is with its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Progress {
    /// Nothing is being written.
    Idle = 0,
    /// Its part, or on rank 0 the commit, is on its way.
    Busy = 1,
    /// Its part is stored.
    Written = 2,
}

/// The checkpoint that is being written.
struct Save {
    attempt: Attempt,
    about: About,
}

enum Doing {
    Nothing,
    Writing(Save, JoinHandle<(Copied, Result<PartRecord, TrainerError>)>),
    Written(Save, PartRecord),
    Committing(JoinHandle<Result<Committed, TrainerError>>),
}

/// What a rank knows of its checkpoints.
pub(crate) struct Saving {
    prefix: RunPrefix,
    retention: Retention,
    events: Events,
    doing: Doing,
    /// The memory of the last copy, for the next one.
    room: Option<Copied>,
    stop: Arc<AtomicBool>,
    began: Instant,
    /// For metrics.
    pub(crate) counts: Counts,
}

/// What saving has cost so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Checkpoints that were due while the one before was being written.
    pub(crate) skipped: u64,
    /// How long training stood still for the last copy.
    pub(crate) copied_in: Option<Duration>,
    /// How long the last checkpoint took from its copy to its commit.
    pub(crate) committed_in: Option<Duration>,
}

impl Counts {
    /// Names and values for metrics.
    pub(crate) fn metrics(&self) -> Vec<(String, f64)> {
        let mut values = Vec::new();
        if self.skipped > 0 {
            values.push(("checkpoint/skipped".to_owned(), self.skipped as f64));
        }
        for (name, time) in [("copied_in_s", self.copied_in), ("committed_in_s", self.committed_in)] {
            values.extend(time.map(|time| (format!("checkpoint/{name}"), time.as_secs_f64())));
        }
        values
    }
}

impl Saving {
    pub(crate) fn new(prefix: &RunPrefix, retention: Retention, events: Events) -> Result<Self, TrainerError> {
        Ok(Self {
            prefix: prefix.again()?,
            retention,
            events,
            doing: Doing::Nothing,
            room: None,
            stop: Arc::default(),
            began: Instant::now(),
            counts: Counts::default(),
        })
    }

    /// A stage begins: its copies go to this room.
    pub(crate) fn prepare(&mut self, room: Copied) {
        self.room = Some(room);
    }

    /// Waits for stores, and says so.
    fn patience(&self) -> Patience {
        let events = self.events;
        Patience::until(Arc::clone(&self.stop), move |line| events.warning(&line))
    }

    /// Begins a checkpoint. Every rank calls it, and none has one on its way. `copy` fills the room.
    ///
    /// # Errors
    /// When ranks cannot talk, or no thread can be started.
    ///
    /// # Panics
    /// When no room was prepared.
    pub(crate) fn start(
        &mut self,
        about: About,
        (lease, ranks): (Option<&Lease>, &dyn Collective),
        copy: impl FnOnce(&mut Copied),
    ) -> Result<(), TrainerError> {
        let own = lease.map(|lease| lease.attempt(&about)).transpose()?;
        let text = own.as_ref().map(serde_json::to_string).transpose()?.unwrap_or_default();
        let attempt: Attempt = serde_json::from_str(&broadcast_text(ranks, &text)?)?;
        self.began = Instant::now();
        let mut room = self.room.take().expect("invariant: a stage begins with room for its copies");
        let since = Instant::now();
        copy(&mut room);
        self.counts.copied_in = Some(since.elapsed());
        let (prefix, folder, patience) = (self.prefix.clone(), attempt.folder.clone(), self.patience());
        let write = move || {
            let record = room.with_part(|part| prefix.write_part(&folder, part, &patience));
            shim::return_free_memory();
            (room, record)
        };
        let thread = spawn("checkpoint", write)?;
        self.doing = Doing::Writing(Save { attempt, about }, thread);
        Ok(())
    }

    /// Has the lease delete what is not to be kept, such as what an earlier launch was ended at.
    ///
    /// # Errors
    /// [`TrainerError::Fenced`].
    pub(crate) fn retain(&self, lease: &Lease) -> Result<(), TrainerError> {
        retain(lease, &self.retention, self.events)
    }

    /// Looks how far this rank is. A commit of rank 0 that has ended since the last look is handed to `committed`.
    ///
    /// # Errors
    /// Why a part, or the commit, could not be written.
    pub(crate) fn poll(&mut self, committed: impl FnOnce(Committed)) -> Result<Progress, TrainerError> {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Nothing => Ok(Progress::Idle),
            Doing::Writing(save, thread) if thread.is_finished() => {
                let (room, record) = joined(thread);
                self.room = Some(room);
                self.doing = Doing::Written(save, record?);
                Ok(Progress::Written)
            }
            Doing::Committing(thread) if thread.is_finished() => {
                let done = joined(thread)?;
                self.counts.committed_in = Some(self.began.elapsed());
                committed(done);
                Ok(Progress::Idle)
            }
            other => {
                let progress = if matches!(other, Doing::Written(..)) { Progress::Written } else { Progress::Busy };
                self.doing = other;
                Ok(progress)
            }
        }
    }

    /// Has rank 0 commit what every rank has stored. Every rank calls it when all are at [`Progress::Written`].
    ///
    /// # Errors
    /// When ranks cannot talk, or no thread can be started.
    pub(crate) fn commit(&mut self, lease: Option<&Arc<Lease>>, ranks: &dyn Collective) -> Result<(), TrainerError> {
        let Doing::Written(save, record) = std::mem::replace(&mut self.doing, Doing::Nothing) else { return Ok(()) };
        let texts = gather_texts(ranks, &serde_json::to_string(&record)?)?;
        let Some(lease) = lease.map(Arc::clone) else { return Ok(()) };
        let parts = texts.iter().map(|text| Ok(serde_json::from_str(text)?)).collect::<Result<_, TrainerError>>()?;
        let (patience, retention, events) = (self.patience(), self.retention.clone(), self.events);
        let commit = move || {
            let committed = lease.commit_parts(&save.attempt, save.about, parts, &patience)?;
            retain(&lease, &retention, events)?;
            Ok(committed)
        };
        self.doing = Doing::Committing(spawn("commit", commit)?);
        Ok(())
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        // Threads that wait for a store end; what they wrote is an orphan until the next launch.
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A failure costs space and is tried again after the next commit.
fn retain(lease: &Lease, retention: &Retention, events: Events) -> Result<(), TrainerError> {
    match lease.retain(retention) {
        Ok(_) => Ok(()),
        Err(error @ TrainerError::Fenced { .. }) => Err(error),
        Err(error) => {
            events.warning(&format!("older checkpoints stay until the next one is written: {error}"));
            Ok(())
        }
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, TrainerError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(TrainerError::Runtime)
}

/// What a thread that has ended came to. Its panic is this one's.
fn joined<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
