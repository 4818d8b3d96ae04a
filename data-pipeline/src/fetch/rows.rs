//! The rows of the output: img2dataset's columns, from outcomes to batches and back.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, FieldRef, Int32Type, Schema, SchemaRef};
use bytes::Bytes;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::options::{ImageFormat, ROW_GROUP_ROWS};
use super::picture::Picture;
use crate::error::{DataError, Result};

/// img2dataset's words for what became of a row.
pub(super) const SUCCESS: &str = "success";
/// No bytes came, or none that may be kept.
pub(super) const FAILED_TO_DOWNLOAD: &str = "failed_to_download";
/// Bytes came that make no picture.
pub(super) const FAILED_TO_RESIZE: &str = "failed_to_resize";

/// Columns of the output besides those carried over, in img2dataset's order; the picture's column comes last.
const OWN_COLUMNS: [(&str, DataType); 11] = [
    ("caption", DataType::Utf8),
    ("url", DataType::Utf8),
    ("key", DataType::Utf8),
    ("status", DataType::Utf8),
    ("error_message", DataType::Utf8),
    ("width", DataType::Int32),
    ("height", DataType::Int32),
    ("original_width", DataType::Int32),
    ("original_height", DataType::Int32),
    ("exif", DataType::Utf8),
    ("sha256", DataType::Utf8),
];

/// What became of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There is a picture; the hash is that of the download.
    Success {
        /// What is stored.
        picture: Picture,
        /// SHA-256 of the download, hexadecimal.
        sha256: String,
    },
    /// There is none.
    Failed {
        /// [`FAILED_TO_DOWNLOAD`] or [`FAILED_TO_RESIZE`].
        status: &'static str,
        /// Why; the part before the first colon is counted.
        message: String,
        /// Of the download, if there was one.
        sha256: Option<String>,
    },
}

impl Outcome {
    /// A download that failed.
    pub(super) fn not_downloaded(message: impl Into<String>) -> Self {
        Self::Failed { status: FAILED_TO_DOWNLOAD, message: message.into(), sha256: None }
    }

    /// img2dataset's word for it.
    pub(super) fn status(&self) -> &'static str {
        match self {
            Self::Success { .. } => SUCCESS,
            Self::Failed { status, .. } => status,
        }
    }

    /// The outcome that a row of the output holds.
    pub(super) fn read(batch: &RecordBatch, row: usize) -> Result<Self> {
        let own = batch.num_columns() - OWN_COLUMNS.len() - 1;
        let text = |at: usize| {
            let column = batch.column(own + at).as_string::<i32>();
            column.is_valid(row).then(|| column.value(row).to_owned())
        };
        let number = |at: usize| batch.column(own + at).as_primitive::<Int32Type>().value(row);
        let bytes = batch.column(batch.num_columns() - 1).as_binary::<i32>();
        let status = match text(3).as_deref() {
            Some(SUCCESS) => {
                let picture = Picture {
                    bytes: Bytes::copy_from_slice(bytes.value(row)),
                    width: number(5),
                    height: number(6),
                    original_width: number(7),
                    original_height: number(8),
                    exif: text(9).unwrap_or_default(),
                };
                return Ok(Self::Success { picture, sha256: text(10).unwrap_or_default() });
            }
            Some(FAILED_TO_DOWNLOAD) => FAILED_TO_DOWNLOAD,
            Some(FAILED_TO_RESIZE) => FAILED_TO_RESIZE,
            other => return Err(DataError::Setting(format!("a shard has a row with the unknown status {other:?}"))),
        };
        Ok(Self::Failed { status, message: text(4).unwrap_or_default(), sha256: text(10) })
    }
}

/// What a row's message counts as.
pub(super) fn counted(message: &str) -> &str {
    message.split(':').next().unwrap_or_default()
}

/// The schema of the output: `carried` columns first.
///
/// # Errors
/// [`DataError::Setting`] when a carried column has the name of one of img2dataset's.
pub(super) fn schema(carried: &[FieldRef], format: ImageFormat) -> Result<SchemaRef> {
    let image = Field::new(format.column(), DataType::Binary, true);
    let own: Vec<Field> =
        OWN_COLUMNS.into_iter().map(|(name, kind)| Field::new(name, kind, true)).chain([image]).collect();
    let taken: Vec<String> = carried
        .iter()
        .filter(|field| own.iter().any(|own| own.name() == field.name()))
        .map(|field| format!("`{}`", field.name()))
        .collect();
    if !taken.is_empty() {
        return Err(DataError::Setting(format!(
            "the input has columns whose names the output needs: {}. Leave them out with --drop-column",
            taken.join(", ")
        )));
    }
    let carried = carried.iter().map(|field| field.as_ref().clone());
    Ok(Arc::new(Schema::new(carried.chain(own).collect::<Vec<_>>())))
}

