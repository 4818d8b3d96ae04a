//! What becomes of an error: an exit code, and whether the launcher should try again.

use data_pipeline::error::DataError;
use trainer::TrainerError;

pub use crate::signals::PREEMPTED;

/// The config is wrong.
const USAGE: u8 = 2;
/// Another process holds the run.
const HELD: u8 = 76;

/// The exit code that belongs to an error; docs/exit-codes.md has them all.
pub fn code_of(error: &anyhow::Error) -> u8 {
    error.chain().find_map(of_cause).unwrap_or(crate::ERROR)
}

fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if cause.is::<configs::ConfigError>() {
        return Some(USAGE);
    }
    match cause.downcast_ref()? {
        TrainerError::Preempted { .. } => Some(PREEMPTED),
        TrainerError::Fenced { .. } | TrainerError::Held { .. } => Some(HELD),
        TrainerError::Store(DataError::Setting(_) | DataError::BadUri { .. }) => Some(USAGE),
        _ => None,
    }
}

/// Whether the rank left in order.
pub fn is_preempted(error: &anyhow::Error) -> bool {
    code_of(error) == PREEMPTED
}

/// Whether another try may go better: not where the config or the weights must be changed first.
pub fn may_go_better(error: &anyhow::Error) -> bool {
    let is_final = matches!(
        error.downcast_ref(),
        Some(
            TrainerError::Unsupported { .. }
                | TrainerError::NotFinite { .. }
                | TrainerError::MissingWeight { .. }
                | TrainerError::WeightShape { .. }
                | TrainerError::NoUsableCheckpoint { .. }
                | TrainerError::NoPutIfAbsent { .. }
        )
    );
    !is_final && code_of(error) == crate::ERROR
}

/// The chain of causes in one line.
pub fn text(error: &anyhow::Error) -> String {
    format!("{error:#}")
}
