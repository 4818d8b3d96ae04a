//! The image encoder of a stage that trains it (fine-tuning): its weights lie in the training state, and its gradient is
//! computed last, from what the losses say of its output.
//!
//! Images are encoded without a gradient first, as a frozen tower's are; patches are leaves of the losses. What gathers at
//! them, on the rank that holds an image and on those that drew it as a wrong partner, is sent back through the tower by a
//! second forward pass. So one graph of the tower is in memory at a time, whatever the number of slices.
//!
//! Letters: `b` rows of a slice, `P` visual tokens of width `V`, `S` side in pixels.

use configs::Model;
use tch::{Tensor, no_grad};

use crate::TrainerError;
use crate::frozen::IMAGE_ENCODER;
use crate::model::declare;
use crate::model::eva_vit::{clear_key_bias, has_no_key_bias};
use crate::model::image_tower::ImageTower;
use crate::model::tensors::{Scope, Spec};
use crate::parts::Part;
use crate::precision::compute_kind;
use crate::slices::{DrawnGradient, SliceMap};
use crate::state::State;
use crate::step::Slice;

/// The weights of the image encoder, for a stage that trains it.
///
/// # Errors
/// None in practice: nothing is read.
pub fn specs(model: &Model) -> Result<Vec<Spec>, TrainerError> {
    declare(|scope| tower(scope, model))
}

fn tower(scope: &Scope<'_>, model: &Model) -> Result<ImageTower, TrainerError> {
    let encoder = &model.image_encoder;
    let scope = scope.at(IMAGE_ENCODER).computed_in(compute_kind(encoder.dtype(), scope.device()));
    ImageTower::new(&scope, encoder.sizes(), encoder.image_size(), model.attention)
}

/// What the tower makes of images with the weights of `state`: a leaf at which the losses' gradients gather.
///
/// # Shapes
/// `pixels`: `[b, 3, S, S]`, normalised; result: `[b, P, V]`.
///
/// # Errors
/// When the stage does not train the tower.
pub fn encode(state: &State, model: &Model, pixels: &Tensor) -> Result<Tensor, TrainerError> {
    let tower = tower(&state.parameters().scope(""), model)?;
    Ok(no_grad(|| tower.forward(pixels)).set_requires_grad(true))
}

/// The mean gradient of the tower's weights over all slices, of the chunks that this rank updates; 0 for all other weights.
/// Every rank calls it, behind the backward passes of the losses. `drawn` is what came back for images of this rank that
/// other slices, or its own, drew.
///
/// # Errors
/// When ranks cannot talk, or the stage does not train the tower.
pub fn gradient(
    state: &State,
    model: &Model,
    slices: &[Slice],
    drawn: &[DrawnGradient],
    map: &SliceMap<'_>,
) -> Result<Tensor, TrainerError> {
    let _time = map.time(Part::ImageEncoder);
    let mut sum = map.sum();
    for slice in slices {
        let pixels =
            slice.pixels.as_ref().expect("invariant: a slice keeps the pixels of an image encoder that is trained");
        let gradient = of_patches(slice, drawn);
        tower(&state.parameters().scope(""), model)?.backward(pixels, &gradient, model.image_encoder.recompute());
        sum.add(slice.index, without_key_biases(state, state.take_gradients()));
    }
    sum.mean(state.finite.loss_scale())
}

/// The gradient at a slice's patches: its own losses' first, then what each slice that drew one of its images sends, in the
/// order of those slices.
fn of_patches(slice: &Slice, drawn: &[DrawnGradient]) -> Tensor {
    let own = slice.patches.grad();
    let gradient = if own.defined() { own } else { slice.patches.detach().zeros_like() };
    let rows = slice.first_row()..slice.first_row() + slice.patches.size()[0];
    let mut of_slice: Vec<&DrawnGradient> = drawn.iter().filter(|one| rows.contains(&one.row)).collect();
    of_slice.sort_by_key(|one| (one.drawn_by, one.place));
    for one in of_slice {
        let _added = gradient.get(one.row - rows.start).g_add_(&one.gradient);
    }
    gradient
}

/// EVA's attention has no bias for keys: where queries, keys and values share one tensor, that third stays 0.
fn without_key_biases(state: &State, flat: Tensor) -> Tensor {
    for segment in state.segments.iter().filter(|segment| has_no_key_bias(&segment.name)) {
        clear_key_bias(&flat.narrow(0, segment.offset, segment.len));
    }
    flat
}
