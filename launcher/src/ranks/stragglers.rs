//! Ranks that compute longer than the others: everybody waits for them at every step.

use std::collections::BTreeMap;

use super::said::Beat;

/// Steps over which a rank is compared with the others.
const STEPS: u64 = 30;
/// A rank is slow when its own time is this many times the median of the others'.
const FACTOR: f64 = 1.5;
/// Differences below this many seconds per step are noise.
const NOISE_S: f64 = 0.002;

/// What each rank had done when it was last compared, and who was found slow.
#[derive(Debug, Default)]
pub struct Stragglers {
    before: BTreeMap<usize, (u64, f64)>,
    own_s: BTreeMap<usize, f64>,
    named: BTreeMap<usize, f64>,
}

impl Stragglers {
    /// Takes what all ranks last said. The line on a rank that is slow comes once in a launch.
    pub fn look(&mut self, ranks: &[(usize, &Beat)]) -> Option<String> {
        for (rank, beat) in ranks {
            let before = self.before.entry(*rank).or_insert((beat.steps_made, beat.own_s));
            let steps = beat.steps_made.saturating_sub(before.0);
            if steps >= STEPS {
                self.own_s.insert(*rank, (beat.own_s - before.1) / steps as f64);
                *before = (beat.steps_made, beat.own_s);
            }
        }
        if ranks.len() < 2 || self.own_s.len() < ranks.len() {
            return None;
        }
        let slow = self.own_s.iter().find_map(|(rank, own)| {
            let median = median_of(self.own_s.iter().filter(|(other, _)| *other != rank).map(|(_, own)| *own))?;
            let is_slow = *own > FACTOR * median && own - median > NOISE_S && !self.named.contains_key(rank);
            is_slow.then_some((*rank, *own, median))
        });
        let (rank, own, median) = slow?;
        self.named.insert(rank, own / median);
        Some(format!(
            "rank {rank} is slow: it computes {:.0} ms per step, the others {:.0} ms (median, over {STEPS} steps); all wait for it",
            own * 1e3,
            median * 1e3
        ))
    }

    /// How many times as long as the others a rank was found to take.
    pub fn factor(&self, rank: usize) -> Option<f64> {
        self.named.get(&rank).copied()
    }

    /// The seconds per step that a rank computed lately.
    pub fn own_s(&self, rank: usize) -> Option<f64> {
        self.own_s.get(&rank).copied()
    }
}

fn median_of(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_rank_is_named_once() {
        let mut stragglers = Stragglers::default();
        let beat =
            |steps_made: u64, step_s: f64| Beat { steps_made, own_s: steps_made as f64 * step_s, ..Beat::default() };
        let mut look = |steps: u64, slow: f64| {
            let beats = [beat(steps, 0.1), beat(steps, 0.11), beat(steps, slow)];
            stragglers.look(&beats.iter().enumerate().collect::<Vec<_>>())
        };
        assert_eq!(look(0, 0.16), None);
        assert_eq!(look(29, 0.16), None, "too few steps");
        let line = look(31, 0.18).unwrap();
        assert!(line.starts_with("rank 2 is slow: it computes 180 ms per step, the others 110 ms"), "{line}");
        assert_eq!(look(70, 0.18), None, "said before");
        assert!(stragglers.factor(2).unwrap() > 1.5 && stragglers.factor(0).is_none());
    }
}
