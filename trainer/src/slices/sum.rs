//! Sums over all slices along one fixed binary tree: one order of additions, whoever owns the slices.

use std::ops::Range;

use cluster::BufferMut;
use configs::Reduction;
use tch::Tensor;

use super::wire::{Like, append};
use super::{BLOCK, SliceMap};
use crate::TrainerError;

/// A sum over all slices along one fixed binary tree, whoever owns them; with `reduction: all_reduce` along this rank's
/// slices and then in the library's order.
pub struct SliceSum<'m> {
    pub(super) map: &'m SliceMap<'m>,
    /// Nodes of the tree (first slice, slices) with their sums, in order.
    pub(super) partials: Vec<(usize, usize, Tensor)>,
}

impl SliceSum<'_> {
    /// Adds the tensor of the next own slice. At most a logarithm of the own slices is kept.
    pub fn add(&mut self, slice: usize, mut tensor: Tensor) {
        let mut node = (slice, 1);
        while let Some((start, len, sum)) =
            self.partials.pop_if(|(start, len, _)| self.map.siblings((*start, *len), node))
        {
            tensor = sum + tensor;
            node = (start, len + node.1);
        }
        self.partials.push((node.0, node.1, tensor));
    }

    /// The mean over all slices, of the chunks of this rank, divided by `scale`, a power of two.
    ///
    /// # Errors
    /// When ranks cannot talk.
    pub fn mean(self, scale: f64) -> Result<Tensor, TrainerError> {
        let divisor = self.map.slices as f64 * scale;
        let sum = match self.map.reduction {
            _ if self.map.ranks.world_size() == 1 => self.whole(),
            Reduction::Exact => self.own_chunks()?,
            Reduction::AllReduce => self.all_reduced()?,
        };
        Ok(if divisor == 1.0 { sum } else { sum / divisor })
    }

    fn whole(self) -> Tensor {
        let sum = self.partials.into_iter().map(|(_, _, sum)| sum).reduce(|sum, next| sum + next);
        sum.expect("invariant: a rank has at least one slice")
    }

    fn all_reduced(self) -> Result<Tensor, TrainerError> {
        let ranks = self.map.ranks;
        let sum = self.whole();
        let torch = |source| TrainerError::Torch { doing: "reading a gradient", source };
        let mut values = Vec::<f32>::try_from(sum.contiguous().view([-1])).map_err(torch)?;
        ranks.all_reduce_sum(BufferMut::F32(&mut values))?;
        Ok(Tensor::from_slice(&values).to_device(sum.device()))
    }

    /// Sends every rank its chunks of the own partial sums, and finishes the tree over the own chunks.
    fn own_chunks(self) -> Result<Tensor, TrainerError> {
        let Self { map, partials } = self;
        let len = partials[0].2.size()[0] / map.slices as i64;
        let nodes: Vec<Vec<(usize, usize)>> =
            map.all_ranks().map(|rank| subtrees(0, map.slices, &map.of(rank))).collect();
        let me = map.ranks.rank();
        let mut blocks = Vec::new();
        for from in (0..len).step_by(BLOCK as usize) {
            let size = BLOCK.min(len - from);
            let block = |sum: &Tensor, chunk: usize| sum.narrow(0, chunk as i64 * len + from, size);
            // Another rank's part: for each of the own partial sums, its block of each of that rank's chunks.
            let part = |rank: usize| {
                let mut bytes = Vec::new();
                for (_, _, sum) in partials.iter().filter(|_| rank != me) {
                    map.of(rank).for_each(|chunk| append(&mut bytes, &block(sum, chunk)));
                }
                bytes
            };
            let parts: Vec<Vec<u8>> = map.all_ranks().map(part).collect();
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let like = Like::stack(map.own().len(), &block(&partials[0].2, 0));
            let expected = |rank: usize| if rank == me { 0 } else { nodes[rank].len() * like.bytes };
            let expected: Vec<usize> = map.all_ranks().map(expected).collect();
            let received = map.ranks.all_to_all(&parts, &expected)?;
            map.received(|traffic| traffic.gradients += expected.iter().sum::<usize>());
            let own = || {
                let blocks = |sum: &Tensor| map.own().map(|chunk| block(sum, chunk)).collect::<Vec<_>>();
                partials.iter().map(|(_, _, sum)| Tensor::stack(&blocks(sum), 0)).collect::<Vec<_>>()
            };
            let of_rank = |(rank, bytes): (usize, &Vec<u8>)| if rank == me { own() } else { like.read_all(bytes) };
            let sums: Vec<Tensor> = received.iter().enumerate().flat_map(of_rank).collect();
            let known = |start: usize, len: usize| {
                let place = nodes.iter().flatten().position(|node| *node == (start, len));
                place.map(|place| sums[place].shallow_clone())
            };
            blocks.push(sum_tree(0, map.slices, &known));
        }
        Ok(Tensor::cat(&blocks, 1).reshape([-1]))
    }
}

impl SliceMap<'_> {
    /// Whether two nodes are the left and the right child of one node of the tree.
    fn siblings(&self, (start, len): (usize, usize), (next, next_len): (usize, usize)) -> bool {
        let parent = start..start + len + next_len;
        start + len == next && left_part(parent.len()) == len && subtrees(0, self.slices, &parent).len() == 1
    }
}

/// The largest nodes of the tree over `start..start + len` that lie inside `range`.
pub(super) fn subtrees(start: usize, len: usize, range: &Range<usize>) -> Vec<(usize, usize)> {
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

pub(super) fn sum_tree(start: usize, len: usize, known: &dyn Fn(usize, usize) -> Option<Tensor>) -> Tensor {
    known(start, len).unwrap_or_else(|| {
        let left = left_part(len);
        sum_tree(start, left, known) + sum_tree(start + left, len - left, known)
    })
}
