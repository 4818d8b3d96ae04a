//! Hostile and damaged bytes: whatever they are, the answer is a value or an error with a reason, in bounded time and
//! memory, and never a panic. For the stable toolchain: seeds are mutated by counted draws, so that a failure is a number.
//!
//! Every target has `BLIP2_FUZZ_SECONDS` (default 5). A failure names the variables that repeat it. A new target is one
//! test with seeds and a function `(&[u8]) -> Result<(), String>`.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking, and says how to repeat it")]

mod mutate;
mod parquet_seeds;
mod run;

use arrow::array::Array;
use bytes::Bytes;
use data_pipeline::caption::{Cleaner, MAX_RAW_BYTES};
use data_pipeline::catalog::Catalog;
use data_pipeline::image::{DecodeLimits, REASONS, decode};
use data_pipeline::inspect::{InspectOptions, inspect};
use data_pipeline::store::Location;
use data_pipeline::tar_source;
use object_store::memory::InMemory;
use run::{BOUNDED, PROMISED, fuzz};

/// Pixels that an image may have here: its memory must follow from this, and not from what its header says.
const MAX_PIXELS: u64 = 1 << 20;

#[test]
fn parquet_files() {
    fuzz("parquet_files", &parquet_seeds::all(), PROMISED, |bytes| read_shard("0.parquet", bytes));
}

#[test]
fn tar_files() {
    fuzz("tar_files", &tars(), BOUNDED, |bytes| {
        let _rows_or_reason = tar_source::rows(Bytes::copy_from_slice(bytes), 3, &tar_source::Roles::default());
        read_shard("0.tar", bytes)
    });
}

/// Catalogues a shard, reads all of it, and looks at it.
fn read_shard(name: &str, bytes: &[u8]) -> Result<(), String> {
    let mut place = Location::parse("/data").unwrap();
    place.store = std::sync::Arc::new(InMemory::new());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        place.child(name).write(bytes.to_vec()).await.unwrap();
        let catalog = match Catalog::open(&place, |_, _| ()).await {
            Ok(catalog) => catalog,
            Err(error) => return explained(&error),
        };
        for group in 0..catalog.row_groups.len() {
            match catalog.read(group).await {
                Ok(rows) if rows.images.len() != catalog.row_groups[group].rows as usize => {
                    return Err(format!("{} rows, not {}", rows.images.len(), catalog.row_groups[group].rows));
                }
                Ok(_) => {}
                Err(error) => explained(&error)?,
            }
        }
        match inspect(&catalog, InspectOptions { samples: 4, row_groups: 4, seed: 1 }, |_, _| ()).await {
            Ok(_) => Ok(()),
            Err(error) => explained(&error),
        }
    })
}

/// An error must name the place and say something beyond it.
fn explained(error: &data_pipeline::DataError) -> Result<(), String> {
    let message = error.to_string();
    let says_enough = message.contains("/data") && message.len() > 40;
    if says_enough { Ok(()) } else { Err(format!("an error that explains nothing: {message:?}")) }
}

#[test]
fn images() {
    fuzz("images", &pictures(), BOUNDED, read_image);
}

#[test]
fn bitmaps() {
    fuzz("bitmaps", &golden(".bmp"), BOUNDED, read_image);
}

#[test]
fn tiffs() {
    fuzz("tiffs", &golden(".tif"), BOUNDED, read_image);
}

#[cfg(feature = "jpeg-xl")]
#[test]
fn jpeg_xl() {
    fuzz("jpeg_xl", &golden(".jxl"), BOUNDED, read_image);
}

/// Decodes an image: its pixels, or a reason.
fn read_image(bytes: &[u8]) -> Result<(), String> {
    let limits = DecodeLimits { max_pixels: MAX_PIXELS, ..DecodeLimits::default() };
    match decode(bytes, &limits) {
        Ok(image) if image.pixels.len() as u64 != u64::from(image.width) * u64::from(image.height) * 3 => {
            Err(format!("{} bytes for {}x{}", image.pixels.len(), image.width, image.height))
        }
        Ok(image) if u64::from(image.width) * u64::from(image.height) > MAX_PIXELS => Err("beyond the limit".into()),
        Err(error) if !REASONS.iter().any(|(reason, _)| *reason == error.reason()) => Err(format!("{error:?}")),
        Err(error) if error.to_string().is_empty() => Err(format!("{error:?}")),
        _ => Ok(()),
    }
}

#[test]
fn captions() {
    let seeds = [
        "A photo of a cat.",
        "ΟΔΟΣ İẞǄ\u{1c}\u{a0}\u{3000}",
        "a\t\tb\nc  d",
        "¿Qué? \u{200b}🦀\u{301}",
        "((\"#*~!;:.))",
    ];
    let seeds = seeds.map(|text| text.as_bytes().to_vec());
    fuzz("captions", &seeds, BOUNDED, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let cleaner = Cleaner { max_words: 1 + bytes.len() % 60, prompt: String::new() };
        let (caption, question) = (cleaner.caption(&text), cleaner.question(&text));
        // Lower-casing may lengthen a text: by half at most (U+0130 becomes three bytes of its two).
        if caption.len().max(question.len()) > MAX_RAW_BYTES * 3 / 2 {
            return Err(format!("{} and {} bytes", caption.len(), question.len()));
        }
        let is_clean = !caption.contains(['.', '!', '"', '(', ')', '*', '#', ':', ';', '~']);
        let is_short = caption.split(' ').count() <= cleaner.max_words;
        if is_clean && is_short { Ok(()) } else { Err(format!("{caption:?} of {text:?}")) }
    });
}

/// The files of `tests/golden/formats` whose names end like this.
fn golden(ending: &str) -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formats");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
        .iter()
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// Pictures of the fixtures, small ones, and small files of each format.
fn pictures() -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/preprocess");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let is_picture = |bytes: &Vec<u8>| bytes.len() < 100_000 && decode(bytes, &DecodeLimits::default()).is_ok();
    let fixtures = files.iter().map(|path| std::fs::read(path).unwrap()).filter(is_picture);
    let rgb = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 11) as u8, (y * 17) as u8, (x * y) as u8]));
    let made = [image::ImageFormat::WebP, image::ImageFormat::Gif, image::ImageFormat::Png].map(|format| {
        let mut file = std::io::Cursor::new(Vec::new());
        rgb.write_to(&mut file, format).unwrap();
        file.into_inner()
    });
    fixtures.chain(made).collect()
}

/// A tar of three samples, with a long name in each of the two ways.
fn tars() -> Vec<Vec<u8>> {
    let member = |name: &str, kind: u8, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(content.len() as u64);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_cksum();
        let mut bytes = [&header.as_bytes()[..], content].concat();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    };
    let plain = [
        member("a/1.jpg", b'0', b"picture"),
        member("a/1.txt", b'0', b"one"),
        member("a/2.json", b'0', br#"{"caption": "two", "width": 3}"#),
        member("a/2.png", b'0', b"second"),
    ];
    let long = [
        member("PaxHeaders/x", b'x', b"19 path=b/long.jpg\n11 size=5\n"),
        member("short", b'0', b"third"),
        member("././@LongLink", b'L', b"b/long.txt\0"),
        member("short", b'0', &[0xff, 0xfe]),
        vec![0; 1024],
    ];
    vec![[plain.concat(), long.concat()].concat(), plain.concat()]
}
