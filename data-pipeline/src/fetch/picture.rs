//! Downloaded bytes to the picture that is stored: checked, decoded, fitted to its size, encoded.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ::image::codecs::png::PngEncoder;
use ::image::codecs::webp::WebPEncoder;
use ::image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageReader, Limits};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, oneshot};

use super::options::{DECODE_BYTES_PER_PIXEL, ImageFormat, PictureOptions, ResizeMode};
use crate::error::{DataError, Result};
use crate::hex::hex;
use crate::image::{
    DecodeLimits, Format, ImageError, Region, Resampling, RgbImage, decode, decode_with_alpha, header_size, resize,
};

/// Longer EXIF texts are left out: a maker's note may hold megabytes.
const MAX_EXIF_TEXT: usize = 16 << 10;
/// Longer pictures are not stored: a row group of 100 must fit 32-bit offsets, and memory.
const MAX_ENCODED: usize = 16 << 20;
/// The memory budget is counted in units of this many bytes.
const UNIT: u64 = 1 << 10;

/// A picture as it is stored, and what is told about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) bytes: Bytes,
    pub(super) width: i32,
    pub(super) height: i32,
    pub(super) original_width: i32,
    pub(super) original_height: i32,
    /// A JSON object of EXIF's fields.
    pub(super) exif: String,
}

/// Threads that make pictures, and the memory they may take for pixels.
pub(super) struct Studio {
    threads: rayon::ThreadPool,
    memory: Arc<Semaphore>,
    options: PictureOptions,
}

