//! Parts of files on this machine's file system: they are written into a file beside the final one, which gets the
//! final name when it is complete and on the disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path as FilePath, PathBuf};

use object_store::local::LocalFileSystem;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{MultipartId, PutPayload, PutResult, Result};

/// Writes files in parts of one size. The file that grows is called like the final one with `#` and a number behind
/// it: listings leave out such names, and the folder's removal takes them with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalParts {
    pub(super) part_bytes: u64,
}

fn failed(source: io::Error, path: &FilePath) -> object_store::Error {
    let path = path.display().to_string();
    match source.kind() {
        io::ErrorKind::NotFound => object_store::Error::NotFound { path, source: source.into() },
        _ => object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(Named { path, source }) },
    }
}

/// An input or output error with the file that it is about.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
struct Named {
    path: String,
    #[source]
    source: io::Error,
}

fn target(path: &Path) -> Result<PathBuf> {
    LocalFileSystem::new().path_to_filesystem(path)
}

fn staging(target: &FilePath, id: &str) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push("#");
    name.push(id);
    name.into()
}

/// Makes the folders above `path` and puts their names on the disk.
fn make_folders(path: &FilePath) -> io::Result<()> {
    let Some(folder) = path.parent().filter(|folder| !folder.exists()) else { return Ok(()) };
    make_folders(folder)?;
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_folder_of(folder),
    }
}

fn sync_folder_of(path: &FilePath) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// A new file beside `target`, and the number in its name.
fn stage(target: &FilePath) -> io::Result<String> {
    make_folders(target)?;
    let mut number = 1_u64;
    loop {
        let id = number.to_string();
        match OpenOptions::new().write(true).create_new(true).open(staging(target, &id)) {
            Ok(_) => return Ok(id),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Gives the staged file its name; both are on the disk when this returns.
fn publish(staged: &FilePath, target: &FilePath) -> io::Result<()> {
    let file = File::open(staged)?;
    if let Err(error) = file.sync_all() {
        // The kernel may have dropped what it could not write: only writing everything anew makes the file whole.
        let _gone_already = std::fs::remove_file(staged);
        return Err(error);
    }
    std::fs::rename(staged, target)?;
    sync_folder_of(target)
}

/// Runs what waits for the disk outside of the thread that serves the others.
async fn off<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

#[async_trait::async_trait]
impl MultipartStore for LocalParts {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        let target = target(path)?;
        off(move || stage(&target).map_err(|source| failed(source, &target))).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, part_idx: usize, data: PutPayload) -> Result<PartId> {
        let staged = staging(&target(path)?, id);
        let mut at = part_idx as u64 * self.part_bytes;
        off(move || {
            let mut write = || -> io::Result<()> {
                let file = OpenOptions::new().write(true).open(&staged)?;
                for piece in data.iter() {
                    file.write_all_at(piece, at)?;
                    at += piece.len() as u64;
                }
                Ok(())
            };
            write().map_err(|source| failed(source, &staged))?;
            Ok(PartId { content_id: String::new() })
        })
        .await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, _parts: Vec<PartId>) -> Result<PutResult> {
        let target = target(path)?;
        let staged = staging(&target, id);
        off(move || publish(&staged, &target).map_err(|source| failed(source, &staged))).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        let staged = staging(&target(path)?, id);
        off(move || std::fs::remove_file(&staged).map_err(|source| failed(source, &staged))).await
    }
}
