//! Which rows make a step: a pure function of the seed, the row counts and the step number.
//!
//! Nothing is saved to resume and nothing is replayed: seeking is arithmetic. The row groups of an epoch are put into
//! one line by a keyed permutation; the line of `N` rows is cut into `L` intervals at `⌊kN/L⌋`, one for each lane; rows are
//! shuffled inside a lane in windows of whole row groups. A step takes the same number of rows from each lane, so a row
//! group is read by one rank (two at an interval's border), whatever the number of ranks is.
//!
//! # Guarantee
//! Every epoch draws every row exactly once, for any number of rows, lanes, windows and ranks. Where `L` does not divide
//! `N`, intervals differ by one row; lane `l` takes interval `(l + epoch) mod L` then, so that all lanes pass into an epoch
//! within one draw of each other, for ever. After `n` draws of each lane, every row has been drawn `⌊(n - 1) L/N⌋` times at
//! least (never less than 0) and `⌈(n + 1) L/N⌉` times at most, and two draws of one row are less than `2N/L + 2` draws of a
//! lane apart. Where `L` divides `N`, lane `l` keeps interval `l`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::rng::{CounterRng, Purpose};

/// Epochs whose prefix sums are kept: lanes cross into the next epoch at about the same step.
const EPOCHS_KEPT: usize = 3;
/// Rounds of the permutation's Feistel network; four already pass as a pseudo-random permutation (Luby and Rackoff).
const ROUNDS: usize = 6;

/// A keyed permutation of `0..len` that needs no table: a balanced Feistel network over the next even power of two,
/// walked until it lands inside.
#[derive(Clone, Debug)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..len` keyed by `(seed, counters…)`.
    pub fn new(seed: u64, counters: &[u64], len: u64) -> Self {
        let mut rng = CounterRng::new(seed, Purpose::Order, counters);
        let bits = 64 - len.saturating_sub(1).leading_zeros();
        Self { len, half_bits: bits.div_ceil(2).max(1), keys: std::array::from_fn(|_| rng.next_u64()) }
    }

    /// Where `index` goes.
    ///
    /// # Panics
    /// When `index` is not below the length.
    pub fn at(&self, index: u64) -> u64 {
        assert!(index < self.len, "permutation of {} asked for index {index}", self.len);
        let mask = (1u64 << self.half_bits) - 1;
        let mut value = index;
        loop {
            let (mut left, mut right) = (value >> self.half_bits, value & mask);
            for key in self.keys {
                // The high bits of a multiply mix well; the shift keeps them for every half size.
                let mixed = (right ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 17;
                (left, right) = (right, (left ^ mixed) & mask);
            }
            value = left << self.half_bits | right;
            if value < self.len {
                return value;
            }
        }
    }
}

/// Rows of a line that a lane draws in one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    start: u64,
    end: u64,
}

/// One row's place in the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// How often the lane had gone through its rows before.
    pub epoch: u64,
    /// Index of the row group in the catalogue.
    pub row_group: usize,
    /// Row inside the row group.
    pub row: usize,
}

/// A run of rows that is shuffled together: whole row groups, cut at the lane's borders.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WindowId {
    /// The epoch.
    pub epoch: u64,
    /// The lane.
    pub lane: u64,
    /// Number of the window inside the lane's epoch.
    pub number: u64,
}

/// One draw of a lane: a window and the draw's place in its shuffled order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The window.
    pub window: WindowId,
    /// Place in the window's shuffled order.
    pub offset: u64,
}

/// How a stream is cut into lanes and windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Seed of the order.
    pub seed: u64,
    /// Lanes, fixed for a run.
    pub lanes: u64,
    /// Row groups shuffled together inside a lane.
    pub window_row_groups: u64,
    /// Samples of one step over all ranks; a multiple of `lanes`.
    pub global_batch: u64,
}

/// The row groups of one epoch in line, with the rows in front of each.
#[derive(Debug)]
struct Line {
    /// Catalogue index of the row group at each place of the line.
    groups: Vec<u32>,
    /// Rows in front of each place; one longer than `groups`.
    starts: Vec<u64>,
}

/// The order of one source.
#[derive(Debug)]
pub struct Order {
    layout: Layout,
    rows: Vec<u32>,
    total: u64,
    lines: Mutex<VecDeque<(u64, Arc<Line>)>>,
}