impl Studio {
    /// A studio of `threads` threads (0: one per core) with `memory_bytes` for pixels.
    ///
    /// # Errors
    /// [`DataError::Setting`] when the threads cannot be started.
    pub(super) fn new(options: &PictureOptions, threads: usize, memory_bytes: u64) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("picture-{n}"));
        let threads =
            pool.build().map_err(|e| DataError::Setting(format!("cannot start {threads} picture threads: {e}")))?;
        let memory = Arc::new(Semaphore::new((memory_bytes / UNIT) as usize));
        Ok(Self { threads, memory, options: options.clone() })
    }

    /// The SHA-256 of a download.
    pub(super) async fn sha256(&self, bytes: &Bytes) -> Result<[u8; 32]> {
        let bytes = bytes.clone();
        self.run(move || Sha256::digest(&bytes).into()).await
    }

    /// The stored picture of a download, or why there is none.
    ///
    /// # Errors
    /// [`DataError::ThreadLost`] only; a bad picture is no error of the run.
    pub(super) async fn make(&self, bytes: &Bytes) -> Result<std::result::Result<Picture, String>> {
        // Pixels are counted before they are made: any number of threads and huge pictures stay within the budget.
        let pixels = header_pixels(bytes).unwrap_or(0).min(self.options.max_pixels);
        let units = (pixels * DECODE_BYTES_PER_PIXEL).div_ceil(UNIT).max(1) as u32;
        let memory = self.memory.clone().acquire_many_owned(units).await.ok();
        let (bytes, options) = (bytes.clone(), self.options.clone());
        self.run(move || {
            let _memory = memory;
            // Decoders of odd formats have panicked on odd files before; one picture must not end a crawl.
            catch_unwind(AssertUnwindSafe(|| make(&bytes, &options)))
                .unwrap_or_else(|_| Err("the decoder panicked".into()))
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.threads.spawn(move || {
            // Nobody waits any more when the run is over.
            let _run_is_over = sender.send(work());
        });
        receiver.await.map_err(|_| DataError::ThreadLost)
    }
}

/// Width times height in the header; `None` where decoding will say what is wrong.
fn header_pixels(bytes: &[u8]) -> Option<u64> {
    let (width, height) = match Format::sniff(bytes).ok()? {
        Format::Jpeg => {
            let header = turbojpeg::read_header(bytes).ok()?;
            (header.width as u64, header.height as u64)
        }
        other => {
            let (width, height) = match format_of(other) {
                Some(format) => ImageReader::with_format(Cursor::new(bytes), format).into_dimensions().ok()?,
                None => header_size(bytes).ok()?,
            };
            (width.into(), height.into())
        }
    };
    width.checked_mul(height)
}

/// The name by which the `image` crate reads a format; nothing for those that it does not read here.
fn format_of(format: Format) -> Option<::image::ImageFormat> {
    match format {
        Format::Jpeg => Some(::image::ImageFormat::Jpeg),
        Format::Png => Some(::image::ImageFormat::Png),
        Format::WebP => Some(::image::ImageFormat::WebP),
        Format::Gif => Some(::image::ImageFormat::Gif),
        _ => None,
    }
}

/// The picture, or a message whose part before the first colon can be counted.
fn make(bytes: &[u8], options: &PictureOptions) -> std::result::Result<Picture, String> {
    let limits = DecodeLimits { max_pixels: options.max_pixels, max_aspect: options.max_aspect };
    let original = decode_on_white(bytes, &limits).map_err(|error| message(&error))?;
    let (width, height) = (original.width, original.height);
    if width.min(height) < options.min_side {
        return Err(format!("image too small: {width}x{height}, the shorter side must be {}", options.min_side));
    }
    let fitted = fit(original, options);
    let encoded = encode(&fitted, options)?;
    if encoded.len() > MAX_ENCODED {
        return Err(format!("encoded image too large: {} bytes, at most {MAX_ENCODED}", encoded.len()));
    }
    Ok(Picture {
        bytes: encoded.into(),
        width: fitted.width as i32,
        height: fitted.height as i32,
        original_width: width as i32,
        original_height: height as i32,
        exif: exif(bytes),
    })
}

fn message(error: &ImageError) -> String {
    match error {
        // Servers answer with pages under the names of images; the first bytes would make every message its own.
        ImageError::NotAnImage { .. } => "not an image".into(),
        ImageError::Empty | ImageError::Truncated => error.reason().into(),
        other => format!("{}: {other}", other.reason()),
    }
}

/// The RGB pixels of an image. Alpha is flattened on white, as img2dataset does; the training path, which never sees
/// alpha in what is stored here, drops it.
fn decode_on_white(bytes: &[u8], limits: &DecodeLimits) -> std::result::Result<RgbImage, ImageError> {
    let format = Format::sniff(bytes)?;
    if format == Format::Jpeg {
        return decode(bytes, limits);
    }
    let Some(format) = format_of(format) else {
        let (mut image, alpha) = decode_with_alpha(bytes, limits)?;
        for (pixel, alpha) in image.pixels.as_chunks_mut::<3>().0.iter_mut().zip(alpha) {
            *pixel = pixel.map(|colour| on_white(colour, alpha));
        }
        return Ok(image);
    };
    let corrupt = |e: ::image::ImageError| ImageError::Corrupt(e.to_string());
    let reader = || ImageReader::with_format(Cursor::new(bytes), format);
    let (width, height) = reader().into_dimensions().map_err(corrupt)?;
    limits.check(width, height)?;
    let mut reader = reader();
    let mut allocation = Limits::no_limits();
    // Beyond pixels: room for colour profiles and texts.
    allocation.max_alloc = Some(limits.max_pixels.saturating_mul(8).saturating_add(64 << 20));
    reader.limits(allocation);
    let decoded = reader.decode().map_err(corrupt)?;
    if !decoded.color().has_alpha() {
        return Ok(RgbImage { width, height, pixels: decoded.into_rgb8().into_raw() });
    }
    Ok(RgbImage { width, height, pixels: flatten(decoded) })
}

fn flatten(image: DynamicImage) -> Vec<u8> {
    let blend = |pixel: &::image::Rgba<u8>| {
        let [r, g, b, alpha] = pixel.0;
        [r, g, b].map(|colour| on_white(colour, alpha))
    };
    image.into_rgba8().pixels().flat_map(blend).collect()
}

/// `alpha / 255 * colour + 255 - alpha`, rounded; no product is halfway between two levels.
fn on_white(colour: u8, alpha: u8) -> u8 {
    let (colour, alpha) = (u32::from(colour), u32::from(alpha));
    ((colour * alpha + (255 - alpha) * 255 + 127) / 255) as u8
}

/// The image at the size that the mode asks for.
fn fit(image: RgbImage, options: &PictureOptions) -> RgbImage {
    let (size, short, long) = (options.size, image.width.min(image.height), image.width.max(image.height));
    let deciding = match options.mode {
        ResizeMode::No => return image,
        ResizeMode::KeepRatio | ResizeMode::CenterCrop => short,
        ResizeMode::Border | ResizeMode::KeepRatioLargest => long,
    };
    if options.only_if_bigger && deciding <= size {
        return image;
    }
    // Python's `round`, which img2dataset's library uses: halves go to the even number.
    let scaled =
        |side: u32| (f64::from(side) * (f64::from(size) / f64::from(deciding))).round_ties_even().max(1.0) as u32;
    let (width, height) = (scaled(image.width), scaled(image.height));
    let mut fitted = RgbImage { width, height, pixels: vec![0; width as usize * height as usize * 3] };
    resize(&image, Region::whole(&image), Resampling::Fast, (height, width), &mut fitted.pixels);
    match options.mode {
        ResizeMode::CenterCrop => place(&fitted, size, size),
        ResizeMode::Border => place(&fitted, size, size),
        _ => fitted,
    }
}

/// The middle of `image` on a white sheet of the given size: cut where it is larger, with bars where it is smaller.
fn place(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let mut sheet = RgbImage { width, height, pixels: vec![255; width as usize * height as usize * 3] };
    // How far the image begins behind the sheet's edge, and how far the sheet's content begins behind the image's.
    let margins = |sheet: u32, image: u32| (sheet.saturating_sub(image) / 2, image.saturating_sub(sheet) / 2);
    let ((left, cut_left), (top, cut_top)) = (margins(width, image.width), margins(height, image.height));
    let row_bytes = image.width.min(width) as usize * 3;
    for row in 0..image.height.min(height) {
        let at = |row: u32, column: u32, width: u32| (row as usize * width as usize + column as usize) * 3;
        let (to, from) = (at(top + row, left, width), at(cut_top + row, cut_left, image.width));
        sheet.pixels[to..to + row_bytes].copy_from_slice(&image.pixels[from..from + row_bytes]);
    }
    sheet
}

fn encode(image: &RgbImage, options: &PictureOptions) -> std::result::Result<Vec<u8>, String> {
    let failed = |e: &dyn std::fmt::Display| format!("cannot be encoded: {e}");
    let mut bytes = Vec::new();
    let colour = ExtendedColorType::Rgb8;
    match options.format {
        ImageFormat::Jpg => {
            let mut compressor = turbojpeg::Compressor::new().map_err(|e| failed(&e))?;
            compressor.set_quality(options.quality.into()).map_err(|e| failed(&e))?;
            compressor.set_subsamp(turbojpeg::Subsamp::Sub2x2).map_err(|e| failed(&e))?;
            let (width, height) = (image.width as usize, image.height as usize);
            let format = turbojpeg::PixelFormat::RGB;
            let view = turbojpeg::Image { pixels: &image.pixels[..], width, pitch: 3 * width, height, format };
            bytes = compressor.compress_to_vec(view).map_err(|e| failed(&e))?;
        }
        ImageFormat::Png => PngEncoder::new(&mut bytes)
            .write_image(&image.pixels, image.width, image.height, colour)
            .map_err(|e| failed(&e))?,
        ImageFormat::Webp => WebPEncoder::new_lossless(&mut bytes)
            .write_image(&image.pixels, image.width, image.height, colour)
            .map_err(|e| failed(&e))?,
    }
    Ok(bytes)
}

/// EXIF's fields as a JSON object with names such as `Image Make`; `{}` when there are none.
fn exif(bytes: &[u8]) -> String {
    let mut fields = serde_json::Map::new();
    if let Ok(found) = ::exif::Reader::new().read_from_container(&mut Cursor::new(bytes)) {
        for field in found.fields() {
            let group = match (field.ifd_num, field.tag.context()) {
                (::exif::In::PRIMARY, ::exif::Context::Tiff) => "Image",
                (::exif::In::PRIMARY, ::exif::Context::Exif) => "EXIF",
                (::exif::In::PRIMARY, ::exif::Context::Gps) => "GPS",
                (::exif::In::PRIMARY, ::exif::Context::Interop) => "Interoperability",
                _ => continue,
            };
            // Maker's notes and comments are binary as a rule.
            if matches!(field.tag, ::exif::Tag::MakerNote | ::exif::Tag::UserComment) {
                continue;
            }
            fields.insert(format!("{group} {}", field.tag), field.display_value().to_string().into());
        }
    }
    let text = serde_json::Value::Object(fields).to_string();
    if text.len() <= MAX_EXIF_TEXT { text } else { "{}".into() }
}

/// Hexadecimal digits of a hash, as the column holds it.
pub(super) fn digits(sha256: &[u8; 32]) -> String {
    hex(sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(mode: ResizeMode) -> PictureOptions {
        PictureOptions { size: 8, mode, format: ImageFormat::Png, ..PictureOptions::default() }
    }

    fn plain(width: u32, height: u32) -> Vec<u8> {
        let image = RgbImage { width, height, pixels: vec![100; (width * height * 3) as usize] };
        encode(&image, &options(ResizeMode::No)).unwrap()
    }

    fn size(mode: ResizeMode, only_if_bigger: bool, (width, height): (u32, u32)) -> (i32, i32) {
        let made = make(&plain(width, height), &PictureOptions { only_if_bigger, ..options(mode) }).unwrap();
        assert_eq!((made.original_width, made.original_height), (width as i32, height as i32));
        (made.width, made.height)
    }

    #[test]
    fn modes_give_the_sizes_of_img2dataset() {
        use ResizeMode::{Border, CenterCrop, KeepRatio, KeepRatioLargest, No};
        assert_eq!(size(KeepRatio, false, (40, 21)), (15, 8));
        assert_eq!(size(KeepRatio, false, (4, 2)), (16, 8));
        assert_eq!(size(KeepRatio, true, (4, 2)), (4, 2));
        assert_eq!(size(KeepRatioLargest, false, (40, 20)), (8, 4));
        assert_eq!(size(KeepRatioLargest, true, (4, 2)), (4, 2));
        assert_eq!(size(CenterCrop, false, (40, 21)), (8, 8));
        assert_eq!(size(Border, false, (40, 20)), (8, 8));
        assert_eq!(size(Border, true, (4, 2)), (4, 2));
        assert_eq!(size(No, false, (40, 21)), (40, 21));
    }

    #[test]
    fn border_is_white_above_and_below_and_crop_is_the_middle() {
        let pixels =
            decode(&make(&plain(16, 8), &options(ResizeMode::Border)).unwrap().bytes, &DecodeLimits::default());
        let rows: Vec<u8> = pixels.unwrap().pixels.chunks_exact(24).map(|row| row[0]).collect();
        assert_eq!(rows, [255, 255, 100, 100, 100, 100, 255, 255]);
        let columns: Vec<u8> = (0..6).flat_map(|c| [c * 10; 3]).collect();
        let cut = place(&RgbImage { width: 6, height: 1, pixels: columns }, 3, 1);
        assert_eq!(cut.pixels, [[10; 3], [20; 3], [30; 3]].concat());
    }

    #[test]
    fn alpha_is_flattened_on_white() {
        let image = ::image::RgbaImage::from_fn(2, 1, |x, _| ::image::Rgba([10, 20, 30, [0, 128][x as usize]]));
        let mut bytes = Vec::new();
        PngEncoder::new(&mut bytes).write_image(&image, 2, 1, ExtendedColorType::Rgba8).unwrap();
        let flat = decode_on_white(&bytes, &DecodeLimits::default()).unwrap();
        // 128 / 255 * 10 + 255 - 128 = 132.02 and so on.
        assert_eq!(flat.pixels, [255, 255, 255, 132, 137, 142]);
    }

    #[test]
    fn bitmaps_and_tiffs_are_decoded_and_their_alpha_is_flattened() {
        let golden = |name: &str| {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formats");
            std::fs::read(folder.join(name)).unwrap()
        };
        for name in ["rgb32_masks5.bmp", "rgba8_straight.tif", "rgb24.bmp", "oriented6.tif"] {
            let bytes = golden(name);
            let (image, alpha) = decode_with_alpha(&bytes, &DecodeLimits::default()).unwrap();
            assert_eq!(header_pixels(&bytes), Some(u64::from(image.width * image.height)), "{name}");
            assert_eq!(alpha.len() * 3, if name.contains('3') || name.contains('a') { image.pixels.len() } else { 0 });
            let flat = decode_on_white(&bytes, &DecodeLimits::default()).unwrap();
            let alphas = alpha.into_iter().chain(std::iter::repeat(255)).flat_map(|alpha| [alpha; 3]);
            assert!(
                flat.pixels.iter().eq(&image
                    .pixels
                    .iter()
                    .zip(alphas)
                    .map(|(c, a)| on_white(*c, a))
                    .collect::<Vec<_>>())
            );
        }
    }

    #[test]
    fn what_is_no_picture_is_said_in_words_that_can_be_counted() {
        let said = |bytes: &[u8]| make(bytes, &PictureOptions { min_side: 10, ..options(ResizeMode::No) }).unwrap_err();
        assert_eq!(said(b"<!doctype html><title>gone</title>"), "not an image");
        assert_eq!(said(b""), "empty");
        assert_eq!(said(b"BM......"), "truncated");
        assert!(said(b"\0\0\0\x0cftypavif").starts_with("unsupported_avif: "));
        assert!(said(&plain(5, 50)).starts_with("image too small: 5x50"));
        let mut bomb = plain(16, 16);
        bomb[16..24].copy_from_slice(&[0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30]);
        // The header's checksum is wrong now too; either is a refusal before pixels are made.
        assert!(["corrupt", "too_many_pixels"].iter().any(|reason| said(&bomb).starts_with(reason)), "{}", said(&bomb));
        assert!(said(&plain(1, 101)).starts_with("extreme_aspect: "));
    }
}
