//! Whole row groups: every column of Parquet; of tars and folders, img2dataset's columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};

use super::{Catalog, Place, part};
use crate::error::{DataError, Result};
use crate::rows::Rows;

impl Catalog {
    /// Reads a row group: all of its columns, and what training reads of them. Where the source is no Parquet, the columns
    /// are `caption`, `key` and `jpg`, which holds images of any format.
    ///
    /// # Errors
    /// As [`Catalog::read`].
    pub async fn read_whole(&self, row_group: usize) -> Result<(RecordBatch, Rows)> {
        let group = &self.row_groups[row_group];
        if let Place::Parquet { .. } = group.place {
            return self.shard(group.shard).await?.read_whole(&part(group)).await;
        }
        let rows = self.read(row_group).await?;
        let mut columns: Vec<(&str, ArrayRef)> = vec![("caption", Arc::new(rows.captions.clone()))];
        if let Some(keys) = &rows.keys {
            columns.push(("key", Arc::new(keys.clone())));
        }
        let encode = |error: arrow::error::ArrowError| DataError::Encode(error.to_string());
        columns.push(("jpg", cast(&rows.images, &DataType::Binary).map_err(encode)?));
        let field = |(name, column): &(&str, ArrayRef)| Field::new(*name, column.data_type().clone(), true);
        let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
        let columns = columns.into_iter().map(|(_, column)| column).collect();
        Ok((RecordBatch::try_new(Arc::new(schema), columns).map_err(encode)?, rows))
    }
}
