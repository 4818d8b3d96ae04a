//! The right to write to a run: taken over in the log, checked at every commit.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::fresh;
use super::heartbeat::Heart;
use super::holder::Holder;
use super::log::{self, Appended, CommitRecord, Entry, Event, Log, Quarantined, TakeOver};
use super::manifest::{MANIFEST, Manifest, TRAINABLE_INDEX, hashed, sha256};
use super::part::{self, Part, PartRecord};
use super::retention::{self, Retention};
use super::snapshot::{About, Snapshot};
use super::tensor_file::Floats;
use crate::error::{Result, TrainerError};
use crate::storage::{Patience, Storage};

/// Times that a log which grows meanwhile is read again before giving up.
pub(super) const READS: u32 = 100;

/// The right to write checkpoints to a run, until somebody else takes over. May be used from any thread.
#[derive(Debug)]
pub struct Lease {
    storage: Arc<Storage>,
    epoch: u64,
    nonce: String,
    /// The log's next number, as far as known.
    next: Mutex<u64>,
    collected: Result<Vec<String>>,
    /// Shows others that the holder lives, until the lease is dropped.
    _heart: Option<Heart>,
}

/// A checkpoint that is being written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Attempt {
    /// Its folder below the run's.
    pub(crate) folder: String,
    nonce: String,
}

/// A checkpoint that stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The checkpoint's own URI.
    pub uri: String,
    /// The stage, counted from 1.
    pub stage_index: usize,
    /// The stage's name.
    pub stage: String,
    /// Updates done in this stage.
    pub step: u64,
    /// Size of all its files.
    pub bytes: u64,
}

/// Appends a take-over whoever holds the run, then removes what earlier holders left unfinished.
pub(super) fn take_over(storage: &Arc<Storage>, holder: Holder) -> Result<Lease> {
    let nonce = log::nonce()?;
    for _ in 0..READS {
        let seen = Log::read(storage)?;
        let epoch = seen.next_epoch();
        let taken = TakeOver { holder: holder.clone(), ..TakeOver::default() };
        let entry = Entry::new(epoch, nonce.clone(), Event::TakeOver(Box::new(taken)));
        if let Appended::Done = log::append(storage, seen.next(), &entry)? {
            return Lease::begin(storage, epoch, nonce, seen.next() + 1, None);
        }
    }
    Err(TrainerError::LogBusy { uri: storage.uri("log"), tries: READS })
}

impl Lease {
    /// The lease of a take-over that stands in the log before the entry `next`. Finishes what earlier holders began: moves
    /// what a fresh start sets aside, and removes checkpoints that were never committed.
    pub(super) fn begin(
        storage: &Arc<Storage>,
        epoch: u64,
        nonce: String,
        next: u64,
        heart: Option<Heart>,
    ) -> Result<Self> {
        let (storage, next) = (storage.clone(), Mutex::new(next));
        let mut lease = Self { storage, epoch, nonce, next, collected: Ok(Vec::new()), _heart: heart };
        let log = Log::read(&lease.storage)?;
        fresh::set_aside(&lease.storage, &log, &lease)?;
        lease.collected = retention::collect(&lease.storage, &log, epoch, None);
        Ok(lease)
    }

    /// The number of this take-over; the first one is 1.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The name of this launch in metrics: sorts by take-over.
    pub fn launch(&self) -> String {
        format!("{:06}-{}", self.epoch, &self.nonce[..8])
    }

    /// The unfinished checkpoints of earlier holders that the take-over removed.
    ///
    /// # Errors
    /// Why they could not be removed. They cost space and harm nothing; the next take-over tries again.
    pub fn collected(&self) -> std::result::Result<&[String], &TrainerError> {
        self.collected.as_deref()
    }

    /// Writes a whole checkpoint and commits it. It exists once this returns; before, or after an error, the run is as it
    /// was.
    ///
    /// # Errors
    /// [`TrainerError::Fenced`] when another process took over, [`TrainerError::BadSnapshot`], and errors of the
    /// store.
    pub fn commit(&self, snapshot: &Snapshot) -> Result<Committed> {
        snapshot.check()?;
        self.check()?;
        let attempt = self.attempt(&snapshot.about)?;
        let patience = Patience::none();
        let tensors = snapshot.about.segments.iter().zip(&snapshot.trainable);
        let part = Part {
            index: 0,
            of: 1,
            tensors: tensors.map(|(segment, array)| (segment, &array.values as &dyn Floats)).collect(),
            first: 0,
            exp_avg: &snapshot.exp_avg,
            exp_avg_sq: &snapshot.exp_avg_sq,
        };
        let record = part::write(&self.storage, &attempt.folder, &part, &patience)?;
        self.commit_parts(&attempt, snapshot.about.clone(), vec![record], &patience)
    }

