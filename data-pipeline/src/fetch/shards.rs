//! Shards and their parts in the store: what is there, what is complete, and how parts become a shard.
//!
//! | object | written | says |
//! |---|---|---|
//! | `fetch.json` | first | which input and which settings this output is made from |
//! | `_input/rows.part` | before it, where the input is a text list | the rows of the list, as Parquet |
//! | `_parts/00000/0003.part` | appears complete | the rows of one part of an unfinished shard, as Parquet |
//! | `00000.parquet` | appears complete, when all its parts are there | the shard |
//! | `00000_stats.json` | after its shard | the shard is finished; counts by reason, and its size |
//!
//! Parts go when the stats are there. A shard without fitting stats is complete all the same, for it appeared at once:
//! only its counts are made again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use object_store::{PutMode, PutPayload};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};

use super::file::{ParquetFile, read_error};
use super::input::FileIdentity;
use super::options::{ImageFormat, ROW_GROUP_ROWS, Settings};
use super::rows::{FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE, SUCCESS, counted, writer_properties};
use crate::error::{DataError, Result};
use crate::store::Location;
use crate::upload::Upload;

/// Raised whenever the same answers give other bytes than before.
const FORMAT_VERSION: u32 = 1;
const ORIGIN: &str = "fetch.json";
const PARTS: &str = "_parts";
const STATS_SUFFIX: &str = "_stats.json";
const SHARD_SUFFIX: &str = ".parquet";

/// What `fetch.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    format_version: u32,
    settings: Settings,
    /// What tells the blocklists from others.
    blocklists: Option<String>,
    input: Vec<FileIdentity>,
}

/// What `…_stats.json` says: img2dataset's fields, and the size of the shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardStats {
    /// Rows.
    pub count: u64,
    /// Rows with a picture.
    pub successes: u64,
    /// Rows without a download.
    pub failed_to_download: u64,
    /// Rows whose download made no picture.
    pub failed_to_resize: u64,
    /// Seconds from start to end.
    pub duration: f64,
    /// When work on the shard started, in seconds since 1970. After an interruption: when it went on.
    pub start_time: f64,
    /// When it was finished.
    pub end_time: f64,
    /// Rows by `success` or reason of failure.
    pub status_dict: BTreeMap<String, u64>,
    /// Bytes of the shard.
    pub shard_bytes: u64,
}

/// Counts of rows by what became of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    statuses: BTreeMap<String, u64>,
    reasons: BTreeMap<String, u64>,
}

impl Counts {
    /// Counts rows that have the columns `status` and `error_message`.
    pub(super) fn add(&mut self, batch: &RecordBatch) {
        let column = |name: &str| batch.column_by_name(name).map(|column| column.as_string::<i32>());
        let (Some(statuses), Some(messages)) = (column("status"), column("error_message")) else { return };
        for row in 0..batch.num_rows() {
            let status = statuses.value(row);
            let reason = if messages.is_valid(row) { counted(messages.value(row)) } else { status };
            *self.statuses.entry(status.to_owned()).or_default() += 1;
            *self.reasons.entry(reason.to_owned()).or_default() += 1;
        }
    }

    fn of(&self, status: &str) -> u64 {
        self.statuses.get(status).copied().unwrap_or_default()
    }

    /// The stats of a shard of this size that was begun at `start`.
    pub(super) fn stats(self, shard_bytes: u64, start: f64) -> ShardStats {
        let end = now();
        ShardStats {
            count: self.statuses.values().sum(),
            successes: self.of(SUCCESS),
            failed_to_download: self.of(FAILED_TO_DOWNLOAD),
            failed_to_resize: self.of(FAILED_TO_RESIZE),
            duration: end - start,
            start_time: start,
            end_time: end,
            status_dict: self.reasons,
            shard_bytes,
        }
    }
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

impl Origin {
    /// The origin of an output of this version.
    pub(super) fn new(settings: &Settings, blocklists: Option<&str>, input: Vec<FileIdentity>) -> Self {
        let (settings, blocklists) = (settings.clone(), blocklists.map(Into::into));
        Self { format_version: FORMAT_VERSION, settings, blocklists, input }
    }

    /// Whether the place is taken for this origin already. Changes nothing.
    ///
    /// # Errors
    /// [`DataError::Setting`] when it was taken for something else, or holds shards of unknown origin.
    pub(super) async fn check(&self, out: &Location) -> Result<bool> {
        let place = out.child(ORIGIN);
        if let Some(found) = place.read_if_there().await? {
            return same(&place, &found, self).map(|()| true);
        }
        match out.list(SHARD_SUFFIX).await?.first() {
            None => Ok(false),
            Some((foreign, _)) => Err(DataError::Setting(format!(
                "{}: there are Parquet files already ({}), and no {ORIGIN} says where they come from. Nothing was \
                 changed. Choose another place",
                out.uri(),
                foreign.uri()
            ))),
        }
    }

