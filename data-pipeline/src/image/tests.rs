use proptest::prelude::*;

use super::*;

/// A JPEG, PNG, WebP or GIF of the fixture, or a built-in one where it is absent.
fn samples() -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/preprocess");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    files.sort();
    let images = files.iter().filter_map(|path| std::fs::read(path).ok()).filter(|b| Format::sniff(b).is_ok());
    images.chain(generated()).collect()
}

/// Small files of every format that can be written here.
fn generated() -> Vec<Vec<u8>> {
    let picture = |x: u32, y: u32| [(x * 11 % 256) as u8, (y * 17 % 256) as u8, (x * y % 256) as u8];
    let rgb = ::image::RgbImage::from_fn(40, 30, |x, y| ::image::Rgb(picture(x, y)));
    let gray16 = ::image::ImageBuffer::<::image::Luma<u16>, _>::from_fn(40, 30, |x, y| ::image::Luma([(x * y) as u16]));
    let mut files = Vec::new();
    for format in
        [::image::ImageFormat::Jpeg, ::image::ImageFormat::Png, ::image::ImageFormat::WebP, ::image::ImageFormat::Gif]
    {
        let mut file = std::io::Cursor::new(Vec::new());
        rgb.write_to(&mut file, format).unwrap();
        files.push(file.into_inner());
    }
    let mut file = std::io::Cursor::new(Vec::new());
    gray16.write_to(&mut file, ::image::ImageFormat::Png).unwrap();
    files.push(file.into_inner());
    files
}

fn reason_of(bytes: &[u8]) -> &'static str {
    decode(bytes, &DecodeLimits::default()).map_or_else(|error| error.reason(), |_| "none")
}

#[test]
fn every_kind_of_wrong_bytes_has_its_reason() {
    assert_eq!(reason_of(b""), "empty");
    assert_eq!(reason_of(b"<!DOCTYPE html><html>"), "not_an_image");
    assert_eq!(reason_of(&[0; 100]), "not_an_image");
    assert_eq!(reason_of(b"BM\x00\x00"), "unsupported");
    assert_eq!(reason_of(b"\x00\x00\x00\x20ftypavif"), "unsupported");
    assert_eq!(reason_of(b"\x89PNG\r\n\x1a\n"), "truncated");
    assert_eq!(reason_of(b"\xff\xd8\xff\xe0"), "truncated");
    assert_eq!(reason_of(b"\xff\xd8\xff\xd9"), "corrupt");
}

#[test]
fn a_file_cut_anywhere_is_truncated_whatever_its_format() {
    for bytes in samples() {
        let format = Format::sniff(&bytes).unwrap();
        // Chunks after the pixels of a PNG (its end marker) and padding of a WebP are not missed.
        let spare = match format {
            Format::Jpeg => 1,
            _ => 40,
        };
        for kept in [bytes.len() - spare, bytes.len() / 2, bytes.len() / 3, 40, 20] {
            let reason = reason_of(&bytes[..kept]);
            let expected = matches!((format, reason), (_, "truncated") | (Format::WebP | Format::Gif, "corrupt"));
            assert!(expected, "{format:?} of {} bytes cut to {kept}: {reason}", bytes.len());
        }
    }
}

#[test]
fn sizes_are_refused_before_anything_of_that_size_is_allocated() {
    let mut png = generated()[1].clone();
    png[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    assert_eq!(reason_of(&png), "too_many_pixels");
    png[16..24].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 9]);
    assert_eq!(reason_of(&png), "zero_sized");
    png[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0, 3]);
    assert_eq!(reason_of(&png), "extreme_aspect");

    let mut jpeg = generated()[0].clone();
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    // 65,000 x 65,000; libjpeg itself refuses sides above 65,500.
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xfd, 0xe8, 0xfd, 0xe8]);
    assert_eq!(reason_of(&jpeg), "too_many_pixels");
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0, 9, 0, 0]);
    assert_eq!(reason_of(&jpeg), "zero_sized");
}

#[test]
fn limits_are_inclusive() {
    let limits = DecodeLimits { max_pixels: 100, max_aspect: 4 };
    assert_eq!(limits.check(20, 5), Ok(()));
    assert_eq!(limits.check(21, 5).map_err(|error| error.reason()), Err("too_many_pixels"));
    assert_eq!(limits.check(5, 1).map_err(|error| error.reason()), Err("extreme_aspect"));
}

#[test]
fn sixteen_bit_gray_saturates_as_in_pillow() {
    let image = decode(&generated()[4], &DecodeLimits::default()).unwrap();
    let level = |x: usize, y: usize| image.pixels[(y * 40 + x) * 3];
    assert_eq!((level(10, 10), level(15, 17), level(16, 16), level(39, 29)), (100, 255, 255, 255));
}

