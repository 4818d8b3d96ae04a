//! Parquet shards in an object store: footers, and row groups or parts of them by ranged reads.

mod raw_text;
mod whole;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryViewArray, ListArray, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use futures::{FutureExt, TryStreamExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use crate::error::{DataError, Result};
use crate::object_reader::{Footer, ObjectReader, panicked, parquet_error, read_error};
use crate::store::Location;

pub(crate) use raw_text::is_not_utf8;

/// Image columns in the order of preference. img2dataset names the column after its encode format.
pub const IMAGE_COLUMNS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];
/// Columns of a shard that training reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// Encoded image bytes.
    pub image: String,
    /// The caption.
    pub caption: String,
    /// Several captions of one image, when the shard has them.
    pub captions: Option<String>,
    /// img2dataset's per-row status, when the shard has it.
    pub status: Option<String>,
    /// img2dataset's key, when the shard has it.
    pub key: Option<String>,
}

/// One shard: its place, its footer and its columns.
#[derive(Clone)]
pub struct Shard {
    /// The place.
    pub location: Location,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the footer, which holds the place and the statistics of every column: another file has another one.
    pub fingerprint: String,
    /// The columns that are read.
    pub columns: Columns,
    schema: SchemaRef,
    metadata: ArrowReaderMetadata,
    reader: ObjectReader,
}

/// Rows of a shard that are read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The Parquet row group.
    pub row_group: u32,
    /// First row inside it.
    pub first: u32,
    /// Rows.
    pub rows: u32,
}

/// The rows of one part.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Encoded images; null where the download failed. Views of the pages as read: images are not copied once more.
    pub images: BinaryViewArray,
    /// Captions; may be null.
    pub captions: StringArray,
    /// Several captions per image, when the shard has them.
    pub all_captions: Option<ListArray>,
    /// A question about each image, in sources of questions; the captions are its answers.
    pub questions: Option<StringArray>,
    /// Several questions about each image with an answer each, of shards whose questions were asked for.
    pub question_lists: Option<ListArray>,
    /// Per-row status, when the shard has it.
    pub status: Option<StringArray>,
    /// Per-row key, when the shard has it.
    pub keys: Option<StringArray>,
    /// Rows whose caption is no UTF-8; null in `captions`.
    pub bad_texts: BTreeSet<usize>,
}

impl Rows {
    /// Bytes that these rows hold in memory.
    pub fn bytes(&self) -> usize {
        self.images.get_array_memory_size() + self.captions.get_array_memory_size()
    }
}

impl Shard {
    /// Reads a shard's footer and checks its columns.
    ///
    /// # Errors
    /// [`DataError::Store`], [`DataError::Parquet`] or [`DataError::Schema`], each with the shard's URI.
    pub async fn open(location: Location, size: u64) -> Result<Self> {
        let mut shard = Self::open_any(location, size).await?;
        shard.columns = find_columns(&shard.location, shard.schema())?;
        shard.metadata =
            with_views(shard.metadata, &shard.columns.image).map_err(|e| read_error(&shard.location, e))?;
        Ok(shard)
    }

    /// Reads the footer of a Parquet file whose columns are not those that training reads.
    ///
    /// # Errors
    /// [`DataError::Store`] or [`DataError::Parquet`] with the file's URI.
    pub async fn open_any(location: Location, size: u64) -> Result<Self> {
        let Footer { metadata, fingerprint, reader } = Footer::read(&location, size).await?;
        let (columns, schema) = (Columns::default(), metadata.schema().clone());
        Ok(Self { location, size, fingerprint, columns, schema, metadata, reader })
    }

    /// The Arrow schema of the file.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Bytes of the decoded footer in memory.
    pub fn footer_bytes(&self) -> usize {
        self.metadata.metadata().memory_size()
    }

    /// The parts in which the shard is read: whole row groups, or even parts of those above `read_unit` bytes where the
    /// shard has a page index (without one, a part costs the whole row group).
    pub fn parts(&self, read_unit: u64) -> Vec<Part> {
        let groups = self.metadata.metadata().row_groups().iter().enumerate();
        groups
            .flat_map(|(index, group)| {
                let rows = u32::try_from(group.num_rows()).unwrap_or(0);
                let has_pages = group.columns().iter().all(|column| column.offset_index_offset().is_some());
                let parts = if has_pages { self.row_group_bytes(index).div_ceil(read_unit.max(1)) as u32 } else { 1 };
                let step = rows.div_ceil(parts.max(1)).max(1);
                (0..rows.max(1)).step_by(step as usize).map(move |first| Part {
                    row_group: index as u32,
                    first,
                    rows: step.min(rows - first),
                })
            })
            .collect()
    }

