//! Batches in step order, prefetched in the background under a memory bound.
//!
//! Three kinds of work overlap: a small async runtime fetches windows of row groups in the order in which the steps
//! will need them; a pool of decode threads turns rows into pixels straight into the slots of a batch; the training
//! thread takes finished batches. Bytes are charged before they are requested, so nothing grows when a consumer is slow.

mod batch;
mod sample;
mod stream;
mod windows;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rayon::prelude::*;

pub use batch::{Batch, Ledger, Pixels, Skipped, SourceLedger};
pub use stream::LoaderSource;

use crate::augment::TrainTransform;
use crate::caption::Cleaner;
use crate::error::{DataError, Result};
use crate::image::DecodeLimits;
use crate::lost::LostRowGroups;
use crate::order::Layout;
use batch::PixelPool;
use sample::SampleLoader;
use stream::Stream;
use windows::{Memory, WindowPlan, Windows};

/// Batches that are being decoded at the same time: one fills while the last samples of another finish.
const BATCHES_IN_WORK: usize = 2;
/// Finished batches that may wait for the consumer.
const BATCHES_READY: usize = 2;

/// What a loader delivers and what it may use.
#[derive(Clone, Debug)]
pub struct LoaderSettings {
    /// Lanes, windows, global batch and seed.
    pub layout: Layout,
    /// Slices of a global batch; divides the lanes.
    pub slices: u64,
    /// Random crop, flip, resize and normalisation.
    pub transform: TrainTransform,
    /// Caption cleaning.
    pub captions: Cleaner,
    /// Whether a question about each image is wanted, and its answer in place of a caption, of sources that have both.
    pub asks: bool,
    /// Limits of an image before it is decoded.
    pub limits: DecodeLimits,
    /// Decode threads.
    pub decode_threads: usize,
    /// Bytes for row groups, batches and reads in flight.
    pub memory_bytes: u64,
    /// Share of samples that may be unusable before the run stops.
    pub max_bad_fraction: f64,
    /// Where the list of unusable samples is written, for the message that stops the run.
    pub quarantine: Option<String>,
}

impl LoaderSettings {
    /// Samples of one slice.
    pub fn slice_batch(&self) -> u64 {
        self.layout.global_batch / self.slices
    }

    fn check(&self) -> Result<()> {
        let Layout { lanes, global_batch, .. } = self.layout;
        let slices = self.slices;
        if slices == 0 || !lanes.is_multiple_of(slices) || !global_batch.is_multiple_of(slices) {
            return Err(DataError::Setting(format!(
                "slices = {slices}, data.lanes = {lanes}, global_batch = {global_batch}: a slice owns whole lanes. \
                 Choose data.lanes as a multiple of slices and global_batch as a multiple of data.lanes"
            )));
        }
        if self.decode_threads == 0 {
            return Err(DataError::Setting("data.loader.decode_threads = 0: at least one is needed".into()));
        }
        Ok(())
    }
}

/// One slice of one step, ready to be decoded.
struct Work {
    step: u64,
    slice: u64,
    draws: Vec<windows::WindowDraw>,
    out: SyncSender<Result<Batch>>,
}

/// Hands out work in step order; shared by the threads that fill batches.
struct Queue {
    step: u64,
    slice: u64,
    slices: Range<u64>,
    lanes_per_slice: u64,
    windows: Windows,
    batches: SyncSender<Receiver<Result<Batch>>>,
}

impl Queue {
    /// The next slice's work; `None` when the loader is being dropped.
    fn next(&mut self) -> Option<Work> {
        let lanes = self.slice * self.lanes_per_slice..(self.slice + 1) * self.lanes_per_slice;
        let (out, finished) = sync_channel(1);
        let draws = match self.windows.draws(self.step, lanes) {
            Ok(draws) => draws?,
            Err(error) => {
                // The consumer reads the error in its turn; nothing comes after it.
                let _gone = out.send(Err(error));
                let _gone = self.batches.send(finished);
                return None;
            }
        };
        self.batches.send(finished).ok()?;
        let work = Work { step: self.step, slice: self.slice, draws, out };
        self.slice += 1;
        if self.slice == self.slices.end {
            (self.step, self.slice) = (self.step + 1, self.slices.start);
        }
        Some(work)
    }
}

