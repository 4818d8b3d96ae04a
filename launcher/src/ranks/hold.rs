//! One launcher per run, and the ranks that an earlier one left behind.
//!
//! A run in a local folder has `launch/`: `lock`, which the launcher that holds the run keeps locked (the system lets
//! go of it however the launcher ends), and `rank-<r>.pid`, which each rank writes.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;

use super::process;

/// Time that a rank of an earlier launch gets to end by itself.
const GRACE: Duration = Duration::from_secs(5);
/// The system keeps this much of a program's name.
const NAME_BYTES: usize = 15;

/// Another launcher holds the run.
#[derive(Debug, thiserror::Error)]
#[error(
    "{folder}: another blip2 holds this run (process {holder}); expected none. Wait for it or end it, or give this run \
     another run.output"
)]
pub struct Held {
    folder: String,
    holder: String,
}

/// What a rank writes about itself.
#[derive(Debug, Deserialize)]
struct RankNote {
    pid: u32,
    start_ticks: u64,
}

/// The run is this launcher's until this value is dropped.
#[derive(Debug)]
pub struct Hold {
    folder: PathBuf,
    _lock: File,
}

impl Hold {
    /// Takes the run whose output is this folder, which is made if absent.
    ///
    /// # Errors
    /// [`Held`] when another launcher has it; a folder that cannot be written to.
    pub fn take(output: &Path) -> anyhow::Result<Self> {
        let folder = std::path::absolute(output.join("launch"))?;
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let path = folder.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // The number is for the message alone.
                let _unreadable = lock.read_to_string(&mut holder);
                return Err(Held { folder: output.display().to_string(), holder: holder.trim().to_owned() }.into());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{}", std::process::id())?;
        Ok(Self { folder, _lock: lock })
    }

    /// The folder into which ranks write their process ids.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends the ranks that the notes name and that still run, and removes the notes. Returns how many there were.
    ///
    /// A process counts as such a rank when its id, its start time and its program's name are as noted.
    ///
    /// # Errors
    /// A note that cannot be removed.
    pub fn end_ranks(&self, rank_program: &Path) -> anyhow::Result<usize> {
        let (mut alive, mut notes) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if !(name.starts_with("rank-") && name.ends_with(".pid")) {
                continue;
            }
            // A rank that died while it wrote left half a note and no process.
            let note: Option<RankNote> = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
            alive.extend(note.filter(|note| is_rank(note, rank_program)).map(|note| (note.pid, note.start_ticks)));
            notes.push(path);
        }
        process::end(&alive, GRACE);
        for note in notes {
            std::fs::remove_file(&note).with_context(|| format!("cannot remove {}", note.display()))?;
        }
        Ok(alive.len())
    }
}

/// Whether the launcher that wrote its id into the lock of the run in this folder is alive on this machine. The lock itself is
/// left alone: a launch that begins at this moment would find it taken.
pub fn launcher_alive(output: &Path) -> bool {
    let holder = std::fs::read_to_string(output.join("launch/lock")).ok().and_then(|text| text.trim().parse().ok());
    holder.and_then(process::stat).is_some_and(|found| !found.ended && found.name == "blip2")
}

fn is_rank(note: &RankNote, rank_program: &Path) -> bool {
    let named = rank_program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    process::stat(note.pid).is_some_and(|found| {
        let same_name = |name: &str| found.name.as_bytes() == &name.as_bytes()[..name.len().min(NAME_BYTES)];
        found.start_ticks == note.start_ticks && !found.ended && (same_name("blip2-rank") || same_name(&named))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_one_holder_at_a_time() {
        let folder = std::env::temp_dir().join(format!("blip2-hold-{}", std::process::id()));
        let first = Hold::take(&folder).unwrap();
        let error = Hold::take(&folder).unwrap_err();
        assert!(error.is::<Held>(), "{error}");
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(first);
        let again = Hold::take(&folder).unwrap();
        // Notes of processes that are no ranks, or no notes at all, end nobody.
        let own = process::stat(std::process::id()).unwrap();
        let note = format!("{{\"pid\":{},\"start_ticks\":{}}}", std::process::id(), own.start_ticks);
        std::fs::write(again.folder().join("rank-0.pid"), note).unwrap();
        std::fs::write(again.folder().join("rank-1.pid"), "{\"pi").unwrap();
        assert_eq!(again.end_ranks(Path::new("some/blip2-rank")).unwrap(), 0);
        assert!(!again.folder().join("rank-0.pid").exists());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
