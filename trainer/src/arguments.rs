//! What `blip2-rank` is told: its commands and their arguments.

mod capfilt;
mod doctor;
mod eval;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

pub use capfilt::{CapfiltCommand, ShardArguments};
pub use doctor::{DoctorArguments, DoctorPart};
pub use eval::EvalCommand;

/// One rank of a BLIP-2 run.
#[derive(Parser)]
#[command(name = "blip2-rank", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Say which libraries were found, and compute a small sum through each of them.
    SelfCheck {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
        /// The NCCL library to load instead of the one beside libtorch.
        #[arg(long, value_name = "PATH")]
        nccl: Option<PathBuf>,
        /// For tests: this rank panics while the others wait for it.
        #[arg(long, hide = true, value_name = "RANK")]
        panic_on_rank: Option<usize>,
    },
    /// Train a run, or continue it from its last checkpoint.
    Train(TrainArguments),
    /// Score a checkpoint.
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Describe images.
    Caption(CaptionArguments),
    /// Make shards with captions from shards.
    #[command(subcommand)]
    Capfilt(CapfiltCommand),
    /// Look after the checkpoints of a run.
    #[command(subcommand)]
    Checkpoints(CheckpointsCommand),
    /// Read, check and write weights.
    #[command(subcommand)]
    Weights(WeightsCommand),
    /// Time training steps, with random weights and inputs.
    BenchStep(BenchStepArguments),
    /// Time checkpoints of a preset's stage 1, with random numbers.
    BenchCheckpoint(BenchCheckpointArguments),
    /// Look at a part of what a run needs, for `blip2 doctor`.
    #[command(hide = true)]
    Doctor(DoctorArguments),
}

/// `blip2-rank bench-checkpoint`
#[derive(clap::Args)]
pub struct BenchCheckpointArguments {
    /// An empty folder; a path or an object store's URI.
    pub uri: String,
    /// Whose stage 1.
    #[arg(long, default_value = "vitg_opt2.7b")]
    pub preset: String,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
}

/// `blip2-rank bench-step`
#[derive(clap::Args)]
pub struct BenchStepArguments {
    /// The stage, 1 or 2.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub stage: u8,
    /// A model of middling size, mid, or a published one such as vitg_opt2.7b.
    #[arg(long, default_value = "mid")]
    pub preset: String,
    /// Take the model, its types, dropout and attention, lengths of texts and what is trained from a run: its YAML file, or
    /// `preset:NAME`. Weights and inputs are random all the same; the stage is the run's first one of the kind of `--stage`.
    #[arg(long, value_name = "FILE",
        conflicts_with_all = ["preset", "dtype", "attention", "dropout", "lm_dropout", "text_tokens", "recompute"])]
    pub run: Option<String>,
    /// Override one value of the run's file; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "run")]
    pub set: Vec<String>,
    /// cpu, or cuda for the first GPU.
    #[arg(long, default_value = "cpu", value_parser = ["cpu", "cuda"])]
    pub device: String,
    /// Images per step, over all ranks; 8 when not given, or so many as that many slices of the run have.
    #[arg(long)]
    pub batch: Option<usize>,
    /// Slices of the batch; one for each rank when not given.
    #[arg(long)]
    pub slices: Option<usize>,
    /// Steps that are timed.
    #[arg(long, default_value_t = 10)]
    pub steps: usize,
    /// Steps before them.
    #[arg(long, default_value_t = 3)]
    pub warmup: usize,
    /// f32 or bf16.
    #[arg(long, default_value = "f32")]
    pub dtype: String,
    /// math or flash.
    #[arg(long, default_value = "math")]
    pub attention: String,
    /// Threads of each rank.
    #[arg(long, default_value_t = 1)]
    pub threads: i32,
    /// Of the Q-Former.
    #[arg(long, default_value_t = 0.1)]
    pub dropout: f64,
    /// Of the language model.
    #[arg(long, default_value_t = 0.1)]
    pub lm_dropout: f64,
    /// Tokens of a caption at most.
    #[arg(long, default_value_t = 32)]
    pub text_tokens: usize,
    /// Give all captions that many tokens; otherwise they have from 6 to that many.
    #[arg(long)]
    pub fixed_text: bool,
    /// Pad captions to that many tokens, not only to the longest of the batch.
    #[arg(long)]
    pub pad_to_limit: bool,
    /// Compute keys and values of an image at each use, as the published code does, not once per step.
    #[arg(long)]
    pub project_each_use: bool,
    /// Compute the language model's activations again instead of keeping them; it does not drop out then.
    #[arg(long)]
    pub recompute: bool,
    /// Instead of timing: count the bytes that a rank receives in one step of stage 1, in worlds of 2, 4 and 8 threads with
    /// `--batch` images on each.
    #[arg(long)]
    pub count_traffic: bool,
    /// Take every step with the exact reduction and with the library's all-reduce, in turns.
    #[arg(long)]
    pub compare_reductions: bool,
    /// Wait for the device behind every part of a step, and time each; a step takes longer so.
    #[arg(long)]
    pub phases: bool,
    /// Take one more step and write what it does, operation by operation, for Perfetto or chrome://tracing.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

