//! The arguments of `blip2 doctor`.

use clap::Args;

/// The groups of checks, in the order in which they are looked at.
pub const GROUPS: [&str; 14] = [
    "placement",
    "gpus",
    "limits",
    "ports",
    "pmix",
    "libraries",
    "store",
    "space",
    "samples",
    "weights",
    "tokenizers",
    "checkpoint",
    "ranks",
    "step",
];

/// `blip2 doctor`
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// The run's YAML file, or the name of a preset such as tiny.
    pub run: String,
    /// Override one value: `--set stages[0].steps=100` (also `stages.NAME.steps`); may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Look at every node of the SLURM allocation that this is in, too.
    #[arg(long)]
    pub slurm: bool,
    /// Samples that are read and decoded, over all sources.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub samples: usize,
    /// Look at these groups of checks only, such as store,weights.
    #[arg(long, value_name = "GROUP,…", value_delimiter = ',', value_parser = GROUPS)]
    pub only: Vec<String>,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
    /// The part of a node, which `--slurm` starts on each.
    #[arg(long, hide = true)]
    pub node: bool,
}
