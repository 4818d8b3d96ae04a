//! Parquet shards in an object store: footers, and row groups or parts of them by ranged reads.

mod columns;
mod raw_text;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, ListArray, StringArray};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{concat_batches, nullif};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use futures::{FutureExt, TryStreamExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use crate::error::{DataError, Result};
use crate::object_reader::{Footer, ObjectReader, panicked, parquet_error, read_error};
use crate::store::Location;

pub use columns::{Columns, IMAGE_COLUMNS, ImageColumn};
pub(crate) use columns::{is_text, is_text_list, list_item};
pub(crate) use raw_text::is_not_utf8;

use crate::rows::{Rows, first_texts};

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

/// Rows whose images are null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NullImages {
    None,
    Some,
    All,
    Unknown,
}

/// A record batch, and by column the rows of which a text is no UTF-8; it is null.
pub(crate) type Mended = (RecordBatch, BTreeMap<String, BTreeSet<usize>>);

impl Shard {
    /// Reads a shard's footer and finds its columns: those that `choice` names, or those with the usual names.
    ///
    /// # Errors
    /// [`DataError::Store`], [`DataError::Parquet`], [`DataError::Schema`] or [`DataError::NotRead`], each with the shard's
    /// URI.
    pub async fn open(location: Location, size: u64, choice: Option<&configs::Columns>) -> Result<Self> {
        let mut shard = Self::open_any(location, size).await?;
        let found = Columns::find(shard.schema(), choice);
        shard.columns = found.map_err(|problem| schema_error(&shard.location, shard.schema(), problem))?;
        shard.check_codecs()?;
        shard.metadata =
            with_views(shard.metadata, &shard.columns.images).map_err(|e| read_error(&shard.location, e))?;
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

    /// # Errors
    /// [`DataError::NotRead`] for a compression that is not read.
    fn check_codecs(&self) -> Result<()> {
        let chunks = self.metadata.metadata().row_groups().iter().flat_map(|group| group.columns());
        match chunks.into_iter().find(|chunk| matches!(chunk.compression(), Compression::LZO)) {
            None => Ok(()),
            Some(chunk) => Err(DataError::NotRead {
                uri: self.location.uri().into(),
                problem: format!("column `{}` is compressed with LZO, which is not read", chunk.column_path()),
                advice: "Write it with zstd, snappy, gzip, brotli, lz4 or without compression",
            }),
        }
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
        let wanted = self.columns.paths();
        let group = self.metadata.metadata().row_group(index);
        let columns = group.columns().iter().filter(|column| {
            let path = column.column_path().string();
            wanted.iter().any(|own| {
                path.strip_prefix(own.as_str()).is_some_and(|rest| matches!(rest.as_bytes(), [] | [b'.', ..]))
            })
        });
        columns.map(|column| column.uncompressed_size().max(0) as u64).sum()
    }

    /// Rows of a part whose images are null, as far as the footer tells.
    pub(crate) fn null_images(&self, part: &Part) -> NullImages {
        let group = self.metadata.metadata().row_group(part.row_group as usize);
        let nulls = |column: &ImageColumn| {
            let path = column.path();
            let chunk = group.columns().iter().find(|chunk| chunk.column_path().string() == path)?;
            chunk.statistics()?.null_count_opt()
        };
        let nulls: Vec<Option<u64>> = self.columns.images.iter().map(nulls).collect();
        let rows = group.num_rows().max(0) as u64;
        match nulls.as_slice() {
            all if all.contains(&Some(0)) => NullImages::None,
            all if all.contains(&None) => NullImages::Unknown,
            all if all.iter().all(|nulls| *nulls == Some(rows)) => NullImages::All,
            _ => NullImages::Some,
        }
    }

    /// Reads the training columns of a part. One text that is no UTF-8 costs itself alone.
    ///
    /// # Errors
    /// [`DataError::Store`] when the store fails after its retries, [`DataError::Parquet`] when the bytes are damaged,
    /// [`DataError::Changed`] when the shard is not the one that was opened.
    pub async fn read(&self, part: &Part) -> Result<Rows> {
        let wanted = self.columns.paths();
        let read = self.read_mended(part, &wanted.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        self.rows(part, &read)
    }

    fn rows(&self, part: &Part, (batch, bad): &Mended) -> Result<Rows> {
        let text = |name: &str| self.texts_of(batch, name);
        let images = self.images_of(batch)?;
        let all_captions = self.columns.captions.as_deref().map(|name| self.lists_of(batch, name)).transpose()?;
        let captions = match (&self.columns.caption, &all_captions) {
            (Some(name), _) => text(name)?,
            (None, Some(lists)) => first_texts(lists),
            (None, None) => StringArray::new_null(batch.num_rows()),
        };
        // A damaged footer may promise more rows than the pages hold, or fewer.
        let expected = part.rows as usize;
        if batch.num_rows() != expected || captions.len() != expected {
            let problem = format!("its footer says {expected} rows, its pages hold {}", batch.num_rows());
            return Err(parquet_error(&self.location, ParquetError::General(problem)));
        }
        let of_captions = [&self.columns.caption, &self.columns.captions].into_iter().flatten();
        Ok(Rows {
            images,
            captions,
            all_captions,
            questions: None,
            question_lists: None,
            status: self.columns.status.as_deref().map(text).transpose()?,
            keys: self.columns.key.as_deref().map(text).transpose()?,
            bad_texts: of_captions.filter_map(|name| bad.get(name)).flatten().copied().collect(),
            refused: BTreeMap::new(),
        })
    }

    /// The images of a batch: of several columns the first one that has bytes in a row.
    fn images_of(&self, batch: &RecordBatch) -> Result<BinaryViewArray> {
        let fail = |e: arrow::error::ArrowError| read_error(&self.location, ParquetError::ArrowError(e.to_string()));
        let mut found: Option<ArrayRef> = None;
        for column in &self.columns.images {
            let whole = self.column(batch, &column.name)?;
            let bytes = match whole.as_struct_opt() {
                Some(members) => {
                    let member = members.column_by_name("bytes").cloned();
                    let member = member.ok_or_else(|| {
                        schema_error(
                            &self.location,
                            batch.schema_ref(),
                            format!("column `{}` has no bytes", column.name),
                        )
                    })?;
                    nullif(&member, &arrow::compute::is_null(members).map_err(fail)?).map_err(fail)?
                }
                None => whole.clone(),
            };
            let bytes = arrow::compute::cast(&bytes, &DataType::BinaryView).map_err(fail)?;
            found = Some(match found {
                None => bytes,
                Some(first) => {
                    let views = first.as_binary_view();
                    let is_there = |row| views.is_valid(row) && !views.value(row).is_empty();
                    let mask: BooleanArray = (0..views.len()).map(|row| Some(is_there(row))).collect();
                    zip(&mask, &first, &bytes).map_err(fail)?
                }
            });
        }
        let found = found.ok_or_else(|| schema_error(&self.location, batch.schema_ref(), "no image column".into()))?;
        Ok(found.as_binary_view().clone())
    }

    /// The texts of a column.
    pub(crate) fn texts_of(&self, batch: &RecordBatch, name: &str) -> Result<StringArray> {
        Ok(self.cast(batch, name, &DataType::Utf8)?.as_string::<i32>().clone())
    }

    /// Adds the lists of captions that were read by themselves.
    pub(crate) fn add_lists(&self, rows: &mut Rows, (batch, bad): &Mended, name: &str) -> Result<()> {
        rows.all_captions = Some(self.lists_of(batch, name)?);
        rows.bad_texts.extend(bad.get(name).into_iter().flatten());
        Ok(())
    }

    fn lists_of(&self, batch: &RecordBatch, name: &str) -> Result<ListArray> {
        let list = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
        Ok(self.cast(batch, name, &list)?.as_list::<i32>().clone())
    }

    /// Reads some columns of a part; texts and lists of texts as bytes where one of them is no UTF-8, so that it costs
    /// itself alone.
    ///
    /// # Errors
    /// As [`Shard::read`].
    pub(crate) async fn read_mended(&self, part: &Part, names: &[&str]) -> Result<Mended> {
        match self.read_columns(part, names).await {
            Err(DataError::Parquet { source, .. }) if is_not_utf8(&source) => (),
            other => return other.map(|batch| (batch, BTreeMap::new())),
        }
        let is_raw = |name: &&&str| {
            let kind = self.schema().field_with_name(name).map(Field::data_type);
            kind.is_ok_and(|kind| is_text(kind) || is_text_list(kind))
        };
        let (texts, others): (Vec<&str>, Vec<&str>) = names.iter().partition(is_raw);
        let (mut fields, mut columns, mut bad) = (Vec::new(), Vec::new(), BTreeMap::new());
        for name in texts {
            let read = raw_text::read(&self.reader, self.metadata.metadata(), part, name).await;
            let (column, rows) = read.map_err(|error| read_error(&self.location, error))?;
            fields.push(Arc::new(Field::new(name, column.data_type().clone(), true)));
            columns.push(column);
            bad.insert(name.to_owned(), rows);
        }
        if !others.is_empty() {
            let batch = self.read_columns(part, &others).await?;
            fields.extend(batch.schema().fields().iter().cloned());
            columns.extend(batch.columns().iter().cloned());
        }
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns);
        let fail = |e: arrow::error::ArrowError| read_error(&self.location, ParquetError::ArrowError(e.to_string()));
        Ok((batch.map_err(fail)?, bad))
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
        concat_batches(&schema, &batches).map_err(|e| fail(ParquetError::ArrowError(e.to_string())))
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
        with_views(metadata, &self.columns.images)
    }

    fn column<'a>(&self, batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
        let missing = || schema_error(&self.location, batch.schema_ref(), format!("no column `{name}`"));
        batch.column_by_name(name).ok_or_else(missing)
    }

