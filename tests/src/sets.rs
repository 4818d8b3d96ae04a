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

/// Tar shards as img2dataset's `webdataset` format writes them.
///
/// # Panics
/// When they cannot be written.
pub fn write_tars(folder: &Path, rows: usize, shard_rows: usize) {
    std::fs::create_dir_all(folder).expect("the folder can be made");
    for (shard, first) in (0..rows).step_by(shard_rows).enumerate() {
        let file = std::fs::File::create(folder.join(format!("{shard:05}.tar"))).expect("a tar can be made");
        let mut tar = tar::Builder::new(file);
        for row in first..rows.min(first + shard_rows) {
            for (extension, content) in [("jpg", image(row)), ("txt", caption(row).into_bytes())] {
                let mut header = tar::Header::new_ustar();
                header.set_size(content.len() as u64);
                let name = format!("{row:09}.{extension}");
                tar.append_data(&mut header, name, &content[..]).expect("a tar can be written");
            }
        }
        tar.finish().expect("a tar can be written");
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
            texts.push(format!(r#"{{"id": {n}, "image_id": {row}, "caption": "{}"}}"#, caption(row)));
        }
    }
    let annotations = format!(r#"{{"images": [{}], "annotations": [{}]}}"#, images.join(","), texts.join(","));
    std::fs::write(folder.join("annotations.json"), annotations).expect("the annotations can be written");
}
