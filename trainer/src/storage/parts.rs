//! Large objects sent in parts: hashed on the way, in bounded memory, and after an outage only what is missing again.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use data_pipeline::error::DataError;
use data_pipeline::store::Location;
use futures::{StreamExt, TryStreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::{ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::patience::Patience;
use super::{AT_ONCE, Storage, local_path};
use crate::error::Result;

/// S3 takes no more parts of one object; where a size needs more, the parts are larger.
const MOST_PARTS: u64 = 10_000;
/// Uploads of one object that are begun before it is given up: a store that forgets each of them is broken.
const MOST_UPLOADS: u32 = 8;
/// How long a failed write tries to clean up.
const ABORT_LIMIT: Duration = Duration::from_secs(5);

/// Bytes whose hashing takes many times as long as a thread's start.
const WORTH_A_THREAD: usize = 1 << 20;

/// Bytes that can be read again, at any place, while they are written.
pub trait Content: Sync {
    /// How many.
    fn len(&self) -> u64;

    /// Writes the bytes from `at` on into all of `into`.
    fn fill(&self, at: u64, into: &mut [u8]);

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Content for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn fill(&self, at: u64, into: &mut [u8]) {
        let at = at as usize;
        into.copy_from_slice(&self[at..at + into.len()]);
    }
}

impl Content for Bytes {
    fn len(&self) -> u64 {
        Bytes::len(self) as u64
    }

    fn fill(&self, at: u64, into: &mut [u8]) {
        Content::fill(&self[..], at, into);
    }
}

/// What an object must be: size and sums, of the whole and of each part, so that parts can be checked alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashed {
    /// Bytes of the object.
    pub size: u64,
    /// sha256 of the whole, in hexadecimal digits.
    pub sha256: String,
    /// Bytes of each part but the last, which may have fewer.
    pub part_bytes: u64,
    /// sha256 of each part.
    pub parts: Vec<String>,
}

impl Hashed {
    /// The bytes of a part.
    pub fn range(&self, part: usize) -> Range<u64> {
        let start = (part as u64).saturating_mul(self.part_bytes);
        start..start.saturating_add(self.part_bytes).min(self.size)
    }
}

/// Both sums of an object that comes part by part.
struct Sums {
    whole: Sha256,
    parts: Vec<String>,
}

impl Sums {
    fn new() -> Self {
        Self { whole: Sha256::new(), parts: Vec::new() }
    }

    /// Adds the next part; of a large one both sums are taken at the same time.
    fn add(&mut self, part: &[u8]) {
        let sum = std::thread::scope(|scope| {
            let other = (part.len() >= WORTH_A_THREAD).then(|| scope.spawn(|| Sha256::digest(part)));
            self.whole.update(part);
            other.map_or_else(|| Sha256::digest(part), |sum| sum.join().expect("invariant: hashing does not panic"))
        });
        self.parts.push(hex(&sum));
    }

    fn finish(self, size: u64, part_bytes: u64) -> Hashed {
        Hashed { size, sha256: hex(&self.whole.finalize()), part_bytes, parts: self.parts }
    }
}

/// Hexadecimal digits.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How the sending of parts failed.
enum Broken {
    /// The store does not know the upload any more: it must be begun anew.
    Gone(object_store::Error),
    Failed(object_store::Error),
}

impl Broken {
    fn from_part(error: object_store::Error) -> Self {
        if is_gone(&error) { Self::Gone(error) } else { Self::Failed(error) }
    }
}

/// Whether a store says that an upload, or a part of one, is not there.
fn is_gone(error: &object_store::Error) -> bool {
    const WORDS: [&str; 4] = ["NoSuchUpload", "InvalidPart", "InvalidBlockList", "InvalidBlobOrBlock"];
    matches!(error, object_store::Error::NotFound { .. }) || {
        let text = error.to_string();
        WORDS.iter().any(|word| text.contains(word))
    }
}

/// An object on its way.
struct Upload<'a> {
    place: &'a Location,
    store: &'a dyn MultipartStore,
    size: u64,
    num_parts: usize,
    patience: &'a Patience,
    /// On a path the store itself is sure of the end; elsewhere an unclear end is looked at.
    local: bool,
}

impl Storage {
    /// Writes an object and gives its sums. It appears complete or not at all, and on a path it is on the disk, with
    /// its name, when this returns.
    ///
    /// Bytes are produced and hashed in a thread while others are sent; at most `AT_ONCE` + 2 parts are in memory.
    /// What `patience` waits out costs only the parts that failed, as long as the store keeps the upload.
    ///
    /// # Errors
    /// [`TrainerError::Store`](crate::TrainerError::Store).
    ///
    /// # Panics
    /// When `content` does.
    pub fn write_hashed(&self, name: &str, content: &dyn Content, patience: &Patience) -> Result<Hashed> {
        let place = self.root.child(name);
        let (size, part_bytes) = (content.len(), self.part_bytes(content.len()));
        if size > part_bytes {
            return Ok(self.send_parts(&place, content, part_bytes, patience)?);
        }
        let bytes = filled(content, 0..size);
        let mut sums = Sums::new();
        if size > 0 {
            sums.add(&bytes);
        }
        let put = || place.store.put(&place.path, PutPayload::from(bytes.clone()));
        self.runtime.block_on(patience.wait(&place, put)).map_err(|source| place.error("write", source))?;
        Ok(sums.finish(size, part_bytes))
    }

