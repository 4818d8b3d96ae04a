//! A file that grows: one launch's part of the metrics, on a path or in an object store.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use data_pipeline::store::Location;

use crate::error::{Result, TrainerError};
use crate::storage::{Storage, local_path};

/// Least time between two uploads of a segment, so that a long run does not send its history at every report: 10,000
/// records are 3 MB.
const UPLOAD_EVERY: Duration = Duration::from_secs(30);

/// A growing file. On a path, bytes are appended; what a full disk does not take stays in memory until it does. Objects
/// cannot be appended: there the segment is held in memory and sent as a whole, at most every 30 s and when it is finished
/// or dropped. A killed process loses what was not sent.
#[derive(Debug)]
pub struct SegmentFile {
    uri: String,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Local(Appended),
    Remote(Box<Upload>),
}

/// A file on a path, and what is not in it yet.
#[derive(Debug)]
struct Appended {
    file: File,
    unwritten: Vec<u8>,
}

impl Appended {
    fn flush(&mut self) -> std::io::Result<()> {
        while !self.unwritten.is_empty() {
            match self.file.write(&self.unwritten) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => _ = self.unwritten.drain(..written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A segment on its way to an object store.
#[derive(Debug)]
struct Upload {
    storage: Storage,
    name: String,
    bytes: Vec<u8>,
    unsent: bool,
    tried: Option<Instant>,
}

impl Upload {
    fn send(&mut self) -> Result<()> {
        if self.unsent {
            self.tried = Some(Instant::now());
            self.storage.write(&self.name, Bytes::from(self.bytes.clone()))?;
            self.unsent = false;
        }
        Ok(())
    }
}

impl SegmentFile {
    /// A new segment called `name`, which may hold folders, below `output`. What is there already stays in front.
    ///
    /// # Errors
    /// [`TrainerError::File`] on a path; [`TrainerError::Store`] elsewhere.
    pub fn create(output: &Location, name: &str) -> Result<Self> {
        let place = output.child(name);
        let uri = place.uri().to_owned();
        let Some(path) = local_path(&place) else {
            let storage = Storage::at(output.clone())?;
            let bytes = storage.read(name)?.map(|bytes| bytes.to_vec()).unwrap_or_default();
            let upload = Upload { storage, name: name.to_owned(), bytes, unsent: false, tried: None };
            return Ok(Self { uri, target: Target::Remote(Box::new(upload)) });
        };
        let failed = |source| TrainerError::File { path: uri.clone(), action: "create", source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = File::options().append(true).create(true).open(&path).map_err(failed)?;
        Ok(Self { target: Target::Local(Appended { file, unwritten: Vec::new() }), uri })
    }

    /// Adds bytes; they stay in memory until [`Self::flush`].
    pub fn append(&mut self, more: &[u8]) {
        match &mut self.target {
            Target::Local(file) => file.unwritten.extend_from_slice(more),
            Target::Remote(upload) => {
                upload.bytes.extend_from_slice(more);
                upload.unsent = true;
            }
        }
    }

    /// Makes everything so far visible to readers; in an object store only when the last try is 30 s ago.
    ///
    /// # Errors
    /// [`TrainerError::File`] on a path, [`TrainerError::Store`] elsewhere; a later flush tries again.
    pub fn flush(&mut self) -> Result<()> {
        match &mut self.target {
            Target::Remote(upload) if upload.tried.is_none_or(|tried| tried.elapsed() >= UPLOAD_EVERY) => upload.send(),
            Target::Remote(_) => Ok(()),
            Target::Local(_) => self.finish(),
        }
    }

    /// Makes everything visible now.
    ///
    /// # Errors
    /// [`TrainerError::File`] on a path, [`TrainerError::Store`] elsewhere.
    pub fn finish(&mut self) -> Result<()> {
        match &mut self.target {
            Target::Local(file) => file.flush().map_err(|source| self.failed(source)),
            Target::Remote(upload) => upload.send(),
        }
    }

    /// Whether an error of a flush may heal by itself, so that a later flush has everything: a store that does not answer, a
    /// disk that is full.
    pub fn may_heal(error: &TrainerError) -> bool {
        match error {
            TrainerError::Store(_) => true,
            TrainerError::File { source, .. } => {
                matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }

    fn failed(&self, source: std::io::Error) -> TrainerError {
        TrainerError::File { path: self.uri.clone(), action: "write", source }
    }
}

impl Drop for SegmentFile {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // Whoever wants to know calls finish.
            let _last_try = self.finish();
        }
    }
}
