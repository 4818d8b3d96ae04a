//! Images in a folder with their texts in JSON: COCO captions, Visual Genome regions, and LAVIS' lists of both.
//!
//! All texts of one image are one sample, of which one is drawn each time: two of them in one batch would be false
//! negatives of each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::store::Location;

/// An image with its texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotated {
    /// Name of the file below the folder of images.
    pub file: String,
    /// The image's id in the annotations.
    pub key: String,
    /// The texts in the order of the file.
    pub captions: Vec<String>,
    /// Sides in pixels, where the annotations tell.
    pub sides: Option<(u64, u64)>,
}

/// COCO's own file: `{"images": […], "annotations": […]}`.
#[derive(Deserialize)]
struct Coco {
    images: Vec<CocoImage>,
    annotations: Vec<CocoCaption>,
}

#[derive(Deserialize)]
struct CocoImage {
    id: Id,
    file_name: String,
    width: Option<u64>,
    height: Option<u64>,
}

#[derive(Deserialize)]
struct CocoCaption {
    image_id: Id,
    caption: String,
}

/// The id of an image or a question: a number in some files, a text in others. It is written as it was read.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(untagged)]
pub enum Id {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// One entry of a list: an image with the regions of Visual Genome, or LAVIS' (Karpathy's) pair of an image and captions.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Regions { id: Id, regions: Vec<Region> },
    Pair { image: String, caption: Texts, image_id: Option<Id> },
}

#[derive(Deserialize)]
struct Region {
    phrase: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum File {
    Coco(Coco),
    List(Vec<Entry>),
}

/// Reads an annotation file of any of the three forms, told apart by what stands in it. Images are in the order of their
/// file names; those without a text are left out.
///
/// # Errors
/// [`DataError::Annotations`] when it is none of them.
pub fn parse(uri: &str, json: &[u8]) -> Result<Vec<Annotated>> {
    let broken = |problem: String| DataError::Annotations { uri: uri.into(), problem };
    let file: File = serde_json::from_slice(json).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => broken("none of the forms that are read".into()),
        _ => broken(format!("no whole JSON: {error}")),
    })?;
    let mut images: BTreeMap<String, Annotated> = BTreeMap::new();
    let mut add = |file: String, key: &dyn std::fmt::Display, sides, texts: Vec<String>| {
        let new = || Annotated { file: file.clone(), key: key.to_string(), captions: Vec::new(), sides };
        images.entry(file.clone()).or_insert_with(new).captions.extend(texts);
    };
    match file {
        File::Coco(coco) => {
            let names: BTreeMap<&Id, &CocoImage> = coco.images.iter().map(|image| (&image.id, image)).collect();
            for CocoCaption { image_id, caption } in coco.annotations {
                let Some(image) = names.get(&image_id) else {
                    return Err(broken(format!("an annotation names the image {image_id}, which is not in `images`")));
                };
                add(image.file_name.clone(), &image_id, image.width.zip(image.height), vec![caption]);
            }
        }
        File::List(entries) => {
            for entry in entries {
                match entry {
                    Entry::Regions { id, regions } => {
                        let texts = regions.into_iter().map(|region| region.phrase).collect();
                        add(format!("{id}.jpg"), &id, None, texts);
                    }
                    Entry::Pair { image, caption, image_id } => {
                        let key = image_id.unwrap_or_else(|| Id::Text(image.clone()));
                        let texts = match caption {
                            Texts::One(text) => vec![text],
                            Texts::Many(texts) => texts,
                        };
                        add(image, &key, None, texts);
                    }
                }
            }
        }
    }
    images.retain(|_, image| !image.captions.is_empty());
    match images.is_empty() {
        true => Err(broken("no image with a text".into())),
        false => Ok(images.into_values().collect()),
    }
}

/// Where the images of a folder lie and how many bytes they have, by the whole name below the folder and by the base
/// name: annotations of Visual Genome do not tell in which of the two folders an image is.
pub struct Folder {
    by_path: BTreeMap<String, u64>,
    by_name: BTreeMap<String, String>,
}

impl Folder {
    /// Lists the folder.
    ///
    /// # Errors
    /// [`DataError::Store`].
    pub async fn list(location: &Location) -> Result<Self> {
        let (mut by_path, mut by_name) = (BTreeMap::new(), BTreeMap::new());
        for (found, meta) in location.list("").await? {
            let path = found.path.as_ref().strip_prefix(location.path.as_ref()).unwrap_or_default();
            let path = path.trim_start_matches('/').to_owned();
            let base = path.rsplit('/').next().unwrap_or_default().to_owned();
            by_name.entry(base).or_insert_with(|| path.clone());
            by_path.insert(path, meta.size);
        }
        Ok(Self { by_path, by_name })
    }

    /// The path below the folder and the bytes of the image that annotations call `file`.
    pub fn find(&self, file: &str) -> Option<(&str, u64)> {
        let file = file.trim_start_matches("./");
        let whole = self.by_path.get_key_value(file);
        let found = whole.or_else(|| {
            let base = file.rsplit('/').next().unwrap_or(file);
            self.by_path.get_key_value(self.by_name.get(base)?)
        });
        found.map(|(path, size)| (path.as_str(), *size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captions(json: &str) -> Vec<(String, String, Vec<String>)> {
        parse("test.json", json.as_bytes()).unwrap().into_iter().map(|i| (i.file, i.key, i.captions)).collect()
    }

    fn row(file: &str, key: &str, captions: &[&str]) -> (String, String, Vec<String>) {
        (file.into(), key.into(), captions.iter().map(|text| (*text).into()).collect())
    }

    #[test]
    fn captions_of_one_image_are_one_sample() {
        let json = r#"{"info": {}, "images": [{"id": 9, "file_name": "b.jpg", "width": 3, "height": 4},
            {"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "without.jpg"}],
            "annotations": [{"id": 1, "image_id": 9, "caption": "x"}, {"id": 2, "image_id": 7, "caption": "y"},
            {"id": 3, "image_id": 9, "caption": "z"}]}"#;
        assert_eq!(captions(json), [row("a.jpg", "7", &["y"]), row("b.jpg", "9", &["x", "z"])]);
        assert_eq!(parse("", json.as_bytes()).unwrap()[1].sides, Some((3, 4)));
    }

    #[test]
    fn visual_genome_and_lavis_lists_are_read() {
        let regions = r#"[{"id": 1, "regions": [{"phrase": "a tree", "x": 1}, {"phrase": "a road"}]}]"#;
        assert_eq!(captions(regions), [row("1.jpg", "1", &["a tree", "a road"])]);
        let pairs = r#"[{"image": "v/1.jpg", "caption": "a", "image_id": "coco_1"}, {"image": "v/2.jpg", "caption": ["b", "c"]},
            {"image": "v/1.jpg", "caption": "d", "image_id": "coco_1"}]"#;
        assert_eq!(captions(pairs), [row("v/1.jpg", "coco_1", &["a", "d"]), row("v/2.jpg", "v/2.jpg", &["b", "c"])]);
    }

    #[test]
    fn other_files_are_refused_with_their_place() {
        for json in [
            "{}",
            "[]",
            "[1]",
            "{\"images\": [], \"annotations\": []}",
            "[{\"image\": \"a.jpg\"",
            "not json",
            r#"{"images": [], "annotations": [{"image_id": 4, "caption": "x"}]}"#,
        ] {
            let error = parse("place.json", json.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("place.json: "), "{error}");
        }
    }
}
