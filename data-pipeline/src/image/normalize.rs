//! 8-bit pixels to the floating-point layout of the image encoder.

use std::cell::RefCell;

use super::simd::{Kernel, dispatch};

/// Mean and standard deviation per channel of pixel values in 0..=1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalization {
    /// Subtracted, red green blue.
    pub mean: [f32; 3],
    /// Divided by.
    pub std: [f32; 3],
}

/// The constants of CLIP, used by every BLIP-2 model (LAVIS `blip_processors.py`, `BlipImageBaseProcessor`).
#[allow(clippy::excessive_precision, reason = "the digits are the published ones")]
pub const REFERENCE_NORMALIZATION: Normalization =
    Normalization { mean: [0.481_454_66, 0.457_827_5, 0.408_210_73], std: [0.268_629_54, 0.261_302_58, 0.275_777_11] };

/// Whether an image is mirrored left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flip {
    /// As it is.
    No,
    /// Mirrored.
    Horizontal,
}

impl Normalization {
    /// Fills `out` with `(pixel / 255 - mean) / std`, one plane per channel, mirrored if asked for.
    ///
    /// The operations and their order are torchvision's `ToTensor` and `Normalize`, so values are bit-exact.
    ///
    /// # Shapes
    /// - `pixels`: `[H, W, 3]`
    /// - `out`: `[3, H, W]`
    ///
    /// # Panics
    /// When `pixels` and `out` differ in length or are not whole rows of `width` pixels.
    pub fn apply(&self, pixels: &[u8], width: usize, flip: Flip, out: &mut [f32]) {
        assert_eq!(pixels.len(), out.len(), "pixels and out hold the same number of values");
        assert!(width > 0 && pixels.len().is_multiple_of(width * 3), "pixels are whole rows of {width}");
        LEVELS.with_borrow_mut(|levels| {
            if levels.as_ref().is_none_or(|known| known.normalization != *self) {
                *levels = Some(Levels::new(*self));
            }
            let levels = levels.as_ref().expect("invariant: set above");
            dispatch(Planes { levels, pixels, width, flip, out });
        });
    }
}

thread_local! {
    /// What was computed of the last normalisation: a run has one.
    static LEVELS: RefCell<Option<Levels>> = const { RefCell::new(None) };
}

/// The results for the 256 levels of each channel.
struct Levels {
    normalization: Normalization,
    tables: [[f32; 256]; 3],
    /// Whether [`by_arithmetic`](Self::by_arithmetic) gives the very bits of the tables.
    arithmetic_is_exact: bool,
}

impl Levels {
    fn new(normalization: Normalization) -> Self {
        let Normalization { mean, std } = normalization;
        let table = |channel: usize| std::array::from_fn(|level| (level as f32 / 255.0 - mean[channel]) / std[channel]);
        let mut levels = Self { normalization, tables: std::array::from_fn(table), arithmetic_is_exact: false };
        levels.arithmetic_is_exact = (0..=255u8).all(|level| {
            let equal =
                |c: usize| levels.by_arithmetic(c, level).to_bits() == levels.tables[c][level as usize].to_bits();
            (0..3).all(equal)
        });
        levels
    }

    /// Two divisions by multiplication with the inverse and one step of correction (Markstein 1990), which is much
    /// faster in vectors than either divisions or a table.
    #[inline(always)]
    fn by_arithmetic(&self, channel: usize, level: u8) -> f32 {
        let divide = |value: f32, divisor: f32, inverse: f32| {
            let quotient = value * inverse;
            (-quotient).mul_add(divisor, value).mul_add(inverse, quotient)
        };
        let Normalization { mean, std } = self.normalization;
        divide(divide(f32::from(level), 255.0, 1.0 / 255.0) - mean[channel], std[channel], 1.0 / std[channel])
    }
}

struct Planes<'a> {
    levels: &'a Levels,
    pixels: &'a [u8],
    width: usize,
    flip: Flip,
    out: &'a mut [f32],
}

impl Planes<'_> {
    #[inline(always)]
    fn fill(self, value: impl Fn(usize, u8) -> f32) {
        let plane = self.out.len() / 3;
        let (red, rest) = self.out.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        let planes = red
            .chunks_exact_mut(self.width)
            .zip(green.chunks_exact_mut(self.width))
            .zip(blue.chunks_exact_mut(self.width));
        for (row, ((red, green), blue)) in self.pixels.chunks_exact(self.width * 3).zip(planes) {
            let targets = red.iter_mut().zip(green.iter_mut()).zip(blue.iter_mut());
            let fill = |(((red, green), blue), pixel): (((&mut f32, &mut f32), &mut f32), &[u8; 3])| {
                *red = value(0, pixel[0]);
                *green = value(1, pixel[1]);
                *blue = value(2, pixel[2]);
            };
            let pixels = row.as_chunks().0.iter();
            match self.flip {
                Flip::No => targets.zip(pixels).for_each(fill),
                Flip::Horizontal => targets.zip(pixels.rev()).for_each(fill),
            }
        }
    }
}

impl Kernel for Planes<'_> {
    #[inline(always)]
    fn run(self, fused: bool) {
        let levels = self.levels;
        if fused && levels.arithmetic_is_exact {
            self.fill(|channel, level| levels.by_arithmetic(channel, level));
        } else {
            self.fill(|channel, level| levels.tables[channel][level as usize]);
        }
    }
}
