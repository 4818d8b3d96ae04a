//! From object-store shards to batches of normalised images and clean captions.
//!
//! Knows object stores, shards, sample order, Parquet, image decoding, augmentation, captions and the synthetic
//! corpus. Knows nothing of models, losses, token ids or libtorch.

pub mod annotations;
pub mod augment;
pub mod caption;
pub mod catalog;
pub mod derived;
pub mod error;
pub mod filters;
pub mod image;
pub mod inspect;
pub mod loader;
pub mod mixture;
pub mod order;
pub mod parquet_source;
pub mod quarantine;
pub mod rng;
pub mod store;
pub mod synthetic;
pub mod tar_source;
mod upload;

pub use error::{DataError, Result};
