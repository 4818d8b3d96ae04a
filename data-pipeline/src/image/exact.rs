//! Resizing with every bit as Pillow's `Image.resize(…, BICUBIC)` (Pillow 13.0.0, `src/libImaging/Resample.c`).

use std::ops::Range;

use super::resize::PassOrder;
use super::simd::{Kernel, dispatch};
use super::{Region, RgbImage};

/// Fixed-point bits of a coefficient: 32 bits, less 8 of the pixel and 2 for sums outside 0..=1.
const PRECISION_BITS: u32 = 32 - 8 - 2;
/// Half a unit, so that the shift rounds.
const ROUND: i32 = 1 << (PRECISION_BITS - 1);
/// Half width of the bicubic filter at scale 1.
const SUPPORT: f64 = 2.0;

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

/// Which source positions give an output position, and with which weights.
#[derive(Default)]
struct Weights {
    /// First source position of each output position.
    first: Vec<usize>,
    /// Taps of each output position; the coefficients of output `i` start at `i * stride`.
    taps: Vec<usize>,
    stride: usize,
    coefficients: Vec<i32>,
    /// One output's weights before rounding.
    unrounded: Vec<f64>,
}

impl Weights {
    /// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc` for a whole axis, in the same order of operations.
    fn compute(&mut self, in_size: u32, out_size: u32) {
        let scale = f64::from(in_size) / f64::from(out_size);
        let filter_scale = scale.max(1.0);
        let support = SUPPORT * filter_scale;
        let inverse = 1.0 / filter_scale;
        self.stride = support.ceil() as usize * 2 + 1;
        self.first.clear();
        self.taps.clear();
        self.coefficients.clear();
        self.coefficients.resize(self.stride * out_size as usize, 0);
        for (out, coefficients) in self.coefficients.chunks_exact_mut(self.stride).enumerate() {
            let center = (out as f64 + 0.5) * scale;
            // Truncation after adding one half, as C does it; `as` saturates at 0 like Pillow's check.
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(in_size as usize);
            self.unrounded.clear();
            self.unrounded.extend((first..end).map(|x| bicubic((x as f64 - center + 0.5) * inverse)));
            let mut total = 0.0;
            self.unrounded.iter().for_each(|weight| total += weight);
            for (coefficient, weight) in coefficients.iter_mut().zip(&self.unrounded) {
                let normalized = if total == 0.0 { *weight } else { weight / total };
                let scaled = normalized * f64::from(1 << PRECISION_BITS);
                *coefficient = if normalized < 0.0 { (scaled - 0.5) as i32 } else { (scaled + 0.5) as i32 };
            }
            self.first.push(first);
            self.taps.push(end - first);
        }
    }

    /// The coefficients of one output position.
    fn of(&self, out: usize) -> &[i32] {
        &self.coefficients[out * self.stride..][..self.taps[out]]
    }

    /// The source positions that any output position needs.
    fn needed(&self) -> Range<usize> {
        let last = self.first.len() - 1;
        self.first[0]..self.first[last] + self.taps[last]
    }
}

/// Rows of three-channel pixels inside a larger buffer.
#[derive(Clone, Copy)]
struct Rows<'a> {
    bytes: &'a [u8],
    /// Distance of two rows in bytes.
    stride: usize,
    /// Bytes of a row that count.
    row_bytes: usize,
    height: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn row(&self, y: usize) -> &'a [u8] {
        &self.bytes[y * self.stride..][..self.row_bytes]
    }

    /// The same rows without those outside `range`.
    fn only(&self, range: Range<usize>) -> Self {
        Self { bytes: &self.bytes[range.start * self.stride..], height: range.len(), ..*self }
    }
}

/// A resizer that keeps its working memory.
#[derive(Default)]
pub(super) struct Resizer {
    horizontal: Weights,
    vertical: Weights,
    between: Vec<u8>,
    padded_row: Vec<u8>,
}

impl Resizer {
    /// The caller has checked `region` and the length of `out`.
    pub(super) fn resize(
        &mut self,
        image: &RgbImage,
        region: Region,
        (out_height, out_width): (u32, u32),
        out: &mut [u8],
    ) {
        let stride = image.width as usize * 3;
        let start = region.top as usize * stride + region.left as usize * 3;
        let source = Rows {
            bytes: &image.pixels[start..],
            stride,
            row_bytes: region.width as usize * 3,
            height: region.height as usize,
        };
        if out.is_empty() {
            return;
        }
        let order = PassOrder::of(region, out_height, out_width);
        let (across, down) = (region.width != out_width, region.height != out_height);
        if across {
            self.horizontal.compute(region.width, out_width);
        }
        if down {
            self.vertical.compute(region.height, out_height);
        }
        match (across, down) {
            (false, false) => copy(source, out),
            (true, false) => self.across(source, out),
            (false, true) => self.down(source, out),
            (true, true) => self.both(source, order, (out_height, out_width), out),
        }
    }

