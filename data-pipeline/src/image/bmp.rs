//! BMP as Pillow's `BmpImagePlugin` reads it.
//!
//! The decoder of the `image` crate rounds 16-bit levels where Pillow cuts them, makes the pixels that a run-length
//! code skips black instead of the palette's first colour, and refuses headers of OS/2 2 and run lengths from the top.

use super::{Alpha, DecodeLimits, ImageError, RgbImage};

/// Bytes before the second header, which starts with its own length.
const FILE_HEADER: usize = 14;
/// BITMAPCOREHEADER of OS/2 1, with 16-bit sizes and palette entries of three bytes.
const CORE_HEADER: u32 = 12;
/// BITMAPCOREHEADER2 of OS/2, with compressions of its own from 3 on.
const OS2_HEADER: u32 = 64;
/// From this length on, headers hold the masks of red, green and blue.
const V2_HEADER: u32 = 52;
/// From this length on, headers hold the mask of alpha too.
const V3_HEADER: u32 = 56;

/// The fields of a file's headers.
struct Header {
    width: u32,
    height: u32,
    is_top_down: bool,
    pixels: Pixels,
    /// Position of the pixels' data.
    data: usize,
}

/// The encoding of pixels.
enum Pixels {
    /// Indices of this many bits into a palette.
    Indexed { bits: u32, palette: Box<[[u8; 3]; 256]> },
    /// Runs of 8-bit or 4-bit indices into a palette.
    Runs { are_4_bit: bool, palette: Box<[[u8; 3]; 256]> },
    /// 16 bits; the greatest level and the shift of red, green and blue.
    Packed([(u32, u32); 3]),
    /// Bytes of a pixel, and which of them are red, green, blue and alpha.
    Bytes { count: usize, places: [usize; 3], alpha: Option<usize> },
}

/// Width and height in the header.
pub(super) fn size(bytes: &[u8]) -> Result<(u32, u32), ImageError> {
    let (width, height, _) = sides(bytes)?;
    Ok((width, height))
}

