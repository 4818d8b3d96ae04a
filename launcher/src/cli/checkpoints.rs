//! `blip2 checkpoints …`.

use clap::{Args, Subcommand};

use super::weights::ExportArgs;

/// `blip2 checkpoints …`
#[derive(Debug, Subcommand)]
pub enum CheckpointsCommand {
    /// List the checkpoints of a run: kept, deleted since, damaged, unfinished.
    List(CheckpointArgs),
    /// Say what a checkpoint holds: position, versions, frozen weights, files with their sums.
    Show(CheckpointArgs),
    /// Read every byte of a checkpoint and compare it with its sums; exits with 1 when it is damaged.
    Verify(VerifyCheckpointsArgs),
    /// Delete checkpoints that are not to be kept, and unfinished ones; not while the run is running.
    Prune(PruneArgs),
    /// Write what was trained as Hugging Face's or LAVIS' software reads it, as `blip2 weights export` does.
    Export(ExportArgs),
}

/// `blip2 checkpoints list | show`
#[derive(Debug, Args)]
pub struct CheckpointArgs {
    /// A run's output folder or, for show, a checkpoint's own folder; a path or an object store's URI.
    pub uri: String,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `blip2 checkpoints verify`
#[derive(Debug, Args)]
pub struct VerifyCheckpointsArgs {
    /// A checkpoint's own folder, or a run's output folder: its newest checkpoint.
    pub uri: String,
    /// All checkpoints that the run still has.
    #[arg(long)]
    pub all: bool,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `blip2 checkpoints prune`
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// A run's output folder.
    pub uri: String,
    /// The newest so many stay, instead of the config's checkpoint.keep_last; the last of every stage stays in any case.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub keep_last: Option<u64>,
    /// Those at multiples of this step stay, instead of the config's checkpoint.keep_every_steps.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub keep_every_steps: Option<u64>,
    /// The best so many of each stage stay, instead of the config's checkpoint.keep_best.
    #[arg(long)]
    pub keep_best: Option<u64>,
    /// Delete damaged checkpoints, too.
    #[arg(long)]
    pub quarantined: bool,
    /// Only say what would be deleted.
    #[arg(long)]
    pub dry_run: bool,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}
