//! AdamW (Loshchilov and Hutter 2019), with the formulas of `torch.optim.AdamW`.

use std::collections::BTreeSet;

use configs::{AdamW, Optimizer, Stage};
use tch::Tensor;

use crate::TrainerError;
use crate::events::Events;
use crate::parts;
use crate::shim::{Adam, AdamNumbers, fused_adamw};
use crate::slices::SliceMap;
use crate::state::{Segment, State, pieces};
use crate::step::Slice;
use crate::weights::Part;

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
    let _time = slices.time(parts::Part::Optimizer);
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
    let depth = image_encoder_depth(&state.segments);
    let distances: BTreeSet<i32> = state.segments.iter().map(|segment| distance(segment, depth)).collect();
    let groups = distances.iter().flat_map(|distance| [(*distance, true), (*distance, false)]);
    let groups: Vec<(i32, bool)> = groups.collect();
    for (place, chunk) in state.own().enumerate() {
        let (start, own) = (chunk as i64 * len, place as i64 * len);
        // What of each segment lies in the chunk.
        let inside: Vec<(&Segment, (i64, i64))> = state
            .segments
            .iter()
            .map(|segment| (segment, segment.offset.max(start), (segment.offset + segment.len).min(start + len)))
            .filter(|(_, from, to)| from < to)
            .map(|(segment, from, to)| (segment, (from - start, to - from)))
            .collect();
        let cut = |flat: &Tensor, from: i64| {
            let places = inside.iter().map(|(_, place)| *place);
            tch::no_grad(|| pieces(places, &flat.narrow(0, from, len)).collect::<Vec<_>>())
        };
        let weights = cut(&state.weights, start);
        let [gradients, exp_avg, exp_avg_sq] = [gradient, &state.exp_avg, &state.exp_avg_sq].map(|flat| cut(flat, own));
        for (blocks, decays) in &groups {
            let group = inside
                .iter()
                .enumerate()
                .filter(|(_, (segment, _))| segment.decays() == *decays && distance(segment, depth) == *blocks);
            let pieces = group.map(|(i, _)| Adam {
                weights: weights[i].shallow_clone(),
                gradient: gradients[i].shallow_clone(),
                exp_avg: exp_avg[i].shallow_clone(),
                exp_avg_sq: exp_avg_sq[i].shallow_clone(),
            });
            let numbers = AdamNumbers {
                update: state.updates,
                learning_rate: learning_rate * settings.layer_decay.powi(*blocks),
                betas: settings.betas,
                weight_decay: if *decays { settings.weight_decay } else { 0.0 },
                eps: settings.eps,
            };
            tch::no_grad(|| fused_adamw(&pieces.collect::<Vec<_>>(), &numbers))?;
        }
    }
    Ok(())
}

/// How often `layer_decay` divides the learning rate of a tensor: 0 outside the image encoder, 1 in its last block, one more
/// for each block below, and one more than the first block for what the blocks are given (LAVIS `get_optimizer_params`,
/// `eva_vit.get_num_layer`). LAVIS HEAD computes it and then forgets it; the paper uses it.
fn distance(segment: &Segment, depth: i32) -> i32 {
    match Part::of(&segment.name) {
        Part::ImageEncoder => depth - block_of(&segment.name).unwrap_or(-1),
        Part::QFormer | Part::LanguageModel => 0,
    }
}

/// Blocks of the image encoder among the trained tensors.
fn image_encoder_depth(segments: &[Segment]) -> i32 {
    let of_encoder = segments.iter().filter(|segment| Part::of(&segment.name) == Part::ImageEncoder);
    of_encoder.filter_map(|segment| block_of(&segment.name)).max().map_or(0, |last| last + 1)
}

/// The number of the block that a tensor of the image encoder belongs to.
fn block_of(name: &str) -> Option<i32> {
    let (_, rest) = name.split_once(".layers.").or_else(|| name.split_once(".resblocks."))?;
    rest.split('.').next()?.parse().ok()
}

/// What to multiply the gradient with so that its norm is at most `limit`.
pub fn clip_factor(norm: f64, limit: f64) -> f64 {
    // torch's clip_grad_norm_: 1e-6 keeps the quotient finite.
    (limit / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(name: &str) -> Segment {
        Segment { name: name.into(), shape: vec![1], offset: 0, len: 1 }
    }

    #[test]
    fn the_learning_rate_falls_from_block_to_block_of_the_image_encoder() {
        for blocks in ["vision_model.encoder.layers", "vision_model.transformer.resblocks"] {
            let names = [
                "vision_model.embeddings.class_embedding".to_owned(),
                format!("{blocks}.0.layer_norm1.weight"),
                format!("{blocks}.10.layer_norm1.weight"),
                "vision_model.post_layernorm.weight".to_owned(),
                "qformer.encoder.layer.3.output_query.dense.weight".to_owned(),
            ];
            let segments = names.map(|name| segment(&name));
            let depth = image_encoder_depth(&segments);
            assert_eq!(segments.each_ref().map(|segment| distance(segment, depth)), [12, 11, 1, 0, 0], "{blocks}");
        }
    }
}
