//! Exit codes, as documented in docs/exit-codes.md.

use data_pipeline::DataError;

/// Done.
pub const DONE: u8 = 0;
/// Something failed; the message says what.
pub const ERROR: u8 = 1;
/// The command line or the configuration is wrong.
pub const USAGE: u8 = 2;
/// Ended by Ctrl-C or SIGTERM.
pub const INTERRUPTED: u8 = 130;

/// A person ended the command.
#[derive(Debug, thiserror::Error)]
#[error("interrupted: {0}")]
pub struct Interrupted(pub &'static str);

/// The exit code that belongs to an error.
pub fn code_of(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<Interrupted>() {
            return INTERRUPTED;
        }
        if cause.is::<configs::ConfigError>() {
            return USAGE;
        }
        if matches!(cause.downcast_ref(), Some(DataError::Setting(_) | DataError::BadUri { .. })) {
            return USAGE;
        }
    }
    ERROR
}
