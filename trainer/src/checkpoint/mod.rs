//! The run's folder: its log, its checkpoints, its config; on a path or in any object store.
//!
//! ```text
//! <run.output>/
//!   config.yaml                          written once; config-<nonce>.yaml once values were changed with leave
//!   heartbeat.json                       shows others that the holder lives; decides nothing
//!   log/00000000.json …                  take-overs and commits; each entry written once, by put-if-absent
//!   stage1/step-00012000/<epoch>-<nonce>/
//!     trainable-00001-of-00001.safetensors, trainable.safetensors.index.json, moments-00001-of-00001.safetensors
//!     manifest.json                      position, facts, sizes and sha256 of the files
//! ```
//!
//! A checkpoint exists when an entry of the log names its manifest and its files verify. Whoever is ended in the
//! middle of a commit leaves files that no entry names; the next holder removes them. All calls block, and must not
//! be made from inside an asynchronous task.
//!
//! ```
//! use trainer::checkpoint::{Holder, NamedArray, RunPrefix, Snapshot};
//! # let folder = tempfile::tempdir().unwrap();
//! # let uri = folder.path().join("run").display().to_string();
//! let run = RunPrefix::open(&uri)?;
//! let lease = run.take_over(Holder { host: "here".into(), pid: 1, ..Holder::default() })?;
//! let bias = NamedArray { name: "itm_head.bias".into(), shape: vec![2], values: vec![0.5, -0.5] };
//! let state = Snapshot { stage_index: 1, step: 10, trainable: vec![bias], ..Snapshot::default() };
//! lease.commit(&state)?;
//! let found = run.latest(None)?.expect("just committed");
//! assert_eq!(found.snapshot, state);
//! # Ok::<(), trainer::TrainerError>(())
//! ```

mod claim;
mod fresh;
mod heartbeat;
mod holder;
mod lease;
mod log;
mod manifest;
mod retention;
mod snapshot;
#[cfg(test)]
mod tests;
mod weights;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use data_pipeline::store::Location;

use claim::CONFIG;
pub use claim::{Change, Claim, Standing, Terms};
pub use heartbeat::Rhythm;
pub use holder::{Holder, start_ticks};
pub use lease::{Committed, Lease};
pub use log::CommitRecord;
pub use manifest::FORMAT_VERSION;
use manifest::{FileRecord, MANIFEST, Manifest};
pub use retention::Retention;
pub use snapshot::{NamedArray, Segment, Snapshot};

use crate::error::{Result, TrainerError};
use crate::storage::{Created, Storage};

/// Reasons that an error about unusable checkpoints repeats.
const SHOWN_REASONS: usize = 3;

/// The folder of one run.
#[derive(Clone, Debug)]
pub struct RunPrefix {
    storage: Arc<Storage>,
}

/// A checkpoint that was read and verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The state.
    pub snapshot: Snapshot,
    /// The checkpoint's own URI.
    pub uri: String,
    /// Why newer checkpoints were passed over, newest first; empty when this is the newest.
    pub fell_back: Vec<String>,
}

