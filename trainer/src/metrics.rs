//! What a run reports while it trains: JSON lines, and TensorBoard beside them.
//!
//! ```text
//! <run.output>/metrics/<launch>.jsonl
//! {"session_start":{"schema_version":1,"time":…,"launch":"000002-…","stage_index":1,"stage":"representation","step":40}}
//! {"schema_version":1,"time":…,"stage_index":1,"stage":"representation","step":60,"losses":{"itc":…,"total":…},"lr":…}
//! ```
//!
//! One file per launch. Whoever reads all of them in the order of their names, dropping what lies at or behind the
//! place of a later session start, gets one clean curve ([`read_metrics`]). Values that are no numbers (a loss of NaN)
//! are `null`.

mod record;
#[cfg(test)]
mod tests;

use data_pipeline::store::Location;
use serde::Deserialize;

pub use record::{Record, SessionStart};

use crate::error::{Result, TrainerError};
use crate::segment_file::SegmentFile;
use crate::storage::Storage;
use crate::tensorboard::EventWriter;

/// Where a launch reports to.
#[derive(Debug)]
pub struct MetricsWriter {
    output: Location,
    start: SessionStart,
    lines: SegmentFile,
    events: Events,
    warning: Option<String>,
    unsent: bool,
}

/// TensorBoard's file of the stage that is running.
#[derive(Debug)]
enum Events {
    /// Not wanted, or given up after an error.
    Off,
    /// Wanted; opened at the first record of a stage.
    Waiting,
    Open {
        stage_index: usize,
        writer: Box<EventWriter>,
    },
}

/// Whether TensorBoard files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorBoard {
    /// They are, beside the JSON lines.
    On,
    /// They are not.
    Off,
}

impl MetricsWriter {
    /// Begins the segment of a launch below `output` and notes where it starts.
    ///
    /// # Errors
    /// [`TrainerError::File`], [`TrainerError::Store`], [`TrainerError::Runtime`].
    pub fn create(output: &str, start: SessionStart, tensorboard: TensorBoard) -> Result<Self> {
        Self::create_at(Location::parse(output)?, start, tensorboard)
    }

    /// The same at a place that was parsed already.
    ///
    /// # Errors
    /// [`TrainerError::File`], [`TrainerError::Store`], [`TrainerError::Runtime`].
    pub fn create_at(output: Location, start: SessionStart, tensorboard: TensorBoard) -> Result<Self> {
        let mut lines = SegmentFile::create(&output, &format!("metrics/{}.jsonl", start.launch))?;
        append_line(&mut lines, &serde_json::json!({ "session_start": start }))?;
        lines.flush()?;
        let events = if tensorboard == TensorBoard::On { Events::Waiting } else { Events::Off };
        Ok(Self { output, start, lines, events, warning: None, unsent: false })
    }

    /// Adds a record. An error of TensorBoard's files ends those with a warning ([`Self::take_warning`]), nothing
    /// else.
    ///
    /// # Errors
    /// [`TrainerError::File`] when the JSON line cannot be written.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        append_line(&mut self.lines, record)?;
        let written = self.write_events(record);
        self.keep_going(written);
        Ok(())
    }

    /// Makes all records visible to readers; in an object store at most every 30 s, when all of the launch's records
    /// are sent anew. A store that does not answer and a full disk lead to one warning ([`Self::take_warning`]) and to later
    /// tries.
    ///
    /// # Errors
    /// [`TrainerError::File`].
    pub fn flush(&mut self) -> Result<()> {
        match self.lines.flush() {
            Ok(()) => self.unsent = false,
            Err(error) if !SegmentFile::may_heal(&error) => return Err(error),
            Err(_) if self.unsent => {}
            Err(error) => {
                self.unsent = true;
                self.warning = Some(format!("metrics could not be written, which is tried again: {error}"));
            }
        }
        if let Events::Open { writer, .. } = &mut self.events {
            // What a later flush has is not lost.
            let flushed =
                writer.flush().or_else(|error| if SegmentFile::may_heal(&error) { Ok(()) } else { Err(error) });
            self.keep_going(flushed);
        }
        Ok(())
    }

    /// Makes all records visible now. To be called at the end; dropping does the same, and cannot say what failed.
    ///
    /// # Errors
    /// [`TrainerError::File`], [`TrainerError::Store`].
    pub fn finish(&mut self) -> Result<()> {
        if let Events::Open { writer, .. } = &mut self.events {
            let finished = writer.finish();
            self.keep_going(finished);
        }
        self.lines.finish()
    }

    /// One line for people, once, after TensorBoard's files had to be given up or a store stopped answering.
    pub fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    fn keep_going(&mut self, result: Result<()>) {
        if let Err(error) = result {
            self.events = Events::Off;
            self.warning = Some(format!(
                "TensorBoard files are not written any more: {error}. Training goes on; metrics/*.jsonl has all values"
            ));
        }
    }

    fn write_events(&mut self, record: &Record) -> Result<()> {
        match &mut self.events {
            Events::Off => return Ok(()),
            Events::Open { stage_index, .. } if *stage_index == record.stage_index => {}
            Events::Open { writer, .. } => {
                writer.finish()?;
                self.open_events(record)?;
            }
            Events::Waiting => self.open_events(record)?,
        }
        if let Events::Open { writer, .. } = &mut self.events {
            for (name, value) in &record.values {
                writer.scalar(name, *value, record.step)?;
            }
        }
        Ok(())
    }

    /// Opens the event file of the record's stage. A stage behind the one in which the launch started begins anew.
    fn open_events(&mut self, record: &Record) -> Result<()> {
        let Record { stage_index, stage, .. } = record;
        let first_step = if *stage_index == self.start.stage_index { self.start.step } else { 0 };
        let writer = Box::new(EventWriter::create(&self.output, stage, &self.start.launch, first_step)?);
        self.events = Events::Open { stage_index: *stage_index, writer };
        Ok(())
    }
}

fn append_line(lines: &mut SegmentFile, line: &impl serde::Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    lines.append(&bytes);
    Ok(())
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Start { session_start: SessionStart },
    Record(Record),
}

/// The records of a run, over all launches, without those that a resumed launch did again.
///
/// # Errors
/// [`TrainerError::Store`], [`TrainerError::BadMetrics`] for a line that is none, save the last of a file, which a
/// killed process may have left unfinished.
pub fn read_metrics(run: &str) -> Result<Vec<Record>> {
    read_metrics_at(Location::parse(run)?)
}

fn read_metrics_at(run: Location) -> Result<Vec<Record>> {
    let storage = Storage::at(run)?;
    let mut names = storage.list("metrics")?;
    names.retain(|name| name.ends_with(".jsonl"));
    let mut records: Vec<Record> = Vec::new();
    for (name, bytes) in names.iter().zip(storage.read_all(&names)?) {
        let text = bytes.unwrap_or_default();
        let mut lines = text.split(|byte| *byte == b'\n').enumerate().peekable();
        while let Some((index, line)) = lines.next() {
            match serde_json::from_slice(line) {
                Ok(Line::Start { session_start: start }) => records.retain(|record| !start.covers(record)),
                Ok(Line::Record(record)) => records.push(record),
                Err(_) if lines.peek().is_none() || line.is_empty() => {}
                Err(error) => {
                    let uri = storage.uri(name);
                    return Err(TrainerError::BadMetrics { uri, line: index + 1, source: error });
                }
            }
        }
    }
    Ok(records)
}
