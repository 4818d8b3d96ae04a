//! Images with their captions, in every form.

use std::collections::BTreeMap;

use super::records::{Record, records};
use super::{Id, ImageName};
use crate::benchmark::Problems;
use crate::benchmark::entry::Entry;
use crate::error::{DataError, Result};

/// Keys of an image's file.
pub(super) const FILE_KEYS: [&str; 10] =
    ["image", "file_name", "filename", "image_path", "path", "img_path", "img", "image_name", "filepath", "file"];
/// Keys of an image's texts.
pub(super) const TEXT_KEYS: [&str; 7] = ["caption", "captions", "text", "texts", "sentences", "sentence", "comment"];
/// Keys of an image's id, where it has one beside its file.
pub(super) const ID_KEYS: [&str; 4] = ["image_id", "img_id", "cocoid", "imgid"];
/// Keys of a text inside an object of a list of texts.
const TEXT_FIELDS: [&str; 4] = ["raw", "caption", "text", "sentence"];
/// Karpathy's splits for training: `restval` is the part of COCO's val2014 that neither `val` nor `test` has.
const TRAINING_SPLITS: [&str; 2] = ["train", "restval"];

/// The images of a file of annotations.
#[derive(Debug)]
pub struct Annotations {
    /// The images in the order of their names. Those without a usable text are among them.
    pub images: Vec<Annotated>,
    /// Entries that cannot be used, with their places.
    pub bad: Problems,
}

/// An image with its texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotated {
    /// The image.
    pub image: ImageName,
    /// The image's id in the annotations, or its file where it has none.
    pub key: String,
    /// The texts that are not blank, in the order of the file.
    pub captions: Vec<String>,
}

/// Reads a file of annotations of any form, told apart by what stands in it; see [the module](super).
///
/// # Errors
/// [`DataError::Annotations`] when it is of none of the forms, holds no text that can be used, or gives one id to two
/// images.
pub fn parse(uri: &str, bytes: &[u8]) -> Result<Annotations> {
    let broken = |problem: String| DataError::Annotations { uri: uri.into(), problem };
    let mut reader = Reader::default();
    let mut problems = Problems::default();
    records(uri, bytes, &mut problems, |record, problems| reader.read(record, problems)).map_err(broken)?;
    if let Some(twice) = reader.twice {
        return Err(broken(twice));
    }
    if reader.is_unknown() {
        return Err(broken(format!("none of the forms that are read. {EXPECTED}")));
    }
    reader.join(&mut problems);
    let images: Vec<Annotated> = reader.images.into_values().collect();
    if images.iter().all(|image| image.captions.is_empty()) {
        let splits = format!("no image of the splits {}", TRAINING_SPLITS.join(" and "));
        let what = match (problems.is_empty(), reader.other_splits.is_empty()) {
            (false, _) => format!("no image with a text that can be used; {problems}"),
            (true, false) => format!("{splits}; found are {}", listed(&reader.other_splits)),
            (true, true) => "no image with a text".into(),
        };
        return Err(broken(format!("{what}\n{EXPECTED}")));
    }
    Ok(Annotations { images, bad: problems })
}

/// The forms, for messages.
const EXPECTED: &str = "Expected COCO's `images` and `annotations`, Visual Genome's list of `id` and `regions`, a list (or a \
                        line each) of `image` and `caption`, Karpathy's `images` with `sentences`, or CSV of file and text";

fn listed(splits: &BTreeMap<String, u64>) -> String {
    splits.iter().map(|(name, images)| format!("{name} ({images} images)")).collect::<Vec<_>>().join(", ")
}

/// Entries that were read so far.
#[derive(Default)]
struct Reader {
    images: BTreeMap<ImageName, Annotated>,
    /// COCO's images by their ids.
    files: BTreeMap<String, String>,
    /// COCO's captions, which may stand in front of the images: the index, the image's id, the texts.
    captions: Vec<(String, Id, Vec<String>)>,
    /// Images of Karpathy's other splits.
    other_splits: BTreeMap<String, u64>,
    /// The problem of an id that two images have.
    twice: Option<String>,
    /// Entries of a known form, and lists of them.
    known: u64,
}

