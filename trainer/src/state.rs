//! The training state: every trained tensor in one flat f32 space, with gradients and AdamW moments beside it.
//!
//! Tensors lie in name order, each at a 256-byte boundary; the space is padded so that it can be cut into one equal
//! chunk per slice. Every rank holds all parameters, which are views of the space: an update of the space is an update of
//! the models. AdamW's moments of a chunk are held by the one rank that owns it.

use std::cell::{Ref, RefCell};
use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::finite::FiniteGuard;
use crate::model::tensors::{Spec, Tensors};

/// f32 elements in 256 bytes.
const ALIGNMENT: i64 = 64;

/// Where one tensor lies in the flat space.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Public name.
    pub name: String,
    /// Shape.
    pub shape: Vec<i64>,
    /// First element.
    pub offset: i64,
    /// Elements.
    pub len: i64,
}

impl Segment {
    /// Whether AdamW decays it: LAVIS HEAD's `get_optimizer_params` leaves out one-axis tensors and biases, and so
    /// decays the temperature, which has no axis.
    pub fn decays(&self) -> bool {
        self.shape.len() != 1 && !self.name.ends_with(".bias")
    }
}

/// Parameters, gradients and moments.
#[derive(Debug)]
pub struct State {
    /// What lies where.
    pub segments: Vec<Segment>,
    /// f32 master weights.
    pub weights: Tensor,
    /// AdamW's running mean of gradients, of the own chunks.
    pub exp_avg: Tensor,
    /// AdamW's running mean of squared gradients, of the own chunks.
    pub exp_avg_sq: Tensor,
    /// Updates done; differs from the step number where updates were skipped.
    pub updates: u64,
    /// Updates that were left out.
    pub finite: FiniteGuard,
    chunks: usize,
    own: Range<usize>,
    /// None while nobody has asked for them since they were taken.
    parameters: RefCell<Option<Tensors>>,
    /// A copy of the weights in the type that models compute in, where it is another; good until the weights change.
    copy: RefCell<Option<Tensor>>,
}

impl State {
    /// A state that starts with these values. The space is cut into `chunks` equal parts, of which `own` are updated here.
    pub fn new(specs: &[Spec], start: &Tensors, chunks: usize, own: Range<usize>, device: Device) -> Self {
        let mut specs: Vec<&Spec> = specs.iter().collect();
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        let mut offset = 0;
        let mut segments = Vec::with_capacity(specs.len());
        for spec in specs {
            let len = spec.shape.iter().product();
            segments.push(Segment { name: spec.name.clone(), shape: spec.shape.clone(), offset, len });
            offset = round_up(offset + len, ALIGNMENT);
        }
        let total = round_up(offset, ALIGNMENT * chunks as i64);
        let space =
            |chunks_of_it: usize| Tensor::zeros([total / chunks as i64 * chunks_of_it as i64], (Kind::Float, device));
        let mut state = Self {
            segments,
            weights: space(chunks),
            exp_avg: space(own.len()),
            exp_avg_sq: space(own.len()),
            updates: 0,
            finite: FiniteGuard::default(),
            chunks,
            own,
            parameters: RefCell::default(),
            copy: RefCell::default(),
        };
        for (name, tensor) in start.iter() {
            state.set(name, tensor);
        }
        state
    }

    /// Prepares the parameters for a step of models that compute in this type: all weights are cast at once, and gradients of
    /// those that models take in this type gather at the copies.
    pub fn begin_step(&self, kind: Kind) {
        self.copy.replace((kind != self.weights.kind()).then(|| self.weights.to_kind(kind)));
        self.parameters.replace(None);
    }

    /// Leaves of all segments, for the weights and for their copies.
    fn views(&self) -> Tensors {
        let views = |space: &Tensor| {
            let leaf = |(segment, part): (&Segment, Tensor)| {
                (segment.name.clone(), part.view(segment.shape.as_slice()).detach().set_requires_grad(true))
            };
            let places = self.segments.iter().map(|segment| (segment.offset, segment.len));
            self.segments.iter().zip(pieces(places, space)).map(leaf).collect::<Vec<_>>()
        };
        let own: Tensors = views(&self.weights).into_iter().collect();
        match &*self.copy.borrow() {
            Some(copy) => own.with_copies(copy.kind(), views(copy).into_iter().collect()),
            None => own,
        }
    }

