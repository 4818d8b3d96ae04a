//! Standard error of a rank as a file of its own, which is followed from within.
//!
//! What the rank and its libraries write stays in the file whatever becomes of the process.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Files that are kept besides the one that is written: `rank-0.log.1` is the newest of them.
const KEPT: usize = 2;
/// Bytes that are read at a time.
const CHUNK: u64 = 64 << 10;

/// The file.
pub struct RankLog {
    path: PathBuf,
    reader: File,
    read: u64,
    max_bytes: u64,
    /// A last line without its end.
    begun: Vec<u8>,
}

impl RankLog {
    /// Has standard error lead to `rank-<rank>.log` in a folder, behind what earlier launches wrote. A file of more than
    /// `max_bytes` makes room for a new one.
    pub fn open(folder: &Path, rank: usize, max_bytes: u64) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(format!("rank-{rank}.log"));
        let reader = redirect(&path)?;
        let read = reader.metadata().map(|meta| meta.len()).unwrap_or(0);
        Ok(Self { path, reader, read, max_bytes, begun: Vec::new() })
    }

    /// Where in the file the lines end that were given out.
    pub fn offset(&self) -> u64 {
        self.read - self.begun.len() as u64
    }

    /// Whole lines that were written since the last call.
    pub fn new_lines(&mut self) -> Vec<String> {
        let mut bytes = std::mem::take(&mut self.begun);
        let before = bytes.len();
        let at = self.reader.seek(SeekFrom::Start(self.read));
        if at.and_then(|_| (&mut self.reader).take(CHUNK).read_to_end(&mut bytes)).is_err() {
            bytes.truncate(before);
        }
        self.read += (bytes.len() - before) as u64;
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.begun = bytes.split_off(end);
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }

    /// Begins a new file when this one is too long and everything in it was given out.
    pub fn rotate_if_long(&mut self) {
        let len = self.reader.metadata().map(|meta| meta.len()).unwrap_or(0);
        if len <= self.max_bytes || len > self.read {
            return;
        }
        let old = |number: usize| self.path.with_extension(format!("log.{number}"));
        for number in (1..KEPT).rev() {
            let _absent = std::fs::rename(old(number), old(number + 1));
        }
        // A file that cannot be moved is written on.
        if std::fs::rename(&self.path, old(1)).is_ok()
            && let Ok(reader) = redirect(&self.path)
        {
            (self.reader, self.read) = (reader, 0);
            self.begun.clear();
        }
    }
}

/// Has standard error lead to a file, and opens the file for reading.
fn redirect(path: &Path) -> Result<File> {
    let open = |options: &mut OpenOptions| {
        options.open(path).with_context(|| format!("cannot open the rank's log {}", path.display()))
    };
    let file = open(OpenOptions::new().create(true).append(true))?;
    let reader = open(OpenOptions::new().read(true))?;
    rustix::stdio::dup2_stderr(&file).context("cannot lead standard error to the rank's log")?;
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_are_kept_and_given_out_and_a_long_file_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let before = rustix::io::dup(rustix::stdio::stderr()).unwrap();
        let mut log = RankLog::open(folder.path(), 3, 20).unwrap();
        std::io::stderr().write_all(b"one\ntw").unwrap();
        let first = (log.new_lines(), log.offset());
        log.rotate_if_long();
        std::io::stderr().write_all(b"o and some more text\n").unwrap();
        let second = log.new_lines();
        log.rotate_if_long();
        std::io::stderr().write_all(b"three\n").unwrap();
        let third = log.new_lines();
        rustix::stdio::dup2_stderr(&before).unwrap();
        assert_eq!((first.0, first.1), (vec!["one".to_owned()], 4));
        assert_eq!((second, third), (vec!["two and some more text".to_owned()], vec!["three".to_owned()]));
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("rank-3.log.1"), "one\ntwo and some more text\n");
        assert_eq!(read("rank-3.log"), "three\n");
    }
}
