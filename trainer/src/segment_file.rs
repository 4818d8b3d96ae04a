//! A file that grows: one launch's part of the metrics, on a path or in an object store.

use std::fs::File;
use std::io::{BufWriter, Write};

use bytes::Bytes;
use data_pipeline::store::Location;

use crate::error::{Result, TrainerError};
use crate::storage::{Storage, local_path};

/// A growing file. On a path, bytes are appended. Objects cannot be appended: there the segment is held in memory and
/// written as a whole at every flush, so it should be flushed seldom (a record has some 300 bytes: 10,000 records are
/// 3 MB per upload).
#[derive(Debug)]
pub struct SegmentFile {
    uri: String,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Local(BufWriter<File>),
    Remote { storage: Storage, name: String, bytes: Vec<u8>, unsent: bool },
}

impl SegmentFile {
    /// A new segment called `name`, which may hold folders, below `output`. What is there already stays in front.
    ///
    /// # Errors
    /// [`TrainerError::File`] on a path; [`TrainerError::Store`] for an unusable URI.
    pub fn create(output: &str, name: &str) -> Result<Self> {
        let root = Location::parse(output)?;
        let place = root.child(name);
        let uri = place.uri().to_owned();
        let Some(path) = local_path(&place) else {
            let storage = Storage::at(root)?;
            let bytes = storage.read(name)?.map(|bytes| bytes.to_vec()).unwrap_or_default();
            let target = Target::Remote { storage, name: name.to_owned(), bytes, unsent: false };
            return Ok(Self { uri, target });
        };
        let failed = |source| TrainerError::File { path: uri.clone(), action: "create", source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = File::options().append(true).create(true).open(&path).map_err(failed)?;
        Ok(Self { target: Target::Local(BufWriter::new(file)), uri })
    }

    /// Adds bytes; they may stay in memory until [`Self::flush`].
    ///
    /// # Errors
    /// [`TrainerError::File`].
    pub fn append(&mut self, more: &[u8]) -> Result<()> {
        match &mut self.target {
            Target::Local(file) => file.write_all(more).map_err(|source| self.failed(source)),
            Target::Remote { bytes, unsent, .. } => {
                bytes.extend_from_slice(more);
                *unsent = true;
                Ok(())
            }
        }
    }

    /// Makes everything so far visible to readers. After an error the next flush tries again.
    ///
    /// # Errors
    /// [`TrainerError::File`] on a path, [`TrainerError::Store`] elsewhere.
    pub fn flush(&mut self) -> Result<()> {
        match &mut self.target {
            Target::Local(file) => file.flush().map_err(|source| self.failed(source)),
            Target::Remote { unsent: false, .. } => Ok(()),
            Target::Remote { storage, name, bytes, unsent } => {
                storage.write(name, Bytes::from(bytes.clone()))?;
                *unsent = false;
                Ok(())
            }
        }
    }

    fn failed(&self, source: std::io::Error) -> TrainerError {
        TrainerError::File { path: self.uri.clone(), action: "write", source }
    }
}
