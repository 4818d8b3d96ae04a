//! What a run's folder says, whoever wrote it: configuration, log, metrics, notes of launchers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use configs::{Overrides, Run};
use data_pipeline::Result;
use data_pipeline::store::Location;
use object_store::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use crate::outcome::{self, Outcome};
use crate::report::faults::{Faults, Noted};
use crate::report::gather::{History, Record, Start};
use crate::run_config;

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The configuration that the run wrote.
    pub config: Option<Run>,
    /// How often the run was taken over, that is launched.
    pub launches: u64,
    /// When it was launched last, in seconds since 1970.
    pub launched: f64,
    /// When it began anew, in seconds since 1970; 0 where it never did.
    pub began: f64,
    /// The committed checkpoints, oldest first.
    pub commits: Vec<Commit>,
    /// The metrics in the order of training, without the parts that a restart did again.
    pub records: Vec<Record>,
    /// Where training was resumed.
    pub resumed: Vec<Start>,
    /// Seconds of training that the records cover.
    pub train_seconds: f64,
    /// How the last launch ended, if it has.
    pub outcome: Option<Outcome>,
    /// What the supervision noted of the ranks.
    pub ranks: Option<Value>,
    /// What went wrong or changed, as the run noted it.
    pub faults: Faults,
}

/// A committed checkpoint.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The launch that made it, from 1.
    pub launch: u64,
    /// The stage, counted from 1.
    pub stage_index: usize,
    /// The stage's name.
    pub stage: String,
    /// Steps done.
    pub step: u64,
    /// Its folder below the run's.
    pub folder: String,
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
        /// Values of the configuration that differ from here on.
        #[serde(default)]
        changes: Vec<Change>,
    },
    Commit {
        stage_index: usize,
        stage: String,
        step: u64,
        folder: String,
    },
    Quarantine {
        folder: String,
        reason: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Change {
    key: String,
    was: String,
    is: String,
}

/// A record of a failure, as the supervision keeps it.
#[derive(Deserialize)]
struct FaultNote {
    line: String,
}

/// The part of a checkpoint's manifest that says what it was computed on.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    facts: BTreeMap<String, String>,
}

/// A file as it was read.
#[derive(Clone)]
struct File {
    meta: ObjectMeta,
    bytes: Arc<[u8]>,
}

/// Reads a run's folder again and again; files that have not changed are kept.
pub struct Reader {
    output: Location,
    kept: HashMap<&'static str, BTreeMap<String, File>>,
    /// What the first checkpoint of each launch was computed on, by its URI; empty where that is gone.
    facts: HashMap<String, BTreeMap<String, String>>,
}

impl Reader {
    /// Of the run in this folder.
    pub fn new(output: &Location) -> Self {
        Self { output: output.clone(), kept: HashMap::new(), facts: HashMap::new() }
    }

    /// Reads everything that is new.
    ///
    /// # Errors
    /// A store that fails.
    pub async fn read(&mut self) -> Result<Found> {
        let log = self.files("log", ".json").await?;
        let name = run_config::named_by(log.iter().rev().map(|file| &*file.bytes));
        let mut found = Found { config: self.config(&name).await?, ..Found::default() };
        for file in &log {
            // What another version wrote is passed over.
            if let Ok(entry) = serde_json::from_slice::<Entry>(&file.bytes) {
                found.add(entry, &self.output);
            }
        }
        self.note_moves(&mut found).await?;
        let mut history = History::new(found.config.as_ref());
        for segment in self.files("metrics", ".jsonl").await? {
            history.append(&String::from_utf8_lossy(&segment.bytes));
        }
        (found.records, found.resumed, found.train_seconds) = history.into_parts();
        found.outcome = self.json(outcome::PLACE).await?;
        found.ranks = self.json("launch/ranks.json").await?;
        for fault in self.files("launch/faults", "fault.json").await? {
            if let Ok(note) = serde_json::from_slice::<FaultNote>(&fault.bytes) {
                found.faults.failures.push(Noted { time: seconds(&fault.meta), text: note.line });
            }
        }
        // A run that began anew has its failures from then on.
        found.faults.failures.retain(|failure| failure.time >= found.began);
        found.faults.failures.sort_by(|a, b| a.time.total_cmp(&b.time));
        Ok(found)
    }

    /// The files of a folder by name; one that retention removed since the listing is left out.
    async fn files(&mut self, folder: &'static str, suffix: &str) -> Result<Vec<File>> {
        let mut before = self.kept.remove(folder).unwrap_or_default();
        let mut now = BTreeMap::new();
        for (place, meta) in self.output.child(folder).list(suffix).await? {
            let name = meta.location.to_string();
            let kept = before.remove(&name).filter(|file| file.meta == meta);
            let file = match kept {
                Some(file) => file,
                None => match place.read_if_there().await? {
                    Some(bytes) => File { meta, bytes: Arc::from(&bytes[..]) },
                    None => continue,
                },
            };
            now.insert(name, file);
        }
        let files = now.values().cloned().collect();
        self.kept.insert(folder, now);
        Ok(files)
    }

