//! Small sets of images and captions in the forms that are read without conversion.

use std::path::Path;

use crate::programs::checkout;

/// The image of a row: JPEG, PNG and grayscale take turns.
///
/// # Panics
/// When the fixtures of the checkout are gone.
pub fn image(row: usize) -> Vec<u8> {
    let name = ["gradient.jpg", "rgba.png", "gray.jpg"][row % 3];
    std::fs::read(checkout().join("tests/fixtures/preprocess").join(name)).expect("a fixture of the checkout")
}

/// The caption of a row.
pub fn caption(row: usize) -> String {
    format!("picture number {row}")
}

/// A ustar member.
///
/// # Panics
/// When the name is longer than 100 bytes.
pub fn tar_member(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].copy_from_slice(b"        ");
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// Tar shards as img2dataset's `webdataset` format writes them.
///
/// # Panics
/// When they cannot be written.
pub fn write_tars(folder: &Path, rows: usize, shard_rows: usize) {
    std::fs::create_dir_all(folder).expect("the folder can be made");
    for (shard, first) in (0..rows).step_by(shard_rows).enumerate() {
        let mut bytes = Vec::new();
        for row in first..rows.min(first + shard_rows) {
            bytes.extend(tar_member(&format!("{row:09}.jpg"), &image(row)));
            bytes.extend(tar_member(&format!("{row:09}.txt"), caption(row).as_bytes()));
        }
        bytes.resize(bytes.len() + 1024, 0);
        std::fs::write(folder.join(format!("{shard:05}.tar")), bytes).expect("a tar can be written");
    }
}

/// COCO's layout: `images/*.jpg` and `annotations.json` with two captions of each image.
///
/// # Panics
/// When it cannot be written.
pub fn write_coco(folder: &Path, rows: usize) {
    std::fs::create_dir_all(folder.join("images")).expect("the folder can be made");
    let (mut images, mut texts) = (Vec::new(), Vec::new());
    for row in 0..rows {
        let name = format!("{row:012}.jpg");
        std::fs::write(folder.join("images").join(&name), image(row)).expect("an image can be written");
        images.push(format!(r#"{{"id": {row}, "file_name": "{name}"}}"#));
        for n in [row * 2, row * 2 + 1] {
            texts.push(format!(r#"{{"id": {n}, "image_id": {row}, "caption": "{} {n}"}}"#, caption(row)));
        }
    }
    let annotations = format!(r#"{{"images": [{}], "annotations": [{}]}}"#, images.join(","), texts.join(","));
    std::fs::write(folder.join("annotations.json"), annotations).expect("the annotations can be written");
}
