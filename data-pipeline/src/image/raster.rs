//! PNG, WebP, GIF and, without libjpeg-turbo, JPEG by the `image` crate, and the one rule that makes RGB of what they hold.

use std::error::Error;
use std::io::{self, Cursor};

use ::image::codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use ::image::error::LimitErrorKind;
use ::image::{ColorType, ImageDecoder, Limits};

use super::{DecodeLimits, ImageError, RgbImage};

/// Position of width and height in IHDR, and of its colour type: after the signature, the chunk's length and its name.
const PNG_SIZE: std::ops::Range<usize> = 16..24;
const PNG_COLOR_TYPE: usize = 25;

/// Conversion of 16-bit samples to 8 bits.
#[derive(Clone, Copy)]
enum Wide {
    /// Their high byte: colour, and gray with alpha.
    HighByte,
    /// Themselves up to 255: plain grayscale, which Pillow opens as `I;16` and clips (`Convert.c`, `I16_RGB`).
    Saturate,
}

/// JPEG without libjpeg-turbo: by zune-jpeg, which fills up what a cut file lacks, so that is looked for first.
#[cfg(not(feature = "libjpeg-turbo"))]
pub(super) fn decode_jpeg(bytes: &[u8], limits: &DecodeLimits, image: &mut RgbImage) -> Result<(), ImageError> {
    if super::markers::is_cut(bytes) {
        return Err(ImageError::Truncated);
    }
    let decoder = ::image::codecs::jpeg::JpegDecoder::new(Cursor::new(bytes)).map_err(reason)?;
    read(decoder, limits, Wide::HighByte, image)
}

pub(super) fn decode_png(bytes: &[u8], limits: &DecodeLimits, image: &mut RgbImage) -> Result<(), ImageError> {
    let size = bytes.get(PNG_SIZE).ok_or(ImageError::Truncated)?;
    let side = |at: usize| u32::from_be_bytes([size[at], size[at + 1], size[at + 2], size[at + 3]]);
    limits.check(side(0), side(4))?;
    let wide = match bytes.get(PNG_COLOR_TYPE) {
        Some(0) => Wide::Saturate,
        _ => Wide::HighByte,
    };
    let decoder = PngDecoder::with_limits(Cursor::new(bytes), allocation_limits(limits)).map_err(reason)?;
    read(decoder, limits, wide, image)
}

pub(super) fn decode_webp(bytes: &[u8], limits: &DecodeLimits, image: &mut RgbImage) -> Result<(), ImageError> {
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(reason)?;
    read(decoder, limits, Wide::HighByte, image)
}

pub(super) fn decode_gif(bytes: &[u8], limits: &DecodeLimits, image: &mut RgbImage) -> Result<(), ImageError> {
    let mut decoder = GifDecoder::new(Cursor::new(bytes)).map_err(reason)?;
    let (width, height) = decoder.dimensions();
    limits.check(width, height)?;
    decoder.set_limits(allocation_limits(limits)).map_err(reason)?;
    read(decoder, limits, Wide::HighByte, image)
}

/// Memory for the largest image allowed, four 16-bit channels, and room for colour profiles and texts.
fn allocation_limits(limits: &DecodeLimits) -> Limits {
    let mut allocation = Limits::no_limits();
    allocation.max_alloc = Some(limits.max_pixels.saturating_mul(8).saturating_add(64 << 20));
    allocation
}

fn read(decoder: impl ImageDecoder, limits: &DecodeLimits, wide: Wide, image: &mut RgbImage) -> Result<(), ImageError> {
    let (width, height) = decoder.dimensions();
    limits.check(width, height)?;
    let color = decoder.color_type();
    (image.width, image.height) = (width, height);
    let pixel_count = width as usize * height as usize;
    image.pixels.resize(pixel_count * 3, 0);
    if color == ColorType::Rgb8 {
        return decoder.read_image(&mut image.pixels).map_err(reason);
    }
    let mut raw = vec![0; pixel_count * usize::from(color.bytes_per_pixel())];
    decoder.read_image(&mut raw).map_err(reason)?;
    to_rgb(&raw, color, wide, &mut image.pixels)
}

/// Drops alpha, repeats gray, and narrows 16-bit samples by `wide`.
fn to_rgb(raw: &[u8], color: ColorType, wide: Wide, pixels: &mut [u8]) -> Result<(), ImageError> {
    let channels = usize::from(color.channel_count());
    let bytes_per_sample = usize::from(color.bytes_per_pixel()) / channels;
    if !(1..=2).contains(&bytes_per_sample) {
        return Err(ImageError::Unsupported(format!("pixels of type {color:?}")));
    }
    let sample = |pixel: &[u8], channel: usize| match (bytes_per_sample, wide) {
        (1, _) => pixel[channel],
        (_, Wide::HighByte) => (native(pixel, channel) >> 8) as u8,
        (_, Wide::Saturate) => native(pixel, channel).min(255) as u8,
    };
    // Gray, gray with alpha: one colour channel. RGB, RGBA: three.
    let step = usize::from(channels >= 3);
    for (target, pixel) in pixels.chunks_exact_mut(3).zip(raw.chunks_exact(channels * bytes_per_sample)) {
        for (channel, level) in target.iter_mut().enumerate() {
            *level = sample(pixel, channel * step);
        }
    }
    Ok(())
}

fn native(pixel: &[u8], channel: usize) -> u16 {
    u16::from_ne_bytes([pixel[channel * 2], pixel[channel * 2 + 1]])
}

/// A level of red, green or blue by Pillow's conversion of inks (`Convert.c`, `cmyk2rgb`); `not_black` is 255 less black.
pub(super) fn ink_level(ink: u8, not_black: u8) -> u8 {
    let product = u32::from(ink) * u32::from(not_black) + 128;
    // a * b / 255, rounded, as MULDIV255.
    not_black.saturating_sub((((product >> 8) + product) >> 8) as u8)
}

/// The countable reason behind an error of the `image` crate.
fn reason(error: ::image::ImageError) -> ImageError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if current.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof) {
            return ImageError::Truncated;
        }
        cause = current.source();
    }
    match &error {
        ::image::ImageError::IoError(io) if io.kind() == io::ErrorKind::UnexpectedEof => ImageError::Truncated,
        ::image::ImageError::Unsupported(unsupported) => ImageError::Unsupported(unsupported.to_string()),
        ::image::ImageError::Limits(limit) if limit.kind() == LimitErrorKind::InsufficientMemory => {
            ImageError::Unsupported("it needs more memory than its size allows".into())
        }
        other => ImageError::Corrupt(other.to_string()),
    }
}