/// Delivers the batches of a range of slices, step after step, without end.
pub struct Loader {
    batches: Option<Receiver<Receiver<Result<Batch>>>>,
    workers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    plan: Arc<WindowPlan>,
    stream: Arc<Stream>,
    ledger: Ledger,
    max_bad_fraction: f64,
    quarantine: Option<String>,
    /// Nanoseconds that decode threads have worked.
    decoding: Arc<AtomicU64>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Loader {
    /// Starts delivering at `first_step` the slices `slices` of every step. Returns before the first read. Row groups that
    /// cannot be read are given up and noted in `lost`, and so are those that were given up before.
    ///
    /// # Errors
    /// [`DataError::Setting`] when the settings do not divide or `memory_bytes` cannot hold the windows of the lanes.
    pub fn start(
        sources: Vec<LoaderSource>,
        settings: LoaderSettings,
        lost: Arc<LostRowGroups>,
        first_step: u64,
        slices: Range<u64>,
    ) -> Result<Self> {
        settings.check()?;
        let stream = Arc::new(Stream::new(settings.layout, sources)?);
        let lanes_per_slice = settings.layout.lanes / settings.slices;
        let lanes = slices.start * lanes_per_slice..slices.end * lanes_per_slice;
        let batch_bytes = settings.slice_batch() * settings.transform.out_len() as u64 * 4;
        let batches = batch_bytes * (BATCHES_IN_WORK + BATCHES_READY + 1) as u64;
        let memory = Memory { allowed: settings.memory_bytes, batches };
        let plan = Arc::new(WindowPlan::new(stream.clone(), lost, lanes, lanes_per_slice, memory)?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("blip2-io")
            .enable_all()
            .build()
            .map_err(|e| DataError::Setting(format!("cannot start the reading thread: {e}")))?;
        let stop = Arc::new(AtomicBool::new(false));
        let windows = Windows::start(&runtime, plan.clone(), first_step);
        let (to_consumer, batches) = sync_channel(BATCHES_READY);
        let queue =
            Queue { step: first_step, slice: slices.start, slices, lanes_per_slice, windows, batches: to_consumer };
        let (max_bad_fraction, quarantine) = (settings.max_bad_fraction, settings.quarantine.clone());
        let decoding = Arc::new(AtomicU64::new(0));
        let loader = SampleLoader { settings, stream: stream.clone(), decoding: decoding.clone() };
        let workers = spawn_workers(Arc::new(Mutex::new(queue)), loader, &stop)?;
        Ok(Self {
            batches: Some(batches),
            workers,
            stop,
            plan,
            ledger: Ledger { sources: vec![SourceLedger::default(); stream.sources.len()], examples: Vec::new() },
            stream,
            max_bad_fraction,
            quarantine,
            decoding,
            runtime: Some(runtime),
        })
    }

    /// The next batch; waits for it when the data is slower than the consumer.
    ///
    /// # Errors
    /// What stopped the data: a store or shard error, or too many bad samples. After an error every call fails.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let batches = self.batches.as_ref().ok_or(DataError::Stopped)?;
        let batch = take(batches).and_then(|batch| {
            self.ledger.add(&batch);
            self.ledger.check(self.max_bad_fraction, self.quarantine.as_deref())?;
            Ok(batch)
        });
        if batch.is_err() {
            self.batches = None;
        }
        batch
    }

    /// Tells other threads what the loader waits for, for as long as it lives.
    pub fn awaited(&self) -> Awaited {
        Awaited(Arc::downgrade(&self.plan))
    }

    /// How long decode threads have worked since this was asked last, added up over them; they work ahead of the batches that
    /// were taken.
    pub fn take_decode_time(&self) -> Duration {
        Duration::from_nanos(self.decoding.swap(0, Ordering::Relaxed))
    }

    /// What has been delivered and skipped since the start.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Samples that all ranks together draw from each source before a step, and how many different rows these are.
    pub fn drawn_before(&self, step: u64) -> Vec<(u64, u64)> {
        (0..self.stream.sources.len()).map(|source| self.stream.drawn(source, step)).collect()
    }
}

/// What a loader waits for.
#[derive(Clone, Debug)]
pub struct Awaited(Weak<WindowPlan>);

impl Awaited {
    /// The shards whose rows the next batch lacks; none while it lacks none, or when the loader is gone.
    pub fn shards(&self) -> Option<String> {
        self.0.upgrade()?.awaited()
    }
}

fn take(batches: &Receiver<Receiver<Result<Batch>>>) -> Result<Batch> {
    let finished = batches.recv().map_err(|_| DataError::ThreadLost)?;
    finished.recv().map_err(|_| DataError::ThreadLost)?
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.batches = None;
        self.plan.close();
        for worker in self.workers.drain(..) {
            // A worker that panicked has said so on standard error; dropping must not panic in turn.
            let _panicked = worker.join();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn spawn_workers(
    queue: Arc<Mutex<Queue>>,
    loader: SampleLoader,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<JoinHandle<()>>> {
    let failed = |e: &dyn std::fmt::Display| DataError::Setting(format!("cannot start decode threads: {e}"));
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(loader.settings.decode_threads)
        .thread_name(|i| format!("blip2-decode-{i}"))
        .build()
        .map_err(|e| failed(&e))?;
    let pool = Arc::new(pool);
    let settings = &loader.settings;
    let pixels = PixelPool::new(settings.slice_batch() as usize * settings.transform.out_len());
    let loader = Arc::new(loader);
    let mut workers = Vec::new();
    for number in 0..BATCHES_IN_WORK {
        let (queue, pool, loader, pixels, stop) =
            (queue.clone(), pool.clone(), loader.clone(), pixels.clone(), stop.clone());
        let worker = std::thread::Builder::new().name(format!("blip2-batch-{number}")).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let work = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
                let Some(work) = work else { return };
                let batch = pool.install(|| fill(&loader, &work, &pixels));
                if work.out.send(batch).is_err() {
                    return;
                }
            }
        });
        workers.push(worker.map_err(|e| failed(&e))?);
    }
    Ok(workers)
}

/// Decodes every sample of a slice into its slot.
fn fill(loader: &SampleLoader, work: &Work, pool: &PixelPool) -> Result<Batch> {
    let mut images = pool.take();
    let floats = loader.settings.transform.out_len();
    let load = |(slot, draw): (&mut [f32], &windows::WindowDraw)| {
        let began = Instant::now();
        let sample = loader.load(draw, slot);
        loader.decoding.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        sample
    };
    let loaded: Vec<Result<sample::Sample>> = images.par_chunks_mut(floats).zip(&work.draws).map(load).collect();
    let mut batch = Batch::empty(work.step, work.slice, images);
    for sample in loaded {
        batch.push(sample?);
    }
    Ok(batch)
}
