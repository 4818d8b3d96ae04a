//! The layout of a TIFF file's pixels by its fields, and the layouts that are read.

use super::super::{DecodeLimits, ImageError};
use super::directory::Directory;

mod tag {
    pub(super) const WIDTH: u16 = 256;
    pub(super) const HEIGHT: u16 = 257;
    pub(super) const BITS_PER_SAMPLE: u16 = 258;
    pub(super) const COMPRESSION: u16 = 259;
    pub(super) const PHOTOMETRIC: u16 = 262;
    pub(super) const FILL_ORDER: u16 = 266;
    pub(super) const STRIP_OFFSETS: u16 = 273;
    pub(super) const ORIENTATION: u16 = 274;
    pub(super) const SAMPLES_PER_PIXEL: u16 = 277;
    pub(super) const ROWS_PER_STRIP: u16 = 278;
    pub(super) const STRIP_BYTE_COUNTS: u16 = 279;
    pub(super) const PLANAR_CONFIGURATION: u16 = 284;
    pub(super) const PREDICTOR: u16 = 317;
    pub(super) const COLOR_MAP: u16 = 320;
    pub(super) const TILE_WIDTH: u16 = 322;
    pub(super) const TILE_LENGTH: u16 = 323;
    pub(super) const TILE_OFFSETS: u16 = 324;
    pub(super) const TILE_BYTE_COUNTS: u16 = 325;
    pub(super) const EXTRA_SAMPLES: u16 = 338;
    pub(super) const SAMPLE_FORMAT: u16 = 339;
    pub(super) const JPEG_TABLES: u16 = 347;
}

/// Pixels that tiles may have beyond four times those of the image: small images in large tiles are common, and the
/// whole width of a tile has to be decompressed.
const SPARE_TILE_PIXELS: u64 = 8 << 20;

/// Compressions that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    PackBits,
    Lzw,
    Deflate,
    /// A JPEG for each strip or tile.
    Jpeg,
}

/// The meaning of a pixel's samples.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Color {
    /// The first sample is the level.
    Gray {
        white_is_zero: bool,
    },
    Palette(Vec<[u8; 3]>),
    /// The first three samples, and the fourth if there is alpha.
    Rgb,
    Cmyk,
    /// In a JPEG, which converts it.
    YCbCr,
}

/// The meaning of the sample after those of the colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opacity {
    /// None of opacity.
    No,
    Straight,
    /// Colours are multiplied by it.
    Premultiplied,
}

/// Everything that decoding needs to know of a file's fields.
pub(super) struct Layout<'a> {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) bits: usize,
    /// Samples of a pixel.
    pub(super) samples: usize,
    pub(super) color: Color,
    pub(super) opacity: Opacity,
    pub(super) compression: Compression,
    pub(super) is_big_endian: bool,
    /// Whether every sample has strips or tiles of its own.
    pub(super) is_planar: bool,
    /// Whether samples are differences from the pixel to the left.
    pub(super) is_predicted: bool,
    /// Whether the first bit of a byte is the least significant one.
    pub(super) is_bit_reversed: bool,
    pub(super) orientation: u64,
    /// Width and height of a strip or tile.
    pub(super) chunk: (u32, u32),
    offsets: Vec<u64>,
    /// Empty where it may be and is missing.
    lengths: Vec<u64>,
    /// Tables that the JPEGs share.
    pub(super) jpeg_tables: &'a [u8],
}

/// Width and height.
pub(super) fn size(directory: &Directory) -> Result<(u32, u32), ImageError> {
    let side = |tag| {
        let side = directory.first(tag)?.ok_or_else(|| ImageError::Corrupt("a TIFF without a size".into()))?;
        u32::try_from(side).map_err(|_| ImageError::Corrupt(format!("a TIFF with a side of {side} pixels")))
    };
    Ok((side(tag::WIDTH)?, side(tag::HEIGHT)?))
}

