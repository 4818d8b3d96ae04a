//! Why an image could not be used, in reasons that can be counted.

/// Why some bytes gave no usable image. Every variant has a short stable [`reason`](ImageError::reason) to count by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// There are no bytes at all (failed downloads are stored like this).
    #[error("the image has no bytes")]
    Empty,
    /// The bytes start like no image format; most often a web page saved under an image's name.
    #[error("not an image: the data starts with {start:?}. Expected JPEG, PNG, WebP or GIF")]
    NotAnImage {
        /// The first bytes, escaped.
        start: String,
    },
    /// An image, but of a kind that is not read here.
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

impl ImageError {
    /// A short name that never changes, for counters, metrics and quarantine lists.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotAnImage { .. } => "not_an_image",
            Self::Unsupported(_) => "unsupported",
            Self::ZeroSized { .. } => "zero_sized",
            Self::TooManyPixels { .. } => "too_many_pixels",
            Self::ExtremeAspect { .. } => "extreme_aspect",
            Self::Truncated => "truncated",
            Self::Corrupt(_) => "corrupt",
        }
    }
}
