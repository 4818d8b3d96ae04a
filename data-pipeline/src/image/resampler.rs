//! Bicubic resizing in two passes with 8 bits between them, as Pillow's `Image.resize(…, BICUBIC)` does it
//! (Pillow 13.0.0, `src/libImaging/Resample.c`).
//!
//! With [`Precision::Pillow`] every bit is Pillow's. A 22-bit weight is multiplied as two 16-bit numbers, whose sums of
//! products fit 32 bits.

use super::resize::PassOrder;
use super::simd::{Lane, Vector, VectorKernel, dispatch_vector};
use super::weights::{GROUP, Precision, Weights};
use super::{Region, RgbImage};

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

    /// Bytes from one place of a row on; those behind the end of the buffer are 0.
    #[inline(always)]
    fn lane(&self, y: usize, at: usize) -> Lane {
        let rest = &self.bytes[y * self.stride + at..];
        match rest.first_chunk() {
            Some(lane) => *lane,
            None => std::array::from_fn(|i| rest.get(i).copied().unwrap_or(0)),
        }
    }

    /// The same rows without those outside `range`.
    fn only(&self, range: std::ops::Range<usize>) -> Self {
        Self { bytes: &self.bytes[range.start * self.stride..], height: range.len(), ..*self }
    }
}

/// A resizer that keeps its working memory.
#[derive(Default)]
pub(super) struct Resizer {
    horizontal: Weights,
    vertical: Weights,
    between: Vec<u8>,
    columns: Vec<Column>,
}

impl Resizer {
    /// The caller has checked `region` and the length of `out`.
    pub(super) fn resize(
        &mut self,
        image: &RgbImage,
        region: Region,
        precision: Precision,
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
            self.horizontal.compute(region.width, out_width, precision);
        }
        if down {
            self.vertical.compute(region.height, out_height, precision);
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
            let needed = self.vertical.needed(source.height);
            let row_bytes = out_width as usize * 3;
            between.resize(row_bytes * source.height, 0);
            // Rows outside `needed` weigh nothing in the vertical pass.
            self.across(source.only(needed.clone()), &mut between[needed.start * row_bytes..needed.end * row_bytes]);
            self.down(Rows { bytes: &between, stride: row_bytes, row_bytes, height: source.height }, out);
        }
        self.between = between;
    }

    fn across(&mut self, source: Rows, out: &mut [u8]) {
        dispatch_vector(Across { source, weights: &self.horizontal, columns: &mut self.columns, out });
    }

    fn down(&mut self, source: Rows, out: &mut [u8]) {
        dispatch_vector(Down { source, weights: &self.vertical, out });
    }
}

fn copy(source: Rows, out: &mut [u8]) {
    for (y, target) in out.chunks_exact_mut(source.row_bytes).enumerate() {
        target.copy_from_slice(source.row(y));
    }
}

/// The level that values and their weights sum up to.
fn to_level(weights: &Weights, taps: impl Iterator<Item = (u8, i32)>) -> u8 {
    let sum: i32 = taps.map(|(value, weight)| i32::from(value) * weight).sum();
    ((sum + weights.half()) >> weights.bits).clamp(0, 255) as u8
}

/// The sources of four vectors of sums. A trait, because a closure would be compiled without the processor features of
/// the loop that it is inlined into.
trait Taps<V: Vector> {
    /// For each sum, a vector of pairs of 16-bit values; must be `#[inline(always)]`.
    fn pair(&self, v: V, pair: usize) -> [V::Bytes; GROUP];
}

