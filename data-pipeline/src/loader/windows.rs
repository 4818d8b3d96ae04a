//! Reads windows of row groups in the order in which the steps need them, under a byte budget.
//!
//! Bytes are charged strictly in need order, so what is held is always a prefix of what is needed. Only when a batch
//! waits for a window that the budget keeps out (a step that spans several windows of a lane holds them together) is
//! that window let in over the budget; room for one such window per lane of a slice is set aside.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use futures::{StreamExt, TryStreamExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::catalog::Catalog;
use crate::error::{DataError, Result};
use crate::order::{Draw, Order, WindowId};
use crate::parquet_source::Rows;

/// Row groups requested at the same time. On slow stores depth hides latency; on a local disk it costs nothing.
const READS_IN_FLIGHT: usize = 8;
/// The budget is counted in units of this many bytes: a semaphore's count is limited to 32 bits on some targets.
const UNIT: u64 = 1024;

/// The rows of one window, charged to the budget until dropped.
pub(super) struct Window {
    rows: HashMap<usize, Rows>,
    _charge: Option<OwnedSemaphorePermit>,
}

impl Window {
    /// The rows of a row group of the catalogue.
    pub(super) fn rows(&self, row_group: usize) -> Option<&Rows> {
        self.rows.get(&row_group)
    }
}

/// A draw with the window that holds its row.
pub(super) struct WindowDraw {
    pub(super) window: Arc<Window>,
    pub(super) draw: Draw,
}

type Key = (u64, u64, u64);

#[derive(Default)]
struct Arrived {
    /// Windows let in: `None` while they are being read.
    windows: BTreeMap<Key, Option<Arc<Window>>>,
    /// The window that a batch waits for.
    awaited: Option<Key>,
    failed: Option<DataError>,
    closed: bool,
}

impl Arrived {
    /// Whether a batch waits for a window that has not even been let in.
    fn starved(&self) -> bool {
        self.awaited.is_some_and(|key| !self.windows.contains_key(&key))
    }
}

/// What is read in which order, and what has arrived.
pub(super) struct WindowPlan {
    catalog: Arc<Catalog>,
    order: Arc<Order>,
    lanes: Range<u64>,
    budget: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    arrived: Mutex<Arrived>,
    changed: Condvar,
    starving: Notify,
}

fn key(id: &WindowId) -> Key {
    (id.lane, id.epoch, id.number)
}

