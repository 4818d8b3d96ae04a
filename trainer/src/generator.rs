//! libtorch's random generator. A process has one for its CPU, and ranks may be threads of one process: whoever draws
//! from it seeds it and keeps the others away until it is done.

use std::sync::{Mutex, MutexGuard, PoisonError};

static TURN: Mutex<()> = Mutex::new(());

/// The right to draw; what is drawn while it lives depends on the seed alone.
#[derive(Debug)]
pub struct Seeded {
    _turn: MutexGuard<'static, ()>,
}

/// Takes the generator and seeds it. Waits while another thread has it, so nothing that waits for other ranks may
/// happen before it is given back.
pub fn seeded(seed: i64) -> Seeded {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed);
    Seeded { _turn: turn }
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