impl<'a> Layout<'a> {
    /// # Errors
    /// `Unsupported` for what is not read, `Corrupt` for what contradicts itself.
    pub(super) fn read(directory: &Directory<'a>, limits: &DecodeLimits) -> Result<Self, ImageError> {
        let (width, height) = size(directory)?;
        limits.check(width, height)?;
        let (bits, samples) = samples(directory)?;
        let photometric = directory.first(tag::PHOTOMETRIC)?.unwrap_or(0);
        let compression = compression(directory)?;
        let extra = directory.numbers(tag::EXTRA_SAMPLES)?.unwrap_or_default();
        let unsupported = || {
            let kind = format!("photometric interpretation {photometric}, {samples} samples of {bits} bits");
            ImageError::Unsupported(format!(
                "a TIFF of {kind}, extra samples {extra:?} and {compression:?} compression"
            ))
        };
        let opacity = opacity(photometric, bits, samples, &extra).ok_or_else(unsupported)?;
        let color = match photometric {
            0 | 1 => Color::Gray { white_is_zero: photometric == 0 },
            2 => Color::Rgb,
            3 => Color::Palette(palette(directory, bits)?),
            5 => Color::Cmyk,
            _ => Color::YCbCr,
        };
        let is_planar = directory.first(tag::PLANAR_CONFIGURATION)? == Some(2) && samples > 1;
        let is_bit_reversed = directory.first(tag::FILL_ORDER)? == Some(2);
        let is_read = match compression {
            Compression::Jpeg => bits == 8 && extra.is_empty() && matches!((photometric, samples), (1, 1) | (2 | 6, 3)),
            _ => color != Color::YCbCr,
        };
        let is_plain = bits == 8 && color == Color::Rgb && compression != Compression::Jpeg;
        if !is_read || is_bit_reversed && bits > 8 || is_planar && (!is_plain || opacity == Opacity::Premultiplied) {
            return Err(unsupported());
        }
        let is_tiled = directory.numbers(tag::TILE_OFFSETS)?.is_some();
        let (offsets, lengths) = match is_tiled {
            true => (tag::TILE_OFFSETS, tag::TILE_BYTE_COUNTS),
            false => (tag::STRIP_OFFSETS, tag::STRIP_BYTE_COUNTS),
        };
        let layout = Self {
            width,
            height,
            bits,
            samples,
            color,
            opacity,
            compression,
            is_big_endian: directory.is_big_endian,
            is_planar,
            is_predicted: is_predicted(directory, compression, bits)?,
            is_bit_reversed,
            orientation: directory.first(tag::ORIENTATION)?.unwrap_or(1),
            chunk: if is_tiled { tile(directory)? } else { (width, strip_rows(directory, height)?) },
            offsets: directory.numbers(offsets)?.unwrap_or_default(),
            lengths: directory.numbers(lengths)?.unwrap_or_default(),
            jpeg_tables: directory.bytes(tag::JPEG_TABLES)?,
        };
        layout.check_chunks()?;
        Ok(layout)
    }

    /// Planes that are stored one after the other.
    pub(super) fn planes(&self) -> usize {
        if self.is_planar { self.samples } else { 1 }
    }

    /// Samples of a pixel that lie together.
    pub(super) fn samples_together(&self) -> usize {
        if self.is_planar { 1 } else { self.samples }
    }

    /// Chunks from left to right, and from top to bottom.
    pub(super) fn chunks(&self) -> (usize, usize) {
        (self.width.div_ceil(self.chunk.0) as usize, self.height.div_ceil(self.chunk.1) as usize)
    }

    /// Bytes of a row of a chunk.
    pub(super) fn row_bytes(&self) -> usize {
        (self.chunk.0 as usize * self.bits * self.samples_together()).div_ceil(8)
    }

    /// The data of a chunk, and for uncompressed ones all that follows: readers ignore their lengths.
    pub(super) fn data<'b>(&self, bytes: &'b [u8], chunk: usize) -> Result<&'b [u8], ImageError> {
        let start = usize::try_from(self.offsets[chunk]).unwrap_or(usize::MAX);
        let rest = bytes.get(start..).ok_or(ImageError::Truncated)?;
        match self.lengths.get(chunk) {
            Some(length) if self.compression != Compression::None => {
                usize::try_from(*length).ok().and_then(|length| rest.get(..length)).ok_or(ImageError::Truncated)
            }
            _ => Ok(rest),
        }
    }

    fn check_chunks(&self) -> Result<(), ImageError> {
        let (across, down) = self.chunks();
        let expected = across.saturating_mul(down).saturating_mul(self.planes());
        if self.offsets.len() < expected {
            let found = self.offsets.len();
            return Err(ImageError::Corrupt(format!("a TIFF of {found} strips or tiles where {expected} are needed")));
        }
        let pixels = u64::from(self.width) * u64::from(self.height);
        let chunk_pixels = u64::from(self.chunk.0) * u64::from(self.chunk.1.min(self.height));
        if chunk_pixels.saturating_mul((across * down) as u64) > pixels * 4 + SPARE_TILE_PIXELS {
            let (width, height) = self.chunk;
            return Err(ImageError::Unsupported(format!("a TIFF in tiles of {width}x{height} pixels")));
        }
        Ok(())
    }
}

