//! A batch, its pixels, and the ledger of what was delivered and skipped.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::sample::Sample;
use crate::error::{DataError, Result};

/// Skipped samples that an error message shows.
const EXAMPLES_SHOWN: usize = 5;
/// Bad samples below this count never stop a run, whatever their share: the first batch of a run may be unlucky.
const FEWEST_BAD: u64 = 16;

/// Floats of a cache line.
const LINE: usize = 16;

/// Buffers of one batch's pixels that are used again: fresh pages cost more than the copy they would save.
#[derive(Clone)]
pub(super) struct PixelPool {
    floats: usize,
    free: Arc<Mutex<Vec<Vec<f32>>>>,
}

impl PixelPool {
    pub(super) fn new(floats: usize) -> Self {
        Self { floats, free: Arc::default() }
    }

    pub(super) fn take(&self) -> Pixels {
        let reused = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let buffer = reused.unwrap_or_else(|| vec![0.0; self.floats + LINE]);
        // Vectors that straddle cache lines take twice as long to write.
        let start = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Pixels { buffer, values: start..start + self.floats, free: self.free.clone() }
    }
}

/// Normalised pixels of a batch, `[b, 3, S, S]`, f32, row-major. The buffer goes back to the loader when dropped.
pub struct Pixels {
    buffer: Vec<f32>,
    values: Range<usize>,
    free: Arc<Mutex<Vec<Vec<f32>>>>,
}

impl Deref for Pixels {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.buffer[self.values.clone()]
    }
}

impl DerefMut for Pixels {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[self.values.clone()]
    }
}

impl Drop for Pixels {
    fn drop(&mut self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.buffer));
    }
}

impl std::fmt::Debug for Pixels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pixels({} values)", self.values.len())
    }
}

/// A sample that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Index of the source.
    pub source: usize,
    /// Shard URI, row group and row.
    pub place: String,
    /// A short stable reason, such as `truncated` or `no_caption`.
    pub reason: String,
}

/// One slice of one step.
#[derive(Debug)]
pub struct Batch {
    /// The step.
    pub step: u64,
    /// The slice of the global batch.
    pub slice: u64,
    /// `[b, 3, S, S]`, f32, normalised.
    pub images: Pixels,
    /// One clean caption per image, or the answer to its question.
    pub captions: Vec<String>,
    /// One clean question per image; empty texts where the source has none.
    pub questions: Vec<String>,
    /// img2dataset's keys; empty strings where the shard has none.
    pub keys: Vec<String>,
    /// Number of each sample in the run: its row in its source's catalogue, behind the rows of the sources in front.
    pub samples: Vec<u64>,
    /// Index of each sample's source.
    pub sources: Vec<usize>,
    /// Encoded image bytes of each sample.
    pub encoded_bytes: Vec<u64>,
    /// Samples that were replaced by another row of the same window.
    pub skipped: Vec<Skipped>,
}

impl Batch {
    pub(super) fn empty(step: u64, slice: u64, images: Pixels) -> Self {
        let (captions, questions, keys, samples, sources) = (vec![], vec![], vec![], vec![], vec![]);
        let (encoded_bytes, skipped) = (vec![], vec![]);
        Self { step, slice, images, captions, questions, keys, samples, sources, encoded_bytes, skipped }
    }

    pub(super) fn push(&mut self, sample: Sample) {
        self.captions.push(sample.caption);
        self.questions.push(sample.question);
        self.keys.push(sample.key);
        self.samples.push(sample.id);
        self.sources.push(sample.source);
        self.encoded_bytes.push(sample.encoded_bytes);
        self.skipped.extend(sample.skipped);
    }

    /// Samples of the batch.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether the batch holds no sample.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}

/// What has been delivered and skipped of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceLedger {
    /// Samples delivered.
    pub seen: u64,
    /// Encoded image bytes delivered.
    pub bytes: u64,
    /// Samples replaced by another one, by reason.
    pub skipped: BTreeMap<String, u64>,
}

impl SourceLedger {
    /// Samples replaced by another one.
    pub fn num_skipped(&self) -> u64 {
        self.skipped.values().sum()
    }

    /// Adds what another loader delivered and skipped.
    pub fn add(&mut self, other: &Self) {
        self.seen += other.seen;
        self.bytes += other.bytes;
        for (reason, count) in &other.skipped {
            *self.skipped.entry(reason.clone()).or_default() += count;
        }
    }
}

/// What a loader has delivered and skipped; counts change only when a batch is taken, so they belong to a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The sources in the order of the config.
    pub sources: Vec<SourceLedger>,
    /// The first skipped samples.
    pub examples: Vec<Skipped>,
}

impl Ledger {
    /// All sources together.
    pub fn total(&self) -> SourceLedger {
        let mut total = SourceLedger::default();
        self.sources.iter().for_each(|source| total.add(source));
        total
    }

    pub(super) fn add(&mut self, batch: &Batch) {
        for (source, bytes) in batch.sources.iter().zip(&batch.encoded_bytes) {
            self.sources[*source].seen += 1;
            self.sources[*source].bytes += bytes;
        }
        for skipped in &batch.skipped {
            *self.sources[skipped.source].skipped.entry(skipped.reason.clone()).or_default() += 1;
            if self.examples.len() < EXAMPLES_SHOWN {
                self.examples.push(skipped.clone());
            }
        }
    }

    /// # Errors
    /// [`DataError::TooManyBad`] when more than `limit` of the samples that were tried could not be used.
    pub(super) fn check(&self, limit: f64, list: Option<&str>) -> Result<()> {
        let total = self.total();
        let bad = total.num_skipped();
        let tried = total.seen + bad;
        if bad < FEWEST_BAD || bad as f64 <= limit * tried as f64 {
            return Ok(());
        }
        let reasons: Vec<String> = total.skipped.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        let examples: Vec<String> = self.examples.iter().map(|s| format!("{} ({})", s.place, s.reason)).collect();
        Err(DataError::TooManyBad {
            bad,
            tried,
            reasons: reasons.join(", "),
            limit,
            examples: examples.join("; "),
            list: list.map_or_else(String::new, |list| format!(". The whole list: {list}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(seen: u64, bad: u64) -> Ledger {
        let skipped = BTreeMap::from([("not_an_image".to_owned(), bad)]);
        Ledger { sources: vec![SourceLedger { seen, bytes: 0, skipped }], examples: Vec::new() }
    }

    #[test]
    fn the_share_of_bad_samples_is_one_of_those_that_were_tried() {
        assert!(ledger(16, 1600).check(1.0, None).is_ok(), "a limit of 1 allows all");
        assert!(ledger(50, 50).check(0.5, None).is_ok());
        let error = ledger(40, 60).check(0.5, None).unwrap_err().to_string();
        assert!(error.starts_with("60 of 100 samples"), "{error}");
        assert!(ledger(0, 15).check(0.0, None).is_ok(), "a few are no share");
    }
}
