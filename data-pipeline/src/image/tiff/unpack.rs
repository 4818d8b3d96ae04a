//! Strips and tiles without their compression.

use flate2::{Decompress, FlushDecompress, Status};
use weezl::{BitOrder, LzwStatus};

use super::super::ImageError;
use super::layout::{Compression, Layout};

/// Fills `rows` with what `data` holds, with bits in the usual order and as samples instead of differences.
///
/// # Errors
/// `Truncated` when uncompressed data is short, `Corrupt` when compressed data is.
pub(super) fn unpack(layout: &Layout, data: &[u8], rows: &mut [u8]) -> Result<(), ImageError> {
    let reversed: Vec<u8>;
    let data = match layout.is_bit_reversed {
        true => {
            // The rest of the file may follow uncompressed rows.
            let used = if layout.compression == Compression::None { rows.len().min(data.len()) } else { data.len() };
            reversed = data[..used].iter().map(|byte| byte.reverse_bits()).collect();
            &reversed[..]
        }
        false => data,
    };
    let filled = match layout.compression {
        Compression::None => {
            let plain = data.get(..rows.len()).ok_or(ImageError::Truncated)?;
            rows.copy_from_slice(plain);
            rows.len()
        }
        Compression::PackBits => pack_bits(data, rows),
        Compression::Lzw => lzw(data, rows)?,
        Compression::Deflate => deflate(data, rows)?,
        Compression::Jpeg => 0,
    };
    if filled < rows.len() {
        let needed = rows.len();
        return Err(ImageError::Corrupt(format!("a strip or tile of {filled} bytes where {needed} are needed")));
    }
    if layout.is_predicted {
        rows.chunks_exact_mut(layout.row_bytes()).for_each(|row| undo_prediction(layout, row));
    }
    Ok(())
}

/// Adds the pixel to the left to each pixel.
fn undo_prediction(layout: &Layout, row: &mut [u8]) {
    let samples = layout.samples_together();
    if layout.bits == 8 {
        for at in samples..row.len() {
            row[at] = row[at].wrapping_add(row[at - samples]);
        }
        return;
    }
    let row = row.as_chunks_mut::<2>().0;
    for at in samples..row.len() {
        let (value, left) = (row[at], row[at - samples]);
        row[at] = match layout.is_big_endian {
            true => u16::from_be_bytes(value).wrapping_add(u16::from_be_bytes(left)).to_be_bytes(),
            false => u16::from_le_bytes(value).wrapping_add(u16::from_le_bytes(left)).to_le_bytes(),
        };
    }
}

/// Bytes that were filled. TIFF 6.0, section 9.
fn pack_bits(mut data: &[u8], rows: &mut [u8]) -> usize {
    let mut filled = 0;
    while let ([code, rest @ ..], true) = (data, filled < rows.len()) {
        let room = &mut rows[filled..];
        let used = match *code {
            literal @ 0..=127 => {
                let count = (usize::from(literal) + 1).min(rest.len()).min(room.len());
                room[..count].copy_from_slice(&rest[..count]);
                filled += count;
                count
            }
            128 => 0,
            run => {
                let Some(value) = rest.first() else { break };
                let count = (257 - usize::from(run)).min(room.len());
                room[..count].fill(*value);
                filled += count;
                1
            }
        };
        data = &rest[used..];
    }
    filled
}

/// Bytes that were filled.
fn lzw(mut data: &[u8], rows: &mut [u8]) -> Result<usize, ImageError> {
    let mut decoder = weezl::decode::Decoder::with_tiff_size_switch(BitOrder::Msb, 8);
    let mut filled = 0;
    while filled < rows.len() {
        let step = decoder.decode_bytes(data, &mut rows[filled..]);
        data = &data[step.consumed_in..];
        filled += step.consumed_out;
        match step.status {
            Ok(LzwStatus::Ok) if step.consumed_in + step.consumed_out > 0 => {}
            Ok(_) => break,
            Err(error) => return Err(ImageError::Corrupt(format!("LZW: {error}"))),
        }
    }
    Ok(filled)
}

/// Bytes that were filled.
fn deflate(data: &[u8], rows: &mut [u8]) -> Result<usize, ImageError> {
    let mut decoder = Decompress::new(true);
    loop {
        let (used, filled) = (decoder.total_in() as usize, decoder.total_out() as usize);
        let status = decoder.decompress(&data[used..], &mut rows[filled..], FlushDecompress::None);
        let status = status.map_err(|error| ImageError::Corrupt(format!("deflate: {error}")))?;
        let progress = (decoder.total_in() as usize, decoder.total_out() as usize);
        if status != Status::Ok || progress.1 == rows.len() || progress == (used, filled) {
            return Ok(progress.1);
        }
    }
}
