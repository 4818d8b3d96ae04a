//! The learning rate of a step.

use std::f64::consts::PI;

use configs::{LavisEpochCosine, LrSchedule, WarmupCosine};

/// The learning rate of update `step` (from 0) in a stage of `steps` updates.
pub fn learning_rate(schedule: &LrSchedule, step: u64, steps: u64) -> f64 {
    match schedule {
        LrSchedule::WarmupCosine(it) => warmup_cosine(it, step, steps),
        LrSchedule::LavisEpochCosine(it) => lavis_epoch_cosine(it, step, steps),
    }
}

/// From `start` in a line to `peak` at step `warmup_steps`, then half a cosine that reaches `floor` at the last step.
/// A stage that ends within its warm-up never reaches the peak; one that ends right after it ends at the peak.
fn warmup_cosine(it: &WarmupCosine, step: u64, steps: u64) -> f64 {
    if step < it.warmup_steps {
        return it.start + (it.peak - it.start) * step as f64 / it.warmup_steps as f64;
    }
    let falling = steps.saturating_sub(it.warmup_steps + 1).max(1);
    let done = (step - it.warmup_steps).min(falling);
    cosine(it.peak, it.floor, done as f64 / falling as f64)
}

/// LAVIS' `LinearWarmupCosineLRScheduler` (lavis/common/optims.py) as its iteration runner calls it: the warm-up
/// happens inside epoch 0 and is cut off where that ends; later epochs have one rate each, and the last one of
/// `steps / steps_per_epoch` stays above the floor.
fn lavis_epoch_cosine(it: &LavisEpochCosine, step: u64, steps: u64) -> f64 {
    let epoch = step / it.steps_per_epoch;
    if epoch == 0 {
        return it.peak.min(it.start + (it.peak - it.start) * step as f64 / it.warmup_steps.max(1) as f64);
    }
    let epochs = (steps / it.steps_per_epoch).max(1);
    cosine(it.peak, it.floor, epoch as f64 / epochs as f64)
}

/// Half a cosine from `peak` at 0 to `floor` at 1.
fn cosine(peak: f64, floor: f64, share: f64) -> f64 {
    (peak - floor) * 0.5 * (1.0 + (PI * share).cos()) + floor
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(start: f64, peak: f64, floor: f64, warmup_steps: u64) -> LrSchedule {
        LrSchedule::WarmupCosine(WarmupCosine { start, peak, floor, warmup_steps })
    }

    #[test]
    fn the_ends_are_start_peak_and_floor() {
        let schedule = schedule(1e-6, 1e-4, 1e-5, 10);
        assert_eq!(learning_rate(&schedule, 0, 100), 1e-6);
        assert_eq!(learning_rate(&schedule, 10, 100), 1e-4);
        assert!((learning_rate(&schedule, 99, 100) - 1e-5).abs() < 1e-18);
        assert!((learning_rate(&schedule, 5, 100) - 5.05e-5).abs() < 1e-18);
    }

    #[test]
    fn short_stages_have_a_rate_too() {
        let schedule = schedule(1e-6, 1e-4, 1e-5, 10);
        assert_eq!(learning_rate(&schedule, 0, 1), 1e-6);
        assert_eq!(learning_rate(&schedule, 10, 11), 1e-4);
    }

    proptest! {
        #[test]
        fn it_falls_after_the_warm_up_and_stays_within_bounds(steps in 1u64..500, warmup in 0u64..50, at in 0u64..499) {
            let schedule = schedule(1e-6, 1e-4, 1e-5, warmup);
            let rate = learning_rate(&schedule, at.min(steps - 1), steps);
            prop_assert!((1e-6..=1e-4).contains(&rate), "{rate}");
            if at >= warmup {
                prop_assert!(learning_rate(&schedule, at + 1, steps) <= learning_rate(&schedule, at, steps));
            }
        }
    }
}
