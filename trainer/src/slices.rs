//! Slices of the global batch: who owns which, and sums over them in one order, whoever owns them.
//!
//! A slice plays the part that a rank plays in the reference. Ranks own contiguous ranges of slices; the mathematics
//! knows slices only, so any number of ranks computes the same bits.

use std::ops::Range;

use cluster::Collective;
use tch::Tensor;

use crate::TrainerError;

/// Elements of a flat tensor that are exchanged at once: bounds the memory of a sum.
const BLOCK: i64 = 1 << 22;

/// The slices of a stage and the ranks that share them.
pub struct SliceMap<'a> {
    ranks: &'a dyn Collective,
    slices: usize,
}

impl<'a> SliceMap<'a> {
    /// # Errors
    /// When there are more ranks than slices.
    pub fn new(ranks: &'a dyn Collective, slices: usize) -> Result<Self, TrainerError> {
        if ranks.world_size() > slices {
            return Err(TrainerError::Unsupported {
                found: format!("{} ranks for {slices} slices", ranks.world_size()),
                expected: format!(
                    "a rank computes at least one slice; start at most {slices} ranks, or raise `slices`"
                ),
            });
        }
        Ok(Self { ranks, slices })
    }

    /// All slices.
    pub fn len(&self) -> usize {
        self.slices
    }

    /// Whether there are none; there always are.
    pub fn is_empty(&self) -> bool {
        self.slices == 0
    }

    /// The slices of this rank.
    pub fn own(&self) -> Range<usize> {
        self.of(self.ranks.rank())
    }

    fn of(&self, rank: usize) -> Range<usize> {
        owned(rank, self.ranks.world_size(), self.slices)
    }

    /// One tensor per slice of this rank in, one per slice of the global batch out, in slice order.
    ///
    /// # Shapes
    /// All tensors have the same shape and type.
    ///
    /// # Errors
    /// When ranks cannot talk.
    pub fn gather(&self, own: &[Tensor]) -> Result<Vec<Tensor>, TrainerError> {
        let shared: Vec<Tensor> = own.iter().map(Tensor::shallow_clone).collect();
        self.exchange(shared, |rank| self.of(rank).len())
    }

    /// The sum over all slices of one flat tensor per slice, along one fixed binary tree.
    ///
    /// # Errors
    /// When ranks cannot talk.
    pub fn sum(&self, own: Vec<Tensor>) -> Result<Tensor, TrainerError> {
        let first = self.own().start;
        let leaf = |start: usize, len: usize| (len == 1).then(|| own[start - first].shallow_clone());
        let partials: Vec<Tensor> =
            subtrees(0, self.slices, &self.own()).iter().map(|&(start, len)| sum_tree(start, len, &leaf)).collect();
        if self.ranks.world_size() == 1 {
            return Ok(partials.into_iter().next().expect("invariant: one rank owns the whole tree"));
        }
        let nodes: Vec<Vec<(usize, usize)>> =
            (0..self.ranks.world_size()).map(|rank| subtrees(0, self.slices, &self.of(rank))).collect();
        let total = partials[0].size()[0];
        let mut blocks = Vec::new();
        for from in (0..total).step_by(BLOCK as usize) {
            let len = BLOCK.min(total - from);
            let part = partials.iter().map(|partial| partial.narrow(0, from, len)).collect();
            let gathered = self.exchange(part, |rank| nodes[rank].len())?;
            let all: Vec<(usize, usize)> = nodes.concat();
            let known = |start: usize, len: usize| {
                all.iter().position(|node| *node == (start, len)).map(|place| gathered[place].shallow_clone())
            };
            blocks.push(sum_tree(0, self.slices, &known));
        }
        Ok(Tensor::cat(&blocks, 0))
    }

