//! Next-word prediction: image-grounded generation of stage 1 (label smoothing 0.1) and the language model of stage 2.

use tch::{Kind, Reduction, Tensor};

/// The label of a position that does not count.
pub const IGNORED: i64 = -100;

/// The mean cross entropy over the labelled positions; the caller has shifted the labels.
///
/// # Shapes
/// `logits`: `[n, W]`; `labels`: `[n]`, [`IGNORED`] where nothing is to be predicted; result: a scalar.
pub fn next_word(logits: &Tensor, labels: &Tensor, label_smoothing: f64) -> Tensor {
    logits.to_kind(Kind::Float).cross_entropy_loss(labels, None::<&Tensor>, Reduction::Mean, IGNORED, label_smoothing)
}