    /// Bytes of the columns that training reads, decoded, in a part.
    pub fn part_bytes(&self, part: &Part) -> u64 {
        let group = self.metadata.metadata().row_group(part.row_group as usize);
        let rows = group.num_rows().max(1) as u64;
        (self.row_group_bytes(part.row_group as usize) * u64::from(part.rows)).div_ceil(rows)
    }

    fn row_group_bytes(&self, index: usize) -> u64 {
        let wanted = self.wanted();
        let group = self.metadata.metadata().row_group(index);
        let columns = group.columns().iter();
        columns
            .filter(|c| wanted.iter().any(|w| c.column_path().parts().first().is_some_and(|root| root == w)))
            .map(|c| c.uncompressed_size().max(0) as u64)
            .sum()
    }

    fn wanted(&self) -> Vec<&str> {
        let c = &self.columns;
        let optional = [&c.captions, &c.status, &c.key];
        [&c.image, &c.caption]
            .into_iter()
            .map(String::as_str)
            .chain(optional.into_iter().flatten().map(String::as_str))
            .collect()
    }

    /// Reads the training columns of a part.
    ///
    /// # Errors
    /// [`DataError::Store`] when the store fails after its retries, [`DataError::Parquet`] when the bytes are damaged,
    /// [`DataError::Changed`] when the shard is not the one that was opened.
    pub async fn read(&self, part: &Part) -> Result<Rows> {
        match self.read_columns(part, &self.wanted()).await {
            Ok(batch) => self.rows(part, &batch, None),
            // One text that is no UTF-8 must not cost its whole row group: texts are read as bytes.
            Err(DataError::Parquet { source, .. }) if is_not_utf8(&source) => {
                let without: Vec<&str> = self.wanted();
                let without: Vec<&str> = without.into_iter().filter(|name| !self.is_caption(name)).collect();
                let batch = self.read_columns(part, &without).await?;
                let texts = raw_text::read(&self.reader, self.metadata.metadata(), part, &self.columns.caption).await;
                self.rows(part, &batch, Some(texts.map_err(|e| read_error(&self.location, e))?))
            }
            Err(error) => Err(error),
        }
    }

    fn is_caption(&self, name: &str) -> bool {
        name == self.columns.caption || Some(name) == self.columns.captions.as_deref()
    }

    fn rows(&self, part: &Part, batch: &RecordBatch, texts: Option<raw_text::Texts>) -> Result<Rows> {
        let text = |name: &str| self.cast(batch, name, &DataType::Utf8).map(|a| a.as_string::<i32>().clone());
        let binary = self.cast(batch, &self.columns.image, &DataType::BinaryView)?;
        let all_captions = match &self.columns.captions {
            Some(name) if texts.is_none() => Some(self.captions_of(batch, name)?),
            _ => None,
        };
        let (captions, bad_texts) = match texts {
            Some(texts) => texts,
            None => (text(&self.columns.caption)?, BTreeSet::new()),
        };
        // A damaged footer may promise more rows than the pages hold, or fewer.
        let expected = part.rows as usize;
        if batch.num_rows() != expected || captions.len() != expected {
            let problem = format!("its footer says {expected} rows, its pages hold {}", batch.num_rows());
            return Err(parquet_error(&self.location, ParquetError::General(problem)));
        }
        Ok(Rows {
            images: binary.as_binary_view().clone(),
            captions,
            all_captions,
            questions: None,
            question_lists: None,
            status: self.columns.status.as_deref().map(text).transpose()?,
            keys: self.columns.key.as_deref().map(text).transpose()?,
            bad_texts,
        })
    }

    fn captions_of(&self, batch: &RecordBatch, name: &str) -> Result<ListArray> {
        let list = DataType::List(Arc::new(arrow::datatypes::Field::new_list_field(DataType::Utf8, true)));
        Ok(self.cast(batch, name, &list)?.as_list::<i32>().clone())
    }

    /// The questions about the images of a part, as the synthetic corpus has them.
    ///
    /// # Errors
    /// As [`Shard::read`]; [`DataError::Schema`] when the shard has no column of questions with their answers.
    pub async fn questions(&self, part: &Part) -> Result<ListArray> {
        let batch = self.read_columns(part, &["questions"]).await?;
        let lists = batch.column_by_name("questions").and_then(|column| column.as_list_opt::<i32>());
        let has_texts = |lists: &&ListArray| {
            let fields = lists.values().as_struct_opt();
            let texts = |name| fields?.column_by_name(name)?.as_string_opt::<i32>();
            texts("question").is_some() && texts("answer").is_some()
        };
        let missing = || "no column `questions` with a question and an answer in each entry".into();
        let found = lists.filter(has_texts).cloned();
        found.ok_or_else(|| schema_error(&self.location, self.schema(), missing()))
    }

    /// What the footer says under a key.
    pub fn note(&self, key: &str) -> Option<&str> {
        let notes = self.metadata.metadata().file_metadata().key_value_metadata()?;
        notes.iter().find(|note| note.key == key)?.value.as_deref()
    }

