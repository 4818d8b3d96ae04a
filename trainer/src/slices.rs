//! Slices of the global batch: who owns which, and sums over them in one order, whoever owns them.
//!
//! A slice plays the part that a rank plays in the reference. Ranks own contiguous ranges of slices; the mathematics
//! knows slices only, so any number of ranks computes the same bits.

use std::ops::Range;

use cluster::{BufferMut, Collective};
use configs::Reduction;
use tch::{Device, Kind, Tensor};

use crate::TrainerError;

/// Elements of a flat space that ranks exchange at once: bounds the memory of a sum.
const BLOCK: i64 = 1 << 22;

/// Elements whose squares are summed at once.
const NORM_BLOCK: i64 = 1 << 18;

/// The slices of a stage and the ranks that share them.
///
/// The flat space of trained parameters is cut into as many chunks as there are slices; a rank updates the chunks with
/// the numbers of its slices ([`SliceMap::chunks`]).
pub struct SliceMap<'a> {
    ranks: &'a dyn Collective,
    slices: usize,
    reduction: Reduction,
}

impl<'a> SliceMap<'a> {
    /// # Errors
    /// When there are more ranks than slices.
    pub fn new(ranks: &'a dyn Collective, slices: usize, reduction: Reduction) -> Result<Self, TrainerError> {
        if ranks.world_size() > slices {
            return Err(TrainerError::Unsupported {
                found: format!("{} ranks for {slices} slices", ranks.world_size()),
                expected: format!(
                    "a rank computes at least one slice; start at most {slices} ranks, or raise `slices`"
                ),
            });
        }
        Ok(Self { ranks, slices, reduction })
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

    /// The chunks that this rank updates: those of its slices, or all where the library's all-reduce gives every rank the
    /// whole sum.
    pub fn chunks(&self) -> Range<usize> {
        match self.reduction {
            Reduction::Exact => self.own(),
            Reduction::AllReduce => 0..self.slices,
        }
    }

    /// Slices of the rank that has most of them.
    pub fn rounds(&self) -> usize {
        self.all_ranks().map(|rank| self.of(rank).len()).max().unwrap_or(0)
    }

    fn of(&self, rank: usize) -> Range<usize> {
        owned(rank, self.ranks.world_size(), self.slices)
    }

    fn all_ranks(&self) -> Range<usize> {
        0..self.ranks.world_size()
    }

    /// One tensor per slice of this rank in, one per slice of the global batch out, in slice order.
    ///
    /// # Shapes
    /// All tensors have the same shape and type.
    ///
    /// # Errors
    /// When ranks cannot talk.
    pub fn gather(&self, own: &[Tensor]) -> Result<Vec<Tensor>, TrainerError> {
        if self.ranks.world_size() == 1 {
            return Ok(own.iter().map(Tensor::shallow_clone).collect());
        }
        let like = Like::of(&own[0]);
        let most = self.rounds();
        let mut sent = Vec::with_capacity(most * like.bytes);
        own.iter().for_each(|tensor| append(&mut sent, tensor));
        sent.resize(most * like.bytes, 0);
        let received = self.ranks.all_gather(&sent)?;
        let of_rank = |rank: usize| {
            let bytes = &received[rank * sent.len()..(rank + 1) * sent.len()];
            (0..self.of(rank).len())
                .map(|i| like.read(&bytes[i * like.bytes..(i + 1) * like.bytes]))
                .collect::<Vec<_>>()
        };
        Ok(self.all_ranks().flat_map(of_rank).collect())
    }

    /// The rows of the global batch that the `round`-th slice of this rank wants, in that order; none when this rank has
    /// no such slice. Every rank calls it for every round, and only rows that are wanted travel.
    ///
    /// # Shapes
    /// `own`: `[b, …]` for each own slice; `wanted`: rows for each slice of the global batch; result: `[n, …]`.
    ///
    /// # Errors
    /// When ranks cannot talk.
    pub fn fetch(&self, own: &[Tensor], wanted: &[Vec<i64>], round: usize) -> Result<Option<Tensor>, TrainerError> {
        let per_slice = own[0].size()[0];
        let (me, first) = (self.ranks.rank(), self.own().start);
        let local = |row: i64| own[(row / per_slice) as usize - first].get(row % per_slice);
        let holder = |row: i64| owner((row / per_slice) as usize, self.ranks.world_size(), self.slices);
        let wanted_by = |rank: usize| {
            let slice = self.of(rank).nth(round);
            slice.map_or(&[][..], |slice| wanted[slice].as_slice())
        };
        let like = Like::of(&own[0].get(0));
        let mut travelled: Vec<std::vec::IntoIter<Tensor>> = Vec::new();
        if self.ranks.world_size() > 1 {
            let part = |rank: usize| {
                let mut bytes = Vec::new();
                let rows = wanted_by(rank).iter().filter(|row| rank != me && holder(**row) == me);
                rows.for_each(|row| append(&mut bytes, &local(*row)));
                bytes
            };
            let parts: Vec<Vec<u8>> = self.all_ranks().map(part).collect();
            let expected = |rank: usize| match rank == me {
                true => 0,
                false => like.bytes * wanted_by(me).iter().filter(|row| holder(**row) == rank).count(),
            };
            let expected: Vec<usize> = self.all_ranks().map(expected).collect();
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let received = self.ranks.all_to_all(&parts, &expected)?;
            travelled = received.iter().map(|bytes| like.read_all(bytes).into_iter()).collect();
        }
        let row = |row: &i64| match holder(*row) {
            rank if rank == me => local(*row),
            rank => travelled[rank].next().expect("invariant: a rank sends every row that is wanted of it"),
        };
        let rows: Vec<Tensor> = wanted_by(me).iter().map(row).collect();
        Ok((!rows.is_empty()).then(|| Tensor::stack(&rows, 0)))
    }

    /// A sum of one flat tensor per slice.
    pub fn sum(&self) -> SliceSum<'_> {
        SliceSum { map: self, partials: Vec::new() }
    }

