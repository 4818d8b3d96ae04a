//! Reads windows of row groups in the order in which the steps need them, under a byte budget.
//!
//! Bytes are charged strictly in need order, so what is held is always a prefix of what is needed. Only when a batch
//! waits for a window that the budget keeps out (a step that spans several windows of a lane holds them together) is
//! that window let in over the budget; room for one such window per lane of a slice is set aside.
//!
//! A row group that cannot be read is lost to its window, unless the window has no other: then the reading stops.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use futures::{FutureExt, StreamExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::stream::{Stream, StreamDraw};
use crate::error::{DataError, Result};
use crate::lost::{LostRowGroup, LostRowGroups, reason};
use crate::order::{Draw, WindowId};
use crate::rows::Rows;

/// Row groups requested at the same time. On slow stores depth hides latency; on a local disk it costs nothing.
const READS_IN_FLIGHT: usize = 8;
/// Bytes that are read ahead of the windows in use at least, when the memory allows: what 10 Gbit/s bring in a tenth of a
/// second. More would hide nothing, and is read in vain when a run stops.
const READ_AHEAD: u64 = 128 << 20;
/// The budget is counted in units of this many bytes: a semaphore's count is limited to 32 bits on some targets.
const UNIT: u64 = 1024;

/// The rows of one window, charged to the budget until dropped.
pub(super) struct Window {
    rows: HashMap<usize, Rows>,
    lost: BTreeMap<usize, String>,
    _charge: Option<OwnedSemaphorePermit>,
}

impl Window {
    /// The rows of a row group of the catalogue; the reason when it is lost.
    pub(super) fn rows(&self, row_group: usize) -> std::result::Result<&Rows, &str> {
        self.rows.get(&row_group).ok_or_else(|| self.lost.get(&row_group).map_or("row_group_not_read", String::as_str))
    }
}

/// A draw with the window that holds its row.
pub(super) struct WindowDraw {
    pub(super) window: Arc<Window>,
    pub(super) source: usize,
    pub(super) draw: Draw,
}

type Key = (usize, WindowId);

#[derive(Default)]
struct Arrived {
    /// Windows let in: `None` while they are being read.
    windows: BTreeMap<Key, Option<Arc<Window>>>,
    /// Row groups that are being read, with their source.
    reading: BTreeSet<(usize, usize)>,
    /// The window that a batch waits for.
    awaited: Option<Key>,
    failed: Option<DataError>,
    closed: bool,
}

impl Arrived {
    /// Whether a batch waits for a window that has not even been let in.
    fn starved(&self) -> bool {
        self.awaited.as_ref().is_some_and(|key| !self.windows.contains_key(key))
    }
}

/// What is read in which order, and what has arrived.
pub(super) struct WindowPlan {
    stream: Arc<Stream>,
    lost_before: Arc<LostRowGroups>,
    lanes: Range<u64>,
    budget: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    arrived: Mutex<Arrived>,
    changed: Condvar,
    starving: Notify,
}

/// What a loader may use, and what it uses for batches, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    pub(super) allowed: u64,
    pub(super) batches: u64,
}

impl WindowPlan {
    /// Checks that the memory holds the batches, one window of every lane and source, and the reads in flight.
    pub(super) fn new(
        stream: Arc<Stream>,
        lost_before: Arc<LostRowGroups>,
        lanes: Range<u64>,
        lanes_per_slice: u64,
        memory: Memory,
    ) -> Result<Self> {
        let largest = |source: usize| {
            stream.sources[source].source.catalog.row_groups.iter().map(|group| group.bytes).max().unwrap_or(0)
        };
        let window = |source: usize| {
            let ordered = &stream.sources[source];
            let groups = (ordered.source.catalog.row_groups.len() as u64).div_ceil(stream.layout.lanes) + 1;
            largest(source).div_ceil(UNIT) * UNIT * ordered.order.window_row_groups().min(groups)
        };
        let sources = 0..stream.sources.len();
        let reading = sources.clone().map(largest).max().unwrap_or(0) * READS_IN_FLIGHT as u64;
        let windows: u64 = sources.clone().map(window).sum();
        let footers: u64 = stream.sources.iter().map(|ordered| ordered.source.catalog.footer_memory()).sum();
        let reserved = memory.batches + reading + windows * lanes_per_slice + footers;
        let in_use = windows * (lanes.end - lanes.start);
        let needed = reserved + in_use;
        if needed > memory.allowed {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            return Err(DataError::Setting(format!(
                "data.loader.memory_mb = {}: this rank's {} lanes x {} sources x {} row groups of up to {} KiB, the reads \
                 in flight and the batches need {} MiB. Raise memory_mb, or lower data.shuffle_window_row_groups or \
                 data.lanes, or use more ranks",
                mib(memory.allowed),
                lanes.end - lanes.start,
                sources.len(),
                stream.layout.window_row_groups,
                sources.map(largest).max().unwrap_or(0).div_ceil(1024),
                mib(needed)
            )));
        }
        let room = (memory.allowed - reserved).min(in_use + in_use.max(READ_AHEAD));
        let units = (room / UNIT).min(Semaphore::MAX_PERMITS as u64 / 2).min(u64::from(u32::MAX));
        let (budget, reads) = (Arc::new(Semaphore::new(units as usize)), Arc::new(Semaphore::new(READS_IN_FLIGHT)));
        let (arrived, changed, starving) = (Mutex::default(), Condvar::new(), Notify::new());
        Ok(Self { stream, lost_before, lanes, budget, reads, arrived, changed, starving })
    }

