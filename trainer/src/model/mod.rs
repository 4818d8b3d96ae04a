//! The models: single-device code, without a word about ranks.

mod cache;
pub mod clip;
pub mod clip_vit;
mod cross_attention;
pub mod eva_vit;
pub mod image_tower;
pub mod language_tower;
pub mod layers;
pub mod opt;
pub mod packing;
pub mod qformer;
pub mod t5;
pub mod tensors;

pub use tensors::{Init, Scope, Spec, Tensors, declare};