    /// Takes the place, or finds that it was taken for the same.
    ///
    /// # Errors
    /// Those of [`Self::check`].
    pub(super) async fn claim(&self, out: &Location) -> Result<()> {
        if self.check(out).await? {
            return Ok(());
        }
        let place = out.child(ORIGIN);
        // Two runs that start at the same moment: where the store can create exclusively, one of them reads the other's.
        let payload = PutPayload::from(json(self));
        match place.store.put_opts(&place.path, payload, PutMode::Create.into()).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
                place.write(json(self)).await
            }
            Err(object_store::Error::AlreadyExists { .. }) => same(&place, &place.read().await?, self),
            Err(source) => Err(place.error("write", source)),
        }
    }
}

/// Nothing, when the origin found is the one asked for.
fn same(place: &Location, found: &[u8], asked: &Origin) -> Result<()> {
    let found: Origin = serde_json::from_slice(found).map_err(|error| {
        DataError::Setting(format!(
            "{}: not a record of a fetch of this version: {error}. Choose another place, or delete it",
            place.uri()
        ))
    })?;
    if found == *asked {
        return Ok(());
    }
    let (mut before, mut now) = (BTreeMap::new(), BTreeMap::new());
    flatten("", &serde_json::to_value(&found).unwrap_or_default(), &mut before);
    flatten("", &serde_json::to_value(asked).unwrap_or_default(), &mut now);
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let text = |values: &BTreeMap<String, String>, name: &String| values.get(name).cloned().unwrap_or("nothing".into());
    let differences: Vec<String> = names
        .into_iter()
        .filter(|name| before.get(*name) != now.get(*name))
        .map(|name| format!("{name} was {} and is {}", text(&before, name), text(&now, name)))
        .take(8)
        .collect();
    Err(DataError::Setting(format!(
        "{}: this output was begun with another input or other settings: {}. Nothing was changed. Repeat the settings \
         to continue, or choose another place",
        place.uri(),
        differences.join("; ")
    )))
}

/// Every value below `value` by its path, such as `settings.picture.size`.
fn flatten(path: &str, value: &serde_json::Value, into: &mut BTreeMap<String, String>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        serde_json::Value::Object(fields) => fields.iter().for_each(|(name, v)| flatten(&below(name), v, into)),
        serde_json::Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(index, v)| flatten(&format!("{path}[{index}]"), v, into));
        }
        other => {
            into.insert(path.to_owned(), other.to_string());
        }
    }
}

/// What is in the store.
#[derive(Debug, Default)]
pub(super) struct Found {
    shards: BTreeMap<u32, u64>,
    stats: BTreeSet<u32>,
    parts: BTreeMap<u32, BTreeSet<u32>>,
}