/// See [`super::decode`].
pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    image: &mut RgbImage,
    alpha: Alpha,
) -> Result<(), ImageError> {
    let (width, height) = size(bytes)?;
    limits.check(width, height)?;
    let header = Header::read(bytes)?;
    let data = bytes.get(header.data..).ok_or(ImageError::Truncated)?;
    let (stride, row_bytes) = header.row_bytes();
    // Before pixels are allocated. Padding after the last row may be missing.
    if data.len() < stride * (height as usize - 1) + row_bytes {
        return Err(ImageError::Truncated);
    }
    (image.width, image.height) = (width, height);
    image.pixels.resize(width as usize * height as usize * 3, 0);
    if let Pixels::Runs { are_4_bit, palette } = &header.pixels {
        let indices = Runs { bytes, at: header.data, width: width as usize, are_4_bit: *are_4_bit };
        let indices = indices.expand(width as usize * height as usize)?;
        for (row, indices) in indices.chunks_exact(width as usize).enumerate() {
            header.target_row(row, &mut image.pixels).zip(indices).for_each(|(out, i)| *out = palette[usize::from(*i)]);
        }
        return Ok(());
    }
    for (row, data) in data.chunks(stride).take(height as usize).enumerate() {
        header.unpack(data, header.target_row(row, &mut image.pixels));
    }
    if let (Pixels::Bytes { count, alpha: Some(place), .. }, Some(alpha)) = (&header.pixels, alpha) {
        alpha.resize(width as usize * height as usize, 0);
        for (row, data) in data.chunks(stride).take(height as usize).enumerate() {
            let start = header.target(row) * width as usize;
            let target = alpha[start..start + width as usize].iter_mut();
            target.zip(data.chunks_exact(*count)).for_each(|(out, pixel)| *out = pixel[*place]);
        }
    }
    Ok(())
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        let (width, height, is_top_down) = sides(bytes)?;
        let length = long(bytes, FILE_HEADER)?;
        let end = FILE_HEADER + length as usize;
        let (bits, compression, colors) = match length {
            CORE_HEADER => (short(bytes, 24)?, 0, 0),
            _ => (short(bytes, 28)?, long(bytes, 30)?, long(bytes, 46)?),
        };
        let unsupported = || ImageError::Unsupported(format!("a BMP of {bits} bits and compression {compression}"));
        if length == OS2_HEADER && compression >= 3 {
            return Err(unsupported());
        }
        let entry_bytes = if length == CORE_HEADER { 3 } else { 4 };
        let colors = if colors == 0 { 1 << bits.min(16) } else { colors as usize };
        let palette = || palette(bytes, end, colors, entry_bytes, bits);
        let pixels = match (bits, compression) {
            (1 | 4 | 8, 0) => Pixels::Indexed { bits: bits.into(), palette: palette()? },
            (8, 1) | (4, 2) => Pixels::Runs { are_4_bit: bits == 4, palette: palette()? },
            (16, 0) => Pixels::Packed([(31, 10), (31, 5), (31, 0)]),
            (24, 0) => Pixels::Bytes { count: 3, places: [2, 1, 0], alpha: None },
            (32, 0) => Pixels::Bytes { count: 4, places: [2, 1, 0], alpha: None },
            (16 | 24 | 32, 3) => masked(masks(bytes, length)?, bits).ok_or_else(unsupported)?,
            _ => return Err(unsupported()),
        };
        let palette_bytes = if bits <= 8 { colors * entry_bytes } else { 0 };
        let data = match long(bytes, 10)? as usize {
            0 => end + palette_bytes,
            // Some writers forget the palette.
            data if data == end => end + palette_bytes,
            data => data,
        };
        Ok(Self { width, height, is_top_down, pixels, data })
    }

    /// Bytes from one row to the next, and bytes of a row without its padding; none for runs, which have no rows.
    fn row_bytes(&self) -> (usize, usize) {
        let bits = match self.pixels {
            Pixels::Runs { .. } => return (0, 0),
            Pixels::Indexed { bits, .. } => bits as usize,
            Pixels::Packed(_) => 16,
            Pixels::Bytes { count, .. } => count * 8,
        };
        let row_bits = self.width as usize * bits;
        (row_bits.div_ceil(32) * 4, row_bits.div_ceil(8))
    }

    /// The row of the image that a row of the file is.
    fn target(&self, row: usize) -> usize {
        if self.is_top_down { row } else { self.height as usize - 1 - row }
    }

    /// The pixels of a row of the file, as pixels of the image.
    fn target_row<'a>(&self, row: usize, pixels: &'a mut [u8]) -> std::slice::IterMut<'a, [u8; 3]> {
        let row_bytes = self.width as usize * 3;
        let start = self.target(row) * row_bytes;
        pixels[start..start + row_bytes].as_chunks_mut::<3>().0.iter_mut()
    }

    fn unpack<'a>(&self, data: &[u8], target: impl Iterator<Item = &'a mut [u8; 3]>) {
        match &self.pixels {
            Pixels::Indexed { bits, palette } => {
                let per_byte = 8 / bits;
                let mask = (1u32 << bits) - 1;
                for (at, out) in (0u32..).zip(target) {
                    let byte = u32::from(data[(at / per_byte) as usize]);
                    *out = palette[(byte >> (8 - bits - at % per_byte * bits) & mask) as usize];
                }
            }
            Pixels::Packed(channels) => {
                for (out, pixel) in target.zip(data.as_chunks::<2>().0) {
                    let pixel = u32::from(u16::from_le_bytes(*pixel));
                    *out = channels.map(|(greatest, shift)| ((pixel >> shift & greatest) * 255 / greatest) as u8);
                }
            }
            Pixels::Bytes { count, places, .. } => {
                target.zip(data.chunks_exact(*count)).for_each(|(out, pixel)| *out = places.map(|place| pixel[place]));
            }
            Pixels::Runs { .. } => {}
        }
    }
}

/// Width, height, and whether rows run from the top.
fn sides(bytes: &[u8]) -> Result<(u32, u32, bool), ImageError> {
    match long(bytes, FILE_HEADER)? {
        CORE_HEADER => Ok((short(bytes, 18)?.into(), short(bytes, 20)?.into(), false)),
        40 | V2_HEADER | V3_HEADER | OS2_HEADER | 108 | 124 => {
            let height = long(bytes, 22)? as i32;
            Ok((long(bytes, 18)?, height.unsigned_abs(), height < 0))
        }
        other => Err(ImageError::Unsupported(format!("a BMP with a header of {other} bytes"))),
    }
}

/// The palette's colours. Pillow takes a palette that is a ramp of gray for none, so that indices are levels.
fn palette(
    bytes: &[u8],
    at: usize,
    colors: usize,
    entry_bytes: usize,
    bits: u16,
) -> Result<Box<[[u8; 3]; 256]>, ImageError> {
    let mut palette = Box::new([[0; 3]; 256]);
    let entries = bytes.get(at..).ok_or(ImageError::Truncated)?.chunks_exact(entry_bytes).take(colors);
    let mut is_ramp = true;
    for (index, (color, entry)) in palette.iter_mut().zip(entries).enumerate() {
        *color = [entry[2], entry[1], entry[0]];
        is_ramp &= *color == [index as u8; 3];
    }
    if is_ramp && bits == 8 && colors > 2 {
        (0..=255).zip(palette.iter_mut()).for_each(|(level, color)| *color = [level; 3]);
    }
    Ok(palette)
}