    /// The norm of something that is spread over ranks by chunks: squares are summed chunk by chunk, and the chunks' sums
    /// in their order.
    ///
    /// # Shapes
    /// `part`: the chunks of this rank.
    ///
    /// # Errors
    /// When ranks cannot talk.
    pub fn norm(&self, part: &Tensor) -> Result<f64, TrainerError> {
        // Block by block, which stays in the processor's cache. No dot product: MKL's bits depend on addresses.
        let square = |chunk: &Tensor| {
            let blocks: Vec<Tensor> =
                chunk.split(NORM_BLOCK, 0).iter().map(|block| block.square().sum(Kind::Float)).collect();
            Tensor::stack(&blocks, 0).sum(Kind::Double)
        };
        let own: Vec<Tensor> = part.chunk(self.chunks().len() as i64, 0).iter().map(square).collect();
        let all = match self.reduction {
            Reduction::Exact => self.gather(&own)?,
            Reduction::AllReduce => own,
        };
        Ok(all.iter().map(|sum| sum.double_value(&[])).sum::<f64>().sqrt())
    }

    /// Gives every rank the chunks of all others.
    ///
    /// # Shapes
    /// `whole`: the flat space, whose own chunks are up to date.
    ///
    /// # Errors
    /// When ranks cannot talk.
    pub fn share(&self, whole: &mut Tensor) -> Result<(), TrainerError> {
        if self.ranks.world_size() == 1 || self.reduction == Reduction::AllReduce {
            return Ok(());
        }
        let len = whole.size()[0] / self.slices as i64;
        for from in (0..len).step_by(BLOCK as usize) {
            let block = |chunk: usize| whole.narrow(0, chunk as i64 * len + from, BLOCK.min(len - from));
            let own: Vec<Tensor> = self.own().map(block).collect();
            let all = self.gather(&own)?;
            let others = all.iter().enumerate().filter(|(chunk, _)| !self.own().contains(chunk));
            tch::no_grad(|| others.for_each(|(chunk, values)| block(chunk).copy_(values)));
        }
        Ok(())
    }

