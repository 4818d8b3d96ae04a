//! Pictures of scenes as JPEG files.

use super::render::render;
use super::scene::Scene;
use crate::error::{DataError, Result};

/// Renders and compresses pictures, at full colour resolution: at 64 px, halved chroma would mix the colours of thin
/// stripes.
#[cfg(feature = "libjpeg-turbo")]
pub(super) struct JpegEncoder(turbojpeg::Compressor);

#[cfg(feature = "libjpeg-turbo")]
impl JpegEncoder {
    pub(super) fn new(quality: u8) -> Result<Self> {
        let mut compressor = turbojpeg::Compressor::new().map_err(failed)?;
        compressor.set_quality(quality.into()).map_err(failed)?;
        compressor.set_subsamp(turbojpeg::Subsamp::None).map_err(failed)?;
        Ok(Self(compressor))
    }

    pub(super) fn encode(&mut self, scene: &Scene, side: u32) -> Result<Vec<u8>> {
        let picture = render(scene, side);
        let side = side as usize;
        let format = turbojpeg::PixelFormat::RGB;
        let image = turbojpeg::Image { pixels: &picture.rgb[..], width: side, pitch: 3 * side, height: side, format };
        self.0.compress_to_vec(image).map_err(failed)
    }
}

/// The same by the `image` crate. A corpus is the same bytes only where it is made by the same encoder.
#[cfg(not(feature = "libjpeg-turbo"))]
pub(super) struct JpegEncoder(u8);

#[cfg(not(feature = "libjpeg-turbo"))]
impl JpegEncoder {
    pub(super) fn new(quality: u8) -> Result<Self> {
        Ok(Self(quality))
    }

    pub(super) fn encode(&mut self, scene: &Scene, side: u32) -> Result<Vec<u8>> {
        let picture = render(scene, side);
        let mut file = Vec::new();
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, self.0)
            .encode(&picture.rgb, side, side, image::ExtendedColorType::Rgb8)
            .map_err(failed)?;
        Ok(file)
    }
}

fn failed(error: impl std::fmt::Display) -> DataError {
    DataError::Encode(format!("a JPEG image: {error}"))
}
