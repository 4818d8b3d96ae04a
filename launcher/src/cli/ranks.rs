//! The arguments of the commands that start ranks, and of the report on what they did.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::DecodingArgs;
use crate::ranks::Starter;

/// `blip2 launch`
#[derive(Debug, Default, Args)]
pub struct LaunchArgs {
    /// The run's YAML file, or the name of a preset such as tiny.
    pub run: String,
    /// Override one value: `--set stages[0].steps=100` (also `stages.NAME.steps`); may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Start at most this many ranks; the result is the same, only slower.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ranks: Option<u32>,
    /// Start them on these hosts through mpirun: names, each with its number of ranks, such as n1:8,n2:8.
    #[arg(long, value_name = "HOST:N,…", conflicts_with = "hostfile")]
    pub hosts: Option<String>,
    /// The same from a file, one host a line: `n1 slots=8` or `n1:8`.
    #[arg(long, value_name = "FILE")]
    pub hostfile: Option<PathBuf>,
    /// What starts ranks.
    #[arg(long, value_enum, default_value_t = Starter::Auto)]
    pub launcher: Starter,
    /// Print what would be started, and start nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Start anew where the output folder already holds a run, which moves to `before-<n>` in it.
    #[arg(long)]
    pub fresh: bool,
    /// Continue although this value, or one below it, differs from the run's configuration; recorded there; may be repeated.
    #[arg(long = "accept-change", value_name = "KEY", conflicts_with = "fresh")]
    pub accept_changes: Vec<String>,
    /// What of the ranks' own lines is shown: those of rank 0 and problems, all, or everything as JSON lines.
    #[arg(long, value_enum, default_value_t)]
    pub log: crate::ranks::Log,
    /// Serve a live page on the run at this port of 127.0.0.1 while it is launched; 0 picks a free one.
    #[arg(long, value_name = "PORT")]
    pub dashboard: Option<u16>,
}

/// The held-out scenes of a synthetic corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Split {
    /// Scenes made of colour-shape pairs that training shows.
    TestSeen,
    /// Scenes that hold a colour-shape pair that training never shows.
    TestUnseen,
}

impl Split {
    /// Both, seen pairs first.
    pub const ALL: [Split; 2] = [Split::TestSeen, Split::TestUnseen];

    /// The name of its folder in the corpus.
    pub fn name(self) -> &'static str {
        match self {
            Split::TestSeen => "test_seen",
            Split::TestUnseen => "test_unseen",
        }
    }
}

/// `blip2 caption`
#[derive(Debug, Args)]
pub struct CaptionArgs {
    /// A checkpoint, or a run's output folder (its last checkpoint).
    pub checkpoint: String,
    /// Images to describe.
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// How captions are written.
    #[command(flatten)]
    pub decoding: DecodingArgs,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `blip2 demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where everything goes; runs/PRESET when not given.
    #[arg(long, value_name = "DIR")]
    pub output: Option<String>,
    /// Override one value of the preset; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Seed of the run (not of the scenes, which stay the same).
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// What is run: tiny (about 10 minutes on 2 cores) or tiny_long (about an hour).
    #[arg(long, default_value = "tiny", value_parser = ["tiny", "tiny_long"])]
    pub preset: String,
    /// Open the report in a browser at the end.
    #[arg(long)]
    pub open: bool,
}

/// `blip2 report`
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The run's output folder: a path or an object-store URL.
    pub run: String,
}

/// `blip2 verify …`
#[derive(Debug, Subcommand)]
pub enum VerifyCommand {
    /// Train the same small run on 1, 2, 3 and 4 ranks, over MPI and as threads, with and without kills, and compare the
    /// bits of what was trained.
    Exactness(VerifyExactnessArgs),
}

/// `blip2 verify exactness`
#[derive(Debug, Args)]
pub struct VerifyExactnessArgs {
    /// Steps of each stage.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(6..))]
    pub steps: u64,
    /// Numbers of ranks over MPI, one run each; at most 16.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,3,4")]
    pub ranks: Vec<usize>,
    /// Numbers of ranks that are threads of one process, one run each; at most 16.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,5,16")]
    pub threads: Vec<usize>,
    /// Number formats that are computed in.
    #[arg(long = "dtype", value_name = "NAME,…", value_delimiter = ',', default_value = "bf16,f32")]
    pub dtypes: Vec<String>,
    /// Ranks of the launches of the run that is killed: each launch but the last is killed at some moment.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "2,4,1,3")]
    pub killed_ranks: Vec<usize>,
    /// Leave out the run that is killed and goes on with other numbers of ranks.
    #[arg(long)]
    pub no_kills: bool,
    /// Override one value of the small run; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Keep the runs in this folder, which must not hold others; without it they are removed.
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}
