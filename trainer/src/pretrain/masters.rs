//! Weights in f32 with AdamW's moments, all in three flat tensors: an update is a dozen operations, whatever the number
//! of weights.

use tch::{Device, Kind, Tensor};

use crate::model::eva_vit::{clear_key_bias, has_no_key_bias};
use crate::model::{Spec, Tensors};

/// AdamW's factors; Loshchilov and Hutter 2019, with the second one of BLIP-2's own training.
const BETAS: [f64; 2] = [0.9, 0.98];
const EPS: f64 = 1e-8;
const WEIGHT_DECAY: f64 = 0.05;

/// The weights of one tower while it is trained.
pub(super) struct Masters {
    entries: Vec<Entry>,
    values: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    /// What each value loses per unit of learning rate: 0 for biases, norms and embeddings.
    decay: Tensor,
    updates: i32,
}

struct Entry {
    name: String,
    shape: Vec<i64>,
    start: i64,
    numel: i64,
    kind: Kind,
}

impl Masters {
    /// The starting weights of `specs`. The model is to compute in `kind`; embeddings stay f32, because their gradient
    /// is a sum over many tokens that libtorch would round after each.
    pub(super) fn new(specs: &[Spec], seed: u64, kind: Kind) -> Self {
        let initial = Tensors::random(specs, seed, Device::Cpu);
        let (mut entries, mut flat, mut decay, mut start) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (name, tensor) in initial.iter() {
            let is_embedding = name.contains("embed_") || name.contains("_embedding") && tensor.dim() == 3;
            let numel = tensor.numel() as i64;
            entries.push(Entry {
                name: name.to_owned(),
                shape: tensor.size(),
                start,
                numel,
                kind: if name.contains("embed_") { Kind::Float } else { kind },
            });
            let decayed = tensor.dim() >= 2 && !is_embedding;
            decay.push(Tensor::full([numel], if decayed { WEIGHT_DECAY } else { 0.0 }, (Kind::Float, Device::Cpu)));
            flat.push(tensor.reshape([-1]));
            start += numel;
        }
        let values = Tensor::cat(&flat, 0);
        Self {
            entries,
            first_moment: values.zeros_like(),
            second_moment: values.zeros_like(),
            decay: Tensor::cat(&decay, 0),
            values,
            updates: 0,
        }
    }

    /// The weights in the types that the model computes in, ready to take gradients.
    pub(super) fn leaves(&self) -> Tensors {
        let leaf = |entry: &Entry| {
            let values = self.part(&self.values, entry).to_kind(entry.kind);
            (entry.name.clone(), values.detach().set_requires_grad(true))
        };
        self.entries.iter().map(leaf).collect()
    }

    /// The weights whose names start with `prefix`, in f32.
    pub(super) fn weights(&self, prefix: &str) -> Tensors {
        let wanted = self.entries.iter().filter(|entry| entry.name.starts_with(prefix));
        wanted.map(|entry| (entry.name.clone(), self.part(&self.values, entry).copy())).collect()
    }

    /// One step of AdamW along the gradients of `leaves`. A weight without gradient keeps its moments' course.
    pub(super) fn update(&mut self, leaves: &Tensors, learning_rate: f64) {
        let gradients: Vec<Tensor> = self.entries.iter().map(|entry| flat_gradient(leaves, entry)).collect();
        let gradient = Tensor::cat(&gradients, 0);
        self.updates += 1;
        let correction = BETAS.map(|beta| 1.0 - beta.powi(self.updates));
        let _ = self.first_moment.g_mul_scalar_(BETAS[0]).g_add_(&(&gradient * (1.0 - BETAS[0])));
        let _ = self.second_moment.g_mul_scalar_(BETAS[1]).g_add_(&(&gradient * &gradient * (1.0 - BETAS[1])));
        let scale = (&self.second_moment / correction[1]).sqrt() + EPS;
        let change = &self.first_moment / scale / correction[0] + &self.decay * &self.values;
        let _ = self.values.g_sub_(&(change * learning_rate));
    }

    fn part(&self, flat: &Tensor, entry: &Entry) -> Tensor {
        flat.narrow(0, entry.start, entry.numel).view(entry.shape.as_slice())
    }
}

fn flat_gradient(leaves: &Tensors, entry: &Entry) -> Tensor {
    let gradient = leaves.get(&entry.name).map(Tensor::grad).filter(Tensor::defined);
    let Some(gradient) = gradient else {
        return Tensor::zeros([entry.numel], (Kind::Float, Device::Cpu));
    };
    if has_no_key_bias(&entry.name) {
        clear_key_bias(&gradient);
    }
    gradient.to_kind(Kind::Float).reshape([-1])
}
