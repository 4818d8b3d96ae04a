//! Batches on a device.

use data_pipeline::loader::Batch;
use tch::{Device, Tensor};

use crate::device::upload;
use crate::model::tensors::fnv1a;
use crate::stage1::Text;
use crate::stage2::Words;
use crate::text::{Encoded, TextBatch};

/// The images of a batch.
///
/// # Shapes
/// Result: `[b, 3, S, S]`, f32.
pub fn pixels(batch: &Batch, image_size: usize, device: Device) -> Tensor {
    let side = image_size as i64;
    upload(&Tensor::from_slice(&batch.images).view([batch.len() as i64, 3, side, side]), device)
}

/// Token ids on a device, and their mask on the processor, without the columns that only hold padding in every text of the global batch.
///
/// # Shapes
/// `length`: the longest text of the global batch; result: `[b, length]`.
pub fn text(tokens: &TextBatch, length: usize, device: Device) -> Text {
    let tensor = |values: &[i64]| {
        let all = Tensor::from_slice(values).view([tokens.rows as i64, tokens.len as i64]);
        all.narrow(1, 0, length as i64).contiguous()
    };
    Text { ids: upload(&tensor(&tokens.ids), device), mask: tensor(&tokens.mask) }
}

/// What a stage's model is given of the captions of a slice, on a device.
///
/// # Shapes
/// `lengths`: the longest text, the longest input and the longest question of the global batch.
pub fn words(tokens: &Encoded, lengths: [usize; 3], device: Device) -> Words {
    Words {
        text: text(&tokens.text, lengths[0], device),
        input: tokens.input.as_ref().map(|input| text(input, lengths[1], device)),
        question: tokens.question.as_ref().map(|question| text(question, lengths[2], device)),
        prompt_tokens: tokens.prompt_tokens.clone(),
    }
}

/// A number for the image of each row: equal where sources and keys are equal, or, in shards without keys, where rows are.
pub fn image_ids(batch: &Batch, device: Device) -> Tensor {
    let id = |((key, row), source): ((&String, &u64), &usize)| match key.as_str() {
        "" => row.cast_signed(),
        // Keys are unique in a source only. The first source's are taken as they are.
        key => fnv1a(std::iter::repeat_n(0xff, *source).chain(key.bytes())).cast_signed(),
    };
    let ids: Vec<i64> = batch.keys.iter().zip(&batch.samples).zip(&batch.sources).map(id).collect();
    upload(&Tensor::from_slice(&ids), device)
}
