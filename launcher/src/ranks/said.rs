//! What a rank tells its launcher: one JSON object per line (trainer/src/control.rs writes them).

use serde::{Deserialize, Serialize};

/// One report.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Said {
    /// Who it is.
    Hello(Hello),
    /// What it does.
    Beat(Beat),
    /// What it wrote to standard error.
    Lines {
        /// Whole lines.
        lines: Vec<String>,
    },
    /// Why it fails.
    Failed(Failed),
    /// It ends in order.
    Bye {
        /// Its exit code.
        code: u8,
    },
    /// What its threads do.
    Threads {
        /// One per line.
        text: String,
    },
}

/// Who a rank is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Hello {
    /// Proves that it belongs to the launch.
    pub token: String,
    /// Its number.
    pub rank: usize,
    /// Its machine.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// When the process started.
    pub start_ticks: Option<u64>,
}

/// What a rank does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Beat {
    /// In words, such as `data wait`.
    pub phase: String,
    /// Whether there are steps whose results a checkpoint would keep.
    pub can_save: bool,
    /// The stage, or the tower that it trains.
    pub stage: String,
    /// Steps of the stage that are done.
    pub step: u64,
    /// Steps made in this launch.
    pub steps_made: u64,
    /// Seconds of these that it did not wait for others.
    pub own_s: f64,
    /// Calls to other ranks that were begun.
    pub call: u64,
    /// The last one's name.
    pub operation: String,
    /// Whether it is still in it.
    pub is_inside: bool,
    /// The shards that it waits for.
    pub reading: Option<String>,
    /// Seconds since it last did anything.
    pub idle_s: f64,
    /// Whether it was asked to leave.
    pub leaving: bool,
    /// Memory in use.
    pub resident_bytes: Option<u64>,
}

impl Beat {
    /// What the rank does: `step 8 of representation`, `data wait`.
    pub fn doing(&self) -> String {
        let Self { phase, stage, step, .. } = self;
        match phase.as_str() {
            "data wait" => phase.clone(),
            "step" => format!("step {} of {stage}", step + 1),
            "checkpoint" => format!("{phase} of step {step} of {stage}"),
            _ if stage.is_empty() => phase.clone(),
            _ => format!("{phase} ({stage})"),
        }
    }

    /// For what a rank waits for data: ` of step 8 of representation, shard a.parquet of coco`.
    pub fn wanted(&self) -> String {
        if self.phase != "data wait" {
            return String::new();
        }
        let shard = self.reading.as_ref().map_or_else(String::new, |reading| format!(", shard {reading}"));
        format!(" of step {} of {}{shard}", self.step + 1, self.stage)
    }

    /// Where the rank is.
    pub fn place(&self) -> String {
        self.doing() + &self.wanted()
    }

    /// The call that it is in: `all_gather #1841`.
    pub fn waits_in(&self) -> Option<String> {
        self.is_inside.then(|| format!("{} #{}", self.operation, self.call))
    }
}

/// Why a rank fails.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Failed {
    /// The error with its causes.
    pub message: String,
    /// The exit code.
    pub code: u8,
    /// Whether it is a mistake of the program.
    pub panic: bool,
    /// Whether another try may go better.
    pub again: bool,
}

impl Said {
    /// The report in a line; `None` for anything else.
    pub fn read(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_says_where_the_rank_is() {
        let line = r#"{"say":"beat","phase":"data wait","can_save":true,"stage":"generative","step":7,"call":41,
            "operation":"all_gather","is_inside":false,"reading":"a.parquet of coco","idle_s":61.0,"newer":1}"#;
        let Some(Said::Beat(mut beat)) = Said::read(line) else { panic!("not read") };
        assert_eq!(beat.place(), "data wait of step 8 of generative, shard a.parquet of coco");
        assert_eq!(beat.waits_in(), None);
        beat.is_inside = true;
        assert_eq!(beat.waits_in().as_deref(), Some("all_gather #41"));
        assert_eq!(Said::read("{}"), None);
    }
}
