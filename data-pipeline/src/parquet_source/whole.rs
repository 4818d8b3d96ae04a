//! Whole row groups: every column, for shards that are made from other shards.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use parquet::errors::ParquetError;

use super::{Part, Rows, Shard, is_text, is_text_list, read_error};
use crate::error::Result;

impl Shard {
    /// Reads all columns of a part, and what training reads of them. A text that is no UTF-8 is null in both.
    ///
    /// # Errors
    /// As [`Shard::read`].
    pub async fn read_whole(&self, part: &Part) -> Result<(RecordBatch, Rows)> {
        let all: Vec<&str> = self.schema().fields().iter().map(|field| field.name().as_str()).collect();
        let read = self.read_mended(part, &all).await?;
        Ok((self.with_nullable_texts(&read.0)?, self.rows(part, &read)?))
    }

    /// The columns in the shard's order and of its types. Texts may be null in every one: in another row group of the same
    /// shard some may have to be.
    fn with_nullable_texts(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let fail =
            |error: arrow::error::ArrowError| read_error(&self.location, ParquetError::ArrowError(error.to_string()));
        let (mut fields, mut columns) = (Vec::new(), Vec::<ArrayRef>::new());
        for field in self.schema().fields() {
            let Some(column) = batch.column_by_name(field.name()) else { continue };
            let is_nullable = field.is_nullable() || is_text(field.data_type()) || is_text_list(field.data_type());
            // Views are how images are read, and nothing that other readers know well.
            let kind = if field.data_type() == &DataType::BinaryView { &DataType::Binary } else { field.data_type() };
            columns.push(cast(column, kind).map_err(fail)?);
            fields.push(field.as_ref().clone().with_data_type(kind.clone()).with_nullable(is_nullable));
        }
        let schema = Schema::new_with_metadata(fields, self.schema().metadata().clone());
        RecordBatch::try_new(Arc::new(schema), columns).map_err(fail)
    }
}
