//! The metadata: URLs and captions from Parquet files or one text list, read forward, with all their other columns.

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::FieldRef;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::columns::{Columns, Places};
use super::file::{Batches, ParquetFile, read_error};
use super::list::{self, TextList};
use super::options::ColumnChoice;
use super::rows::Given;
use crate::error::{DataError, Result};
use crate::hex::hex;
use crate::store::Location;

/// Footers read at the same time.
const FOOTERS_IN_FLIGHT: usize = 16;
/// Rows decoded at once.
const BATCH_ROWS: usize = 1000;
/// The end of a file that is hashed to tell it from others: its footer, or the end of that.
const HASHED_END: u64 = 64 << 10;

/// What tells one file of the input from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileIdentity {
    /// Its name below the input, so that the input may move as a whole.
    name: String,
    bytes: u64,
    /// Unknown of a text list until it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
    /// SHA-256 of its last 64 KiB, which hold sizes and statistics of all columns of a Parquet file.
    end_sha256: String,
}

impl FileIdentity {
    /// Reads the end of a file of `size` bytes.
    async fn read(input: &Location, place: &Location, size: u64, rows: Option<u64>) -> Result<Self> {
        let end = place.store.get_range(&place.path, size.saturating_sub(HASHED_END)..size).await;
        let end = end.map_err(|e| place.error("read", e))?;
        Ok(Self { name: input.below(&place.path).into(), bytes: size, rows, end_sha256: hex(&Sha256::digest(&end)) })
    }
}

/// The files that an input consists of.
pub(super) enum Source {
    /// Parquet files, sorted by name.
    Files(Vec<(ParquetFile, FileIdentity)>),
    /// One text list.
    List(TextList, FileIdentity),
}

impl Source {
    /// Finds the files, and reads the footers of Parquet files.
    ///
    /// # Errors
    /// [`DataError::Setting`] when there are none, [`DataError::Store`], [`DataError::Parquet`].
    pub(super) async fn find(input: &Location) -> Result<Self> {
        if let Some(size) = size_of_single(input).await? {
            if !input.path.as_ref().ends_with(PARQUET) {
                let list = TextList::new(input.clone(), size)?;
                return Ok(Self::List(list, FileIdentity::read(input, input, size, None).await?));
            }
            return Ok(Self::Files(vec![open(input, input.clone(), size).await?]));
        }
        let found = input.list_data(PARQUET).await?;
        if found.is_empty() {
            return Err(nothing_found(input).await?);
        }
        let opened =
            futures::stream::iter(found).map(|(place, meta)| open(input, place, meta.size)).buffered(FOOTERS_IN_FLIGHT);
        Ok(Self::Files(opened.try_collect().await?))
    }

    /// Identity of the input, as `fetch.json` keeps it.
    pub(super) fn identity(&self) -> Vec<FileIdentity> {
        match self {
            Self::Files(files) => files.iter().map(|(_, identity)| identity.clone()).collect(),
            Self::List(_, identity) => vec![identity.clone()],
        }
    }
}

const PARQUET: &str = ".parquet";

/// The size of the input where it is one file that can be read; `None` for a folder. A single object is not listed:
/// plain web servers cannot list.
async fn size_of_single(input: &Location) -> Result<Option<u64>> {
    if !input.path.as_ref().ends_with(PARQUET) && !list::is_named_like_one(input) {
        return Ok(None);
    }
    match input.store.head(&input.path).await {
        Ok(meta) => Ok(Some(meta.size)),
        Err(object_store::Error::NotFound { .. }) if !input.uri().starts_with("http") => Ok(None),
        Err(source) => Err(input.error("read", source)),
    }
}

/// The error of an input without Parquet files.
async fn nothing_found(input: &Location) -> Result<DataError> {
    if input.path.filename().is_some() && input.exists().await? {
        let problem = "a file of another kind; expected *.parquet, or a list in *.tsv, *.csv, *.jsonl or *.json";
        return Ok(DataError::Setting(format!("{}: {problem}. Give it the name of its kind", input.uri())));
    }
    let all = input.list_data("").await?;
    let list = all.iter().map(|(place, _)| place).find(|place| list::is_named_like_one(place));
    Ok(DataError::Setting(match list {
        Some(list) => format!(
            "{}: found, but no *.parquet. A folder is read as Parquet files; a TSV, CSV or JSON list is read when the \
             file itself is named: give {} as the input",
            list.uri(),
            list.uri()
        ),
        None => format!("{}: no *.parquet file of metadata found. Check the path", input.uri()),
    }))
}

async fn open(input: &Location, place: Location, size: u64) -> Result<(ParquetFile, FileIdentity)> {
    let file = ParquetFile::open(place, size).await?;
    let identity = FileIdentity::read(input, &file.location, size, Some(file.rows())).await?;
    Ok((file, identity))
}

/// The rows of all files, in the order of their names.
pub(super) struct Input {
    files: Vec<InputFile>,
    pub(super) columns: Columns,
    /// The columns of a text list that are read as URLs and captions, in words.
    pub(super) note: Option<String>,
}

