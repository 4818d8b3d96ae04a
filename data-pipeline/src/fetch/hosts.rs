//! How often a host is asked, and what is remembered about hosts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// Hosts whose pace is remembered; those that are being asked are never forgotten.
const REMEMBERED: usize = 100_000;
/// The longest pause between two requests that a busy host is given.
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// The pause that a host gets when it first says that it is busy.
const FIRST_DELAY: Duration = Duration::from_millis(200);

/// Values by name in bounded memory: the least recently used go first, unless somebody holds them.
pub(super) struct Remembered<V> {
    values: Mutex<Weighed<V>>,
    most: usize,
}

struct Weighed<V> {
    cache: LruCache<String, (Arc<V>, usize)>,
    weight: usize,
}

impl<V> Remembered<V> {
    /// Room for values of the total weight `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { values: Mutex::new(Weighed { cache: LruCache::unbounded(), weight: 0 }), most }
    }

    /// The value of `name`, made when it is not there; it weighs `weight` until [`Remembered::weigh`] says otherwise.
    pub(super) fn get(&self, name: &str, weight: usize, make: impl FnOnce() -> V) -> Arc<V> {
        let mut values = self.lock();
        if let Some((value, _)) = values.cache.get(name) {
            return value.clone();
        }
        let value = Arc::new(make());
        values.cache.put(name.to_owned(), (value.clone(), weight));
        values.weight += weight;
        self.shrink(&mut values);
        value
    }

    /// Says what the value of `name` weighs now that it is known.
    pub(super) fn weigh(&self, name: &str, weight: usize) {
        let mut values = self.lock();
        if let Some((_, known)) = values.cache.peek_mut(name) {
            let before = std::mem::replace(known, weight);
            values.weight = values.weight - before + weight;
        }
        self.shrink(&mut values);
    }

    fn shrink(&self, values: &mut Weighed<V>) {
        for _ in 0..values.cache.len() {
            if values.weight <= self.most {
                return;
            }
            let Some((name, (value, weight))) = values.cache.pop_lru() else { return };
            if Arc::strong_count(&value) > 1 {
                values.cache.put(name, (value, weight));
            } else {
                values.weight -= weight;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Weighed<V>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pace of every host.
pub(super) struct Hosts {
    known: Remembered<Host>,
    per_host: usize,
    least_delay: Duration,
}

struct Host {
    slots: Arc<Semaphore>,
    pace: Mutex<Pace>,
}

struct Pace {
    /// When the next request may start.
    next: Instant,
    /// Nothing starts before: the host asked for a pause.
    pause_ends: Instant,
    delay: Duration,
}

/// The right to send one request to a host; others wait until it is dropped.
pub(super) struct Turn {
    host: Arc<Host>,
    least_delay: Duration,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Hosts {
    /// At most `per_host` requests to a host at once, their starts `least_delay` apart.
    pub(super) fn new(per_host: u32, least_delay: Duration) -> Self {
        Self { known: Remembered::new(REMEMBERED), per_host: per_host as usize, least_delay }
    }

    /// Waits until `host` may be asked; `delay` is what the host itself wishes between two requests.
    pub(super) async fn turn(&self, host: &str, delay: Duration) -> Turn {
        let known = self.known.get(host, 1, || {
            let now = Instant::now();
            Host {
                slots: Arc::new(Semaphore::new(self.per_host)),
                pace: Mutex::new(Pace { next: now, pause_ends: now, delay: self.least_delay }),
            }
        });
        // The semaphore is never closed, so there is always a slot in the end.
        let slot = known.slots.clone().acquire_owned().await.ok();
        let least_delay = self.least_delay.max(delay);
        let start = {
            let mut pace = known.pace();
            let start = pace.next.max(Instant::now());
            pace.next = start + pace.delay.max(least_delay);
            start
        };
        let mut until = start;
        loop {
            sleep_until(until).await;
            // The host may have asked for a pause meanwhile.
            until = known.pace().pause_ends;
            if until <= Instant::now() {
                return Turn { host: known, least_delay, _slot: slot };
            }
        }
    }
}

impl Host {
    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// The host said that it is busy: nothing more for `pause`, then half as often.
    pub(super) fn slow_down(&self, pause: Duration) {
        let mut pace = self.host.pace();
        pace.pause_ends = pace.pause_ends.max(Instant::now() + pause);
        pace.delay = (pace.delay * 2).clamp(FIRST_DELAY, LONGEST_DELAY);
    }

    /// The host answered as it should: a slowed one is trusted a little more.
    pub(super) fn answered(&self) {
        let mut pace = self.host.pace();
        if pace.delay > self.least_delay {
            pace.delay = (pace.delay * 9 / 10).max(self.least_delay);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_is_asked_no_faster_than_allowed() {
        let hosts = Hosts::new(2, Duration::from_millis(20));
        let began = Instant::now();
        for _ in 0..5 {
            drop(hosts.turn("a", Duration::ZERO).await);
        }
        assert!(began.elapsed() >= Duration::from_millis(80), "{:?}", began.elapsed());
        let (one, two) = (hosts.turn("b", Duration::ZERO).await, hosts.turn("b", Duration::ZERO).await);
        let third = tokio::time::timeout(Duration::from_millis(200), hosts.turn("b", Duration::ZERO));
        assert!(third.await.is_err(), "two at once");
        drop((one, two));
        drop(hosts.turn("b", Duration::from_millis(50)).await);
        let began = Instant::now();
        drop(hosts.turn("b", Duration::ZERO).await);
        assert!(began.elapsed() >= Duration::from_millis(40), "the host's own wish: {:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_busy_host_gets_a_pause_and_more_time() {
        let hosts = Hosts::new(8, Duration::ZERO);
        let turn = hosts.turn("a", Duration::ZERO).await;
        let began = Instant::now();
        turn.slow_down(Duration::from_millis(300));
        drop(hosts.turn("a", Duration::ZERO).await);
        assert!(began.elapsed() >= Duration::from_millis(300), "the pause: {:?}", began.elapsed());
        drop(hosts.turn("a", Duration::ZERO).await);
        drop(hosts.turn("a", Duration::ZERO).await);
        assert!(began.elapsed() >= FIRST_DELAY * 2, "starts are further apart: {:?}", began.elapsed());
        for _ in 0..300 {
            turn.answered();
        }
        assert_eq!(turn.host.pace().delay, Duration::ZERO, "it is trusted again");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_held_stays() {
        let known = Remembered::new(3);
        let held = known.get("held", 1, || 0);
        for name in ["a", "b", "c", "d"] {
            known.get(name, 1, || 1);
        }
        let state = || {
            let values = known.lock();
            (values.weight, values.cache.len())
        };
        assert_eq!(state(), (3, 3));
        assert!(Arc::ptr_eq(&held, &known.get("held", 1, || 2)));
        known.weigh("d", 2);
        assert_eq!(state(), (3, 2));
        assert_eq!(*known.get("a", 0, || 9), 9, "it was forgotten");
    }
}