    fn both(&mut self, source: Rows, order: PassOrder, (out_height, out_width): (u32, u32), out: &mut [u8]) {
        let mut between = std::mem::take(&mut self.between);
        if order == PassOrder::VerticalFirst {
            let row_bytes = source.row_bytes;
            between.resize(row_bytes * out_height as usize, 0);
            self.down(source, &mut between);
            self.across(Rows { bytes: &between, stride: row_bytes, row_bytes, height: out_height as usize }, out);
        } else {
            let needed = self.vertical.needed();
            let row_bytes = out_width as usize * 3;
            between.resize(row_bytes * source.height, 0);
            // Rows outside `needed` are never read by the vertical pass.
            self.across(source.only(needed.clone()), &mut between[needed.start * row_bytes..needed.end * row_bytes]);
            self.down(Rows { bytes: &between, stride: row_bytes, row_bytes, height: source.height }, out);
        }
        self.between = between;
    }

    fn across(&mut self, source: Rows, out: &mut [u8]) {
        dispatch(Across { source, weights: &self.horizontal, padded_row: &mut self.padded_row, out });
    }

    fn down(&mut self, source: Rows, out: &mut [u8]) {
        dispatch(Down { source, weights: &self.vertical, out });
    }
}

fn copy(source: Rows, out: &mut [u8]) {
    for (y, target) in out.chunks_exact_mut(source.row_bytes).enumerate() {
        target.copy_from_slice(source.row(y));
    }
}

#[inline(always)]
fn to_level(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// The horizontal pass: each output pixel from neighbours in its row.
struct Across<'a> {
    source: Rows<'a>,
    weights: &'a Weights,
    padded_row: &'a mut Vec<u8>,
    out: &'a mut [u8],
}

impl Kernel for Across<'_> {
    #[inline(always)]
    fn run(self) {
        let out_row_bytes = self.weights.first.len() * 3;
        self.padded_row.clear();
        self.padded_row.resize(self.source.row_bytes + 1, 0);
        for (y, target) in self.out.chunks_exact_mut(out_row_bytes).enumerate() {
            // One byte of padding, because pixels are read as four bytes: three channels and one that is dropped.
            self.padded_row[..self.source.row_bytes].copy_from_slice(self.source.row(y));
            for (x, pixel) in target.chunks_exact_mut(3).enumerate() {
                let coefficients = self.weights.of(x);
                let taps = &self.padded_row[self.weights.first[x] * 3..][..coefficients.len() * 3 + 1];
                let mut sums = [ROUND; 4];
                for (tap, coefficient) in coefficients.iter().enumerate() {
                    let neighbour = &taps[tap * 3..][..4];
                    for (sum, value) in sums.iter_mut().zip(neighbour) {
                        *sum += i32::from(*value) * coefficient;
                    }
                }
                pixel.copy_from_slice(&[to_level(sums[0]), to_level(sums[1]), to_level(sums[2])]);
            }
        }
    }
}

/// Bytes of a row that the vertical pass sums at a time: as many 32-bit sums as stay in registers.
const BLOCK: usize = 64;

/// The vertical pass: each output row from neighbouring rows.
struct Down<'a> {
    source: Rows<'a>,
    weights: &'a Weights,
    out: &'a mut [u8],
}

impl Kernel for Down<'_> {
    #[inline(always)]
    fn run(self) {
        for (y, target) in self.out.chunks_exact_mut(self.source.row_bytes).enumerate() {
            let coefficients = self.weights.of(y);
            let first = self.weights.first[y];
            let mut blocks = target.chunks_exact_mut(BLOCK);
            let mut start = 0;
            for block in &mut blocks {
                let mut sums = [ROUND; BLOCK];
                for (tap, coefficient) in coefficients.iter().enumerate() {
                    let row = &self.source.row(first + tap)[start..start + BLOCK];
                    for (sum, value) in sums.iter_mut().zip(row) {
                        *sum += i32::from(*value) * coefficient;
                    }
                }
                block.iter_mut().zip(&sums).for_each(|(level, sum)| *level = to_level(*sum));
                start += BLOCK;
            }
            for (offset, level) in blocks.into_remainder().iter_mut().enumerate() {
                let mut sum = ROUND;
                for (tap, coefficient) in coefficients.iter().enumerate() {
                    sum += i32::from(self.source.row(first + tap)[start + offset]) * coefficient;
                }
                *level = to_level(sum);
            }
        }
    }
}
