//! Encoded bytes to RGB pixels, and RGB pixels to another size.
//!
//! The reference is Pillow 13 `Image.open(…).convert("RGB")` and `resize(…, BICUBIC)`, because that is what the
//! published models were trained with. With libjpeg-turbo, JPEG pixels are bit-exact with it (both use libjpeg-turbo's accurate integer
//! DCT and smooth chroma upsampling), PNG, WebP and GIF pixels are equal too, and so is every bit that
//! [`Resampling::PillowExact`] makes.

mod error;
#[cfg(feature = "libjpeg-turbo")]
mod jpeg;
mod markers;
mod normalize;
#[cfg(feature = "libjpeg-turbo")]
mod part;
mod raster;
mod resampler;
mod resize;
mod simd;
mod weights;

pub use error::ImageError;
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

/// Which JPEG decoder is built in, for `doctor` and benchmark reports.
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

/// What an image may ask for before a single pixel is allocated.
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

/// The formats that are read, told apart by their first bytes, never by a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Baseline and progressive, grayscale, YCbCr, RGB, CMYK and YCCK.
    Jpeg,
    /// All bit depths and colour types; of an animation the default image.
    Png,
    /// Lossy and lossless; of an animation the first frame.
    WebP,
    /// The first frame.
    Gif,
}

impl Format {
    /// The format of an encoded image.
    ///
    /// # Errors
    /// `Empty`, `NotAnImage`, or `Unsupported` for formats that are recognised but not read (BMP, TIFF, AVIF, …).
    pub fn sniff(bytes: &[u8]) -> Result<Self, ImageError> {
        match bytes {
            [] => Err(ImageError::Empty),
            [0xff, 0xd8, 0xff, ..] => Ok(Self::Jpeg),
            [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Ok(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Self::WebP),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(Self::Gif),
            [b'B', b'M', ..] => Err(ImageError::Unsupported("BMP".into())),
            [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Err(ImageError::Unsupported("TIFF".into())),
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => {
                Err(ImageError::Unsupported("AVIF, HEIF or another ISO media file".into()))
            }
            _ => Err(ImageError::NotAnImage { start: bytes[..bytes.len().min(16)].escape_ascii().to_string() }),
        }
    }
}

/// The RGB pixels of an encoded image.
///
/// Equal to Pillow's `convert("RGB")`: alpha is dropped, not blended; palettes are expanded; CMYK is converted without
/// a colour profile; EXIF orientation and embedded colour profiles are ignored; of an animation the first frame
/// counts. 16-bit colour keeps its high byte, while 16-bit grayscale PNG saturates at 255 (Pillow clips there).
/// Known difference: where the first frame of a GIF does not cover its canvas, the rest is black here.
///
/// # Errors
/// See [`ImageError`]. The size in the header is checked against `limits` before pixels are allocated.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, ImageError> {
    let mut image = RgbImage::default();
    decode_into(bytes, limits, &mut image)?;
    Ok(image)
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
    }
    Ok(choose(image.width, image.height))
}

#[cfg(test)]
mod tests;
