//! What rank 0 reports: JSON objects on standard output, one per line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A part of the work begins.
    Phase {
        /// Its short name, such as `representation`.
        name: String,
        /// What is done, in words.
        #[serde(default)]
        what: String,
        /// How many steps it has.
        #[serde(default)]
        steps: u64,
    },
    /// A step is done.
    Progress(Step),
    /// A checkpoint was committed.
    Checkpoint {
        /// The stage.
        stage: String,
        /// Steps done.
        step: u64,
        /// Where it lies.
        uri: String,
    },
    /// Something to tell.
    Message {
        /// In words.
        text: String,
    },
    /// The answer of a command that has one.
    Result {
        /// The answer.
        result: Value,
    },
    /// All work is done.
    Done,
}

/// How far a phase is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The phase.
    pub name: String,
    /// Steps done.
    pub step: u64,
    /// Steps of the phase.
    #[serde(default)]
    pub steps: u64,
    /// The loss terms; one that is no finite number is null.
    #[serde(default)]
    pub losses: BTreeMap<String, Option<f64>>,
    /// The learning rate.
    #[serde(default)]
    pub lr: Option<f64>,
    /// Images per second over all ranks.
    #[serde(default)]
    pub images_per_s: Option<f64>,
}

impl Event {
    /// The report in a line of standard output; `None` for anything else, such as mpirun's own words.
    pub fn read(line: &str) -> Option<Self> {
        line.starts_with('{').then(|| serde_json::from_str(line).ok())?
    }
}

/// The order in which people expect loss terms; others come after these by name, the total last.
const TERMS: [&str; 4] = ["itc", "itm", "itg", "lm"];

/// Sorts the names of loss terms for people: the stage's terms first, the total last.
pub fn term_order(name: &str) -> (usize, &str) {
    let last = TERMS.len() + 1;
    let place = if name == "total" { last } else { TERMS.iter().position(|term| *term == name).unwrap_or(TERMS.len()) };
    (place, name)
}

impl Step {
    /// The loss terms in the order for people; a total that repeats the only term is left out.
    pub fn terms(&self) -> Vec<(&str, Option<f64>)> {
        let mut terms: Vec<_> = self.losses.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        terms.sort_by_key(|(name, _)| term_order(name));
        if terms.len() == 2 && terms[1].0 == "total" {
            terms.pop();
        }
        terms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_told_from_noise() {
        let line = r#"{"event":"progress","name":"representation","step":120,"steps":500,"losses":{"total":5.9,"itc":3.1,"itm":null},"lr":1e-3,"images_per_s":131.0}"#;
        let Some(Event::Progress(step)) = Event::read(line) else { panic!("not read") };
        assert_eq!(step.terms(), [("itc", Some(3.1)), ("itm", None), ("total", Some(5.9))]);
        assert_eq!(Event::read(r#"{"event":"done"}"#), Some(Event::Done));
        for noise in ["", "mpirun: hello", "{", r#"{"event":"other"}"#, "[1]"] {
            assert_eq!(Event::read(noise), None, "{noise}");
        }
    }
}