/// Bits of a sample, and samples of a pixel.
fn samples(directory: &Directory) -> Result<(usize, usize), ImageError> {
    let samples = directory.first(tag::SAMPLES_PER_PIXEL)?.unwrap_or(1) as usize;
    let bits = directory.numbers(tag::BITS_PER_SAMPLE)?.unwrap_or_else(|| vec![1]);
    let formats = directory.numbers(tag::SAMPLE_FORMAT)?.unwrap_or_default();
    let first = bits.first().copied().unwrap_or(1);
    let is_known = matches!(first, 1 | 2 | 4 | 8 | 16) && (1..=6).contains(&samples);
    // One value may stand for all samples.
    let is_uniform = bits.iter().all(|value| *value == first) && (bits.len() == 1 || bits.len() >= samples);
    if !is_known || !is_uniform || formats.iter().any(|format| *format != 1) {
        let kind = format!("{samples} samples of {bits:?} bits in formats {formats:?}");
        return Err(ImageError::Unsupported(format!("a TIFF of {kind}")));
    }
    Ok((first as usize, samples))
}

fn compression(directory: &Directory) -> Result<Compression, ImageError> {
    match directory.first(tag::COMPRESSION)?.unwrap_or(1) {
        1 => Ok(Compression::None),
        5 => Ok(Compression::Lzw),
        7 => Ok(Compression::Jpeg),
        8 | 32946 => Ok(Compression::Deflate),
        32773 => Ok(Compression::PackBits),
        other => Err(ImageError::Unsupported(format!("a TIFF with compression {other}"))),
    }
}

/// Whether samples are differences, which only some compressions heed.
fn is_predicted(directory: &Directory, compression: Compression, bits: usize) -> Result<bool, ImageError> {
    let predictor = directory.first(tag::PREDICTOR)?.unwrap_or(1);
    match (compression, predictor) {
        (Compression::Lzw | Compression::Deflate, 2) if bits >= 8 => Ok(true),
        (Compression::Lzw | Compression::Deflate, predictor) if predictor != 1 => {
            Err(ImageError::Unsupported(format!("a TIFF with predictor {predictor} for {bits} bits")))
        }
        _ => Ok(false),
    }
}

/// The opacity of a kind of pixels; nothing for kinds that are not read (`TiffImagePlugin.OPEN_INFO` has all of
/// Pillow's).
fn opacity(photometric: u64, bits: usize, samples: usize, extra: &[u64]) -> Option<Opacity> {
    let unspecified = |extra: &[u64]| extra.iter().all(|kind| *kind == 0);
    match (photometric, bits, samples, extra) {
        // Pillow does not invert 16 bits.
        (0, 1 | 2 | 4 | 8, 1, []) | (1, _, 1, []) | (1, 8, 2, [0]) => Some(Opacity::No),
        (1, 8, 2, [2]) => Some(Opacity::Straight),
        (2, 8 | 16, 3, []) | (2, 8 | 16, 4, [0]) => Some(Opacity::No),
        // 999 is Corel Draw's.
        (2, 8 | 16, 4, [] | [2]) | (2, 8, 4, [999]) => Some(Opacity::Straight),
        (2, 8 | 16, 4, [1]) => Some(Opacity::Premultiplied),
        (2, 8, 5 | 6, [first, rest @ ..]) if extra.len() == samples - 3 && unspecified(rest) => match first {
            0 => Some(Opacity::No),
            1 => Some(Opacity::Premultiplied),
            2 => Some(Opacity::Straight),
            _ => None,
        },
        (3, 1 | 2 | 4 | 8, 1, []) => Some(Opacity::No),
        (5, 8, _, extra) if samples == 4 + extra.len() && unspecified(extra) => Some(Opacity::No),
        (5, 16, 4, []) | (6, 8, 3, []) => Some(Opacity::No),
        _ => None,
    }
}

/// The high bytes of the colour map, of which all reds come first.
fn palette(directory: &Directory, bits: usize) -> Result<Vec<[u8; 3]>, ImageError> {
    let map = directory.numbers(tag::COLOR_MAP)?.unwrap_or_default();
    let count = map.len() / 3;
    if count < 1 << bits {
        return Err(ImageError::Corrupt(format!("a TIFF of {bits} bits with a palette of {count} colours")));
    }
    let level = |index: usize| (map[index] >> 8) as u8;
    Ok((0..count).map(|index| [level(index), level(count + index), level(2 * count + index)]).collect())
}

fn tile(directory: &Directory) -> Result<(u32, u32), ImageError> {
    let side = |tag| {
        let side = directory.first(tag)?.and_then(|side| u32::try_from(side).ok()).filter(|side| *side > 0);
        side.ok_or_else(|| ImageError::Corrupt("a TIFF in tiles without a size".into()))
    };
    Ok((side(tag::TILE_WIDTH)?, side(tag::TILE_LENGTH)?))
}

fn strip_rows(directory: &Directory, height: u32) -> Result<u32, ImageError> {
    match directory.first(tag::ROWS_PER_STRIP)?.unwrap_or(u64::MAX) {
        0 => Err(ImageError::Corrupt("a TIFF in strips of 0 rows".into())),
        rows => Ok(u32::try_from(rows).unwrap_or(u32::MAX).min(height)),
    }
}
