//! Encoded bytes to RGB pixels, and RGB pixels to another size.
//!
//! The reference is Pillow 13 `Image.open(…).convert("RGB")` and `resize(…, BICUBIC)`, because that is what the
//! published models were trained with. With libjpeg-turbo, JPEG pixels are bit-exact with it (both use libjpeg-turbo's accurate integer
//! DCT and smooth chroma upsampling), PNG, WebP, GIF, BMP and TIFF pixels are equal too, and so is every bit that
//! [`Resampling::PillowExact`] makes.

mod bmp;
mod error;
mod format;
#[cfg(feature = "libjpeg-turbo")]
mod jpeg;
#[cfg(feature = "jpeg-xl")]
mod jxl;
mod markers;
mod normalize;
#[cfg(feature = "libjpeg-turbo")]
mod part;
mod raster;
mod resampler;
mod resize;
mod simd;
mod tiff;
mod weights;

pub use error::{ImageError, REASONS};
pub use format::{Format, UnreadFormat};
pub use normalize::{Flip, Normalization, REFERENCE_NORMALIZATION};
pub use resize::{Region, Resampling, resize};

/// An image of three 8-bit channels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RgbImage {
    /// Number of columns.
    pub width: u32,
    /// Number of rows.
    pub height: u32,
    /// `[height, width, 3]`, rows without padding.
    pub pixels: Vec<u8>,
}

/// The JPEG decoder that is built in, for `doctor` and benchmark reports.
pub fn jpeg_decoder() -> &'static str {
    env!("BLIP2_JPEG_DECODER")
}

/// Whether a JPEG may be decoded to fewer pixels than it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shrink {
    /// Every pixel as a full decode gives it.
    Never,
    /// By 2 or 4 on each side, as long as the view keeps at least this many rows and columns.
    To {
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
    },
}

/// Limits on an image's header, checked before a single pixel is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// The most pixels (width x height) an image may have.
    pub max_pixels: u64,
    /// The most times one side may be longer than the other.
    pub max_aspect: u32,
}

impl Default for DecodeLimits {
    /// 178,956,970 pixels, where Pillow raises DecompressionBombError (twice its MAX_IMAGE_PIXELS), and 1000:1.
    fn default() -> Self {
        Self { max_pixels: 178_956_970, max_aspect: 1000 }
    }
}

impl DecodeLimits {
    /// Nothing, when an image of this size may be decoded.
    ///
    /// # Errors
    /// `ZeroSized`, `TooManyPixels` or `ExtremeAspect`.
    pub fn check(&self, width: u32, height: u32) -> Result<(), ImageError> {
        if width == 0 || height == 0 {
            return Err(ImageError::ZeroSized { width, height });
        }
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(ImageError::TooManyPixels { width, height, limit: self.max_pixels });
        }
        let (short, long) = (width.min(height), width.max(height));
        if u64::from(long) > u64::from(short) * u64::from(self.max_aspect) {
            return Err(ImageError::ExtremeAspect { width, height, limit: self.max_aspect });
        }
        Ok(())
    }
}

/// Room for the alpha of an image, for those who blend it; stays empty where the image is opaque.
type Alpha<'a> = Option<&'a mut Vec<u8>>;

/// The RGB pixels of an encoded image.
///
/// Equal to Pillow's `convert("RGB")`: alpha is dropped, not blended; palettes are expanded; CMYK is converted without
/// a colour profile; EXIF orientation (but not TIFF's own) and embedded colour profiles are ignored; of an animation
/// the first frame counts, of a TIFF the first page. 16-bit colour keeps its high byte, while 16-bit grayscale PNG and
/// TIFF saturate at 255 (Pillow clips there).
/// Known difference: where the first frame of a GIF does not cover its canvas, the rest is black here.
///
/// `Unsupported`, of formats that are read:
/// - JPEG of more than 8 bits per sample;
/// - BMP of 2 bits or 64 bits, with JPEG, PNG or OS/2's own compressions, or with masks that cut through bytes other
///   than 5-5-5 and 5-6-5;
/// - TIFF with samples of 12 or 32 bits, signed or floating-point ones; 16-bit gray with white as 0; YCbCr outside of
///   JPEG, Lab, premultiplied gray, palettes with alpha; planes other than those of 8-bit RGB; compression by CCITT fax
///   codes, old JPEG, zstd, LZMA or WebP; JPEG of CMYK;
/// - JPEG XL (with the feature `jpeg-xl`) of inks.
///
/// # Errors
/// See [`ImageError`]. The size in the header is checked against `limits` before pixels are allocated.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, ImageError> {
    let mut image = RgbImage::default();
    decode_into(bytes, limits, &mut image)?;
    Ok(image)
}

