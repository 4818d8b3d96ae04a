//! The command line. Commands appear here when they work.

mod capfilt;
mod checkpoints;
mod data;
mod decoding;
mod doctor;
mod eval;
mod fetch;
mod plan;
mod ranks;
mod slurm;
mod weights;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use capfilt::{CaptionShardsArgs, FilterArgs, MadeShardsArgs};
pub use checkpoints::{CheckpointArgs, CheckpointsCommand, PruneArgs, VerifyCheckpointsArgs};
pub use data::{DataCommand, IndexArgs, InspectArgs, SynthArgs};
pub use decoding::DecodingArgs;
pub use doctor::{DoctorArgs, GROUPS};
pub use eval::{EvalArgs, EvalCommand, RetrievalArgs, ScoreArgs, TableArgs};
pub use fetch::FetchArgs;
pub use plan::PlanArgs;
pub use ranks::{CaptionArgs, DemoArgs, LaunchArgs, ReportArgs, Split, VerifyCommand, VerifyExactnessArgs};
pub use slurm::{DashboardArgs, StatusArgs, SubmitArgs};
pub use weights::{ExportArgs, ImportArgs, InspectWeightsArgs, ModelArgs, VerifyWeightsArgs, WeightsCommand};

/// Pre-trains BLIP-2: a Q-Former between a frozen image encoder and a frozen language model.
#[derive(Debug, Parser)]
#[command(name = "blip2", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything on this machine: corpus, both stages, evaluation, a report. Run again to continue.
    Demo(DemoArgs),
    /// Look whether a run will work here before it is started: machine, libraries, stores, data, weights, a step, a checkpoint.
    Doctor(DoctorArgs),
    /// Start a run, or resume it: the same command.
    Launch(LaunchArgs),
    /// Write a run's batch job and submit it to SLURM; preempted jobs go on by themselves.
    Submit(SubmitArgs),
    /// Say what a run will take: parameters, FLOPs, memory, bytes, time and cost of each stage; after it, how wrong that was.
    Plan(PlanArgs),
    /// Say where a run is: state, step, loss, speed, time left, last checkpoint, job, ranks.
    Status(StatusArgs),
    /// Serve a live page on a run at 127.0.0.1: state, curves, where time goes, ranks, faults, checkpoints.
    Dashboard(DashboardArgs),
    /// Score a checkpoint or predictions: retrieval, captions, answers; and print the paper's tables.
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Describe images with a checkpoint.
    Caption(CaptionArgs),
    /// Look after the checkpoints of a run: list, show, verify, prune, export.
    #[command(subcommand)]
    Checkpoints(CheckpointsCommand),
    /// Bring weights in, and what was trained out.
    #[command(subcommand)]
    Weights(WeightsCommand),
    /// Write a run's report: one HTML file with scores, samples and curves.
    Report(ReportArgs),
    /// Check a run's configuration, or print it with every value resolved.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make and look at training data.
    #[command(subcommand)]
    Data(DataCommand),
    /// Check on this machine what the framework promises.
    #[command(subcommand)]
    Verify(VerifyCommand),
    /// Measure parts of the framework.
    #[command(subcommand)]
    Bench(BenchCommand),
}

/// `blip2 config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a configuration; all problems are reported at once.
    Check(ConfigArgs),
    /// Print a configuration with every value resolved, as YAML (or JSON).
    Show(ConfigArgs),
}

/// A configuration file with overrides.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The run's YAML file.
    pub run: PathBuf,
    /// Override one value: `--set stages[0].steps=100` (also `stages.NAME.steps`); may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `blip2 bench …`
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Read shards through the data path and time it.
    Data(BenchDataArgs),
    /// Take training steps of a model of middling size, with random weights and inputs, and time them.
    Step(BenchStepArgs),
    /// Write and read checkpoints of a preset's stage 1, with random numbers, and time them.
    Checkpoint(BenchCheckpointArgs),
}

/// `blip2 bench checkpoint`
#[derive(Debug, Args)]
pub struct BenchCheckpointArgs {
    /// An empty folder to write to; a path or an object store's URI.
    pub uri: String,
    /// Whose stage 1.
    #[arg(long, default_value = "vitg_opt2.7b")]
    pub preset: String,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    pub rounds: u64,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `blip2 bench data`
#[derive(Debug, Args)]
pub struct BenchDataArgs {
    /// The shards.
    pub uri: String,
    /// Images to read; 0 for one epoch.
    #[arg(long, default_value_t = 0)]
    pub images: u64,
    /// Count the shards again and again until there are so many rows; 0 for once.
    #[arg(long, default_value_t = 0)]
    pub rows: u64,
    /// The step that is read first.
    #[arg(long, default_value_t = 0)]
    pub first_step: u64,
    /// Images per batch.
    #[arg(long, default_value_t = 64)]
    pub batch: u64,
    /// Side of the output in pixels.
    #[arg(long, default_value_t = 224)]
    pub image_size: u32,
    /// Decode threads.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Bytes the loader may use, in MiB.
    #[arg(long, default_value_t = 1024)]
    pub memory_mb: u64,
    /// Resampling: fast, scaled (JPEGs decoded at 1/2 or 1/4), or pillow_exact (bit-exact with Pillow's bicubic).
    #[arg(long, default_value = "fast")]
    pub resize: String,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `blip2 bench step`
#[derive(Debug, Args)]
pub struct BenchStepArgs {
    /// Ranks on this host.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub ranks: u32,
    /// Threads of each rank.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: u32,
    /// What is measured, as `blip2-rank bench-step --help` explains: `-- --stage 2 --batch 16 --dtype bf16`.
    #[arg(last = true, value_name = "OPTIONS")]
    pub options: Vec<String>,
}
