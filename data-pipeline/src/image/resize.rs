//! Bicubic resizing of a region of an image; which implementation is a choice.

use std::cell::RefCell;

use super::RgbImage;
use super::resampler::Resizer;
use super::weights::Precision;

/// How pixels are resampled. All are Pillow's antialiased bicubic (Catmull-Rom, a = -0.5), not torch's (a = -0.75).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resampling {
    /// 15-bit weights: at least 99.99 % of values within one level of Pillow.
    #[default]
    Fast,
    /// As fast, of JPEGs that are decoded at 1/2 or 1/4 of their size while the view is at least as large as the result:
    /// twice the speed on large photos, other pixels (docs/benchmarks/data-path.md says by how much).
    Scaled,
    /// Every bit as Pillow 13: 22-bit weights, 8 bits between the passes, Pillow's order of the passes.
    PillowExact,
}

/// A rectangle of pixels inside an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First row.
    pub top: u32,
    /// First column.
    pub left: u32,
    /// Number of rows.
    pub height: u32,
    /// Number of columns.
    pub width: u32,
}

impl Region {
    /// The whole of `image`.
    pub fn whole(image: &RgbImage) -> Self {
        Self { top: 0, left: 0, height: image.height, width: image.width }
    }

    fn assert_inside(&self, image: &RgbImage) {
        let inside = self.width > 0
            && self.height > 0
            && u64::from(self.left) + u64::from(self.width) <= u64::from(image.width)
            && u64::from(self.top) + u64::from(self.height) <= u64::from(image.height);
        let bytes = image.width as usize * image.height as usize * 3;
        assert!(
            inside && image.pixels.len() == bytes,
            "{self:?} is not inside an image of {}x{} pixels and {} bytes",
            image.width,
            image.height,
            image.pixels.len()
        );
    }
}

/// Which axis is resampled first. It matters: overshoots are clipped to 0..=255 between the passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PassOrder {
    /// Rows, then columns: every version of Pillow, mostly.
    HorizontalFirst,
    /// Columns, then rows.
    VerticalFirst,
}

impl PassOrder {
    /// The order that Pillow 13 takes: it shrinks the height first when that loses more than twice as many rows as
    /// columns are lost (`Resample.c`, pull request 9549). Older versions always start with the width.
    pub(super) fn of(region: Region, out_height: u32, out_width: u32) -> Self {
        let rows_lost = i64::from(region.height) - i64::from(out_height);
        let columns_lost = i64::from(region.width) - i64::from(out_width);
        if rows_lost > 0 && rows_lost > columns_lost * 2 { Self::VerticalFirst } else { Self::HorizontalFirst }
    }
}

thread_local! {
    /// Working memory of the resampler: contents never outlive a call, so results do not depend on it.
    static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::default());
}

/// Fills `out` with `region` of `image`, cut out first (nothing outside it is sampled) and then resized.
///
/// # Shapes
/// `out`: `[out_height, out_width, 3]`.
///
/// # Panics
/// When the region is empty or reaches outside the image, or `out` has another length.
pub fn resize(
    image: &RgbImage,
    region: Region,
    resampling: Resampling,
    (out_height, out_width): (u32, u32),
    out: &mut [u8],
) {
    region.assert_inside(image);
    assert_eq!(out.len(), out_height as usize * out_width as usize * 3, "bytes of a {out_height}x{out_width} image");
    let precision = match resampling {
        Resampling::Fast | Resampling::Scaled => Precision::Short,
        Resampling::PillowExact => Precision::Pillow,
    };
    RESIZER.with_borrow_mut(|resizer| resizer.resize(image, region, precision, (out_height, out_width), out));
}
