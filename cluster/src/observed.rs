//! Ranks whose calls are counted, so that another thread can tell where this one stands.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::call::Operation;
use crate::{BufferMut, ClusterError, Collective};

/// The calls of one rank: written by the thread that makes them, read by any other.
#[derive(Debug)]
pub struct Calls {
    since: Instant,
    /// The call's number, shifted left by 8, its operation by 1, and whether the rank is inside.
    current: AtomicU64,
    /// Nanoseconds from `since` to the last begin or end of a call.
    changed: AtomicU64,
    /// Nanoseconds spent inside of calls that have ended.
    inside: AtomicU64,
}

/// Where a rank stands among its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Calls that were begun. All ranks make the same calls in the same order.
    pub number: u64,
    /// The last one's name, such as `all_gather`.
    pub operation: &'static str,
    /// Whether the rank is still in it.
    pub is_inside: bool,
    /// Since the last call was begun or has ended.
    pub unchanged: Duration,
    /// Time spent in calls that have ended.
    pub waited: Duration,
}

impl Default for Calls {
    fn default() -> Self {
        Self { since: Instant::now(), current: 0.into(), changed: 0.into(), inside: 0.into() }
    }
}

impl Calls {
    /// Where the rank stands now.
    pub fn standing(&self) -> Standing {
        let current = self.current.load(Ordering::Acquire);
        let since_start = nanos(self.since);
        Standing {
            number: current >> 8,
            operation: Operation::ALL.get((current >> 1 & 0x7f) as usize).map_or("", |operation| operation.name()),
            is_inside: current & 1 == 1,
            unchanged: Duration::from_nanos(since_start.saturating_sub(self.changed.load(Ordering::Relaxed))),
            waited: Duration::from_nanos(self.inside.load(Ordering::Relaxed)),
        }
    }

    fn during<T>(&self, operation: Operation, call: impl FnOnce() -> T) -> T {
        let place = Operation::ALL.iter().position(|one| *one == operation).unwrap_or_default() as u64;
        let number = (self.current.load(Ordering::Relaxed) >> 8) + 1;
        let begun = nanos(self.since);
        self.changed.store(begun, Ordering::Relaxed);
        self.current.store(number << 8 | place << 1 | 1, Ordering::Release);
        let outcome = call();
        let ended = nanos(self.since);
        self.inside.fetch_add(ended - begun, Ordering::Relaxed);
        self.changed.store(ended, Ordering::Relaxed);
        self.current.store(number << 8 | place << 1, Ordering::Release);
        outcome
    }
}

fn nanos(since: Instant) -> u64 {
    since.elapsed().as_nanos() as u64
}

/// Ranks, with the calls of this one noted. The thread that trains makes them; the noting takes two looks at the clock.
pub struct Observed<'a> {
    ranks: &'a dyn Collective,
    calls: &'a Calls,
}

impl<'a> Observed<'a> {
    /// Notes calls to `ranks` in `calls`.
    pub fn new(ranks: &'a dyn Collective, calls: &'a Calls) -> Self {
        Self { ranks, calls }
    }
}

impl Collective for Observed<'_> {
    fn name(&self) -> &'static str {
        self.ranks.name()
    }

    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn world_size(&self) -> usize {
        self.ranks.world_size()
    }

    fn barrier(&self) -> Result<(), ClusterError> {
        self.calls.during(Operation::Barrier, || self.ranks.barrier())
    }

    fn all_reduce_sum(&self, buffer: BufferMut<'_>) -> Result<(), ClusterError> {
        self.calls.during(Operation::AllReduce, || self.ranks.all_reduce_sum(buffer))
    }

    fn broadcast(&self, bytes: &mut [u8], root: usize) -> Result<(), ClusterError> {
        self.calls.during(Operation::Broadcast, || self.ranks.broadcast(bytes, root))
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<u8>, ClusterError> {
        self.calls.during(Operation::AllGather, || self.ranks.all_gather(mine))
    }

    fn all_to_all(&self, parts: &[&[u8]], expected: &[usize]) -> Result<Vec<Vec<u8>>, ClusterError> {
        self.calls.during(Operation::AllToAll, || self.ranks.all_to_all(parts, expected))
    }

    fn abort(&self, code: i32) -> ! {
        self.ranks.abort(code)
    }

    fn finish(&self) -> Result<(), ClusterError> {
        self.calls.during(Operation::Finish, || self.ranks.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Single;

    #[test]
    fn calls_are_counted_and_named() {
        let calls = Calls::default();
        let ranks = Observed::new(&Single, &calls);
        assert_eq!(calls.standing().number, 0);
        ranks.barrier().unwrap();
        ranks.all_gather(&[1]).unwrap();
        let standing = calls.standing();
        assert_eq!((standing.number, standing.operation, standing.is_inside), (2, "all_gather", false));
        let within = calls.during(Operation::Broadcast, || {
            std::thread::sleep(Duration::from_millis(20));
            calls.standing()
        });
        assert_eq!((within.number, within.operation, within.is_inside), (3, "broadcast", true));
        assert!(within.unchanged >= Duration::from_millis(20));
        assert!(calls.standing().waited >= Duration::from_millis(20));
    }
}
