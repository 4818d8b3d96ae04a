//! `blip2-rank capfilt …`, as `blip2 data caption` and `blip2 data filter` explain it.

use clap::Subcommand;

/// What is made.
#[derive(Subcommand)]
pub enum CapfiltCommand {
    /// Write captions of every image.
    Caption {
        /// A checkpoint, or a run's folder.
        checkpoint: String,
        /// Of a run's folder, the stage.
        #[arg(long)]
        stage: Option<String>,
        /// How captions are written: a JSON object with the options of `blip2 caption`.
        #[arg(long, default_value = "{}")]
        decoding: String,
        #[command(flatten)]
        shards: ShardArguments,
    },
    /// Keep the captions that fit their image best.
    Filter {
        /// A CLIP's weights, a checkpoint of stage 1, or a run's folder.
        scorer: String,
        /// Of a run's folder, the stage.
        #[arg(long)]
        stage: Option<String>,
        /// Score by the matching head.
        #[arg(long = "match")]
        by_match: bool,
        /// Captions that are kept.
        #[arg(long, default_value_t = 2)]
        top: usize,
        /// What a caption has to reach.
        #[arg(long, allow_negative_numbers = true)]
        min_similarity: Option<f64>,
        #[command(flatten)]
        shards: ShardArguments,
    },
}

/// Which shards are read, and where others are made of them.
#[derive(clap::Args)]
pub struct ShardArguments {
    /// The shards that are read.
    #[arg(long)]
    pub source: String,
    /// The folder of the shards that are made.
    #[arg(long)]
    pub out: String,
    /// Only the first so many.
    #[arg(long)]
    pub limit_shards: Option<usize>,
    /// Threads of each rank.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// End the job when standard input ends: the launcher is gone.
    #[arg(long)]
    pub exit_on_stdin_eof: bool,
}
