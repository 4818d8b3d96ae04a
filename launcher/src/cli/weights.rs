//! `blip2 weights …`.

use clap::{Args, Subcommand};

/// `blip2 weights …`
#[derive(Debug, Subcommand)]
pub enum WeightsCommand {
    /// List the tensors of a file or folder, and say what software has written them.
    Inspect(InspectWeightsArgs),
    /// Compare weights with what a run asks for; exits with 1 when they differ.
    Verify(VerifyWeightsArgs),
    /// Turn published weights into the files that a run names: image encoder, Q-Former, language model.
    Import(ImportArgs),
    /// Write what was trained as Hugging Face's or LAVIS' software reads it.
    Export(ExportArgs),
}

/// `blip2 weights inspect`
#[derive(Debug, Args)]
pub struct InspectWeightsArgs {
    /// A .safetensors or .pth file, or a folder of Hugging Face's; a path or an object store's URI.
    pub weights: String,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// The config whose model is meant.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// The run's YAML file, or the name of a preset such as vitg_opt2.7b.
    #[arg(long, value_name = "RUN")]
    pub config: String,
    /// Override one value: `--set model.image_encoder.image_size=364`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// `blip2 weights verify`
#[derive(Debug, Args)]
pub struct VerifyWeightsArgs {
    /// As for `inspect`.
    pub weights: String,
    /// The config.
    #[command(flatten)]
    pub model: ModelArgs,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `blip2 weights import`
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// As for `inspect`: BLIP-2 of Hugging Face or LAVIS, EVA-CLIP, CLIP, OPT, T5, or BERT, which a Q-Former starts from.
    pub weights: String,
    /// The config.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Where the files go; a path or an object store's URI.
    #[arg(long, value_name = "DIR")]
    pub output: String,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `blip2 weights export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A checkpoint, a run's output folder, or, with --config, a folder that `import` has written.
    pub weights: String,
    /// The config of imported weights; a checkpoint has its own.
    #[arg(long, value_name = "RUN")]
    pub config: Option<String>,
    /// Override one value of that config; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,
    /// Who is to read them.
    #[arg(long, default_value = "hugging_face", value_parser = ["hugging_face", "lavis"])]
    pub format: String,
    /// Where the files go; a path or an object store's URI.
    #[arg(long, value_name = "DIR")]
    pub output: String,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}
