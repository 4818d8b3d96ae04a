//! The parts of `blip2`, the one command people type.
//!
//! Nothing here links libtorch, MPI or CUDA: it must run on a login node that has none of them.

pub mod bench_step;
pub mod checkpoints;
pub mod cli;
pub mod config;
pub mod corpus;
pub mod dashboard;
pub mod data;
pub mod demo;
pub mod doctor;
pub mod eval;
pub mod exit;
pub mod html;
pub mod launch;
pub mod outcome;
pub mod plan;
pub mod progress;
pub mod ranks;
pub mod relaunch;
pub mod report;
pub mod run_config;
pub mod slurm_job;
pub mod source;
pub mod status;
pub mod submit;
pub mod tables;
pub mod verify;
pub mod weights;
