//! Counter-keyed randomness: no generator state is ever saved.
//!
//! Every random decision of a run names what it is for and its counters, for example
//! `(seed, Purpose::Augment, epoch, sample)`. The same key gives the same stream on every machine, whatever the
//! number of ranks, threads or restarts. The algorithm is fixed here for good: changing one constant changes every run.

/// What a random stream is used for; keeps streams with equal counters apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Crop and flip of one sample in one epoch.
    Augment = 1,
    /// Order of row groups and rows.
    Order = 2,
    /// Which of several captions a sample shows.
    Caption = 3,
    /// Layout of a synthetic scene.
    Scene = 4,
    /// Pixels of a synthetic scene (background, texture, noise).
    Pixels = 5,
    /// Wording of synthetic captions and questions.
    Wording = 6,
    /// Which samples an inspection shows.
    Inspect = 7,
    /// Negatives of the matching loss.
    Negatives = 9,
    /// Dropout of one pass.
    Dropout = 10,
    /// What the tiny towers are trained on before they are frozen.
    Pretrain = 8,
    /// Tokens that a model draws.
    Generate = 11,
    /// Where a caption is cut for an encoder-decoder.
    Prefix = 12,
    /// Which source a draw comes from.
    Mixture = 13,
    /// Pauses before a download is tried again; no bytes depend on them.
    Backoff = 14,
}

/// xoshiro256++ (Blackman and Vigna 2019), seeded from its key by SplitMix64 (Steele et al. 2014).
#[derive(Clone, Debug)]
pub struct CounterRng {
    state: [u64; 4],
}

/// One SplitMix64 output step: adds the golden-ratio increment, then mixes.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl CounterRng {
    /// The stream of `(seed, purpose, counters…)`. The order of the counters matters.
    pub fn new(seed: u64, purpose: Purpose, counters: &[u64]) -> Self {
        let mut key = seed;
        let mut mixed = split_mix(&mut key);
        for counter in [purpose as u64].iter().chain(counters) {
            key = mixed ^ counter.wrapping_mul(0xd134_2543_de82_ef95).rotate_left(17);
            mixed = split_mix(&mut key);
        }
        key = mixed;
        Self { state: std::array::from_fn(|_| split_mix(&mut key)) }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in `[0, 1)` with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `[low, high)`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in `0..bound`, without bias (Lemire 2019).
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "CounterRng::below needs a bound of at least 1");
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if (product as u64) >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// One element of `items`.
    ///
    /// # Panics
    /// When `items` is empty.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// Puts `items` into a uniformly random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_algorithm_is_fixed_for_good() {
        let mut rng = CounterRng::new(42, Purpose::Augment, &[3, 7]);
        let drawn: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(drawn, FIRST_THREE, "every run ever made depends on these numbers");
    }
    const FIRST_THREE: [u64; 3] = [1_810_281_520_472_453_645, 9_867_365_035_334_994_122, 237_151_949_156_332_159];

    #[test]
    fn keys_that_differ_anywhere_give_other_streams() {
        let keys: [(u64, Purpose, &[u64]); 7] = [
            (1, Purpose::Augment, &[0, 0]),
            (2, Purpose::Augment, &[0, 0]),
            (1, Purpose::Order, &[0, 0]),
            (1, Purpose::Augment, &[1, 0]),
            (1, Purpose::Augment, &[0, 1]),
            (1, Purpose::Augment, &[0]),
            (1, Purpose::Augment, &[]),
        ];
        let firsts: std::collections::HashSet<u64> =
            keys.iter().map(|(seed, purpose, c)| CounterRng::new(*seed, *purpose, c).next_u64()).collect();
        assert_eq!(firsts.len(), keys.len());
    }

    #[test]
    fn below_is_uniform() {
        let mut rng = CounterRng::new(5, Purpose::Order, &[]);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[rng.below(7) as usize] += 1;
        }
        // 10,000 expected each, standard deviation 93: 5 deviations.
        assert!(counts.iter().all(|c| c.abs_diff(10_000) < 465), "{counts:?}");
    }

    #[test]
    fn shuffle_keeps_every_element() {
        let mut rng = CounterRng::new(5, Purpose::Order, &[1]);
        let mut items: Vec<u32> = (0..100).collect();
        rng.shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
