//! `blip2 data index`.

use clap::Args;

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
