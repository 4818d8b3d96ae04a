//! All sources of a run as one stream: which rows make a step, whatever rank reads them.

use std::ops::Range;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::error::{DataError, Result};
use crate::mixture::Mixture;
use crate::order::{Draw, Layout, Order};

/// A source that a loader reads.
#[derive(Clone)]
pub struct LoaderSource {
    /// Name in messages, metrics and records.
    pub name: String,
    /// Its rows.
    pub catalog: Arc<Catalog>,
    /// Share of the samples, relative to the other sources.
    pub weight: f64,
    /// Where a row has several captions: how many of the first ones one is drawn from; none for all.
    pub top_captions: Option<usize>,
}

impl LoaderSource {
    /// A source that stands alone.
    pub fn alone(catalog: Arc<Catalog>) -> Self {
        Self { name: "source".into(), catalog, weight: 1.0, top_captions: None }
    }
}

/// A source in its order.
pub(super) struct Ordered {
    pub(super) source: LoaderSource,
    pub(super) order: Order,
    /// Rows of the sources in front: `first_sample + row` is a sample's number in the run.
    pub(super) first_sample: u64,
}

/// One draw of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamDraw {
    pub(super) source: usize,
    pub(super) draw: Draw,
}

/// The sources and how they are mixed.
pub(super) struct Stream {
    pub(super) sources: Vec<Ordered>,
    pub(super) layout: Layout,
    mixture: Mixture,
}

impl Stream {
    /// # Errors
    /// [`DataError::Setting`] when a lane would hold no row of a source, or the batch does not divide into lanes.
    pub(super) fn new(layout: Layout, sources: Vec<LoaderSource>) -> Result<Self> {
        let weights: Vec<f64> = sources.iter().map(|source| source.weight).collect();
        let mixture = Mixture::new(layout.seed, &weights)?;
        let mut ordered = Vec::with_capacity(sources.len());
        let mut first_sample = 0;
        for (index, source) in sources.into_iter().enumerate() {
            let rows = source.catalog.row_groups.iter().map(|group| group.usable).collect();
            // Sources of equal size must not be shuffled alike; the first one has the run's own seed.
            let seed = layout.seed.wrapping_add((index as u64) << 32);
            let order = Order::new(Layout { seed, ..layout }, rows).map_err(|error| match error {
                DataError::Setting(what) => DataError::Setting(format!("data.sources `{}`: {what}", source.name)),
                other => other,
            })?;
            let rows = source.catalog.rows();
            ordered.push(Ordered { source, order, first_sample });
            first_sample += rows;
        }
        Ok(Self { sources: ordered, layout, mixture })
    }

    /// Rows that a lane gives to each step.
    pub(super) fn rows_per_step(&self) -> u64 {
        self.layout.global_batch / self.layout.lanes
    }

    /// The draws that make up the part of a step that some lanes deliver, lane by lane.
    pub(super) fn step(&self, step: u64, lanes: Range<u64>) -> Vec<StreamDraw> {
        let per_step = self.rows_per_step();
        let draws = lanes.flat_map(|lane| (step * per_step..(step + 1) * per_step).map(move |m| (lane, m)));
        draws
            .map(|(lane, m)| {
                let drawn = self.mixture.draw(lane, m);
                StreamDraw { source: drawn.source, draw: self.sources[drawn.source].order.draw(lane, drawn.n) }
            })
            .collect()
    }

    /// The first draw of a source in a lane at or after a step: its number in the source, and in the lane.
    pub(super) fn first_draw(&self, lane: u64, source: usize, step: u64) -> (u64, u64) {
        let n = self.mixture.drawn(lane, source, step * self.rows_per_step());
        (n, self.mixture.position(lane, source, n))
    }

    /// Which draw of a lane is the `n`-th of a source.
    pub(super) fn position(&self, lane: u64, source: usize, n: u64) -> u64 {
        self.mixture.position(lane, source, n)
    }

