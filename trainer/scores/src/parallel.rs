//! Work on all threads with results in order.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The results of `work` for ranges of `chunk` items out of `count`, joined in order, on all threads.
///
/// Every thread makes itself a `state` once.
pub fn map_chunks<S, R: Send>(
    count: usize,
    chunk: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, Range<usize>) -> Vec<R> + Sync,
) -> Vec<R> {
    let chunks = count.div_ceil(chunk);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(chunks);
    let next = AtomicUsize::new(0);
    let one_thread = || {
        let mut state = state();
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= chunks {
                return done;
            }
            done.push((index, work(&mut state, index * chunk..count.min((index + 1) * chunk))));
        }
    };
    let mut done = if threads <= 1 {
        one_thread()
    } else {
        thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(one_thread)).collect();
            let results = running.into_iter().map(|thread| match thread.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            results.flatten().collect()
        })
    };
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().flat_map(|(_, results)| results).collect()
}

#[cfg(test)]
mod tests {
    use super::map_chunks;

    #[test]
    fn results_come_in_order() {
        let doubled = map_chunks(1000, 7, || (), |(), range| range.map(|item| item * 2).collect());
        assert_eq!(doubled, (0..1000).map(|item| item * 2).collect::<Vec<_>>());
        assert_eq!(map_chunks(0, 7, || (), |(), range| range.collect::<Vec<_>>()), Vec::<usize>::new());
    }
}
