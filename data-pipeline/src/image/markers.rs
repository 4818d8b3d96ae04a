//! What a JPEG file's markers tell without decoding it.

/// Whether the file ends before its end-of-image marker, so that Pillow says "image file is truncated".
pub(super) fn is_cut(bytes: &[u8]) -> bool {
    let Some(scan) = first_scan(bytes) else { return true };
    // Entropy-coded data never contains FF D9: an FF in it is followed by 00.
    !bytes[scan..].windows(2).rev().any(|pair| pair == [0xff, 0xd9])
}

/// Whether the end-of-image marker is what follows the data of the first scan: then whoever stops reading inside that
/// data misses nothing but data, of which libjpeg accepts every flaw with a warning.
#[cfg(feature = "libjpeg-turbo")]
pub(super) fn first_scan_is_all(bytes: &[u8]) -> bool {
    let after_header = || {
        let scan = first_scan(bytes)?;
        let length = u16::from_be_bytes([*bytes.get(scan + 2)?, *bytes.get(scan + 3)?]);
        bytes.get(scan + 2 + usize::from(length)..)
    };
    let Some(mut data) = after_header() else { return false };
    loop {
        let Some(at) = memchr::memchr(0xff, data) else { return false };
        match data.get(at + 1) {
            // Stuffing, fill bytes and restart markers belong to the data.
            Some(0x00 | 0xd0..=0xd7) => data = &data[at + 2..],
            Some(0xff) => data = &data[at + 1..],
            marker => return marker == Some(&0xd9),
        }
    }
}

/// Where the first scan header starts; nothing when the file ends in a segment before it.
fn first_scan(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        let marker = at + bytes.get(at..)?.iter().position(|byte| *byte == 0xff)?;
        match bytes.get(marker + 1)? {
            0xda => return Some(marker),
            // Fill bytes, stuffing, and markers without a length.
            0xff => at = marker + 1,
            0x00 | 0x01 | 0xd0..=0xd8 => at = marker + 2,
            0xd9 => return Some(marker),
            _ => {
                let length = u16::from_be_bytes([*bytes.get(marker + 2)?, *bytes.get(marker + 3)?]);
                at = marker + 2 + usize::from(length);
                if at > bytes.len() {
                    return None;
                }
            }
        }
    }
}
