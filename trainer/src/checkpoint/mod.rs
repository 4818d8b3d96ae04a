//! The run's folder: its log, its checkpoints, its config; on a path or in any object store.
//!
//! ```text
//! <run.output>/
//!   config.yaml                          written once; config-<nonce>.yaml once values were changed with leave
//!   heartbeat.json                       shows others that the holder lives; decides nothing
//!   log/00000000.json …                  take-overs and commits; each entry written once, by put-if-absent
//!   stage1/step-00012000/<epoch>-<nonce>/
//!     trainable-00001-of-00004.safetensors …   trained tensors under public names, some of them written by each rank
//!     trainable.safetensors.index.json         which file has which
//!     moments-00001-of-00004.safetensors …     AdamW's moments of a range of the flat space, by the rank that owns it
//!     manifest.json                            position, facts, where each number lies, sizes and sha256 of the files
//! ```
//!
//! A checkpoint exists when an entry of the log names its manifest and its files verify. Whoever is ended in the
//! middle of a commit leaves files that no entry names; the next holder removes them. Numbers are addressed by tensor and
//! by place in the flat space, never by rank: any number of ranks reads what any number wrote, by ranges. All calls block,
//! and must not be made from inside an asynchronous task.
//!
//! ```
//! use trainer::checkpoint::{About, Holder, NamedArray, RunPrefix, Segment, Snapshot};
//! # let folder = tempfile::tempdir().unwrap();
//! # let uri = folder.path().join("run").display().to_string();
//! let run = RunPrefix::open(&uri)?;
//! let lease = run.take_over(Holder { host: "here".into(), pid: 1, ..Holder::default() })?;
//! let bias = Segment { name: "itm_head.bias".into(), shape: vec![2], offset: 0 };
//! let about = About { stage_index: 1, step: 10, flat_len: 64, segments: vec![bias], ..About::default() };
//! let trainable = vec![NamedArray { name: "itm_head.bias".into(), shape: vec![2], values: vec![0.5, -0.5] }];
//! let state = Snapshot { about, trainable, exp_avg: vec![0.0; 64], exp_avg_sq: vec![0.0; 64] };
//! lease.commit(&state)?;
//! let found = run.newest(None)?.expect("just committed");
//! assert_eq!(found.stored.snapshot()?, state);
//! # Ok::<(), trainer::TrainerError>(())
//! ```

mod claim;
mod fresh;
mod heartbeat;
mod holder;
mod lease;
mod log;
mod manifest;
pub mod overview;
mod part;
mod retention;
mod snapshot;
mod stored;
mod tensor_file;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use data_pipeline::store::Location;

use claim::CONFIG;
pub use claim::{Change, Claim, Standing, Terms};
pub use heartbeat::Rhythm;
pub use holder::{Holder, start_ticks};
pub(crate) use lease::Attempt;
pub use lease::{Committed, Lease};
pub use log::{CommitRecord, Quarantined};
pub use manifest::FORMAT_VERSION;
use manifest::MANIFEST;
pub(crate) use part::{Part, PartRecord};
pub use retention::Retention;
pub use snapshot::{About, NamedArray, Segment, Snapshot};
pub use stored::{FlatRange, Stored};
pub(crate) use tensor_file::{Floats, Kept};

use crate::error::{Result, TrainerError};
use crate::storage::{Created, Patience, Storage};

/// Reasons that an error about unusable checkpoints repeats.
const SHOWN_REASONS: usize = 3;

/// The folder of one run.
#[derive(Clone, Debug)]
pub struct RunPrefix {
    storage: Arc<Storage>,
}

/// The trained tensors of a checkpoint, verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// What is known of the state.
    pub about: About,
    /// Every trained tensor.
    pub trainable: Vec<NamedArray>,
    /// The checkpoint's own URI.
    pub uri: String,
    /// Why newer checkpoints were passed over, newest first; empty when this is the newest.
    pub fell_back: Vec<String>,
}

