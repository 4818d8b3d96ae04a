//! Lists of URLs and captions as text: TSV and CSV, JSON Lines, and JSON, one file.
//!
//! A list cannot be read from its middle, and rows must keep their numbers. So it is converted once, front to back in
//! bounded memory, into Parquet below the output (`_input/rows.part`, a name that nobody takes for a shard), which is
//! used again as long as the list is the same. The last column of that file holds the reasons of lines that are no
//! rows: they stay rows without values. Read in this order: `mod` (the conversion), `table` (values to columns),
//! `delimited` and `json` (bytes to values).

mod delimited;
mod json;
mod table;

use object_store::ObjectStoreExt;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use self::table::Table;
use super::file::ParquetFile;
use super::options::ColumnChoice;
use crate::error::{DataError, Result};
use crate::store::Location;
use crate::upload::Upload;

/// The start of a list that decides its layout.
const HEAD_BYTES: u64 = 1 << 20;
/// Bytes that are read and parsed at once.
const CHUNK_BYTES: u64 = 4 << 20;
/// A longer row is a sign of a file of another kind, or of a quotation mark that never closes.
const MAX_ROW_BYTES: usize = 4 << 20;
/// JSON objects of columns are held in memory as a whole.
const MAX_WHOLE_BYTES: u64 = 2 << 30;
const ROW_GROUP_ROWS: usize = 100_000;
const CONVERTED: &str = "_input/rows.part";
/// The key of the [`Stamp`] in the file's metadata.
const STAMP_KEY: &str = "blip2_fetch_list";
/// Raised whenever the same list gives other rows than before.
const STAMP_VERSION: u32 = 1;

/// The syntax of a list, by the end of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Syntax {
    Tsv,
    Csv,
    JsonLines,
    Json,
    Gzip,
}

impl Syntax {
    fn of(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1.to_ascii_lowercase().as_str() {
            "tsv" => Some(Self::Tsv),
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "json" => Some(Self::Json),
            "gz" => Some(Self::Gzip),
            _ => None,
        }
    }
}

/// Whether the name of a file is that of a text list, packed or not.
pub(super) fn is_named_like_one(place: &Location) -> bool {
    place.path.filename().and_then(Syntax::of).is_some()
}

/// A list in a store.
pub(super) struct TextList {
    place: Location,
    size: u64,
    syntax: Syntax,
}

/// A list as a Parquet file.
pub(super) struct Converted {
    pub(super) file: ParquetFile,
    /// The choice by the names that the file has.
    pub(super) choice: ColumnChoice,
    /// The columns that are read as URLs and captions, in words.
    pub(super) note: String,
}

/// Layout of a list, by which its bytes become rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Layout {
    /// Records with a delimiter.
    Delimited(delimited::Layout),
    /// Objects, one a line.
    JsonLines,
    /// One list of objects.
    JsonArray,
    /// One object of lists, a list for each column.
    JsonColumns,
}

/// Origin of a converted list.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    version: u32,
    bytes: u64,
    end_sha256: String,
    layout: Layout,
    columns: ColumnChoice,
}

impl TextList {
    /// The list of `size` bytes at a place whose name says its syntax.
    ///
    /// # Errors
    /// [`DataError::Setting`] when it is packed or empty.
    pub(super) fn new(place: Location, size: u64) -> Result<Self> {
        let syntax = place.path.filename().and_then(Syntax::of);
        match syntax {
            Some(Syntax::Gzip) | None => Err(packed(&place)),
            Some(_) if size == 0 => Err(DataError::Setting(format!("{}: 0 bytes, expected rows", place.uri()))),
            Some(syntax) => Ok(Self { place, size, syntax }),
        }
    }

