//! Next-word prediction: image-grounded generation of stage 1 (label smoothing 0.1) and the language model of stage 2.

use tch::{Device, Kind, Reduction, Tensor};

use crate::device::upload;

/// The label of a position that does not count.
pub const IGNORED: i64 = -100;

/// Where texts have labels: at all their tokens behind the first `unlabelled` of each row, so that words are scored there
/// only.
///
/// # Shapes
/// `mask`: `[b, T]`, 1 for tokens and 0 for padding, on the processor (or it is fetched); `unlabelled`: `[b]`, or nothing
/// where all tokens have labels; result: `[m]`, places in `[b · T]`.
pub fn labelled(mask: &Tensor, unlabelled: &[i64], device: Device) -> Tensor {
    let mask = mask.to_device(Device::Cpu);
    let labelled = match unlabelled {
        [] => mask,
        first => {
            let places = Tensor::arange(mask.size()[1], (Kind::Int64, Device::Cpu));
            mask.logical_and(&places.ge_tensor(&Tensor::from_slice(first).unsqueeze(1)))
        }
    };
    upload(&labelled.flatten(0, 1).nonzero().squeeze_dim(1), device)
}

/// The mean cross entropy over the labelled positions; the caller has shifted the labels.
///
/// # Shapes
/// `logits`: `[n, W]`; `labels`: `[n]`, [`IGNORED`] where nothing is to be predicted; result: a scalar.
pub fn next_word(logits: &Tensor, labels: &Tensor, label_smoothing: f64) -> Tensor {
    logits.to_kind(Kind::Float).cross_entropy_loss(labels, None::<&Tensor>, Reduction::Mean, IGNORED, label_smoothing)
}
