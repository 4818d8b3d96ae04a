//! Which source each draw of a lane comes from: fixed, exact in every block, computed from the draw's number alone.
//!
//! Draws of a lane are cut into blocks of [`BLOCK`]. In each block source `j` has its share of the draws, rounded so that
//! they add up (largest remainder); which ones is a permutation keyed by lane and block. So a lane's `m`-th draw is the
//! `n`-th of its source with `n` known without looking at any other block.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{DataError, Result};
use crate::rng::{CounterRng, Purpose};

/// Draws of a block: shares are exact to one in ten thousand, and a block's table is 40 kB and one shuffle.
pub const BLOCK: u64 = 10_000;
/// Tables that are kept for each lane: draws are looked up in need order, which is read ahead by a block at most.
const BLOCKS_KEPT: u64 = 3;

/// A draw of a source in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceDraw {
    /// Index of the source.
    pub source: usize,
    /// Number among the lane's draws from this source, from 0.
    pub n: u64,
}

/// The schedule of all sources.
#[derive(Debug)]
pub struct Mixture {
    seed: u64,
    counts: Vec<u64>,
    tables: Mutex<HashMap<(u64, u64), Arc<Table>>>,
}

/// Who owns the draws of one block of one lane.
#[derive(Debug)]
struct Table {
    /// The source of each draw.
    sources: Vec<u16>,
    /// The draws of each source, in order.
    places: Vec<Vec<u16>>,
}

impl Mixture {
    /// The schedule for sources with these weights.
    ///
    /// # Errors
    /// [`DataError::Setting`] when a weight is too small to get a single draw of a block, or there are too many sources.
    pub fn new(seed: u64, weights: &[f64]) -> Result<Self> {
        if weights.is_empty() || weights.len() > usize::from(u16::MAX) {
            return Err(DataError::Setting(format!("data.sources has {} entries; expected 1 to 65535", weights.len())));
        }
        let counts = counts(weights);
        if let Some(source) = counts.iter().position(|count| *count == 0) {
            return Err(DataError::Setting(format!(
                "data.sources[{source}].weight = {} of {} in all: less than one sample in {BLOCK}. Raise the weight or \
                 leave the source out",
                weights[source],
                weights.iter().sum::<f64>()
            )));
        }
        Ok(Self { seed, counts, tables: Mutex::default() })
    }

    /// Draws of each source in every block.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The `m`-th draw of a lane.
    pub fn draw(&self, lane: u64, m: u64) -> SourceDraw {
        if self.counts.len() == 1 {
            return SourceDraw { source: 0, n: m };
        }
        let (block, place) = (m / BLOCK, (m % BLOCK) as usize);
        let table = self.table(lane, block);
        let source = usize::from(table.sources[place]);
        let before = table.places[source].partition_point(|known| usize::from(*known) < place);
        SourceDraw { source, n: block * self.counts[source] + before as u64 }
    }

    /// Which draw of a lane is the `n`-th of a source.
    pub fn position(&self, lane: u64, source: usize, n: u64) -> u64 {
        if self.counts.len() == 1 {
            return n;
        }
        let count = self.counts[source];
        let (block, before) = (n / count, (n % count) as usize);
        block * BLOCK + u64::from(self.table(lane, block).places[source][before])
    }

    /// How many of a lane's first `m` draws come from a source.
    pub fn drawn(&self, lane: u64, source: usize, m: u64) -> u64 {
        if self.counts.len() == 1 {
            return m;
        }
        let (block, place) = (m / BLOCK, (m % BLOCK) as usize);
        let before = match place {
            0 => 0,
            _ => self.table(lane, block).places[source].partition_point(|known| usize::from(*known) < place),
        };
        block * self.counts[source] + before as u64
    }

