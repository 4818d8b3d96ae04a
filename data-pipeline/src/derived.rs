//! Shards made from other shards: every column is carried through, some are added.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::catalog::Catalog;
use crate::error::{DataError, Result};
use crate::parquet_source::Shard;
use crate::store::Location;
use crate::upload::Upload;

/// Notes in a schema that list every column, and would deny the added ones.
const LISTS_OF_COLUMNS: [&str; 1] = ["huggingface"];

/// A shard that another one is made from.
#[derive(Clone, Debug)]
pub struct Input {
    /// Where it lies.
    pub location: Location,
    /// Its path below the source, without what it ends in; the name of the file where the source is the shard itself.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

impl Input {
    /// The shards of a prefix, as [`Catalog::open`] finds them, sorted by path.
    ///
    /// # Errors
    /// [`DataError::NoShards`] for an empty prefix; [`DataError::Store`].
    pub async fn list(source: &Location) -> Result<Vec<Self>> {
        let found = Catalog::list(source).await?;
        let input = |(location, meta): (Location, object_store::ObjectMeta)| {
            let folder = source
                .pattern()
                .ok()
                .flatten()
                .map(|(folder, _)| folder)
                .filter(|_| source.below(&location.path).is_empty());
            let below = folder.as_ref().unwrap_or(source).below(&location.path);
            let path = if below.is_empty() { location.path.filename().unwrap_or_default() } else { below };
            let name = path.rsplit_once('.').map_or(path, |(stem, _)| stem).to_owned();
            Input { name, size: meta.size, location }
        };
        Ok(found.into_iter().map(input).collect())
    }

    /// Where the shard that is made from it lies.
    pub fn output(&self, out: &Location) -> Location {
        out.child(&format!("{}.parquet", self.name))
    }
}

/// What was noted under `key` in the shard at `place`; none when there is no such shard.
///
/// # Errors
/// [`DataError::Store`]; [`DataError::Parquet`] when it is no Parquet.
pub async fn note(place: &Location, key: &str) -> Result<Option<String>> {
    if !place.exists().await? {
        return Ok(None);
    }
    let Some((found, meta)) = place.list(".parquet").await?.into_iter().next() else { return Ok(None) };
    let shard = Shard::open_any(found, meta.size).await?;
    Ok(shard.note(key).map(str::to_owned))
}

/// `batch` with more columns: one of the same name takes the place of the old one, others come last.
///
/// # Errors
/// [`DataError::Encode`] when a column has another length.
pub fn with_columns(batch: &RecordBatch, more: Vec<(Field, ArrayRef)>) -> Result<RecordBatch> {
    let mut fields: Vec<Field> = batch.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    let mut columns = batch.columns().to_vec();
    for (field, column) in more {
        match fields.iter().position(|known| known.name() == field.name()) {
            Some(place) => (fields[place], columns[place]) = (field, column),
            None => {
                fields.push(field);
                columns.push(column);
            }
        }
    }
    let schema = Schema::new_with_metadata(fields, batch.schema().metadata().clone());
    RecordBatch::try_new(Arc::new(schema), columns).map_err(|error| DataError::Encode(error.to_string()))
}

/// A shard on its way: it appears when it is finished, or not at all. Equal row groups give equal bytes.
pub struct DerivedShard {
    writer: ArrowWriter<Vec<u8>>,
    upload: Upload,
}

impl DerivedShard {
    /// A shard at `place` of rows like those of `like`.
    ///
    /// # Errors
    /// [`DataError::Encode`] for a schema that Parquet has no place for.
    pub fn start(place: Location, like: &RecordBatch) -> Result<Self> {
        let schema = schema_to_write(like);
        let properties = properties(&schema);
        let writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).map_err(encode_error)?;
        Ok(Self { writer, upload: Upload::new(place) })
    }

    /// Appends a row group.
    ///
    /// # Errors
    /// [`DataError::Encode`] for another schema; [`DataError::Store`].
    pub async fn append(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch = RecordBatch::try_new(schema_to_write(batch), batch.columns().to_vec())
            .map_err(|error| DataError::Encode(error.to_string()))?;
        self.writer.write(&batch).and_then(|()| self.writer.flush()).map_err(encode_error)?;
        self.writer.sync().map_err(|error| DataError::Encode(error.to_string()))?;
        let bytes = std::mem::take(self.writer.inner_mut());
        self.upload.push(&bytes).await
    }

