//! 8-bit pixels to the floating-point layout of the image encoder.

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
        dispatch(Planes { normalization: *self, pixels, width, flip, out });
    }

    /// The result for each of the 256 values of one channel.
    fn table(&self, channel: usize) -> [f32; 256] {
        std::array::from_fn(|value| (value as f32 / 255.0 - self.mean[channel]) / self.std[channel])
    }
}

struct Planes<'a> {
    normalization: Normalization,
    pixels: &'a [u8],
    width: usize,
    flip: Flip,
    out: &'a mut [f32],
}

impl Kernel for Planes<'_> {
    #[inline(always)]
    fn run(self) {
        let plane = self.out.len() / 3;
        let tables: [[f32; 256]; 3] = std::array::from_fn(|channel| self.normalization.table(channel));
        let (red, rest) = self.out.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        let rows = self.pixels.chunks_exact(self.width * 3);
        let planes = red
            .chunks_exact_mut(self.width)
            .zip(green.chunks_exact_mut(self.width))
            .zip(blue.chunks_exact_mut(self.width));
        for (row, ((red, green), blue)) in rows.zip(planes) {
            let targets = red.iter_mut().zip(green.iter_mut()).zip(blue.iter_mut());
            let fill = |(((red, green), blue), pixel): (((&mut f32, &mut f32), &mut f32), &[u8])| {
                *red = tables[0][pixel[0] as usize];
                *green = tables[1][pixel[1] as usize];
                *blue = tables[2][pixel[2] as usize];
            };
            match self.flip {
                Flip::No => targets.zip(row.chunks_exact(3)).for_each(fill),
                Flip::Horizontal => targets.zip(row.chunks_exact(3).rev()).for_each(fill),
            }
        }
    }
}
