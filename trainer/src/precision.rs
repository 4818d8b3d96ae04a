//! Number formats: in which weights are held, and in which they are computed with.

use configs::Dtype;
use tch::{Device, Kind};

/// libtorch's name for a number format of the config.
pub fn kind_of(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Bf16 => Kind::BFloat16,
        Dtype::F16 => Kind::Half,
        Dtype::F32 => Kind::Float,
    }
}

/// The type in which a device computes with weights of this format.
///
/// A GPU computes in the format itself. A processor without bf16 products (AVX512-BF16) takes ten times as long in bf16
/// as in f32, so there the weights keep their rounded values and products are made in f32.
pub fn compute_kind(dtype: Dtype, device: Device) -> Kind {
    match (dtype, device) {
        (Dtype::Bf16, Device::Cpu) if multiplies_bf16() => Kind::BFloat16,
        (_, Device::Cpu) => Kind::Float,
        _ => kind_of(dtype),
    }
}

#[cfg(target_arch = "x86_64")]
fn multiplies_bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn multiplies_bf16() -> bool {
    false
}