/// Levels before clipping: the products of the taps with the weights of these outputs.
#[inline(always)]
fn weigh<V: Vector>(v: V, weights: &Weights, outs: [usize; GROUP], taps: &impl Taps<V>) -> [V::Bytes; GROUP] {
    let mut sums = [v.splat(weights.half()); GROUP];
    let low = outs.map(|out| &weights.low[out * weights.pairs..][..weights.pairs]);
    if weights.high.is_empty() {
        for pair in 0..weights.pairs {
            add_products(v, &mut sums, &taps.pair(v, pair), low.map(|low| low[pair]));
        }
    } else {
        let high = outs.map(|out| &weights.high[out * weights.pairs..][..weights.pairs]);
        let mut high_sums = [v.splat(0); GROUP];
        for pair in 0..weights.pairs {
            let values = taps.pair(v, pair);
            add_products(v, &mut sums, &values, low.map(|low| low[pair]));
            add_products(v, &mut high_sums, &values, high.map(|high| high[pair]));
        }
        for (sum, high) in sums.iter_mut().zip(&high_sums) {
            *sum = v.add(*sum, v.shift_up(*high));
        }
    }
    for sum in &mut sums {
        *sum = v.shift_down(*sum, weights.bits);
    }
    sums
}

#[inline(always)]
fn add_products<V: Vector>(v: V, sums: &mut [V::Bytes; GROUP], values: &[V::Bytes; GROUP], weights: [i32; GROUP]) {
    for i in 0..GROUP {
        sums[i] = v.add(sums[i], v.multiply_pairs(values[i], v.splat(weights[i])));
    }
}

/// The pixels of several rows in one column and in the next, as pairs of 16-bit numbers: one lane is one row's red,
/// green, blue and nothing.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Column([u8; 64]);

/// For each of a group of outputs the columns that it is made from, those of a pair together.
struct ColumnTaps<'a>([&'a [[Column; 2]]; GROUP]);

impl<V: Vector> Taps<V> for ColumnTaps<'_> {
    #[inline(always)]
    fn pair(&self, v: V, pair: usize) -> [V::Bytes; GROUP] {
        let mut values = [v.splat(0); GROUP];
        for (value, columns) in values.iter_mut().zip(self.0) {
            *value = v.load(&columns[pair][0].0);
        }
        values
    }
}

/// Where the bytes of a pixel and the next lie in a lane that starts with pixel 0, for pixels 0 to 3.
const PAIRS: [Lane; GROUP] = {
    let mut patterns = [[0x80; 16]; GROUP];
    let mut pixel = 0;
    while pixel < GROUP {
        let mut channel = 0;
        while channel < 3 {
            patterns[pixel][channel * 4] = (pixel * 3 + channel) as u8;
            patterns[pixel][channel * 4 + 2] = (pixel * 3 + 3 + channel) as u8;
            channel += 1;
        }
        pixel += 1;
    }
    patterns
};
/// Takes every fourth byte out of a lane of four pixels.
const DENSE: Lane = [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 0x80, 0x80, 0x80, 0x80];

/// The four pixels of a lane, or as many as the row still takes. Rows are written from left to right, so that a whole
/// lane may be stored where there is room: its last bytes are written over.
#[inline(always)]
fn write_pixels(lane: &Lane, rest_of_row: &mut [u8]) {
    match rest_of_row.first_chunk_mut::<16>() {
        Some(target) => *target = *lane,
        None => rest_of_row.iter_mut().zip(&lane[..12]).for_each(|(target, level)| *target = *level),
    }
}

/// The horizontal pass: each output pixel from neighbours in its row.
struct Across<'a> {
    source: Rows<'a>,
    weights: &'a Weights,
    columns: &'a mut Vec<Column>,
    out: &'a mut [u8],
}

impl Across<'_> {
    /// Fills `columns` from rows `y` and following; behind the last row it is repeated.
    #[inline(always)]
    fn spread<V: Vector>(&mut self, v: V, y: usize, patterns: [V::Bytes; GROUP]) {
        let source = self.source;
        let rows: [usize; 4] = std::array::from_fn(|lane| (y + lane).min(source.height - 1));
        let width = source.row_bytes / 3;
        for (group, columns) in self.columns[..width.next_multiple_of(GROUP)].chunks_exact_mut(GROUP).enumerate() {
            let at = group * GROUP * 3;
            let mut lanes = [[0; 16]; 4];
            for (lane, row) in lanes.iter_mut().zip(rows).take(V::LANES) {
                *lane = source.lane(row, at);
            }
            let pixels = v.join(&lanes);
            for (column, pattern) in columns.iter_mut().zip(patterns) {
                v.store(v.shuffle(pixels, pattern), &mut column.0);
            }
        }
    }
}