#[test]
fn tables_of_one_file_never_serve_another() {
    let jpeg = &generated()[0];
    // Without its quantisation tables a file is broken, also after one that had them.
    let mut bare = jpeg.clone();
    while let Some(table) = bare.windows(2).position(|pair| pair == [0xff, 0xdb]) {
        let length = usize::from(u16::from_be_bytes([bare[table + 2], bare[table + 3]]));
        bare.drain(table..table + 2 + length);
    }
    assert_eq!(reason_of(&bare), "corrupt");
    assert_eq!(reason_of(jpeg), "none");
    assert_eq!(reason_of(&bare), "corrupt");
}

#[test]
fn the_decoder_says_what_it_is() {
    let expected = if cfg!(feature = "libjpeg-turbo") { "libjpeg-turbo" } else { "zune-jpeg" };
    assert!(jpeg_decoder().starts_with(expected), "{}", jpeg_decoder());
}

#[test]
fn both_resamplings_agree_within_one_level_on_smooth_images_and_keep_constant_ones() {
    for (width, height) in [(64, 48), (48, 64), (20, 300), (300, 20), (33, 32), (32, 33), (1, 1), (224, 2)] {
        let smooth = |index: usize| ((index / 3 % width) / 2 + (index / 3 / width) / 3 + index % 3) as u8;
        let pixels = (0..width * height * 3).map(smooth).collect();
        let image = RgbImage { width: width as u32, height: height as u32, pixels };
        let resized = |image: &RgbImage, resampling| {
            let mut out = vec![0; 32 * 32 * 3];
            resize(image, Region::whole(image), resampling, (32, 32), &mut out);
            out
        };
        let pairs = resized(&image, Resampling::Fast).into_iter().zip(resized(&image, Resampling::PillowExact));
        assert!(pairs.clone().all(|(a, b)| a.abs_diff(b) <= 1), "{width}x{height}");
        let flat = RgbImage { pixels: vec![77; image.pixels.len()], ..image };
        assert!(resized(&flat, Resampling::PillowExact).iter().all(|level| *level == 77), "{width}x{height}");
    }
}

#[test]
fn normalisation_is_the_formula_in_planes_and_mirrors_rows() {
    let pixels: Vec<u8> = (0..2 * 5 * 3).map(|i| (i * 8) as u8).collect();
    let (mut plain, mut mirrored) = (vec![0.0; 30], vec![0.0; 30]);
    let normalization = REFERENCE_NORMALIZATION;
    normalization.apply(&pixels, 5, Flip::No, &mut plain);
    normalization.apply(&pixels, 5, Flip::Horizontal, &mut mirrored);
    for channel in 0..3 {
        for (y, x) in (0..2).flat_map(|y| (0..5).map(move |x| (y, x))) {
            let level = f32::from(pixels[(y * 5 + x) * 3 + channel]);
            let expected = (level / 255.0 - normalization.mean[channel]) / normalization.std[channel];
            assert_eq!(plain[channel * 10 + y * 5 + x], expected);
            assert_eq!(mirrored[channel * 10 + y * 5 + 4 - x], expected);
        }
    }
}

#[test]
fn every_vector_width_gives_the_same_bits() {
    let noise = |index: u64| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    for (width, height, side) in [(97, 61, 50), (61, 97, 50), (20, 300, 33), (300, 20, 33), (5, 3, 47), (1, 1, 9)] {
        let pixels = (0..u64::from(width * height) * 3).map(noise).collect();
        let image = RgbImage { width, height, pixels };
        let made = |lanes: usize, resampling, flip| {
            simd::WIDEST.set(lanes);
            let mut levels = vec![0; (side * side * 3) as usize];
            resize(&image, Region::whole(&image), resampling, (side, side), &mut levels);
            let mut values = vec![0.0; levels.len()];
            REFERENCE_NORMALIZATION.apply(&levels, side as usize, flip, &mut values);
            values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        for (resampling, flip) in [(Resampling::Fast, Flip::No), (Resampling::PillowExact, Flip::Horizontal)] {
            let without = made(0, resampling, flip);
            assert!(
                [2, 4].iter().all(|lanes| made(*lanes, resampling, flip) == without),
                "{width}x{height} {resampling:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_bytes_make_the_decoder_panic(
        pick: prop::sample::Index,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        near_start: bool,
        cut: Option<prop::sample::Index>,
    ) {
        let all = samples();
        let mut bytes = all[pick.index(all.len())].clone();
        for (at, value) in edits {
            // Headers are where a changed byte does most.
            let reach = if near_start { bytes.len().min(700) } else { bytes.len() };
            let at = at.index(reach);
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let limits = DecodeLimits { max_pixels: 1 << 22, ..DecodeLimits::default() };
        if let Ok(image) = decode(&bytes, &limits) {
            prop_assert_eq!(image.pixels.len(), image.width as usize * image.height as usize * 3);
        }
    }

    #[test]
    fn random_bytes_after_a_signature_do_not_panic(format in 0usize..4, tail: Vec<u8>) {
        let heads: [&[u8]; 4] = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x20\x00\x00\x00WEBP", b"GIF89a"];
        let _ = decode(&[heads[format], &tail].concat(), &DecodeLimits { max_pixels: 1 << 20, ..DecodeLimits::default() });
    }
}
