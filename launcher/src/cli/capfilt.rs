//! `blip2 data caption` and `blip2 data filter`.

use clap::Args;

use super::DecodingArgs;

/// `blip2 data caption`
#[derive(Debug, Args)]
pub struct CaptionShardsArgs {
    /// What writes: a checkpoint, or a run's output folder (its last checkpoint).
    pub run: String,
    /// The shards that are read, Parquet or tar: a path or an object-store URL, of a folder or of one shard.
    pub source: String,
    /// Of a run's output folder, take the last checkpoint of this stage.
    #[arg(long, value_name = "NAME")]
    pub stage: Option<String>,
    /// How captions are written; when nothing is given, 10 texts drawn with --top-p 0.9.
    #[command(flatten)]
    pub decoding: DecodingArgs,
    /// What is made, and by how many.
    #[command(flatten)]
    pub made: MadeShardsArgs,
}

/// `blip2 data filter`
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// The shards that are read, as `blip2 data caption` writes them or any others.
    pub source: String,
    /// What scores: a CLIP of Hugging Face's (a folder, a file in one, hf://owner/name), a checkpoint of stage 1, or a run's
    /// output folder.
    #[arg(long, value_name = "URI")]
    pub scorer: String,
    /// Of a run's output folder, take the last checkpoint of this stage.
    #[arg(long, value_name = "NAME")]
    pub stage: Option<String>,
    /// Score by stage 1's matching head (ITM) and not by the cosine (ITC).
    #[arg(long = "match")]
    pub by_match: bool,
    /// Captions that are kept of each image, at most.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    pub top: u64,
    /// Keep only captions of at least this similarity; images without one are marked, and training leaves them out.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub min_similarity: Option<f64>,
    /// What is made, and by how many.
    #[command(flatten)]
    pub made: MadeShardsArgs,
}

/// The shards that are made.
#[derive(Debug, Args)]
pub struct MadeShardsArgs {
    /// The folder of the shards that are made: a path or an object-store URL. The same command again goes on there.
    #[arg(long, value_name = "URI")]
    pub out: String,
    /// Ranks on this host, each of which makes whole shards; what they write does not depend on their number.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub ranks: u32,
    /// Threads of each rank; the last bits of scores may depend on it, so all shards of a folder are made with one number.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: u32,
    /// Only the first N shards.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit_shards: Option<u64>,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}
