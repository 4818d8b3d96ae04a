//! AdamW (Loshchilov and Hutter 2019), with the formulas of `torch.optim.AdamW`.

use configs::{AdamW, Optimizer, Stage};
use tch::Tensor;

use crate::TrainerError;
use crate::events::Events;
use crate::shim::{Adam, AdamNumbers, fused_adamw};
use crate::slices::SliceMap;
use crate::state::State;
use crate::step::Slice;

/// An update that is about to be made.
pub struct Update<'a> {
    /// The stage, for its optimiser and its limit of updates that are left out.
    pub stage: &'a Stage,
    /// The step of the stage, from 1.
    pub step: u64,
    /// Norm of the mean gradient.
    pub grad_norm: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// The own slices of the batch that the gradient is of.
    pub batch: &'a [Slice],
    /// All slices.
    pub slices: &'a SliceMap<'a>,
    /// Who is told of an update that is left out.
    pub events: Events,
}

/// Updates the weights of all ranks, unless the gradient is not finite; says whether it did. Every rank calls it.
///
/// # Shapes
/// `gradient`: the own chunks of `state`.
///
/// # Errors
/// When too many updates in a row are left out, or ranks cannot talk.
pub fn update_if_finite(state: &mut State, gradient: Tensor, update: &Update<'_>) -> Result<bool, TrainerError> {
    let Update { stage, step, grad_norm, learning_rate, batch, slices, events } = *update;
    if !state.finite.allows(grad_norm, step, stage.max_skipped_updates(), (batch, slices), events)? {
        return Ok(false);
    }
    let Optimizer::AdamW(settings) = stage.optimizer();
    let factor = settings.max_grad_norm.map_or(1.0, |limit| clip_factor(grad_norm, limit));
    let gradient = if factor < 1.0 { gradient * factor } else { gradient };
    adamw(state, &gradient, learning_rate, settings)?;
    slices.share(&mut state.weights)?;
    Ok(true)
}

/// One update of the own chunks by the mean gradient of the global batch.
///
/// Every piece of a tensor inside a chunk is updated by itself, so that its bits do not depend on who owns the chunk.
///
/// # Shapes
/// `gradient`: the own chunks of `state`.
///
/// # Errors
/// libtorch's own.
pub fn adamw(state: &mut State, gradient: &Tensor, learning_rate: f64, settings: &AdamW) -> Result<(), TrainerError> {
    state.updates += 1;
    let len = state.chunk_len();
    for (place, chunk) in state.own().enumerate() {
        let (start, own) = (chunk as i64 * len, place as i64 * len);
        for decays in [true, false] {
            let pieces = state.segments.iter().filter(|segment| segment.decays() == decays).filter_map(|segment| {
                let (from, to) = (segment.offset.max(start), (segment.offset + segment.len).min(start + len));
                (from < to).then(|| {
                    let local = |flat: &Tensor| flat.narrow(0, from - start + own, to - from);
                    Adam {
                        weights: state.weights.narrow(0, from, to - from),
                        gradient: local(gradient),
                        exp_avg: local(&state.exp_avg),
                        exp_avg_sq: local(&state.exp_avg_sq),
                    }
                })
            });
            let numbers = AdamNumbers {
                update: state.updates,
                learning_rate,
                betas: settings.betas,
                weight_decay: if decays { settings.weight_decay } else { 0.0 },
                eps: settings.eps,
            };
            tch::no_grad(|| fused_adamw(&pieces.collect::<Vec<_>>(), &numbers))?;
        }
    }
    Ok(())
}

/// What to multiply the gradient with so that its norm is at most `limit`.
pub fn clip_factor(norm: f64, limit: f64) -> f64 {
    // torch's clip_grad_norm_: 1e-6 keeps the quotient finite.
    (limit / (norm + 1e-6)).min(1.0)
}
