//! Samples read and decoded as training would, to count those that cannot be used.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};

use super::READS_IN_FLIGHT;
use crate::catalog::Catalog;
use crate::error::{DataError, Result};
use crate::image::{self, DecodeLimits};
use crate::rng::{CounterRng, Purpose};
use crate::rows::Rows;

/// Samples of a row group at most, as far as there are enough row groups: few row groups would stand for the whole.
const PER_GROUP: usize = 16;
/// Addresses of samples that cannot be used, at most.
const EXAMPLES: usize = 3;

/// How many samples are tried.
#[derive(Clone, Copy, Debug)]
pub struct TryOptions {
    /// Samples.
    pub samples: usize,
    /// What an image may have.
    pub limits: DecodeLimits,
    /// Seed that picks them.
    pub seed: u64,
    /// After this time no more row groups are begun.
    pub within: Duration,
}

/// What came of the samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Samples that were tried, those of unreadable row groups included.
    pub tried: u64,
    /// Those that cannot be used, by the reason that training counts them under; `unreadable` for whole row groups.
    pub bad: BTreeMap<String, u64>,
    /// Addresses of some of them.
    pub examples: Vec<String>,
    /// Row groups that cannot be read: what is wrong, with the shard's URI.
    pub unreadable: Vec<String>,
    /// Row groups that were read.
    pub row_groups: usize,
}

impl Tried {
    /// Samples that cannot be used.
    pub fn num_bad(&self) -> u64 {
        self.bad.values().sum()
    }

    /// Their share; 0 where none was tried.
    pub fn bad_fraction(&self) -> f64 {
        self.num_bad() as f64 / self.tried.max(1) as f64
    }

    /// `no_caption: 2, truncated: 1`.
    pub fn reasons(&self) -> String {
        self.bad.iter().map(|(reason, count)| format!("{reason}: {count}")).collect::<Vec<_>>().join(", ")
    }
}

/// Reads samples spread over the shards and row groups of a catalogue, and decodes them.
///
/// # Errors
/// A store that fails; damaged and vanished shards are counted instead.
pub async fn try_samples(catalog: &Catalog, options: TryOptions) -> Result<Tried> {
    let usable: Vec<usize> =
        (0..catalog.row_groups.len()).filter(|group| catalog.row_groups[*group].usable > 0).collect();
    let count = options.samples.div_ceil(PER_GROUP).min(usable.len());
    let per_group = options.samples.div_ceil(count.max(1));
    // The middle of each of as many equal stretches.
    let chosen = (0..count).map(|i| usable[(2 * i + 1) * usable.len() / (2 * count)]);
    let began = Instant::now();
    let mut reads = futures::stream::iter(chosen)
        .take_while(|_| std::future::ready(began.elapsed() < options.within))
        .map(|group| async move {
            match catalog.read(group).await {
                Ok(rows) => Ok((group, Ok(rows))),
                Err(error) if is_of_shard(&error) => Ok((group, Err(error))),
                Err(error) => Err(error),
            }
        })
        .buffered(READS_IN_FLIGHT);
    let mut tried = Tried::default();
    while let Some((group, rows)) = reads.try_next().await? {
        let wanted = per_group.min(catalog.row_groups[group].usable as usize);
        tried.row_groups += 1;
        match rows {
            Ok(rows) => try_rows(catalog, group, &rows, wanted, options, &mut tried),
            Err(error) => {
                tried.tried += wanted as u64;
                *tried.bad.entry("unreadable".to_owned()).or_default() += wanted as u64;
                tried.unreadable.push(error.to_string());
            }
        }
    }
    Ok(tried)
}

/// Whether other shards are none the worse.
fn is_of_shard(error: &DataError) -> bool {
    let is_missing = |source: &object_store::Error| matches!(source, object_store::Error::NotFound { .. });
    match error {
        DataError::Changed { .. } => true,
        DataError::Store { source, .. } => is_missing(source),
        other => other.is_damage(),
    }
}

fn try_rows(catalog: &Catalog, group: usize, rows: &Rows, wanted: usize, options: TryOptions, tried: &mut Tried) {
    let mut places: Vec<usize> = (0..catalog.row_groups[group].usable as usize).collect();
    CounterRng::new(options.seed, Purpose::Inspect, &[group as u64]).shuffle(&mut places);
    for place in places.into_iter().take(wanted) {
        let row = catalog.row_of(group, place);
        tried.tried += 1;
        if let Err(reason) = try_row(rows, row, &options.limits) {
            *tried.bad.entry(reason.to_owned()).or_default() += 1;
            if tried.examples.len() < EXAMPLES {
                tried.examples.push(catalog.place(group, row));
            }
        }
    }
}

/// Whether a row can be used; the reason, as training names it, where it cannot.
fn try_row(rows: &Rows, row: usize, limits: &DecodeLimits) -> std::result::Result<(), &'static str> {
    let encoded = rows.image(row).unwrap_or_default();
    rows.unusable(row).map_or_else(|| image::decode(encoded, limits).map(drop).map_err(|error| error.reason()), Err)
}
