//! The run log: `log/00000000.json` …, each entry written once, by put-if-absent. The log decides who may write and
//! which checkpoints exist; no clock is compared across machines.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::claim::Change;
use super::holder::Holder;
use crate::error::{Result, TrainerError};
use crate::storage::{Created, Storage};

/// The version of the entries that this code writes and reads.
const FORMAT_VERSION: u32 = 1;
/// Times that an entry is sent when the store answers unclearly.
const TRIES: u32 = 3;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    format_version: u32,
    /// Which take-over the writer lives by.
    pub(super) epoch: u64,
    /// Recognises one's own entry.
    pub(super) nonce: String,
    /// Seconds since 1970 on the writer's clock; for people only.
    pub(super) time: f64,
    #[serde(flatten)]
    pub(super) event: Event,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Event {
    /// A process took over the run.
    TakeOver(Box<TakeOver>),
    /// A checkpoint exists from now on.
    Commit(CommitRecord),
    /// A checkpoint does not verify: nobody continues from it any more, and its files stay for people to look at.
    Quarantine(Quarantined),
}

/// What a take-over says. What was added since the first version may be absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TakeOver {
    /// Who takes over.
    pub(super) holder: Holder,
    /// The file of the run's folder that is the config from now on; that of earlier take-overs where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<String>,
    /// In which values it differs from the one before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) changes: Vec<Change>,
    /// The run begins anew: no commit before counts, and what there was moves to this folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fresh: Option<String>,
}

/// A committed checkpoint, as the log names it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CommitRecord {
    /// The stage, counted from 1.
    pub stage_index: usize,
    /// The stage's name.
    pub stage: String,
    /// Updates done in this stage.
    pub step: u64,
    /// The checkpoint's folder below the run's.
    pub folder: String,
    /// sha256 of its manifest.
    pub manifest_sha256: String,
    /// Bytes of its files.
    #[serde(default)]
    pub bytes: u64,
    /// Losses of its step.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
}

/// A checkpoint that was found damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The checkpoint's folder below the run's.
    pub folder: String,
    /// What was found.
    pub reason: String,
}

impl Entry {
    pub(super) fn new(epoch: u64, nonce: String, event: Event) -> Self {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |it| it.as_secs_f64());
        Self { format_version: FORMAT_VERSION, epoch, nonce, time, event }
    }

    fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        let entry: Self = serde_json::from_slice(bytes).map_err(|error| format!("not a run log entry ({error})"))?;
        if entry.format_version != FORMAT_VERSION {
            return Err(format!("found format_version {}, expected {FORMAT_VERSION}", entry.format_version));
        }
        Ok(entry)
    }
}

/// 16 random hexadecimal digits.
pub(super) fn nonce() -> Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(TrainerError::NoRandomBytes)?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

/// The name of the entry with this number.
pub(super) fn entry_name(number: u64) -> String {
    format!("log/{number:08}.json")
}

/// The whole log as it was when it was read.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Number and entry, or why it cannot be read.
    entries: Vec<(u64, std::result::Result<Entry, String>)>,
}

impl Log {
    pub(super) fn read(storage: &Storage) -> Result<Self> {
        let mut numbered: Vec<(u64, String)> = Vec::new();
        for name in storage.list("log")? {
            let digits = name.strip_prefix("log/").and_then(|rest| rest.strip_suffix(".json"));
            if let Some(number) = digits.and_then(|digits| digits.parse().ok()) {
                numbered.push((number, name));
            }
        }
        numbered.sort();
        let names: Vec<String> = numbered.iter().map(|(_, name)| name.clone()).collect();
        let entries = numbered.iter().zip(storage.read_all(&names)?).map(|((number, _), bytes)| {
            let entry = bytes.ok_or_else(|| "gone after it was listed".to_owned());
            (*number, entry.and_then(|bytes| Entry::parse(&bytes)))
        });
        Ok(Self { entries: entries.collect() })
    }

    /// Whether nobody ever took the run over.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of the next entry.
    pub(super) fn next(&self) -> u64 {
        self.entries.last().map_or(0, |(number, _)| number + 1)
    }

    /// An epoch above all others; 1 for the first take-over. Entries that cannot be read may be take-overs too.
    pub(super) fn next_epoch(&self) -> u64 {
        let highest = self.readable().map(|(_, entry)| entry.epoch).max().unwrap_or(0);
        highest + self.unreadable().count() as u64 + 1
    }

    fn readable(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.entries.iter().filter_map(|(number, entry)| Some((*number, entry.as_ref().ok()?)))
    }

    /// Numbers and reasons of the entries that cannot be read.
    pub(super) fn unreadable(&self) -> impl Iterator<Item = (u64, &str)> {
        self.entries.iter().filter_map(|(number, entry)| Some((*number, entry.as_ref().err()?.as_str())))
    }

    /// The checkpoints that nobody continues from, oldest first.
    pub(super) fn quarantined(&self) -> Vec<&Quarantined> {
        let first = self.fresh().map_or(0, |(number, _)| number);
        self.readable()
            .filter(|(number, _)| *number >= first)
            .filter_map(|(_, entry)| match &entry.event {
                Event::Quarantine(found) => Some(found),
                _ => None,
            })
            .collect()
    }

