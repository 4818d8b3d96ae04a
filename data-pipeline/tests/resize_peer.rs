//! The fast resampler gives the bits of `fast_image_resize`, one pass at a time in Pillow's order, at every size.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use data_pipeline::image::{Region, Resampling, RgbImage, resize};
use fast_image_resize as fir;
use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use proptest::prelude::*;

/// One pass of the peer: `region` of an image of this width and height to `target`.
fn pass(pixels: &[u8], (width, height): (u32, u32), region: Region, target: (u32, u32)) -> Vec<u8> {
    let whole = TypedImageRef::<U8x3>::from_buffer(width, height, pixels).unwrap();
    let view = TypedCroppedImage::new(whole, region.left, region.top, region.width, region.height).unwrap();
    let mut out = vec![0; target.0 as usize * target.1 as usize * 3];
    let mut resized = TypedImage::<U8x3>::from_buffer(target.0, target.1, &mut out).unwrap();
    let bicubic =
        fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::CatmullRom)).use_alpha(false);
    fir::Resizer::new().resize_typed(&view, &mut resized, &bicubic).unwrap();
    out
}

/// Both passes; Pillow 13 shrinks the height first when that loses more than twice as many rows as columns.
fn peer(image: &RgbImage, region: Region, (out_width, out_height): (u32, u32)) -> Vec<u8> {
    let size = (image.width, image.height);
    if region.width == out_width || region.height == out_height {
        return pass(&image.pixels, size, region, (out_width, out_height));
    }
    let rows_lost = i64::from(region.height) - i64::from(out_height);
    let columns_lost = i64::from(region.width) - i64::from(out_width);
    let vertical_first = rows_lost > 0 && rows_lost > columns_lost * 2;
    let (width, height) = if vertical_first { (region.width, out_height) } else { (out_width, region.height) };
    let between = pass(&image.pixels, size, region, (width, height));
    pass(&between, (width, height), Region { top: 0, left: 0, height, width }, (out_width, out_height))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_bit_is_the_peers(
        width in 1u32..400, height in 1u32..400, out_width in 1u32..260, out_height in 1u32..260,
        edges in prop::array::uniform4(0.0f64..1.0), contrast in 0u64..3, key: u64,
    ) {
        let noise = |index: u64| (index ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        // Noise, stripes of black and white whose overshoots are clipped, and a gradient.
        let level = |index: u64| match contrast {
            0 => noise(index) as u8,
            1 => 255 * (noise(index / 21) & 1) as u8,
            _ => (index / 7) as u8,
        };
        let pixels = (0..u64::from(width * height) * 3).map(level).collect();
        let image = RgbImage { width, height, pixels };
        let part = |share: f64, most: u32| (f64::from(most) * share) as u32;
        let (top, left) = (part(edges[0], height), part(edges[1], width));
        let region = Region {
            top, left, height: 1 + part(edges[2], height - top - 1), width: 1 + part(edges[3], width - left - 1),
        };
        let mut ours = vec![0; (out_width * out_height * 3) as usize];
        resize(&image, region, Resampling::Fast, (out_height, out_width), &mut ours);
        prop_assert!(ours == peer(&image, region, (out_width, out_height)), "{:?}", region);
    }
}
