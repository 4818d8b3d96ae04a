//! TIFF as Pillow's `TiffImagePlugin` and libtiff read it: the first page.
//!
//! The `tiff` crate (0.11) has no palettes, ignores the bit order, undoes prediction wrongly where samples are left out,
//! and reserves the memory that a header asks for. Its decompressors, `weezl` and `flate2`, are used here too.

mod directory;
mod layout;
mod unpack;

use super::raster::ink_level;
use super::{Alpha, DecodeLimits, ImageError, RgbImage};
use directory::Directory;
use layout::{Color, Compression, Layout, Opacity};

/// Width and height in the header.
pub(super) fn size(bytes: &[u8]) -> Result<(u32, u32), ImageError> {
    layout::size(&Directory::read(bytes)?)
}

/// See [`super::decode`].
pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    image: &mut RgbImage,
    mut alpha: Alpha,
) -> Result<(), ImageError> {
    let layout = Layout::read(&Directory::read(bytes)?, limits)?;
    (image.width, image.height) = (layout.width, layout.height);
    let pixel_count = layout.width as usize * layout.height as usize;
    image.pixels.resize(pixel_count * 3, 0);
    if let Some(alpha) = alpha.as_mut().filter(|_| layout.opacity != Opacity::No) {
        alpha.resize(pixel_count, 0);
    }
    let (across, down) = layout.chunks();
    let mut rows = Vec::new();
    for index in 0..across * down * layout.planes() {
        let (plane, place) = (index / (across * down), index % (across * down));
        let chunk = Chunk::new(&layout, plane, (place % across, place / across));
        let data = layout.data(bytes, index)?;
        if layout.compression == Compression::Jpeg {
            chunk.copy_jpeg(data, image)?;
            continue;
        }
        rows.resize(layout.row_bytes() * chunk.height, 0);
        unpack::unpack(&layout, data, &mut rows)?;
        for (row, data) in rows.chunks_exact(layout.row_bytes()).enumerate() {
            let pixels = chunk.pixels(row);
            chunk.put_row(data, &mut image.pixels[pixels.start * 3..pixels.end * 3]);
            if let Some(alpha) = alpha.as_mut().filter(|alpha| !alpha.is_empty()) {
                chunk.put_alpha(data, &mut alpha[pixels]);
            }
        }
    }
    orient(layout.orientation, image, alpha);
    Ok(())
}

