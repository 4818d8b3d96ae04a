//! Parquet shards in an object store: footers, and single row groups by ranged reads.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryViewArray, ListArray, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::error::{DataError, Result};
use crate::store::Location;

/// Image columns in the order of preference. img2dataset names the column after its encode format.
pub const IMAGE_COLUMNS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];
/// Bytes read with the first request for a footer; one request is enough for shards up to about 350 row groups.
const FOOTER_HINT: usize = 512 * 1024;

/// Ranged reads of one object for the Parquet reader.
#[derive(Clone)]
struct ObjectReader {
    location: Location,
    size: u64,
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move { self.location.store.get_range(&self.location.path, range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move { self.location.store.get_ranges(&self.location.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_HINT.min(size as usize)));
            Ok(Arc::new(reader.load_and_finish(&mut *self, size).await?))
        }
        .boxed()
    }
}

/// Columns of a shard that training reads.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The columns that are read.
    pub columns: Columns,
    schema: SchemaRef,
    metadata: ArrowReaderMetadata,
}

/// The rows of one row group.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Encoded images; null where the download failed. Views of the pages as read: images are not copied once more.
    pub images: BinaryViewArray,
    /// Captions; may be null.
    pub captions: StringArray,
    /// Several captions per image, when the shard has them.
    pub all_captions: Option<ListArray>,
    /// Per-row status, when the shard has it.
    pub status: Option<StringArray>,
    /// Per-row key, when the shard has it.
    pub keys: Option<StringArray>,
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
    pub async fn open(location: Location, meta: &ObjectMeta) -> Result<Self> {
        let mut reader = ObjectReader { location: location.clone(), size: meta.size };
        let metadata = ArrowReaderMetadata::load_async(&mut reader, ArrowReaderOptions::new())
            .await
            .map_err(|e| read_error(&location, e))?;
        let columns = find_columns(&location, metadata.schema())?;
        let schema = metadata.schema().clone();
        let metadata = with_views(metadata, &columns.image).map_err(|e| read_error(&location, e))?;
        Ok(Self { location, size: meta.size, columns, schema, metadata })
    }

    /// The Arrow schema of the file.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows in each row group.
    pub fn row_groups(&self) -> Vec<u32> {
        self.metadata.metadata().row_groups().iter().map(|group| group.num_rows() as u32).collect()
    }

    /// Bytes of the columns that training reads, decoded, in one row group.
    pub fn row_group_bytes(&self, index: usize) -> u64 {
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

    /// Reads the training columns of one row group.
    ///
    /// # Errors
    /// [`DataError::Store`] when the store fails after its retries, [`DataError::Parquet`] when the bytes are damaged.
    pub async fn read(&self, row_group: usize) -> Result<Rows> {
        let batch = self.read_columns(row_group, &self.wanted()).await?;
        let text = |name: &str| self.cast(&batch, name, &DataType::Utf8).map(|a| a.as_string::<i32>().clone());
        let binary = self.cast(&batch, &self.columns.image, &DataType::BinaryView)?;
        let captions = text(&self.columns.caption)?;
        let list = DataType::List(Arc::new(arrow::datatypes::Field::new_list_field(DataType::Utf8, true)));
        let all_captions = match &self.columns.captions {
            Some(name) => Some(self.cast(&batch, name, &list)?.as_list::<i32>().clone()),
            None => None,
        };
        Ok(Rows {
            images: binary.as_binary_view().clone(),
            captions,
            all_captions,
            status: self.columns.status.as_deref().map(text).transpose()?,
            keys: self.columns.key.as_deref().map(text).transpose()?,
        })
    }

    /// Reads some columns of one row group as one record batch.
    ///
    /// # Errors
    /// As [`Shard::read`].
    pub async fn read_columns(&self, row_group: usize, names: &[&str]) -> Result<RecordBatch> {
        let reader = ObjectReader { location: self.location.clone(), size: self.size };
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, self.metadata.clone());
        let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied());
        let rows = self.metadata.metadata().row_group(row_group).num_rows() as usize;
        let fail = |e| read_error(&self.location, e);
        let stream = builder
            .with_row_groups(vec![row_group])
            .with_projection(mask)
            .with_batch_size(rows.max(1))
            .build()
            .map_err(fail)?;
        let schema = stream.schema().clone();
        let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(fail)?;
        // A row group is one batch as a rule; joining would copy every image.
        if let [only] = batches.as_slice() {
            return Ok(only.clone());
        }
        arrow::compute::concat_batches(&schema, &batches).map_err(|e| fail(ParquetError::ArrowError(e.to_string())))
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

/// A Parquet error is the store's error when the store caused it.
fn read_error(location: &Location, error: ParquetError) -> DataError {
    match error {
        ParquetError::External(inner) => match inner.downcast::<object_store::Error>() {
            Ok(store) => location.error("read", *store),
            Err(other) => parquet_error(location, ParquetError::External(other)),
        },
        other => parquet_error(location, other),
    }
}

fn parquet_error(location: &Location, error: ParquetError) -> DataError {
    DataError::Parquet { uri: location.uri().into(), source: Arc::new(error) }
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
