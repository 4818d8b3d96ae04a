//! All that is wrong with a file, in one message.

use std::fmt;

use crate::error::{DataError, Result};

/// Problems that a message spells out; it counts the others.
const SPELLED_OUT: usize = 20;

/// What is wrong with a file and where: the first twenty in words, all of them in number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    spelled_out: Vec<String>,
    total: usize,
}

impl Problems {
    /// Notes a problem at a place. `what` says what was found and what was expected.
    pub(crate) fn note(&mut self, place: impl fmt::Display, what: String) {
        self.total += 1;
        if self.spelled_out.len() < SPELLED_OUT {
            self.spelled_out.push(format!("{place}: {what}"));
        }
    }

    /// Nothing when nothing was noted.
    ///
    /// # Errors
    /// [`Self::error`].
    pub(crate) fn refuse(self, uri: &str, advice: &'static str) -> Result<()> {
        if self.is_empty() { Ok(()) } else { Err(self.error(uri, advice)) }
    }

    /// The error of a file, with what to do about it.
    pub(crate) fn error(self, uri: &str, advice: &'static str) -> DataError {
        DataError::Benchmark { uri: uri.into(), problems: self, advice }
    }

    /// The problems that are spelled out, each as `place: what`.
    pub(crate) fn first(&self) -> &[String] {
        &self.spelled_out
    }

    /// Whether nothing was noted.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// How many were noted.
    pub fn len(&self) -> usize {
        self.total
    }
}

/// `2 problems`, then a line for each that is spelled out, and for the number of the others.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} problem{}", self.total, if self.total == 1 { "" } else { "s" })?;
        for problem in &self.spelled_out {
            write!(f, "\n  {problem}")?;
        }
        match self.total - self.spelled_out.len() {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}
