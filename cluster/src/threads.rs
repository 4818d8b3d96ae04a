//! Ranks that are threads of one process: for tests and checks of many ranks on one machine.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use half::{bf16, f16};

use crate::buffer::sum_wide;
use crate::call::{Call, Operation, agree, agree_on_sizes, check_parts, read_sizes, size_bytes};
use crate::{BufferMut, ClusterError, Collective};

/// One rank of a world of threads.
#[derive(Debug)]
pub struct Threads {
    world: Arc<World>,
    rank: usize,
    calls: AtomicU64,
    finished: AtomicBool,
}

#[derive(Debug)]
struct World {
    size: usize,
    round: Mutex<Round>,
    changed: Condvar,
}

/// One collective call: ranks bring something, and when all have, each takes everything.
#[derive(Debug, Default)]
struct Round {
    brought: Vec<Option<Deposit>>,
    complete: Option<Arc<Vec<Deposit>>>,
    taken: usize,
    ended: Option<String>,
}

#[derive(Debug)]
struct Deposit {
    call: Call,
    parts: Vec<Vec<u8>>,
}

impl Threads {
    /// All ranks of a world; each goes to a thread of its own.
    pub fn world(size: usize) -> Vec<Self> {
        let round = Round { brought: (0..size).map(|_| None).collect(), ..Round::default() };
        let world = Arc::new(World { size, round: Mutex::new(round), changed: Condvar::new() });
        let one = |rank| Self { world: Arc::clone(&world), rank, calls: AtomicU64::new(0), finished: false.into() };
        (0..size).map(one).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Round> {
        self.world.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings `parts` and returns what all ranks brought to the same call.
    fn meet(&self, call: Call, parts: Vec<Vec<u8>>) -> Result<Arc<Vec<Deposit>>, ClusterError> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let mut round = self.lock();
        // Ranks that are still taking from the call before.
        while round.complete.is_some() && round.ended.is_none() {
            round = self.wait(round);
        }
        if let Some(reason) = &round.ended {
            return Err(ClusterError::Ended { reason: reason.clone() });
        }
        round.brought[self.rank] = Some(Deposit { call, parts });
        if round.brought.iter().all(Option::is_some) {
            round.complete = Some(Arc::new(round.brought.iter_mut().filter_map(Option::take).collect()));
            self.world.changed.notify_all();
        }
        let all = loop {
            match (&round.complete, &round.ended) {
                (Some(all), _) => break Arc::clone(all),
                (None, Some(reason)) => return Err(ClusterError::Ended { reason: reason.clone() }),
                (None, None) => round = self.wait(round),
            }
        };
        round.taken += 1;
        if round.taken == self.world.size {
            (round.complete, round.taken) = (None, 0);
            self.world.changed.notify_all();
        }
        drop(round);
        agree(number, &all.iter().map(|deposit| deposit.call).collect::<Vec<_>>())?;
        Ok(all)
    }

    fn wait<'a>(&self, round: MutexGuard<'a, Round>) -> MutexGuard<'a, Round> {
        self.world.changed.wait(round).unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, reason: String) {
        self.lock().ended.get_or_insert(reason);
        self.world.changed.notify_all();
    }
}

impl Drop for Threads {
    /// A rank that goes without finishing, as by a panic, ends the job for the others: they would wait for ever.
    fn drop(&mut self) {
        if !self.finished.load(Ordering::Relaxed) {
            self.end(format!("rank {} has gone", self.rank));
        }
    }
}

