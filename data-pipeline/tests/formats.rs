//! BMP, TIFF and JPEG XL files of many kinds against the pixels of Pillow 13, of which `golden/formats/make.py` left the hashes.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

use std::path::{Path, PathBuf};

use data_pipeline::image::{DecodeLimits, decode};
use sha2::{Digest, Sha256};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formats")
}

/// Every file: its name, its bytes, and what Pillow makes of it as `width height sha256`.
fn files() -> Vec<(String, Vec<u8>, String)> {
    let expected = std::fs::read_to_string(folder().join("expected.txt")).unwrap();
    let split = expected.lines().map(|line| line.split_once(' ').unwrap());
    split.map(|(name, said)| (name.into(), std::fs::read(folder().join(name)).unwrap(), said.into())).collect()
}

fn is_not_built_in(name: &str) -> bool {
    name.ends_with(".jxl") && cfg!(not(feature = "jpeg-xl"))
}

#[test]
fn pixels_are_those_of_pillow() {
    let mut differing = Vec::new();
    for (name, bytes, expected) in files() {
        // Without libjpeg-turbo, pixels of a JPEG differ by a few levels.
        let is_other_jpeg = name.starts_with("jpeg") && cfg!(not(feature = "libjpeg-turbo"));
        if is_other_jpeg || is_not_built_in(&name) {
            continue;
        }
        let found = match decode(&bytes, &DecodeLimits::default()) {
            Ok(image) => {
                let hash: String = Sha256::digest(&image.pixels).iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{} {} {hash}", image.width, image.height)
            }
            Err(error) => error.to_string(),
        };
        if found != expected {
            differing.push(format!("{name}: {found}, expected {expected}"));
        }
    }
    assert!(differing.is_empty(), "{} of {} files\n{}", differing.len(), files().len(), differing.join("\n"));
}

#[test]
fn cut_files_are_truncated_or_whole() {
    for (name, bytes, _) in files().into_iter().filter(|(name, ..)| !is_not_built_in(name)) {
        for kept in 2..bytes.len() {
            match decode(&bytes[..kept], &DecodeLimits::default()) {
                // Padding at the end, directories of later pages and the like are not missed.
                Ok(_) => assert!(bytes.len() - kept < 400, "{name} of {} bytes cut to {kept}", bytes.len()),
                Err(error) => {
                    let reason = error.reason();
                    let is_start = kept < 12 && reason == "not_an_image";
                    assert!(
                        reason == "truncated" || is_start,
                        "{name} of {} bytes cut to {kept}: {error}",
                        bytes.len()
                    );
                }
            }
        }
    }
}