    /// Puts the chunks of all ranks together on rank 0; none on the others.
    ///
    /// # Shapes
    /// `part`: the chunks of this rank; result: the flat space.
    ///
    /// # Errors
    /// When ranks cannot talk.
    pub fn collect(&self, part: &Tensor) -> Result<Option<Tensor>, TrainerError> {
        let first = self.ranks.rank() == 0;
        if self.ranks.world_size() == 1 || self.reduction == Reduction::AllReduce {
            return Ok(first.then(|| part.shallow_clone()));
        }
        let len = part.size()[0] / self.own().len() as i64;
        let mut blocks = Vec::new();
        for from in (0..len).step_by(BLOCK as usize) {
            let size = BLOCK.min(len - from);
            let mut sent = Vec::new();
            (0..self.own().len() as i64).for_each(|place| append(&mut sent, &part.narrow(0, place * len + from, size)));
            let parts: Vec<&[u8]> = self.all_ranks().map(|rank| if rank == 0 { &sent[..] } else { &[] }).collect();
            let like = Like::of(&part.narrow(0, 0, size));
            let expected = |rank: usize| if first { like.bytes * self.of(rank).len() } else { 0 };
            let received = self.ranks.all_to_all(&parts, &self.all_ranks().map(expected).collect::<Vec<_>>())?;
            if first {
                let chunks: Vec<Tensor> = received.iter().flat_map(|bytes| like.read_all(bytes)).collect();
                blocks.push(Tensor::stack(&chunks, 0));
            }
        }
        Ok(first.then(|| Tensor::cat(&blocks, 1).reshape([-1])))
    }
}

