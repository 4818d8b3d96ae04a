//! JPEG by libjpeg-turbo. Unsafe code of this module is in this file only, behind [`Decompressor`].
//!
//! A decompressor lives for one image. libjpeg keeps the quantisation and Huffman tables of earlier images, so with a
//! reused one a file that lacks its tables would decode to something that depends on what the thread read before.

use std::ffi::{CStr, c_int};
use std::ptr::NonNull;

use turbojpeg_sys as sys;

use super::{DecodeLimits, ImageError, RgbImage};

/// Progressive files with more scans are an attack: the standard's encoders write about ten
/// (libjpeg-turbo's "Two Issues with the JPEG Standard" recommends a limit and 500 as its value).
const MAX_SCANS: c_int = 500;

/// Messages of libjpeg after which it goes on, as Pillow does; see `jerror.h`, JWRN_*.
const WARNINGS: [&str; 6] = [
    "Corrupt JPEG data",
    "Premature end of JPEG file",
    "Warning: unknown JFIF revision",
    "Unknown Adobe color transform",
    "Inconsistent progression sequence",
    "Invalid SOS parameters",
];

/// Which JPEG decoder is built in, for `doctor` and benchmark reports.
pub fn jpeg_decoder() -> &'static str {
    env!("BLIP2_JPEG_DECODER")
}

/// See [`super::decode`].
pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits, image: &mut RgbImage) -> Result<(), ImageError> {
    let mut decompressor = Decompressor::new()?;
    let (width, height) = decompressor.read_header(bytes)?;
    limits.check(width, height)?;
    (image.width, image.height) = (width, height);
    let pixel_count = width as usize * height as usize;
    image.pixels.resize(pixel_count * 3, 0);
    match decompressor.colorspace() {
        sys::TJCS_TJCS_CMYK | sys::TJCS_TJCS_YCCK => {
            let mut inks = vec![0; pixel_count * 4];
            decompressor.decompress(bytes, sys::TJPF_TJPF_CMYK, &mut inks)?;
            cmyk_to_rgb(&inks, &mut image.pixels);
            Ok(())
        }
        _ => decompressor.decompress(bytes, sys::TJPF_TJPF_RGB, &mut image.pixels),
    }
}

/// Pillow's conversion (`Convert.c`, `cmyk2rgb`), after the inversion that its JPEG reader always does because Adobe
/// stores inks inverted: with `255 - ink` stored, paper is 255.
fn cmyk_to_rgb(inks: &[u8], pixels: &mut [u8]) {
    for (pixel, ink) in pixels.chunks_exact_mut(3).zip(inks.chunks_exact(4)) {
        let not_black = u32::from(ink[3]);
        for (level, stored) in pixel.iter_mut().zip(ink) {
            let product = (255 - u32::from(*stored)) * not_black + 128;
            // a * b / 255, rounded, as MULDIV255.
            *level = not_black.saturating_sub(((product >> 8) + product) >> 8) as u8;
        }
    }
}

/// One libjpeg-turbo decompressor.
struct Decompressor {
    handle: NonNull<std::ffi::c_void>,
    size: (u32, u32),
}

impl Decompressor {
    fn new() -> Result<Self, ImageError> {
        // SAFETY: tj3Init has no preconditions.
        let handle = unsafe { sys::tj3Init(sys::TJINIT_TJINIT_DECOMPRESS as c_int) };
        let handle = NonNull::new(handle.cast())
            .ok_or_else(|| ImageError::Unsupported("libjpeg-turbo could not allocate a decompressor".into()))?;
        let decompressor = Self { handle, size: (0, 0) };
        decompressor.set(sys::TJPARAM_TJPARAM_SCANLIMIT, MAX_SCANS);
        // Colour profiles are ignored: do not even copy them.
        decompressor.set(sys::TJPARAM_TJPARAM_SAVEMARKERS, 0);
        Ok(decompressor)
    }

    fn set(&self, parameter: sys::TJPARAM, value: c_int) {
        // SAFETY: the handle is live; unknown parameters and values are refused by a return code.
        let refused = unsafe { sys::tj3Set(self.handle.as_ptr().cast(), parameter as c_int, value) };
        debug_assert_eq!(refused, 0, "libjpeg-turbo refused parameter {parameter}");
    }

