//! From RGB pixels to one slot of a batch: crop, resize, mirror, normalise.
//!
//! The reference is LAVIS' `blip2_image_train` (torchvision `RandomResizedCrop`, `RandomHorizontalFlip`, `ToTensor`,
//! `Normalize`) and `blip_image_eval` (`Resize` to a square, then the same).

use std::cell::RefCell;

use crate::image::{
    DecodeLimits, Flip, ImageError, Normalization, REFERENCE_NORMALIZATION, Region, Resampling, RgbImage, Shrink,
    decode_view, resize,
};
use crate::rng::CounterRng;

/// Width over height of a random crop, torchvision's default, which the reference leaves as it is.
pub const ASPECT: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];
/// Random crops that are tried before the centre crop.
const TRIES: usize = 10;

/// Random crop, resize, random mirroring and normalisation.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainTransform {
    /// Side of the square result, in pixels.
    pub image_size: u32,
    /// Least and greatest share of the image's area that a crop has; the reference uses 0.5 to 1.
    pub scale: [f64; 2],
    /// Least and greatest width over height of a crop; [`ASPECT`] in the reference.
    pub aspect: [f64; 2],
    /// Probability of mirroring; the reference uses 0.5.
    pub flip: f64,
    /// How pixels are resampled.
    pub resampling: Resampling,
    /// Mean and standard deviation per channel.
    pub normalization: Normalization,
}

impl TrainTransform {
    /// The transform of BLIP-2's pre-training (`blip2_image_train`).
    pub fn reference(image_size: u32) -> Self {
        Self {
            image_size,
            scale: [0.5, 1.0],
            aspect: ASPECT,
            flip: 0.5,
            resampling: Resampling::default(),
            normalization: REFERENCE_NORMALIZATION,
        }
    }

    /// Number of values of one transformed image.
    pub fn out_len(&self) -> usize {
        out_len(self.image_size)
    }

    /// Fills `out` with a random view of an encoded image: what [`apply`](Self::apply) makes of the decoded one, bit
    /// by bit unless `resampling` is [`Resampling::Scaled`], for less work because only the crop is decoded.
    ///
    /// # Shapes
    /// `out`: `[3, image_size, image_size]`.
    ///
    /// # Errors
    /// Those of [`decode`](crate::image::decode).
    ///
    /// # Panics
    /// When `out` has another length.
    pub fn load(
        &self,
        encoded: &[u8],
        limits: &DecodeLimits,
        rng: &mut CounterRng,
        out: &mut [f32],
    ) -> Result<(), ImageError> {
        let shrink = match self.resampling {
            Resampling::Scaled => Shrink::To { height: self.image_size, width: self.image_size },
            Resampling::Fast | Resampling::PillowExact => Shrink::Never,
        };
        let mut mirrored = Flip::No;
        DECODED.with_borrow_mut(|image| {
            let choose = |width, height| {
                let (region, flip) = self.draw(width, height, rng);
                mirrored = flip;
                region
            };
            let region = decode_view(encoded, limits, shrink, choose, image)?;
            self.apply_view(image, region, mirrored, out);
            Ok(())
        })
    }

    /// Fills `out` with a random view of `image`. Equal keys of `rng` give equal views.
    ///
    /// # Shapes
    /// `out`: `[3, image_size, image_size]`.
    ///
    /// # Panics
    /// When `out` has another length, or `image` is empty or inconsistent.
    pub fn apply(&self, image: &RgbImage, rng: &mut CounterRng, out: &mut [f32]) {
        let (region, flip) = self.draw(image.width, image.height, rng);
        self.apply_view(image, region, flip, out);
    }

    /// The crop and mirroring of one view: [`random_crop`], then one draw for the mirroring.
    pub fn draw(&self, width: u32, height: u32, rng: &mut CounterRng) -> (Region, Flip) {
        let region = random_crop(width, height, self.scale, self.aspect, rng);
        (region, if rng.chance(self.flip) { Flip::Horizontal } else { Flip::No })
    }

    /// Fills `out` with a view that was drawn before.
    ///
    /// # Shapes
    /// `out`: `[3, image_size, image_size]`.
    ///
    /// # Panics
    /// When `out` has another length or the region reaches outside the image.
    pub fn apply_view(&self, image: &RgbImage, region: Region, flip: Flip, out: &mut [f32]) {
        write_view(image, region, flip, self.resampling, (self.image_size, self.normalization), out);
    }
}

/// Resize to a square without keeping the aspect, and normalisation.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalTransform {
    /// Side of the square result, in pixels.
    pub image_size: u32,
    /// How pixels are resampled.
    pub resampling: Resampling,
    /// Mean and standard deviation per channel.
    pub normalization: Normalization,
}

impl EvalTransform {
    /// The transform of BLIP-2's evaluations (`blip_image_eval`).
    pub fn reference(image_size: u32) -> Self {
        Self { image_size, resampling: Resampling::default(), normalization: REFERENCE_NORMALIZATION }
    }

    /// Number of values of one transformed image.
    pub fn out_len(&self) -> usize {
        out_len(self.image_size)
    }

    /// Fills `out` with the whole of `image`.
    ///
    /// # Shapes
    /// `out`: `[3, image_size, image_size]`.
    ///
    /// # Panics
    /// When `out` has another length, or `image` is empty or inconsistent.
    pub fn apply(&self, image: &RgbImage, out: &mut [f32]) {
        let size_and_normalization = (self.image_size, self.normalization);
        write_view(image, Region::whole(image), Flip::No, self.resampling, size_and_normalization, out);
    }
}

