//! For tests: a store that is cut off, forgets answers, is down or full, by a plan in `BLIP2_TEST_STORE`.
//!
//! ```text
//! cut:N:before|after|half   the N-th change of this process kills it (SIGKILL): before it, when it is done but not yet
//!                           answered, or with half of its bytes written (where files are; elsewhere as `before`)
//! count:FILE                a line per change is added to FILE: its kind and the object's name
//! lost:SEED                 a third of the changes are done and answered with an error
//! twice:SEED                a third of the changes are done twice; the second answer counts
//! shuffle:SEED              parts take up to 50 ms longer, so that their answers come in another order
//! down:MS_FROM:MS_TO        every call fails in this time, counted from when this process opened its first store
//! full:MS_FROM:MS_TO        writes find no space left in this time
//! ```
//!
//! Changes are counted over all stores of the process: puts, puts if absent, uploads begun, parts, uploads completed
//! and aborted, deletions, copies, removed folders. Bytes appended to local metrics files are none.

mod plan;
mod store;

use std::io;
use std::sync::Arc;

use data_pipeline::store::Location;
use object_store::Result;
use object_store::multipart::MultipartStore;
use object_store::path::Path;

use crate::error::TrainerError;
use plan::{Fate, Plan};
use store::{DisturbedParts, DisturbedStore};

/// The process's plan; clones share its counter.
#[derive(Clone, Debug)]
pub(super) struct Disturbance(Arc<Plan>);

impl Disturbance {
    /// The plan of `BLIP2_TEST_STORE`; `None` where that is not set.
    pub(super) fn from_environment() -> std::result::Result<Option<Self>, TrainerError> {
        Ok(Plan::of_process()?.map(Self))
    }

    /// One of its own, for tests within a process.
    #[cfg(test)]
    pub(super) fn new(text: &str) -> Self {
        Self(Arc::new(Plan::parse(text).unwrap_or_else(|error| panic!("{error}"))))
    }

    /// The place in a store that is disturbed.
    pub(super) fn around(&self, mut place: Location) -> Location {
        let local = super::local_path(&place).is_some();
        let inner = place.store.clone();
        place.store = Arc::new(DisturbedStore { disturbance: self.clone(), inner, local });
        place.parts = place.parts.map(|inner| self.wrap(inner, false));
        place
    }

    /// Parts of local files that are disturbed.
    pub(super) fn around_parts(&self, inner: Arc<dyn MultipartStore>) -> Arc<dyn MultipartStore> {
        self.wrap(inner, true)
    }

    fn wrap(&self, inner: Arc<dyn MultipartStore>, local: bool) -> Arc<dyn MultipartStore> {
        Arc::new(DisturbedParts { disturbance: self.clone(), inner, local })
    }

    /// A change outside of any store.
    pub(super) fn step(&self, kind: &str, name: &str, change: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match self.0.next(kind, name, false) {
            Fate::Done => change(),
            Fate::KillBefore | Fate::KillHalf => plan::kill(),
            Fate::KillAfter => {
                let _killed_anyway = change();
                plan::kill()
            }
            Fate::Lost => change().and(Err(io::Error::other(plan::LOST))),
            Fate::Twice => change().and(change()),
            Fate::Late(time) => {
                std::thread::sleep(time);
                change()
            }
            Fate::Fails(error) => Err(error),
        }
    }

    /// A change of a store. `half` does half of it, where that is possible.
    async fn change<T, F: Future<Output = Result<T>>>(
        &self,
        kind: &str,
        path: &Path,
        change: impl Fn() -> F,
        half: impl AsyncFnOnce(),
    ) -> Result<T> {
        match self.0.next(kind, path.as_ref(), kind == "part") {
            Fate::Done => change().await,
            Fate::KillBefore => plan::kill(),
            Fate::KillHalf => {
                half().await;
                plan::kill()
            }
            Fate::KillAfter => {
                let _killed_anyway = change().await;
                plan::kill()
            }
            Fate::Lost => {
                change().await?;
                Err(failed(plan::LOST))
            }
            Fate::Twice => {
                change().await?;
                change().await
            }
            Fate::Late(time) => {
                tokio::time::sleep(time).await;
                change().await
            }
            Fate::Fails(error) => Err(failed(error)),
        }
    }

    /// A call that changes nothing.
    fn look(&self) -> Result<()> {
        self.0.look().map_err(failed)
    }
}

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
    object_store::Error::Generic { store: "disturbed", source: source.into() }
}