    /// The configuration in this file of the folder, if this version reads it.
    async fn config(&self, name: &str) -> Result<Option<Run>> {
        let yaml = self.output.child(name).read_if_there().await?;
        Ok(yaml.and_then(|yaml| configs::load_str(name, &String::from_utf8_lossy(&yaml), &Overrides::none()).ok()))
    }

    async fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let bytes = self.output.child(name).read_if_there().await?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Notes where a launch computed on something else than the one before it: their first checkpoints say on what.
    async fn note_moves(&mut self, found: &mut Found) -> Result<()> {
        let mut before: Option<BTreeMap<String, String>> = None;
        let mut launch = 0;
        for commit in &found.commits {
            if commit.launch == launch {
                continue;
            }
            launch = commit.launch;
            if !self.facts.contains_key(&commit.uri) {
                let bytes = self.output.child(&commit.folder).child("manifest.json").read_if_there().await?;
                let manifest = bytes.and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok());
                self.facts.insert(commit.uri.clone(), manifest.map(|manifest| manifest.facts).unwrap_or_default());
            }
            let now = &self.facts[&commit.uri];
            if now.is_empty() {
                continue;
            }
            let differs = |(name, value): (&String, &String)| {
                let was = before.as_ref()?.get(name).filter(|was| *was != value)?;
                Some(format!("{name} was {was}, is {value}"))
            };
            let words: Vec<String> = now.iter().filter_map(differs).collect();
            if !words.is_empty() {
                let text = format!("launch {launch} computes on something else: {}", words.join("; "));
                found.faults.changes.push(Noted { time: commit.time, text });
            }
            before = Some(now.clone());
        }
        found.faults.changes.sort_by(|a, b| a.time.total_cmp(&b.time));
        Ok(())
    }
}

fn seconds(meta: &ObjectMeta) -> f64 {
    meta.last_modified.timestamp_millis() as f64 / 1e3
}

impl Found {
    fn add(&mut self, entry: Entry, output: &Location) {
        let time = entry.time;
        match entry.event {
            Event::TakeOver { fresh, changes } => {
                if fresh.is_some() {
                    (self.launches, self.began) = (0, time);
                    self.commits.clear();
                    self.faults = Faults::default();
                }
                self.launches += 1;
                self.launched = time;
                let words = |change: Change| format!("{} was {}, is {}", change.key, change.was, change.is);
                let changes = changes.into_iter().map(|change| Noted { time, text: words(change) });
                self.faults.changes.extend(changes);
            }
            Event::Commit { stage_index, stage, step, folder } => {
                let uri = output.child(&folder).uri().to_owned();
                self.commits.push(Commit { launch: self.launches, stage_index, stage, step, folder, uri, time });
            }
            Event::Quarantine { folder, reason } => {
                // Nobody continues from it any more.
                self.commits.retain(|commit| commit.folder != folder);
                let text = format!("checkpoint {folder} does not verify: {reason}");
                self.faults.failures.push(Noted { time, text });
            }
            Event::Other => {}
        }
    }

    /// The last metrics.
    pub fn record(&self) -> Option<&Record> {
        self.records.last()
    }

    /// The last committed checkpoint.
    pub fn commit(&self) -> Option<&Commit> {
        self.commits.last()
    }

    /// The last images per second of every stage that has some, in the order of training.
    pub fn speeds(&self) -> Vec<(&str, f64)> {
        let mut speeds: Vec<(&str, f64)> = Vec::new();
        for record in &self.records {
            if let Some(speed) = record.images_per_s {
                match speeds.last_mut() {
                    Some((stage, last)) if *stage == record.stage => *last = speed,
                    _ => speeds.push((&record.stage, speed)),
                }
            }
        }
        speeds
    }

    /// The metrics of one stage.
    pub fn records_of(&self, stage: &str) -> Vec<&Record> {
        self.records.iter().filter(|record| record.stage == stage).collect()
    }

    /// Whether nothing was found at all.
    pub fn is_empty(&self) -> bool {
        self.config.is_none() && self.launches == 0 && self.records.is_empty() && self.outcome.is_none()
    }

    /// Whether the last step of the last stage is committed.
    pub fn is_done(&self) -> bool {
        let (Some(commit), Some(config)) = (self.commit(), &self.config) else { return false };
        commit.stage_index == config.stages.len()
            && config.stages.last().is_some_and(|stage| stage.steps() == commit.step)
    }
}
