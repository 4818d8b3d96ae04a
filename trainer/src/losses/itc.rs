//! Image-text contrast (LAVIS `blip2_qformer.py`, `Blip2Qformer.forward`).

use tch::{Device, Kind, Reduction, Tensor};

/// What is compared.
#[derive(Debug)]
pub struct Features {
    /// Normalised query outputs of each image, `[b, Q, E]`, f32.
    pub image: Tensor,
    /// Normalised \[CLS\] output of each text, `[b, E]`, f32.
    pub text: Tensor,
}

/// The loss and the similarities that negatives are drawn by.
#[derive(Debug)]
pub struct Contrast {
    /// A scalar.
    pub loss: Tensor,
    /// Own images against all texts, divided by the temperature, without gradient: `[b, G]`.
    pub image_to_text: Tensor,
    /// Own texts against all images: `[b, G]`.
    pub text_to_image: Tensor,
}

/// Which rows of the global batch are partners of which own row: the row itself.
///
/// # Shapes
/// Result: `[rows, columns]`, bool.
pub fn own_rows(first: i64, rows: i64, columns: i64, device: Device) -> Tensor {
    let options = (Kind::Int64, device);
    Tensor::arange_start(first, first + rows, options).unsqueeze(1).eq_tensor(&Tensor::arange(columns, options))
}

/// Which rows of the global batch are partners of which own row: all of the same image, which has several captions.
///
/// # Shapes
/// `own`: `[b]`; `all`: `[G]`; result: `[b, G]`, bool.
pub fn same_image(own: &Tensor, all: &Tensor) -> Tensor {
    own.unsqueeze(1).eq_tensor(all)
}

/// The contrast of a slice with the global batch. An image is as similar to a text as its most similar query; the
/// targets are spread evenly over a row's partners and then smoothed over all columns.
///
/// Gradients flow through the slice's own side of each comparison only; `all` is detached, as the reference gathers
/// without gradients, on one rank too.
///
/// # Shapes
/// `own`: `b` rows, `all`: `G` rows, `temperature`: scalar; `partners`: `[b, G]`, bool, at least one in each row.
pub fn contrast(
    own: &Features,
    all: &Features,
    temperature: &Tensor,
    partners: &Tensor,
    label_smoothing: f64,
) -> Contrast {
    let image_to_text = best_query(&own.image, &all.text.detach()) / temperature;
    let text_to_image = best_query(&all.image.detach(), &own.text).transpose(0, 1) / temperature;
    let partners = partners.to_kind(Kind::Float);
    let targets = &partners / partners.sum_dim_intlist([1_i64].as_slice(), true, Kind::Float);
    let loss =
        |logits: &Tensor| logits.cross_entropy_loss(&targets, None::<&Tensor>, Reduction::Mean, -100, label_smoothing);
    Contrast {
        loss: (loss(&image_to_text) + loss(&text_to_image)) / 2,
        image_to_text: image_to_text.detach(),
        text_to_image: text_to_image.detach(),
    }
}

/// [`best_query`] of many images and texts, on the processor: a block of products at a time, as all of them at once would take
/// `Q` times the memory of the result.
///
/// # Shapes
/// As [`best_query`].
pub fn best_query_in_blocks(image: &Tensor, text: &Tensor) -> Tensor {
    // On a processor a block of products stays in its cache; a GPU takes more at once.
    let [images, texts] = if image.device() == Device::Cpu { [64, 512] } else { [256, 8192] };
    let rows = |image: &Tensor| {
        let parts: Vec<Tensor> = text.split(texts, 0).iter().map(|text| best_query(image, text)).collect();
        Tensor::cat(&parts, 1).to_device(Device::Cpu)
    };
    Tensor::cat(&image.split(images, 0).iter().map(rows).collect::<Vec<_>>(), 0)
}

/// Cosine of each image's most similar query with each text.
///
/// # Shapes
/// `image`: `[m, Q, E]`; `text`: `[n, E]`; result: `[m, n]`.
pub fn best_query(image: &Tensor, text: &Tensor) -> Tensor {
    let (images, queries, width) = image.size3().expect("invariant: image features are [m, Q, E]");
    let all = image.reshape([images * queries, width]).matmul(&text.transpose(0, 1));
    all.view([images, queries, -1]).amax([1_i64].as_slice(), false)
}
