//! A checkpoint that was opened, and the pieces of it that somebody wants: read by ranges and verified part by part.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::manifest::{MANIFEST, Manifest, sha256};
use super::snapshot::{About, NamedArray, Snapshot};
use crate::error::{Result, TrainerError};
use crate::storage::{Hashed, Storage};

/// A checkpoint whose manifest was read and verified.
#[derive(Clone, Debug)]
pub struct Stored {
    storage: Arc<Storage>,
    folder: String,
    manifest: Manifest,
}

/// A range of the flat space, each value as four bytes, the lowest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlatRange {
    /// The range, counted in values.
    pub values: Range<usize>,
    /// Trained values; 0 between tensors.
    pub weights: Vec<u8>,
    /// First moments.
    pub exp_avg: Vec<u8>,
    /// Second moments.
    pub exp_avg_sq: Vec<u8>,
}

/// Bytes of a file, and where they go.
struct Wanted<'a> {
    at: u64,
    into: &'a mut [u8],
}

impl Stored {
    /// Opens the checkpoint in `folder`; with `manifest_sha256` the manifest is verified too.
    ///
    /// # Errors
    /// [`TrainerError::BadCheckpoint`], and errors of the store.
    pub(super) fn open(storage: &Arc<Storage>, folder: &str, manifest_sha256: Option<&str>) -> Result<Self> {
        let name = join(folder, MANIFEST);
        let bad = |reason: String| TrainerError::BadCheckpoint { uri: storage.uri(&name), reason };
        let bytes = storage.read(&name)?.ok_or_else(|| bad("the manifest is missing".into()))?;
        if let Some(expected) = manifest_sha256 {
            let found = sha256(&bytes);
            if found != expected {
                return Err(bad(format!("found sha256 {found}, expected {expected}: the file was changed or damaged")));
            }
        }
        let manifest = Manifest::read(&bytes, storage, folder)?.map_err(bad)?;
        let stored = Self { storage: storage.clone(), folder: folder.to_owned(), manifest };
        // Nothing is read of these later.
        for (name, file) in stored.manifest.files.iter().filter(|(name, _)| !name.ends_with(".safetensors")) {
            stored.read_parts(name, file, 0..file.parts.len(), &mut |_, _| {})?;
        }
        Ok(stored)
    }

    /// The checkpoint's own URI.
    pub fn uri(&self) -> String {
        self.storage.uri(&self.folder)
    }

    /// What is known of the state.
    pub fn about(&self) -> &About {
        &self.manifest.about
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Names and sizes of its files, the manifest not counted.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.manifest.files.iter().map(|(name, file)| (name.as_str(), file.size))
    }

    /// Every trained tensor, in the order of the segments.
    ///
    /// # Errors
    /// [`TrainerError::BadCheckpoint`] names the file and the place that does not verify; errors of the store.
    pub fn trainable(&self) -> Result<Vec<NamedArray>> {
        let records: BTreeMap<&str, _> = self.manifest.trainable.iter().map(|it| (it.name.as_str(), it)).collect();
        let segments = &self.about().segments;
        let mut bytes: Vec<Vec<u8>> = segments.iter().map(|segment| vec![0; 4 * segment.len()]).collect();
        let mut wanted = Plan::default();
        for (segment, into) in segments.iter().zip(&mut bytes) {
            let record = records[segment.name.as_str()];
            wanted.add(&record.file, record.at, into);
        }
        self.fetch(wanted)?;
        let array = |(segment, bytes): (&super::Segment, &Vec<u8>)| NamedArray {
            name: segment.name.clone(),
            shape: segment.shape.clone(),
            values: floats(bytes),
        };
        Ok(segments.iter().zip(&bytes).map(array).collect())
    }

    /// A range of the flat space, whoever wrote it. No more is read than the parts of the files that hold it.
    ///
    /// # Errors
    /// As [`Self::trainable`].
    ///
    /// # Panics
    /// When the range ends behind the flat space.
    pub fn flat(&self, values: Range<usize>) -> Result<FlatRange> {
        assert!(values.end <= self.about().flat_len, "a range of the flat space lies in it");
        let empty = || vec![0; 4 * values.len()];
        let (mut weights, mut exp_avg, mut exp_avg_sq) = (empty(), empty(), empty());
        let mut wanted = Plan::default();
        let records: BTreeMap<&str, _> = self.manifest.trainable.iter().map(|it| (it.name.as_str(), it)).collect();
        let mut rest = Pieces { first: values.start, bytes: &mut weights };
        let mut segments: Vec<_> = self.about().segments.iter().collect();
        segments.sort_by_key(|segment| segment.offset);
        for segment in segments {
            let lies = segment.offset..segment.offset + segment.len();
            if let Some((skipped, into)) = rest.take(&lies) {
                let record = records[segment.name.as_str()];
                wanted.add(&record.file, record.at + 4 * skipped as u64, into);
            }
        }
        let mut moments: Vec<_> = self.manifest.moments.iter().collect();
        moments.sort_by_key(|it| it.first);
        let mut first_moments = Pieces { first: values.start, bytes: &mut exp_avg };
        let mut second_moments = Pieces { first: values.start, bytes: &mut exp_avg_sq };
        for record in moments {
            let lies = record.first..record.first + record.len;
            for (rest, at) in [(&mut first_moments, record.exp_avg), (&mut second_moments, record.exp_avg_sq)] {
                if let Some((skipped, into)) = rest.take(&lies) {
                    wanted.add(&record.file, at + 4 * skipped as u64, into);
                }
            }
        }
        self.fetch(wanted)?;
        Ok(FlatRange { values, weights, exp_avg, exp_avg_sq })
    }

