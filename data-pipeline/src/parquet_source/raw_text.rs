//! Texts that are not UTF-8: read as bytes, so that only their own rows are lost.

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::StringArray;
use bytes::{Buf, Bytes};
use parquet::column::reader::{get_column_reader, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use super::Part;
use crate::object_reader::{ObjectReader, contained};

/// The texts that are UTF-8, null elsewhere, and the rows whose text is not.
pub(super) type Texts = (StringArray, BTreeSet<usize>);

/// Whether an error says that a text is no UTF-8.
pub(crate) fn is_not_utf8(error: &ParquetError) -> bool {
    let words = error.to_string().to_lowercase();
    words.contains("utf8") || words.contains("utf-8")
}

/// The bytes of one column chunk, at the place that they have in their file.
struct Chunk {
    start: u64,
    bytes: Bytes,
}

impl Chunk {
    fn slice(&self, range: Range<u64>) -> Result<Bytes> {
        let inside = range.start >= self.start && range.end <= self.start + self.bytes.len() as u64;
        if !inside {
            return Err(ParquetError::EOF(format!("bytes {range:?} lie outside their column")));
        }
        Ok(self.bytes.slice((range.start - self.start) as usize..(range.end - self.start) as usize))
    }
}

impl Length for Chunk {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkReader for Chunk {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(Box::new(self.slice(start..self.len())?.reader()))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.slice(start..start + length as u64)
    }
}

/// Reads a part's texts from a column without lists.
pub(super) async fn read(
    reader: &ObjectReader,
    metadata: &ParquetMetaData,
    part: &Part,
    column: &str,
) -> Result<Texts> {
    let group = metadata.row_group(part.row_group as usize);
    let found = group.columns().iter().position(|known| known.column_path().string() == column);
    let index = found.ok_or_else(|| ParquetError::General(format!("no column `{column}`")))?;
    let (start, length) = group.column(index).byte_range();
    let bytes = reader.range(start..start + length).await?;
    contained(|| {
        let rows = group.num_rows() as usize;
        let pages = SerializedPageReader::new(Arc::new(Chunk { start, bytes }), group.column(index), rows, None)?;
        let column = get_column_reader(group.schema_descr().column(index), Box::new(pages));
        let mut column = get_typed_column_reader::<ByteArrayType>(column);
        let (mut levels, mut values): (Vec<i16>, Vec<ByteArray>) = (Vec::new(), Vec::new());
        let mut read = 0;
        while read < rows {
            let (records, _, _) = column.read_records(rows - read, Some(&mut levels), None, &mut values)?;
            if records == 0 {
                return Err(ParquetError::EOF(format!("{read} texts, expected {rows}")));
            }
            read += records;
        }
        Ok(texts(&levels, &values, part))
    })
}

/// Puts nulls where no value was stored (level 0), and takes out what is no UTF-8.
fn texts(levels: &[i16], values: &[ByteArray], part: &Part) -> Texts {
    // A required column has no levels.
    let mut values = values.iter();
    let all: Vec<Option<&[u8]>> = match levels.is_empty() {
        true => values.map(|value| Some(value.data())).collect(),
        false => {
            levels.iter().map(|level| (*level > 0).then(|| values.next().map(ByteArray::data)).flatten()).collect()
        }
    };
    let mut bad = BTreeSet::new();
    let own = all.into_iter().skip(part.first as usize).take(part.rows as usize).enumerate();
    let texts: StringArray = own
        .map(|(row, bytes)| {
            let text = std::str::from_utf8(bytes?);
            if text.is_err() {
                bad.insert(row);
            }
            text.ok()
        })
        .collect();
    (texts, bad)
}
