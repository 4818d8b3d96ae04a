//! Tensors as the bytes that travel between ranks.

use tch::{Device, Kind, Tensor};

/// Shape, type and place of tensors that travel as bytes.
pub(super) struct Like {
    shape: Vec<i64>,
    kind: Kind,
    device: Device,
    /// Of one of them.
    pub(super) bytes: usize,
}

impl Like {
    pub(super) fn of(tensor: &Tensor) -> Self {
        let (kind, device) = (tensor.kind(), tensor.device());
        Self { shape: tensor.size(), kind, device, bytes: tensor.numel() * kind.elt_size_in_bytes() }
    }

    /// As many of these, stacked.
    pub(super) fn stack(count: usize, one: &Tensor) -> Self {
        let Self { shape, kind, device, bytes } = Self::of(one);
        Self { shape: [vec![count as i64], shape].concat(), kind, device, bytes: count * bytes }
    }

    pub(super) fn read(&self, bytes: &[u8]) -> Tensor {
        Tensor::from_data_size(bytes, &self.shape, self.kind).to_device(self.device)
    }

    /// Tensors that lie one after the other.
    pub(super) fn read_all(&self, bytes: &[u8]) -> Vec<Tensor> {
        bytes.chunks_exact(self.bytes.max(1)).map(|bytes| self.read(bytes)).collect()
    }
}

/// Adds the bytes of a tensor's values.
pub(super) fn append(bytes: &mut Vec<u8>, tensor: &Tensor) {
    let (start, values) = (bytes.len(), tensor.contiguous());
    bytes.resize(start + values.numel() * values.kind().elt_size_in_bytes(), 0);
    values.copy_data_u8(&mut bytes[start..], values.numel());
}
