//! One version of an object in a store, as the Parquet reader reads it: the footer first, then ranges.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use sha2::{Digest, Sha256};

use crate::error::{DataError, Result};
use crate::hex::hex;
use crate::store::Location;

/// Bytes read with the first request for a footer; one request is enough for shards up to about 350 row groups.
const FOOTER_HINT: u64 = 512 * 1024;
/// Length of the footer's own length and the magic bytes at a file's end.
const FOOTER_END: usize = 8;

/// Ranged reads of one object, all of the version that its footer came from.
#[derive(Clone)]
pub(crate) struct ObjectReader {
    location: Location,
    etag: Option<String>,
}

impl ObjectReader {
    pub(crate) async fn range(&self, range: Range<u64>) -> parquet::errors::Result<Bytes> {
        self.location.read_range(range, self.etag.as_deref()).await.map_err(external)
    }
}

fn external(error: DataError) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.range(range).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move { self.location.read_ranges(&ranges, self.etag.as_deref()).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move { Err(ParquetError::General("invariant: the footer is always given".into())) }.boxed()
    }
}

/// A Parquet file's footer.
pub(crate) struct Footer {
    /// Decoded.
    pub(crate) metadata: ArrowReaderMetadata,
    /// SHA-256 of its bytes.
    pub(crate) fingerprint: String,
    /// Reads the rest of the same version.
    pub(crate) reader: ObjectReader,
}

impl Footer {
    /// Reads the footer of an object of `size` bytes.
    ///
    /// # Errors
    /// [`DataError::Store`], [`DataError::Changed`] when the object has another size, or [`DataError::Parquet`].
    pub(crate) async fn read(location: &Location, size: u64) -> Result<Self> {
        let broken = |what: String| parquet_error(location, ParquetError::General(what));
        if size < FOOTER_END as u64 {
            return Err(broken(format!("{size} bytes; expected at least {FOOTER_END}")));
        }
        let hint = FOOTER_HINT.min(size);
        let (found, tail) = location.read_version(size - hint..size).await?;
        if found.size != size {
            let what = format!("{} bytes, not {size}", found.size);
            return Err(DataError::Changed { uri: location.uri().into(), what });
        }
        let end = &tail[tail.len() - FOOTER_END..];
        if &end[4..] != b"PAR1" {
            return Err(broken("it does not end in PAR1".into()));
        }
        let length = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
        let with_end = length + FOOTER_END as u64;
        if with_end > size {
            return Err(broken(format!("a footer of {length} bytes in a file of {size}")));
        }
        let reader = ObjectReader { location: location.clone(), etag: found.e_tag };
        let bytes = match with_end <= hint {
            true => tail.slice((hint - with_end) as usize..(hint - FOOTER_END as u64) as usize),
            false => {
                let range = size - with_end..size - FOOTER_END as u64;
                reader.range(range).await.map_err(|e| read_error(location, e))?
            }
        };
        let decode = || {
            let metadata = Arc::new(ParquetMetaDataReader::decode_metadata(&bytes)?);
            ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new())
        };
        let metadata = contained(decode).map_err(|e| read_error(location, e))?;
        Ok(Self { metadata, fingerprint: hex(&Sha256::digest(&bytes)), reader })
    }
}

/// Runs a piece of the Parquet crate that may panic on damaged bytes.
pub(crate) fn contained<T>(decode: impl FnOnce() -> parquet::errors::Result<T>) -> parquet::errors::Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err(panicked()))
}

pub(crate) fn panicked() -> ParquetError {
    ParquetError::General("the reader panicked on damaged bytes".into())
}

/// A Parquet error is the store's error when the store caused it.
pub(crate) fn read_error(location: &Location, error: ParquetError) -> DataError {
    match error {
        ParquetError::External(inner) => match inner.downcast::<DataError>() {
            Ok(ours) => *ours,
            Err(other) => parquet_error(location, ParquetError::External(other)),
        },
        other => parquet_error(location, other),
    }
}

pub(crate) fn parquet_error(location: &Location, error: ParquetError) -> DataError {
    DataError::Parquet { uri: location.uri().into(), source: Arc::new(error) }
}
