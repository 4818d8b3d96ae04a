//! Image-text matching (LAVIS `blip2_qformer.py`).

use tch::{Kind, Reduction, Tensor};

/// The cross entropy of "do image and text belong together?": 1 for the first third of the rows, 0 for the rest.
///
/// # Shapes
/// `logits`: `[3b, 2]`; result: a scalar.
pub fn matching(logits: &Tensor) -> Tensor {
    let rows = logits.size()[0];
    let labels = Tensor::arange(rows, (Kind::Int64, logits.device())).lt(rows / 3).to_kind(Kind::Int64);
    logits.to_kind(Kind::Float).cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Mean, -100, 0.0)
}