    /// The rows as Parquet: those that an earlier run has converted, or converted now.
    ///
    /// # Errors
    /// [`DataError::Setting`] when the list is of another kind, its columns are ambiguous, or a row is endless.
    pub(super) async fn open(&self, out: &Location, choice: &ColumnChoice, end_sha256: String) -> Result<Converted> {
        let head = self.place.read_range(0..HEAD_BYTES.min(self.size), None).await?;
        let head = self.text(&head)?;
        let (layout, choice, note) = match self.syntax {
            Syntax::Tsv => self.delimited(head, b'\t', choice)?,
            Syntax::Csv => self.delimited(head, b',', choice)?,
            Syntax::JsonLines => (Layout::JsonLines, choice.clone(), "objects, one a line".to_owned()),
            Syntax::Json => {
                let (layout, note) = json::layout(head, self.size > HEAD_BYTES).map_err(|e| self.refused(&e))?;
                (layout, choice.clone(), note.to_owned())
            }
            Syntax::Gzip => return Err(packed(&self.place)),
        };
        let stamp = Stamp { version: STAMP_VERSION, bytes: self.size, end_sha256, layout, columns: choice.clone() };
        let place = out.child(CONVERTED);
        let file = match converted(&place, &stamp).await? {
            Some(file) => file,
            None => {
                self.convert(&place, &stamp).await?;
                let size = place.head().await?.size;
                ParquetFile::open(place, size).await?
            }
        };
        Ok(Converted { file, choice, note })
    }

    fn delimited(&self, head: &[u8], delimiter: u8, choice: &ColumnChoice) -> Result<(Layout, ColumnChoice, String)> {
        let is_whole = self.size <= HEAD_BYTES;
        let found = delimited::Found::find(head, is_whole, delimiter, choice).map_err(|e| self.refused(&e))?;
        Ok((Layout::Delimited(found.layout), found.choice, found.note))
    }

    /// The start of the list without a byte order mark.
    fn text<'a>(&self, head: &'a [u8]) -> Result<&'a [u8]> {
        if head.starts_with(b"\x1f\x8b") {
            return Err(packed(&self.place));
        }
        if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
            return Err(self.refused("the text is UTF-16, expected UTF-8. Convert it, for example with iconv"));
        }
        if head.starts_with(b"PAR1") {
            return Err(self.refused("a Parquet file. Give it a name that ends in .parquet"));
        }
        Ok(head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head))
    }

    fn refused(&self, problem: &str) -> DataError {
        DataError::Setting(format!("{}: {problem}", self.place.uri()))
    }

    /// Writes the rows to `place`.
    async fn convert(&self, place: &Location, stamp: &Stamp) -> Result<()> {
        match &stamp.layout {
            Layout::Delimited(layout) => self.convert_records(place, stamp, layout).await,
            Layout::JsonLines | Layout::JsonArray => self.convert_objects(place, stamp).await,
            Layout::JsonColumns => self.convert_columns(place, stamp).await,
        }
    }

    async fn convert_records(&self, place: &Location, stamp: &Stamp, layout: &delimited::Layout) -> Result<()> {
        let mut writer = Writer::new(place, Table::of_texts(layout.names()), stamp)?;
        let mut parser = delimited::Parser::new(layout.delimiter());
        let mut rows = delimited::Rows::new(layout);
        let mut chunks = Chunks::new(self);
        while let Some((chunk, is_last)) = chunks.next().await? {
            let table = &mut writer.table;
            let pushed = parser.push(&chunk, is_last, |record| rows.append(&record, table));
            pushed.map_err(|e| self.refused(&e))?;
            writer.flush().await?;
        }
        writer.finish(stamp).await
    }

    /// Reads the list twice: keys and types may change up to its end.
    async fn convert_objects(&self, place: &Location, stamp: &Stamp) -> Result<()> {
        let mut kinds = json::Kinds::default();
        let (mut chunks, mut splitter) = (Chunks::new(self), json::Splitter::new(&stamp.layout));
        while let Some((chunk, is_last)) = chunks.next().await? {
            let pushed = splitter.push(&chunk, is_last, |_, bytes| kinds.add_bytes(bytes));
            pushed.map_err(|e| self.refused(&e))?;
        }
        kinds.check_roles(self.place.uri(), &stamp.columns)?;
        let mut writer = Writer::new(place, Table::new(kinds.columns()), stamp)?;
        let (mut chunks, mut splitter) = (Chunks::new(self), json::Splitter::new(&stamp.layout));
        while let Some((chunk, is_last)) = chunks.next().await? {
            let table = &mut writer.table;
            let pushed = splitter.push(&chunk, is_last, |at, bytes| json::append(at, bytes, table));
            pushed.map_err(|e| self.refused(&e))?;
            writer.flush().await?;
        }
        writer.finish(stamp).await
    }

    async fn convert_columns(&self, place: &Location, stamp: &Stamp) -> Result<()> {
        if self.size > MAX_WHOLE_BYTES {
            return Err(
                self.refused("an object of more than 2 GiB, which is read as a whole. Convert it to JSON Lines")
            );
        }
        let bytes = self.place.read().await?;
        let rows = json::ColumnRows::parse(self.text(&bytes)?).map_err(|e| self.refused(&e))?;
        drop(bytes);
        let kinds = rows.kinds();
        kinds.check_roles(self.place.uri(), &stamp.columns)?;
        let mut writer = Writer::new(place, Table::new(kinds.columns()), stamp)?;
        for row in rows {
            writer.table.append(row);
            if writer.table.rows() == ROW_GROUP_ROWS {
                writer.flush().await?;
            }
        }
        writer.finish(stamp).await
    }
}

