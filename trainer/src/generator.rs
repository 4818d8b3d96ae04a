//! Random numbers inside a step, as a function of a seed.
//!
//! libtorch has one generator for the CPU, and ranks may be threads of one process: whoever draws seeds it and keeps the
//! others away until it is done. Dropout on a CPU does not draw from it: libtorch draws on one thread, one number after
//! the other, which took an eighth of a step of stage 1 on two cores (docs/benchmarks/step.md).

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use data_pipeline::rng::{CounterRng, Purpose};
use tch::{Device, Tensor};

use crate::shim;

static TURN: Mutex<()> = Mutex::new(());

thread_local! {
    /// The seed of dropout, and how often it was called under it.
    static DROPOUT: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

/// The right to draw; what is drawn while it lives depends on the seed alone.
#[derive(Debug)]
pub struct Seeded {
    _turn: MutexGuard<'static, ()>,
}

impl Drop for Seeded {
    fn drop(&mut self) {
        DROPOUT.set(None);
    }
}

/// Takes the generator and seeds it. Waits while another thread has it, so nothing that waits for other ranks may
/// happen before it is given back.
pub fn seeded(seed: i64) -> Seeded {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed);
    DROPOUT.set(Some((seed.cast_unsigned(), 0)));
    Seeded { _turn: turn }
}

/// Dropout with probability `p`, a function of the seed and of the calls before it under that seed.
///
/// # Panics
/// When nothing is [`seeded`] on this thread.
pub fn dropout(x: &Tensor, p: f64) -> Tensor {
    if x.device() != Device::Cpu {
        return x.dropout(p, true);
    }
    let (seed, calls) = DROPOUT.get().expect("invariant: a pass with dropout is seeded");
    DROPOUT.set(Some((seed, calls + 1)));
    shim::dropout(x, p, CounterRng::new(seed, Purpose::Dropout, &[calls]).next_u64())
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn threads_do_not_disturb_one_another() {
        let draw = |seed: i64| {
            let _generator = seeded(seed);
            let drawn: Vec<Tensor> = (0..20).map(|_| Tensor::rand([16], (Kind::Float, Device::Cpu))).collect();
            Tensor::cat(&drawn, 0)
        };
        let alone: Vec<Tensor> = (0..4).map(draw).collect();
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|seed| scope.spawn(move || (0..50).map(|_| draw(seed)).collect())).collect();
            for (seed, thread) in threads.into_iter().enumerate() {
                let drawn: Vec<Tensor> = thread.join().unwrap();
                assert!(drawn.iter().all(|drawn| *drawn == alone[seed]));
            }
        });
    }
}
