//! The state of a run between two steps: what is known of it, and its numbers.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainerError};

/// Everything that the next step depends on, besides the config, the frozen weights and the numbers themselves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The stage, counted from 1.
    pub stage_index: usize,
    /// The stage's name.
    pub stage: String,
    /// Updates done in this stage.
    pub step: u64,
    /// The run's seed.
    pub seed: u64,
    /// Samples seen in this stage.
    pub samples_seen: u64,
    /// Updates that AdamW counted: skipped steps make it differ from `step`.
    pub adamw_count: u64,
    /// Length of the flat space of trained values, padding included, which the moments have too.
    pub flat_len: usize,
    /// Where each trained tensor lies in the flat space.
    pub segments: Vec<Segment>,
    /// sha256 of each frozen weight file and of each catalogue, by its URI.
    pub frozen: BTreeMap<String, String>,
    /// Versions and device facts, for people.
    pub facts: BTreeMap<String, String>,
    /// What the run has counted and decided so far: updates and samples left out, loss scale.
    pub ledger: serde_json::Value,
    /// Losses of the last step, by which the best checkpoints are known.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
}

/// The place of one trained tensor in the flat space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The tensor's public name.
    pub name: String,
    /// Its axes; empty for a single number.
    pub shape: Vec<usize>,
    /// Where it begins, counted in values.
    pub offset: usize,
}

impl Segment {
    /// How many values it has.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A whole state in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// What is known of it.
    pub about: About,
    /// Every trained tensor, in the order of the segments.
    pub trainable: Vec<NamedArray>,
    /// First moments of the flat space.
    pub exp_avg: Vec<f32>,
    /// Second moments.
    pub exp_avg_sq: Vec<f32>,
}

/// A tensor with its public name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamedArray {
    /// The name under which others know it.
    pub name: String,
    /// Its axes; empty for a single number.
    pub shape: Vec<usize>,
    /// Its values, last axis fastest.
    pub values: Vec<f32>,
}

impl About {
    /// Checks that the segments have names of their own and lie in the flat space.
    ///
    /// # Errors
    /// A reason for people.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let mut names = BTreeSet::new();
        for Segment { name, shape, offset } in &self.segments {
            if !names.insert(name) {
                return Err(format!("found `{name}` twice, expected each name once"));
            }
            let len = shape.iter().try_fold(1, |len: usize, axis| len.checked_mul(*axis));
            let end = len.and_then(|len| len.checked_add(*offset));
            if end.is_none_or(|end| end > self.flat_len) {
                return Err(format!(
                    "found that `{name}` of shape {shape:?} at {offset} ends behind the flat space, expected at most {}",
                    self.flat_len
                ));
            }
        }
        Ok(())
    }
}

impl Snapshot {
    /// Checks that shapes, values and segments agree.
    ///
    /// # Errors
    /// [`TrainerError::BadSnapshot`].
    pub fn check(&self) -> Result<()> {
        let bad = |reason: String| Err(TrainerError::BadSnapshot(reason));
        self.about.check().map_err(TrainerError::BadSnapshot)?;
        let (found, expected) = (self.trainable.len(), self.about.segments.len());
        if found != expected {
            return bad(format!("found {found} tensors, expected {expected}, one for each segment"));
        }
        for (array, segment) in self.trainable.iter().zip(&self.about.segments) {
            if (&array.name, &array.shape) != (&segment.name, &segment.shape) {
                return bad(format!(
                    "found `{}` {:?}, expected the segment's `{}` {:?}",
                    array.name, array.shape, segment.name, segment.shape
                ));
            }
            if array.values.len() != segment.len() {
                return bad(format!(
                    "found {} values in `{}`, expected {} for its shape {:?}",
                    array.values.len(),
                    array.name,
                    segment.len(),
                    array.shape
                ));
            }
        }
        let (first, second, expected) = (self.exp_avg.len(), self.exp_avg_sq.len(), self.about.flat_len);
        if (first, second) != (expected, expected) {
            return bad(format!("found {first} first and {second} second moments, expected {expected} of each"));
        }
        Ok(())
    }
}