/// The newest checkpoint of a run whose manifest verifies.
#[derive(Clone, Debug)]
pub struct Newest {
    /// The checkpoint.
    pub stored: Stored,
    /// Why newer ones were passed over.
    pub fell_back: Vec<String>,
}

/// The checkpoints of a run from the newest to the oldest, for whoever looks for one that verifies.
#[derive(Debug)]
pub struct Candidates {
    run: RunPrefix,
    /// Oldest first.
    left: Vec<CommitRecord>,
    count: usize,
    /// Why those before were passed over, newest first.
    pub fell_back: Vec<String>,
}

/// A checkpoint that the log names. Retention may have removed it since.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    /// The entry's number in the log.
    pub number: u64,
    /// The take-over by which its writer lived.
    pub epoch: u64,
    /// The checkpoint's own URI.
    pub uri: String,
    /// What the log says about it.
    pub record: CommitRecord,
}

/// What writing the config came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigWritten {
    /// There was none, and now there is.
    New,
    /// The same text was there.
    Same,
    /// Another text is there, and stays.
    Differs {
        /// The text that is there.
        stored: String,
    },
}

impl RunPrefix {
    /// The run at `uri`, a path or an object-store URL. Opens no connection and writes nothing.
    ///
    /// # Errors
    /// [`TrainerError::Store`] when the URI names no store, [`TrainerError::Runtime`].
    pub fn open(uri: &str) -> Result<Self> {
        Self::at(Location::parse(uri)?)
    }

    /// The run at a place that was parsed already.
    ///
    /// # Errors
    /// [`TrainerError::Runtime`].
    pub fn at(place: Location) -> Result<Self> {
        Ok(Self { storage: Arc::new(Storage::at(place)?) })
    }

    /// The run's URI.
    pub fn uri(&self) -> String {
        self.storage.uri("")
    }

    /// Takes over the run unless its holder lives, on the terms that `decide` gives when it is shown the run (none
    /// where there is none yet; it then gets `config`). While the lease lives, the run has a heartbeat. Waits for as long as
    /// a holder may be silent where nothing else shows that it has gone; `say` is told so.
    ///
    /// # Errors
    /// [`TrainerError::NoPutIfAbsent`] when the store overwrites what it is not to; [`TrainerError::Held`] when the holder lives, what `decide` says, [`TrainerError::LogBusy`], and errors of the store.
    pub fn claim(
        &self,
        claim: &Claim,
        config: &str,
        decide: &mut dyn FnMut(Option<&Standing>) -> Result<Terms>,
        say: &mut dyn FnMut(String),
    ) -> Result<Lease> {
        self.storage.check_put_if_absent()?;
        claim::claim(&self.storage, claim, config, decide, say)
    }