/// Masks of red, green, blue and alpha: in the header or behind it.
fn masks(bytes: &[u8], length: u32) -> Result<[u32; 4], ImageError> {
    let mask = |index: usize| long(bytes, FILE_HEADER + 40 + index * 4);
    let alpha = if length >= V3_HEADER { mask(3)? } else { 0 };
    Ok([mask(0)?, mask(1)?, mask(2)?, alpha])
}

/// Pixels with these masks; nothing for those that Pillow refuses.
fn masked(masks: [u32; 4], bits: u16) -> Option<Pixels> {
    let byte = |mask: u32| (0..4).find(|place| mask == 0xff << (8 * place));
    match (bits, masks) {
        (16, [0xf800, 0x07e0, 0x001f, _]) => Some(Pixels::Packed([(31, 11), (63, 5), (31, 0)])),
        (16, [0x7c00, 0x03e0, 0x001f, _]) => Some(Pixels::Packed([(31, 10), (31, 5), (31, 0)])),
        (24, [0xff_0000, 0xff00, 0xff, _]) => Some(Pixels::Bytes { count: 3, places: [2, 1, 0], alpha: None }),
        (32, [0, 0, 0, 0]) => Some(Pixels::Bytes { count: 4, places: [2, 1, 0], alpha: Some(3) }),
        (32, [red, green, blue, alpha]) => {
            let places = [byte(red)?, byte(green)?, byte(blue)?];
            let alpha = if alpha == 0 { None } else { Some(byte(alpha)?) };
            Some(Pixels::Bytes { count: 4, places, alpha })
        }
        _ => None,
    }
}

/// Run-length codes, in the order of the file's rows.
struct Runs<'a> {
    bytes: &'a [u8],
    at: usize,
    width: usize,
    are_4_bit: bool,
}

impl Runs<'_> {
    /// The indices of `count` pixels, by the rules of Pillow's `BmpRleDecoder`.
    fn expand(mut self, count: usize) -> Result<Vec<u8>, ImageError> {
        let mut indices = Vec::new();
        let mut column = 0;
        while indices.len() < count {
            let [run, value] = self.pair()?;
            match (run, value) {
                (0, 0) => {
                    indices.resize(indices.len().next_multiple_of(self.width), 0);
                    column = 0;
                }
                (0, 1) => return Err(ImageError::Corrupt("the run lengths end before the last row".into())),
                (0, 2) => {
                    let [right, up] = self.pair()?.map(usize::from);
                    indices.resize(count.min(indices.len() + right + up * self.width), 0);
                    column = indices.len() % self.width;
                }
                (0, literal) => {
                    self.literal(usize::from(literal).min(count - indices.len()), &mut indices)?;
                    column += usize::from(literal);
                }
                (run, value) => {
                    let run = usize::from(run).min(self.width.saturating_sub(column));
                    let pair = if self.are_4_bit { [value >> 4, value & 15] } else { [value; 2] };
                    indices.extend((0..run).map(|at| pair[at % 2]));
                    column += run;
                }
            }
        }
        indices.truncate(count);
        Ok(indices)
    }

    fn pair(&mut self) -> Result<[u8; 2], ImageError> {
        let pair = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk).ok_or(ImageError::Truncated)?;
        self.at += 2;
        Ok(*pair)
    }

    /// Appends `count` indices that are not a run; they end on an even position of the file.
    fn literal(&mut self, count: usize, indices: &mut Vec<u8>) -> Result<(), ImageError> {
        let byte_count = if self.are_4_bit { count.div_ceil(2) } else { count };
        let bytes = self.bytes.get(self.at..self.at + byte_count).ok_or(ImageError::Truncated)?;
        match self.are_4_bit {
            true => indices.extend(bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).take(count)),
            false => indices.extend_from_slice(bytes),
        }
        self.at = (self.at + byte_count).next_multiple_of(2);
        Ok(())
    }
}

fn short(bytes: &[u8], at: usize) -> Result<u16, ImageError> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map(|two| u16::from_le_bytes(*two)).ok_or(ImageError::Truncated)
}

fn long(bytes: &[u8], at: usize) -> Result<u32, ImageError> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map(|four| u32::from_le_bytes(*four)).ok_or(ImageError::Truncated)
}
