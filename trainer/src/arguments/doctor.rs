//! The arguments of `blip2-rank doctor`, which `blip2 doctor` starts.

use super::ConfigArguments;

/// `blip2-rank doctor`
#[derive(clap::Args)]
pub struct DoctorArguments {
    /// What is looked at.
    #[arg(value_enum)]
    pub part: DoctorPart,
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Seconds in which long looks are to end; a rank that has not ended a little later is ended.
    #[arg(long, default_value_t = 60)]
    pub within: u64,
    /// Where the launcher listens for ranks, as ADDRESS:PORT.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub meet: Option<String>,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DoctorPart {
    /// Memory and disk.
    Space,
    /// Files of weights.
    Weights,
    /// Tokenizers.
    Tokenizers,
    /// A step of each stage.
    Step,
    /// A checkpoint in a scratch folder.
    Checkpoint,
    /// All ranks together.
    Ranks,
}
