//! Weights in safetensors files, in any object store.

use std::collections::BTreeMap;
use std::future::Future;

use data_pipeline::store::Location;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use crate::TrainerError;
use crate::model::Tensors;

/// The tensors of a safetensors file, on the CPU, in the types of the file. `uri` is for messages.
///
/// # Errors
/// [`TrainerError::WeightsFile`] when it is not such a file or holds a type that libtorch has not.
pub fn tensors_from_bytes(bytes: &[u8], uri: &str) -> Result<Tensors, TrainerError> {
    let bad = |reason: String| TrainerError::WeightsFile { uri: uri.to_owned(), reason };
    let file = SafeTensors::deserialize(bytes).map_err(|error| bad(error.to_string()))?;
    file.iter()
        .map(|(name, view)| {
            let kind = kind_of(view.dtype())
                .ok_or_else(|| bad(format!("`{name}` is of type {:?}, which is not read", view.dtype())))?;
            let size: Vec<i64> = view.shape().iter().map(|&side| side as i64).collect();
            let tensor = Tensor::f_from_data_size(view.data(), &size, kind)
                .map_err(|source| TrainerError::Torch { doing: "reading a tensor of a weights file", source })?;
            Ok((name.to_owned(), tensor))
        })
        .collect()
}

/// A safetensors file that holds `tensors`. Equal tensors give equal bytes.
///
/// # Errors
/// [`TrainerError::Torch`] when a tensor cannot be copied, [`TrainerError::WeightsFile`] when the format has no such
/// type. `uri` is for messages.
pub fn tensors_to_bytes(tensors: &Tensors, uri: &str) -> Result<Vec<u8>, TrainerError> {
    let bad = |reason: String| TrainerError::WeightsFile { uri: uri.to_owned(), reason };
    let copies: BTreeMap<&str, (Dtype, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| Ok((name, copy_of(tensor, name, uri)?)))
        .collect::<Result<_, TrainerError>>()?;
    let views = copies
        .iter()
        .map(|(name, (dtype, shape, data))| Ok((*name, TensorView::new(*dtype, shape.clone(), data)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|error| bad(error.to_string()))?;
    safetensors::serialize(views, None).map_err(|error| bad(error.to_string()))
}

fn copy_of(tensor: &Tensor, name: &str, uri: &str) -> Result<(Dtype, Vec<usize>, Vec<u8>), TrainerError> {
    let dtype = dtype_of(tensor.kind()).ok_or_else(|| TrainerError::WeightsFile {
        uri: uri.to_owned(),
        reason: format!("`{name}` is of type {:?}, which is not written", tensor.kind()),
    })?;
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    let mut data = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor
        .f_copy_data_u8(&mut data, tensor.numel())
        .map_err(|source| TrainerError::Torch { doing: "copying a tensor into a weights file", source })?;
    Ok((dtype, tensor.size().iter().map(|&side| side as usize).collect(), data))
}

const KINDS: [(Dtype, Kind); 8] = [
    (Dtype::F32, Kind::Float),
    (Dtype::BF16, Kind::BFloat16),
    (Dtype::F16, Kind::Half),
    (Dtype::F64, Kind::Double),
    (Dtype::I64, Kind::Int64),
    (Dtype::I32, Kind::Int),
    (Dtype::U8, Kind::Uint8),
    (Dtype::BOOL, Kind::Bool),
];

pub(crate) fn kind_of(dtype: Dtype) -> Option<Kind> {
    KINDS.iter().find(|(other, _)| *other == dtype).map(|(_, kind)| *kind)
}

pub(crate) fn dtype_of(kind: Kind) -> Option<Dtype> {
    KINDS.iter().find(|(_, other)| *other == kind).map(|(dtype, _)| *dtype)
}

/// The object at `uri` and the SHA-256 of its bytes in lower-case hexadecimal digits.
///
/// # Errors
/// [`TrainerError::Store`] when it cannot be read; [`TrainerError::OtherContent`] when `expected` is given and differs.
pub fn read_checked(uri: &str, expected: Option<&str>) -> Result<(bytes::Bytes, String), TrainerError> {
    let bytes = wait_for(async { Location::parse(uri)?.read().await })?;
    let found = sha256(&bytes);
    match expected {
        Some(expected) if expected != found => {
            Err(TrainerError::OtherContent { uri: uri.to_owned(), found, expected: expected.to_owned() })
        }
        _ => Ok((bytes, found)),
    }
}

/// Writes an object: it appears complete or not at all. Gives back the SHA-256 of its bytes.
///
/// # Errors
/// [`TrainerError::Store`] when the store refuses.
pub fn write_whole(uri: &str, bytes: Vec<u8>) -> Result<String, TrainerError> {
    let digest = sha256(&bytes);
    wait_for(async { Location::parse(uri)?.write(bytes).await })?;
    Ok(digest)
}

/// The SHA-256 of `bytes` in lower-case hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs one exchange with an object store to its end.
fn wait_for<T>(exchange: impl Future<Output = data_pipeline::Result<T>>) -> Result<T, TrainerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(TrainerError::Runtime)?;
    Ok(runtime.block_on(exchange)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_survive_a_file_and_equal_ones_give_equal_bytes() {
        let tensors = || {
            let mut tensors = Tensors::default();
            tensors.insert("b", Tensor::from_slice(&[1.0_f32, 2.5, -3.0]).reshape([3, 1]).to_kind(Kind::BFloat16));
            tensors.insert("a", Tensor::from_slice(&[7_i64, 8]));
            tensors.insert("s", Tensor::from(0.25_f32));
            tensors
        };
        let bytes = tensors_to_bytes(&tensors(), "x").unwrap();
        assert_eq!(bytes, tensors_to_bytes(&tensors(), "x").unwrap());
        let back = tensors_from_bytes(&bytes, "x").unwrap();
        assert_eq!(back.len(), 3);
        for (name, tensor) in tensors().iter() {
            let read = back.get(name).unwrap();
            assert_eq!((read.kind(), read.size()), (tensor.kind(), tensor.size()));
            assert!(read.equal(tensor), "{name}");
        }
        let error = tensors_from_bytes(&bytes[..20], "weights.safetensors").unwrap_err().to_string();
        assert!(error.contains("weights.safetensors"), "{error}");
    }

    #[test]
    fn a_file_of_other_content_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/file").display().to_string();
        let digest = write_whole(&path, b"one".to_vec()).unwrap();
        assert_eq!(read_checked(&path, Some(&digest)).unwrap().1, digest);
        let error = read_checked(&path, Some(&sha256(b"two"))).unwrap_err().to_string();
        assert!(error.contains(&digest) && error.contains(&sha256(b"two")), "{error}");
        let missing = read_checked(&format!("{path}.missing"), None).unwrap_err().to_string();
        assert!(missing.contains(".missing"), "{missing}");
    }
}