impl Order {
    /// The order over row groups with `rows[i]` rows each.
    ///
    /// # Errors
    /// [`DataError::Setting`] when a lane would hold no row or the batch does not divide into lanes.
    pub fn new(layout: Layout, rows: Vec<u32>) -> Result<Self> {
        let total: u64 = rows.iter().map(|r| u64::from(*r)).sum();
        let Layout { lanes, global_batch, window_row_groups, .. } = layout;
        if lanes == 0 || window_row_groups == 0 || global_batch == 0 || !global_batch.is_multiple_of(lanes) {
            return Err(DataError::Setting(format!(
                "global_batch = {global_batch} over data.lanes = {lanes} (shuffle_window_row_groups = \
                 {window_row_groups}): every step takes the same number of rows from each lane. Choose data.lanes \
                 among the divisors of the global batch"
            )));
        }
        if total < lanes {
            return Err(DataError::Setting(format!(
                "{total} rows for data.lanes = {lanes}: every lane needs at least one row. Add shards or lower data.lanes"
            )));
        }
        Ok(Self { layout, rows, total, lines: Mutex::new(VecDeque::new()) })
    }

    /// Lanes.
    pub fn lanes(&self) -> u64 {
        self.layout.lanes
    }

    /// Row groups shuffled together inside a lane.
    pub fn window_row_groups(&self) -> u64 {
        self.layout.window_row_groups
    }

    /// Rows that a lane draws in its first epoch: `⌊N/L⌋`, or one more.
    pub fn first_epoch_rows(&self, lane: u64) -> u64 {
        let Interval { start, end } = self.interval(lane, 0);
        end - start
    }

    /// Rows that a lane gives to each step.
    pub fn rows_per_step(&self) -> u64 {
        self.layout.global_batch / self.layout.lanes
    }

