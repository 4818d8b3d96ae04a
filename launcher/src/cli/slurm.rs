//! The arguments of the commands around batch jobs.

use clap::Args;

use crate::ranks::Starter;

/// `blip2 submit`
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The run's YAML file, or the name of a preset such as tiny.
    pub run: String,
    /// Nodes of the job, instead of cluster.nodes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub nodes: Option<u32>,
    /// Time limit of the job, instead of cluster.slurm.time_limit, such as 1-00:00:00; the run goes on in the next.
    #[arg(long, value_name = "LIMIT")]
    pub time: Option<String>,
    /// Override one value: `--set stages[0].steps=100` (also `stages.NAME.steps`); may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// What starts ranks in the job.
    #[arg(long, value_enum, default_value_t = Starter::Auto)]
    pub launcher: Starter,
    /// Continue although this value, or one below it, differs from the run's configuration; recorded there; may be repeated.
    #[arg(long = "accept-change", value_name = "KEY")]
    pub accept_changes: Vec<String>,
    /// Print the batch script, and submit nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `blip2 status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The run's YAML file, the name of a preset, or the run's output folder (also in an object store).
    pub run: String,
    /// The same overrides as at the start, where they name another output folder.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Show it again every so many seconds (2 without a number) until the run ends; a line for each change where standard
    /// output is no terminal.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub watch: Option<u64>,
    /// One JSON object on standard output; with --watch one for each change, each on a line.
    #[arg(long)]
    pub json: bool,
}

/// `blip2 dashboard`
#[derive(Debug, Args)]
pub struct DashboardArgs {
    /// The run's YAML file, the name of a preset, or the run's output folder (also in an object store).
    pub run: String,
    /// The port of 127.0.0.1; 0 picks a free one.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub port: u16,
    /// The same overrides as at the start, where they name another output folder.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}