struct InputFile {
    file: ParquetFile,
    /// Rows of all files before this one.
    first: u64,
    places: Places,
}

impl Input {
    /// Finds the columns. A text list is converted into a file below `out`, where that is not there yet.
    ///
    /// # Errors
    /// [`DataError::Setting`] when columns are missing or have unfit types, [`DataError::Store`],
    /// [`DataError::Parquet`].
    pub(super) async fn open(source: Source, out: &Location, choice: &ColumnChoice) -> Result<Self> {
        let (files, choice, note) = match source {
            Source::Files(files) => (files.into_iter().map(|(file, _)| file).collect(), choice.clone(), None),
            Source::List(list, identity) => {
                let list = list.open(out, choice, identity.end_sha256).await?;
                (vec![list.file], list.choice, Some(list.note))
            }
        };
        let files: Vec<ParquetFile> = files;
        let (columns, places) = Columns::find(&files.iter().collect::<Vec<_>>(), &choice, note.is_some())?;
        let mut first = 0;
        let with_places = files.into_iter().zip(places).map(|(file, places)| {
            let rows = file.rows();
            first += rows;
            InputFile { file, first: first - rows, places }
        });
        Ok(Self { files: with_places.collect(), columns, note })
    }

    /// Columns of the output before img2dataset's.
    pub(super) fn carried(&self) -> &[FieldRef] {
        &self.columns.output
    }

    /// Rows of all files.
    pub(super) fn rows(&self) -> u64 {
        self.files.last().map_or(0, |last| last.first + last.file.rows())
    }

    /// A reader for ranges that follow each other.
    pub(super) fn cursor(&self) -> Cursor<'_> {
        Cursor { input: self, open: None }
    }
}

/// Reads ranges of rows that follow each other. Holds one row group of one file, and decodes a little of it at a time.
pub(super) struct Cursor<'a> {
    input: &'a Input,
    open: Option<Open>,
}

struct Open {
    file: usize,
    batches: Batches,
    /// Rows that were decoded and not yet asked for; the first of them is row `next` of the file.
    ahead: Option<RecordBatch>,
    next: u64,
}

impl Cursor<'_> {
    /// These rows of the input, fewer where it ends.
    ///
    /// # Errors
    /// [`DataError::Store`], [`DataError::Parquet`], or [`DataError::Setting`] for a column whose type does not fit.
    pub(super) async fn read(&mut self, rows: Range<u64>) -> Result<Given> {
        let mut pieces = Vec::new();
        let mut at = rows.start;
        while at < rows.end.min(self.input.rows()) {
            let file = self.input.files.partition_point(|file| file.first <= at) - 1;
            let piece = self.some(file, at - self.input.files[file].first, (rows.end - at) as usize).await?;
            at += piece.num_rows() as u64;
            pieces.push(piece);
        }
        let Some(schema) = pieces.first().map(RecordBatch::schema) else {
            return Err(DataError::Setting("no rows were asked for".into()));
        };
        let joined = concat_batches(&schema, &pieces).map_err(|e| DataError::Encode(e.to_string()))?;
        let (carried, texts) = joined.columns().split_at(self.input.carried().len());
        let bad_lines = texts.get(2).cloned();
        Ok(Given { carried: carried.to_vec(), captions: texts[0].clone(), urls: texts[1].clone(), bad_lines })
    }

    /// At least one and at most `most` rows of a file from `row` on, with the columns in the order of the output.
    async fn some(&mut self, file: usize, row: u64, most: usize) -> Result<RecordBatch> {
        let input = &self.input.files[file];
        // Going on is cheaper than starting over, unless whole row groups would be passed over.
        let near = |open: &Open| {
            open.file == file
                && (open.next == row || open.next < row && input.file.row_group_of(row).1.contains(&open.next))
        };
        let mut open = match self.open.take().filter(near) {
            Some(open) => open,
            None => Open {
                file,
                batches: input.file.read_from(row, &input.places.projection(), BATCH_ROWS)?,
                ahead: None,
                next: row,
            },
        };
        loop {
            let batch = match open.ahead.take() {
                Some(batch) => batch,
                None => match open.batches.next().await {
                    Some(batch) => batch.map_err(|e| read_error(&input.file.location, e))?,
                    None => {
                        return Err(DataError::Setting(format!(
                            "{}: the file ends before the {} rows that its footer promises",
                            input.file.location.uri(),
                            input.file.rows()
                        )));
                    }
                },
            };
            let skipped = (row - open.next).min(batch.num_rows() as u64) as usize;
            let taken = most.min(batch.num_rows() - skipped);
            let used = skipped + taken;
            open.next += used as u64;
            if used < batch.num_rows() {
                open.ahead = Some(batch.slice(used, batch.num_rows() - used));
            }
            if taken > 0 {
                let rows = batch.slice(skipped, taken);
                let piece = self.input.columns.of(&input.file, &input.places, &rows, row)?;
                self.open = Some(open);
                return Ok(piece);
            }
        }
    }
}

#[cfg(test)]
mod tests;
