//! An object store in memory that stops answering, as a process does that is killed, or loses an answer.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use data_pipeline::store::Location;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartId, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// Shared by all that talk to the store; the counters say when it fails.
#[derive(Clone, Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<InMemory>,
    /// Changes (writes, deletions) that still succeed; nothing does after them. Negative for no limit.
    left: Arc<AtomicI64>,
    /// Writes whose answers get lost: the object is there, the writer sees an error.
    lost: Arc<AtomicUsize>,
    /// Objects written so far.
    writes: Arc<AtomicUsize>,
    /// Parts that were taken so far.
    parts: Arc<AtomicUsize>,
    /// Uploads begun so far.
    uploads: Arc<AtomicUsize>,
    /// Parts that are answered with "no such upload".
    forgotten: Arc<AtomicUsize>,
    /// Reads of ranges whose first byte comes wrong.
    damaged: Arc<AtomicUsize>,
}

impl FaultyStore {
    pub(crate) fn new() -> Self {
        let left = Arc::new(AtomicI64::new(-1));
        Self {
            inner: Arc::new(InMemory::new()),
            left,
            lost: Arc::default(),
            writes: Arc::default(),
            parts: Arc::default(),
            uploads: Arc::default(),
            forgotten: Arc::default(),
            damaged: Arc::default(),
        }
    }

    /// A run in this store.
    pub(crate) fn location(&self) -> Location {
        let mut place = Location::parse("s3://bucket/run").unwrap();
        place.store = Arc::new(self.clone());
        place.parts = Some(Arc::new(self.clone()));
        place
    }

    /// Lets `changes` more changes succeed, then fails everything; negative heals it.
    pub(crate) fn die_after(&self, changes: i64) {
        self.left.store(changes, Ordering::SeqCst);
    }

    /// Loses the answers of the next writes.
    pub(crate) fn lose_answers(&self, writes: usize) {
        self.lost.store(writes, Ordering::SeqCst);
    }

    /// Objects written so far.
    pub(crate) fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// Parts that were taken so far.
    pub(crate) fn parts(&self) -> usize {
        self.parts.load(Ordering::SeqCst)
    }

    /// Uploads begun so far.
    pub(crate) fn uploads(&self) -> usize {
        self.uploads.load(Ordering::SeqCst)
    }

    /// Answers the next parts with "no such upload".
    pub(crate) fn forget_uploads(&self, parts: usize) {
        self.forgotten.store(parts, Ordering::SeqCst);
    }

    /// Makes the first byte of the next ranges that are read wrong.
    pub(crate) fn damage_reads(&self, reads: usize) {
        self.damaged.store(reads, Ordering::SeqCst);
    }

    /// Counts a counter down; whether it was above zero.
    fn takes_one(counter: &AtomicUsize) -> bool {
        counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }

    fn broken() -> object_store::Error {
        object_store::Error::Generic { store: "faulty", source: "no answer".into() }
    }

    fn alive(&self) -> Result<()> {
        if self.left.load(Ordering::SeqCst) == 0 { Err(Self::broken()) } else { Ok(()) }
    }

    fn change(&self) -> Result<()> {
        self.alive()?;
        if self.left.load(Ordering::SeqCst) > 0 {
            self.left.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.change()?;
        let result = self.inner.put_opts(location, payload, options).await;
        self.writes.fetch_add(1, Ordering::SeqCst);
        if Self::takes_one(&self.lost) {
            return Err(Self::broken());
        }
        result
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.change()?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.alive()?;
        let is_range = options.range.is_some();
        let mut got = self.inner.get_opts(location, options).await?;
        if is_range && Self::takes_one(&self.damaged) {
            let range = got.range.clone();
            let (meta, attributes, extensions) = (got.meta.clone(), got.attributes.clone(), got.extensions.clone());
            let mut bytes = got.bytes().await?.to_vec();
            bytes[0] ^= 1;
            let stream = futures::stream::once(async { Ok(bytes.into()) }).boxed();
            let payload = GetResultPayload::Stream(stream);
            got = GetResult { payload, meta, range, attributes, extensions };
        }
        Ok(got)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let locations = locations.map(move |location| this.change().and(location)).boxed();
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.alive() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.alive()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.change()?;
        self.inner.copy_opts(from, to, options).await
    }
}

#[async_trait::async_trait]
impl MultipartStore for FaultyStore {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.change()?;
        self.uploads.fetch_add(1, Ordering::SeqCst);
        self.inner.create_multipart(path).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, part_idx: usize, data: PutPayload) -> Result<PartId> {
        self.change()?;
        if Self::takes_one(&self.forgotten) {
            return Err(object_store::Error::NotFound { path: path.to_string(), source: "NoSuchUpload".into() });
        }
        self.parts.fetch_add(1, Ordering::SeqCst);
        self.inner.put_part(path, id, part_idx, data).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        self.change()?;
        let completed = self.inner.complete_multipart(path, id, parts).await;
        if Self::takes_one(&self.lost) {
            return Err(Self::broken());
        }
        // As servers say it.
        completed.map_err(|source| object_store::Error::NotFound { path: path.to_string(), source: source.into() })
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.change()?;
        self.inner.abort_multipart(path, id).await
    }
}
