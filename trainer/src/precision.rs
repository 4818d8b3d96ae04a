//! Number formats.

use configs::Dtype;
use tch::Kind;

/// libtorch's name for a number format of the config.
pub fn kind_of(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Bf16 => Kind::BFloat16,
        Dtype::F16 => Kind::Half,
        Dtype::F32 => Kind::Float,
    }
}
