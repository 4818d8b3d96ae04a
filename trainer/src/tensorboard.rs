//! TensorBoard event files: one run folder per stage, one file per launch.
//!
//! ```text
//! <run.output>/tb/<stage>/events.out.tfevents.<launch>
//! ```
//!
//! Steps are counted per stage. Launch names sort by take-over, TensorBoard reads the files of a folder in that order,
//! and each begins with a session start (`SessionLog.START`) at its first step: a viewer drops what an earlier launch
//! wrote from that step on, so that a resumed run shows one curve. The purge concerns all tags of a folder, whence a
//! folder per stage; TensorBoard shows the stages as runs.
//!
//! Of `tensorboard-rs` only the record format and the summaries are used: its event writer runs a thread of its own
//! which panics on a full disk, and cannot write a session start. Here bytes go through [`SegmentFile`], whose errors
//! are values. `tensorboard_rs::summary` and `protobuf` appear in no signature.

use std::time::SystemTime;

use data_pipeline::store::Location;
use protobuf::Message;
use tensorboard_proto::event::{Event, SessionLog, SessionLog_SessionStatus};
use tensorboard_rs::record_writer::RecordWriter;
use tensorboard_rs::summary::scalar;

use crate::error::{Result, TrainerError};
use crate::segment_file::SegmentFile;

/// What TensorBoard expects at the beginning of a file; from version 2 on it heeds session starts.
const FILE_VERSION: &str = "brain.Event:2";

/// The event file of one stage and launch.
#[derive(Debug)]
pub struct EventWriter {
    file: SegmentFile,
    name: String,
}

impl EventWriter {
    /// Begins the file of `launch` for `stage`; `first_step` is the first step that it will tell of.
    ///
    /// # Errors
    /// [`TrainerError::File`], [`TrainerError::Store`].
    pub fn create(output: &Location, stage: &str, launch: &str, first_step: u64) -> Result<Self> {
        let name = format!("tb/{stage}/events.out.tfevents.{launch}");
        let mut writer = Self { file: SegmentFile::create(output, &name)?, name };
        let mut version = Event::new();
        version.set_file_version(FILE_VERSION.to_owned());
        writer.write(version, 0)?;
        let mut start = SessionLog::new();
        start.set_status(SessionLog_SessionStatus::START);
        let mut session = Event::new();
        session.set_session_log(start);
        writer.write(session, first_step)?;
        Ok(writer)
    }

    /// Adds one value.
    ///
    /// # Errors
    /// [`TrainerError::File`].
    pub fn scalar(&mut self, tag: &str, value: f64, step: u64) -> Result<()> {
        let mut event = Event::new();
        event.set_summary(scalar(tag, value as f32));
        self.write(event, step)
    }

    /// Makes everything so far visible, as [`SegmentFile::flush`] does.
    ///
    /// # Errors
    /// [`TrainerError::File`], [`TrainerError::Store`].
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }

    /// Makes everything visible now.
    ///
    /// # Errors
    /// [`TrainerError::File`], [`TrainerError::Store`].
    pub fn finish(&mut self) -> Result<()> {
        self.file.finish()
    }

    fn write(&mut self, mut event: Event, step: u64) -> Result<()> {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |it| it.as_secs_f64());
        event.set_wall_time(time);
        event.set_step(step as i64);
        let failed = |source| TrainerError::File { path: self.name.clone(), action: "encode", source };
        let message = event.write_to_bytes().map_err(|error| failed(std::io::Error::other(error)))?;
        let mut record = Vec::with_capacity(message.len() + 16);
        RecordWriter::new(&mut record).write(&message).map_err(failed)?;
        self.file.append(&record);
        Ok(())
    }
}
