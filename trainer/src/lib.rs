//! One rank of a run: models, losses, optimiser, step, checkpoints; the only crate that links libtorch.
//!
//! [`train`] is a run on one screen; [`step`] is what it repeats, [`slices`] how ranks share it, [`state`] what it changes, and
//! [`checkpoint`] where that is kept. Programs call [`libraries::load_cuda`] before anything of `tch`:
//!
//! ```
//! let cuda = trainer::libraries::load_cuda();
//! let sum = tch::Tensor::from_slice(&[1.0_f32, 2.0]).sum(tch::Kind::Float);
//! assert_eq!(sum.double_value(&[]), 3.0);
//! # drop(cuda);
//! ```

pub mod activity;
mod ahead;
pub mod batches;
pub mod bench;
pub mod capfilt;
pub mod checkpoint;
pub mod device;
pub mod doctor;
pub mod error;
pub mod eval;
pub mod events;
pub mod facts;
pub mod feed;
pub mod finite;
pub mod frozen;
pub mod generate;
pub mod generator;
mod hub;
pub mod libraries;
pub mod losses;
mod memory;
pub mod metrics;
pub mod model;
pub mod optimizer;
pub mod parts;
pub mod precision;
pub mod pretrain;
pub mod reader;
pub mod schedule;
pub mod segment_file;
pub mod self_check;
pub mod session;
pub mod shim;
pub mod slices;
pub mod sources;
pub mod stage1;
pub mod stage2;
pub mod state;
pub mod step;
#[doc(hidden)]
pub mod storage;
pub mod tensorboard;
pub mod text;
pub mod towers;
pub mod train;
pub mod trained_image_encoder;
pub mod utilisation;
pub mod weight_names;
pub mod weights;
pub mod weights_file;

pub use error::TrainerError;
