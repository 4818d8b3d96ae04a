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

/// Files of BMP and TIFF with known pixels, which `tests/formats.rs` checks.
fn golden() -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formats");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|path| std::fs::read(path).unwrap()).filter(|bytes| Format::sniff(bytes).is_ok()).collect()
}

#[test]
fn every_reason_is_reached() {
    let png = |width: [u8; 4], height: [u8; 4]| {
        let mut png = generated()[1].clone();
        png[16..20].copy_from_slice(&width);
        png[20..24].copy_from_slice(&height);
        png
    };
    let icon = b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0\x20\0".to_vec();
    let inputs = [
        ("empty", vec![]),
        ("not_an_image", b"<!DOCTYPE html><html><svg></svg></html>".to_vec()),
        ("unsupported_avif", b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf".to_vec()),
        ("unsupported_heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".to_vec()),
        ("unsupported_ico", icon),
        ("unsupported_jpeg_2000", b"\0\0\0\x0cjP  \r\n\x87\n".to_vec()),
        ("unsupported_jpeg_xl", b"\xff\x0a\0\0".to_vec()),
        ("unsupported_svg", b"<?xml version='1.0'?>\n<!-- a drawing -->\n<svg width='1'/>".to_vec()),
        ("unsupported", b"II*\0\x08\0\0\0\x03\0\0\x01\x03\0\x01\0\0\0\x09\0\0\0\x01\x01\x03\0\x01\0\0\0\x09\0\0\0\x03\x01\x03\0\x01\0\0\0\x04\0\0\0".to_vec()),
        ("zero_sized", png([0; 4], [0, 0, 0, 9])),
        ("too_many_pixels", png([0, 0, 0xff, 0xff], [0, 0, 0xff, 0xff])),
        ("extreme_aspect", png([0, 0, 0xff, 0xff], [0, 0, 0, 3])),
        ("truncated", b"\x89PNG\r\n\x1a\n".to_vec()),
        ("corrupt", b"\xff\xd8\xff\xd9".to_vec()),
    ];
    assert!(inputs.iter().map(|(reason, _)| reason).eq(REASONS.iter().map(|(reason, _)| reason)));
    for (reason, bytes) in inputs {
        if cfg!(feature = "jpeg-xl") && reason == "unsupported_jpeg_xl" {
            continue;
        }
        assert_eq!(reason_of(&bytes), reason);
    }
}

#[test]
fn formats_are_told_apart_by_their_first_bytes() {
    let unread = |bytes: &[u8]| match Format::sniff(bytes) {
        Err(ImageError::UnsupportedFormat(format)) => Some(format),
        _ => None,
    };
    let brands =
        |brands: &str| unread(&[&[0, 0, 0, 8 + brands.len() as u8], b"ftyp", brands.as_bytes(), b"avif"].concat());
    assert_eq!(brands("avis\0\0\0\0avifmif1"), Some(UnreadFormat::Avif));
    assert_eq!(brands("mif1\0\0\0\0heicmif1"), Some(UnreadFormat::Heic));
    assert_eq!(brands("isom\0\0\0\0mp42avc1"), None);
    assert_eq!(reason_of(b"\0\0\0\x18ftypisom\0\0\0\0mp42avc1"), "not_an_image");
    for svg in ["<svg>", " \n<svg xmlns='x'>", "\u{feff}<?xml version='1.0'?><!DOCTYPE svg><svg:svg>"] {
        assert_eq!(unread(svg.as_bytes()), Some(UnreadFormat::Svg), "{svg}");
    }
    for text in ["<svgx>", "<html><svg>", "svg", "<?xml version='1.0'?><html><svg>", "BMW makes cars and motorcycles"] {
        assert_eq!(reason_of(text.as_bytes()), "not_an_image", "{text}");
    }
    assert_eq!(reason_of(&[0; 100]), "not_an_image");
    assert_eq!(reason_of(b"BM\0\0"), "truncated");
    assert_eq!(Format::sniff(b"MM\0*").map(|format| (format.name(), format.mime())), Ok(("TIFF", "image/tiff")));
    assert_eq!(Format::sniff(b"GIF89a").map(|format| (format.name(), format.mime())), Ok(("GIF", "image/gif")));
}

#[test]
fn sizes_of_bitmaps_and_tiffs_are_refused_by_their_headers() {
    let golden = |name: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formats");
        std::fs::read(folder.join(name)).unwrap()
    };
    let limits = DecodeLimits { max_pixels: 21 * 13 - 1, max_aspect: 1000 };
    for name in ["rgb24.bmp", "rle8.bmp", "palette8_os2_1.bmp", "rgb8.tif", "rgb8_tiles.tif", "gray8_be.tif"] {
        let bytes = golden(name);
        assert_eq!(decode(&bytes, &limits).map_err(|error| error.reason()), Err("too_many_pixels"), "{name}");
    }
    let mut bitmap = golden("rgb24.bmp");
    bitmap[18..22].fill(0);
    assert_eq!(reason_of(&bitmap), "zero_sized");
    bitmap[18..26].copy_from_slice(&[0, 0x10, 0, 0, 0, 0x10, 0, 0]);
    assert_eq!(reason_of(&bitmap), "truncated");
    // A TIFF whose tiles are far larger than its image.
    let mut tiles = golden("rgb8_tiles.tif");
    for tag in [322u16, 323] {
        let entry = [&tag.to_le_bytes()[..], &[3, 0, 1, 0, 0, 0]].concat();
        let at = tiles.windows(8).position(|bytes| bytes == entry).unwrap();
        // As LONG.
        tiles[at + 2] = 4;
        tiles[at + 8..at + 11].fill(0xff);
    }
    assert_eq!(reason_of(&tiles), "unsupported");
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
        let all = [samples(), golden()].concat();
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
    fn random_bytes_after_a_signature_do_not_panic(format in 0usize..9, tail: Vec<u8>) {
        let heads: [&[u8]; 9] = [
            b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x20\x00\x00\x00WEBP", b"GIF89a", b"BM0123456789ab\x28\0\0\0",
            b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0", b"\xff\x0a",
        ];
        let _ = decode(&[heads[format], &tail].concat(), &DecodeLimits { max_pixels: 1 << 20, ..DecodeLimits::default() });
    }
}
