//! The columns of a Parquet shard that filters look at.

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::{DataType, Float64Type, Schema, UInt64Type};
use arrow::record_batch::RecordBatch;

use crate::filters::Facts;

/// The columns that tell of a row by itself.
pub(super) const FACTS: &[&str] = &["status", "caption", "width", "height", "nsfw", "similarity"];

/// The columns that filters look at, of a part.
#[derive(Default)]
pub(super) struct FactColumns {
    status: Option<StringArray>,
    caption: Option<StringArray>,
    nsfw: Option<StringArray>,
    url: Option<StringArray>,
    sides: Option<(ArrayRef, ArrayRef)>,
    similarity: Option<ArrayRef>,
}

impl FactColumns {
    /// Those of some columns that a schema has, in its own spelling: LAION writes `NSFW`, others `nsfw`.
    pub(super) fn names<'a>(schema: &'a Schema, wanted: &[&str]) -> Vec<&'a str> {
        let names = schema.fields().iter().map(|field| field.name().as_str());
        names.filter(|name| wanted.iter().any(|wanted| name.eq_ignore_ascii_case(wanted))).collect()
    }

    /// The columns of a batch, whatever their exact types.
    pub(super) fn of(batch: &RecordBatch) -> Self {
        let column = |name: &str, kind: &DataType| {
            let schema = batch.schema();
            let index = schema.fields().iter().position(|field| field.name().eq_ignore_ascii_case(name))?;
            arrow::compute::cast(batch.column(index), kind).ok()
        };
        let text = |name| column(name, &DataType::Utf8).map(|found| found.as_string::<i32>().clone());
        Self {
            status: text("status"),
            caption: text("caption"),
            nsfw: text("nsfw"),
            url: text("url"),
            sides: column("width", &DataType::UInt64).zip(column("height", &DataType::UInt64)),
            similarity: column("similarity", &DataType::Float64),
        }
    }

    pub(super) fn url(&self, row: usize) -> Option<&str> {
        text_at(self.url.as_ref(), row)
    }

    /// What is known of a row.
    pub(super) fn facts(&self, row: usize) -> Facts<'_> {
        let side = |side: &ArrayRef| {
            let side = side.as_primitive::<UInt64Type>();
            side.is_valid(row).then(|| side.value(row))
        };
        let similarity = self.similarity.as_ref().map(|all| all.as_primitive::<Float64Type>());
        Facts {
            // A null status is no success.
            status: self.status.as_ref().map(|all| if all.is_valid(row) { all.value(row) } else { "" }),
            tells_caption: self.caption.is_some(),
            caption: text_at(self.caption.as_ref(), row),
            sides: self.sides.as_ref().and_then(|(width, height)| side(width).zip(side(height))),
            nsfw: text_at(self.nsfw.as_ref(), row),
            similarity: similarity.filter(|all| all.is_valid(row)).map(|all| all.value(row)),
        }
    }
}

fn text_at(column: Option<&StringArray>, row: usize) -> Option<&str> {
    column.filter(|all| all.is_valid(row)).map(|all| all.value(row))
}
