//! Texts that are not UTF-8: read as bytes, so that each costs itself alone.

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, ListBuilder, StringArray, StringBuilder};
use bytes::{Buf, Bytes};
use parquet::column::reader::{get_column_reader, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use super::Part;
use crate::object_reader::{ObjectReader, contained};

/// The texts that are UTF-8, null elsewhere, and the rows that have one which is not.
pub(super) type Texts = (ArrayRef, BTreeSet<usize>);

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

/// Reads a part's texts, or lists of texts, from a column.
pub(super) async fn read(
    reader: &ObjectReader,
    metadata: &ParquetMetaData,
    part: &Part,
    column: &str,
) -> Result<Texts> {
    let group = metadata.row_group(part.row_group as usize);
    let found = group.columns().iter().position(|known| known.column_path().parts()[0] == column);
    let index = found.ok_or_else(|| ParquetError::General(format!("no column `{column}`")))?;
    let (start, length) = group.column(index).byte_range();
    let bytes = reader.range(start..start + length).await?;
    contained(|| {
        let rows = group.num_rows() as usize;
        let pages = SerializedPageReader::new(Arc::new(Chunk { start, bytes }), group.column(index), rows, None)?;
        let descriptor = group.schema_descr().column(index);
        let levels = Levels {
            value: descriptor.max_def_level(),
            entry: descriptor.repeated_ancestor_def_level(),
            is_list: descriptor.max_rep_level() > 0,
        };
        let column = get_column_reader(descriptor, Box::new(pages));
        let mut column = get_typed_column_reader::<ByteArrayType>(column);
        let mut raw = Raw::default();
        let mut read = 0;
        while read < rows {
            let Raw { definitions, repetitions, values } = &mut raw;
            let (records, _, _) = column.read_records(rows - read, Some(definitions), Some(repetitions), values)?;
            if records == 0 {
                return Err(ParquetError::EOF(format!("{read} texts, expected {rows}")));
            }
            read += records;
        }
        Ok(if levels.is_list { lists(&raw, &levels, part) } else { texts(&raw, &levels, part) })
    })
}

/// Levels of a column, as Parquet stores nulls and lists.
struct Levels {
    /// Definition level of a text that is there.
    value: i16,
    /// Definition level from which on an entry of a list is there.
    entry: i16,
    is_list: bool,
}

/// A column as it is stored.
#[derive(Default)]
struct Raw {
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
    values: Vec<ByteArray>,
}

impl Raw {
    /// Every place of the column: its definition level, and the bytes that are stored there.
    fn places(&self, levels: &Levels) -> Vec<(i16, Option<&[u8]>)> {
        let mut values = self.values.iter().map(ByteArray::data);
        // A required column has no levels.
        if self.definitions.is_empty() {
            return values.map(|value| (levels.value, Some(value))).collect();
        }
        let place = |level: &i16| (*level, if *level == levels.value { values.next() } else { None });
        self.definitions.iter().map(place).collect()
    }
}

/// One text a row; null where none is stored, and where it is no UTF-8.
fn texts(raw: &Raw, levels: &Levels, part: &Part) -> Texts {
    let mut bad = BTreeSet::new();
    let places = raw.places(levels);
    let own = places.into_iter().skip(part.first as usize).take(part.rows as usize).enumerate();
    let texts: StringArray = own
        .map(|(row, (_, bytes))| {
            let text = std::str::from_utf8(bytes?);
            if text.is_err() {
                bad.insert(row);
            }
            text.ok()
        })
        .collect();
    (Arc::new(texts), bad)
}

/// One list of texts a row; an entry is null where none is stored, and where it is no UTF-8.
fn lists(raw: &Raw, levels: &Levels, part: &Part) -> Texts {
    let (mut bad, mut lists) = (BTreeSet::new(), ListBuilder::new(StringBuilder::new()));
    let mut rows = 0;
    let first = part.first as usize;
    let is_own = |row: usize| (first..first + part.rows as usize).contains(&row);
    for ((level, bytes), repetition) in raw.places(levels).into_iter().zip(&raw.repetitions) {
        if *repetition == 0 {
            rows += 1;
            if rows > 1 && is_own(rows - 2) {
                lists.append(true);
            }
        }
        if level < levels.entry || !is_own(rows - 1) {
            continue;
        }
        let text = bytes.map(std::str::from_utf8);
        if matches!(text, Some(Err(_))) {
            bad.insert(rows - 1 - first);
        }
        lists.values().append_option(text.and_then(|text| text.ok()));
    }
    if rows > 0 && is_own(rows - 1) {
        lists.append(true);
    }
    (Arc::new(lists.finish()), bad)
}