    fn take_overs(&self) -> impl DoubleEndedIterator<Item = (u64, &Entry, &TakeOver)> {
        self.entries.iter().filter_map(|(number, entry)| match entry {
            Ok(entry @ Entry { event: Event::TakeOver(taken), .. }) => Some((*number, entry, taken.as_ref())),
            _ => None,
        })
    }

    /// The newest take-over: its number, epoch, nonce and holder.
    pub(super) fn holder(&self) -> Option<(u64, u64, &str, &Holder)> {
        let newest = self.take_overs().next_back();
        newest.map(|(number, entry, taken)| (number, entry.epoch, entry.nonce.as_str(), &taken.holder))
    }

    /// The name of the config in force, where a take-over gave one.
    pub(super) fn config(&self) -> Option<&str> {
        self.take_overs().rev().find_map(|(_, _, taken)| taken.config.as_deref())
    }

    /// The newest take-over that began anew: its number, and the folder of what there was.
    pub(super) fn fresh(&self) -> Option<(u64, &str)> {
        self.take_overs().rev().find_map(|(number, _, taken)| Some((number, taken.fresh.as_deref()?)))
    }

    /// The epoch of that take-over; nothing below it belongs to the run any more. 0 when there is none.
    pub(super) fn first_epoch(&self) -> u64 {
        self.take_overs().rev().find(|(_, _, taken)| taken.fresh.is_some()).map_or(0, |(_, entry, _)| entry.epoch)
    }

    /// The configs of their own names that were in force before the run began anew.
    pub(super) fn configs_before_fresh(&self) -> Vec<String> {
        let number = self.fresh().map_or(0, |(number, _)| number);
        let before = self.take_overs().take_while(|(of, _, _)| *of < number);
        before.filter_map(|(_, _, taken)| taken.config.clone()).collect()
    }

    /// The values of the config that take-overs changed since the run began, oldest first.
    pub(super) fn changes(&self) -> Vec<Change> {
        let first = self.fresh().map_or(0, |(number, _)| number);
        let take_overs = self.take_overs().filter(|(number, _, _)| *number >= first);
        take_overs.flat_map(|(_, _, taken)| taken.changes.clone()).collect()
    }

    /// The commits that count, oldest first: number, epoch, record. A commit behind a newer take-over does not count, nor
    /// does one that was quarantined.
    pub(super) fn commits(&self) -> Vec<(u64, u64, CommitRecord)> {
        let quarantined = self.quarantined();
        let mut commits = self.all_commits();
        commits.retain(|(_, _, commit)| quarantined.iter().all(|it| it.folder != commit.folder));
        commits.into_iter().map(|(number, entry, record)| (number, entry.epoch, record.clone())).collect()
    }

    /// The same, and those that were quarantined: number, entry, record.
    pub(super) fn all_commits(&self) -> Vec<(u64, &Entry, &CommitRecord)> {
        let mut newest = 0;
        let mut commits = Vec::new();
        for (number, entry) in self.readable() {
            match &entry.event {
                Event::TakeOver(taken) => {
                    newest = newest.max(entry.epoch);
                    if taken.fresh.is_some() {
                        commits.clear();
                    }
                }
                Event::Commit(record) if entry.epoch >= newest => commits.push((number, entry, record)),
                Event::Commit(_) | Event::Quarantine(_) => {}
            }
        }
        commits
    }
}

/// What came of an attempt to append.
#[derive(Debug)]
pub(super) enum Appended {
    /// The entry stands.
    Done,
    /// The number holds another's entry, or something unreadable.
    Taken(std::result::Result<Entry, String>),
}

/// Writes `entry` under `number` if that is free. After an unclear answer, or when the number is taken, the log is
/// read again: one's own nonce there means that an earlier try had succeeded.
pub(super) fn append(storage: &Storage, number: u64, entry: &Entry) -> Result<Appended> {
    let name = entry_name(number);
    let bytes = Bytes::from(serde_json::to_vec(entry)?);
    let mut last_error = None;
    for _ in 0..TRIES {
        match storage.create(&name, bytes.clone()) {
            Ok(Created::Written) => return Ok(Appended::Done),
            Ok(Created::Taken) => {}
            Err(error) => last_error = Some(error),
        }
        match storage.read(&name) {
            Ok(None) => {}
            Ok(Some(found)) => match Entry::parse(&found) {
                Ok(found) if found.nonce == entry.nonce => return Ok(Appended::Done),
                found => return Ok(Appended::Taken(found)),
            },
            Err(error) => return Err(last_error.unwrap_or(error)),
        }
    }
    Err(last_error.unwrap_or(TrainerError::LogBusy { uri: storage.uri(&name), tries: TRIES }))
}

/// The entry with this number, or `None` when there is none yet.
pub(super) fn read_entry(storage: &Storage, number: u64) -> Result<Option<std::result::Result<Entry, String>>> {
    Ok(storage.read(&entry_name(number))?.map(|bytes| Entry::parse(&bytes)))
}
