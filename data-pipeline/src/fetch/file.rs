//! Any Parquet file in a store, read forward by ranges.

use std::ops::Range;

use arrow::datatypes::SchemaRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::async_reader::{ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};

use crate::error::Result;
use crate::object_reader::{Footer, ObjectReader};
use crate::store::Location;

pub(super) use crate::object_reader::read_error;

/// Batches of rows, one after another.
pub(super) type Batches = ParquetRecordBatchStream<ObjectReader>;

/// A Parquet file and its footer.
#[derive(Clone)]
pub(super) struct ParquetFile {
    /// The place.
    pub(super) location: Location,
    metadata: ArrowReaderMetadata,
    reader: ObjectReader,
}

impl ParquetFile {
    /// Reads the footer.
    ///
    /// # Errors
    /// [`DataError::Store`] or [`DataError::Parquet`].
    pub(super) async fn open(location: Location, size: u64) -> Result<Self> {
        let Footer { metadata, reader, .. } = Footer::read(&location, size).await?;
        Ok(Self { location, metadata, reader })
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    pub(super) fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().max(0) as u64
    }

    /// The text that the footer has under a key.
    pub(super) fn note(&self, key: &str) -> Option<&str> {
        let notes = self.metadata.metadata().file_metadata().key_value_metadata()?;
        notes.iter().find(|note| note.key == key)?.value.as_deref()
    }

    /// The row group that holds a row, as its number and its rows.
    pub(super) fn row_group_of(&self, row: u64) -> (usize, Range<u64>) {
        let mut first = 0;
        for (index, group) in self.metadata.metadata().row_groups().iter().enumerate() {
            let next = first + group.num_rows().max(0) as u64;
            if row < next {
                return (index, first..next);
            }
            first = next;
        }
        (self.metadata.metadata().num_row_groups(), first..first)
    }

    /// The rows from `first` on, some columns (by their places in the schema), in batches of at most `batch` rows.
    /// One row group is fetched at a time.
    ///
    /// # Errors
    /// [`DataError::Parquet`].
    pub(super) fn read_from(&self, first: u64, columns: &[usize], batch: usize) -> Result<Batches> {
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(self.reader.clone(), self.metadata.clone());
        let (group, rows) = self.row_group_of(first);
        let mask = ProjectionMask::roots(builder.parquet_schema(), columns.iter().copied());
        builder
            .with_row_groups((group..self.metadata.metadata().num_row_groups()).collect())
            .with_offset((first - rows.start) as usize)
            .with_projection(mask)
            .with_batch_size(batch)
            .build()
            .map_err(|e| read_error(&self.location, e))
    }
}