fn out_len(image_size: u32) -> usize {
    3 * image_size as usize * image_size as usize
}

thread_local! {
    /// Pixels of the image being decoded; the memory is used again by the next one.
    static DECODED: RefCell<RgbImage> = const { RefCell::new(RgbImage { width: 0, height: 0, pixels: Vec::new() }) };
    /// The resized pixels of the view being made; contents never outlive a call.
    static RESIZED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn write_view(
    image: &RgbImage,
    region: Region,
    flip: Flip,
    resampling: Resampling,
    (image_size, normalization): (u32, Normalization),
    out: &mut [f32],
) {
    assert_eq!(out.len(), out_len(image_size), "values of a {image_size}x{image_size} image");
    RESIZED.with_borrow_mut(|resized| {
        resized.resize(out.len(), 0);
        resize(image, region, resampling, (image_size, image_size), resized);
        normalization.apply(resized, image_size as usize, flip, out);
    });
}

/// A crop as torchvision's `RandomResizedCrop.get_params` draws it.
///
/// Area uniform in `scale` times the image's area, aspect log-uniform in `aspect`, sides rounded half to even, position
/// uniform; up to ten tries, of which the first that fits inside the image counts. Each try draws area and aspect, and
/// the one that fits row and column too. If none fits, the largest centred crop whose aspect is inside `aspect`.
pub fn random_crop(width: u32, height: u32, scale: [f64; 2], aspect: [f64; 2], rng: &mut CounterRng) -> Region {
    let image_area = f64::from(width) * f64::from(height);
    let log_aspect = aspect.map(f64::ln);
    for _ in 0..TRIES {
        let area = image_area * rng.uniform(scale[0], scale[1]);
        let ratio = rng.uniform(log_aspect[0], log_aspect[1]).exp();
        let crop_width = (area * ratio).sqrt().round_ties_even();
        let crop_height = (area / ratio).sqrt().round_ties_even();
        let fits = |side: f64, limit: u32| side >= 1.0 && side <= f64::from(limit);
        if fits(crop_width, width) && fits(crop_height, height) {
            let (crop_width, crop_height) = (crop_width as u32, crop_height as u32);
            let top = rng.below(u64::from(height - crop_height) + 1) as u32;
            let left = rng.below(u64::from(width - crop_width) + 1) as u32;
            return Region { top, left, height: crop_height, width: crop_width };
        }
    }
    centre_crop(width, height, aspect)
}

/// The largest centred crop whose width over height is inside `aspect`; torchvision's fallback.
fn centre_crop(width: u32, height: u32, aspect: [f64; 2]) -> Region {
    let ratio = f64::from(width) / f64::from(height);
    // A side of at least 1, which torchvision does not ensure for images one pixel wide.
    let side = |value: f64, limit: u32| (value.round_ties_even() as u32).clamp(1, limit);
    let (crop_width, crop_height) = if ratio < aspect[0] {
        (width, side(f64::from(width) / aspect[0], height))
    } else if ratio > aspect[1] {
        (side(f64::from(height) * aspect[1], width), height)
    } else {
        (width, height)
    };
    Region { top: (height - crop_height) / 2, left: (width - crop_width) / 2, height: crop_height, width: crop_width }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Purpose;

    proptest! {
        #[test]
        fn crops_are_never_empty_and_never_outside(
            width in 1u32..5000, height in 1u32..5000, low in 0.01f64..1.0, high in 0.01f64..1.0, key: u64,
        ) {
            let mut rng = CounterRng::new(key, Purpose::Augment, &[0, 0]);
            let crop = random_crop(width, height, [low.min(high), low.max(high)], ASPECT, &mut rng);
            prop_assert!(crop.width >= 1 && crop.left + crop.width <= width, "{:?}", crop);
            prop_assert!(crop.height >= 1 && crop.top + crop.height <= height, "{:?}", crop);
        }
    }

    #[test]
    fn an_image_too_wide_or_tall_gets_the_centre() {
        // torchvision 0.26: round(120 * 4/3) = 160, (400 - 160) // 2 = 120; round(37 / 0.75) = 49, (301 - 49) // 2.
        assert_eq!(centre_crop(400, 120, ASPECT), Region { top: 0, left: 120, height: 120, width: 160 });
        assert_eq!(centre_crop(37, 301, ASPECT), Region { top: 126, left: 0, height: 49, width: 37 });
        assert_eq!(centre_crop(100, 90, ASPECT), Region { top: 0, left: 0, height: 90, width: 100 });
    }

    #[test]
    fn the_same_key_gives_the_same_view_and_another_key_another() {
        let image = RgbImage { width: 40, height: 30, pixels: (0..40 * 30 * 3).map(|i| (i * 7 % 256) as u8).collect() };
        let transform = TrainTransform::reference(16);
        let view = |counters: &[u64]| {
            let mut out = vec![0.0; transform.out_len()];
            transform.apply(&image, &mut CounterRng::new(1, Purpose::Augment, counters), &mut out);
            out
        };
        assert_eq!(view(&[0, 5]), view(&[0, 5]));
        assert_ne!(view(&[0, 5]), view(&[1, 5]));
        assert_ne!(view(&[0, 5]), view(&[0, 6]));
    }
}