fn packed(place: &Location) -> DataError {
    DataError::Setting(format!("{}: packed with gzip, expected a plain file. Unpack it first (gunzip)", place.uri()))
}

/// The converted list of an earlier run, if it was made of the same.
async fn converted(place: &Location, stamp: &Stamp) -> Result<Option<ParquetFile>> {
    let size = match place.store.head(&place.path).await {
        Ok(meta) => meta.size,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(place.error("read", source)),
    };
    match ParquetFile::open(place.clone(), size).await {
        Ok(file) => {
            let found = file.note(STAMP_KEY).and_then(|note| serde_json::from_str::<Stamp>(note).ok());
            Ok((found.as_ref() == Some(stamp)).then_some(file))
        }
        // Damaged: it is made again.
        Err(DataError::Parquet { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The bytes of a list, piece by piece.
struct Chunks<'a> {
    list: &'a TextList,
    at: u64,
}

impl<'a> Chunks<'a> {
    fn new(list: &'a TextList) -> Self {
        Self { list, at: 0 }
    }

    /// The next piece, without a byte order mark, and whether it is the last.
    async fn next(&mut self) -> Result<Option<(bytes::Bytes, bool)>> {
        let range = self.at..(self.at + CHUNK_BYTES).min(self.list.size);
        if range.is_empty() {
            return Ok(None);
        }
        let chunk = self.list.place.read_range(range.clone(), None).await?;
        self.at = range.end;
        let mark = if range.start == 0 { chunk.len() - self.list.text(&chunk)?.len() } else { 0 };
        Ok(Some((chunk.slice(mark..), range.end == self.list.size)))
    }
}

/// Rows on their way to the converted file, which appears when it is finished.
struct Writer {
    table: Table,
    writer: ArrowWriter<Vec<u8>>,
    upload: Upload,
    place: Location,
}

impl Writer {
    fn new(place: &Location, table: Table, stamp: &Stamp) -> Result<Self> {
        let stamp = serde_json::to_string(stamp).expect("invariant: stamps are plain data");
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_dictionary_enabled(false)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_key_value_metadata(Some(vec![KeyValue::new(STAMP_KEY.to_owned(), stamp)]))
            .build();
        let writer = ArrowWriter::try_new(Vec::new(), table.schema(), Some(properties)).map_err(encode_error)?;
        Ok(Self { table, writer, upload: Upload::new(place.clone()), place: place.clone() })
    }

    /// Sends what is complete.
    async fn flush(&mut self) -> Result<()> {
        let batch = self.table.take().map_err(|e| DataError::Encode(e.to_string()))?;
        self.writer.write(&batch).map_err(encode_error)?;
        self.writer.sync().map_err(|e| DataError::Encode(e.to_string()))?;
        let bytes = std::mem::take(self.writer.inner_mut());
        self.upload.push(&bytes).await
    }

    /// Makes the file appear, unless a run on another machine was faster: readers of its file keep their version.
    async fn finish(mut self, stamp: &Stamp) -> Result<()> {
        self.flush().await?;
        if converted(&self.place, stamp).await?.is_some() {
            self.upload.abort().await;
            return Ok(());
        }
        let rest = self.writer.into_inner().map_err(encode_error)?;
        self.upload.push(&rest).await?;
        self.upload.finish().await
    }
}

fn encode_error(error: ParquetError) -> DataError {
    DataError::Encode(format!("the rows of a list: {error}"))
}