    /// Gathers `count(rank)` equal tensors from every rank, in rank order.
    fn exchange(&self, own: Vec<Tensor>, count: impl Fn(usize) -> usize) -> Result<Vec<Tensor>, TrainerError> {
        if self.ranks.world_size() == 1 {
            return Ok(own);
        }
        let (shape, kind, device) = (own[0].size(), own[0].kind(), own[0].device());
        let bytes = own[0].numel() * kind.elt_size_in_bytes();
        let most = (0..self.ranks.world_size()).map(&count).max().unwrap_or(1);
        let mut sent = vec![0; most * bytes];
        for (tensor, place) in own.iter().zip(sent.chunks_exact_mut(bytes.max(1))) {
            tensor.contiguous().copy_data_u8(place, tensor.numel());
        }
        let received = self.ranks.all_gather(&sent)?;
        let from_rank = |(rank, bytes_of_rank): (usize, &[u8])| {
            let tensors = bytes_of_rank.chunks_exact(bytes.max(1)).take(count(rank));
            tensors.map(|data| Tensor::from_data_size(data, &shape, kind).to_device(device)).collect::<Vec<_>>()
        };
        Ok(received.chunks_exact(most * bytes.max(1)).enumerate().flat_map(from_rank).collect())
    }
}

/// The contiguous share of a rank; shares differ by one slice at most.
pub fn owned(rank: usize, world_size: usize, slices: usize) -> Range<usize> {
    rank * slices / world_size..(rank + 1) * slices / world_size
}

/// The largest nodes of the tree over `start..start + len` that lie inside `range`.
fn subtrees(start: usize, len: usize, range: &Range<usize>) -> Vec<(usize, usize)> {
    if range.start <= start && start + len <= range.end {
        return vec![(start, len)];
    }
    if len == 1 || start + len <= range.start || range.end <= start {
        return Vec::new();
    }
    let left = left_part(len);
    [subtrees(start, left, range), subtrees(start + left, len - left, range)].concat()
}

/// Slices of the left child: the largest power of two below `len`.
fn left_part(len: usize) -> usize {
    len.next_power_of_two() / 2
}

fn sum_tree(start: usize, len: usize, known: &dyn Fn(usize, usize) -> Option<Tensor>) -> Tensor {
    known(start, len).unwrap_or_else(|| {
        let left = left_part(len);
        sum_tree(start, left, known) + sum_tree(start + left, len - left, known)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slice_has_one_owner_and_the_tree_is_covered_once() {
        for slices in 1..20 {
            for world_size in 1..=slices {
                let ranges: Vec<Range<usize>> = (0..world_size).map(|rank| owned(rank, world_size, slices)).collect();
                assert_eq!(ranges.iter().cloned().flatten().collect::<Vec<_>>(), (0..slices).collect::<Vec<_>>());
                let mut leaves: Vec<usize> = Vec::new();
                for range in &ranges {
                    assert!(!range.is_empty());
                    for (start, len) in subtrees(0, slices, range) {
                        leaves.extend(start..start + len);
                    }
                }
                assert_eq!(leaves, (0..slices).collect::<Vec<_>>(), "{slices} slices, {world_size} ranks");
            }
        }
    }

    #[test]
    fn partial_sums_of_any_division_give_the_same_bits() {
        // Values for which the order of additions shows.
        let value = |slice: usize| Tensor::from_slice(&[[1e8_f32, 1.0, -1e8, 0.3][slice % 4] * (1.0 + slice as f32)]);
        let leaf = |start: usize, len: usize| (len == 1).then(|| value(start));
        for slices in 1..20 {
            let whole = sum_tree(0, slices, &leaf).double_value(&[0]);
            for world_size in 1..=slices {
                let nodes: Vec<(usize, usize)> =
                    (0..world_size).flat_map(|rank| subtrees(0, slices, &owned(rank, world_size, slices))).collect();
                let known =
                    |start: usize, len: usize| nodes.contains(&(start, len)).then(|| sum_tree(start, len, &leaf));
                assert_eq!(sum_tree(0, slices, &known).double_value(&[0]), whole);
            }
        }
    }
}
