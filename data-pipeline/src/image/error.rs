//! Reasons for which an image cannot be used, to be counted.

use super::format::{READ, UnreadFormat};

/// The cause for which some bytes gave no usable image. Every variant has a short stable [`reason`](ImageError::reason) to count by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// There are no bytes at all (failed downloads are stored like this).
    #[error("the image has no bytes")]
    Empty,
    /// The bytes start like no image format; most often a web page saved under an image's name.
    #[error("not an image: the data starts with {start:?}. Expected {READ}")]
    NotAnImage {
        /// The first bytes, escaped.
        start: String,
    },
    /// An image of a format that is recognised but not read.
    #[error("{0} images are not read. Expected {READ}; convert the image, or leave it out")]
    UnsupportedFormat(UnreadFormat),
    /// A variant that is not read, of a format that is.
    #[error("unsupported image: {0}")]
    Unsupported(String),
    /// The header says that a side is 0.
    #[error("the image header gives {width}x{height} pixels; both sides must be at least 1")]
    ZeroSized {
        /// Width in the header.
        width: u32,
        /// Height in the header.
        height: u32,
    },
    /// The header promises more pixels than allowed: a decompression bomb or a mistake.
    #[error("the image header gives {width}x{height} pixels, more than the limit of {limit}")]
    TooManyPixels {
        /// Width in the header.
        width: u32,
        /// Height in the header.
        height: u32,
        /// [`DecodeLimits::max_pixels`](super::DecodeLimits).
        limit: u64,
    },
    /// One side is so much longer than the other that no sensible crop exists.
    #[error("the image header gives {width}x{height} pixels; one side is more than {limit} times the other")]
    ExtremeAspect {
        /// Width in the header.
        width: u32,
        /// Height in the header.
        height: u32,
        /// [`DecodeLimits::max_aspect`](super::DecodeLimits).
        limit: u32,
    },
    /// The data ends before the image does.
    #[error("the image data ends early")]
    Truncated,
    /// The data contradicts its format.
    #[error("the image data is corrupt: {0}")]
    Corrupt(String),
}

/// Every [`reason`](ImageError::reason) with its meaning in one line.
pub const REASONS: &[(&str, &str)] = &[
    ("empty", "no bytes, as failed downloads are stored"),
    ("not_an_image", "the first bytes are those of no image format, often a web page"),
    ("unsupported_avif", "AVIF, which is not read"),
    ("unsupported_heic", "HEIC or HEIF, which is not read"),
    ("unsupported_ico", "a Windows icon, which is not read"),
    ("unsupported_jpeg_2000", "JPEG 2000, which is not read"),
    ("unsupported_jpeg_xl", "JPEG XL, which is read only with the cargo feature `jpeg-xl`"),
    ("unsupported_svg", "SVG, a drawing without pixels"),
    ("unsupported", "a rare variant of a format that is read"),
    ("zero_sized", "the header gives a width or height of 0"),
    ("too_many_pixels", "the header gives more pixels than the limit"),
    ("extreme_aspect", "one side is more times the other than the limit"),
    ("truncated", "the file ends before the image does"),
    ("corrupt", "the data contradicts its format"),
];

impl ImageError {
    /// A short name that never changes, for counters, metrics and quarantine lists; one of [`REASONS`].
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotAnImage { .. } => "not_an_image",
            Self::UnsupportedFormat(format) => format.reason(),
            Self::Unsupported(_) => "unsupported",
            Self::ZeroSized { .. } => "zero_sized",
            Self::TooManyPixels { .. } => "too_many_pixels",
            Self::ExtremeAspect { .. } => "extreme_aspect",
            Self::Truncated => "truncated",
            Self::Corrupt(_) => "corrupt",
        }
    }
}