impl WindowPlan {
    /// Checks that `memory` bytes hold the batches, one window of every lane and the reads in flight.
    pub(super) fn new(
        catalog: Arc<Catalog>,
        order: Arc<Order>,
        lanes: Range<u64>,
        lanes_per_slice: u64,
        memory: u64,
        batch_bytes: u64,
    ) -> Result<Self> {
        let largest = catalog.row_groups.iter().map(|g| g.bytes).max().unwrap_or(0);
        let reading = largest * READS_IN_FLIGHT as u64;
        let groups_per_lane = (catalog.row_groups.len() as u64).div_ceil(order.lanes()) + 1;
        let window = largest.div_ceil(UNIT) * UNIT * order.window_row_groups().min(groups_per_lane);
        let reserved = batch_bytes + reading + window * lanes_per_slice;
        let needed = reserved + window * (lanes.end - lanes.start);
        if needed > memory {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            return Err(DataError::Setting(format!(
                "data.loader.memory_mb = {}: this rank's {} lanes x {} row groups of up to {} KiB, the reads in flight and the \
                 batches need {} MiB. Raise memory_mb, or lower data.shuffle_window_row_groups or data.lanes, or use more ranks",
                mib(memory),
                lanes.end - lanes.start,
                order.window_row_groups(),
                largest.div_ceil(1024),
                mib(needed)
            )));
        }
        let units = ((memory - reserved) / UNIT).min(Semaphore::MAX_PERMITS as u64 / 2).min(u64::from(u32::MAX));
        let (budget, reads) = (Arc::new(Semaphore::new(units as usize)), Arc::new(Semaphore::new(READS_IN_FLIGHT)));
        let (arrived, changed, starving) = (Mutex::default(), Condvar::new(), Notify::new());
        Ok(Self { catalog, order, lanes, budget, reads, arrived, changed, starving })
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

    fn fail(&self, error: DataError) {
        self.arrived().failed.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Bytes charged for a window: whole units, never zero.
    fn units(&self, groups: &[usize]) -> u32 {
        let bytes: u64 = groups.iter().map(|g| self.catalog.row_groups[*g].bytes.div_ceil(UNIT) * UNIT).sum();
        (bytes / UNIT).max(1) as u32
    }

    /// Walks over all windows in need order, for ever, charging and then reading each in the background.
    async fn run(self: Arc<Self>, first_step: u64) {
        let per_step = self.order.rows_per_step();
        let mut next: BinaryHeap<Reverse<(u64, u64)>> =
            self.lanes.clone().map(|lane| Reverse((first_step * per_step, lane))).collect();
        while let Some(Reverse((n, lane))) = next.pop() {
            let draw = self.order.draw(lane, n);
            let groups = self.order.window_groups(&draw.window);
            let Some(charge) = self.admit(self.units(&groups)).await else { return };
            self.arrived().windows.insert(key(&draw.window), None);
            self.changed.notify_all();
            next.push(Reverse((n - draw.offset + self.order.window_rows(&draw.window), lane)));
            let plan = self.clone();
            tokio::spawn(async move { plan.fetch(draw.window, groups, charge).await });
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

    async fn fetch(self: Arc<Self>, id: WindowId, groups: Vec<usize>, charge: Option<OwnedSemaphorePermit>) {
        let reads = futures::stream::iter(groups).map(|group| {
            let (catalog, reads) = (self.catalog.clone(), self.reads.clone());
            async move {
                let Ok(_turn) = reads.acquire_owned().await else { return Ok(None) };
                let known = catalog.row_groups[group];
                Ok(Some((group, catalog.shards[known.shard].read(known.index).await?)))
            }
        });
        match reads.buffer_unordered(READS_IN_FLIGHT).try_collect::<Vec<_>>().await {
            Ok(rows) => {
                let window = Window { rows: rows.into_iter().flatten().collect(), _charge: charge };
                self.arrived().windows.insert(key(&id), Some(Arc::new(window)));
                self.changed.notify_all();
            }
            Err(error) => self.fail(error),
        }
    }

    /// Waits for a window. `None` when the loader is being dropped.
    fn wait(&self, id: &WindowId) -> Result<Option<Arc<Window>>> {
        let mut arrived = self.arrived();
        arrived.awaited = Some(key(id));
        loop {
            if arrived.closed {
                return Ok(None);
            }
            if let Some(Some(window)) = arrived.windows.get(&key(id)) {
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

/// The windows that the lanes of a rank stand in.
pub(super) struct Windows {
    plan: Arc<WindowPlan>,
    current: HashMap<u64, (WindowId, Arc<Window>)>,
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
        for draw in self.plan.order.step(step, lanes) {
            let Some(window) = self.window(&draw.window)? else { return Ok(None) };
            draws.push(WindowDraw { window, draw });
        }
        Ok(Some(draws))
    }

    fn window(&mut self, id: &WindowId) -> Result<Option<Arc<Window>>> {
        if let Some((known, window)) = self.current.get(&id.lane)
            && known == id
        {
            return Ok(Some(window.clone()));
        }
        if let Some((left, _)) = self.current.remove(&id.lane) {
            self.plan.arrived().windows.remove(&key(&left));
        }
        let Some(window) = self.plan.wait(id)? else { return Ok(None) };
        self.current.insert(id.lane, (id.clone(), window.clone()));
        Ok(Some(window))
    }
}