impl VectorKernel for Across<'_> {
    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let out_width = self.out.len() / self.source.height / 3;
        let width = self.source.row_bytes / 3;
        // Pairs behind the last column weigh nothing.
        self.columns.resize(width + 2 * self.weights.pairs + GROUP, Column([0; 64]));
        let patterns = PAIRS.map(|pattern| v.repeat(pattern));
        let dense = v.repeat(DENSE);
        let mut levels = [0; 64];
        for y in (0..self.source.height).step_by(V::LANES) {
            self.spread(v, y, patterns);
            let rows = V::LANES.min(self.source.height - y);
            for x in (0..out_width).step_by(GROUP) {
                let outs = std::array::from_fn(|i| x + i);
                let columns = outs.map(|out| self.columns[self.weights.first[out]..].as_chunks().0);
                let taps = ColumnTaps(columns.map(|columns| &columns[..self.weights.pairs]));
                let sums = weigh(v, self.weights, outs, &taps);
                v.store(v.shuffle(v.to_levels(sums), dense), &mut levels);
                for (row, lane) in levels.as_chunks::<16>().0.iter().take(rows).enumerate() {
                    write_pixels(lane, &mut self.out[((y + row) * out_width + x) * 3..((y + row) + 1) * out_width * 3]);
                }
            }
        }
    }

    fn run_scalar(self) {
        let out_row_bytes = self.out.len() / self.source.height;
        for (y, target) in self.out.chunks_exact_mut(out_row_bytes).enumerate() {
            let row = self.source.row(y);
            for (i, level) in target.iter_mut().enumerate() {
                let taps = row[self.weights.first[i / 3] * 3..].iter().skip(i % 3).step_by(3);
                *level = to_level(self.weights, taps.copied().zip(self.weights.of(i / 3)));
            }
        }
    }
}

/// A block of bytes of neighbouring rows.
struct RowTaps<'a> {
    source: Rows<'a>,
    first: usize,
    start: usize,
}

impl<V: Vector> Taps<V> for RowTaps<'_> {
    #[inline(always)]
    fn pair(&self, v: V, pair: usize) -> [V::Bytes; GROUP] {
        // Rows behind the last one weigh nothing.
        let last = self.source.height - 1;
        let (upper, lower) = ((self.first + 2 * pair).min(last), (self.first + 2 * pair + 1).min(last));
        let upper = v.load(&self.source.row(upper)[self.start..]);
        let lower = v.load(&self.source.row(lower)[self.start..]);
        let [first, second] = v.interleave(upper, lower);
        let ([a, b], [c, d]) = (v.interleave(first, v.splat(0)), v.interleave(second, v.splat(0)));
        [a, b, c, d]
    }
}

/// The vertical pass: each output row from neighbouring rows.
struct Down<'a> {
    source: Rows<'a>,
    weights: &'a Weights,
    out: &'a mut [u8],
}

impl VectorKernel for Down<'_> {
    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let (block, row_bytes) = (V::LANES * 16, self.source.row_bytes);
        if row_bytes < block {
            return self.run_scalar();
        }
        for (y, target) in self.out.chunks_exact_mut(row_bytes).enumerate() {
            let first = self.weights.first[y];
            for start in (0..row_bytes).step_by(block) {
                // The last block begins earlier, so that it ends with the row: bytes made twice are equal.
                let start = start.min(row_bytes - block);
                let sums = weigh(v, self.weights, [y; GROUP], &RowTaps { source: self.source, first, start });
                v.store(v.to_levels(sums), &mut target[start..]);
            }
        }
    }

    fn run_scalar(self) {
        for (y, target) in self.out.chunks_exact_mut(self.source.row_bytes).enumerate() {
            let rows = self.weights.first[y]..self.source.height;
            for (i, level) in target.iter_mut().enumerate() {
                let taps = rows.clone().map(|row| self.source.row(row)[i]);
                *level = to_level(self.weights, taps.zip(self.weights.of(y)));
            }
        }
    }
}
