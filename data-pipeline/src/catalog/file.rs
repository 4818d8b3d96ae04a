//! A catalogue as one Parquet file: a row per row group; description and shards stand in its key-value metadata.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, ListArray, RecordBatch, StructArray, UInt32Array, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Schema, UInt32Type, UInt64Type};
use bytes::Bytes;
use configs::Source;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use sha2::{Digest, Sha256};

use super::index::{Builder, NewGroup, settings_of, source_location};
use super::{Catalog, Description, Form, Images, Place, ShardEntry};
use crate::error::{DataError, Result};
use crate::hex::hex;
use crate::store::Location;

/// Version of the file; another one is refused.
pub(super) const SCHEMA_VERSION: u32 = 1;
/// Key of the description in the file's metadata.
const DESCRIPTION: &str = "blip2.catalog";
/// Key of the shards: a JSON list of path, size and fingerprint.
const SHARDS: &str = "blip2.shards";
/// What to do about a catalogue that does not fit.
const MAKE_ANEW: &str = "Make it anew with `blip2 data index`, in another place or over the old one";

/// Where the catalogue of a run's source is: where the config says, or in the run's folder.
///
/// # Errors
/// [`DataError::BadUri`].
pub fn catalog_place(source: &Source, output: &Location) -> Result<Location> {
    match source.catalog() {
        Some(uri) => Location::parse(uri.as_str()),
        None => Ok(output.child(&format!("catalog/{}.parquet", source.name()))),
    }
}

/// A catalogue with the identity of its file.
pub struct SavedCatalog {
    /// The catalogue.
    pub catalog: Catalog,
    /// SHA-256 of the file.
    pub sha256: String,
}

impl Catalog {
    /// Writes the catalogue and gives back the SHA-256 of the file; equal catalogues have equal bytes.
    ///
    /// # Errors
    /// [`DataError::Store`].
    pub async fn save(&self, place: &Location) -> Result<String> {
        let bytes = self.encode().map_err(|problem| broken(place, problem))?;
        let sha256 = hex(&Sha256::digest(&bytes));
        place.write(bytes).await?;
        Ok(sha256)
    }

    /// Reads the catalogue of a source.
    ///
    /// # Errors
    /// [`DataError::Store`] when it cannot be read, [`DataError::Catalog`] when it is damaged or was made with other
    /// settings than the source has now.
    pub async fn load(place: &Location, source: &Source, read_unit_bytes: u64) -> Result<SavedCatalog> {
        let saved = Self::load_from(place, source_location(source)?).await?;
        let (made, asked) = (&saved.catalog.description.settings, settings_of(source, read_unit_bytes)?);
        if *made != asked {
            return Err(broken(place, format!("it was made with {made}, the config has {asked}")));
        }
        Ok(saved)
    }

    /// Reads a catalogue of shards at `location`, whatever it was made with.
    ///
    /// # Errors
    /// [`DataError::Store`] when it cannot be read, [`DataError::Catalog`] when it is damaged.
    pub async fn load_from(place: &Location, location: Location) -> Result<SavedCatalog> {
        let bytes = place.read().await?;
        let sha256 = hex(&Sha256::digest(&bytes));
        let catalog = Self::decode(bytes, location).map_err(|problem| broken(place, problem))?;
        Ok(SavedCatalog { catalog, sha256 })
    }

    fn encode(&self) -> std::result::Result<Vec<u8>, String> {
        let text = |value: serde_json::Result<String>| value.map_err(|error| error.to_string());
        let shards: Vec<_> = self.shards.iter().map(|s| (&s.path, s.size, &s.fingerprint)).collect();
        let metadata = vec![
            KeyValue::new(DESCRIPTION.into(), text(serde_json::to_string(&self.description))?),
            KeyValue::new(SHARDS.into(), text(serde_json::to_string(&shards))?),
        ];
        let zstd = Compression::ZSTD(ZstdLevel::default());
        let properties =
            WriterProperties::builder().set_compression(zstd).set_key_value_metadata(Some(metadata)).build();
        let batch = self.batch().map_err(|error| error.to_string())?;
        let write = || {
            let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
            writer.write(&batch)?;
            writer.into_inner()
        };
        write().map_err(|error: parquet::errors::ParquetError| error.to_string())
    }

