//! A folder in any object store, for one thread at a time: whole objects, put-if-absent, listings.

mod disturbed;
#[cfg(test)]
pub(crate) mod faulty_store;
mod local_parts;
mod parts;
mod patience;
mod probe;
#[cfg(test)]
mod tests;
mod verified;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use data_pipeline::error::DataError;
use data_pipeline::store::Location;
use futures::{StreamExt, TryStreamExt};
use object_store::multipart::MultipartStore;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload, PutResult, WriteMultipart};

use tokio::runtime::{Builder, Runtime};

use crate::error::{Result, TrainerError};
use disturbed::Disturbance;
use local_parts::LocalParts;
pub use parts::{Content, Hashed};
pub use patience::Patience;

/// Objects above this size are sent and fetched in parts of it. A request must end within the store's request timeout
/// (10 s), so a part has to pass at 1.6 MB/s; S3 allows 10,000 parts, so an object may have 156 GiB.
pub(crate) const PART: u64 = 16 << 20;
/// Parts, or small objects, on their way at once.
pub(crate) const AT_ONCE: usize = 8;
/// Times that an object is asked to go, as half of a checkpoint that stays looks like damage.
const DELETE_TRIES: u32 = 4;

/// Whether an object that must not exist yet was written.
#[derive(Debug, PartialEq, Eq)]
pub enum Created {
    /// It was written.
    Written,
    /// An object of this name exists.
    Taken,
}

/// An object that is being written.
pub(crate) struct Upload<'s> {
    storage: &'s Storage,
    place: Location,
    parts: WriteMultipart,
}

impl Upload<'_> {
    /// Adds bytes behind the others.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.storage
            .runtime
            .block_on(async {
                for piece in bytes.chunks(PART as usize) {
                    self.parts.wait_for_capacity(AT_ONCE).await?;
                    self.parts.write(piece);
                }
                Ok(())
            })
            .map_err(|source| self.place.error("write", source).into())
    }

    /// Makes the object appear.
    pub(crate) fn finish(self) -> Result<()> {
        let Self { storage, place, parts } = self;
        storage.runtime.block_on(parts.finish()).map(drop).map_err(|source| place.error("write", source).into())
    }
}

/// The folder of a run. Blocks: not for use inside an asynchronous task.
#[derive(Debug)]
pub struct Storage {
    root: Location,
    runtime: &'static Runtime,
    /// Bytes of the parts of hashed objects; larger for those that would have too many.
    part_bytes: u64,
    disturbance: Option<Disturbance>,
}

impl Storage {
    /// The folder at `root`. Opens no connection.
    ///
    /// For tests, `BLIP2_TEST_PART_BYTES` makes the parts of hashed objects smaller, and `BLIP2_TEST_STORE` disturbs
    /// all calls.
    ///
    /// # Errors
    /// [`TrainerError::Runtime`], [`TrainerError::Setting`] when `BLIP2_TEST_STORE` says nothing that is known.
    pub fn at(mut root: Location) -> Result<Self> {
        let runtime = runtime()?;
        let disturbance = Disturbance::from_environment()?;
        if let Some(disturbance) = &disturbance {
            root = disturbance.around(root);
        }
        let part_bytes = std::env::var("BLIP2_TEST_PART_BYTES").ok().and_then(|text| text.parse().ok());
        Ok(Self { root, runtime, part_bytes: part_bytes.unwrap_or(PART).max(1), disturbance })
    }

    /// The same folder with connections of its own, for another thread.
    ///
    /// # Errors
    /// [`TrainerError::Runtime`].
    pub(crate) fn again(&self) -> Result<Self> {
        let runtime = runtime()?;
        Ok(Self {
            root: self.root.clone(),
            runtime,
            part_bytes: self.part_bytes,
            disturbance: self.disturbance.clone(),
        })
    }

    /// The same with parts of another size, for tests.
    #[cfg(test)]
    pub(crate) fn with_parts_of(mut self, bytes: u64) -> Self {
        self.part_bytes = bytes;
        self
    }

    /// What sends parts of `part_bytes`, where the store can do that.
    fn parts(&self, part_bytes: u64) -> Option<Arc<dyn MultipartStore>> {
        if local_path(&self.root).is_none() {
            return self.root.parts.clone();
        }
        let parts = Arc::new(LocalParts { part_bytes });
        Some(match &self.disturbance {
            Some(disturbance) => disturbance.around_parts(parts),
            None => parts,
        })
    }

    /// The place of something in the folder.
    #[cfg(test)]
    pub(crate) fn place(&self, name: &str) -> Location {
        self.root.child(name)
    }

