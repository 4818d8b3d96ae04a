//! Parquet shards: the columns that filters look at, row group by row group.

use object_store::ObjectMeta;

use super::{IndexedGroup, IndexedShard, Judge, all_used};
use crate::catalog::facts::{FACTS, FactColumns};
use crate::error::{DataError, Result};
use crate::filters::reject;
use crate::parquet_source::{Shard, is_not_utf8};
use crate::store::Location;

pub(super) async fn index_parquet(
    location: &Location,
    meta: &ObjectMeta,
    judge: &Judge<'_>,
    unit: u64,
) -> Result<IndexedShard> {
    let shard = Shard::open(location.clone(), meta.size).await?;
    let names: &[&str] = if judge.metadata.is_empty() { FACTS } else { &[FACTS, &["url"]].concat() };
    let columns = FactColumns::names(shard.schema(), names);
    let mut indexed = IndexedShard { fingerprint: shard.fingerprint.clone(), ..IndexedShard::default() };
    for part in shard.parts(unit) {
        let facts = match shard.read_columns(&part, &columns).await {
            Ok(batch) => FactColumns::of(&batch),
            // Texts that are no UTF-8 are found and counted when their rows are drawn.
            Err(DataError::Parquet { source, .. }) if is_not_utf8(&source) => FactColumns::default(),
            Err(error) => return Err(error),
        };
        let used = (0..part.rows as usize).map(|row| {
            let by_url = facts.url(row).and_then(|url| judge.metadata.reject(url));
            indexed.note(by_url.or_else(|| reject(judge.filters, &facts.facts(row))))
        });
        let used = used.collect();
        indexed.groups.push(IndexedGroup { used, ..all_used(&shard, &part) });
    }
    Ok(indexed)
}