    /// Reads some columns of a part as one record batch.
    ///
    /// # Errors
    /// As [`Shard::read`].
    pub async fn read_columns(&self, part: &Part, names: &[&str]) -> Result<RecordBatch> {
        let fail = |e| read_error(&self.location, e);
        let metadata = self.page_index(part).await.map_err(fail)?;
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(self.reader.clone(), metadata);
        let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied());
        let all = self.metadata.metadata().row_group(part.row_group as usize).num_rows() as usize;
        let (first, rows) = (part.first as usize, part.rows as usize);
        let mut builder =
            builder.with_row_groups(vec![part.row_group as usize]).with_projection(mask).with_batch_size(rows.max(1));
        if rows < all {
            let selectors = vec![RowSelector::skip(first), RowSelector::select(rows)];
            builder = builder.with_row_selection(RowSelection::from(selectors));
        }
        let stream = builder.build().map_err(fail)?;
        let schema = stream.schema().clone();
        // The Parquet crate panics on some damaged pages; a bad shard must not take the rank with it.
        let read = AssertUnwindSafe(stream.try_collect::<Vec<RecordBatch>>()).catch_unwind().await;
        let batches = read.unwrap_or_else(|_| Err(panicked())).map_err(fail)?;
        // A part is one batch as a rule; joining would copy every image.
        if let [only] = batches.as_slice() {
            return Ok(only.clone());
        }
        arrow::compute::concat_batches(&schema, &batches).map_err(|e| fail(ParquetError::ArrowError(e.to_string())))
    }

    /// The footer, with the places of pages where only some of a row group's rows are read.
    async fn page_index(&self, part: &Part) -> parquet::errors::Result<ArrowReaderMetadata> {
        let known = self.metadata.metadata();
        if i64::from(part.rows) == known.row_group(part.row_group as usize).num_rows() {
            return Ok(self.metadata.clone());
        }
        let reader = ParquetMetaDataReader::new_with_metadata(ParquetMetaData::clone(known));
        let mut reader = reader.with_offset_index_policy(PageIndexPolicy::Optional);
        reader.load_page_index(&mut self.reader.clone()).await?;
        let metadata = ArrowReaderMetadata::try_new(Arc::new(reader.finish()?), ArrowReaderOptions::new())?;
        with_views(metadata, &self.columns.image)
    }

    fn cast(&self, batch: &RecordBatch, name: &str, to: &DataType) -> Result<Arc<dyn Array>> {
        let column = batch
            .column_by_name(name)
            .ok_or_else(|| schema_error(&self.location, batch.schema_ref(), format!("no column `{name}`")))?;
        let wrong = |e: arrow::error::ArrowError| {
            schema_error(&self.location, batch.schema_ref(), format!("column `{name}`: {e}"))
        };
        arrow::compute::cast(column, to).map_err(wrong)
    }
}

/// The same file, of which the image column is read as views of the pages' memory.
fn with_views(metadata: ArrowReaderMetadata, image: &str) -> parquet::errors::Result<ArrowReaderMetadata> {
    let retyped = |field: &Arc<Field>| match field.name() == image {
        true => Arc::new(field.as_ref().clone().with_data_type(DataType::BinaryView)),
        false => field.clone(),
    };
    let fields: Vec<_> = metadata.schema().fields().iter().map(retyped).collect();
    let schema = Arc::new(Schema::new_with_metadata(fields, metadata.schema().metadata().clone()));
    ArrowReaderMetadata::try_new(metadata.metadata().clone(), ArrowReaderOptions::new().with_schema(schema))
}

fn schema_error(location: &Location, schema: &SchemaRef, problem: String) -> DataError {
    let columns = schema.fields().iter().map(|f| format!("{}: {}", f.name(), f.data_type()));
    DataError::Schema { uri: location.uri().into(), problem, columns: columns.collect::<Vec<_>>().join(", ") }
}

fn find_columns(location: &Location, schema: &SchemaRef) -> Result<Columns> {
    let typed = |name: &str, accepts: fn(&DataType) -> bool| {
        schema.field_with_name(name).ok().filter(|f| accepts(f.data_type())).map(|f| f.name().clone())
    };
    let is_text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let is_bytes = |t: &DataType| matches!(t, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    let is_list = |t: &DataType| matches!(t, DataType::List(_) | DataType::LargeList(_));
    let image = IMAGE_COLUMNS.iter().find_map(|name| typed(name, is_bytes));
    let caption = typed("caption", is_text);
    let (Some(image), Some(caption)) = (image.clone(), caption.clone()) else {
        let missing = if image.is_none() { "no binary image column" } else { "no text column `caption`" };
        return Err(schema_error(location, schema, missing.into()));
    };
    Ok(Columns {
        image,
        caption,
        captions: typed("captions", is_list),
        status: typed("status", is_text),
        key: typed("key", is_text),
    })
}
