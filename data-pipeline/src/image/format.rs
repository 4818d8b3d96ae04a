//! Image formats, told apart by their first bytes.

use std::fmt;

use super::ImageError;

/// The formats that are read, as messages name them.
pub(super) const READ: &str = if cfg!(feature = "jpeg-xl") {
    "JPEG, PNG, WebP, GIF, BMP, TIFF or JPEG XL"
} else {
    "JPEG, PNG, WebP, GIF, BMP or TIFF"
};

/// Bytes in which the first element of an SVG file is looked for, after its declaration and comments.
const SVG_HEAD: usize = 1024;

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
    /// Palettes, 16, 24 and 32 bits, run lengths; headers of Windows and OS/2.
    Bmp,
    /// The first page: strips and tiles, plain or by PackBits, LZW, deflate or JPEG.
    Tiff,
    /// Still images and the first frame of animations.
    #[cfg(feature = "jpeg-xl")]
    JpegXl,
}

/// Formats of images on the web that are recognised, so that they can be counted, and not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnreadFormat {
    /// Needs a C library to be decoded.
    Avif,
    /// HEIC and other HEIF. Needs a C library to be decoded.
    Heic,
    /// Windows icons.
    Ico,
    /// Files and bare code streams.
    Jpeg2000,
    /// Files and bare code streams; read with the feature `jpeg-xl`.
    JpegXl,
    /// Drawings without pixels.
    Svg,
}

impl Format {
    /// The format of an encoded image.
    ///
    /// # Errors
    /// `Empty`, `NotAnImage`, or `UnsupportedFormat` for an [`UnreadFormat`].
    pub fn sniff(bytes: &[u8]) -> Result<Self, ImageError> {
        match bytes {
            [] => Err(ImageError::Empty),
            [0xff, 0xd8, 0xff, ..] => Ok(Self::Jpeg),
            [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Ok(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Self::WebP),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(Self::Gif),
            // The upper bytes of the length of the second header tell a bitmap from a text that starts with BM.
            [b'B', b'M', rest @ ..] if rest.get(13..16).is_none_or(|upper| upper == [0; 3]) => Ok(Self::Bmp),
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Ok(Self::Tiff),
            #[cfg(feature = "jpeg-xl")]
            _ if UnreadFormat::sniff(bytes) == Some(UnreadFormat::JpegXl) => Ok(Self::JpegXl),
            _ => Err(match UnreadFormat::sniff(bytes) {
                Some(format) => ImageError::UnsupportedFormat(format),
                None => ImageError::NotAnImage { start: bytes[..bytes.len().min(16)].escape_ascii().to_string() },
            }),
        }
    }

    /// The usual name of the format, such as `WebP`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
            #[cfg(feature = "jpeg-xl")]
            Self::JpegXl => "JPEG XL",
        }
    }

    /// The media type, such as `image/webp`.
    pub fn mime(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::WebP => "image/webp",
            Self::Gif => "image/gif",
            Self::Bmp => "image/bmp",
            Self::Tiff => "image/tiff",
            #[cfg(feature = "jpeg-xl")]
            Self::JpegXl => "image/jxl",
        }
    }
}

impl UnreadFormat {
    fn sniff(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => heif(bytes),
            [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', 0x0d, 0x0a, 0x87, 0x0a, ..] => Some(Self::JpegXl),
            [0xff, 0x4f, 0xff, 0x51, ..] | [0, 0, 0, 12, b'j', b'P', b' ', b' ', 0x0d, 0x0a, 0x87, 0x0a, ..] => {
                Some(Self::Jpeg2000)
            }
            // One to 255 icons, and the byte of the first that is always 0.
            [0, 0, 1, 0, 1..=255, 0, _, _, _, 0, ..] => Some(Self::Ico),
            _ => is_svg(bytes).then_some(Self::Svg),
        }
    }

    /// See [`ImageError::reason`].
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Avif => "unsupported_avif",
            Self::Heic => "unsupported_heic",
            Self::Ico => "unsupported_ico",
            Self::Jpeg2000 => "unsupported_jpeg_2000",
            Self::JpegXl => "unsupported_jpeg_xl",
            Self::Svg => "unsupported_svg",
        }
    }
}

impl fmt::Display for UnreadFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Avif => "AVIF",
            Self::Heic => "HEIC",
            Self::Ico => "ICO",
            Self::Jpeg2000 => "JPEG 2000",
            Self::JpegXl => "JPEG XL",
            Self::Svg => "SVG",
        })
    }
}

/// The image format of an ISO media file by the brands of its first box (ISO/IEC 23008-12, annex B; AVIF 1.1, section
/// 6); nothing for videos. Brands such as `mif1` say only that it holds images: then the compatible brands tell.
fn heif(bytes: &[u8]) -> Option<UnreadFormat> {
    let length = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    let brands = bytes.get(8..length.clamp(8, bytes.len())).unwrap_or_default().as_chunks::<4>().0;
    let compatible = brands.get(2..).unwrap_or_default();
    match brands.first()? {
        b"avif" | b"avis" => Some(UnreadFormat::Avif),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"hevm" | b"hevs" => Some(UnreadFormat::Heic),
        b"mif1" | b"mif2" | b"msf1" | b"miaf" => {
            let is_avif = compatible.iter().any(|brand| matches!(brand, b"avif" | b"avis"));
            Some(if is_avif { UnreadFormat::Avif } else { UnreadFormat::Heic })
        }
        _ => None,
    }
}

/// Whether the first element of an XML text is `svg`: then it is a drawing, and no web page that contains one.
fn is_svg(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(SVG_HEAD)];
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    if !text.starts_with(b"<") {
        return false;
    }
    let element = text.windows(2).position(|pair| pair[0] == b'<' && pair[1].is_ascii_alphabetic());
    element.is_some_and(|at| {
        let name = &text[at + 1..];
        let name = name.strip_prefix(b"svg:").unwrap_or(name);
        name.strip_prefix(b"svg").is_some_and(|rest| rest.first().is_none_or(|c| !c.is_ascii_alphanumeric()))
    })
}