/// A sum over all slices along one fixed binary tree, whoever owns them; with `reduction: all_reduce` along this rank's
/// slices and then in the library's order.
pub struct SliceSum<'m> {
    map: &'m SliceMap<'m>,
    /// Nodes of the tree (first slice, slices) with their sums, in order.
    partials: Vec<(usize, usize, Tensor)>,
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

    /// The mean over all slices, of the chunks of this rank.
    ///
    /// # Errors
    /// When ranks cannot talk.
    pub fn mean(self) -> Result<Tensor, TrainerError> {
        let slices = self.map.slices as f64;
        let sum = match self.map.reduction {
            _ if self.map.ranks.world_size() == 1 => self.whole(),
            Reduction::Exact => self.own_chunks()?,
            Reduction::AllReduce => self.all_reduced()?,
        };
        Ok(if slices == 1.0 { sum } else { sum / slices })
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
            let received = map.ranks.all_to_all(&parts, &map.all_ranks().map(expected).collect::<Vec<_>>())?;
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

/// Shape, type and place of tensors that travel as bytes.
struct Like {
    shape: Vec<i64>,
    kind: Kind,
    device: Device,
    /// Of one of them.
    bytes: usize,
}

impl Like {
    fn of(tensor: &Tensor) -> Self {
        let (kind, device) = (tensor.kind(), tensor.device());
        Self { shape: tensor.size(), kind, device, bytes: tensor.numel() * kind.elt_size_in_bytes() }
    }

    /// As many of these, stacked.
    fn stack(count: usize, one: &Tensor) -> Self {
        let Self { shape, kind, device, bytes } = Self::of(one);
        Self { shape: [vec![count as i64], shape].concat(), kind, device, bytes: count * bytes }
    }

    fn read(&self, bytes: &[u8]) -> Tensor {
        Tensor::from_data_size(bytes, &self.shape, self.kind).to_device(self.device)
    }

    /// Tensors that lie one after the other.
    fn read_all(&self, bytes: &[u8]) -> Vec<Tensor> {
        bytes.chunks_exact(self.bytes.max(1)).map(|bytes| self.read(bytes)).collect()
    }
}

/// Adds the bytes of a tensor's values.
fn append(bytes: &mut Vec<u8>, tensor: &Tensor) {
    let (start, values) = (bytes.len(), tensor.contiguous());
    bytes.resize(start + values.numel() * values.kind().elt_size_in_bytes(), 0);
    values.copy_data_u8(&mut bytes[start..], values.numel());
}

/// The rank that owns a slice.
fn owner(slice: usize, world_size: usize, slices: usize) -> usize {
    let rank = (0..world_size).find(|rank| owned(*rank, world_size, slices).contains(&slice));
    rank.expect("invariant: every slice has an owner")
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
    use cluster::Threads;

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

    /// Runs `work` on ranks that are threads and gives back what each of them returned.
    fn on_ranks<T: Send>(
        world_size: usize,
        slices: usize,
        reduction: Reduction,
        work: impl Fn(&SliceMap<'_>) -> T + Sync,
    ) -> Vec<T> {
        std::thread::scope(|scope| {
            let run = |rank: Threads| {
                let work = &work;
                scope.spawn(move || {
                    let result = work(&SliceMap::new(&rank, slices, reduction).unwrap());
                    rank.finish().unwrap();
                    result
                })
            };
            let ranks: Vec<_> = Threads::world(world_size).into_iter().map(run).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    /// Values for which the order of additions shows, `6 · slices` of them.
    fn gradient(slice: usize, slices: usize) -> Tensor {
        let value = |i: usize| ((slice * 37 + i * 11) as f32).sin() * 10_f32.powi((slice + i) as i32 % 7 - 3);
        Tensor::from_slice(&(0..6 * slices).map(value).collect::<Vec<_>>())
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        Vec::<f32>::try_from(tensor.contiguous().view([-1])).unwrap().into_iter().map(f32::to_bits).collect()
    }

    /// The mean, shared with all ranks, its norm, and the same collected on rank 0.
    fn mean_of(world_size: usize, slices: usize) -> (Vec<u32>, u64) {
        let results = on_ranks(world_size, slices, Reduction::Exact, |map| {
            let mut sum = map.sum();
            map.own().for_each(|slice| sum.add(slice, gradient(slice, slices)));
            let part = sum.mean().unwrap();
            assert_eq!(part.size(), [6 * map.chunks().len() as i64]);
            let norm = map.norm(&part).unwrap();
            let mut whole = Tensor::zeros([6 * slices as i64], (Kind::Float, Device::Cpu));
            whole.narrow(0, 6 * map.chunks().start as i64, part.size()[0]).copy_(&part);
            map.share(&mut whole).unwrap();
            let collected = map.collect(&part).unwrap();
            assert_eq!(collected.is_some(), map.own().start == 0);
            if let Some(collected) = collected {
                assert_eq!(bits(&collected), bits(&whole));
            }
            (bits(&whole), norm.to_bits())
        });
        assert!(results.iter().all(|result| *result == results[0]), "all ranks hold the same");
        results.into_iter().next().unwrap()
    }

    #[test]
    fn means_and_norms_have_the_same_bits_on_any_number_of_ranks() {
        for slices in [1, 2, 3, 4, 6, 7, 8, 12, 16] {
            let expected = mean_of(1, slices);
            for world_size in 2..=slices {
                assert_eq!(mean_of(world_size, slices), expected, "{slices} slices on {world_size} ranks");
            }
        }
    }

    #[test]
    fn the_librarys_all_reduce_gives_the_same_mean_up_to_rounding() {
        let (expected, _) = mean_of(1, 6);
        let means = on_ranks(3, 6, Reduction::AllReduce, |map| {
            let mut sum = map.sum();
            map.own().for_each(|slice| sum.add(slice, gradient(slice, 6)));
            let mean = sum.mean().unwrap();
            assert_eq!(map.chunks(), 0..6);
            (bits(&mean), map.norm(&mean).unwrap())
        });
        assert!(means.iter().all(|mean| *mean == means[0]));
        for (found, expected) in means[0].0.iter().zip(&expected) {
            let (found, expected) = (f32::from_bits(*found), f32::from_bits(*expected));
            assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1000.0), "{found} {expected}");
        }
    }

    #[test]
    fn rows_come_from_their_owners_in_the_order_they_are_wanted() {
        let (slices, per_slice) = (5, 3);
        let row = |row: i64| (0..4).map(|i| (row * 10 + i) as f32).collect::<Vec<_>>();
        // Rows of everywhere, some twice, some its own; the third slice wants nothing.
        let wanted: Vec<Vec<i64>> = (0..slices)
            .map(|slice| if slice == 2 { vec![] } else { vec![14, slice, 0, 0, (slice * 4 + 2) % 15] })
            .collect();
        for world_size in 1..=5 {
            on_ranks(world_size, 5, Reduction::Exact, |map| {
                let own = |slice: usize| {
                    let rows = (0..per_slice).flat_map(|i| row((slice * per_slice + i) as i64)).collect::<Vec<_>>();
                    Tensor::from_slice(&rows).view([per_slice as i64, 2, 2])
                };
                let own: Vec<Tensor> = map.own().map(own).collect();
                for round in 0..map.rounds() {
                    let fetched = map.fetch(&own, &wanted, round).unwrap();
                    let wanted = map.own().nth(round).map_or(&[][..], |slice| wanted[slice].as_slice());
                    match fetched {
                        None => assert!(wanted.is_empty()),
                        Some(fetched) => {
                            let expected: Vec<f32> = wanted.iter().flat_map(|wanted| row(*wanted)).collect();
                            assert_eq!(fetched.size(), [wanted.len() as i64, 2, 2]);
                            assert_eq!(Vec::<f32>::try_from(fetched.view([-1])).unwrap(), expected);
                        }
                    }
                }
            });
        }
    }
}
