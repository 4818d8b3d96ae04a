//! The state of a run between two steps, as plain numbers.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainerError};

/// Everything that the next step depends on, besides the config and the frozen weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
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
    /// Every trained tensor.
    pub trainable: Vec<NamedArray>,
    /// First moments of all trained values, in the order of `segments`.
    pub exp_avg: Vec<f32>,
    /// Second moments, in the same order.
    pub exp_avg_sq: Vec<f32>,
    /// Where each tensor lies in the moments.
    pub segments: Vec<Segment>,
    /// sha256 of each frozen weight file, by its URI.
    pub frozen: BTreeMap<String, String>,
    /// Versions and device facts, for people.
    pub facts: BTreeMap<String, String>,
    /// Decisions that came from outside so far: samples left out, changes accepted.
    pub ledger: serde_json::Value,
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

/// The place of one tensor in the flat moments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The tensor's name.
    pub name: String,
    /// Its axes.
    pub shape: Vec<usize>,
    /// Where it begins, counted in values.
    pub offset: usize,
}

impl Snapshot {
    /// Checks that shapes, values and segments agree.
    ///
    /// # Errors
    /// [`TrainerError::BadSnapshot`].
    pub fn check(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for array in &self.trainable {
            let expected: usize = array.shape.iter().product();
            if array.values.len() != expected {
                return Err(TrainerError::BadSnapshot(format!(
                    "found {} values in `{}`, expected {expected} for its shape {:?}",
                    array.values.len(),
                    array.name,
                    array.shape
                )));
            }
            if !names.insert(&array.name) {
                return Err(TrainerError::BadSnapshot(format!(
                    "found `{}` twice, expected each name once",
                    array.name
                )));
            }
        }
        if self.exp_avg.len() != self.exp_avg_sq.len() {
            return Err(TrainerError::BadSnapshot(format!(
                "found {} first and {} second moments, expected as many of each",
                self.exp_avg.len(),
                self.exp_avg_sq.len()
            )));
        }
        for segment in &self.segments {
            let end = segment.offset + segment.shape.iter().product::<usize>();
            if end > self.exp_avg.len() {
                return Err(TrainerError::BadSnapshot(format!(
                    "found that the segment of `{}` ends at {end}, expected at most {}, the number of moments",
                    segment.name,
                    self.exp_avg.len()
                )));
            }
        }
        Ok(())
    }
}