    /// Where the next checkpoint's files go.
    ///
    /// # Errors
    /// [`TrainerError::NoRandomBytes`].
    pub(crate) fn attempt(&self, about: &About) -> Result<Attempt> {
        let nonce = log::nonce()?;
        let folder = format!("stage{}/step-{:08}/{}-{nonce}", about.stage_index, about.step, self.epoch);
        Ok(Attempt { folder, nonce })
    }

    /// Commits a checkpoint whose parts have all been written into the attempt's folder.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub(crate) fn commit_parts(
        &self,
        attempt: &Attempt,
        about: About,
        parts: Vec<PartRecord>,
        patience: &Patience,
    ) -> Result<Committed> {
        let Attempt { folder, nonce } = attempt;
        let About { stage_index, ref stage, step, ref metrics, .. } = about;
        let (stage, metrics) = (stage.clone(), metrics.clone());
        let mut manifest = Manifest::new(about, self.epoch, nonce, parts);
        let index = manifest.trainable_index()?;
        manifest.files.insert(TRAINABLE_INDEX.to_owned(), hashed(&index));
        let bytes = manifest.files.values().map(|file| file.size).sum();
        self.storage.write_patiently(&format!("{folder}/{TRAINABLE_INDEX}"), &Bytes::from(index), patience)?;
        let manifest = serde_json::to_vec_pretty(&manifest)?;
        let manifest_sha256 = sha256(&manifest);
        self.storage.write_patiently(&format!("{folder}/{MANIFEST}"), &Bytes::from(manifest), patience)?;

        let uri = self.storage.uri(folder);
        let folder = folder.clone();
        let record = CommitRecord { stage_index, stage: stage.clone(), step, folder, manifest_sha256, bytes, metrics };
        let entry = Entry::new(self.epoch, nonce.clone(), Event::Commit(record));
        patience.wait_out(|| self.append(&entry))?;
        Ok(Committed { uri, stage_index, stage, step, bytes })
    }

    /// Notes that a checkpoint does not verify, so that nobody reads it again in vain. Its files stay.
    ///
    /// # Errors
    /// [`TrainerError::Fenced`], and errors of the store.
    pub fn quarantine(&self, folder: &str, reason: &str) -> Result<()> {
        let found = Quarantined { folder: folder.to_owned(), reason: reason.to_owned() };
        self.append(&Entry::new(self.epoch, log::nonce()?, Event::Quarantine(found)))
    }

    /// Appends to the log unless somebody took over.
    fn append(&self, entry: &Entry) -> Result<()> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..READS {
            match log::append(&self.storage, *next, entry)? {
                Appended::Done => {
                    *next += 1;
                    return Ok(());
                }
                Appended::Taken(found) => self.pass(*next, found)?,
            }
            *next += 1;
        }
        Err(TrainerError::LogBusy { uri: self.storage.uri("log"), tries: READS })
    }

    /// Says whether the run is still ours; costs one small read.
    ///
    /// # Errors
    /// [`TrainerError::Fenced`], and errors of the store.
    pub fn check(&self) -> Result<()> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(found) = log::read_entry(&self.storage, *next)? {
            self.pass(*next, found)?;
            *next += 1;
        }
        Ok(())
    }

    /// Accepts an entry that was found behind our own, or says that it fences us. What cannot be read was written by
    /// somebody else, perhaps a newer version of this program.
    fn pass(&self, number: u64, found: std::result::Result<Entry, String>) -> Result<()> {
        let (found, holder) = match found {
            Ok(entry) if entry.epoch <= self.epoch => return Ok(()),
            Ok(Entry { epoch, event: Event::TakeOver(taken), .. }) => (epoch, taken.holder.to_string()),
            Ok(Entry { epoch, .. }) => (epoch, "another process".to_owned()),
            Err(reason) => (self.epoch + 1, format!("an unknown process, whose entry cannot be read: {reason},")),
        };
        let uri = self.storage.uri(&log::entry_name(number));
        Err(TrainerError::Fenced { uri, holder, found, own: self.epoch })
    }

    /// Deletes a checkpoint, whatever the log says of it.
    ///
    /// # Errors
    /// [`TrainerError::Fenced`], and errors of the store.
    pub(crate) fn delete(&self, folder: &str) -> Result<()> {
        self.check()?;
        self.storage.delete_folder(folder, MANIFEST)
    }

    /// Deletes the checkpoints that `retention` does not keep, and returns their folders. To be called after a
    /// commit; a failure harms nothing, the next call tries again.
    ///
    /// # Errors
    /// [`TrainerError::Fenced`], and errors of the store.
    pub fn retain(&self, retention: &Retention) -> Result<Vec<String>> {
        self.check()?;
        retention::collect(&self.storage, &Log::read(&self.storage)?, self.epoch, Some(retention))
    }
}
