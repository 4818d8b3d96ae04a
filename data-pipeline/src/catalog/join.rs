//! Facts of LAION's metadata about images that were fetched without repeating them in their shards.
//!
//! 8 bytes are kept for every URL of the metadata while the catalogue is made: 3.3 GB for LAION-400M.

use std::hash::{DefaultHasher, Hash, Hasher};

use configs::{Filters, Nsfw};
use futures::{StreamExt, TryStreamExt};

use super::facts::FactColumns;
use crate::error::Result;
use crate::filters::{Facts, reject_by_metadata};
use crate::parquet_source::Shard;
use crate::store::Location;

/// Row groups of metadata that are read at the same time; they are large.
const READS_IN_FLIGHT: usize = 4;
/// Low bits of a hash, which hold the verdict instead.
const VERDICT: u64 = 3;
/// Verdicts by their bits.
const VERDICTS: [Option<&str>; 4] = [None, Some("nsfw"), Some("similarity"), Some("nsfw_unknown")];

/// Verdicts of the filters about URLs, by the upper bits of their hash. Two of 400 million URLs share these bits in one of
/// 50 catalogues; the stricter verdict counts for both then.
#[derive(Default)]
pub(super) struct Metadata {
    known: Vec<u64>,
    is_asked: bool,
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
        let mut known = Vec::new();
        for (place, meta) in super::index::parquet_files(location).await? {
            let shard = Shard::open_any(place, meta.size).await?;
            let columns = FactColumns::names(shard.schema(), &["url", "nsfw", "similarity"]);
            let parts = shard.parts(super::READ_UNIT_BYTES);
            let (shard, columns) = (&shard, &columns);
            let mut reads = futures::stream::iter(parts)
                .map(|part| async move { shard.read_mended(&part, columns).await })
                .buffered(READS_IN_FLIGHT);
            while let Some((batch, _)) = reads.try_next().await? {
                let facts = FactColumns::of(&batch);
                known.extend((0..batch.num_rows()).filter_map(|row| {
                    let verdict = reject_by_metadata(filters, &facts.facts(row));
                    let bits = VERDICTS.iter().position(|known| *known == verdict)?;
                    Some(key(facts.url(row)?) | bits as u64)
                }));
            }
        }
        // The strictest of several verdicts comes last.
        known.sort_unstable();
        Ok(Self { known, is_asked: true })
    }

    /// Whether a row's URL is needed.
    pub(super) fn is_asked(&self) -> bool {
        self.is_asked
    }

    /// The facts of a row with the verdict of the metadata in place of what the shard does not tell. A URL that the
    /// metadata do not have is not known to be safe.
    pub(super) fn complete<'a>(&self, facts: Facts<'a>, url: Option<&str>) -> Facts<'a> {
        if !self.is_asked || facts.unusable.is_some() {
            return facts;
        }
        let Some(verdict) = url.and_then(|url| self.verdict(url)) else { return facts };
        match VERDICTS[verdict as usize] {
            None => Facts { nsfw: facts.nsfw.or(Some(Nsfw::Unlikely)), ..facts },
            // What the shard itself tells is of the same row of the metadata, and no better.
            reason => Facts { unusable: reason, ..facts },
        }
    }

    fn verdict(&self, url: &str) -> Option<u64> {
        let key = key(url);
        let behind = self.known.partition_point(|known| *known <= key | VERDICT);
        let found = self.known[..behind].last()?;
        (found & !VERDICT == key).then_some(found & VERDICT)
    }
}

fn key(url: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    url.hash(&mut hasher);
    hasher.finish() & !VERDICT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strictest_verdict_counts_and_an_unknown_address_is_not_safe() {
        let mut known = vec![key("a"), key("b") | 1, key("b"), key("c") | 3, key("d") | 2];
        known.sort_unstable();
        let metadata = Metadata { known, is_asked: true };
        let complete = |url: &str| metadata.complete(Facts::default(), Some(url));
        assert_eq!((complete("a").unusable, complete("a").nsfw), (None, Some(Nsfw::Unlikely)));
        assert_eq!(complete("b").unusable, Some("nsfw"));
        assert_eq!(complete("c").unusable, Some("nsfw_unknown"));
        assert_eq!(complete("d").unusable, Some("similarity"));
        assert_eq!((complete("e").unusable, complete("e").nsfw), (None, None));
        assert_eq!(metadata.complete(Facts::default(), None).nsfw, None);
    }
}
