//! `blip2 data …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{CaptionShardsArgs, FetchArgs, FilterArgs};

/// `blip2 data …`
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Make a synthetic corpus: rendered scenes with captions and questions, as Parquet shards.
    Synth(SynthArgs),
    /// Make the catalogues of a run: which shards and rows its sources have, and which pass the filters.
    Index(IndexArgs),
    /// Show what a set of shards holds: schema, counts, a page of samples.
    Inspect(InspectArgs),
    /// Download the images of LAION-like metadata into shards. Run again to continue.
    Fetch(Box<FetchArgs>),
    /// Write captions of every image of a set of shards with a checkpoint, into new shards.
    Caption(CaptionShardsArgs),
    /// Rank the captions of every image by how well they fit, and keep the best, in new shards.
    Filter(FilterArgs),
}

/// `blip2 data synth`
#[derive(Debug, Args)]
pub struct SynthArgs {
    /// Where the corpus goes: a path or an object-store URL (s3://, gs://, az://).
    #[arg(long, value_name = "URI")]
    pub out: String,
    /// Training scenes, 1 to 10 million and more.
    #[arg(long, default_value_t = 20_000)]
    pub scenes: u64,
    /// Scenes of each test split (seen and unseen colour-shape pairs); 0 for none.
    #[arg(long, default_value_t = 500)]
    pub test_scenes: u64,
    /// Side of the square images in pixels.
    #[arg(long, default_value_t = 64)]
    pub image_size: u32,
    /// Seed; the same options and seed give the same bytes.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Fewest objects in a scene.
    #[arg(long, default_value_t = 1)]
    pub min_objects: u8,
    /// Most objects in a scene.
    #[arg(long, default_value_t = data_pipeline::synthetic::MAX_OBJECTS)]
    pub max_objects: u8,
    /// Leave out stripes, dots and checks.
    #[arg(long)]
    pub plain: bool,
    /// JPEG quality, 1 to 100.
    #[arg(long, default_value_t = 90)]
    pub jpeg_quality: u8,
    /// Rows per shard.
    #[arg(long, default_value_t = 10_000)]
    pub shard_rows: u32,
    /// Write evaluation sets, too, below `benchmarks/`: images, captions as LAVIS' lists, questions as VQAv2, of training
    /// scenes and of both test splits.
    #[arg(long)]
    pub benchmarks: bool,
    /// Scenes of each evaluation set of a test split.
    #[arg(long, default_value_t = 500, requires = "benchmarks")]
    pub benchmark_scenes: u64,
    /// Scenes of the set for fine-tuning, the first training scenes [default: 2000, or all where there are fewer].
    #[arg(long, requires = "benchmarks")]
    pub benchmark_train_scenes: Option<u64>,
    /// Threads that render and encode; 0 for one per core.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Replace another synthetic corpus at the same place.
    #[arg(long)]
    pub overwrite: bool,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `blip2 data inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A shard or a prefix that holds shards.
    pub uri: String,
    /// Write a page with samples and captions here.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Samples on the page.
    #[arg(long, default_value_t = 48)]
    pub samples: usize,
    /// Row groups whose rows are counted (footers are always counted whole); 0 for all.
    #[arg(long, default_value_t = 100)]
    pub row_groups: usize,
    /// Picks the samples.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `blip2 data index`
#[derive(Debug, Args)]
pub struct IndexArgs {
    /// The run's YAML file, or the name of a shipped one.
    pub run: String,
    /// Override one value, as for `blip2 launch`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Make catalogues anew that are there already. A run that has a checkpoint cannot go on with another catalogue.
    #[arg(long)]
    pub overwrite: bool,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}