    /// Who holds the run and lives, in words; nothing where nobody does. Takes as long as a holder may be silent where nothing
    /// else shows that it has gone. Writes nothing.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn living_holder(&self, claim: &Claim) -> Result<Option<String>> {
        claim::living_holder(&self.storage, claim)
    }

    /// Takes over the run whoever holds it, and without a heartbeat: from now on earlier holders can commit nothing. Their
    /// unfinished files are removed. [`RunPrefix::claim`] asks first.
    ///
    /// # Errors
    /// [`TrainerError::LogBusy`], and errors of the store.
    pub fn take_over(&self, facts: Holder) -> Result<Lease> {
        lease::take_over(&self.storage, facts)
    }

    /// Writes the resolved config, once: a text that is there stays.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn write_config(&self, text: &str) -> Result<ConfigWritten> {
        let created = self.storage.create(CONFIG, Bytes::from(text.to_owned()));
        if matches!(created, Ok(Created::Written)) {
            return Ok(ConfigWritten::New);
        }
        match self.config()? {
            Some(stored) if stored == text => Ok(ConfigWritten::Same),
            Some(stored) => Ok(ConfigWritten::Differs { stored }),
            None => Err(created.err().unwrap_or(TrainerError::LogBusy { uri: self.storage.uri(CONFIG), tries: 1 })),
        }
    }

    /// The resolved config in force: the one that the run was started with, or that a launch changed since with leave; `None`
    /// when none has been written.
    ///
    /// # Errors
    /// Errors of the store, and a config that the log names and that is missing.
    pub fn config(&self) -> Result<Option<String>> {
        claim::config_in_force(&self.storage, &log::Log::read(&self.storage)?)
    }

    /// The values of the config that launches changed with leave, oldest first.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn accepted_changes(&self) -> Result<Vec<Change>> {
        Ok(log::Log::read(&self.storage)?.changes())
    }

    /// The checkpoints that the log names, oldest first.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn commits(&self) -> Result<Vec<Commit>> {
        let commits = log::Log::read(&self.storage)?.commits().into_iter();
        Ok(commits
            .map(|(number, epoch, record)| Commit { number, epoch, uri: self.storage.uri(&record.folder), record })
            .collect())
    }

    /// Whether this is a checkpoint's own folder, or a run that ever committed one.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn has_checkpoint(&self) -> Result<bool> {
        Ok(self.storage.size(MANIFEST)?.is_some() || !log::Log::read(&self.storage)?.commits().is_empty())
    }

    /// Whether this is the folder of a checkpoint, not of a run.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn is_checkpoint(&self) -> Result<bool> {
        Ok(self.storage.size(MANIFEST)?.is_some())
    }

    /// The checkpoints that were found damaged, oldest first.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn quarantined(&self) -> Result<Vec<Quarantined>> {
        Ok(log::Log::read(&self.storage)?.quarantined().into_iter().cloned().collect())
    }

    /// The checkpoints of one stage or of the whole run; `None` when none was ever committed.
    ///
    /// # Errors
    /// Errors of the store; [`TrainerError::NoUsableCheckpoint`] when there are none but damaged ones.
    pub fn candidates(&self, stage_index: Option<usize>) -> Result<Option<Candidates>> {
        let log = log::Log::read(&self.storage)?;
        let mut commits = log.commits();
        commits.retain(|(_, _, record)| stage_index.is_none_or(|index| index == record.stage_index));
        let quarantined = log.quarantined();
        let Some((newest, _, _)) = commits.last() else {
            let of_stage = |folder: &str| stage_index.is_none_or(|index| folder.starts_with(&format!("stage{index}/")));
            let reasons: Vec<String> = quarantined
                .iter()
                .filter(|it| of_stage(&it.folder))
                .map(|it| format!("{}: {}", self.storage.uri(&it.folder), it.reason))
                .collect();
            return if reasons.is_empty() { Ok(None) } else { Err(self.unusable(reasons.len(), &reasons)) };
        };
        let unreadable = log.unreadable().filter(|(number, _)| number > newest);
        let fell_back = unreadable
            .map(|(number, reason)| format!("{}: {reason}", self.storage.uri(&log::entry_name(number))))
            .collect();
        let left: Vec<CommitRecord> = commits.into_iter().map(|(_, _, record)| record).collect();
        Ok(Some(Candidates { run: self.clone(), count: left.len(), left, fell_back }))
    }

    /// Opens a checkpoint of this run that the log names.
    ///
    /// # Errors
    /// [`TrainerError::BadCheckpoint`] when its manifest does not verify, and errors of the store.
    pub fn stored(&self, record: &CommitRecord) -> Result<Stored> {
        Stored::open(&self.storage, &record.folder, Some(&record.manifest_sha256))
    }

    /// The newest checkpoint whose manifest verifies, of one stage or of the whole run; `None` when none was ever
    /// committed.
    ///
    /// # Errors
    /// As [`Self::latest`].
    pub fn newest(&self, stage_index: Option<usize>) -> Result<Option<Newest>> {
        let Some(mut candidates) = self.candidates(stage_index)? else { return Ok(None) };
        let stored = candidates.find(Ok)?;
        Ok(Some(Newest { stored, fell_back: candidates.fell_back }))
    }

    /// The trained tensors of the newest checkpoint whose tensors verify; `None` when none was ever committed.
    ///
    /// # Errors
    /// [`TrainerError::NoUsableCheckpoint`] when there are commits and none verifies. A store that does not answer is
    /// an error too, and no reason to go back to an older checkpoint.
    pub fn latest(&self, stage_index: Option<usize>) -> Result<Option<Found>> {
        let Some(mut candidates) = self.candidates(stage_index)? else { return Ok(None) };
        let (stored, trainable) = candidates.find(|stored| Ok((stored.clone(), stored.trainable()?)))?;
        let fell_back = candidates.fell_back;
        Ok(Some(Found { about: stored.about().clone(), trainable, uri: stored.uri(), fell_back }))
    }

    fn unusable(&self, count: usize, reasons: &[String]) -> TrainerError {
        let mut shown = reasons.iter().take(SHOWN_REASONS).cloned().collect::<Vec<_>>().join("; ");
        if reasons.len() > SHOWN_REASONS {
            shown.push_str(" …");
        }
        TrainerError::NoUsableCheckpoint { uri: self.uri(), count, reasons: shown }
    }

    /// Removes the run with all that is in it: for runs that were made to be removed.
    ///
    /// # Errors
    /// Errors of the store.
    pub(crate) fn remove(&self) -> Result<()> {
        self.storage.delete_all(MANIFEST)
    }

    /// Writes a rank's part of a checkpoint into its folder.
    ///
    /// # Errors
    /// Errors of the store, as far as `patience` does not wait them out.
    pub(crate) fn write_part(&self, folder: &str, part: &Part<'_>, patience: &Patience) -> Result<PartRecord> {
        part::write(&self.storage, folder, part, patience)
    }

    /// The same run with connections of its own, for another thread.
    pub(crate) fn again(&self) -> Result<Self> {
        Ok(Self { storage: Arc::new(self.storage.again()?) })
    }
}

