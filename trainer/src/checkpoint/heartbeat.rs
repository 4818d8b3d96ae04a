//! `heartbeat.json`: the holder of a run counts in it, so that others see that it lives. Advisory: the log alone decides
//! who may write, and no clock is compared across machines.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::holder::Holder;
use crate::error::Result;
use crate::storage::Storage;

/// Its name in the run's folder.
const HEARTBEAT: &str = "heartbeat.json";
/// The version that this code writes. Another one says nothing to this code.
const FORMAT_VERSION: u32 = 1;
/// How long the end of a holder waits for its last beat to be written.
const LAST_BEAT: Duration = Duration::from_secs(3);
/// How often the end of a holder looks whether its last beat is written.
const LOOK: Duration = Duration::from_millis(5);
/// Looks at the file in the time of one beat.
const LOOKS: u32 = 8;

/// How holders show that they live, and how long others wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// Between two beats.
    pub every: Duration,
    /// Without a new beat for so long, on the observer's own clock, a holder counts as gone.
    pub silence: Duration,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { every: Duration::from_secs(5), silence: Duration::from_secs(20) }
    }
}

/// What stands in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Beat {
    format_version: u32,
    /// The take-over by which the holder lives.
    pub(super) epoch: u64,
    /// The nonce of that take-over.
    pub(super) nonce: String,
    /// Who it is, for people.
    holder: Holder,
    /// Counts up.
    pub(super) beat: u64,
    /// Whether the holder has ended in order.
    pub(super) left: bool,
}

impl Beat {
    /// The file, where there is one that this code understands.
    pub(super) fn read(storage: &Storage) -> Result<Option<Self>> {
        let read = storage.read(HEARTBEAT)?;
        let beat = read.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        Ok(beat.filter(|beat| beat.format_version == FORMAT_VERSION))
    }
}

/// Writes beats from a thread of its own until it is dropped.
#[derive(Debug)]
pub(super) struct Heart {
    leave: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Heart {
    /// Begins to beat. Failures of the store are passed over: the next beat tries again, and the log does not depend on
    /// them. The access to the store is shared: one of its own on the same client would be handed connections that only
    /// move while the other one is used.
    pub(super) fn start(storage: &Arc<Storage>, of: (u64, &str), holder: Holder, every: Duration) -> Self {
        let storage = storage.clone();
        let mut beat =
            Beat { format_version: FORMAT_VERSION, epoch: of.0, nonce: of.1.to_owned(), holder, beat: 0, left: false };
        let (leave, to_leave) = channel::<()>();
        let beats = move || {
            while write(&storage, &beat) == Written::Here {
                beat.left = match to_leave.recv_timeout(every) {
                    Err(RecvTimeoutError::Timeout) => false,
                    _ if beat.left => break,
                    _ => true,
                };
                beat.beat += 1;
            }
        };
        let thread = std::thread::Builder::new().name("heartbeat".into()).spawn(beats);
        Self { leave: Some(leave), thread: thread.ok() }
    }
}

impl Drop for Heart {
    /// Says that the holder has left. A store that does not answer is not waited for.
    fn drop(&mut self) {
        self.leave.take();
        let Some(thread) = self.thread.take() else { return };
        let since = Instant::now();
        while !thread.is_finished() && since.elapsed() < LAST_BEAT {
            std::thread::sleep(LOOK);
        }
    }
}

#[derive(PartialEq, Eq)]
enum Written {
    /// Or not: what matters is that it may be tried again.
    Here,
    /// A newer holder beats.
    Superseded,
}

fn write(storage: &Storage, beat: &Beat) -> Written {
    match Beat::read(storage) {
        Ok(Some(found)) if found.epoch > beat.epoch => return Written::Superseded,
        _ => {}
    }
    if let Ok(bytes) = serde_json::to_vec_pretty(beat) {
        let _tried_again_at_the_next_beat = storage.write(HEARTBEAT, Bytes::from(bytes));
    }
    Written::Here
}

/// What watching a holder came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It counts on.
    Lives,
    /// It said that it leaves.
    Left,
    /// It has not counted for as long as a holder may be silent.
    Silent,
    /// Nothing is known yet.
    Unknown,
}

/// Watches one holder, on a clock that only this process reads.
#[derive(Debug)]
pub(super) struct Watch {
    epoch: u64,
    nonce: String,
    first: Option<u64>,
    since: Instant,
    rhythm: Rhythm,
}

impl Watch {
    /// Begins to watch the holder of this take-over.
    ///
    /// # Errors
    /// Errors of the store.
    pub(super) fn begin(storage: &Storage, epoch: u64, nonce: &str, rhythm: Rhythm) -> Result<(Self, Sign)> {
        let mut watch = Self { epoch, nonce: nonce.to_owned(), first: None, since: Instant::now(), rhythm };
        let beat = watch.read(storage)?;
        watch.first = beat.as_ref().map(|beat| beat.beat);
        watch.since = Instant::now();
        let sign = if beat.is_some_and(|beat| beat.left) { Sign::Left } else { Sign::Unknown };
        Ok((watch, sign))
    }

    /// Looks again after a pause.
    ///
    /// # Errors
    /// Errors of the store: what cannot be read is no silence.
    pub(super) fn look(&self, storage: &Storage) -> Result<Sign> {
        std::thread::sleep(self.rhythm.silence.min(self.rhythm.every) / LOOKS);
        let waited = self.since.elapsed();
        let beat = self.read(storage)?;
        Ok(match beat {
            Some(beat) if beat.left => Sign::Left,
            Some(beat) if Some(beat.beat) != self.first => Sign::Lives,
            _ if waited >= self.rhythm.silence => Sign::Silent,
            _ => Sign::Unknown,
        })
    }

    /// The file, where it is of the holder that is watched; another one's says nothing about this one.
    fn read(&self, storage: &Storage) -> Result<Option<Beat>> {
        Ok(Beat::read(storage)?.filter(|beat| beat.epoch == self.epoch && beat.nonce == self.nonce))
    }
}
