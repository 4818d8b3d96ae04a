//! How the last launch of a run ended, noted in the run's folder for `blip2 status`.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// What `launch/outcome.json` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Version of this note.
    pub schema_version: u32,
    /// The exit code of `blip2 launch`.
    pub code: u8,
    /// The first line of its message; empty when all went well.
    pub message: String,
    /// When it ended, in seconds since 1970.
    pub time: u64,
}

/// Its place below the run's folder.
pub const PLACE: &str = "launch/outcome.json";

impl Outcome {
    /// Of a launch that ended now.
    pub fn now(code: u8, message: &str) -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Self { schema_version: 1, code, message: message.lines().next().unwrap_or_default().to_owned(), time }
    }

    /// Writes the note below a run's local folder. It is for people alone: a folder that cannot be written to was reported
    /// before, by what needs it.
    pub fn note(&self, output: &Path) {
        if let Ok(text) = serde_json::to_string_pretty(self) {
            let _unwritable = std::fs::write(output.join(PLACE), text + "\n");
        }
    }
}