/// The part of a strip or tile that lies within the image.
struct Chunk<'a> {
    layout: &'a Layout<'a>,
    plane: usize,
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl<'a> Chunk<'a> {
    /// The chunk of this plane, column and row.
    fn new(layout: &'a Layout<'a>, plane: usize, (column, row): (usize, usize)) -> Self {
        let (left, top) = (column * layout.chunk.0 as usize, row * layout.chunk.1 as usize);
        let width = (layout.chunk.0 as usize).min(layout.width as usize - left);
        let height = (layout.chunk.1 as usize).min(layout.height as usize - top);
        Self { layout, plane, left, top, width, height }
    }

    /// The pixels of the image that a row of the chunk is.
    fn pixels(&self, row: usize) -> std::ops::Range<usize> {
        let start = (self.top + row) * self.layout.width as usize + self.left;
        start..start + self.width
    }

    /// Writes a row of data as RGB.
    fn put_row(&self, data: &[u8], pixels: &mut [u8]) {
        let layout = self.layout;
        let sample = |pixel: usize, index: usize| self.sample(data, pixel, index);
        let each = pixels.as_chunks_mut::<3>().0.iter_mut().enumerate();
        match &layout.color {
            // Channels beyond the third do not show.
            _ if layout.is_planar && self.plane < 3 => each.for_each(|(at, out)| out[self.plane] = data[at]),
            _ if layout.is_planar => {}
            Color::Gray { .. } if layout.bits == 16 => each.for_each(|(at, out)| {
                // Clipped, as Pillow converts `I;16`.
                let [first, second] = [data[at * 2], data[at * 2 + 1]];
                let (high, low) = if layout.is_big_endian { (first, second) } else { (second, first) };
                *out = [if high > 0 { 255 } else { low }; 3];
            }),
            Color::Gray { white_is_zero } => {
                let invert = if *white_is_zero { 255 } else { 0 };
                let greatest = (1 << layout.bits) - 1;
                each.for_each(|(at, out)| {
                    let level = if layout.bits == 8 { sample(at, 0) } else { self.index(data, at) };
                    *out = [(255 / greatest as u8 * level) ^ invert; 3];
                });
            }
            Color::Palette(colors) => each.for_each(|(at, out)| *out = colors[usize::from(self.index(data, at))]),
            Color::Rgb if layout.opacity == Opacity::Premultiplied => each.for_each(|(at, out)| {
                let alpha = u32::from(sample(at, 3));
                let full = |level: u8| (u32::from(level) * 255).checked_div(alpha).unwrap_or(0).min(255) as u8;
                *out = [0, 1, 2].map(|index| full(sample(at, index)));
            }),
            Color::Rgb | Color::YCbCr => each.for_each(|(at, out)| *out = [0, 1, 2].map(|index| sample(at, index))),
            Color::Cmyk => each.for_each(|(at, out)| {
                let not_black = 255 - sample(at, 3);
                *out = [0, 1, 2].map(|index| ink_level(sample(at, index), not_black));
            }),
        }
    }

    /// Writes a row of data as alpha.
    fn put_alpha(&self, data: &[u8], alpha: &mut [u8]) {
        let index = if self.layout.color == Color::Rgb { 3 } else { 1 };
        match self.layout.is_planar {
            true if self.plane == index => alpha.copy_from_slice(&data[..alpha.len()]),
            true => {}
            false => alpha.iter_mut().enumerate().for_each(|(at, out)| *out = self.sample(data, at, index)),
        }
    }

    /// An 8-bit sample, or the high byte of a 16-bit one.
    fn sample(&self, data: &[u8], pixel: usize, index: usize) -> u8 {
        let step = self.layout.bits / 8;
        let high = if self.layout.is_big_endian { 0 } else { step - 1 };
        data[(pixel * self.layout.samples + index) * step + high]
    }

    /// The only sample of a pixel, of 8 bits or less.
    fn index(&self, data: &[u8], pixel: usize) -> u8 {
        let bits = self.layout.bits;
        let per_byte = 8 / bits;
        let from_right = (per_byte - 1 - pixel % per_byte) * bits;
        data[pixel / per_byte] >> from_right & (((1u16 << bits) - 1) as u8)
    }

    /// Decodes a JPEG into the image.
    fn copy_jpeg(&self, data: &[u8], image: &mut RgbImage) -> Result<(), ImageError> {
        let file = self.jpeg_file(data);
        let (chunk_width, chunk_height) = self.layout.chunk;
        // Some writers make the last strip as high as the others.
        let most_pixels = u64::from(chunk_width) * u64::from(chunk_height);
        let limits = DecodeLimits { max_pixels: most_pixels, max_aspect: u32::MAX };
        let mut part = RgbImage::default();
        super::decode_into(&file, &limits, &mut part)?;
        if part.width != chunk_width || (part.height as usize) < self.height {
            let found = format!("a JPEG of {}x{} pixels", part.width, part.height);
            return Err(ImageError::Corrupt(format!("{found} in a TIFF tile of {chunk_width}x{chunk_height}")));
        }
        for (row, data) in part.pixels.chunks_exact(part.width as usize * 3).take(self.height).enumerate() {
            let pixels = self.pixels(row);
            image.pixels[pixels.start * 3..pixels.end * 3].copy_from_slice(&data[..self.width * 3]);
        }
        Ok(())
    }

    /// A whole JPEG of a tile: with the tables that all tiles share, and Adobe's marker, as the photometric
    /// interpretation and no marker of the tile says whether its colours are converted (libtiff's `tif_jpeg.c`).
    fn jpeg_file(&self, data: &[u8]) -> Vec<u8> {
        let transform = u8::from(self.layout.color == Color::YCbCr);
        let adobe = [b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00", &[transform][..]].concat();
        let tables = self.layout.jpeg_tables;
        let tables = tables.strip_prefix(b"\xff\xd8").unwrap_or(tables);
        let tables = tables.strip_suffix(b"\xff\xd9").unwrap_or(tables);
        let image = data.strip_prefix(b"\xff\xd8").unwrap_or(data);
        [b"\xff\xd8", &adobe[..], tables, image].concat()
    }
}

/// Turns and mirrors what was read, by TIFF 6.0's Orientation: Pillow does so for TIFF, and for no other format.
fn orient(orientation: u64, image: &mut RgbImage, alpha: Alpha) {
    if !(2..=8).contains(&orientation) {
        return;
    }
    let (width, height) = (image.width as usize, image.height as usize);
    let (new_width, new_height) = if orientation < 5 { (width, height) } else { (height, width) };
    let source = |target: usize| {
        let (x, y) = (target % new_width, target / new_width);
        let (right, up) = (width.wrapping_sub(1 + x), height.wrapping_sub(1 + y));
        let (right_of_y, up_of_x) = (width.wrapping_sub(1 + y), height.wrapping_sub(1 + x));
        let (column, row) = match orientation {
            2 => (right, y),
            3 => (right, up),
            4 => (x, up),
            5 => (y, x),
            6 => (y, up_of_x),
            7 => (right_of_y, up_of_x),
            _ => (right_of_y, x),
        };
        row * width + column
    };
    let pixels = image.pixels.as_chunks::<3>().0;
    image.pixels = (0..new_width * new_height).flat_map(|target| pixels[source(target)]).collect();
    (image.width, image.height) = (new_width as u32, new_height as u32);
    if let Some(alpha) = alpha.filter(|alpha| !alpha.is_empty()) {
        *alpha = (0..alpha.len()).map(|target| alpha[source(target)]).collect();
    }
}
