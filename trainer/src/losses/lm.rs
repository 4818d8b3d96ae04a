//! Next-word prediction: image-grounded generation of stage 1 (label smoothing 0.1) and the language model of stage 2.

use tch::{Kind, Reduction, Tensor};

/// The label of a position that does not count.
pub const IGNORED: i64 = -100;

/// The positions that have a label, so that words are scored there only.
///
/// # Shapes
/// `hidden`: `[n, D]`; `labels`: `[n]`, [`IGNORED`] where nothing is to be predicted; result: `[m, D]`, `[m]`.
pub fn labelled(hidden: &Tensor, labels: &Tensor) -> (Tensor, Tensor) {
    let places = labels.ne(IGNORED).nonzero().squeeze_dim(1);
    (hidden.index_select(0, &places), labels.index_select(0, &places))
}

/// The mean cross entropy over the labelled positions; the caller has shifted the labels.
///
/// # Shapes
/// `logits`: `[n, W]`; `labels`: `[n]`, [`IGNORED`] where nothing is to be predicted; result: a scalar.
pub fn next_word(logits: &Tensor, labels: &Tensor, label_smoothing: f64) -> Tensor {
    logits.to_kind(Kind::Float).cross_entropy_loss(labels, None::<&Tensor>, Reduction::Mean, IGNORED, label_smoothing)
}
