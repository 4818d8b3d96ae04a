//! What a checkpoint keeps of a training state, and how it returns.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::resume::Resumed;
use crate::TrainerError;
use crate::checkpoint::{Floats, Kept, NamedArray, Part, Segment};
use crate::slices::SliceMap;
use crate::state::{self, State};

/// The tensor of a checkpoint's array, on the processor.
pub(super) fn tensor_of(array: &NamedArray) -> Tensor {
    let shape: Vec<i64> = array.shape.iter().map(|axis| *axis as i64).collect();
    Tensor::from_slice(&array.values).view(shape.as_slice())
}

/// Where the trained tensors lie, as checkpoints have it.
pub(crate) fn segments_of(state: &State) -> Vec<Segment> {
    let segment = |segment: &state::Segment| Segment {
        name: segment.name.clone(),
        shape: segment.shape.iter().map(|axis| *axis as usize).collect(),
        offset: segment.offset as usize,
    };
    state.segments.iter().map(segment).collect()
}

/// A copy of what one rank writes of a training state: its share of the tensors, and the moments of the chunks of its slices.
pub(crate) struct Copied {
    /// Which part it is, of how many.
    place: [usize; 2],
    /// The tensors.
    segments: Vec<Segment>,
    /// The flat space from the first of them to the end of the last.
    weights: Tensor,
    /// The first value whose moments these are.
    first: usize,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
}

impl Copied {
    /// Makes room for a rank's copies, in memory that a GPU writes to directly where the state is on one.
    pub(crate) fn room(state: &State, slices: &SliceMap<'_>, [rank, ranks]: [usize; 2]) -> Self {
        let room = |len: i64| {
            // Written once, so that a later copy finds its pages.
            let room = Tensor::zeros([len], (Kind::Float, Device::Cpu));
            match state.weights.device() {
                // Memory that cannot be pinned is copied to more slowly.
                gpu @ Device::Cuda(_) => room.f_pin_memory(gpu).unwrap_or(room),
                _ => room,
            }
        };
        let segments = segments_of(state)[share(state, rank, ranks)].to_vec();
        let first = segments.first().map_or(0, |it| it.offset);
        let end = segments.last().map_or(0, |it| it.offset + it.len());
        let len = slices.own().len() as i64 * state.chunk_len();
        let (weights, exp_avg, exp_avg_sq) = (room((end - first) as i64), room(len), room(len));
        let first = slices.own().start * state.chunk_len() as usize;
        Self { place: [rank, ranks], segments, weights, first, exp_avg, exp_avg_sq }
    }

    /// Copies the state as it is now. Training waits for this, and for nothing else.
    pub(crate) fn copy(&mut self, state: &State, slices: &SliceMap<'_>) {
        let held = (slices.own().start - state.own().start) as i64 * state.chunk_len();
        let len = self.exp_avg.size()[0];
        let of_moments = |moments: &Tensor| moments.narrow(0, held, len);
        let first = self.segments.first().map_or(0, |it| it.offset) as i64;
        tch::no_grad(|| {
            self.weights.copy_(&state.weights.narrow(0, first, self.weights.size()[0]));
            self.exp_avg.copy_(&of_moments(&state.exp_avg));
            self.exp_avg_sq.copy_(&of_moments(&state.exp_avg_sq));
        });
    }

    /// Hands the part to whoever writes it.
    pub(super) fn with_part<T>(&self, write: impl FnOnce(&Part<'_>) -> T) -> T {
        let first = self.segments.first().map_or(0, |it| it.offset);
        let of = |it: &Segment| Kept::of(&self.weights.narrow(0, (it.offset - first) as i64, it.len() as i64));
        let kept: Vec<Kept> = self.segments.iter().map(of).collect();
        let (exp_avg, exp_avg_sq) = (Kept::of(&self.exp_avg), Kept::of(&self.exp_avg_sq));
        let tensors = self.segments.iter().zip(&kept).map(|(segment, kept)| (segment, kept as &dyn Floats));
        let [index, of] = self.place;
        let tensors = tensors.collect();
        write(&Part { index, of, tensors, first: self.first, exp_avg: &exp_avg, exp_avg_sq: &exp_avg_sq })
    }
}

/// The tensors that a rank writes: about as many values each, every tensor by one.
fn share(state: &State, rank: usize, ranks: usize) -> Range<usize> {
    let all: i64 = state.num_parameters();
    let mut before = 0;
    let mut ends = vec![0; ranks + 1];
    for (index, segment) in state.segments.iter().enumerate() {
        // By the middle of each.
        let writer = ((2 * before + segment.len) as i128 * ranks as i128 / (2 * all.max(1)) as i128) as usize;
        ends[writer.min(ranks - 1) + 1] = index + 1;
        before += segment.len;
    }
    for rank in 1..=ranks {
        ends[rank] = ends[rank].max(ends[rank - 1]);
    }
    ends[rank]..ends[rank + 1]
}

/// Puts what a checkpoint kept into a training state: each rank has read its own chunks, and gives the others their weights.
///
/// # Errors
/// When it does not fit the model, or ranks cannot talk.
pub(super) fn restore(state: &mut State, found: &Resumed, slices: &SliceMap<'_>) -> Result<(), TrainerError> {
    let about = &found.about;
    let own = state.own();
    let values = own.start * state.chunk_len() as usize..own.end * state.chunk_len() as usize;
    if about.flat_len as i64 != state.len() || about.segments != segments_of(state) || found.flat.values != values {
        return Err(TrainerError::Unsupported {
            found: format!(
                "{} does not fit the model: {} tensors in {} values, expected {} in {}",
                found.uri,
                about.segments.len(),
                about.flat_len,
                state.segments.len(),
                state.len()
            ),
            expected: "continue with the config that the checkpoint was made with".into(),
        });
    }
    let device = state.weights.device();
    let tensor = |bytes: &[u8]| Tensor::from_data_size(bytes, &[bytes.len() as i64 / 4], Kind::Float).to_device(device);
    tch::no_grad(|| state.own_part(&state.weights).copy_(&tensor(&found.flat.weights)));
    (state.exp_avg, state.exp_avg_sq) = (tensor(&found.flat.exp_avg), tensor(&found.flat.exp_avg_sq));
    slices.share(&mut state.weights)?;
    state.updates = about.adamw_count;
    state.finite.restore(&about.ledger);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tensors::{Init, Spec, Tensors};

    #[test]
    fn every_tensor_has_one_writer_and_writers_have_about_as_much() {
        let specs: Vec<Spec> = (0..40)
            .map(|i| Spec { name: format!("{i:02}"), shape: vec![1 + i * i % 17, 3], init: Init::Constant(0.0) })
            .collect();
        let state = State::new(&specs, &Tensors::random(&specs, 0, Device::Cpu), 8, 0..8, Device::Cpu);
        for ranks in 1..=8 {
            let mut end = 0;
            for rank in 0..ranks {
                let share = share(&state, rank, ranks);
                assert_eq!(share.start, end);
                end = share.end;
                let values: i64 = state.segments[share].iter().map(|it| it.len).sum();
                let fair = state.num_parameters() / ranks as i64;
                assert!((values - fair).abs() <= 51, "{values} of {fair}");
            }
            assert_eq!(end, state.segments.len());
        }
        let one = &specs[..1];
        let state = State::new(one, &Tensors::random(one, 0, Device::Cpu), 4, 0..4, Device::Cpu);
        let writers: Vec<usize> = (0..4).map(|rank| share(&state, rank, 4).len()).collect();
        assert_eq!(writers.iter().sum::<usize>(), 1, "{writers:?}");
    }
}