    /// The whole state.
    ///
    /// # Errors
    /// As [`Self::trainable`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        let trainable = self.trainable()?;
        let flat = self.flat(0..self.about().flat_len)?;
        let (exp_avg, exp_avg_sq) = (floats(&flat.exp_avg), floats(&flat.exp_avg_sq));
        Ok(Snapshot { about: self.about().clone(), trainable, exp_avg, exp_avg_sq })
    }

    /// Reads and verifies every byte of every file. The answer has a reason for each file that does not verify.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn verify(&self) -> Result<Vec<String>> {
        let mut reasons = Vec::new();
        for (name, file) in &self.manifest.files {
            match self.read_parts(name, file, 0..file.parts.len(), &mut |_, _| {}) {
                Ok(()) => {}
                Err(TrainerError::BadCheckpoint { uri, reason }) => reasons.push(format!("{uri}: {reason}")),
                Err(error) => return Err(error),
            }
        }
        Ok(reasons)
    }

    fn read_parts(
        &self,
        name: &str,
        file: &Hashed,
        parts: Range<usize>,
        sink: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<()> {
        self.storage.read_parts(&join(&self.folder, name), file, parts, sink)
    }

    /// Reads what is wanted, file by file, in whole parts.
    fn fetch(&self, plan: Plan<'_>) -> Result<()> {
        for (name, mut wanted) in plan.files {
            let file = &self.manifest.files[&name];
            wanted.retain(|it| !it.into.is_empty());
            wanted.sort_by_key(|it| it.at);
            // Runs of parts that are wanted one after the other.
            let mut runs: Vec<Range<u64>> = Vec::new();
            for it in &wanted {
                let parts = it.at / file.part_bytes..(it.at + it.into.len() as u64).div_ceil(file.part_bytes);
                match runs.last_mut() {
                    Some(run) if parts.start <= run.end => run.end = run.end.max(parts.end),
                    _ => runs.push(parts),
                }
            }
            for run in runs {
                let parts = run.start as usize..run.end as usize;
                self.read_parts(&name, file, parts, &mut |at, bytes| scatter(&mut wanted, at, bytes))?;
            }
        }
        Ok(())
    }
}

/// What is wanted of each file.
#[derive(Default)]
struct Plan<'a> {
    files: BTreeMap<String, Vec<Wanted<'a>>>,
}

impl<'a> Plan<'a> {
    fn add(&mut self, file: &str, at: u64, into: &'a mut [u8]) {
        self.files.entry(file.to_owned()).or_default().push(Wanted { at, into });
    }
}

/// What is left of the bytes of a range of the flat space.
struct Pieces<'a> {
    /// The first value that is left.
    first: usize,
    bytes: &'a mut [u8],
}

impl<'a> Pieces<'a> {
    /// Splits off the bytes of what lies in both ranges, and says how many values of the other one are before that. The
    /// others come in ascending order.
    fn take(&mut self, other: &Range<usize>) -> Option<(usize, &'a mut [u8])> {
        let end = self.first + self.bytes.len() / 4;
        let both = self.first.max(other.start)..end.min(other.end);
        if both.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.bytes);
        let (_, bytes) = bytes.split_at_mut(4 * (both.start - self.first));
        let (taken, rest) = bytes.split_at_mut(4 * both.len());
        (self.first, self.bytes) = (both.end, rest);
        Some((both.start - other.start, taken))
    }
}

/// Copies what is wanted of `bytes`, which lie at `at` of the file.
fn scatter(wanted: &mut [Wanted<'_>], at: u64, bytes: &[u8]) {
    let end = at + bytes.len() as u64;
    for it in wanted.iter_mut() {
        let (from, to) = (it.at.max(at), (it.at + it.into.len() as u64).min(end));
        if from < to {
            let piece = &bytes[(from - at) as usize..(to - at) as usize];
            it.into[(from - it.at) as usize..][..piece.len()].copy_from_slice(piece);
        }
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|quad| f32::from_le_bytes(*quad)).collect()
}

/// A name in a folder, or the name by itself.
fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}