    fn batch(&self) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
        let groups = || self.row_groups.iter();
        let mut bits = BinaryBuilder::new();
        groups().for_each(|group| bits.append_option(self.bits_of(group)));
        let place = |place: &Place| match *place {
            Place::Parquet { row_group, first } => (Some(row_group), u64::from(first)),
            Place::Tar { offset } => (None, offset),
            Place::Images { first } => (None, first),
        };
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            ("shard", Arc::new(groups().map(|group| group.shard).collect::<UInt32Array>())),
            ("row_group", Arc::new(groups().map(|group| place(&group.place).0).collect::<UInt32Array>())),
            ("first", Arc::new(groups().map(|group| place(&group.place).1).collect::<UInt64Array>())),
            ("rows", Arc::new(groups().map(|group| group.rows).collect::<UInt32Array>())),
            ("usable", Arc::new(groups().map(|group| group.usable).collect::<UInt32Array>())),
            ("bytes", Arc::new(groups().map(|group| group.bytes).collect::<UInt64Array>())),
            ("used_rows", Arc::new(bits.finish())),
        ];
        if let Some(images) = &self.images {
            columns.push(("samples", Arc::new(self.samples(images)?)));
        }
        let field = |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
        let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
        RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, array)| array).collect())
    }

    /// The samples of each row group as a list.
    fn samples(&self, images: &Images) -> std::result::Result<ListArray, arrow::error::ArrowError> {
        let mut named: Vec<(&str, ArrayRef)> = vec![
            ("file", Arc::new(images.files.clone())),
            ("key", Arc::new(images.keys.clone())),
            ("size", Arc::new(UInt64Array::from(images.sizes.clone()))),
            ("captions", Arc::new(images.captions.clone())),
        ];
        if let Some(questions) = &images.questions {
            named.push(("question", Arc::new(questions.clone())));
        }
        let fields: Fields = named.iter().map(|(name, c)| Field::new(*name, c.data_type().clone(), true)).collect();
        let columns = named.into_iter().map(|(_, column)| column).collect();
        let lengths = self.row_groups.iter().map(|group| group.rows as usize);
        let all = StructArray::try_new(fields.clone(), columns, None::<NullBuffer>)?;
        let item = Arc::new(Field::new_list_field(DataType::Struct(fields), true));
        ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), Arc::new(all), None)
    }

    fn decode(bytes: Bytes, location: Location) -> std::result::Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| text(&error))?;
        let metadata = builder.metadata().file_metadata();
        let values = metadata.key_value_metadata();
        let value = |key: &str| values?.iter().find(|known| known.key == key)?.value.clone();
        let (Some(description), Some(shards)) = (value(DESCRIPTION), value(SHARDS)) else {
            return Err("it is no catalogue".into());
        };
        let description: Description = serde_json::from_str(&description).map_err(|error| text(&error))?;
        if description.schema_version != SCHEMA_VERSION {
            return Err(format!("it has version {}, not {SCHEMA_VERSION}", description.schema_version));
        }
        let shards: Vec<(String, u64, String)> = serde_json::from_str(&shards).map_err(|error| text(&error))?;
        let rows = usize::try_from(metadata.num_rows()).unwrap_or(0);
        let form = description.form;
        let base = if description.is_pattern { location.pattern().map_err(|error| text(&error))? } else { None };
        let location = base.map_or(location, |(base, _)| base);
        let mut catalog = Builder::described(&location, description);
        let entry = |(path, size, fingerprint)| ShardEntry { path, size, fingerprint };
        catalog.shards = shards.into_iter().map(entry).collect();
        for batch in builder.with_batch_size(rows.max(1)).build().map_err(|error| text(&error))? {
            let batch = batch.map_err(|error| text(&error))?;
            push_groups(&mut catalog, form, &batch).ok_or("its columns are not those of a catalogue")?;
        }
        catalog.finish(None).map_err(|error| text(&error))
    }
}

/// Adds the row groups of a batch; nothing when a column is missing or has another type.
fn push_groups(catalog: &mut Builder, form: Form, batch: &RecordBatch) -> Option<()> {
    let small = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<UInt32Type>();
    let large = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<UInt64Type>();
    let (shard, row_group, rows, usable) = (small("shard")?, small("row_group")?, small("rows")?, small("usable")?);
    let (first, bytes) = (large("first")?, large("bytes")?);
    let bits = batch.column_by_name("used_rows")?.as_binary_opt::<i32>()?;
    for i in 0..batch.num_rows() {
        let first = first.value(i);
        let place = match form {
            Form::Parquet => Place::Parquet { row_group: row_group.value(i), first: u32::try_from(first).ok()? },
            Form::Tar => Place::Tar { offset: first },
            Form::Images => Place::Images { first },
        };
        let bits = bits.is_valid(i).then(|| bits.value(i));
        let (rows, usable) = (rows.value(i), usable.value(i));
        let fits = bits.map_or(usable == rows, |bits| bits.iter().map(|byte| byte.count_ones()).sum::<u32>() == usable);
        if !fits || shard.value(i) as usize >= catalog.shards.len() {
            return None;
        }
        catalog.push(&NewGroup { shard: shard.value(i), place, rows, usable, bytes: bytes.value(i), bits });
    }
    if form == Form::Images {
        let samples = batch.column_by_name("samples")?.as_list_opt::<i32>()?;
        catalog.images = Some(Images::of(samples.values().as_struct_opt()?)?);
    }
    Some(())
}

fn broken(place: &Location, problem: String) -> DataError {
    DataError::Catalog { uri: place.uri().into(), problem, advice: MAKE_ANEW }
}
