//! From object-store shards to batches of normalised images and clean captions.
//!
//! Knows object stores, shards, sample order, Parquet, image decoding, augmentation, captions, the synthetic
//! corpus and the download of images by their URLs. Knows nothing of models, losses, token ids or libtorch.

pub mod annotations;
pub mod augment;
pub mod benchmark;
pub mod caption;
pub mod catalog;
pub mod derived;
pub mod error;
pub mod fetch;
pub mod filters;
mod hex;
pub mod image;
pub mod inspect;
mod json;
pub mod loader;
pub mod lost;
pub mod mixture;
mod object_reader;
pub mod order;
pub mod parquet_source;
pub mod reasons;
pub mod rng;
pub mod rows;
pub mod store;
pub mod synthetic;
pub mod tar_source;
mod upload;

pub use error::{DataError, Result};