impl Collective for Threads {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world.size
    }

    fn barrier(&self) -> Result<(), ClusterError> {
        self.meet(Call::plain(Operation::Barrier), Vec::new()).map(|_| ())
    }

    fn all_reduce_sum(&self, buffer: BufferMut<'_>) -> Result<(), ClusterError> {
        let call = Call::all_reduce(&buffer);
        match buffer {
            BufferMut::F32(data) => self.sum_f32(call, data),
            BufferMut::F64(data) => self.sum(call, data, f64::to_le_bytes, f64::from_le_bytes, |a, b| a + b),
            BufferMut::U64(data) => self.sum(call, data, u64::to_le_bytes, u64::from_le_bytes, u64::wrapping_add),
            BufferMut::Bf16(data) => sum_wide(data, bf16::to_f32, bf16::from_f32, |wide| self.sum_f32(call, wide)),
            BufferMut::F16(data) => sum_wide(data, f16::to_f32, f16::from_f32, |wide| self.sum_f32(call, wide)),
        }
    }

    fn broadcast(&self, bytes: &mut [u8], root: usize) -> Result<(), ClusterError> {
        if root >= self.world.size {
            return Err(ClusterError::NoSuchRank { rank: root, world_size: self.world.size });
        }
        let own = if self.rank == root { vec![bytes.to_vec()] } else { Vec::new() };
        let all = self.meet(Call::broadcast(bytes.len(), root), own)?;
        bytes.copy_from_slice(&all[root].parts[0]);
        Ok(())
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<u8>, ClusterError> {
        let all = self.meet(Call::bytes(Operation::AllGather, mine.len()), vec![mine.to_vec()])?;
        Ok(all.iter().flat_map(|deposit| deposit.parts[0].iter().copied()).collect())
    }

    fn all_to_all(&self, parts: &[&[u8]], expected: &[usize]) -> Result<Vec<Vec<u8>>, ClusterError> {
        check_parts(parts, expected, self.world.size)?;
        let brought = parts.iter().map(|part| part.to_vec()).chain([size_bytes(parts, expected)]).collect();
        let all = self.meet(Call::plain(Operation::AllToAll), brought)?;
        let sizes: Vec<u8> = all.iter().flat_map(|deposit| deposit.parts[self.world.size].iter().copied()).collect();
        agree_on_sizes(self.calls.load(Ordering::Relaxed), &read_sizes(&sizes, self.world.size))?;
        Ok(all.iter().map(|deposit| deposit.parts[self.rank].clone()).collect())
    }

    /// Ends the job for the other threads and panics in this one: a thread cannot end its process in a test.
    fn abort(&self, code: i32) -> ! {
        self.end(format!("rank {} ended it with code {code}", self.rank));
        panic!("rank {} ended the job with code {code}", self.rank)
    }

    fn finish(&self) -> Result<(), ClusterError> {
        self.meet(Call::plain(Operation::Finish), Vec::new())?;
        self.finished.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Threads {
    /// The sum in rank order.
    fn sum<T: Copy, const N: usize>(
        &self,
        call: Call,
        data: &mut [T],
        to_bytes: fn(T) -> [u8; N],
        from_bytes: fn([u8; N]) -> T,
        add: fn(T, T) -> T,
    ) -> Result<(), ClusterError> {
        let all = self.meet(call, vec![data.iter().flat_map(|value| to_bytes(*value)).collect()])?;
        let mut of_rank: Vec<_> = all.iter().map(|deposit| deposit.parts[0].chunks_exact(N)).collect();
        for value in data {
            let one = |bytes: &[u8]| bytes.try_into().ok().map(from_bytes);
            let sum = of_rank.iter_mut().filter_map(|numbers| numbers.next().and_then(one)).reduce(add);
            *value = sum.unwrap_or(*value);
        }
        Ok(())
    }

    fn sum_f32(&self, call: Call, data: &mut [f32]) -> Result<(), ClusterError> {
        self.sum(call, data, f32::to_le_bytes, f32::from_le_bytes, |a, b| a + b)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_rank_that_panics_ends_the_job_for_the_others() {
        let mut ranks = Threads::world(3).into_iter();
        let (first, second, third) = (ranks.next().unwrap(), ranks.next().unwrap(), ranks.next().unwrap());
        thread::scope(|scope| {
            let waiting = scope.spawn(move || first.barrier());
            let panicking = scope.spawn(move || {
                let _rank = second;
                panic!("planted");
            });
            let also_waiting = scope.spawn(move || third.all_gather(&[1]).map(|_| ()));
            assert!(panicking.join().is_err());
            for outcome in [waiting.join().unwrap(), also_waiting.join().unwrap()] {
                let error = outcome.unwrap_err().to_string();
                assert!(error.contains("rank ") && error.contains("has gone"), "{error}");
            }
        });
    }
}
