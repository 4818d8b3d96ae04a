//! JPEG XL by jxl-oxide, which is all Rust. Its pixels may differ from libjxl's by one level where compression is lossy.

use std::error::Error;

use jxl_oxide::{
    AllocTracker, EnumColourEncoding, InitializeResult, JxlImage, JxlThreadPool, PixelFormat, RenderingIntent,
};

use super::{DecodeLimits, ImageError, RgbImage};

/// Bytes of the decoder's buffers for a pixel: several planes of 32-bit numbers, and those of frames that others refer to.
const BYTES_PER_PIXEL: u64 = 64;
const SPARE_BYTES: u64 = 32 << 20;

/// See [`super::decode`]. Decodes in the calling thread.
pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits, image: &mut RgbImage) -> Result<(), ImageError> {
    let memory = limits.max_pixels.saturating_mul(BYTES_PER_PIXEL).saturating_add(SPARE_BYTES);
    let tracker = AllocTracker::with_limit(usize::try_from(memory).unwrap_or(usize::MAX));
    let builder = JxlImage::builder().pool(JxlThreadPool::none()).alloc_tracker(tracker);
    let mut uninitialized = builder.build_uninit();
    uninitialized.feed_bytes(bytes).map_err(corrupt)?;
    let mut decoder = match uninitialized.try_init().map_err(corrupt)? {
        InitializeResult::Initialized(decoder) => decoder,
        InitializeResult::NeedMoreData(_) => return Err(ImageError::Truncated),
    };
    let (width, height) = (decoder.width(), decoder.height());
    limits.check(width, height)?;
    if decoder.num_loaded_keyframes() == 0 {
        return Err(ImageError::Truncated);
    }
    let channels = match decoder.pixel_format() {
        PixelFormat::Gray | PixelFormat::Graya => 1,
        PixelFormat::Rgb | PixelFormat::Rgba => 3,
        _ => return Err(ImageError::Unsupported("a JPEG XL of inks".into())),
    };
    let intent = RenderingIntent::Relative;
    let encoding = if channels == 1 { EnumColourEncoding::gray_srgb(intent) } else { EnumColourEncoding::srgb(intent) };
    // Embedded profiles need a colour management system; without one, pixels stay as they are, as in other formats.
    if decoder.original_icc().is_none() {
        decoder.request_color_encoding(encoding);
    }
    let render = decoder.render_frame(0).map_err(corrupt)?;
    let mut stream = render.stream_no_alpha();
    if (stream.width(), stream.height(), stream.channels()) != (width, height, channels) {
        return Err(ImageError::Corrupt("the first frame does not have the size of the image".into()));
    }
    let pixel_count = width as usize * height as usize;
    (image.width, image.height) = (width, height);
    image.pixels.resize(pixel_count * 3, 0);
    let filled = stream.write_to_buffer(&mut image.pixels[..pixel_count * channels as usize]);
    if filled < pixel_count * channels as usize {
        return Err(ImageError::Truncated);
    }
    if channels == 1 {
        (0..pixel_count).rev().for_each(|at| {
            let level = image.pixels[at];
            image.pixels[at * 3..at * 3 + 3].fill(level);
        });
    }
    Ok(())
}

fn corrupt(error: Box<dyn Error + Send + Sync>) -> ImageError {
    ImageError::Corrupt(error.to_string())
}
