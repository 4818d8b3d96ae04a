//! What a run's folder says, whoever wrote it: configuration, log, metrics, notes of launchers.

use configs::Run;
use data_pipeline::Result;
use data_pipeline::store::Location;
use serde::Deserialize;
use serde_json::Value;

use crate::outcome::{self, Outcome};
use crate::report::gather::{self, Record};
use crate::run_config;

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Found {
    /// The configuration that the run wrote.
    pub config: Option<Run>,
    /// How often the run was taken over, that is launched.
    pub launches: u64,
    /// When it was launched last, in seconds since 1970.
    pub launched: f64,
    /// The last committed checkpoint.
    pub commit: Option<Commit>,
    /// The last metrics.
    pub record: Option<Record>,
    /// The last images per second of every stage that has some.
    pub speeds: Vec<(String, f64)>,
    /// How the last launch ended, if it has.
    pub outcome: Option<Outcome>,
    /// What the supervision noted of the ranks.
    pub ranks: Option<Value>,
}

/// A committed checkpoint.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The stage, counted from 1.
    pub stage_index: usize,
    /// The stage's name.
    pub stage: String,
    /// Steps done.
    pub step: u64,
    /// Where it lies.
    pub uri: String,
    /// When, in seconds since 1970.
    pub time: f64,
}

/// An entry of `log/`.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    time: f64,
    #[serde(flatten)]
    event: Event,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Event {
    TakeOver {
        /// Where the run before went, when it began anew.
        #[serde(default)]
        fresh: Option<String>,
    },
    Commit {
        stage_index: usize,
        stage: String,
        step: u64,
        folder: String,
    },
    #[serde(other)]
    Other,
}

impl Found {
    /// Reads everything.
    ///
    /// # Errors
    /// A store that fails.
    pub async fn read(output: &Location) -> Result<Self> {
        let mut found = Self { config: run_config::in_force(output).await?, ..Self::default() };
        for (entry, _) in output.child("log").list(".json").await? {
            // One that retention removed since the listing, or that another version wrote, is passed over.
            let bytes = entry.read_if_there().await?.unwrap_or_default();
            if let Ok(entry) = serde_json::from_slice::<Entry>(&bytes) {
                found.add(entry, output);
            }
        }
        let history = gather::history(output, found.config.as_ref()).await?;
        for record in &history.records {
            if let Some(speed) = record.images_per_s {
                found.speeds.retain(|(stage, _)| *stage != record.stage);
                found.speeds.push((record.stage.clone(), speed));
            }
        }
        found.record = history.records.last().cloned();
        let json = async |place: &str| Ok::<_, data_pipeline::DataError>(output.child(place).read_if_there().await?);
        found.outcome = json(outcome::PLACE).await?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        found.ranks = json("launch/ranks.json").await?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(found)
    }

    fn add(&mut self, entry: Entry, output: &Location) {
        match entry.event {
            Event::TakeOver { fresh } => {
                if fresh.is_some() {
                    (self.launches, self.commit) = (0, None);
                }
                self.launches += 1;
                self.launched = entry.time;
            }
            Event::Commit { stage_index, stage, step, folder } => {
                let uri = output.child(&folder).uri().to_owned();
                self.commit = Some(Commit { stage_index, stage, step, uri, time: entry.time });
            }
            Event::Other => {}
        }
    }

    /// Whether nothing was found at all.
    pub fn is_empty(&self) -> bool {
        self.config.is_none() && self.launches == 0 && self.record.is_none() && self.outcome.is_none()
    }

    /// Whether the last step of the last stage is committed.
    pub fn is_done(&self) -> bool {
        let (Some(commit), Some(config)) = (&self.commit, &self.config) else { return false };
        commit.stage_index == config.stages.len()
            && config.stages.last().is_some_and(|stage| stage.steps() == commit.step)
    }
}
