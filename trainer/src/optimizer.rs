//! AdamW (Loshchilov and Hutter 2019), with the formulas of `torch.optim.AdamW`.

use configs::AdamW;
use tch::Tensor;

use crate::state::State;

/// One update of the state by the mean gradient of the global batch.
///
/// # Shapes
/// `gradient`: the flat space of `state`.
pub fn adamw(state: &mut State, gradient: &Tensor, learning_rate: f64, settings: &AdamW) {
    let [beta1, beta2] = settings.betas;
    state.updates += 1;
    let updates = i32::try_from(state.updates).unwrap_or(i32::MAX);
    tch::no_grad(|| {
        for segment in state.segments.iter().filter(|segment| segment.decays()) {
            let mut weights = state.weights.narrow(0, segment.offset, segment.len);
            let _decayed = weights.g_mul_scalar_(1.0 - learning_rate * settings.weight_decay);
        }
        state.exp_avg *= beta1;
        state.exp_avg += gradient * (1.0 - beta1);
        state.exp_avg_sq *= beta2;
        state.exp_avg_sq += gradient.square() * (1.0 - beta2);
        let root = (1.0 - beta2.powi(updates)).sqrt();
        let denominator = state.exp_avg_sq.sqrt() / root + settings.eps;
        let rate = learning_rate / (1.0 - beta1.powi(updates));
        state.weights -= &state.exp_avg / denominator * rate;
    });
}

/// Scales the gradient so that its norm is at most `limit`.
pub fn clip(gradient: &Tensor, norm: &Tensor, limit: f64) -> Tensor {
    // torch's clip_grad_norm_: 1e-6 keeps the quotient finite.
    gradient * (limit / (norm + 1e-6)).clamp_max(1.0)
}
