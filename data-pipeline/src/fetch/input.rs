//! The metadata: URLs and captions from Parquet files, read forward, with all their other columns.

use std::ops::Range;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::file::{Batches, ParquetFile, read_error};
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
    rows: u64,
    /// SHA-256 of its last 64 KiB, which hold sizes and statistics of all columns.
    end_sha256: String,
}

/// The rows of all files, in the order of their names.
pub(super) struct Input {
    files: Vec<InputFile>,
    /// Other columns, as the first file has them.
    pub(super) carried: Vec<FieldRef>,
}

struct InputFile {
    file: ParquetFile,
    identity: FileIdentity,
    /// Rows of all files before this one.
    first: u64,
    /// Places in the file's schema: the carried columns, the caption, the URL.
    columns: Vec<usize>,
}

impl Input {
    /// Finds the files and reads their footers.
    ///
    /// # Errors
    /// [`DataError::Setting`] when there are none or columns are missing, [`DataError::Store`], [`DataError::Parquet`].
    pub(super) async fn open(location: &Location, choice: &ColumnChoice) -> Result<Self> {
        let found = find(location).await?;
        let opened = futures::stream::iter(found)
            .map(|(place, size)| async move {
                let file = ParquetFile::open(place, size).await?;
                let identity = identify(location, &file).await?;
                Ok::<_, DataError>((file, identity))
            })
            .buffered(FOOTERS_IN_FLIGHT);
        let opened: Vec<_> = opened.try_collect().await?;
        let Some((model, _)) = opened.first() else {
            return Err(DataError::Setting(format!(
                "{}: no *.parquet file of metadata found. Check the path",
                location.uri()
            )));
        };
        let named = Named::find(model, choice)?;
        let mut files = Vec::with_capacity(opened.len());
        let mut first = 0;
        for (file, identity) in opened {
            let columns = named.places(&file)?;
            let rows = file.rows();
            files.push(InputFile { file, identity, first, columns });
            first += rows;
        }
        Ok(Self { files, carried: named.carried })
    }

    /// Rows of all files.
    pub(super) fn rows(&self) -> u64 {
        self.files.last().map_or(0, |last| last.first + last.file.rows())
    }

    /// What tells this input from another.
    pub(super) fn identity(&self) -> Vec<FileIdentity> {
        self.files.iter().map(|file| file.identity.clone()).collect()
    }

    /// A reader for ranges that follow each other.
    pub(super) fn cursor(&self) -> Cursor<'_> {
        Cursor { input: self, open: None }
    }
}

/// An object whose name ends in `.parquet`, or everything of that kind below a prefix. A single object is not listed:
/// plain web servers cannot list.
async fn find(location: &Location) -> Result<Vec<(Location, u64)>> {
    if location.path.as_ref().ends_with(".parquet") {
        match location.store.head(&location.path).await {
            Ok(meta) => return Ok(vec![(location.clone(), meta.size)]),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(source) => return Err(location.error("read", source)),
        }
    }
    Ok(location.list(".parquet").await?.into_iter().map(|(place, meta)| (place, meta.size)).collect())
}

async fn identify(input: &Location, file: &ParquetFile) -> Result<FileIdentity> {
    let (place, size) = (&file.location, file.size);
    let end = place.store.get_range(&place.path, size.saturating_sub(HASHED_END)..size).await;
    let end = end.map_err(|e| place.error("read", e))?;
    let name = place.path.as_ref().strip_prefix(input.path.as_ref()).unwrap_or_default().trim_start_matches('/');
    Ok(FileIdentity { name: name.into(), bytes: size, rows: file.rows(), end_sha256: hex(&Sha256::digest(&end)) })
}

/// The columns that every file must have.
struct Named {
    carried: Vec<FieldRef>,
    caption: String,
    url: String,
}

