//! Typed raw memory for collectives.

use std::fmt;

use half::{bf16, f16};

use crate::ClusterError;

/// A buffer of numbers that a collective changes in place.
#[derive(Debug)]
pub enum BufferMut<'a> {
    /// Single precision.
    F32(&'a mut [f32]),
    /// Double precision.
    F64(&'a mut [f64]),
    /// Counts.
    U64(&'a mut [u64]),
    /// bfloat16. Sums are made in f32 and rounded once.
    Bf16(&'a mut [bf16]),
    /// Half precision. Sums are made in f32 and rounded once.
    F16(&'a mut [f16]),
}

impl BufferMut<'_> {
    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::F64(data) => data.len(),
            Self::U64(data) => data.len(),
            Self::Bf16(data) => data.len(),
            Self::F16(data) => data.len(),
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn element(&self) -> Element {
        match self {
            Self::F32(_) => Element::F32,
            Self::F64(_) => Element::F64,
            Self::U64(_) => Element::U64,
            Self::Bf16(_) => Element::Bf16,
            Self::F16(_) => Element::F16,
        }
    }
}

/// Sums half-precision numbers: widened to f32, summed by `sum`, and rounded once.
pub(crate) fn sum_wide<T: Copy>(
    data: &mut [T],
    widen: fn(T) -> f32,
    narrow: fn(f32) -> T,
    sum: impl FnOnce(&mut [f32]) -> Result<(), ClusterError>,
) -> Result<(), ClusterError> {
    let mut wide: Vec<f32> = data.iter().map(|value| widen(*value)).collect();
    sum(&mut wide)?;
    data.iter_mut().zip(wide).for_each(|(value, sum)| *value = narrow(sum));
    Ok(())
}

/// The type of what a collective moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Byte,
    F32,
    F64,
    U64,
    Bf16,
    F16,
}

impl Element {
    pub(crate) const ALL: [Self; 6] = [Self::Byte, Self::F32, Self::F64, Self::U64, Self::Bf16, Self::F16];
}

impl fmt::Display for Element {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Byte => "bytes",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::U64 => "u64",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}
