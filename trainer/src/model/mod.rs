//! The models: single-device code, without a word about ranks.

pub mod layers;
pub mod qformer;
pub mod tensors;

pub use tensors::{Init, Scope, Spec, Tensors, declare};