    fn get(&self, parameter: sys::TJPARAM) -> c_int {
        // SAFETY: the handle is live; unknown parameters give -1.
        unsafe { sys::tj3Get(self.handle.as_ptr().cast(), parameter as c_int) }
    }

    fn colorspace(&self) -> sys::TJCS {
        self.get(sys::TJPARAM_TJPARAM_COLORSPACE) as sys::TJCS
    }

    /// Width and height; nothing of their size is allocated.
    fn read_header(&mut self, bytes: &[u8]) -> Result<(u32, u32), ImageError> {
        // SAFETY: the handle is live, and pointer and length are those of a slice.
        let failed = unsafe {
            sys::tj3DecompressHeader(self.handle.as_ptr().cast(), bytes.as_ptr(), bytes.len() as sys::size_t)
        };
        if failed != 0 {
            self.judge(bytes)?;
        }
        if self.get(sys::TJPARAM_TJPARAM_PRECISION) > 8 {
            return Err(ImageError::Unsupported("a JPEG of more than 8 bits per sample".into()));
        }
        let width = self.get(sys::TJPARAM_TJPARAM_JPEGWIDTH);
        let height = self.get(sys::TJPARAM_TJPARAM_JPEGHEIGHT);
        match (u32::try_from(width), u32::try_from(height)) {
            // A fresh decompressor says -1 until it has seen a frame header.
            (Ok(width), Ok(height)) => {
                self.size = (width, height);
                Ok(self.size)
            }
            _ => Err(if is_cut(bytes) { ImageError::Truncated } else { ImageError::Corrupt("no frame header".into()) }),
        }
    }

    /// All pixels of the image whose header was read from the same bytes, rows without padding.
    fn decompress(&mut self, bytes: &[u8], format: sys::TJPF, pixels: &mut [u8]) -> Result<(), ImageError> {
        let channels = if format == sys::TJPF_TJPF_CMYK { 4 } else { 3 };
        let row_bytes = self.size.0 as usize * channels;
        assert_eq!(pixels.len(), row_bytes * self.size.1 as usize, "bytes of the whole image");
        // SAFETY: the handle is live; `bytes` are those of the header, so the image has `size` and at most
        // `channels` bytes per pixel, and `pixels` holds exactly that many, initialised.
        let failed = unsafe {
            sys::tj3Decompress8(
                self.handle.as_ptr().cast(),
                bytes.as_ptr(),
                bytes.len() as sys::size_t,
                pixels.as_mut_ptr(),
                row_bytes as c_int,
                format,
            )
        };
        if failed != 0 { self.judge(bytes) } else { Ok(()) }
    }

    /// After a call that did not succeed: is the result still what Pillow would accept?
    ///
    /// libjpeg-turbo's own distinction does not suffice: it calls an error that follows a warning a warning, and keeps
    /// the text of the first warning only, so a cut file with another flaw would pass.
    fn judge(&self, bytes: &[u8]) -> Result<(), ImageError> {
        // SAFETY: the handle is live; the result is a NUL-terminated string that lives until the next call.
        let message = unsafe { CStr::from_ptr(sys::tj3GetErrorStr(self.handle.as_ptr().cast())) };
        let message = message.to_string_lossy();
        if message.starts_with("Premature end of JPEG file") || is_cut(bytes) {
            Err(ImageError::Truncated)
        } else if WARNINGS.iter().any(|warning| message.starts_with(warning)) {
            Ok(())
        } else if message.contains("Empty JPEG image") {
            Err(ImageError::ZeroSized { width: 0, height: 0 })
        } else if ["upported", "Could not determine", "Sorry"].iter().any(|part| message.contains(part)) {
            Err(ImageError::Unsupported(message.into_owned()))
        } else {
            Err(ImageError::Corrupt(message.into_owned()))
        }
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        // SAFETY: the handle came from tj3Init and is destroyed once.
        unsafe { sys::tj3Destroy(self.handle.as_ptr().cast()) };
    }
}

/// Whether the file ends before its end-of-image marker, so that Pillow says "image file is truncated".
fn is_cut(bytes: &[u8]) -> bool {
    let Some(scan) = first_scan(bytes) else { return true };
    // Entropy-coded data never contains FF D9: an FF in it is followed by 00.
    !bytes[scan..].windows(2).rev().any(|pair| pair == [0xff, 0xd9])
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