    fn cast(&self, batch: &RecordBatch, name: &str, to: &DataType) -> Result<ArrayRef> {
        let wrong = |e: arrow::error::ArrowError| {
            schema_error(&self.location, batch.schema_ref(), format!("column `{name}`: {e}"))
        };
        arrow::compute::cast(self.column(batch, name)?, to).map_err(wrong)
    }
}

/// The same file, of which the images are read as views of the pages' memory.
fn with_views(metadata: ArrowReaderMetadata, images: &[ImageColumn]) -> parquet::errors::Result<ArrowReaderMetadata> {
    let retyped = |field: &Arc<Field>| match images.iter().find(|image| &image.name == field.name()) {
        Some(image) => Arc::new(image.as_views(field)),
        None => field.clone(),
    };
    let fields: Vec<_> = metadata.schema().fields().iter().map(retyped).collect();
    let schema = Arc::new(Schema::new_with_metadata(fields, metadata.schema().metadata().clone()));
    ArrowReaderMetadata::try_new(metadata.metadata().clone(), ArrowReaderOptions::new().with_schema(schema))
}

fn schema_error(location: &Location, schema: &SchemaRef, problem: String) -> DataError {
    let columns = schema.fields().iter().map(|f| format!("{}: {}", f.name(), f.data_type()));
    DataError::Schema { uri: location.uri().into(), problem, columns: columns.collect::<Vec<_>>().join(", ") }
}
