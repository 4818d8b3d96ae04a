//! A safetensors file that is written tensor by tensor, into any object store.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use safetensors::Dtype;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::header::bytes_of;
use crate::error::{Result, TrainerError};
use crate::storage::Storage;

/// A tensor that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Planned {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

impl Planned {
    pub fn bytes(&self) -> Result<u64> {
        bytes_of(self.dtype, &self.shape).ok_or_else(|| TrainerError::WeightsFile {
            uri: self.name.clone(),
            reason: format!("{:?} numbers are more than can be", self.shape),
        })
    }
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
}

/// Writes a file whose tensors `read` gives, one at a time. Equal tensors give equal bytes.
pub(super) fn write(
    storage: &Storage,
    name: &str,
    tensors: &[&Planned],
    read: &dyn Fn(&str) -> Result<Vec<u8>>,
) -> Result<File> {
    // Wide numbers first, as the format's own writer has it, so that each tensor lies where its numbers may.
    let mut tensors = tensors.to_vec();
    tensors.sort_by(|a, b| (Reverse(a.dtype.bitsize()), &a.name).cmp(&(Reverse(b.dtype.bitsize()), &b.name)));
    let mut entries = BTreeMap::from([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut end = 0;
    for tensor in &tensors {
        let from = end;
        end += tensor.bytes()?;
        let entry = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [from, end] });
        entries.insert(tensor.name.clone(), entry);
    }
    let mut header = serde_json::to_vec(&entries)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut upload = storage.upload(name)?;
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut put = |part: &[u8]| {
        hash.update(part);
        bytes += part.len() as u64;
        upload.put(part)
    };
    put(&(header.len() as u64).to_le_bytes())?;
    put(&header)?;
    for tensor in &tensors {
        let values = read(&tensor.name)?;
        if values.len() as u64 != tensor.bytes()? {
            return Err(TrainerError::WeightsFile {
                uri: storage.uri(name),
                reason: format!("`{}` has {} bytes, expected {}", tensor.name, values.len(), tensor.bytes()?),
            });
        }
        put(&values)?;
    }
    upload.finish()?;
    let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(File { name: name.to_owned(), bytes, sha256 })
}
