//! Resizing by `fast_image_resize`: SIMD, 15-bit coefficients.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions};

use super::resize::PassOrder;
use super::{Region, RgbImage};

/// One type for both passes: the library's loops are compiled once per type, which takes a while.
type View<'a> = TypedCroppedImage<'a, TypedImageRef<'a, U8x3>>;

fn view(pixels: &[u8], (width, height): (u32, u32), region: Region) -> View<'_> {
    let whole =
        TypedImageRef::from_buffer(width, height, pixels).expect("invariant: pixels has width x height x 3 bytes");
    TypedCroppedImage::new(whole, region.left, region.top, region.width, region.height)
        .expect("invariant: the region is inside the image")
}

/// A resizer that keeps its working memory.
#[derive(Default)]
pub(super) struct Resizer {
    inner: fast_image_resize::Resizer,
    between: Vec<u8>,
}

impl Resizer {
    /// The caller has checked `region` and the length of `out`.
    ///
    /// One pass per call of the library: it would choose the order of the passes itself, and where bright and dark
    /// meet the other order is off by up to 20 levels (0.8 % of the values of the fixture by more than one).
    pub(super) fn resize(
        &mut self,
        image: &RgbImage,
        region: Region,
        (out_height, out_width): (u32, u32),
        out: &mut [u8],
    ) {
        // A real crop: `ResizeOptions::crop` would sample pixels outside the region.
        let source = view(&image.pixels, (image.width, image.height), region);
        if region.width == out_width || region.height == out_height {
            return self.pass(&source, (out_height, out_width), out);
        }
        let (height, width) = match PassOrder::of(region, out_height, out_width) {
            PassOrder::HorizontalFirst => (region.height, out_width),
            PassOrder::VerticalFirst => (out_height, region.width),
        };
        let mut between = std::mem::take(&mut self.between);
        between.resize(height as usize * width as usize * 3, 0);
        self.pass(&source, (height, width), &mut between);
        let halfway = view(&between, (width, height), Region { top: 0, left: 0, height, width });
        self.pass(&halfway, (out_height, out_width), out);
        self.between = between;
    }

    fn pass(&mut self, source: &View, (height, width): (u32, u32), out: &mut [u8]) {
        let mut target =
            TypedImage::<U8x3>::from_buffer(width, height, out).expect("invariant: out has height x width x 3 bytes");
        let bicubic = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom)).use_alpha(false);
        self.inner.resize_typed(source, &mut target, &bicubic).expect("invariant: a view is its own crop box");
    }
}
