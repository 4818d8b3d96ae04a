//! The arguments of `blip2 plan`.

use clap::Args;

/// `blip2 plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The run's YAML file, or the name of a preset such as vitg_opt2.7b.
    pub run: String,
    /// Override one value: `--set stages[0].steps=100` (also `stages.NAME.steps`); may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The GPU that every rank has, such as h100; a wrong name lists those that are known.
    #[arg(long, value_name = "NAME", conflicts_with = "calibrate")]
    pub gpu: Option<String>,
    /// Take a few steps of each stage on this machine, with random weights and inputs, and plan with their times: about 30 seconds.
    #[arg(long)]
    pub calibrate: bool,
    /// Ranks, instead of cluster.nodes times cluster.ranks_per_node.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ranks: Option<u32>,
    /// What an hour of one rank's GPU costs, or of its share of a machine, in any currency.
    #[arg(long, value_name = "PRICE")]
    pub price: Option<f64>,
    /// Kilobytes of a stored image on average; 31 where not given, as photos of 256 pixels have. Of generated scenes it is known.
    #[arg(long, value_name = "N")]
    pub image_kb: Option<f64>,
    /// Compare with what the run measured also where its output is in an object store; a local folder is always looked at.
    #[arg(long)]
    pub compare: bool,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}
