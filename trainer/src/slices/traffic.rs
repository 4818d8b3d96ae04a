//! What slices cost on the wire.

/// Bytes that a rank has received from other ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// By [`super::SliceMap::gather`]: features, texts, drawn numbers, losses and parts of the norm of all slices, and the
    /// updated weights.
    pub gathered: usize,
    /// By [`super::SliceMap::fetch`]: the image encoder's outputs of drawn images.
    pub negatives: usize,
    /// By the exact [`super::SliceSum`].
    pub gradients: usize,
}
