//! Exit codes, as documented in docs/exit-codes.md.

use data_pipeline::DataError;

use crate::ranks::{Held, RankFailure};

/// Done.
pub const DONE: u8 = 0;
/// Something failed; the message says what.
pub const ERROR: u8 = 1;
/// The command line or the configuration is wrong.
pub const USAGE: u8 = 2;
/// Preempted: a checkpoint was committed.
pub const PREEMPTED: u8 = 75;
/// Another process holds the run.
pub const HELD: u8 = 76;
/// Not enough resources.
pub const RESOURCES: u8 = 77;
/// Ended by Ctrl-C; by SIGTERM where nothing would be continued.
pub const INTERRUPTED: u8 = 130;

/// A person ended the command.
#[derive(Debug, thiserror::Error)]
#[error("interrupted: {0}")]
pub struct Interrupted(pub &'static str);

/// The run was asked to leave, and what it had is in a checkpoint.
#[derive(Debug, thiserror::Error)]
#[error("preempted: {0}")]
pub struct Preempted(pub &'static str);

/// Arguments or settings that are right in themselves and that this command cannot use.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

/// Hosts, GPUs or other resources that are not there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Lacking(pub String);

/// A run that something else holds, such as a batch job.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Taken(pub String);

/// The exit code that belongs to an error.
pub fn code_of(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of_cause).unwrap_or(ERROR)
}

fn code_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if cause.is::<Interrupted>() {
        return Some(INTERRUPTED);
    }
    if cause.is::<Preempted>() {
        return Some(PREEMPTED);
    }
    if cause.is::<configs::ConfigError>() || cause.is::<Unusable>() {
        return Some(USAGE);
    }
    if cause.is::<Lacking>() {
        return Some(RESOURCES);
    }
    if cause.is::<Held>() || cause.is::<Taken>() {
        return Some(HELD);
    }
    if matches!(cause.downcast_ref(), Some(DataError::Setting(_) | DataError::BadUri { .. })) {
        return Some(USAGE);
    }
    // Codes that scripts act on are the ranks' own; any other failure is a failure.
    let code = cause.downcast_ref::<RankFailure>()?.code().and_then(|code| u8::try_from(code).ok())?;
    [USAGE, PREEMPTED, HELD, RESOURCES].contains(&code).then_some(code)
}
