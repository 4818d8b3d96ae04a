//! The newest look at a run: taken when somebody asks, by one thread, whatever the number of those who ask.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::status::{Seen, Watcher};

/// A look this old is shown without another one.
const FRESH: Duration = Duration::from_secs(2);
/// Somebody who asks waits so long for a new look, and is given the one before then.
const WAIT: Duration = Duration::from_secs(5);
/// A store has so long to answer.
const LIMIT: Duration = Duration::from_secs(60);

/// What is known now.
#[derive(Clone, Default)]
pub struct Known {
    /// The last look that succeeded.
    pub seen: Option<Arc<Seen>>,
    /// Why the last look failed, if it did.
    pub error: Option<String>,
}

#[derive(Default)]
struct State {
    known: Known,
    /// When the last look ended.
    looked: Option<Instant>,
    is_wanted: bool,
    has_ended: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks when it is asked to. Ends with this value; a look that is on its way is not waited for.
pub struct Live {
    shared: Arc<Shared>,
}

impl Live {
    /// Of the run that `watcher` looks at.
    ///
    /// # Errors
    /// A system that gives no thread.
    pub fn start(watcher: Watcher) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the input/output of the dashboard")?;
        let its = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("dashboard-reader".into())
            .spawn(move || read(&its, watcher, &runtime))
            .context("cannot start the thread that reads the run for the dashboard")?;
        Ok(Self { shared })
    }

    /// What is known, after a new look where the last one is not fresh.
    pub fn known(&self) -> Known {
        let (asked, mut state) = (Instant::now(), self.shared.lock());
        let is_new = |state: &State| state.looked.is_some_and(|looked| looked + FRESH > asked);
        while !is_new(&state) {
            let left = WAIT.saturating_sub(asked.elapsed());
            if left.is_zero() {
                break;
            }
            state.is_wanted = true;
            self.shared.changed.notify_all();
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.known.clone()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.shared.lock().has_ended = true;
        self.shared.changed.notify_all();
    }
}

fn read(shared: &Shared, mut watcher: Watcher, runtime: &tokio::runtime::Runtime) {
    loop {
        let mut state = shared.lock();
        while !state.is_wanted && !state.has_ended {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.has_ended {
            return;
        }
        drop(state);
        let look = runtime.block_on(async { tokio::time::timeout(LIMIT, watcher.look()).await });
        let mut state = shared.lock();
        (state.looked, state.is_wanted) = (Some(Instant::now()), false);
        match look {
            Ok(Ok(seen)) => state.known = Known { seen: Some(Arc::new(seen)), error: None },
            Ok(Err(error)) => state.known.error = Some(error.to_string()),
            Err(_late) => {
                state.known.error =
                    Some(format!("the store did not answer within {} s; it is asked again", LIMIT.as_secs()));
            }
        }
        shared.changed.notify_all();
    }
}
