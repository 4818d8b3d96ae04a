//! One rank of a run: models, losses, optimiser, step, checkpoints; the only crate that links libtorch.
//!
//! What is here so far: [`libraries`] loads what is optional at run time, and [`self_check`] says what
//! was found. Programs call [`libraries::load_cuda`] before anything of `tch`:
//!
//! ```
//! let cuda = trainer::libraries::load_cuda();
//! let sum = tch::Tensor::from_slice(&[1.0_f32, 2.0]).sum(tch::Kind::Float);
//! assert_eq!(sum.double_value(&[]), 3.0);
//! # drop(cuda);
//! ```

pub mod error;
pub mod frozen;
pub mod generate;
pub mod libraries;
pub mod model;
pub mod pretrain;
pub mod self_check;
pub mod text;
pub mod weight_names;
pub mod weights_file;

pub use error::TrainerError;
