//! What rank 0 tells the launcher while it works: one JSON object per line on standard output.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Map, Value};

/// Something worth showing.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A long piece of work begins.
    Phase {
        /// `image_encoder`, `language_model`, the stage's name, or `evaluate`.
        name: String,
        /// For people.
        what: String,
        /// How many steps it has.
        steps: u64,
    },
    /// How far it is.
    Progress {
        /// The phase.
        name: String,
        /// Steps done.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Loss terms by name.
        losses: Map<String, Value>,
        /// Learning rate, where there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        lr: Option<f64>,
        /// Images over all ranks and second, where it is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        images_per_s: Option<f64>,
    },
    /// A checkpoint stands.
    Checkpoint {
        /// The stage.
        stage: String,
        /// Updates done in it.
        step: u64,
        /// Where it lies.
        uri: String,
    },
    /// A line for people.
    Message {
        /// The line.
        text: String,
    },
    /// The result of an evaluation.
    Result {
        /// Its fields depend on the task.
        result: Value,
    },
    /// Everything is done.
    Done,
}

/// Where events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    /// Standard output, for the launcher.
    Json,
    /// Nowhere: ranks other than 0.
    Silent,
}

impl Events {
    /// Says how far something without losses is.
    pub fn progress(self, name: &str, step: u64, steps: u64) {
        let losses = Map::new();
        self.send(&Event::Progress { name: name.into(), step, steps, losses, lr: None, images_per_s: None });
    }

    /// Tells the launcher. A launcher that is gone is no reason to stop: the pipe's end is watched elsewhere.
    pub fn send(self, event: &Event) {
        if self == Events::Json
            && let Ok(line) = serde_json::to_string(event)
        {
            let mut out = io::stdout().lock();
            let _gone = writeln!(out, "{line}").and_then(|()| out.flush());
        }
    }

    /// Tells people of something that is not as it should be: on standard error, which has a way to the launcher from
    /// every rank.
    #[expect(clippy::print_stderr, reason = "the launcher shows what ranks write there, with their number")]
    pub fn warning(self, text: &str) {
        eprintln!("warning: {text}");
    }

    /// Sends a line for people.
    pub fn message(self, text: impl Into<String>) {
        self.send(&Event::Message { text: text.into() });
    }
}

/// Loss terms as a JSON map; a value that is no number becomes null.
pub fn losses(names: &[&str], values: &[f64]) -> Map<String, Value> {
    let value = |value: &f64| serde_json::Number::from_f64(*value).map_or(Value::Null, Value::Number);
    names.iter().zip(values).map(|(name, number)| ((*name).to_owned(), value(number))).collect()
}
