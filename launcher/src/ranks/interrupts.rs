//! Requests to end: Ctrl-C, and signals that ask a run to leave with a checkpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use configs::PreemptSignal;
use tokio::signal::unix::{SignalKind, signal};

/// Counts signals from its making on; they do not end the program any more.
#[derive(Clone, Debug)]
pub struct Interrupts {
    ends: Arc<AtomicUsize>,
    leaves: Arc<AtomicUsize>,
}

impl Interrupts {
    /// Counts Ctrl-C and SIGTERM.
    ///
    /// # Errors
    /// When the system lets no thread start.
    pub fn watch() -> anyhow::Result<Self> {
        Self::watch_leaving(&[])
    }

    /// Counts Ctrl-C and SIGTERM, and apart from them the signals at which a run leaves with a checkpoint.
    ///
    /// # Errors
    /// When the system lets no thread start.
    pub fn watch_leaving(leave_at: &[PreemptSignal]) -> anyhow::Result<Self> {
        let counts = Self { ends: Arc::default(), leaves: Arc::default() };
        let mut kinds = vec![(SignalKind::interrupt(), Arc::clone(&counts.ends))];
        if !leave_at.contains(&PreemptSignal::Term) {
            kinds.push((SignalKind::terminate(), Arc::clone(&counts.ends)));
        }
        for signal in leave_at {
            let kind = match signal {
                PreemptSignal::Usr1 => SignalKind::user_defined1(),
                PreemptSignal::Usr2 => SignalKind::user_defined2(),
                PreemptSignal::Term => SignalKind::terminate(),
            };
            kinds.push((kind, Arc::clone(&counts.leaves)));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let mut waits = Vec::new();
        for (kind, counted) in kinds {
            let mut stream = signal(kind)?;
            waits.push(runtime.spawn(async move {
                while stream.recv().await.is_some() {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }));
        }
        drop(guard);
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                runtime.block_on(async {
                    for wait in waits {
                        // The streams never end.
                        let _ended = wait.await;
                    }
                });
            })
            .context("cannot start the thread that waits for signals")?;
        Ok(counts)
    }

    /// How often a person asked for an end so far.
    pub fn count(&self) -> usize {
        self.ends.load(Ordering::SeqCst)
    }

    /// How often the run was asked to leave so far.
    pub fn leaves(&self) -> usize {
        self.leaves.load(Ordering::SeqCst)
    }
}