    fn table(&self, lane: u64, block: u64) -> Arc<Table> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tables.get(&(lane, block)) {
            return known.clone();
        }
        let owners = self.counts.iter().enumerate();
        let mut sources: Vec<u16> =
            owners.flat_map(|(source, count)| std::iter::repeat_n(source as u16, *count as usize)).collect();
        CounterRng::new(self.seed, Purpose::Mixture, &[lane, block]).shuffle(&mut sources);
        let mut places = vec![Vec::new(); self.counts.len()];
        for (place, source) in sources.iter().enumerate() {
            places[usize::from(*source)].push(place as u16);
        }
        let table = Arc::new(Table { sources, places });
        tables.retain(|(known, number), _| *known != lane || number.abs_diff(block) < BLOCKS_KEPT);
        tables.insert((lane, block), table.clone());
        table
    }
}

/// Shares of a block, rounded by the largest remainder; of equal remainders the first source's is the larger one.
fn counts(weights: &[f64]) -> Vec<u64> {
    let total: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|weight| weight / total * BLOCK as f64).collect();
    let mut counts: Vec<u64> = exact.iter().map(|share| share.floor() as u64).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    let remainder = |source: &usize| exact[*source] - exact[*source].floor();
    by_remainder.sort_by(|a, b| remainder(b).total_cmp(&remainder(a)).then(a.cmp(b)));
    let missing = BLOCK.saturating_sub(counts.iter().sum()) as usize;
    by_remainder.iter().take(missing).for_each(|source| counts[*source] += 1);
    counts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_block_has_each_source_as_often_as_its_share_says(
            weights in prop::collection::vec(0.01_f64..100.0, 1..6), lane in 0_u64..9, block in 0_u64..1_000_000, seed: u64,
        ) {
            let mixture = Mixture::new(seed, &weights).unwrap();
            let total: f64 = weights.iter().sum();
            prop_assert_eq!(mixture.counts().iter().sum::<u64>(), BLOCK);
            let mut found = vec![0; weights.len()];
            for m in block * BLOCK..(block + 1) * BLOCK {
                let draw = mixture.draw(lane, m);
                // Draws of a source are numbered without a gap, and the way back leads to the same place.
                prop_assert_eq!(draw.n, block * mixture.counts()[draw.source] + found[draw.source]);
                prop_assert_eq!(mixture.position(lane, draw.source, draw.n), m);
                prop_assert_eq!(mixture.drawn(lane, draw.source, m), draw.n);
                found[draw.source] += 1;
            }
            prop_assert_eq!(&found, mixture.counts());
            for (weight, count) in weights.iter().zip(&found) {
                let exact = weight / total * BLOCK as f64;
                prop_assert!((exact - *count as f64).abs() < 1.0, "{} of {}", count, exact);
            }
        }
    }

    #[test]
    fn one_source_is_drawn_in_its_own_order() {
        let mixture = Mixture::new(1, &[3.0]).unwrap();
        for m in [0, 1, BLOCK, 1 << 40] {
            assert_eq!(mixture.draw(5, m), SourceDraw { source: 0, n: m });
        }
    }

    #[test]
    fn lanes_and_blocks_differ() {
        let mixture = Mixture::new(1, &[1.0, 1.0]).unwrap();
        let sources =
            |lane, block| (0..BLOCK).map(|m| mixture.draw(lane, block * BLOCK + m).source).collect::<Vec<_>>();
        assert_ne!(sources(0, 0), sources(1, 0));
        assert_ne!(sources(0, 0), sources(0, 1));
    }

    #[test]
    fn the_schedule_is_fixed_for_good() {
        let mixture = Mixture::new(42, &[115.0, 14.0, 0.6]).unwrap();
        assert_eq!(mixture.counts(), [8874, 1080, 46]);
        let drawn: Vec<usize> = (0..40).map(|m| mixture.draw(3, 70_000 + m).source).collect();
        assert_eq!(drawn, SOURCES_OF_BLOCK_7);
    }
    const SOURCES_OF_BLOCK_7: [usize; 40] = [
        0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0,
        0, 0, 0,
    ];

    #[test]
    fn a_share_of_nothing_is_refused() {
        let error = Mixture::new(1, &[1.0, 1e-6]).unwrap_err().to_string();
        assert!(error.contains("data.sources[1].weight"), "{error}");
    }
}
