//! A view decoded by itself is the view cut out of a full decode, for every kind of JPEG, sound or damaged.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::LazyLock;

use data_pipeline::image::{DecodeLimits, Region, Resampling, RgbImage, Shrink, decode, decode_view, resize};
use proptest::prelude::*;
use turbojpeg::{Compressor, PixelFormat, Subsamp};

/// Noise over a gradient, so that every chroma sample differs from its neighbours.
fn jpeg(width: usize, height: usize, subsampling: Subsamp, progressive: bool) -> Vec<u8> {
    let level = |index: usize| {
        let (pixel, channel) = (index / 3, index % 3);
        let noise = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        (pixel % width * 3 + pixel / width * 2 * channel) as u8 / 2 + noise as u8
    };
    let pixels: Vec<u8> = (0..width * height * 3).map(level).collect();
    let mut compressor = Compressor::new().unwrap();
    compressor.set_subsamp(subsampling).unwrap();
    compressor.set_quality(92).unwrap();
    compressor.set_progressive(progressive).unwrap();
    let image =
        turbojpeg::Image { pixels: pixels.as_slice(), width, pitch: width * 3, height, format: PixelFormat::RGB };
    compressor.compress_to_vec(image).unwrap()
}

/// Every kind of chroma subsampling, baseline and progressive, at an odd and at an even size.
static KINDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut files = Vec::new();
    for subsampling in [
        Subsamp::None,
        Subsamp::Sub2x1,
        Subsamp::Sub2x2,
        Subsamp::Gray,
        Subsamp::Sub1x2,
        Subsamp::Sub4x1,
        Subsamp::Sub1x4,
    ] {
        for progressive in [false, true] {
            files.push(jpeg(101, 75, subsampling, progressive));
            files.push(jpeg(160, 128, subsampling, progressive));
        }
    }
    files
});

fn cut_out(image: &RgbImage, region: Region) -> Vec<u8> {
    let row = |y: u32| {
        let start = (y as usize * image.width as usize + region.left as usize) * 3;
        &image.pixels[start..start + region.width as usize * 3]
    };
    (region.top..region.top + region.height).flat_map(row).copied().collect()
}

/// A region by shares of what is possible.
fn region_of(shares: [f64; 4], width: u32, height: u32) -> Region {
    let part = |share: f64, most: u32| ((f64::from(most) * share) as u32).min(most);
    let (crop_width, crop_height) = (1 + part(shares[0], width - 1), 1 + part(shares[1], height - 1));
    let (left, top) = (part(shares[2], width - crop_width), part(shares[3], height - crop_height));
    Region { top, left, height: crop_height, width: crop_width }
}

/// The view, or the reason why there is none: once by itself, once from a full decode.
fn both_ways(bytes: &[u8], shares: [f64; 4]) -> [Result<Vec<u8>, &'static str>; 2] {
    let limits = DecodeLimits { max_pixels: 1 << 20, ..DecodeLimits::default() };
    let mut image = RgbImage::default();
    let choose = |width, height| region_of(shares, width, height);
    let partly = decode_view(bytes, &limits, Shrink::Never, choose, &mut image);
    let partly = partly.map(|region| cut_out(&image, region)).map_err(|error| error.reason());
    let wholly = decode(bytes, &limits);
    let wholly = wholly.map(|image| cut_out(&image, region_of(shares, image.width, image.height)));
    [partly, wholly.map_err(|error| error.reason())]
}

#[test]
fn a_part_of_every_kind_of_jpeg_is_what_a_full_decode_holds_there() {
    let steps = [0.0, 0.07, 0.33, 0.5, 0.71, 0.93, 1.0];
    for (index, bytes) in KINDS.iter().enumerate() {
        for (a, across) in steps.iter().enumerate() {
            for (b, down) in steps.iter().enumerate() {
                let shares = [*across, *down, steps[(a * 3 + b) % 7], steps[(b * 5 + a) % 7]];
                let [partly, wholly] = both_ways(bytes, shares);
                assert!(partly == wholly && wholly.is_ok(), "file {index}, {shares:?}");
            }
        }
    }
}

#[test]
fn less_is_decoded_than_the_whole_image() {
    let mut image = RgbImage::default();
    let choose = |_, _| Region { top: 30, left: 60, height: 40, width: 50 };
    let bytes = jpeg(160, 128, Subsamp::Sub2x2, false);
    let view = decode_view(&bytes, &DecodeLimits::default(), Shrink::Never, choose, &mut image).unwrap();
    assert_eq!((image.width, image.height, view.left, view.top), (64, 40, 12, 0));
}

#[test]
fn a_shrunk_view_is_close_to_the_full_one_and_never_smaller_than_asked() {
    for bytes in KINDS.iter() {
        let mut image = RgbImage::default();
        let (least, limits) = (Shrink::To { height: 20, width: 20 }, DecodeLimits::default());
        let choose = |width, height| Region { top: 5, left: 9, height: height - 9, width: width - 11 };
        let view = decode_view(bytes, &limits, least, choose, &mut image).unwrap();
        assert!(view.height >= 20 && view.height <= 60 && view.width >= 20 && view.width <= 75, "{view:?}");
        let full = decode(bytes, &limits).unwrap();
        let mut small = vec![0; 20 * 20 * 3];
        let mut large = vec![0; 20 * 20 * 3];
        resize(&image, view, Resampling::Scaled, (20, 20), &mut small);
        resize(&full, choose(full.width, full.height), Resampling::Fast, (20, 20), &mut large);
        let mirrored: Vec<u8> =
            small.chunks_exact(60).flat_map(|row| row.rchunks_exact(3)).flatten().copied().collect();
        let distance = |view: &[u8]| -> u32 { view.iter().zip(&large).map(|(a, b)| u32::from(a.abs_diff(*b))).sum() };
        assert!(distance(&small) * 3 < distance(&mirrored), "{} and {}", distance(&small), distance(&mirrored));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn a_damaged_file_is_judged_as_by_a_full_decode(
        pick: prop::sample::Index,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..6),
        markers in prop::collection::vec((any::<prop::sample::Index>(), 0xc0u8..=0xff), 0..3),
        cut: Option<prop::sample::Index>,
        shares in prop::array::uniform4(0.0f64..1.0),
    ) {
        let mut bytes = KINDS[pick.index(KINDS.len())].clone();
        for (at, value, near_start) in edits {
            let reach = if near_start { bytes.len().min(700) } else { bytes.len() };
            bytes[at.index(reach)] = value;
        }
        for (at, marker) in markers {
            let at = at.index(bytes.len() - 1);
            (bytes[at], bytes[at + 1]) = (0xff, marker);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let [partly, wholly] = both_ways(&bytes, shares);
        prop_assert_eq!(partly, wholly);
    }
}