/// `blip2-rank caption`
#[derive(clap::Args)]
pub struct CaptionArguments {
    /// A checkpoint, or a run's folder.
    pub checkpoint: String,
    /// The images.
    #[arg(required = true)]
    pub images: Vec<PathBuf>,
    /// How captions are written: a JSON object with the options of `blip2 caption`.
    #[arg(long, default_value = "{}")]
    pub decoding: String,
}

/// `blip2-rank train`
#[derive(clap::Args)]
pub struct TrainArguments {
    /// The config.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Start anew: what the run's folder holds is moved to `before-<n>` in it.
    #[arg(long)]
    pub fresh: bool,
    /// Go on although this value, or one below it, differs from the run's config; may be repeated.
    #[arg(long = "accept-change", value_name = "KEY", conflicts_with = "fresh")]
    pub accept_changes: Vec<String>,
    /// End the job when standard input ends: the launcher is gone.
    #[arg(long)]
    pub exit_on_stdin_eof: bool,
    /// Train with this many ranks that are threads of this one process: for checks of many ranks, never faster.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    /// How to report progress on standard output.
    #[arg(long, value_enum, default_value_t = ProgressFormat::None)]
    pub progress: ProgressFormat,
}

/// `blip2-rank weights …`, as `blip2 weights` explains it.
#[derive(Subcommand)]
pub enum WeightsCommand {
    /// What a file or folder holds.
    Inspect {
        /// A file, or a folder of Hugging Face's.
        uri: String,
    },
    /// How it differs from what a config asks for.
    Verify {
        /// A file, or a folder of Hugging Face's.
        uri: String,
        #[command(flatten)]
        config: NamedConfig,
    },
    /// Write the parts of a config's model that it has.
    Import {
        /// A file, or a folder of Hugging Face's.
        uri: String,
        #[command(flatten)]
        config: NamedConfig,
        /// Where the parts go.
        #[arg(long)]
        output: String,
    },
    /// Write a checkpoint's model, or imported parts of one, for others.
    Export {
        /// A checkpoint, or a folder of parts.
        uri: String,
        /// The config of such parts.
        #[arg(long)]
        config: Option<String>,
        /// Override one of its values.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Who is to read it.
        #[arg(long, value_enum)]
        format: ExportFormat,
        /// Where the files go.
        #[arg(long)]
        output: String,
    },
}

/// `blip2-rank checkpoints …`, as `blip2 checkpoints` explains it.
#[derive(Subcommand)]
pub enum CheckpointsCommand {
    /// Those of a run.
    List {
        /// The run.
        uri: String,
    },
    /// One of them.
    Show {
        /// A checkpoint, or a run: its newest.
        uri: String,
    },
    /// Whether every byte is what it was.
    Verify {
        /// A checkpoint, or a run: its newest.
        uri: String,
        /// All of the run.
        #[arg(long)]
        all: bool,
    },
    /// Delete what is not to be kept.
    Prune {
        /// The run.
        uri: String,
        /// Instead of the config's.
        #[arg(long)]
        keep_last: Option<u64>,
        /// Instead of the config's.
        #[arg(long)]
        keep_every_steps: Option<u64>,
        /// Instead of the config's.
        #[arg(long)]
        keep_best: Option<u64>,
        /// Damaged ones, too.
        #[arg(long)]
        quarantined: bool,
        /// Only say what.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Who is to read exported weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// transformers.
    #[value(name = "hugging_face")]
    HuggingFace,
    /// LAVIS.
    Lavis,
}

/// A config behind an option.
#[derive(clap::Args)]
pub struct NamedConfig {
    /// The run's YAML file, or `preset:NAME`.
    #[arg(long)]
    pub config: String,
    /// Override one value.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl NamedConfig {
    /// # Errors
    /// A file that cannot be read, or every mistake in it.
    pub fn load(self) -> Result<configs::Run> {
        ConfigArguments { config: self.config, set: self.set }.load()
    }
}

/// A config with overrides.
#[derive(clap::Args)]
pub struct ConfigArguments {
    /// The run's YAML file, or `preset:NAME`.
    pub config: String,
    /// Override one value: `--set stages[0].steps=100`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl ConfigArguments {
    /// # Errors
    /// A file that cannot be read, or every mistake in it.
    pub fn load(&self) -> Result<configs::Run> {
        let overrides = configs::Overrides::new(&self.set);
        match self.config.strip_prefix("preset:") {
            None => Ok(configs::load(PathBuf::from(&self.config), &overrides)?),
            Some(name) => {
                let text = configs::preset(name).with_context(|| format!("there is no preset {name}"))?;
                Ok(configs::load_str(&format!("{name}.yaml"), text, &overrides)?)
            }
        }
    }
}

/// How progress is told on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressFormat {
    /// Not at all.
    None,
    /// One JSON object per line.
    Json,
}