    /// Writes the footer with a note, and lets the shard appear.
    ///
    /// # Errors
    /// [`DataError::Encode`], [`DataError::Store`].
    pub async fn finish(mut self, key: &str, note: String) -> Result<()> {
        self.writer.append_key_value_metadata(KeyValue::new(key.to_owned(), note));
        let rest = self.writer.into_inner().map_err(encode_error)?;
        self.upload.push(&rest).await?;
        self.upload.finish().await
    }

    /// Gives the shard up and leaves nothing behind where the store allows it.
    pub async fn abort(self) {
        self.upload.abort().await;
    }
}

fn schema_to_write(batch: &RecordBatch) -> SchemaRef {
    let schema = batch.schema();
    let mut metadata = schema.metadata().clone();
    LISTS_OF_COLUMNS.into_iter().for_each(|key| drop(metadata.remove(key)));
    Arc::new(Schema::new_with_metadata(schema.fields().clone(), metadata))
}

/// Texts zstd; bytes, which are images, as they are; nothing that depends on the time or the machine.
fn properties(schema: &SchemaRef) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("blip2-data-pipeline version ", env!("CARGO_PKG_VERSION")).into())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).expect("invariant: 3 is a zstd level")))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true);
    for field in schema.fields() {
        if matches!(field.data_type(), DataType::Binary | DataType::LargeBinary | DataType::BinaryView) {
            let column = ColumnPath::from(field.name().as_str());
            properties = properties
                .set_column_compression(column.clone(), Compression::UNCOMPRESSED)
                .set_column_dictionary_enabled(column, false);
        }
    }
    properties.build()
}

fn encode_error(error: ParquetError) -> DataError {
    DataError::Encode(format!("a Parquet row group: {error}"))
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryArray, Int32Array, StringArray};

    use super::*;

    fn batch() -> RecordBatch {
        let columns: [(&str, ArrayRef); 3] = [
            ("caption", Arc::new(StringArray::from(vec![Some("a"), None]))),
            ("jpg", Arc::new(BinaryArray::from_opt_vec(vec![Some(&[1, 2][..]), None]))),
            ("extra", Arc::new(Int32Array::from(vec![3, 4]))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .unwrap()
    }

    fn column(name: &str, values: &[&str]) -> (Field, ArrayRef) {
        (Field::new(name, DataType::Utf8, true), Arc::new(StringArray::from(values.to_vec())))
    }

    #[test]
    fn columns_are_replaced_in_place_or_come_last() {
        let made = with_columns(&batch(), vec![column("extra", &["x", "y"]), column("new", &["z", "z"])]).unwrap();
        let names: Vec<String> = made.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["caption", "jpg", "extra", "new"]);
        assert_eq!(made.column(2).data_type(), &DataType::Utf8);
        assert!(with_columns(&batch(), vec![column("short", &["x"])]).is_err());
    }

    #[tokio::test]
    async fn a_shard_comes_back_with_its_note_and_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let out = Location::parse(&folder.path().display().to_string()).unwrap();
        for name in ["one", "two"] {
            let mut shard = DerivedShard::start(out.child(&format!("{name}.parquet")), &batch()).unwrap();
            shard.append(&batch()).await.unwrap();
            assert_eq!(note(&out.child(&format!("{name}.parquet")), "key").await.unwrap(), None, "not there yet");
            shard.append(&batch()).await.unwrap();
            shard.finish("key", "value".into()).await.unwrap();
        }
        let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(bytes("one.parquet"), bytes("two.parquet"));
        assert_eq!(note(&out.child("one.parquet"), "key").await.unwrap().as_deref(), Some("value"));
        let catalog = Catalog::open(&out.child("one.parquet"), |_, _| ()).await.unwrap();
        assert_eq!((catalog.row_groups.len(), catalog.rows()), (2, 4));
        let (whole, rows) = catalog.read_whole(1).await.unwrap();
        assert_eq!(whole.columns(), batch().columns());
        assert_eq!(rows.captions.value(0), "a");
        let inputs = Input::list(&out).await.unwrap();
        assert_eq!(inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        let alone = Input::list(&out.child("two.parquet")).await.unwrap();
        assert_eq!((alone.len(), alone[0].name.as_str()), (1, "two"));
    }
}