    /// The size of the parts of an object of `size` bytes.
    fn part_bytes(&self, size: u64) -> u64 {
        self.part_bytes.max(size.div_ceil(MOST_PARTS))
    }

    fn send_parts(
        &self,
        place: &Location,
        content: &dyn Content,
        part_bytes: u64,
        patience: &Patience,
    ) -> std::result::Result<Hashed, DataError> {
        let local = local_path(place).is_some();
        let Some(store) = self.parts(part_bytes) else {
            let operation = "writing an object in parts".into();
            let source = object_store::Error::NotImplemented { operation, implementer: place.store.to_string() };
            return Err(place.error("write", source));
        };
        let size = content.len();
        let num_parts = size.div_ceil(part_bytes) as usize;
        let upload = Upload { place, store: &*store, size, num_parts, patience, local };
        let mut begun = 1;
        loop {
            let (hashed, sent) = std::thread::scope(|scope| {
                let (to, from) = channel(1);
                let producer = scope.spawn(move || produce(content, part_bytes, &to));
                let sent = self.runtime.block_on(upload.send(from));
                let hashed = producer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                (hashed, sent)
            });
            match sent {
                Ok(()) => return Ok(hashed),
                Err(Broken::Gone(_)) if begun < MOST_UPLOADS => begun += 1,
                Err(Broken::Gone(source) | Broken::Failed(source)) => return Err(place.error("write", source)),
            }
        }
    }
}

/// Sends all parts, and hashes each while it travels. When nobody takes them any more, the sums are useless.
fn produce(content: &dyn Content, part_bytes: u64, parts: &Sender<Bytes>) -> Hashed {
    let size = content.len();
    let mut sums = Sums::new();
    for start in (0..size).step_by(part_bytes as usize) {
        let bytes = filled(content, start..(start + part_bytes).min(size));
        if parts.blocking_send(bytes.clone()).is_err() {
            break;
        }
        sums.add(&bytes);
    }
    sums.finish(size, part_bytes)
}

fn filled(content: &dyn Content, range: Range<u64>) -> Bytes {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    content.fill(range.start, &mut bytes);
    bytes.into()
}

impl Upload<'_> {
    /// Sends the parts that come and makes the object of them; on failure the store is told to forget them.
    async fn send(&self, parts: Receiver<Bytes>) -> std::result::Result<(), Broken> {
        let path = &self.place.path;
        let before = self.stands_now().await.map_err(Broken::Failed)?;
        let create = || self.store.create_multipart(path);
        let id = self.patience.wait(self.place, create).await.map_err(Broken::Failed)?;
        let sent = async {
            let ids = self.send_all(&id, parts).await?;
            self.complete(&id, ids, &before).await
        };
        let sent = sent.await;
        if sent.is_err() {
            // The error that led here is the one to tell; a store that is gone cannot be cleaned up anyway.
            let _cleaned_up = tokio::time::timeout(ABORT_LIMIT, self.store.abort_multipart(path, &id)).await;
        }
        sent
    }

    async fn send_all(&self, id: &String, parts: Receiver<Bytes>) -> std::result::Result<Vec<PartId>, Broken> {
        let next = |mut parts: Receiver<Bytes>| async { parts.recv().await.map(|part| (part, parts)) };
        let send = |(index, bytes): (usize, Bytes)| async move {
            let put = || self.store.put_part(&self.place.path, id, index, PutPayload::from(bytes.clone()));
            Ok((index, self.patience.wait(self.place, put).await.map_err(Broken::from_part)?))
        };
        let sending = futures::stream::unfold(parts, next).enumerate().map(send).buffer_unordered(AT_ONCE);
        let mut sent: Vec<(usize, PartId)> = sending.try_collect().await?;
        debug_assert!(sent.len() <= self.num_parts);
        sent.sort_by_key(|(index, _)| *index);
        Ok(sent.into_iter().map(|(_, id)| id).collect())
    }

    /// Ends the upload. A store that did so and whose answer was lost says "no such upload" the next time: what stands
    /// there then decides.
    async fn complete(&self, id: &String, ids: Vec<PartId>, before: &Version) -> std::result::Result<(), Broken> {
        let complete = || async {
            let path = &self.place.path;
            let Err(error) = self.store.complete_multipart(path, id, ids.clone()).await else { return Ok(None) };
            if !self.local
                && let Ok(now) = self.stands_now().await
                && now.size == Some(self.size)
                && now != *before
            {
                return Ok(None);
            }
            if is_gone(&error) { Ok(Some(error)) } else { Err(error) }
        };
        match self.patience.wait(self.place, complete).await {
            Ok(None) => Ok(()),
            Ok(Some(gone)) => Err(Broken::Gone(gone)),
            Err(error) => Err(Broken::Failed(error)),
        }
    }

    /// What stands under the name now; nothing on a path, where it is not asked for.
    async fn stands_now(&self) -> object_store::Result<Version> {
        if self.local {
            return Ok(Version::default());
        }
        let head = || async {
            match self.place.store.head(&self.place.path).await {
                Ok(meta) => {
                    let time = Some(meta.last_modified.to_rfc3339());
                    Ok(Version { size: Some(meta.size), etag: meta.e_tag, time })
                }
                Err(object_store::Error::NotFound { .. }) => Ok(Version::default()),
                Err(error) => Err(error),
            }
        };
        self.patience.wait(self.place, head).await
    }
}

/// Tells whether an object was replaced.
#[derive(Debug, Default, PartialEq, Eq)]
struct Version {
    size: Option<u64>,
    etag: Option<String>,
    time: Option<String>,
}
