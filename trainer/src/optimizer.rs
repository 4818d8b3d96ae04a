//! AdamW (Loshchilov and Hutter 2019), with the formulas of `torch.optim.AdamW`.

use configs::AdamW;
use tch::Tensor;

use crate::state::State;

/// One update of the own chunks by the mean gradient of the global batch.
///
/// Every chunk is updated by itself, whoever owns it, so that its bits do not depend on the chunks beside it.
///
/// # Shapes
/// `gradient`: the own chunks of `state`.
pub fn adamw(state: &mut State, gradient: &Tensor, learning_rate: f64, settings: &AdamW) {
    state.updates += 1;
    let len = state.chunk_len();
    tch::no_grad(|| {
        for (place, chunk) in state.own().enumerate() {
            let (start, own) = (chunk as i64 * len, place as i64 * len);
            for segment in state.segments.iter().filter(|segment| segment.decays()) {
                let (from, to) = (segment.offset.max(start), (segment.offset + segment.len).min(start + len));
                if from < to {
                    let mut weights = state.weights.narrow(0, from, to - from);
                    let _decayed = weights.g_mul_scalar_(1.0 - learning_rate * settings.weight_decay);
                }
            }
            Chunk {
                weights: state.weights.narrow(0, start, len),
                exp_avg: state.exp_avg.narrow(0, own, len),
                exp_avg_sq: state.exp_avg_sq.narrow(0, own, len),
            }
            .update(&gradient.narrow(0, own, len), state.updates, learning_rate, settings);
        }
    });
}

/// Views of one chunk of the state.
struct Chunk {
    weights: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
}

impl Chunk {
    /// Decay is done before.
    fn update(mut self, gradient: &Tensor, updates: u64, learning_rate: f64, settings: &AdamW) {
        let [beta1, beta2] = settings.betas;
        let updates = i32::try_from(updates).unwrap_or(i32::MAX);
        self.exp_avg *= beta1;
        self.exp_avg += gradient * (1.0 - beta1);
        self.exp_avg_sq *= beta2;
        self.exp_avg_sq += gradient.square() * (1.0 - beta2);
        let root = (1.0 - beta2.powi(updates)).sqrt();
        let denominator = self.exp_avg_sq.sqrt() / root + settings.eps;
        let rate = learning_rate / (1.0 - beta1.powi(updates));
        self.weights -= &self.exp_avg / denominator * rate;
    }
}

/// What to multiply the gradient with so that its norm is at most `limit`.
pub fn clip_factor(norm: f64, limit: f64) -> f64 {
    // torch's clip_grad_norm_: 1e-6 keeps the quotient finite.
    (limit / (norm + 1e-6)).min(1.0)
}
