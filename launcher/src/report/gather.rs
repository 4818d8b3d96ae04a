//! What a run wrote, read back: configuration, metrics, results.

use std::collections::BTreeMap;

use configs::Run;
use data_pipeline::store::Location;
use data_pipeline::{DataError, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::status::{Found, Reader};

/// What the page tells.
#[derive(Debug, Default)]
pub struct Story {
    /// Where the run lies.
    pub uri: String,
    /// What it trained: configuration, metrics, faults.
    pub found: Found,
    /// Results of evaluations, by file name.
    pub results: Vec<Value>,
    /// What `blip2 demo` noted about itself.
    pub demo: Option<Value>,
}

/// One line of metrics.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Record {
    /// Unix time in seconds.
    #[serde(default)]
    pub time: Option<f64>,
    /// The stage.
    pub stage: String,
    /// Steps done.
    pub step: u64,
    /// The loss terms.
    #[serde(default)]
    pub losses: BTreeMap<String, Option<f64>>,
    /// The learning rate.
    #[serde(default)]
    pub lr: Option<f64>,
    /// Images per second over all ranks.
    #[serde(default)]
    pub images_per_s: Option<f64>,
    /// Everything else, by name.
    #[serde(flatten)]
    pub values: BTreeMap<String, Value>,
}

/// Where a launch began.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Start {
    /// The stage.
    pub stage: String,
    /// Its number, from 1.
    #[serde(default)]
    pub stage_index: usize,
    /// Steps done before.
    pub step: u64,
}

#[derive(Deserialize)]
struct StartLine {
    session_start: Start,
}

/// Reads everything below the run's folder.
///
/// # Errors
/// A store that fails, or a folder with neither metrics nor results.
pub async fn gather(place: &Location) -> Result<Story> {
    let mut story = Story { uri: place.uri().to_owned(), found: Reader::new(place).read().await?, ..Story::default() };
    for (result, _) in place.child("eval").list(".json").await? {
        let text = text_of(&result).await?.unwrap_or_default();
        story.results.extend(serde_json::from_str::<Value>(&text));
    }
    story.demo = text_of(&place.child("launch/demo.json")).await?.and_then(|text| serde_json::from_str(&text).ok());
    if story.found.records.is_empty() && story.results.is_empty() {
        return Err(DataError::Setting(format!(
            "{}: found no metrics/*.jsonl and no eval/*.json; expected the output folder of a run. Check the path",
            place.uri()
        )));
    }
    Ok(story)
}

async fn text_of(place: &Location) -> Result<Option<String>> {
    Ok(place.read_if_there().await?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Metrics put together from the segments of all launches.
pub struct History {
    stages: Vec<String>,
    records: Vec<Record>,
    resumed: Vec<Start>,
    seconds: f64,
    last_time: Option<f64>,
}

impl History {
    /// Without any metrics yet.
    pub fn new(config: Option<&Run>) -> Self {
        let stages = config.map_or_else(Vec::new, |run| run.stages.iter().map(|s| s.name().to_owned()).collect());
        Self { stages, records: Vec::new(), resumed: Vec::new(), seconds: 0.0, last_time: None }
    }

    /// The number of a stage, from 1; towers, which come before the stages, have 0.
    fn stage_number(&self, name: &str) -> Option<usize> {
        Some(self.stages.iter().position(|stage| stage == name)? + 1)
    }

    /// Adds one segment. A line that is cut off or unknown is passed over.
    pub fn append(&mut self, segment: &str) {
        self.last_time = None;
        for line in segment.lines() {
            if let Ok(StartLine { session_start }) = serde_json::from_str(line) {
                self.rewind(session_start);
            } else if let Ok(record) = serde_json::from_str::<Record>(line) {
                if let (Some(last), Some(time)) = (self.last_time, record.time) {
                    self.seconds += (time - last).max(0.0);
                }
                self.last_time = record.time;
                if self.stages.is_empty() || self.stage_number(&record.stage).is_none() {
                    // Without a configuration the stages are known by their first appearance.
                    if self.stages.iter().all(|stage| *stage != record.stage) {
                        self.stages.push(record.stage.clone());
                    }
                }
                self.records.push(record);
            }
        }
    }

    /// The metrics in the order of training without the parts that a restart did again, where training was resumed, and
    /// the seconds that the metrics cover.
    pub fn into_parts(self) -> (Vec<Record>, Vec<Start>, f64) {
        (self.records, self.resumed, self.seconds)
    }

    /// Drops what earlier launches recorded at or after this start: it is done again.
    fn rewind(&mut self, start: Start) {
        let from = (self.stage_number(&start.stage).unwrap_or(start.stage_index), start.step);
        let stages = self.stages.clone();
        let number = |name: &str| stages.iter().position(|stage| stage == name).map_or(0, |place| place + 1);
        self.records.retain(|record| (number(&record.stage), record.step) < from);
        if !self.records.is_empty() {
            self.resumed.push(start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(segments: &[&str]) -> History {
        let run = configs::load_str("tiny", configs::preset("tiny").unwrap(), &configs::Overrides::none()).unwrap();
        let mut history = History::new(Some(&run));
        segments.iter().for_each(|segment| history.append(segment));
        history
    }

    fn segment(stage: &str, start: u64, steps: std::ops::Range<u64>) -> String {
        let mut text = format!("{{\"session_start\":{{\"stage\":\"{stage}\",\"stage_index\":1,\"step\":{start}}}}}\n");
        for step in steps.step_by(10) {
            text += &format!(
                "{{\"schema_version\":1,\"time\":{step},\"stage\":\"{stage}\",\"step\":{step},\"losses\":{{\"itc\":1.0}}}}\n"
            );
        }
        text
    }

    #[test]
    fn what_a_restart_did_again_is_dropped() {
        let first = segment("representation", 0, 10..200) + "{\"stage\":\"repr";
        let second = segment("representation", 100, 100..160);
        let third = segment("generative", 0, 0..30);
        let history = history(&[&first, &second, &third]);
        let steps: Vec<_> = history.records.iter().map(|record| (record.stage.as_str(), record.step)).collect();
        assert_eq!(steps.len(), 9 + 6 + 3);
        assert!(steps.is_sorted_by_key(|(stage, step)| (*stage == "generative", *step)), "{steps:?}");
        assert_eq!(history.resumed.len(), 2);
        assert_eq!(history.seconds, 180.0 + 50.0 + 20.0);
    }

    #[test]
    fn a_start_after_the_end_drops_nothing() {
        let end = "{\"session_start\":{\"stage\":\"done\",\"stage_index\":3,\"step\":0}}\n";
        assert_eq!(history(&[&segment("generative", 0, 10..40), end]).records.len(), 3);
    }
}
