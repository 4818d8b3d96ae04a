//! Batches made on another thread, a few ahead of need.

use std::sync::mpsc::{Receiver, sync_channel};

use data_pipeline::DataError;

use crate::TrainerError;

/// Batches that are ready or in the making beyond the one in use.
const AHEAD: usize = 4;

/// The batches of all steps, in order.
pub(super) struct Batches<T>(Receiver<Result<T, DataError>>);

impl<T> Batches<T> {
    /// The batch of the next step.
    ///
    /// # Errors
    /// Those of making it; [`DataError::ThreadLost`] when there are no more.
    pub(super) fn next(&self) -> Result<T, TrainerError> {
        Ok(self.0.recv().unwrap_or(Err(DataError::ThreadLost))?)
    }
}

/// Runs `consume` while another thread makes the batches of `steps` steps.
///
/// # Errors
/// Those of `consume`.
pub(super) fn with_batches<T: Send, R>(
    steps: u64,
    make: impl Fn(u64) -> Result<T, DataError> + Send,
    consume: impl FnOnce(&Batches<T>) -> Result<R, TrainerError>,
) -> Result<R, TrainerError> {
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(AHEAD);
        scope.spawn(move || {
            for step in 0..steps {
                // Nobody receives any more when the training failed.
                if sender.send(make(step)).is_err() {
                    return;
                }
            }
        });
        // Dropped at the end of this closure, before the scope waits for the thread.
        let batches = Batches(receiver);
        consume(&batches)
    })
}
