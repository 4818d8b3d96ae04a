//! The frozen image encoder at work on the next step's images while this step is computed.
//!
//! It computes in no other order than it would otherwise, so no bit depends on it. Where there is a GPU, a thread of its own launches
//! what the encoder does: on the thread that trains a fifth of the time of a step of stage 1 went into that (docs/gpu.md). Both
//! threads launch into the same queue of the GPU.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use tch::{Device, Tensor};

use crate::TrainerError;
use crate::model::image_tower::{ImageTower, Passing, Share};

/// Puts images through a frozen tower, ahead of the step that needs them.
#[derive(Debug)]
pub struct Ahead<'a> {
    tower: &'a ImageTower,
    helper: Option<Helper>,
}

/// Images that [`Ahead`] has been given.
#[derive(Debug)]
pub enum Images {
    /// On their way through the tower.
    Passing(Passing),
    /// With the helping thread, which gives them back here.
    Away(Receiver<Passing>),
}

/// Images, how far they are to come, and where they are waited for.
type Job = (Passing, Share, Sender<Passing>);

#[derive(Debug)]
struct Helper {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// The thread ends early only by a panic, as when the GPU's memory does not suffice.
const FAILED: &str = "the thread of the image encoder has failed, for the reason that it gave";

impl<'a> Ahead<'a> {
    /// With the given tower on `device`; `twin` makes another one of the same weights.
    ///
    /// # Errors
    /// Those of `twin`.
    pub fn new(
        tower: &'a ImageTower,
        device: Device,
        twin: impl FnOnce() -> Result<ImageTower, TrainerError>,
    ) -> Result<Self, TrainerError> {
        let helper = match device {
            Device::Cuda(_) => Helper::start(twin()?),
            _ => None,
        };
        Ok(Self { tower, helper })
    }

    /// Takes images in.
    ///
    /// # Shapes
    /// `pixels`: as [`ImageTower::forward`] takes them.
    pub fn begin(&self, pixels: &Tensor) -> Images {
        Images::Passing(self.tower.begin(pixels))
    }

    /// Has images pass the tower until a share of its blocks is behind them. Where a thread helps, it may return before, unless
    /// this thread is to do it `here`, as where its time is measured.
    pub fn pass(&self, images: Images, share: Share, here: bool) -> Images {
        let mut passing = self.back(images);
        let jobs = self.helper.as_ref().and_then(|helper| helper.jobs.as_ref());
        let Some(jobs) = jobs.filter(|_| !here) else {
            self.tower.pass(&mut passing, share);
            return Images::Passing(passing);
        };
        let (give, take) = channel();
        jobs.send((passing, share, give)).map_or_else(|_| panic!("{FAILED}"), |()| Images::Away(take))
    }

    /// The output, once all blocks are behind the images.
    ///
    /// # Shapes
    /// Result: as [`ImageTower::forward`] gives it.
    pub fn end(&self, images: Images) -> Tensor {
        self.tower.end(self.back(images))
    }

    fn back(&self, images: Images) -> Passing {
        match images {
            Images::Passing(passing) => passing,
            Images::Away(from) => from.recv().unwrap_or_else(|_| panic!("{FAILED}")),
        }
    }
}

impl Helper {
    /// None where the system gives no thread: the one that trains does the work then.
    fn start(tower: ImageTower) -> Option<Self> {
        let (jobs, take) = channel::<Job>();
        let work = move || {
            for (mut images, share, give) in take {
                tower.pass(&mut images, share);
                // Whoever has stopped for another reason does not wait any more.
                let _ = give.send(images);
            }
        };
        let thread = Builder::new().name("image encoder".into()).spawn(work).ok()?;
        Some(Self { jobs: Some(jobs), thread: Some(thread) })
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic was shown when it happened.
            let _ = thread.join();
        }
    }
}
