//! What `blip2 doctor` asks a rank: whether libraries, weights, tokenizers, memory, a step, a checkpoint and the ways
//! between
//! ranks will do for a run, before it is started. Nothing of the run itself is touched.

mod checkpoint;
mod ranks;
mod space;
mod step;
mod tokenizers;
mod weights;

use std::time::Duration;

use configs::Run;
use data_pipeline::store::Trouble;
use serde::Serialize;

use crate::checkpoint::Claim;
use crate::error::TrainerError;

pub use ranks::{Meeting, ranks};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// The run may work, and something is not as it should be.
    Warning,
    /// The run will not work.
    Failure,
    /// Not looked at.
    Skipped,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub name: String,
    /// How it came out.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What was expected.
    pub expected: String,
    /// What to do; empty where nothing is to be done.
    pub fix: String,
}

impl Finding {
    fn new(state: State, name: impl Into<String>, [found, expected, fix]: [String; 3]) -> Self {
        Self { name: name.into(), state, found, expected, fix }
    }

    /// All is well.
    fn ok(name: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::new(State::Ok, name, [found.into(), expected.into(), String::new()])
    }

    /// Not looked at, and why.
    fn skipped(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(State::Skipped, name, [why.into(), String::new(), String::new()])
    }

    /// Something to know of.
    fn warning(name: impl Into<String>, words: [String; 3]) -> Self {
        Self::new(State::Warning, name, words)
    }

    /// Something that stops the run.
    fn failure(name: impl Into<String>, words: [String; 3]) -> Self {
        Self::new(State::Failure, name, words)
    }

    /// What an error says, with the remedy of the store's trouble where it is the store's, else with `fix`.
    fn error(name: impl Into<String>, error: &TrainerError, expected: &str, fix: &str) -> Self {
        let (found, fix) = match (store_trouble(error), error) {
            (Some(Trouble::Other), _) | (None, _) => (text(error), fix.to_owned()),
            (Some(trouble), _) => (format!("{}: {}", trouble.found(), text(error)), trouble.fix().to_owned()),
        };
        Self::failure(name, [found, expected.to_owned(), fix])
    }
}

/// The store's trouble that an error tells of; nothing where it is not the store's.
fn store_trouble(error: &TrainerError) -> Option<Trouble> {
    matches!(error, TrainerError::Store(_)).then(|| Trouble::of(error))
}

/// An error with its causes, each said once.
fn text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| cause.source()).map(ToString::to_string) {
        if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

/// Whether an error tells of memory that did not suffice.
fn is_out_of_memory(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    said.contains("out of memory") || said.contains("not enough memory") || said.contains("can't allocate memory")
}

/// `1.5 GB`, `20 MB`, `3 kB`.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        1_000_000..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// What one rank alone can look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Memory and disk against what the models need.
    Space,
    /// Files of weights.
    Weights,
    /// Tokenizers.
    Tokenizers,
    /// A step of each stage.
    Step,
    /// A checkpoint.
    Checkpoint,
}

/// Looks at a part, for about `within` at most where it is long.
pub fn look(run: &Run, part: Part, within: Duration, claim: &Claim) -> Vec<Finding> {
    match part {
        Part::Space => space::look(run),
        Part::Weights => weights::look(run, within),
        Part::Tokenizers => tokenizers::look(run),
        Part::Step => step::look(run),
        Part::Checkpoint => checkpoint::look(run, claim),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!([1, 20_400_000, 1_490_000_000].map(size), ["1 kB", "20 MB", "1.5 GB"]);
    }

    #[test]
    fn an_error_of_the_store_has_the_stores_remedy_and_any_other_its_own() {
        let place = data_pipeline::store::Location::parse("/nowhere").unwrap();
        let missing = object_store::Error::NotFound { path: "nowhere".into(), source: "gone".into() };
        let error = TrainerError::from(place.error("read", missing));
        let found = Finding::error("weights", &error, "a file", "copy it");
        assert_eq!((found.state, found.fix.as_str()), (State::Failure, Trouble::Missing.fix()));
        let error = TrainerError::BadSnapshot("odd".into());
        assert_eq!(Finding::error("weights", &error, "a file", "copy it").fix, "copy it");
    }
}