    /// The URI of the folder itself, or of something in it.
    pub(crate) fn uri(&self, name: &str) -> String {
        if name.is_empty() { self.root.uri().to_owned() } else { self.root.child(name).uri().to_owned() }
    }

    /// The whole object, or `None` when there is none.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Bytes>> {
        self.runtime.block_on(read(&self.root.child(name)))
    }

    /// Several small objects, in the order of their names; `None` for each that is absent.
    pub(crate) fn read_all(&self, names: &[String]) -> Result<Vec<Option<Bytes>>> {
        let places: Vec<Location> = names.iter().map(|name| self.root.child(name)).collect();
        self.runtime.block_on(futures::stream::iter(&places).map(read).buffered(AT_ONCE).try_collect())
    }

    /// The object's size in bytes, or `None` when there is none.
    pub fn size(&self, name: &str) -> Result<Option<u64>> {
        let place = self.root.child(name);
        match self.runtime.block_on(place.store.head(&place.path)) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(place.error("read", source).into()),
        }
    }

    /// Some bytes of an object that has them, fetched in parts.
    pub fn read_range(&self, name: &str, bytes: Range<u64>) -> Result<Vec<u8>> {
        let place = &self.root.child(name);
        let size = bytes.end.saturating_sub(bytes.start);
        let part = |part: u64| bytes.start + part * PART..bytes.start + ((part + 1) * PART).min(size);
        let ranges = (0..size.div_ceil(PART)).map(part);
        self.runtime.block_on(async {
            let mut parts = futures::stream::iter(ranges)
                .map(|range| async move { place.store.get_range(&place.path, range).await })
                .buffered(AT_ONCE);
            let mut whole = Vec::with_capacity(size as usize);
            while let Some(part) = parts.next().await {
                whole.extend_from_slice(&part.map_err(|source| place.error("read", source))?);
            }
            Ok(whole)
        })
    }

    /// Writes an object: it appears complete or not at all.
    ///
    /// # Errors
    /// [`TrainerError::Store`].
    pub fn write(&self, name: &str, bytes: Bytes) -> Result<()> {
        let place = self.root.child(name);
        if bytes.len() as u64 <= PART {
            return Ok(self.runtime.block_on(place.write(bytes))?);
        }
        let written = self.runtime.block_on(async {
            let upload = place.store.put_multipart(&place.path).await?;
            let mut parts = WriteMultipart::new_with_chunk_size(upload, PART as usize);
            for start in (0..bytes.len()).step_by(PART as usize) {
                parts.wait_for_capacity(AT_ONCE).await?;
                parts.put(bytes.slice(start..(start + PART as usize).min(bytes.len())));
            }
            parts.finish().await
        });
        written.map(drop).map_err(|source| place.error("write", source).into())
    }

    /// Writes a small object, and waits for a store that fails.
    ///
    /// # Errors
    /// As [`Patience::wait_out`].
    pub fn write_patiently(&self, name: &str, bytes: &Bytes, patience: &Patience) -> Result<()> {
        let place = self.root.child(name);
        let put = || place.store.put(&place.path, PutPayload::from(bytes.clone()));
        let put = self.runtime.block_on(patience.wait(&place, put));
        put.map(drop).map_err(|source| place.error("write", source).into())
    }

    /// [`Self::create`] that waits for a store that fails. After a failure, [`Created::Taken`] may mean one's own
    /// object: whoever must know reads it.
    ///
    /// # Errors
    /// As [`Patience::wait_out`].
    pub fn create_patiently(&self, name: &str, bytes: &Bytes, patience: &Patience) -> Result<Created> {
        let place = self.root.child(name);
        created(&place, self.runtime.block_on(patience.wait(&place, || create(&place, bytes))))
    }

    /// Begins an object that is written piece by piece: it appears when it is finished, or not at all.
    pub(crate) fn upload(&self, name: &str) -> Result<Upload<'_>> {
        let place = self.root.child(name);
        let upload = self.runtime.block_on(place.store.put_multipart(&place.path));
        let upload = upload.map_err(|source| place.error("write", source))?;
        let parts = WriteMultipart::new_with_chunk_size(upload, PART as usize);
        Ok(Upload { storage: self, place, parts })
    }

    /// Writes an object only if there is none of this name.
    pub(crate) fn create(&self, name: &str, bytes: Bytes) -> Result<Created> {
        let place = self.root.child(name);
        created(&place, self.runtime.block_on(create(&place, &bytes)))
    }

    /// Names of all objects below a folder, sorted.
    pub(crate) fn list(&self, folder: &str) -> Result<Vec<String>> {
        let place = self.root.child(folder);
        let found = self.runtime.block_on(place.list(""))?;
        let root = self.root.path.as_ref();
        let below = |path: &str| path.strip_prefix(root).unwrap_or(path).trim_start_matches('/').to_owned();
        Ok(found.iter().map(|(at, _)| below(at.path.as_ref())).collect())
    }

    /// Names of all objects below a folder, or the name itself where it is an object; sorted.
    pub(crate) fn list_or_object(&self, name: &str) -> Result<Vec<String>> {
        let below = self.list(name)?;
        if below.is_empty() && self.size(name)?.is_some() { Ok(vec![name.to_owned()]) } else { Ok(below) }
    }

    /// Moves an object, over what may be at its new place; in object stores by a copy first. One that is gone was moved
    /// before.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (place, to) = (self.root.child(from), self.root.child(to));
        match self.runtime.block_on(place.store.rename(&place.path, &to.path)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(place.error("move", source).into()),
        }
    }

    /// Names of the folders directly below `folder`, sorted; on a path also of empty ones.
    pub(crate) fn folders(&self, folder: &str) -> Result<Vec<String>> {
        let place = self.root.child(folder);
        match self.runtime.block_on(place.store.list_with_delimiter(Some(&place.path))) {
            Ok(found) => {
                let names = found.common_prefixes.iter().filter_map(|path| path.filename());
                let mut names: Vec<String> = names.map(str::to_owned).collect();
                names.sort();
                Ok(names)
            }
            Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
            Err(source) => Err(place.error("list", source).into()),
        }
    }

    /// Removes a folder with all that is in it; `first` goes first, so that what remains after a crash is no
    /// complete checkpoint.
    pub fn delete_folder(&self, folder: &str, first: &str) -> Result<()> {
        self.delete_objects(folder, first)?;
        self.remove_local_folder(folder);
        Ok(())
    }

    /// Removes everything below the root, and the root itself where it is a folder of this machine; the folder that it lies in
    /// stays.
    pub(crate) fn delete_all(&self, first: &str) -> Result<()> {
        self.delete_objects("", first)?;
        if let Some(path) = local_path(&self.root) {
            let _left_over = std::fs::remove_dir_all(path);
        }
        Ok(())
    }

    fn delete_objects(&self, folder: &str, first: &str) -> Result<()> {
        let mut names = self.list(folder)?;
        names.sort_by_key(|name| !name.ends_with(first));
        for name in names {
            let place = self.root.child(&name);
            let mut tries = 1;
            loop {
                match self.runtime.block_on(place.store.delete(&place.path)) {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => break,
                    // It may be gone and the answer lost.
                    Err(_) if tries < DELETE_TRIES => tries += 1,
                    Err(source) => return Err(place.error("delete", source).into()),
                }
            }
        }
        Ok(())
    }

    /// Removes what object stores do not have: the folder itself, and pieces of interrupted writes.
    pub(crate) fn remove_local_folder(&self, folder: &str) {
        let Some(path) = local_path(&self.root.child(folder)) else { return };
        let remove = || std::fs::remove_dir_all(&path);
        // What stays behind costs some space and is tried again after the next commit.
        let _left_over = match &self.disturbance {
            Some(disturbance) => disturbance.step("remove_folder", folder, remove),
            None => remove(),
        };
        if let Some(parent) = path.parent() {
            let _still_in_use = std::fs::remove_dir(parent);
        }
    }
}

