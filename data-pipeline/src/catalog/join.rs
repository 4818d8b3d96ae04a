//! What LAION's metadata say of images that were fetched without repeating it in their shards.
//!
//! Only the URLs that the filters leave out are kept, 8 bytes each.

use std::hash::{DefaultHasher, Hash, Hasher};

use configs::Filters;
use futures::{StreamExt, TryStreamExt};

use super::facts::FactColumns;
use crate::error::Result;
use crate::filters::reject;
use crate::parquet_source::Shard;
use crate::store::Location;

/// Row groups of metadata that are read at the same time; they are large.
const READS_IN_FLIGHT: usize = 4;
/// Low bits of a hash that tell the reason instead.
const REASONS: [&str; 2] = ["nsfw", "similarity"];

/// URLs that are left out, by the upper bits of their hash. Two of 400 million URLs share these bits in one of 100
/// catalogues; then one image more is left out.
#[derive(Default)]
pub(super) struct Metadata {
    left_out: Vec<u64>,
}

impl Metadata {
    /// Reads the metadata, when the filters ask for them.
    ///
    /// # Errors
    /// When there are none, or they cannot be read.
    pub(super) async fn open(location: &Location, filters: &Filters) -> Result<Self> {
        if filters.max_nsfw.is_none() && filters.min_similarity.is_none() {
            return Ok(Self::default());
        }
        let asked = Filters { max_nsfw: filters.max_nsfw, min_similarity: filters.min_similarity, ..Filters::none() };
        let mut left_out = Vec::new();
        for (place, meta) in super::index::list(location, ".parquet").await? {
            let shard = Shard::open_any(place, meta.size).await?;
            let columns = FactColumns::names(shard.schema(), &["url", "nsfw", "similarity"]);
            let parts = shard.parts(super::READ_UNIT_BYTES);
            let (shard, columns) = (&shard, &columns);
            let mut reads = futures::stream::iter(parts)
                .map(|part| async move { shard.read_columns(&part, columns).await })
                .buffered(READS_IN_FLIGHT);
            while let Some(batch) = reads.try_next().await? {
                let facts = FactColumns::of(&batch);
                left_out.extend((0..batch.num_rows()).filter_map(|row| {
                    let reason = reject(&asked, &facts.facts(row))?;
                    Some(key(facts.url(row)?) | REASONS.iter().position(|known| *known == reason)? as u64)
                }));
            }
        }
        left_out.sort_unstable();
        Ok(Self { left_out })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left_out.is_empty()
    }

    /// Why the image of a URL is left out; nothing when it is not.
    pub(super) fn reject(&self, url: &str) -> Option<&'static str> {
        let key = key(url);
        let found = self.left_out.get(self.left_out.partition_point(|known| *known < key))?;
        (found & !1 == key).then(|| REASONS[(found & 1) as usize])
    }
}

fn key(url: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    url.hash(&mut hasher);
    hasher.finish() & !1
}
