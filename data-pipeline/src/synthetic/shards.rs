//! Shards: which scenes stand in which file, their rows as Parquet row groups, and the upload of one file.
//!
//! Row groups are encoded by many threads, each on its own; the one writer of a shard only appends them in order.

use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use sha2::{Digest, Sha256};

use super::captions::captions;
use super::columns::{Columns, ROW_GROUP_ROWS, schema, writer_properties};
use super::encoder::JpegEncoder;
use super::options::SynthOptions;
use super::questions::questions_with;
use super::resume::{RECORD_PREFIX, RECORD_SUFFIX, SHARD_SUFFIX, ShardRecord};
use super::scene::Scene;
use super::splits::{SceneSource, Split};
use crate::error::{DataError, Result};
use crate::hex::hex;
use crate::store::Location;
use crate::upload::Upload;

/// One shard to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShardPlan {
    pub(super) split: Split,
    /// Number in its split, from 0.
    pub(super) number: u32,
    /// Index of its first scene in the split.
    pub(super) first: u64,
    pub(super) rows: u32,
}

impl ShardPlan {
    /// Its name below the corpus.
    pub(super) fn name(&self) -> String {
        format!("{}/{:05}{SHARD_SUFFIX}", self.split.name(), self.number)
    }

    /// The name of the record that says that it is complete.
    pub(super) fn record_name(&self) -> String {
        format!("{}/{RECORD_PREFIX}{:05}{RECORD_SUFFIX}", self.split.name(), self.number)
    }

    /// First row and number of rows of each row group.
    pub(super) fn row_groups(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let rows = self.rows;
        (0..rows).step_by(ROW_GROUP_ROWS as usize).map(move |first| (first, ROW_GROUP_ROWS.min(rows - first)))
    }
}

/// The shards of a corpus, split by split.
pub(super) fn plan_shards(options: &SynthOptions) -> Vec<ShardPlan> {
    let mut shards = Vec::new();
    for split in Split::ALL {
        let scenes = split.scenes(options);
        for number in 0..scenes.div_ceil(options.shard_rows.into()) {
            let first = number * u64::from(options.shard_rows);
            let rows = (scenes - first).min(options.shard_rows.into()) as u32;
            shards.push(ShardPlan { split, number: number as u32, first, rows });
        }
    }
    shards
}

/// Everything that turns a row number into bytes; shared by all threads.
pub(super) struct Encoder {
    options: SynthOptions,
    source: SceneSource,
    /// Draws of the scenes of the two test splits.
    test_draws: [Vec<u64>; 2],
    schema: SchemaRef,
    properties: WriterProperties,
    columns: ArrowRowGroupWriterFactory,
}