impl Candidates {
    /// The next older checkpoint.
    ///
    /// # Errors
    /// [`TrainerError::NoUsableCheckpoint`] when all were passed over.
    pub fn next_older(&mut self) -> Result<CommitRecord> {
        self.left.pop().ok_or_else(|| self.run.unusable(self.count, &self.fell_back))
    }

    /// What `read` makes of the newest checkpoint that it does not call damaged.
    fn find<T>(&mut self, read: impl Fn(Stored) -> Result<T>) -> Result<T> {
        loop {
            let record = self.next_older()?;
            match self.run.stored(&record).and_then(&read) {
                Err(TrainerError::BadCheckpoint { uri, reason }) => self.fell_back.push(format!("{uri}: {reason}")),
                other => return other,
            }
        }
    }
}

/// Opens one checkpoint by the URI of its folder, or the newest one whose manifest verifies of a run by the run's URI. A
/// folder named directly need not stand in any log.
///
/// # Errors
/// [`TrainerError::BadCheckpoint`] when a named checkpoint does not verify, [`TrainerError::NoCheckpoint`] when there
/// is nothing, [`TrainerError::NoUsableCheckpoint`], and errors of the store.
pub fn open_stored(uri: &str) -> Result<Stored> {
    let run = RunPrefix::open(uri)?;
    if run.storage.size(MANIFEST)?.is_some() {
        return Stored::open(&run.storage, "", None);
    }
    Ok(run.newest(None)?.ok_or_else(|| TrainerError::NoCheckpoint { uri: uri.to_owned() })?.stored)
}

/// The trained tensors of a checkpoint or a run, as [`open_stored`] finds it.
///
/// # Errors
/// As [`open_stored`].
pub fn open_checkpoint(uri: &str) -> Result<Found> {
    let run = RunPrefix::open(uri)?;
    if run.storage.size(MANIFEST)?.is_some() {
        let stored = Stored::open(&run.storage, "", None)?;
        let (about, trainable) = (stored.about().clone(), stored.trainable()?);
        return Ok(Found { about, trainable, uri: run.uri(), fell_back: Vec::new() });
    }
    run.latest(None)?.ok_or_else(|| TrainerError::NoCheckpoint { uri: uri.to_owned() })
}
