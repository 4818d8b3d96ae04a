//! Which source positions give an output position, and with which weights.

/// Half width of the bicubic filter at scale 1.
const SUPPORT: f64 = 2.0;
/// Pillow's fixed-point bits of a weight: 32 bits, less 8 of the pixel and 2 for sums outside 0..=1.
const PILLOW_BITS: u32 = 32 - 8 - 2;
/// Low bits of a long weight, so that they and the bits above are 16-bit numbers each.
pub(super) const LOW_BITS: u32 = 15;

/// How finely weights are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    /// To 22 bits, with every intermediate value of the weights as in Pillow 13.
    Pillow,
    /// To 15 bits and less, as `fast_image_resize` 6 does, whose results are equal bit by bit: half the work.
    Short,
}

/// Outputs that are made together; there are weights for whole groups, of which the last outputs repeat.
pub(super) const GROUP: usize = 4;

/// The weights of one axis. Outputs have the same number of pairs of taps; missing ones weigh 0.
#[derive(Default)]
pub(super) struct Weights {
    /// First source position of each output position.
    pub(super) first: Vec<usize>,
    /// Pairs of taps of each output position.
    pub(super) pairs: usize,
    /// Fixed-point bits.
    pub(super) bits: u32,
    /// Pairs of 16-bit numbers, for multiply-and-add: whole weights, or the low 15 bits of long ones.
    pub(super) low: Vec<i32>,
    /// The bits above of long weights; empty otherwise.
    pub(super) high: Vec<i32>,
    /// Weights before rounding.
    unrounded: Vec<f64>,
}

impl Weights {
    /// The weights that resize `in_size` positions to `out_size`.
    pub(super) fn compute(&mut self, in_size: u32, out_size: u32, precision: Precision) {
        let scale = f64::from(in_size) / f64::from(out_size);
        let support = SUPPORT * scale.max(1.0);
        let room = support.ceil() as usize * 2 + 2;
        self.first.clear();
        self.unrounded.clear();
        self.unrounded.resize(room * (out_size as usize).next_multiple_of(GROUP), 0.0);
        let mut most_taps = 1;
        for (out, weights) in self.unrounded.chunks_exact_mut(room).enumerate() {
            let center = (out.min(out_size as usize - 1) as f64 + 0.5) * scale;
            let first = match precision {
                Precision::Pillow => pillow(center, support, in_size, weights),
                Precision::Short => short(center, support, in_size, weights),
            };
            self.first.push(first);
            most_taps = most_taps.max(weights.iter().rposition(|weight| *weight != 0.0).map_or(1, |last| last + 1));
        }
        self.pairs = most_taps.div_ceil(2);
        self.round(room, precision);
    }

    fn round(&mut self, room: usize, precision: Precision) {
        self.low.clear();
        self.high.clear();
        let taps = self.pairs * 2;
        let pairs = self.unrounded.chunks_exact(room).flat_map(|weights| weights[..taps].as_chunks::<2>().0);
        let halves = |[a, b]: [i32; 2]| (a & 0xffff) | (b << 16);
        match precision {
            Precision::Pillow => {
                self.bits = PILLOW_BITS;
                let scale = f64::from(1 << PILLOW_BITS);
                // Away from zero at one half, as C's cast after adding one half (`normalize_coeffs_8bpc`).
                let round = |weight: f64| (weight * scale + if weight < 0.0 { -0.5 } else { 0.5 }) as i32;
                for pair in pairs {
                    let pair = pair.map(round);
                    self.low.push(halves(pair.map(|weight| weight & ((1 << LOW_BITS) - 1))));
                    self.high.push(halves(pair.map(|weight| weight >> LOW_BITS)));
                }
            }
            Precision::Short => {
                let greatest = self.unrounded.iter().copied().fold(0.0, f64::max);
                let too_large =
                    |bits: &u32| (greatest * f64::from(1 << (bits + 1))).round() >= f64::from(1 << LOW_BITS);
                self.bits = (0..PILLOW_BITS).find(too_large).unwrap_or(PILLOW_BITS - 1);
                let scale = f64::from(1 << self.bits);
                self.low.extend(pairs.map(|pair| halves(pair.map(|weight| (weight * scale).round() as i32))));
            }
        }
    }

    /// The weights of one output position, pair by pair.
    pub(super) fn of(&self, out: usize) -> impl Iterator<Item = i32> {
        let pairs = out * self.pairs..(out + 1) * self.pairs;
        pairs.flat_map(|pair| {
            let high = self.high.get(pair).map_or([0, 0], |high| [(*high << 16) >> 16, *high >> 16]);
            let low = [(self.low[pair] << 16) >> 16, self.low[pair] >> 16];
            [low[0] + (high[0] << LOW_BITS), low[1] + (high[1] << LOW_BITS)]
        })
    }

    /// Half a unit, so that the shift by `bits` rounds.
    pub(super) fn half(&self) -> i32 {
        1 << (self.bits - 1)
    }

    /// The source positions that any output position may need.
    pub(super) fn needed(&self, in_size: usize) -> std::ops::Range<usize> {
        let last = self.first.len() - 1;
        self.first[0]..(self.first[last] + self.pairs * 2).min(in_size)
    }
}

/// Pillow's `bicubic_filter`, a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// One output's weights by Pillow's `precompute_coeffs`, in the same order of operations; gives back the first position.
fn pillow(center: f64, support: f64, in_size: u32, weights: &mut [f64]) -> usize {
    // Truncation after adding one half, as C does it; `as` saturates at 0 like Pillow's check.
    let first = (center - support + 0.5) as usize;
    let end = ((center + support + 0.5) as usize).min(in_size as usize);
    let inverse = 1.0 / (support / SUPPORT);
    let weights = &mut weights[..end - first];
    for (x, weight) in (first..end).zip(weights.iter_mut()) {
        *weight = bicubic((x as f64 - center + 0.5) * inverse);
    }
    normalize(weights);
    first
}

/// One output's weights by `precompute_coefficients` of fast_image_resize 6.1, in the same order of operations.
fn short(center: f64, support: f64, in_size: u32, weights: &mut [f64]) -> usize {
    let first = (center - support).floor().max(0.0) as usize;
    let end = (center + support).ceil().min(f64::from(in_size)) as usize;
    let inverse = 1.0 / (support / SUPPORT);
    let shifted = center - 0.5;
    let weights = &mut weights[..end - first];
    for (x, weight) in (first..end).zip(weights.iter_mut()) {
        *weight = bicubic((x as f64 - shifted) * inverse);
    }
    normalize(weights);
    first
}

fn normalize(weights: &mut [f64]) {
    let mut total = 0.0;
    weights.iter().for_each(|weight| total += weight);
    if total != 0.0 {
        weights.iter_mut().for_each(|weight| *weight /= total);
    }
}