/// What drives the exchanges of all storages of this process. Its thread goes on between calls: clones of a place share the
/// connections of one client, and a connection that nobody drives would leave the next who is given it waiting for ever.
pub(crate) fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let made = Builder::new_multi_thread().worker_threads(1).thread_name("storage").enable_all().build();
    let made = made.map_err(TrainerError::Runtime)?;
    Ok(RUNTIME.get_or_init(|| made))
}

/// The path of a place on this machine's file system, or `None` for another store.
pub(crate) fn local_path(place: &Location) -> Option<std::path::PathBuf> {
    if place.uri().contains("://") && !place.uri().starts_with("file://") {
        return None;
    }
    object_store::local::LocalFileSystem::new().path_to_filesystem(&place.path).ok()
}

async fn read(place: &Location) -> Result<Option<Bytes>> {
    match place.read().await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(DataError::Store { source, .. }) if matches!(*source, object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn create(place: &Location, bytes: &Bytes) -> object_store::Result<PutResult> {
    let payload = PutPayload::from(bytes.clone());
    place.store.put_opts(&place.path, payload, PutOptions::from(PutMode::Create)).await
}

fn created(place: &Location, answer: object_store::Result<PutResult>) -> Result<Created> {
    match answer {
        Ok(_) => Ok(Created::Written),
        Err(object_store::Error::AlreadyExists { .. }) => Ok(Created::Taken),
        Err(source) => Err(place.error("write", source).into()),
    }
}
