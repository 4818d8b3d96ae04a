//! Slices of the global batch: who owns which, and sums over them in one order, whoever owns them.
//!
//! A slice plays the part that a rank plays in the reference. Ranks own contiguous ranges of slices; the mathematics
//! knows slices only, so any number of ranks computes the same bits.

mod rows;
mod sum;
mod traffic;
mod wire;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::ops::Range;

use cluster::Collective;
use configs::Reduction;
use tch::{Device, Kind, Tensor};

pub use rows::DrawnGradient;
pub use sum::SliceSum;
pub use traffic::Traffic;
use wire::{Like, append};

use crate::TrainerError;
use crate::parts::{Part, Parts, Running};

/// Elements of a flat space that ranks exchange at once: bounds the memory of a sum.
const BLOCK: i64 = 1 << 22;

/// Elements whose squares a processor sums at once.
const NORM_BLOCK: i64 = 1 << 18;

/// The slices of a stage and the ranks that share them.
///
/// The flat space of trained parameters is cut into as many chunks as there are slices; a rank updates the chunks with
/// the numbers of its slices ([`SliceMap::chunks`]).
pub struct SliceMap<'a> {
    ranks: &'a dyn Collective,
    slices: usize,
    reduction: Reduction,
    traffic: Cell<Traffic>,
    parts: Parts,
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
        Ok(Self { ranks, slices, reduction, traffic: Cell::default(), parts: Parts::default() })
    }

    /// The same, whose time is noted there.
    pub fn timed(self, parts: &Parts) -> Self {
        Self { parts: parts.clone(), ..self }
    }

    /// Time from here on belongs to this part of the step, until the result is dropped.
    pub fn time(&self, part: Part) -> Running {
        self.parts.enter(part)
    }

    /// Whether a device's parts of the step are told apart now, by waiting for it.
    pub fn tells_apart(&self) -> bool {
        self.parts.tells_apart()
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

    /// What this rank has received from others so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic.get()
    }

    fn received(&self, count: impl FnOnce(&mut Traffic)) {
        let mut traffic = self.traffic.get();
        count(&mut traffic);
        self.traffic.set(traffic);
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
        self.received(|traffic| traffic.gathered += received.len() - sent.len());
        let of_rank = |rank: usize| {
            let bytes = &received[rank * sent.len()..(rank + 1) * sent.len()];
            (0..self.of(rank).len())
                .map(|i| like.read(&bytes[i * like.bytes..(i + 1) * like.bytes]))
                .collect::<Vec<_>>()
        };
        Ok(self.all_ranks().flat_map(of_rank).collect())
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
        let _time = self.time(Part::Optimizer);
        // Block by block, which stays in a processor's cache; a GPU takes a chunk at once. No dot product: MKL's bits depend on
        // addresses.
        let square = |chunk: &Tensor| {
            let block = if chunk.device() == Device::Cpu { NORM_BLOCK } else { chunk.size()[0].max(1) };
            let blocks: Vec<Tensor> =
                chunk.split(block, 0).iter().map(|block| block.square().sum(Kind::Float)).collect();
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

/// The rank that owns a slice.
fn owner(slice: usize, world_size: usize, slices: usize) -> usize {
    let rank = (0..world_size).find(|rank| owned(*rank, world_size, slices).contains(&slice));
    rank.expect("invariant: every slice has an owner")
}

/// The contiguous share of a rank; shares differ by one slice at most.
pub fn owned(rank: usize, world_size: usize, slices: usize) -> Range<usize> {
    rank * slices / world_size..(rank + 1) * slices / world_size
}