    /// The parameters by name, leaves that gradients gather at.
    pub fn parameters(&self) -> Ref<'_, Tensors> {
        if self.parameters.borrow().is_none() {
            self.parameters.replace(Some(self.views()));
        }
        Ref::map(self.parameters.borrow(), |leaves| leaves.as_ref().expect("invariant: they were made above"))
    }

    /// Overwrites one tensor, if it is trained here; says whether it is.
    ///
    /// # Panics
    /// When the number of elements differs.
    pub fn set(&mut self, name: &str, values: &Tensor) -> bool {
        let Some(segment) = self.segments.iter().find(|segment| segment.name == name) else { return false };
        tch::no_grad(|| self.weights.narrow(0, segment.offset, segment.len).copy_(&values.reshape([-1])));
        true
    }

    /// The gradients in the flat space, 0 where a parameter was not used; they are taken: the parameters are new leaves,
    /// at which the next backward pass starts from nothing.
    pub fn take_gradients(&self) -> Tensor {
        // Where nobody has asked for leaves, nothing has gathered.
        let leaves = self.parameters.take().unwrap_or_else(|| self.views());
        let own = |segment: &Segment| leaves.get(&segment.name).expect("invariant: a segment has a parameter").grad();
        let Some(kind) = self.copy.borrow().as_ref().map(Tensor::kind) else { return self.flat(Kind::Float, own) };
        let of_copy = |segment: &Segment| leaves.copy(&segment.name, kind).expect("invariant: all have copies").grad();
        let flat = self.flat(kind, of_copy).to_kind(Kind::Float);
        for segment in &self.segments {
            let gradient = own(segment);
            if gradient.defined() {
                let _added = flat.narrow(0, segment.offset, segment.len).g_add_(&gradient.reshape([-1]));
            }
        }
        flat
    }

    /// One tensor per segment in the flat space, 0 where there is none.
    fn flat(&self, kind: Kind, of: impl Fn(&Segment) -> Tensor) -> Tensor {
        let zeros = |len: i64| Tensor::zeros([len], (kind, self.weights.device()));
        let gap = zeros(ALIGNMENT);
        let mut parts = Vec::with_capacity(2 * self.segments.len());
        let mut end = 0;
        for segment in &self.segments {
            if segment.offset > end {
                parts.push(gap.narrow(0, 0, segment.offset - end));
            }
            let values = of(segment);
            parts.push(if values.defined() { values.reshape([-1]) } else { zeros(segment.len) });
            end = segment.offset + segment.len;
        }
        parts.push(zeros(self.len() - end));
        Tensor::cat(&parts, 0)
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// The chunks that are updated here.
    pub fn own(&self) -> Range<usize> {
        self.own.clone()
    }

    /// Elements of one chunk.
    pub fn chunk_len(&self) -> i64 {
        self.len() / self.chunks as i64
    }

    /// The own part of something that lies like the flat space.
    pub fn own_part(&self, whole: &Tensor) -> Tensor {
        whole.narrow(0, self.own.start as i64 * self.chunk_len(), self.own.len() as i64 * self.chunk_len())
    }

    /// Elements of the flat space, padding included.
    pub fn len(&self) -> i64 {
        self.weights.size()[0]
    }

    /// Whether nothing is trained.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Trained parameters.
    pub fn num_parameters(&self) -> i64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }
}

/// The parts of a tensor of one axis at these places, `(offset, length)`, in ascending order and apart from each other. One
/// operation cuts them all: of thousands of small operations each costs the processor some microseconds, for which a GPU waits.
pub(crate) fn pieces(places: impl Iterator<Item = (i64, i64)>, space: &Tensor) -> impl Iterator<Item = Tensor> {
    let (mut sizes, mut end) = (Vec::new(), 0);
    for (offset, len) in places {
        // A gap, which may be empty, and a piece in turns.
        sizes.extend([offset - end, len]);
        end = offset + len;
    }
    sizes.push(space.size()[0] - end);
    space.split_with_sizes(sizes, 0).into_iter().skip(1).step_by(2)
}

fn round_up(value: i64, unit: i64) -> i64 {
    (value + unit - 1) / unit * unit
}

#[cfg(test)]
mod tests {
    use crate::model::tensors::Init;

    use super::*;

    fn spec(name: &str, shape: &[i64]) -> Spec {
        Spec { name: name.into(), shape: shape.to_vec(), init: Init::Constant(1.0) }
    }

    #[test]
    fn tensors_lie_in_name_order_at_boundaries_and_chunks_are_equal() {
        let specs = [spec("b.weight", &[10, 10]), spec("a.bias", &[3]), spec("temp", &[])];
        let state = State::new(&specs, &Tensors::random(&specs, 0, Device::Cpu), 3, 1..2, Device::Cpu);
        let places: Vec<(&str, i64)> = state.segments.iter().map(|s| (s.name.as_str(), s.offset)).collect();
        assert_eq!(places, [("a.bias", 0), ("b.weight", 64), ("temp", 192)]);
        assert_eq!(state.len() % (3 * 64), 0);
        assert_eq!((state.chunk_len(), state.exp_avg.size()), (128, vec![128]));
        assert_eq!(state.own_part(&Tensor::arange(384, (Kind::Int64, Device::Cpu))).int64_value(&[0]), 128);
        assert_eq!(state.num_parameters(), 104);
        assert_eq!(state.segments.iter().map(Segment::decays).collect::<Vec<_>>(), [false, true, true]);
    }

    #[test]
    fn gradients_are_taken_and_updates_reach_the_parameters() {
        let specs = [spec("w", &[2]), spec("unused", &[2])];
        let mut state = State::new(&specs, &Tensors::random(&specs, 0, Device::Cpu), 1, 0..1, Device::Cpu);
        let loss = |state: &State| (state.parameters().get("w").unwrap() * 3.0).sum(Kind::Float);
        loss(&state).backward();
        let offset = state.segments.iter().find(|s| s.name == "w").unwrap().offset;
        assert_eq!(state.take_gradients().double_value(&[offset]), 3.0);
        assert_eq!(state.take_gradients().abs().sum(Kind::Float).double_value(&[]), 0.0);
        assert!(
            state.set("w", &Tensor::from_slice(&[5.0_f32, 7.0])) && !state.set("other", &Tensor::from_slice(&[1.0]))
        );
        assert_eq!(loss(&state).double_value(&[]), 36.0);
    }
}
