//! Ctrl-C and SIGTERM, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Counts Ctrl-C and SIGTERM from its making on; they do not end the program any more.
#[derive(Clone, Debug)]
pub struct Interrupts(Arc<AtomicUsize>);

impl Interrupts {
    /// Starts counting.
    ///
    /// # Errors
    /// When the system lets no thread start.
    pub fn watch() -> anyhow::Result<Self> {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        drop(guard);
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                runtime.block_on(async {
                    loop {
                        tokio::select! {
                            _ = interrupt.recv() => {}
                            _ = terminate.recv() => {}
                        }
                        counted.fetch_add(1, Ordering::SeqCst);
                    }
                });
            })
            .context("cannot start the thread that waits for signals")?;
        Ok(Self(count))
    }

    /// How often a person asked for an end so far.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}
