//! What a synthetic corpus is made from, and which wishes cannot be met.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};

/// The most objects one scene can hold: more do not fit beside each other, and their caption would be too long.
pub const MAX_OBJECTS: u8 = 4;
/// Largest accepted number of scenes in each test split; their captions are compared in memory.
const MAX_TEST_SCENES: u64 = 1_000_000;
/// Largest accepted number of training scenes: shard names have five digits, as those of img2dataset.
const MAX_SHARDS: u64 = 100_000;

/// What a synthetic corpus is made from. Every field but `threads` and `overwrite` determines its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SynthOptions {
    /// Scenes of the split `train`.
    pub scenes: u64,
    /// Scenes of each of the splits `test_seen` and `test_unseen`; 0 leaves both out.
    pub test_scenes: u64,
    /// Side of the square images in pixels.
    pub image_size: u32,
    /// Chooses everything random, the held-out pairs included.
    pub seed: u64,
    /// Fewest objects of a scene, at least 1.
    pub min_objects: u8,
    /// Most objects of a scene, at most [`MAX_OBJECTS`]. The number of objects is uniform between the two.
    pub max_objects: u8,
    /// Whether objects may be striped, dotted or checked; without patterns scenes are easier.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub patterns: bool,
    /// Quality of the JPEG images, 1 to 100.
    pub jpeg_quality: u8,
    /// Rows of one shard; the last shard of a split may hold fewer.
    pub shard_rows: u32,
    /// Threads that render and encode; 0 stands for one per core.
    #[serde(skip)]
    pub threads: usize,
    /// Deletes another synthetic corpus at the same place first.
    #[serde(skip)]
    pub overwrite: bool,
}

/// What corpora written before there was a choice have; and so it is not written down either.
fn yes() -> bool {
    true
}

fn is_yes(choice: &bool) -> bool {
    *choice
}

impl Default for SynthOptions {
    fn default() -> Self {
        Self {
            scenes: 20_000,
            test_scenes: 500,
            image_size: 64,
            seed: 42,
            min_objects: 1,
            max_objects: MAX_OBJECTS,
            patterns: true,
            jpeg_quality: 90,
            shard_rows: 10_000,
            threads: 0,
            overwrite: false,
        }
    }
}

impl SynthOptions {
    /// The numbers of objects that scenes have.
    pub fn objects(&self) -> RangeInclusive<u8> {
        self.min_objects..=self.max_objects
    }

    /// Checks every field and names all problems at once. Whether the test splits can be filled is seen when their
    /// scenes are drawn, also before anything is written.
    ///
    /// # Errors
    /// [`DataError::Setting`].
    pub fn validate(&self) -> Result<()> {
        let mut problems = Vec::new();
        let mut expect = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        expect(self.scenes > 0, "scenes is 0, expected at least 1".into());
        expect(
            self.test_scenes <= MAX_TEST_SCENES,
            format!("test_scenes is {}, expected at most {MAX_TEST_SCENES}", self.test_scenes),
        );
        expect(
            (16..=2048).contains(&self.image_size),
            format!("image_size is {}, expected 16 to 2048 pixels", self.image_size),
        );
        expect(
            1 <= self.min_objects && self.min_objects <= self.max_objects && self.max_objects <= MAX_OBJECTS,
            format!(
                "objects is {} to {}, expected a range within 1 to {MAX_OBJECTS}",
                self.min_objects, self.max_objects
            ),
        );
        expect(
            (1..=100).contains(&self.jpeg_quality),
            format!("jpeg_quality is {}, expected 1 to 100", self.jpeg_quality),
        );
        expect(self.shard_rows > 0, "shard_rows is 0, expected at least 1".into());
        expect(
            self.shard_rows == 0 || self.scenes.max(self.test_scenes).div_ceil(self.shard_rows.into()) <= MAX_SHARDS,
            format!(
                "{} scenes make more than {MAX_SHARDS} shards; raise shard_rows",
                self.scenes.max(self.test_scenes)
            ),
        );
        if problems.is_empty() {
            return Ok(());
        }
        Err(DataError::Setting(format!("a synthetic corpus cannot be made: {}", problems.join("; "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_every_problem_is_named() {
        SynthOptions::default().validate().unwrap();
        let bad = SynthOptions {
            scenes: 0,
            image_size: 8,
            min_objects: 3,
            max_objects: 2,
            jpeg_quality: 0,
            shard_rows: 0,
            test_scenes: u64::MAX,
            ..SynthOptions::default()
        };
        let message = bad.validate().unwrap_err().to_string();
        for name in ["scenes is 0", "image_size", "objects", "jpeg_quality", "shard_rows", "test_scenes"] {
            assert!(message.contains(name), "{name} is missing in: {message}");
        }
    }
}