    fn line(&self, epoch: u64) -> Arc<Line> {
        let mut lines = self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, line)) = lines.iter().find(|(known, _)| *known == epoch) {
            return line.clone();
        }
        let permutation = Permutation::new(self.layout.seed, &[0, epoch], self.rows.len() as u64);
        let groups: Vec<u32> = (0..self.rows.len() as u64).map(|place| permutation.at(place) as u32).collect();
        let mut starts = Vec::with_capacity(groups.len() + 1);
        let mut sum = 0;
        starts.push(0);
        for group in &groups {
            sum += u64::from(self.rows[*group as usize]);
            starts.push(sum);
        }
        let line = Arc::new(Line { groups, starts });
        if lines.len() == EPOCHS_KEPT {
            lines.pop_front();
        }
        lines.push_back((epoch, line.clone()));
        line
    }

    /// First place of the `k`-th interval, on a line that repeats for ever.
    fn interval_start(&self, k: u64) -> u64 {
        (u128::from(k) * u128::from(self.total) / u128::from(self.layout.lanes)) as u64
    }

    /// The places of an epoch's line that a lane draws.
    fn interval(&self, lane: u64, epoch: u64) -> Interval {
        let lanes = self.layout.lanes;
        let k = if self.total.is_multiple_of(lanes) { lane } else { (lane + epoch) % lanes };
        Interval { start: self.interval_start(k), end: self.interval_start(k + 1) }
    }

    /// First and last-but-one place in the line of a window's rows.
    fn window_range(&self, line: &Line, id: &WindowId) -> (u64, u64) {
        let Interval { start, end } = self.interval(id.lane, id.epoch);
        let first_group = line.starts.partition_point(|s| *s <= start) as u64 - 1;
        let cut = |number: u64| {
            let group = (first_group + number * self.layout.window_row_groups).min(line.groups.len() as u64);
            line.starts[group as usize].clamp(start, end)
        };
        (cut(id.number), cut(id.number + 1))
    }

    /// Rows of a window.
    pub fn window_rows(&self, id: &WindowId) -> u64 {
        let (start, end) = self.window_range(&self.line(id.epoch), id);
        end - start
    }

    /// The row groups that a window touches, in line order.
    pub fn window_groups(&self, id: &WindowId) -> Vec<usize> {
        let line = self.line(id.epoch);
        let (start, end) = self.window_range(&line, id);
        let first = line.starts.partition_point(|s| *s <= start) - 1;
        let last = line.starts.partition_point(|s| *s < end);
        line.groups[first..last].iter().filter(|g| self.rows[**g as usize] > 0).map(|g| *g as usize).collect()
    }

    /// The epoch of a lane's `n`-th draw, and the draw's number in it.
    fn epoch_of(&self, lane: u64, n: u64) -> (u64, u64) {
        let (lanes, total) = (self.layout.lanes, self.total);
        if total.is_multiple_of(lanes) {
            let rows = total / lanes;
            return (n / rows, n % rows);
        }
        // With intervals `lane`, `lane + 1` … one behind the other, the draw has this place on the repeating line. Its
        // interval is the last one that starts at or before it.
        let place = self.interval_start(lane) + n;
        let k = ((u128::from(place) + 1) * u128::from(lanes)).div_ceil(u128::from(total)) as u64 - 1;
        (k - lane, place - self.interval_start(k))
    }

    /// The `n`-th draw of `lane` since the start of the run.
    pub fn draw(&self, lane: u64, n: u64) -> Draw {
        let (epoch, offset) = self.epoch_of(lane, n);
        let line = self.line(epoch);
        let Interval { start, .. } = self.interval(lane, epoch);
        let place = start + offset;
        let first_group = line.starts.partition_point(|s| *s <= start) as u64 - 1;
        let group = line.starts.partition_point(|s| *s <= place) as u64 - 1;
        let window = WindowId { epoch, lane, number: (group - first_group) / self.layout.window_row_groups };
        let (window_start, _) = self.window_range(&line, &window);
        Draw { window, offset: place - window_start }
    }

    /// The row at `offset` of a window's shuffled order.
    pub fn address(&self, id: &WindowId, offset: u64) -> Address {
        let line = self.line(id.epoch);
        let (start, end) = self.window_range(&line, id);
        let shuffled = Permutation::new(self.layout.seed, &[1, id.epoch, id.lane, id.number], end - start).at(offset);
        let place = start + shuffled;
        let group = line.starts.partition_point(|s| *s <= place) - 1;
        let row = (place - line.starts[group]) as usize;
        Address { epoch: id.epoch, row_group: line.groups[group] as usize, row }
    }

    /// The draws that make up the part of step `step` that the lanes `lanes` deliver, lane by lane.
    pub fn step(&self, step: u64, lanes: std::ops::Range<u64>) -> Vec<Draw> {
        let per_step = self.rows_per_step();
        lanes
            .flat_map(|lane| (0..per_step).map(move |j| (lane, step * per_step + j)))
            .map(|(l, n)| self.draw(l, n))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    proptest! {
        #[test]
        fn a_permutation_hits_every_place_once(len in 1u64..3000, seed: u64) {
            let permutation = Permutation::new(seed, &[9], len);
            let hit: HashSet<u64> = (0..len).map(|i| permutation.at(i)).collect();
            prop_assert_eq!(hit.len() as u64, len);
            prop_assert!(hit.iter().all(|place| *place < len));
        }

        #[test]
        fn every_epoch_draws_every_row_once_within_the_stated_delay(
            rows in prop::collection::vec(0u32..40, 1..60), lanes in 1u64..9, window in 1u64..6, seed: u64,
        ) {
            let total: u64 = rows.iter().map(|r| u64::from(*r)).sum();
            prop_assume!(total >= lanes);
            let layout = Layout { seed, lanes, window_row_groups: window, global_batch: lanes };
            let order = Order::new(layout, rows.clone()).unwrap();
            let mut drawn: HashMap<(usize, usize), Vec<u64>> = HashMap::new();
            let mut seen: HashSet<Address> = HashSet::new();
            let epochs = 3;
            for n in 0..(epochs * total).div_ceil(lanes) + 1 {
                for lane in 0..lanes {
                    let draw = order.draw(lane, n);
                    prop_assert!(draw.offset < order.window_rows(&draw.window));
                    let address = order.address(&draw.window, draw.offset);
                    prop_assert!(address.row < rows[address.row_group] as usize);
                    prop_assert!(order.window_groups(&draw.window).contains(&address.row_group));
                    prop_assert!(seen.insert(address), "drawn twice: {:?}", address);
                    drawn.entry((address.row_group, address.row)).or_default().push(n);
                }
                let draws = n + 1;
                let least = ((draws - 1) * lanes / total) as usize;
                let most = ((draws + 1) * lanes).div_ceil(total) as usize;
                if least > 0 {
                    prop_assert_eq!(drawn.len() as u64, total, "after {} draws of each lane", draws);
                }
                for times in drawn.values() {
                    prop_assert!((least..=most).contains(&times.len()), "{} of {}..={}", times.len(), least, most);
                }
            }
            for times in drawn.values() {
                let far = times.windows(2).all(|two| (two[1] - two[0]) * lanes < 2 * total + 2 * lanes);
                prop_assert!(far, "{times:?}");
            }
            for epoch in 0..epochs {
                prop_assert_eq!(seen.iter().filter(|address| address.epoch == epoch).count() as u64, total);
            }
        }

        #[test]
        fn ranks_together_draw_what_one_rank_draws(
            rows in prop::collection::vec(1u32..40, 4..60), world in 1u64..5, per_rank in 1u64..4, step in 0u64..500,
        ) {
            let lanes = world * per_rank;
            let total: u64 = rows.iter().map(|r| u64::from(*r)).sum();
            prop_assume!(total >= lanes);
            let layout = Layout { seed: 3, lanes, window_row_groups: 2, global_batch: 2 * lanes };
            let order = Order::new(layout, rows).unwrap();
            let ranks = (0..world).flat_map(|rank| order.step(step, rank * per_rank..(rank + 1) * per_rank));
            prop_assert_eq!(ranks.collect::<Vec<_>>(), order.step(step, 0..lanes));
        }
    }

    /// The set of a report: one row was not drawn in 6.4 epochs.
    #[test]
    fn all_of_753_rows_in_8_lanes_are_drawn_in_every_epoch() {
        let rows: Vec<u32> = (0..8).map(|group| if group < 7 { 100 } else { 53 }).collect();
        for window_row_groups in [1, 2, 16] {
            let order = Order::new(Layout { seed: 42, lanes: 8, window_row_groups, global_batch: 8 }, rows.clone());
            let order = order.unwrap();
            let mut drawn = HashSet::new();
            for lane in 0..8 {
                for n in 0..order.first_epoch_rows(lane) {
                    let Draw { window, offset } = order.draw(lane, n);
                    assert_eq!(window.epoch, 0);
                    drawn.insert(order.address(&window, offset));
                }
            }
            assert_eq!(drawn.len(), 753);
        }
    }

    #[test]
    fn the_order_is_fixed_for_good() {
        let layout = Layout { seed: 42, lanes: 4, window_row_groups: 3, global_batch: 8 };
        let order = Order::new(layout, vec![100; 50]).unwrap();
        let rows: Vec<(usize, usize)> = order
            .step(7, 0..2)
            .iter()
            .map(|d| order.address(&d.window, d.offset))
            .map(|a| (a.row_group, a.row))
            .collect();
        assert_eq!(rows, ROWS_OF_STEP_7);
    }
    const ROWS_OF_STEP_7: [(usize, usize); 4] = [(13, 91), (13, 6), (6, 63), (24, 94)];

    #[test]
    fn other_seeds_and_epochs_give_other_orders() {
        let order =
            |seed| Order::new(Layout { seed, lanes: 2, window_row_groups: 4, global_batch: 2 }, vec![100; 40]).unwrap();
        let first = |order: &Order, n| {
            let draw = order.draw(0, n);
            order.address(&draw.window, draw.offset)
        };
        let (a, b) = (order(1), order(2));
        let same_seed = (0..100).filter(|n| first(&a, *n) == first(&b, *n)).count();
        assert!(same_seed < 10);
        let rows =
            |epoch: u64| (0..100).map(|n| first(&a, epoch * a.first_epoch_rows(0) + n).row_group).collect::<Vec<_>>();
        assert_ne!(rows(0), rows(1));
    }

    #[test]
    fn seeking_does_not_depend_on_the_step() {
        let order =
            Order::new(Layout { seed: 1, lanes: 64, window_row_groups: 16, global_batch: 1664 }, vec![100; 100_000])
                .unwrap();
        let far = order.step(10_000_000, 0..64);
        assert_eq!(far.len(), 1664);
        assert_eq!(far, order.step(10_000_000, 0..64));
    }
}