impl Reader {
    fn read(&mut self, record: Record<'_>, problems: &mut Problems) {
        let Record { key, index, place, value } = record;
        if !matches!(key, None | Some("images" | "annotations")) {
            return;
        }
        // A list without entries, or a value that is none.
        if index.is_none() {
            self.known += u64::from(value.is_array());
            return;
        }
        self.known += 1;
        let Some(mut entry) = Entry::of(place, value, problems) else { return };
        match key {
            Some("annotations") => self.coco_caption(entry),
            Some(_) if entry.has(&["sentences"]) || (entry.has(&["split"]) && !entry.has(&["id"])) => {
                if self.is_for_training(&mut entry) {
                    self.pair(entry);
                }
            }
            Some(_) => self.coco_image(entry),
            None if entry.has(&["regions"]) => self.regions(entry),
            None => self.pair(entry),
        }
    }

    /// Whether nothing but other keys was found.
    fn is_unknown(&self) -> bool {
        self.known == 0
    }

    fn add(&mut self, image: ImageName, key: String, texts: Vec<String>) {
        let new = || Annotated { image: image.clone(), key, captions: Vec::new() };
        self.images.entry(image.clone()).or_insert_with(new).captions.extend(texts);
    }

    fn coco_image(&mut self, mut entry: Entry<'_>) {
        let (Some(id), Some(file)) = (entry.id(&["id"]), entry.text("file_name")) else { return };
        let ImageName::File(file) = ImageName::file(&file) else { return };
        match self.files.get(&id.to_string()) {
            Some(first) if *first != file => {
                let what = || {
                    format!("the id {id} stands twice in `images`, for {first} and {file}; expected one image per id")
                };
                self.twice.get_or_insert_with(what);
            }
            _ => {
                self.add(ImageName::File(file.clone()), id.to_string(), Vec::new());
                self.files.insert(id.to_string(), file);
            }
        }
    }

    fn coco_caption(&mut self, mut entry: Entry<'_>) {
        let Some(id) = entry.id(&["image_id"]) else { return };
        let Some(texts) = entry.good_texts(&TEXT_KEYS, &TEXT_FIELDS) else { return };
        self.captions.push((entry.place, id, texts));
    }

    /// Gives COCO's captions to their images.
    fn join(&mut self, problems: &mut Problems) {
        for (place, id, texts) in std::mem::take(&mut self.captions) {
            match self.files.get(&id.to_string()) {
                Some(file) => self.add(ImageName::File(file.clone()), id.to_string(), texts),
                None => problems.note(place, format!("names the image {id}, which is not in `images`")),
            }
        }
    }

    /// Visual Genome: an image without regions has no text.
    fn regions(&mut self, mut entry: Entry<'_>) {
        let Some(id) = entry.id(&["id", "image_id"]) else { return };
        let texts = entry.good_texts(&["regions"], &["phrase"]).unwrap_or_default();
        self.add(ImageName::Genome(id.to_string()), id.to_string(), texts);
    }

    /// An image's file with its texts. Without a text that can be used it is an image without texts.
    fn pair(&mut self, mut entry: Entry<'_>) {
        let Some(image) = file_of(&mut entry) else { return };
        let key = match entry.has(&ID_KEYS) {
            true => entry.id(&ID_KEYS).map(|id| id.to_string()),
            false => Some(image.to_string()),
        };
        let Some(key) = key else { return };
        let texts = entry.good_texts(&TEXT_KEYS, &TEXT_FIELDS).unwrap_or_default();
        self.add(image, key, texts);
    }

    fn is_for_training(&mut self, entry: &mut Entry<'_>) -> bool {
        if !entry.has(&["split"]) {
            return true;
        }
        let Some(split) = entry.text("split") else { return false };
        let is_for_training = TRAINING_SPLITS.contains(&split.as_str());
        if !is_for_training {
            *self.other_splits.entry(split).or_default() += 1;
        }
        is_for_training
    }
}

/// The image's file; Karpathy's have the folder beside it, under `filepath`.
pub(super) fn file_of(entry: &mut Entry<'_>) -> Option<ImageName> {
    let file = entry.text_of(&FILE_KEYS)?;
    let folder = if entry.has(&["filepath"]) { entry.text("filepath") } else { None };
    Some(match folder {
        Some(folder) if folder.ends_with(&file) => ImageName::file(&folder),
        Some(folder) => ImageName::file(&format!("{folder}/{file}")),
        None => ImageName::file(&file),
    })
}

#[cfg(test)]
mod tests;