impl Named {
    fn find(file: &ParquetFile, choice: &ColumnChoice) -> Result<Self> {
        let fields = file.schema().fields();
        let find = |asked: &Option<String>, usual: &[&str], what: &str, option: &str| {
            let names: Vec<&str> = asked.as_deref().map_or_else(|| usual.to_vec(), |name| vec![name]);
            let found = names.iter().find_map(|name| fields.iter().find(|f| f.name().eq_ignore_ascii_case(name)));
            found.map(|field| field.name().clone()).ok_or_else(|| {
                let there: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
                DataError::Setting(format!(
                    "{}: no column {} of {what}; columns found: {}. Name it with {option}",
                    file.location.uri(),
                    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or "),
                    there.join(", "),
                ))
            })
        };
        let url = find(&choice.url, &["url"], "URLs", "--url-column")?;
        let caption = find(&choice.caption, &["caption", "text", "alt"], "captions", "--caption-column")?;
        let mut dropped = vec![url.clone(), caption.clone()];
        for name in &choice.dropped {
            dropped.push(find(&Some(name.clone()), &[], "that kind to leave out", "--drop-column")?);
        }
        let carried = fields.iter().filter(|field| !dropped.contains(field.name()));
        // Notes of other software (pandas' index) would make equal rows different files.
        let plain = |f: &FieldRef| FieldRef::new(Field::new(f.name(), f.data_type().clone(), true));
        Ok(Self { carried: carried.map(plain).collect(), caption, url })
    }

    /// Where these columns are in a file's schema, whatever the case of their names.
    fn places(&self, file: &ParquetFile) -> Result<Vec<usize>> {
        let names = self.carried.iter().map(|field| field.name()).chain([&self.caption, &self.url]);
        let fields = file.schema().fields();
        let place = |name: &String| {
            let exact = fields.iter().position(|field| field.name() == name);
            exact.or_else(|| fields.iter().position(|field| field.name().eq_ignore_ascii_case(name))).ok_or_else(|| {
                DataError::Setting(format!(
                    "{}: no column `{name}`, which the first file has. All files need the same columns; leave this \
                     one out with --drop-column {name}",
                    file.location.uri()
                ))
            })
        };
        names.map(place).collect()
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
        let (carried, texts) = joined.columns().split_at(joined.num_columns() - 2);
        Ok(Given { carried: carried.to_vec(), captions: texts[0].clone(), urls: texts[1].clone() })
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
            None => {
                Open { file, batches: input.file.read_from(row, &input.columns, BATCH_ROWS)?, ahead: None, next: row }
            }
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
                let piece = self.in_order(file, &batch.slice(skipped, taken))?;
                self.open = Some(open);
                return Ok(piece);
            }
        }
    }

    /// The columns in the order of the output, with the types of the first file.
    fn in_order(&self, file: usize, batch: &RecordBatch) -> Result<RecordBatch> {
        let input = &self.input.files[file];
        // A projection keeps the order of the file.
        let mut sorted = input.columns.clone();
        sorted.sort_unstable();
        let carried = self.input.carried.iter().map(|field| (field.name().as_str(), field.data_type().clone()));
        let wanted = carried.chain([("caption", DataType::Utf8), ("url", DataType::Utf8)]);
        let mut columns: Vec<ArrayRef> = Vec::new();
        let mut fields = Vec::new();
        for ((name, kind), place) in wanted.zip(&input.columns) {
            let at = sorted.partition_point(|other| other < place);
            let column = cast(batch.column(at), &kind).map_err(|error| {
                DataError::Setting(format!(
                    "{}: column `{name}` is {} and cannot become {kind}: {error}. Leave it out with --drop-column",
                    input.file.location.uri(),
                    batch.column(at).data_type()
                ))
            })?;
            columns.push(column);
            fields.push(Field::new(name, kind, true));
        }
        RecordBatch::try_new(std::sync::Arc::new(Schema::new(fields)), columns)
            .map_err(|e| DataError::Encode(e.to_string()))
    }
}