/// A checkpoint that the log names. Retention may have removed it since.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// [`TrainerError::Held`] when the holder lives, what `decide` says, [`TrainerError::LogBusy`], and errors of the store.
    pub fn claim(
        &self,
        claim: &Claim,
        config: &str,
        decide: &mut dyn FnMut(Option<&Standing>) -> Result<Terms>,
        say: &mut dyn FnMut(String),
    ) -> Result<Lease> {
        claim::claim(&self.storage, claim, config, decide, say)
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

    /// The newest checkpoint that verifies, of one stage or of the whole run; `None` when none was ever committed.
    ///
    /// # Errors
    /// [`TrainerError::NoUsableCheckpoint`] when there are commits and none verifies. A store that does not answer is
    /// an error too, and no reason to go back to an older checkpoint.
    pub fn latest(&self, stage_index: Option<usize>) -> Result<Option<Found>> {
        let log = log::Log::read(&self.storage)?;
        let mut commits = log.commits();
        commits.retain(|(_, _, record)| stage_index.is_none_or(|index| index == record.stage_index));
        let Some((newest, _, _)) = commits.last() else { return Ok(None) };
        let unreadable = log.unreadable().filter(|(number, _)| number > newest);
        let mut fell_back: Vec<String> = unreadable
            .map(|(number, reason)| format!("{}: {reason}", self.storage.uri(&log::entry_name(number))))
            .collect();
        for (_, _, record) in commits.iter().rev() {
            match self.load(&record.folder, Some(&record.manifest_sha256)) {
                Ok(snapshot) => {
                    return Ok(Some(Found { snapshot, uri: self.storage.uri(&record.folder), fell_back }));
                }
                Err(TrainerError::BadCheckpoint { uri, reason }) => fell_back.push(format!("{uri}: {reason}")),
                Err(error) => return Err(error),
            }
        }
        let mut reasons = fell_back.iter().take(SHOWN_REASONS).cloned().collect::<Vec<_>>().join("; ");
        if fell_back.len() > SHOWN_REASONS {
            reasons.push_str(" …");
        }
        Err(TrainerError::NoUsableCheckpoint { uri: self.uri(), count: commits.len(), reasons })
    }

    /// Reads the checkpoint in `folder` and verifies every file; with `manifest_sha256` the manifest too.
    fn load(&self, folder: &str, manifest_sha256: Option<&str>) -> Result<Snapshot> {
        let name = if folder.is_empty() { MANIFEST.to_owned() } else { format!("{folder}/{MANIFEST}") };
        let bad = |name: &str, reason: String| TrainerError::BadCheckpoint { uri: self.storage.uri(name), reason };
        let bytes = self.storage.read(&name)?.ok_or_else(|| bad(&name, "the manifest is missing".into()))?;
        if let Some(expected) = manifest_sha256 {
            verify(&bytes, bytes.len() as u64, expected).map_err(|reason| bad(&name, reason))?;
        }
        let manifest = Manifest::parse(&bytes).map_err(|reason| bad(&name, reason))?;
        let contents = manifest.files.iter().map(|(file, record)| {
            let name = if folder.is_empty() { file.clone() } else { format!("{folder}/{file}") };
            Ok((file.as_str(), self.read_verified(&name, record)?))
        });
        let mut contents: BTreeMap<&str, Vec<u8>> = contents.collect::<Result<_>>()?;
        let mut take = |file: &str| contents.remove(file).ok_or_else(|| bad(&name, format!("it names no {file}")));
        let (trainable, moments) = (take(weights::TRAINABLE)?, take(weights::MOMENTS)?);
        let tensors =
            weights::parse(&manifest.trainable, &trainable, &moments).map_err(|reason| bad(folder, reason))?;
        Ok(manifest.into_snapshot(tensors))
    }

    fn read_verified(&self, name: &str, record: &FileRecord) -> Result<Vec<u8>> {
        let bad = |reason: String| TrainerError::BadCheckpoint { uri: self.storage.uri(name), reason };
        let size = self.storage.size(name)?.ok_or_else(|| bad("the file is missing".into()))?;
        if size != record.size {
            return Err(bad(format!("found {size} bytes, expected {}", record.size)));
        }
        let bytes = self.storage.read_large(name, size)?;
        verify(&bytes, record.size, &record.sha256).map_err(bad)?;
        Ok(bytes)
    }
}

/// Compares size and sha256; the error is a reason for people.
fn verify(bytes: &[u8], size: u64, sha256: &str) -> std::result::Result<(), String> {
    if bytes.len() as u64 != size {
        return Err(format!("found {} bytes, expected {size}", bytes.len()));
    }
    let found = manifest::sha256(bytes);
    if found != sha256 {
        return Err(format!("found sha256 {found}, expected {sha256}: the file was changed or damaged"));
    }
    Ok(())
}

/// Reads one checkpoint by the URI of its folder, or the newest one that verifies of a run by the run's URI. A folder
/// named directly need not stand in any log.
///
/// # Errors
/// [`TrainerError::BadCheckpoint`] when a named checkpoint does not verify, [`TrainerError::NoCheckpoint`] when there
/// is nothing, [`TrainerError::NoUsableCheckpoint`], and errors of the store.
pub fn open_checkpoint(uri: &str) -> Result<Found> {
    let run = RunPrefix::open(uri)?;
    if run.storage.size(MANIFEST)?.is_some() {
        let snapshot = run.load("", None)?;
        return Ok(Found { snapshot, uri: run.uri(), fell_back: Vec::new() });
    }
    run.latest(None)?.ok_or_else(|| TrainerError::NoCheckpoint { uri: uri.to_owned() })
}
