//! Any Parquet file in a store, read forward by ranges.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::error::{DataError, Result};
use crate::store::Location;

/// Bytes read with the first request for a footer.
const FOOTER_HINT: u64 = 512 << 10;

/// Ranged reads of one object for the Parquet reader.
#[derive(Clone)]
pub(super) struct ObjectReader {
    location: Location,
    size: u64,
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.location.store.get_range(&self.location.path, range).map_err(external).boxed()
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
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_HINT.min(size) as usize));
            Ok(Arc::new(reader.load_and_finish(&mut *self, size).await?))
        }
        .boxed()
    }
}

/// Batches of rows, one after another.
pub(super) type Batches = ParquetRecordBatchStream<ObjectReader>;

/// A Parquet file and its footer.
#[derive(Clone)]
pub(super) struct ParquetFile {
    /// The place.
    pub(super) location: Location,
    /// Bytes.
    pub(super) size: u64,
    metadata: ArrowReaderMetadata,
}

impl ParquetFile {
    /// Reads the footer.
    ///
    /// # Errors
    /// [`DataError::Store`] or [`DataError::Parquet`].
    pub(super) async fn open(location: Location, size: u64) -> Result<Self> {
        let mut reader = ObjectReader { location: location.clone(), size };
        let metadata = ArrowReaderMetadata::load_async(&mut reader, ArrowReaderOptions::new())
            .await
            .map_err(|e| read_error(&location, e))?;
        Ok(Self { location, size, metadata })
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    pub(super) fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().max(0) as u64
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
        let reader = ObjectReader { location: self.location.clone(), size: self.size };
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, self.metadata.clone());
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

/// A Parquet error is the store's error when the store caused it.
pub(super) fn read_error(location: &Location, error: ParquetError) -> DataError {
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
