//! JPEG by libjpeg-turbo. Unsafe code of this module is in this file only, behind [`Decompressor`].
//!
//! A decompressor lives for one image. libjpeg keeps the quantisation and Huffman tables of earlier images, so with a
//! reused one a file that lacks its tables would decode to something that depends on what the thread read before.

use std::ffi::{CStr, c_int};
use std::ptr::NonNull;

use turbojpeg_sys as sys;

use super::markers::{first_scan_is_all, is_cut};
use super::part::Part;
use super::raster::ink_level;
use super::{DecodeLimits, ImageError, Region, RgbImage, Shrink};

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

/// See [`super::decode_view`].
pub(super) fn decode_view(
    bytes: &[u8],
    limits: &DecodeLimits,
    shrink: Shrink,
    choose: impl FnOnce(u32, u32) -> Region,
    image: &mut RgbImage,
) -> Result<Region, ImageError> {
    let mut decompressor = Decompressor::new()?;
    let (width, height) = decompressor.read_header(bytes)?;
    limits.check(width, height)?;
    let view = choose(width, height);
    let part = match decompressor.mcu_width() {
        Some(mcu_width) => Part::of(view, (width, height), shrink, mcu_width),
        None => Part::of(view, (width, height), Shrink::Never, 1).of_whole(),
    };
    // libjpeg does not read what lies below a part: only where that is nothing but data, a full decode has nothing to
    // object to there. Progressive files are smoothed across blocks when their last scans are missing.
    let nothing_missed = !part.leaves_rows_below() || first_scan_is_all(bytes);
    if !part.is_whole() && nothing_missed && !decompressor.is_progressive() {
        if decompressor.decode_part(bytes, &part, image).is_ok() {
            return Ok(part.view);
        }
        // What is wrong with the file is for a full decode to say.
        decompressor = Decompressor::new()?;
        decompressor.read_header(bytes)?;
    }
    let part = part.of_whole();
    decompressor.decode_part(bytes, &part, image)?;
    Ok(part.view)
}

/// Pillow's conversion, after the inversion that its JPEG reader always does because Adobe stores inks inverted: with
/// `255 - ink` stored, paper is 255.
fn cmyk_to_rgb(inks: &[u8], pixels: &mut [u8]) {
    for (pixel, ink) in pixels.chunks_exact_mut(3).zip(inks.chunks_exact(4)) {
        for (level, stored) in pixel.iter_mut().zip(ink) {
            *level = ink_level(255 - stored, ink[3]);
        }
    }
}

/// One libjpeg-turbo decompressor.
struct Decompressor {
    handle: NonNull<std::ffi::c_void>,
}

impl Decompressor {
    fn new() -> Result<Self, ImageError> {
        // SAFETY: tj3Init has no preconditions.
        let handle = unsafe { sys::tj3Init(sys::TJINIT_TJINIT_DECOMPRESS as c_int) };
        let handle = NonNull::new(handle.cast())
            .ok_or_else(|| ImageError::Unsupported("libjpeg-turbo could not allocate a decompressor".into()))?;
        let decompressor = Self { handle };
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

    /// Columns of a minimum coded unit; nothing for kinds of JPEG that libjpeg decodes only as a whole.
    fn mcu_width(&self) -> Option<u32> {
        if self.get(sys::TJPARAM_TJPARAM_LOSSLESS) != 0 {
            return None;
        }
        match self.get(sys::TJPARAM_TJPARAM_SUBSAMP) {
            sys::TJSAMP_TJSAMP_444 | sys::TJSAMP_TJSAMP_GRAY | sys::TJSAMP_TJSAMP_440 | sys::TJSAMP_TJSAMP_441 => {
                Some(8)
            }
            sys::TJSAMP_TJSAMP_422 | sys::TJSAMP_TJSAMP_420 => Some(16),
            sys::TJSAMP_TJSAMP_411 => Some(32),
            _ => None,
        }
    }

    fn is_progressive(&self) -> bool {
        self.get(sys::TJPARAM_TJPARAM_PROGRESSIVE) == 1
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
            (Ok(width), Ok(height)) => Ok((width, height)),
            _ => Err(if is_cut(bytes) { ImageError::Truncated } else { ImageError::Corrupt("no frame header".into()) }),
        }
    }

    /// The window of `part`, of the image whose header was read from the same bytes.
    fn decode_part(&mut self, bytes: &[u8], part: &Part, image: &mut RgbImage) -> Result<(), ImageError> {
        self.choose_part(part)?;
        (image.width, image.height) = (part.window.width, part.window.height);
        let pixel_count = image.width as usize * image.height as usize;
        image.pixels.resize(pixel_count * 3, 0);
        match self.get(sys::TJPARAM_TJPARAM_COLORSPACE) as sys::TJCS {
            sys::TJCS_TJCS_CMYK | sys::TJCS_TJCS_YCCK => {
                let mut inks = vec![0; pixel_count * 4];
                self.decompress(bytes, (image.width, image.height), sys::TJPF_TJPF_CMYK, &mut inks)?;
                cmyk_to_rgb(&inks, &mut image.pixels);
                Ok(())
            }
            _ => self.decompress(bytes, (image.width, image.height), sys::TJPF_TJPF_RGB, &mut image.pixels),
        }
    }

    /// Sets size and window of what [`decompress`](Self::decompress) gives.
    fn choose_part(&mut self, part: &Part) -> Result<(), ImageError> {
        let Region { top, left, height, width } = part.window;
        let refused = |_| ImageError::Unsupported("a side of more than 2^31 pixels".into());
        let number = |value: u32| c_int::try_from(value).map_err(refused);
        let scale = sys::tjscalingfactor { num: 1, denom: number(part.denominator)? };
        let window = match part.is_whole() {
            true => sys::tjregion { x: 0, y: 0, w: 0, h: 0 },
            false => sys::tjregion { x: number(left)?, y: number(top)?, w: number(width)?, h: number(height)? },
        };
        // SAFETY: the handle is live and its header was read; a bad factor is refused by a return code.
        let not_scaled = unsafe { sys::tj3SetScalingFactor(self.handle.as_ptr().cast(), scale) };
        // SAFETY: as above; a window that is misplaced or reaches outside the image is refused by a return code.
        let not_cropped = unsafe { sys::tj3SetCroppingRegion(self.handle.as_ptr().cast(), window) };
        if not_scaled != 0 || not_cropped != 0 {
            return Err(ImageError::Unsupported(format!("libjpeg-turbo does not decode {part:?}")));
        }
        Ok(())
    }

    /// The pixels of the chosen part, which has this width and height; rows without padding.
    fn decompress(
        &mut self,
        bytes: &[u8],
        (width, height): (u32, u32),
        format: sys::TJPF,
        pixels: &mut [u8],
    ) -> Result<(), ImageError> {
        let channels = if format == sys::TJPF_TJPF_CMYK { 4 } else { 3 };
        let row_bytes = width as usize * channels;
        assert_eq!(pixels.len(), row_bytes * height as usize, "bytes of the part");
        // SAFETY: the handle is live; `bytes` are those of the header, so the part that `choose_part` set, which
        // libjpeg-turbo accepted for this image, has at most this many rows and columns and `channels` bytes per
        // pixel; `pixels` holds exactly that many, initialised.
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