/// Input columns of some rows: those carried over, then captions and URLs as text.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) carried: Vec<ArrayRef>,
    pub(super) captions: ArrayRef,
    pub(super) urls: ArrayRef,
    /// Reasons why rows of a text list have no values; null for the others.
    pub(super) bad_lines: Option<ArrayRef>,
}

impl Given {
    /// The rows of the output that these rows and their outcomes make.
    pub(super) fn finish(&self, schema: &SchemaRef, keys: Vec<String>, outcomes: &[Outcome]) -> Result<RecordBatch> {
        let mut columns = self.carried.clone();
        columns.extend([self.captions.clone(), self.urls.clone(), Arc::new(StringArray::from(keys))]);
        let statuses = outcomes.iter().map(|outcome| Some(outcome.status()));
        columns.push(Arc::new(StringArray::from_iter(statuses)));
        let message = |outcome: &Outcome| match outcome {
            Outcome::Success { .. } => None,
            Outcome::Failed { message, .. } => Some(message.clone()),
        };
        columns.push(Arc::new(StringArray::from_iter(outcomes.iter().map(message))));
        let picture = |outcome: &'_ Outcome| match outcome {
            Outcome::Success { picture, .. } => Some(picture.clone()),
            Outcome::Failed { .. } => None,
        };
        let pictures: Vec<Option<Picture>> = outcomes.iter().map(picture).collect();
        for number in
            [(|p: &Picture| p.width) as fn(&Picture) -> i32, |p| p.height, |p| p.original_width, |p| p.original_height]
        {
            columns.push(Arc::new(Int32Array::from_iter(pictures.iter().map(|p| p.as_ref().map(number)))));
        }
        let exif = pictures.iter().map(|p| p.as_ref().map(|p| p.exif.as_str()));
        columns.push(Arc::new(StringArray::from_iter(exif)));
        let sha256 = |outcome: &Outcome| match outcome {
            Outcome::Success { sha256, .. } => Some(sha256.clone()),
            Outcome::Failed { sha256, .. } => sha256.clone(),
        };
        columns.push(Arc::new(StringArray::from_iter(outcomes.iter().map(sha256))));
        columns.push(Arc::new(BinaryArray::from_iter(pictures.iter().map(|p| p.as_ref().map(|p| &p.bytes[..])))));
        RecordBatch::try_new(schema.clone(), columns).map_err(|e| DataError::Encode(e.to_string()))
    }

    /// Some of these rows.
    pub(super) fn slice(&self, start: usize, length: usize) -> Self {
        let carried = self.carried.iter().map(|column| column.slice(start, length)).collect();
        Self {
            carried,
            captions: self.captions.slice(start, length),
            urls: self.urls.slice(start, length),
            bad_lines: self.bad_lines.as_ref().map(|column| column.slice(start, length)),
        }
    }

    /// The input columns and the keys that rows of the output hold.
    pub(super) fn read(batch: &RecordBatch) -> (Self, Vec<String>) {
        let own = batch.num_columns() - OWN_COLUMNS.len() - 1;
        let keys = batch.column(own + 2).as_string::<i32>();
        let keys = (0..keys.len()).map(|row| keys.value(row).to_owned()).collect();
        let carried = batch.columns()[..own].to_vec();
        let (captions, urls) = (batch.column(own).clone(), batch.column(own + 1).clone());
        (Self { carried, captions, urls, bad_lines: None }, keys)
    }
}

/// As img2dataset's files: snappy, row groups of 100 rows. Pictures are compressed already. Nothing here depends on the
/// time or the machine.
pub(super) fn writer_properties(format: ImageFormat) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("blip2-data-pipeline version ", env!("CARGO_PKG_VERSION")).into())
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS as usize))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_column_compression(ColumnPath::from(format.column()), Compression::UNCOMPRESSED);
    for unique in ["caption", "url", "key", "sha256", format.column()] {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(unique), false);
    }
    properties.build()
}
