//! The tensor files of a checkpoint: safetensors, float32, as Python's `safetensors` and Hugging Face read them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::{Dtype, SafeTensors, View};

use super::manifest::{TensorRecord, Tensors};
use super::snapshot::{NamedArray, Snapshot};
use crate::error::{Result, TrainerError};

/// The trained tensors under their public names.
pub(super) const TRAINABLE: &str = "trainable-00001-of-00001.safetensors";
/// Says in which file each tensor lies, as Hugging Face does.
pub(super) const TRAINABLE_INDEX: &str = "trainable.safetensors.index.json";
/// AdamW's moments.
pub(super) const MOMENTS: &str = "moments-00001-of-00001.safetensors";

/// Float32 values with axes; the bytes are made one tensor at a time.
struct Floats<'a> {
    shape: Cow<'a, [usize]>,
    values: &'a [f32],
}

impl View for Floats<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = vec![0; self.data_len()];
        let (quads, _) = bytes.as_chunks_mut::<4>();
        for (quad, value) in quads.iter_mut().zip(self.values) {
            *quad = value.to_le_bytes();
        }
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}

fn serialize(tensors: Vec<(&str, Floats<'_>)>) -> Result<Vec<u8>> {
    // transformers refuses files that do not say for which framework they were written.
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(tensors, Some(about))
        .map_err(|error| TrainerError::BadSnapshot(format!("the tensors make no safetensors file ({error})")))
}

fn flat(values: &[f32]) -> Floats<'_> {
    Floats { shape: Cow::Owned(vec![values.len()]), values }
}

/// The bytes of [`TRAINABLE`].
pub(super) fn trainable(snapshot: &Snapshot) -> Result<Vec<u8>> {
    let tensors = snapshot.trainable.iter().map(|NamedArray { name, shape, values }| {
        let shape = Cow::Borrowed(shape.as_slice());
        (name.as_str(), Floats { shape, values })
    });
    serialize(tensors.collect())
}

/// The bytes of [`MOMENTS`].
pub(super) fn moments(snapshot: &Snapshot) -> Result<Vec<u8>> {
    serialize(vec![("exp_avg", flat(&snapshot.exp_avg)), ("exp_avg_sq", flat(&snapshot.exp_avg_sq))])
}

/// The bytes of [`TRAINABLE_INDEX`].
pub(super) fn trainable_index(snapshot: &Snapshot) -> Result<Vec<u8>> {
    let total: usize = snapshot.trainable.iter().map(|array| size_of_val(array.values.as_slice())).sum();
    let map: BTreeMap<&str, &str> = snapshot.trainable.iter().map(|array| (array.name.as_str(), TRAINABLE)).collect();
    Ok(serde_json::to_vec_pretty(&serde_json::json!({ "metadata": { "total_size": total }, "weight_map": map }))?)
}

/// Reads the tensors back, the trained ones in the order of `records`; the error is a reason for people.
pub(super) fn parse(
    records: &[TensorRecord],
    trainable: &[u8],
    moments: &[u8],
) -> std::result::Result<Tensors, String> {
    let file = SafeTensors::deserialize(trainable).map_err(|error| format!("{TRAINABLE}: {error}"))?;
    let mut arrays = Vec::with_capacity(records.len());
    for TensorRecord { name, shape } in records {
        let values = floats(&file, TRAINABLE, name, Some(shape))?;
        arrays.push(NamedArray { name: name.clone(), shape: shape.clone(), values });
    }
    let file = SafeTensors::deserialize(moments).map_err(|error| format!("{MOMENTS}: {error}"))?;
    Ok(Tensors {
        trainable: arrays,
        exp_avg: floats(&file, MOMENTS, "exp_avg", None)?,
        exp_avg_sq: floats(&file, MOMENTS, "exp_avg_sq", None)?,
    })
}

fn floats(
    file: &SafeTensors<'_>,
    file_name: &str,
    name: &str,
    shape: Option<&[usize]>,
) -> std::result::Result<Vec<f32>, String> {
    let tensor = file.tensor(name).map_err(|error| format!("{file_name}: tensor `{name}`: {error}"))?;
    if tensor.dtype() != Dtype::F32 || shape.is_some_and(|shape| shape != tensor.shape()) {
        return Err(format!(
            "{file_name}: found `{name}` as {:?} {:?}, expected F32 {shape:?}",
            tensor.dtype(),
            tensor.shape()
        ));
    }
    let (quads, _) = tensor.data().as_chunks::<4>();
    Ok(quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect())
}