impl Found {
    /// Lists the output.
    ///
    /// # Errors
    /// [`DataError::Store`].
    pub(super) async fn list(out: &Location) -> Result<Self> {
        let mut found = Self::default();
        for (place, meta) in out.list("").await? {
            let names: Vec<&str> = out.below(&place.path).split('/').collect();
            match names.as_slice() {
                [PARTS, shard, part] => {
                    if let (Some(shard), Some(part)) = (number(shard, ""), number(part, ".part")) {
                        found.parts.entry(shard).or_default().insert(part);
                    }
                }
                [name] => {
                    if let Some(shard) = number(name, SHARD_SUFFIX) {
                        found.shards.insert(shard, meta.size);
                    } else if let Some(shard) = number(name, STATS_SUFFIX) {
                        found.stats.insert(shard);
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Parts of a shard that are there.
    pub(super) fn parts(&self, shard: u32) -> BTreeSet<u32> {
        self.parts.get(&shard).cloned().unwrap_or_default()
    }

    /// The stats of a shard that is complete; `None` when it must be made.
    ///
    /// # Errors
    /// [`DataError::Store`].
    pub(super) async fn finished(&self, files: &ShardFiles, shard: u32, rows: u64) -> Result<Option<ShardStats>> {
        let Some(&size) = self.shards.get(&shard) else { return Ok(None) };
        if self.stats.contains(&shard) {
            let stats = files.out.child(&files.stats_name(shard)).read().await?;
            // Stats that cannot be read are no stats.
            match serde_json::from_slice::<ShardStats>(&stats) {
                Ok(stats) if stats.shard_bytes == size && stats.count == rows => return Ok(Some(stats)),
                _ => {}
            }
        }
        let counts = match files.count(shard, size, rows).await {
            Ok(Some(counts)) => counts,
            // Damaged, or another file: it is made again.
            Ok(None) | Err(DataError::Parquet { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let stats = counts.stats(size, now());
        files.write_stats(shard, &stats).await?;
        Ok(Some(stats))
    }
}

fn number(name: &str, suffix: &str) -> Option<u32> {
    let digits = name.strip_suffix(suffix)?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Names and contents of the objects of an output.
#[derive(Clone)]
pub(super) struct ShardFiles {
    pub(super) out: Location,
    pub(super) schema: SchemaRef,
    pub(super) format: ImageFormat,
}

impl ShardFiles {
    fn stats_name(&self, shard: u32) -> String {
        format!("{shard:05}{STATS_SUFFIX}")
    }

    fn part(&self, shard: u32, part: u32) -> Location {
        self.out.child(&format!("{PARTS}/{shard:05}/{part:04}.part"))
    }

    /// Stores a part; it appears complete or not at all.
    pub(super) async fn write_part(&self, shard: u32, part: u32, batches: &[RecordBatch]) -> Result<()> {
        let mut writer = ArrowWriter::try_new(Vec::new(), self.schema.clone(), Some(writer_properties(self.format)))
            .map_err(encode_error)?;
        for batch in batches {
            writer.write(batch).map_err(encode_error)?;
            writer.flush().map_err(encode_error)?;
        }
        self.part(shard, part).write(writer.into_inner().map_err(encode_error)?).await
    }

    /// Makes a shard and its stats of its parts, and removes them.
    pub(super) async fn join(&self, shard: u32, parts: Range<u32>, start: f64) -> Result<ShardStats> {
        let mut writer = self.start_shard(shard)?;
        for part in parts.clone() {
            let place = self.part(shard, part);
            let bytes = place.read().await?;
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
                .and_then(|builder| builder.with_batch_size(ROW_GROUP_ROWS as usize).build());
            for batch in reader.map_err(|e| read_error(&place, e))? {
                writer.append(&batch.map_err(|e| read_error(&place, e.into()))?).await?;
            }
        }
        let stats = writer.finish(start).await?;
        self.write_stats(shard, &stats).await?;
        self.remove_parts(shard, parts).await?;
        Ok(stats)
    }

    /// Removes parts that are not needed any more; they may be gone already.
    pub(super) async fn remove_parts(&self, shard: u32, parts: impl IntoIterator<Item = u32>) -> Result<()> {
        for part in parts {
            self.part(shard, part).delete().await?;
        }
        Ok(())
    }

    /// Begins a shard, which appears when it is finished.
    pub(super) fn start_shard(&self, shard: u32) -> Result<ShardWriter> {
        let properties = writer_properties(self.format);
        let writer = ArrowWriter::try_new(Vec::new(), self.schema.clone(), Some(properties)).map_err(encode_error)?;
        let upload = Upload::new(self.out.child(&format!("{shard:05}{SHARD_SUFFIX}")));
        Ok(ShardWriter { writer, upload, counts: Counts::default(), bytes: 0 })
    }

    /// Opens a finished shard.
    pub(super) async fn open_shard(&self, shard: u32, size: u64) -> Result<ParquetFile> {
        ParquetFile::open(self.out.child(&format!("{shard:05}{SHARD_SUFFIX}")), size).await
    }

    /// Writes the statement that a shard is complete.
    pub(super) async fn write_stats(&self, shard: u32, stats: &ShardStats) -> Result<()> {
        self.out.child(&self.stats_name(shard)).write(json(stats)).await
    }

    /// Counts the rows of a shard in the store; `None` when it is not the shard it should be.
    async fn count(&self, shard: u32, size: u64, rows: u64) -> Result<Option<Counts>> {
        let file = self.open_shard(shard, size).await?;
        if file.rows() != rows || file.schema().fields() != self.schema.fields() {
            return Ok(None);
        }
        let columns: Vec<usize> =
            ["status", "error_message"].iter().filter_map(|name| self.schema.index_of(name).ok()).collect();
        let mut counts = Counts::default();
        let mut batches = file.read_from(0, &columns, ROW_GROUP_ROWS as usize)?;
        while let Some(batch) = batches.try_next().await.map_err(|e| read_error(&file.location, e))? {
            counts.add(&batch);
        }
        Ok(Some(counts))
    }
}

/// A shard on its way to the store.
pub(super) struct ShardWriter {
    writer: ArrowWriter<Vec<u8>>,
    upload: Upload,
    counts: Counts,
    bytes: u64,
}

impl ShardWriter {
    /// Appends one row group.
    pub(super) async fn append(&mut self, batch: &RecordBatch) -> Result<()> {
        self.counts.add(batch);
        self.writer.write(batch).map_err(encode_error)?;
        self.writer.flush().map_err(encode_error)?;
        self.writer.sync().map_err(|e| DataError::Encode(e.to_string()))?;
        // The writer counts what it has written by itself; its bytes may leave.
        let bytes = std::mem::take(self.writer.inner_mut());
        self.bytes += bytes.len() as u64;
        self.upload.push(&bytes).await
    }

    /// Writes the footer and makes the shard appear.
    pub(super) async fn finish(mut self, start: f64) -> Result<ShardStats> {
        let rest = self.writer.into_inner().map_err(encode_error)?;
        self.bytes += rest.len() as u64;
        self.upload.push(&rest).await?;
        self.upload.finish().await?;
        Ok(self.counts.stats(self.bytes, start))
    }
}

fn encode_error(error: parquet::errors::ParquetError) -> DataError {
    DataError::Encode(format!("a Parquet row group: {error}"))
}

fn json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("invariant: records are plain data");
    bytes.push(b'\n');
    bytes
}
