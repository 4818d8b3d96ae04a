//! The catalogue: which shards there are, and which row groups with how many rows they hold.

use futures::{StreamExt, TryStreamExt};

use crate::error::{DataError, Result};
use crate::parquet_source::Shard;
use crate::store::Location;

/// Footers read at the same time.
const FOOTERS_IN_FLIGHT: usize = 16;

/// One row group of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowGroup {
    /// Index of the shard.
    pub shard: usize,
    /// Index inside the shard.
    pub index: usize,
    /// Rows.
    pub rows: u32,
    /// Bytes of the training columns once decoded.
    pub bytes: u64,
    /// Rows of the catalogue in front of this row group: `first_row + row` identifies a sample.
    pub first_row: u64,
}

/// Every shard below a prefix, sorted by path.
#[derive(Clone)]
pub struct Catalog {
    /// The prefix.
    pub location: Location,
    /// The shards.
    pub shards: Vec<Shard>,
    /// The row groups of all shards, in shard order.
    pub row_groups: Vec<RowGroup>,
}

impl Catalog {
    /// Lists the prefix and reads every footer. `progress` is told the footers read and their total.
    ///
    /// # Errors
    /// [`DataError::NoShards`] for an empty prefix; otherwise the first shard's error.
    pub async fn open(location: &Location, progress: impl Fn(usize, usize)) -> Result<Self> {
        let found = location.list(".parquet").await?;
        if found.is_empty() {
            let others = location.list("").await?;
            let what = match others.first() {
                None => "the prefix is empty or does not exist".to_owned(),
                Some((first, _)) => format!("{} other objects, such as {}", others.len(), first.uri()),
            };
            return Err(DataError::NoShards { uri: location.uri().into(), found: what });
        }
        let total = found.len();
        let mut opened = futures::stream::iter(found)
            .map(|(shard, meta)| async move { Shard::open(shard, &meta).await })
            .buffered(FOOTERS_IN_FLIGHT);
        let mut shards = Vec::with_capacity(total);
        while let Some(shard) = opened.try_next().await? {
            shards.push(shard);
            progress(shards.len(), total);
        }
        let row_groups = row_groups(&shards);
        Ok(Self { location: location.clone(), shards, row_groups })
    }

    /// Rows of all shards.
    pub fn rows(&self) -> u64 {
        self.row_groups.last().map_or(0, |last| last.first_row + u64::from(last.rows))
    }

    /// Bytes of all shards.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.size).sum()
    }
}

fn row_groups(shards: &[Shard]) -> Vec<RowGroup> {
    let mut groups = Vec::new();
    let mut first_row = 0;
    for (shard, opened) in shards.iter().enumerate() {
        for (index, rows) in opened.row_groups().into_iter().enumerate() {
            groups.push(RowGroup { shard, index, rows, bytes: opened.row_group_bytes(index), first_row });
            first_row += u64::from(rows);
        }
    }
    groups
}