    /// Draws from a source before a step, and how many different rows they were: all of them once every lane has gone
    /// through its first epoch.
    pub(super) fn drawn(&self, source: usize, step: u64) -> (u64, u64) {
        let order = &self.sources[source].order;
        let m = step * self.rows_per_step();
        let lanes = (0..self.layout.lanes).map(|lane| (lane, self.mixture.drawn(lane, source, m)));
        lanes.fold((0, 0), |(drawn, distinct), (lane, n)| (drawn + n, distinct + n.min(order.first_epoch_rows(lane))))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use proptest::prelude::*;

    use super::*;
    use crate::order::Address;

    fn stream(layout: Layout, sources: &[(f64, Vec<u32>)]) -> Option<Stream> {
        let source = |(weight, rows): &(f64, Vec<u32>)| LoaderSource {
            weight: *weight,
            ..LoaderSource::alone(Arc::new(Catalog::of_rows(rows)))
        };
        Stream::new(layout, sources.iter().map(source).collect()).ok()
    }

    impl Stream {
        fn addresses(&self, step: u64, lanes: Range<u64>) -> Vec<(usize, Address)> {
            let address = |StreamDraw { source, draw }: &StreamDraw| {
                (*source, self.sources[*source].order.address(&draw.window, draw.offset))
            };
            self.step(step, lanes).iter().map(address).collect()
        }
    }

    prop_compose! {
        fn catalogues()(sources in prop::collection::vec(
            (0.05_f64..20.0, prop::collection::vec(0_u32..30, 1..12)), 1..4,
        )) -> Vec<(f64, Vec<u32>)> { sources }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn ranks_of_any_number_deliver_the_same_steps_in_the_same_order_from_any_step_on(
            sources in catalogues(), lanes_of_eight in 1_u64..4, rows in 1_u64..4, window in 1_u64..5, seed: u64,
            first in 0_u64..3000,
        ) {
            let lanes = 8 * lanes_of_eight;
            let layout = Layout { seed, lanes, window_row_groups: window, global_batch: lanes * rows };
            let Some(alone) = stream(layout, &sources) else { return Ok(()) };
            for step in first..first + 4 {
                let whole = alone.addresses(step, 0..lanes);
                prop_assert_eq!(whole.len() as u64, layout.global_batch);
                for world in [2, 4, 8] {
                    // Every rank builds its own, as after a restart, and knows nothing of the others.
                    let own = lanes / world;
                    let ranks = (0..world).map(|rank| {
                        stream(layout, &sources).unwrap().addresses(step, rank * own..(rank + 1) * own)
                    });
                    prop_assert_eq!(ranks.flatten().collect::<Vec<_>>(), whole.clone(), "{} ranks", world);
                }
            }
        }

        #[test]
        fn an_epoch_of_every_source_draws_every_row_once(
            sources in catalogues(), lanes in 1_u64..5, rows in 1_u64..4, window in 1_u64..5, seed: u64,
        ) {
            let layout = Layout { seed, lanes, window_row_groups: window, global_batch: lanes * rows };
            let Some(stream) = stream(layout, &sources) else { return Ok(()) };
            let mut seen: BTreeMap<usize, HashSet<Address>> = BTreeMap::new();
            let mut at = BTreeMap::new();
            // Draws until the rarest source has gone through an epoch, or long enough.
            for step in 0..2000 {
                for StreamDraw { source, draw } in stream.step(step, 0..lanes) {
                    at.insert((source, draw.window.lane), draw.window.epoch);
                }
                for (source, address) in stream.addresses(step, 0..lanes) {
                    prop_assert!(seen.entry(source).or_default().insert(address), "{:?} came twice", address);
                }
                for (source, (_, rows)) in sources.iter().enumerate() {
                    let (drawn, distinct) = stream.drawn(source, step + 1);
                    prop_assert_eq!(drawn, seen.get(&source).map_or(0, HashSet::len) as u64);
                    prop_assert!(distinct <= rows.iter().map(|rows| u64::from(*rows)).sum());
                }
            }
            for (source, addresses) in seen {
                let total = u64::from(sources[source].1.iter().sum::<u32>());
                let of_epoch = |epoch| addresses.iter().filter(|address| address.epoch == epoch).count() as u64;
                // The mixture lets lanes draw from a source at different steps.
                let last = (0..lanes).map(|lane| at.get(&(source, lane)).copied().unwrap_or(0)).min().unwrap_or(0);
                for epoch in 0..last {
                    prop_assert_eq!(of_epoch(epoch), total);
                }
            }
        }
    }
}