    fn arrived(&self) -> MutexGuard<'_, Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every wait; called when the loader is dropped.
    pub(super) fn close(&self) {
        self.arrived().closed = true;
        self.budget.close();
        self.reads.close();
        self.changed.notify_all();
    }

    /// The shards being read for the window that a batch waits for; none while no batch waits.
    pub(super) fn awaited(&self) -> Option<String> {
        let arrived = self.arrived();
        let (source, window) = arrived.awaited.as_ref()?;
        let ordered = &self.stream.sources[*source];
        let groups = ordered.order.window_groups(window);
        let catalog = &ordered.source.catalog;
        let mut shards: Vec<&str> = Vec::new();
        for group in groups.iter().filter(|group| arrived.reading.contains(&(*source, **group))) {
            let shard = catalog.row_groups[*group].shard as usize;
            let path = catalog.shards[shard].path.as_str();
            let name = if path.is_empty() { catalog.location.uri() } else { path };
            if !shards.contains(&name) {
                shards.push(name);
            }
        }
        let of = &ordered.source.name;
        Some(if shards.is_empty() { format!("a shard of {of}") } else { format!("{} of {of}", shards.join(", ")) })
    }

    fn fail(&self, error: DataError) {
        self.arrived().failed.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Bytes charged for a window: whole units, never zero.
    fn units(&self, source: usize, groups: &[usize]) -> u32 {
        let all = &self.stream.sources[source].source.catalog.row_groups;
        let bytes: u64 = groups.iter().map(|g| all[*g].bytes.div_ceil(UNIT) * UNIT).sum();
        (bytes / UNIT).max(1) as u32
    }

    /// Walks over all windows in need order, for ever, charging and then reading each in the background.
    async fn run(self: Arc<Self>, first_step: u64) {
        let stream = &self.stream;
        let mut next: BinaryHeap<Reverse<(u64, u64, usize, u64)>> = BinaryHeap::new();
        for lane in self.lanes.clone() {
            for source in 0..stream.sources.len() {
                let (n, m) = stream.first_draw(lane, source, first_step);
                next.push(Reverse((m, lane, source, n)));
            }
        }
        while let Some(Reverse((m, lane, source, n))) = next.pop() {
            let order = &stream.sources[source].order;
            let draw = order.draw(lane, n);
            let groups = order.window_groups(&draw.window);
            let Some(charge) = self.admit(self.units(source, &groups)).await else { return };
            self.arrived().windows.insert((source, draw.window.clone()), None);
            self.changed.notify_all();
            let behind = n - draw.offset + order.window_rows(&draw.window);
            next.push(Reverse((stream.position(lane, source, behind), lane, source, behind)));
            let wanted = Wanted { source, window: draw.window, groups, step: m / stream.rows_per_step() };
            tokio::spawn(self.clone().fetch_or_fail(wanted, charge));
        }
    }

    async fn fetch_or_fail(self: Arc<Self>, wanted: Wanted, charge: Option<OwnedSemaphorePermit>) {
        // A task that panics ends without a word; the batch that waits for its window must not wait for ever.
        if AssertUnwindSafe(self.fetch(wanted, charge)).catch_unwind().await.is_err() {
            self.fail(DataError::ThreadLost);
        }
    }

    /// Waits until the budget has room, or until a batch starves. `None` when the loader is being dropped.
    async fn admit(&self, units: u32) -> Option<Option<OwnedSemaphorePermit>> {
        let mut room = std::pin::pin!(self.budget.clone().acquire_many_owned(units));
        loop {
            tokio::select! {
                biased;
                charge = &mut room => return charge.ok().map(Some),
                () = self.starving.notified() => {
                    if self.arrived().starved() {
                        return Some(None);
                    }
                }
            }
        }
    }

    async fn fetch(&self, wanted: Wanted, charge: Option<OwnedSemaphorePermit>) {
        let reads = futures::stream::iter(wanted.groups.iter().copied()).map(|group| self.fetch_group(&wanted, group));
        let found: Vec<(usize, Fetched)> = reads.buffer_unordered(READS_IN_FLIGHT).collect().await;
        match self.settle(&wanted, found).await {
            Ok(Some((rows, lost))) => {
                let window = Window { rows, lost, _charge: charge };
                self.arrived().windows.insert((wanted.source, wanted.window), Some(Arc::new(window)));
                self.changed.notify_all();
            }
            Ok(None) => (),
            Err(error) => self.fail(error),
        }
    }

    async fn fetch_group(&self, wanted: &Wanted, group: usize) -> (usize, Fetched) {
        let source = &self.stream.sources[wanted.source].source;
        if let Some(found) = self.lost_before.find(&source.name, &wanted.window, group) {
            return (group, Fetched::LostBefore(found.reason));
        }
        let Ok(_turn) = self.reads.acquire().await else { return (group, Fetched::Closed) };
        self.arrived().reading.insert((wanted.source, group));
        let read = source.catalog.read(group).await;
        self.arrived().reading.remove(&(wanted.source, group));
        (group, read.map_or_else(Fetched::Failed, |rows| Fetched::Rows(Box::new(rows))))
    }

    /// Gives up the row groups that failed, which is recorded first. `None` when the loader is being dropped.
    ///
    /// # Errors
    /// The first failure, when no row group of the window could be read, or the failure is not one of a row group.
    async fn settle(&self, wanted: &Wanted, found: Vec<(usize, Fetched)>) -> Result<Option<Settled>> {
        let (mut rows, mut lost, mut failed) = (HashMap::new(), BTreeMap::new(), BTreeMap::new());
        for (group, fetched) in found {
            match fetched {
                Fetched::Rows(read) => drop(rows.insert(group, *read)),
                Fetched::LostBefore(reason) => drop(lost.insert(group, reason)),
                Fetched::Failed(error) => drop(failed.insert(group, error)),
                Fetched::Closed => return Ok(None),
            }
        }
        for (row_group, error) in failed {
            let Some(reason) = reason(&error).filter(|_| !rows.is_empty()) else { return Err(error) };
            let source = self.stream.sources[wanted.source].source.name.clone();
            let (window, step) = (wanted.window.clone(), wanted.step);
            let record =
                LostRowGroup { source, window, row_group, reason: reason.into(), error: error.to_string(), step };
            self.lost_before.record(record).await?;
            lost.insert(row_group, reason.to_owned());
        }
        Ok(Some((rows, lost)))
    }

    /// Waits for a window. `None` when the loader is being dropped.
    fn wait(&self, key: &Key) -> Result<Option<Arc<Window>>> {
        let mut arrived = self.arrived();
        arrived.awaited = Some(key.clone());
        loop {
            if arrived.closed {
                return Ok(None);
            }
            if let Some(Some(window)) = arrived.windows.get(key) {
                let window = window.clone();
                arrived.awaited = None;
                return Ok(Some(window));
            }
            if let Some(error) = arrived.failed.take() {
                arrived.closed = true;
                return Err(error);
            }
            if arrived.starved() {
                self.starving.notify_one();
            }
            arrived = self.changed.wait(arrived).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A window that is to be read.
struct Wanted {
    source: usize,
    window: WindowId,
    groups: Vec<usize>,
    step: u64,
}

/// Rows by row group, and reasons of row groups that are lost.
type Settled = (HashMap<usize, Rows>, BTreeMap<usize, String>);

/// What became of a row group.
enum Fetched {
    Rows(Box<Rows>),
    LostBefore(String),
    Failed(DataError),
    Closed,
}

/// The windows that the lanes of a rank stand in.
pub(super) struct Windows {
    plan: Arc<WindowPlan>,
    current: HashMap<(usize, u64), (WindowId, Arc<Window>)>,
}

impl Windows {
    /// Starts reading at `first_step`.
    pub(super) fn start(runtime: &tokio::runtime::Runtime, plan: Arc<WindowPlan>, first_step: u64) -> Self {
        runtime.spawn(plan.clone().run(first_step));
        Self { plan, current: HashMap::new() }
    }

    /// The draws of a step on some lanes, with their windows. `None` when the loader is being dropped.
    ///
    /// # Errors
    /// What stopped the reading.
    pub(super) fn draws(&mut self, step: u64, lanes: Range<u64>) -> Result<Option<Vec<WindowDraw>>> {
        let mut draws = Vec::new();
        for StreamDraw { source, draw } in self.plan.stream.step(step, lanes) {
            let Some(window) = self.window(source, &draw.window)? else { return Ok(None) };
            draws.push(WindowDraw { window, source, draw });
        }
        Ok(Some(draws))
    }

    fn window(&mut self, source: usize, id: &WindowId) -> Result<Option<Arc<Window>>> {
        let place = (source, id.lane);
        if let Some((known, window)) = self.current.get(&place)
            && known == id
        {
            return Ok(Some(window.clone()));
        }
        if let Some((left, _)) = self.current.remove(&place) {
            self.plan.arrived().windows.remove(&(source, left));
        }
        let Some(window) = self.plan.wait(&(source, id.clone()))? else { return Ok(None) };
        self.current.insert(place, (id.clone(), window.clone()));
        Ok(Some(window))
    }
}
