//! The stores that a disturbance is put around.

use std::fmt;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use tokio::sync::Mutex;

use super::Disturbance;
use crate::storage::local_parts::LocalParts;

/// Whole objects.
#[derive(Debug)]
pub(super) struct DisturbedStore {
    pub(super) disturbance: Disturbance,
    pub(super) inner: Arc<dyn ObjectStore>,
    pub(super) local: bool,
}

impl fmt::Display for DisturbedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disturbed {}", self.inner)
    }
}

/// The first half of the bytes.
fn half_of(payload: &PutPayload) -> PutPayload {
    let bytes: Vec<u8> = payload.iter().flatten().copied().collect();
    PutPayload::from(bytes[..bytes.len() / 2].to_vec())
}

#[async_trait::async_trait]
impl ObjectStore for DisturbedStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let kind = if options.mode == PutMode::Create { "create" } else { "put" };
        let put = || self.inner.put_opts(path, payload.clone(), options.clone());
        let half = async || {
            // As the file system leaves it: a file beside the final one.
            let parts = LocalParts { part_bytes: u64::MAX };
            if self.local
                && let Ok(id) = parts.create_multipart(path).await
            {
                let _killed_anyway = parts.put_part(path, &id, 0, half_of(&payload)).await;
            }
        };
        self.disturbance.change(kind, path, put, half).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let begin = || self.inner.put_multipart_opts(path, options.clone());
        let inner = self.disturbance.change("begin", path, begin, async || ()).await?;
        let inner = Arc::new(Mutex::new(inner));
        Ok(Box::new(DisturbedUpload { disturbance: self.disturbance.clone(), inner, path: path.clone() }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.disturbance.look()?;
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (disturbance, inner) = (self.disturbance.clone(), self.inner.clone());
        let delete = move |path: Path| {
            let (disturbance, inner) = (disturbance.clone(), inner.clone());
            async move {
                disturbance.change("delete", &path, || inner.delete(&path), async || ()).await?;
                Ok(path)
            }
        };
        paths.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.disturbance.look() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.disturbance.look()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copy = || self.inner.copy_opts(from, to, options.clone());
        self.disturbance.change("copy", to, copy, async || ()).await
    }
}

/// An upload whose parts have no numbers of their own.
#[derive(Debug)]
struct DisturbedUpload {
    disturbance: Disturbance,
    inner: Arc<Mutex<Box<dyn MultipartUpload>>>,
    path: Path,
}

#[async_trait::async_trait]
impl MultipartUpload for DisturbedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (disturbance, inner, path) = (self.disturbance.clone(), self.inner.clone(), self.path.clone());
        // The part takes its place among the others now; it is sent once.
        let sent = match inner.try_lock() {
            Ok(mut inner) => inner.put_part(data),
            Err(_) => return Box::pin(async { Err(super::failed("planted: the upload is ending")) }),
        };
        let sent = Arc::new(Mutex::new(Some(sent)));
        Box::pin(async move {
            let send = || async {
                let sent = sent.lock().await.take();
                match sent {
                    Some(sent) => sent.await,
                    None => Ok(()),
                }
            };
            disturbance.change("part", &path, send, async || ()).await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let complete = || async { self.inner.lock().await.complete().await };
        self.disturbance.change("complete", &self.path, complete, async || ()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let abort = || async { self.inner.lock().await.abort().await };
        self.disturbance.change("abort", &self.path, abort, async || ()).await
    }
}

/// Parts with numbers.
pub(super) struct DisturbedParts {
    pub(super) disturbance: Disturbance,
    pub(super) inner: Arc<dyn MultipartStore>,
    pub(super) local: bool,
}

#[async_trait::async_trait]
impl MultipartStore for DisturbedParts {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        let begin = || self.inner.create_multipart(path);
        self.disturbance.change("begin", path, begin, async || ()).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, part_idx: usize, data: PutPayload) -> Result<PartId> {
        let put = || self.inner.put_part(path, id, part_idx, data.clone());
        let half = async || {
            if self.local {
                let _killed_anyway = self.inner.put_part(path, id, part_idx, half_of(&data)).await;
            }
        };
        self.disturbance.change("part", path, put, half).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        let complete = || self.inner.complete_multipart(path, id, parts.clone());
        self.disturbance.change("complete", path, complete, async || ()).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        let abort = || self.inner.abort_multipart(path, id);
        self.disturbance.change("abort", path, abort, async || ()).await
    }
}