impl Encoder {
    /// Draws the scenes of the test splits and prepares the columns.
    ///
    /// # Errors
    /// [`DataError::Setting`] when the test splits cannot be filled.
    pub(super) fn new(options: &SynthOptions) -> Result<Self> {
        let source = SceneSource::new(options);
        let draws = |split| source.distinct_draws(split, options.test_scenes);
        let test_draws = [draws(Split::TestSeen)?, draws(Split::TestUnseen)?];
        let schema = schema();
        let properties = writer_properties();
        let (_, columns) = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties.clone()))
            .and_then(ArrowWriter::into_serialized_writer)
            .map_err(encode_error)?;
        Ok(Self { options: options.clone(), source, test_draws, schema, properties, columns })
    }

    fn scene(&self, split: Split, index: u64) -> Scene {
        let draw = match split {
            Split::Train => index,
            Split::TestSeen => self.test_draws[0][index as usize],
            Split::TestUnseen => self.test_draws[1][index as usize],
        };
        self.source.draw(split, draw)
    }

    /// The encoded columns of one row group.
    ///
    /// # Errors
    /// [`DataError::Encode`].
    pub(super) fn row_group(&self, shard: ShardPlan, first_row: u32, rows: u32) -> Result<RowGroup> {
        let mut columns = Columns::default();
        let mut jpeg = JpegEncoder::new(self.options.jpeg_quality)?;
        let key_width = (self.options.shard_rows - 1).max(1).ilog10() as usize + 1;
        for row in first_row..first_row + rows {
            let scene = self.scene(shard.split, shard.first + u64::from(row));
            let picture = jpeg.encode(&scene, self.options.image_size)?;
            columns.captions(&captions(&scene));
            columns.questions(&questions_with(&scene, self.source.pairs()));
            let json = serde_json::to_string(&scene).map_err(|e| DataError::Encode(e.to_string()))?;
            columns.scene.append_value(json);
            columns.url.append_value(format!("synthetic://{}/{}/{}", scene.seed, shard.split.name(), scene.draw));
            columns.key.append_value(format!("{:05}{row:0key_width$}", shard.number));
            columns.sha256.append_value(hex(&Sha256::digest(&picture)));
            columns.jpg.append_value(&picture);
        }
        let batch = columns.finish(&self.schema, self.options.image_size)?;
        let mut writers = self.columns.create_column_writers(0).map_err(encode_error)?.into_iter();
        let mut chunks = Vec::new();
        for (field, column) in self.schema.fields().iter().zip(batch.columns()) {
            for leaf in compute_leaves(field, column).map_err(encode_error)? {
                let mut writer = writers.next().expect("invariant: one writer per leaf column");
                writer.write(&leaf).map_err(encode_error)?;
                chunks.push(writer.close().map_err(encode_error)?);
            }
        }
        Ok(RowGroup { chunks, rows })
    }

    /// Starts a shard at `out`.
    ///
    /// # Errors
    /// [`DataError::Encode`].
    pub(super) fn start_shard(&self, out: &Location, plan: ShardPlan) -> Result<ShardWriter> {
        let (file, _) = ArrowWriter::try_new(Vec::new(), self.schema.clone(), Some(self.properties.clone()))
            .and_then(ArrowWriter::into_serialized_writer)
            .map_err(encode_error)?;
        let upload = Upload::new(out.child(&plan.name()));
        Ok(ShardWriter { plan, file, upload, sha256: Sha256::new(), bytes: 0 })
    }
}

/// One encoded row group.
pub(super) struct RowGroup {
    chunks: Vec<ArrowColumnChunk>,
    pub(super) rows: u32,
}

/// A shard on its way to the store, where it appears when it is finished.
pub(super) struct ShardWriter {
    plan: ShardPlan,
    file: SerializedFileWriter<Vec<u8>>,
    upload: Upload,
    sha256: Sha256,
    bytes: u64,
}

impl ShardWriter {
    /// Appends the next row group.
    pub(super) async fn append(&mut self, group: RowGroup) -> Result<()> {
        let mut row_group = self.file.next_row_group().map_err(encode_error)?;
        for chunk in group.chunks {
            chunk.append_to_row_group(&mut row_group).map_err(encode_error)?;
        }
        row_group.close().map_err(encode_error)?;
        self.file.flush().map_err(|e| DataError::Encode(e.to_string()))?;
        self.hand_over().await
    }

    /// Writes the footer and completes the upload.
    pub(super) async fn finish(mut self) -> Result<ShardRecord> {
        self.file.finish().map_err(encode_error)?;
        self.hand_over().await?;
        self.upload.finish().await?;
        Ok(ShardRecord {
            name: self.plan.name(),
            rows: self.plan.rows.into(),
            bytes: self.bytes,
            sha256: hex(&self.sha256.finalize()),
        })
    }

    /// Gives the upload up and leaves nothing behind where the store allows it.
    pub(super) async fn abort(self) {
        self.upload.abort().await;
    }

    /// Bytes handed to the store so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    async fn hand_over(&mut self) -> Result<()> {
        let bytes = std::mem::take(self.file.inner_mut());
        self.sha256.update(&bytes);
        self.bytes += bytes.len() as u64;
        self.upload.push(&bytes).await
    }
}

fn encode_error(error: parquet::errors::ParquetError) -> DataError {
    DataError::Encode(format!("a Parquet row group: {error}"))
}