/// [`decode`] for formats that the `image` crate does not read, with the alpha that it drops; none of an opaque image.
///
/// # Errors
/// Those of [`decode`]; `Unsupported` for other formats.
pub(crate) fn decode_with_alpha(bytes: &[u8], limits: &DecodeLimits) -> Result<(RgbImage, Vec<u8>), ImageError> {
    let (mut image, mut alpha) = (RgbImage::default(), Vec::new());
    match Format::sniff(bytes)? {
        Format::Bmp => bmp::decode(bytes, limits, &mut image, Some(&mut alpha))?,
        Format::Tiff => tiff::decode(bytes, limits, &mut image, Some(&mut alpha))?,
        other => return Err(ImageError::Unsupported(format!("the alpha of {}", other.name()))),
    }
    Ok((image, alpha))
}

/// Width and height in the header, for the formats of [`decode_with_alpha`].
///
/// # Errors
/// Those of [`decode_with_alpha`].
pub(crate) fn header_size(bytes: &[u8]) -> Result<(u32, u32), ImageError> {
    match Format::sniff(bytes)? {
        Format::Bmp => bmp::size(bytes),
        Format::Tiff => tiff::size(bytes),
        other => Err(ImageError::Unsupported(format!("the header of {}", other.name()))),
    }
}

/// [`decode`], reusing the memory of `image`. After an error the contents of `image` mean nothing.
///
/// # Errors
/// Those of [`decode`].
pub fn decode_into(bytes: &[u8], limits: &DecodeLimits, image: &mut RgbImage) -> Result<(), ImageError> {
    let whole = |width, height| Region { top: 0, left: 0, height, width };
    decode_view(bytes, limits, Shrink::Never, whole, image).map(|_| ())
}

/// At least the view that `choose` takes of an image of the width and height that it is given; gives back where the
/// view lies in `image`. Of a JPEG, what lies outside is decoded as little as its format allows.
///
/// With [`Shrink::Never`] the view's pixels and the errors are those of [`decode_into`].
///
/// # Errors
/// Those of [`decode`].
pub fn decode_view(
    bytes: &[u8],
    limits: &DecodeLimits,
    shrink: Shrink,
    choose: impl FnOnce(u32, u32) -> Region,
    image: &mut RgbImage,
) -> Result<Region, ImageError> {
    match Format::sniff(bytes)? {
        #[cfg(feature = "libjpeg-turbo")]
        Format::Jpeg => return jpeg::decode_view(bytes, limits, shrink, choose, image),
        #[cfg(not(feature = "libjpeg-turbo"))]
        Format::Jpeg => {
            let _whole_images_only = shrink;
            raster::decode_jpeg(bytes, limits, image)?;
        }
        Format::Png => raster::decode_png(bytes, limits, image)?,
        Format::WebP => raster::decode_webp(bytes, limits, image)?,
        Format::Gif => raster::decode_gif(bytes, limits, image)?,
        Format::Bmp => bmp::decode(bytes, limits, image, None)?,
        Format::Tiff => tiff::decode(bytes, limits, image, None)?,
        #[cfg(feature = "jpeg-xl")]
        Format::JpegXl => jxl::decode(bytes, limits, image)?,
    }
    Ok(choose(image.width, image.height))
}

#[cfg(test)]
mod tests;
