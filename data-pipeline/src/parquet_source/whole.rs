//! Whole row groups: every column, for shards that are made from other shards.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use parquet::errors::ParquetError;

use super::{Part, Rows, Shard, is_not_utf8, raw_text, read_error};
use crate::error::{DataError, Result};

impl Shard {
    /// Reads all columns of a part, and what training reads of them. A text that is no UTF-8 is null in both.
    ///
    /// # Errors
    /// As [`Shard::read`].
    pub async fn read_whole(&self, part: &Part) -> Result<(RecordBatch, Rows)> {
        let all: Vec<&str> = self.schema().fields().iter().map(|field| field.name().as_str()).collect();
        match self.read_columns(part, &all).await {
            Ok(batch) => Ok((self.with_nullable_texts(&batch, &BTreeMap::new())?, self.rows(part, &batch, None)?)),
            Err(DataError::Parquet { source, .. }) if is_not_utf8(&source) => self.read_mended(part, &all).await,
            Err(error) => Err(error),
        }
    }

    /// [`Shard::read_whole`] with texts read as bytes, so that a bad one costs no other row.
    async fn read_mended(&self, part: &Part, all: &[&str]) -> Result<(RecordBatch, Rows)> {
        let is_text = |name: &str| self.schema().field_with_name(name).is_ok_and(|field| is_text(field.data_type()));
        let (texts, others): (Vec<&str>, Vec<&str>) = all.iter().partition(|name| is_text(name));
        let mut mended = BTreeMap::new();
        for name in texts {
            let found = raw_text::read(&self.reader, self.metadata.metadata(), part, name).await;
            mended.insert(name, found.map_err(|error| read_error(&self.location, error))?);
        }
        let batch = self.with_nullable_texts(&self.read_columns(part, &others).await?, &mended)?;
        let captions = mended.remove(self.columns.caption.as_str());
        let mut rows = self.rows(part, &batch, captions)?;
        // Lists of texts were read with the others, and are whole.
        if let Some(name) = &self.columns.captions {
            rows.all_captions = Some(self.captions_of(&batch, name)?);
        }
        Ok((batch, rows))
    }

    /// The columns in the shard's order, some texts taken from elsewhere. Texts may be null in every one: in another row
    /// group of the same shard some may have to be.
    fn with_nullable_texts(
        &self,
        batch: &RecordBatch,
        mended: &BTreeMap<&str, raw_text::Texts>,
    ) -> Result<RecordBatch> {
        let fail =
            |error: arrow::error::ArrowError| read_error(&self.location, ParquetError::ArrowError(error.to_string()));
        let (mut fields, mut columns) = (Vec::new(), Vec::<ArrayRef>::new());
        for field in self.schema().fields() {
            let column = match (mended.get(field.name().as_str()), batch.column_by_name(field.name())) {
                (Some((texts, _)), _) => cast(texts, field.data_type()).map_err(fail)?,
                (None, Some(column)) => column.clone(),
                (None, None) => continue,
            };
            let is_nullable = field.is_nullable() || is_text(field.data_type());
            // Views are how images are read, and nothing that other readers know well.
            let kind = if field.data_type() == &DataType::BinaryView { &DataType::Binary } else { field.data_type() };
            columns.push(cast(&column, kind).map_err(fail)?);
            fields.push(field.as_ref().clone().with_data_type(kind.clone()).with_nullable(is_nullable));
        }
        let schema = Schema::new_with_metadata(fields, self.schema().metadata().clone());
        RecordBatch::try_new(Arc::new(schema), columns).map_err(fail)
    }
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}
