//! Entries of annotations that could not be used.

use serde::{Deserialize, Serialize};

use crate::benchmark::Problems;

/// Entries that are spelled out; the others are counted.
const SPELLED_OUT: usize = 20;

/// Entries of files of annotations that could not be used: each costs itself only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadEntries {
    /// All of them.
    pub count: u64,
    /// The first ones: file, place, what was found and what was expected.
    pub first: Vec<String>,
}

impl BadEntries {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds the problems of a file.
    pub(crate) fn add(&mut self, file: &str, problems: &Problems) {
        self.count += problems.len() as u64;
        let left = SPELLED_OUT.saturating_sub(self.first.len());
        self.first.extend(problems.first().iter().take(left).map(|problem| format!("{file}: {problem}")));
    }
}
