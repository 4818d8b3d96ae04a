//! Images with captions, in three layouts.

use std::collections::BTreeMap;

use serde_json::Value;

use super::entry::{Entry, Places, shown};
use super::outline::{Spot, entries};
use super::{CaptionImage, Id, Layout, Problems};

/// The images of a file.
///
/// # Errors
/// What is wrong with the JSON.
pub(super) fn parse(
    layout: Layout,
    json: &[u8],
    split: Option<&str>,
    problems: &mut Problems,
) -> Result<Vec<CaptionImage>, String> {
    match (layout, split) {
        (Layout::Karpathy, _) => return karpathy(json, split, problems),
        (Layout::CaptionList, None) => return list(json, problems),
        (Layout::Coco, None) => return coco(json, problems),
        (Layout::CaptionList | Layout::Coco, Some(split)) => {
            let what = format!("holds one split ({}), and `{split}` of it was asked for; ask for none", layout.name());
            problems.note("the file", what);
        }
        _ => problems.note("the file", format!("is {}; expected captions", layout.name())),
    }
    Ok(Vec::new())
}

/// Images that were read, and their ids, which are unique.
#[derive(Default)]
struct Images {
    all: Vec<CaptionImage>,
    ids: Places,
}

impl Images {
    fn add(&mut self, image: CaptionImage, entry: &mut Entry<'_>) {
        match self.ids.add(&image.id, &entry.place) {
            None => self.all.push(image),
            Some(first) => {
                let what = format!(
                    "image {} stands in {first} already; expected one entry per image, with all of its captions",
                    image.id
                );
                entry.note(what);
            }
        }
    }
}

/// LAVIS' lists: `[{"image", "caption": […]}]`, and `img_id` of NoCaps.
fn list(json: &[u8], problems: &mut Problems) -> Result<Vec<CaptionImage>, String> {
    let mut images = Images::default();
    entries(json, |spot, value| {
        let Some(mut entry) = Entry::of(spot.to_string(), value, problems) else { return };
        let file = entry.text("image");
        let captions = entry.texts(&["caption", "captions"]);
        let keys = &["image_id", "img_id"];
        let id = if entry.has(keys) { entry.id(keys) } else { file.as_deref().map(id_of) };
        let domain = domain_of(&mut entry);
        if let (Some(file), Some(captions), Some(id)) = (file, captions, id) {
            images.add(CaptionImage { id, file, captions, domain }, &mut entry);
        }
    })?;
    Ok(images.all)
}

/// COCO's own layout, which is NoCaps', too. LAVIS' ground truth of Karpathy's lists has ids without names: these splits
/// are of COCO's val2014.
fn coco(json: &[u8], problems: &mut Problems) -> Result<Vec<CaptionImage>, String> {
    let mut images = Images::default();
    let mut captions: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let (mut places, mut nameless) = (Vec::new(), Vec::new());
    entries(json, |Spot { key, index }, value| {
        let (Some(key @ ("images" | "annotations")), Some(index)) = (key, index) else { return };
        let Some(mut entry) = Entry::of(format!("{key}[{index}]"), value, problems) else { return };
        let id = entry.id(if key == "images" { &["id"] } else { &["image_id"] });
        if key == "annotations" {
            if let (Some(id), Some(text)) = (id, entry.text("caption")) {
                captions.entry(id.to_string()).or_default().push((entry.place, text));
            }
            return;
        }
        let Some(id) = id else { return };
        let file = entry.text_if_there("file_name").unwrap_or_else(|| {
            nameless.push(entry.place.clone());
            coco_file("val2014", &id)
        });
        let domain = domain_of(&mut entry);
        let known = images.all.len();
        images.add(CaptionImage { id, file, captions: Vec::new(), domain }, &mut entry);
        if images.all.len() > known {
            places.push(entry.place);
        }
    })?;
    if nameless.len() < images.all.len() {
        nameless.iter().for_each(|place| problems.note(place, "has no `file_name`; other images have one".into()));
    }
    for (image, place) in images.all.iter_mut().zip(&places) {
        match captions.remove(&image.id.to_string()) {
            Some(texts) => image.captions = texts.into_iter().map(|(_, text)| text).collect(),
            None => problems.note(place, format!("image {} has no caption in `annotations`", image.id)),
        }
    }
    for (id, texts) in captions {
        for (place, _) in texts {
            problems.note(place, format!("names image {id}, which is not in `images`"));
        }
    }
    Ok(images.all)
}

/// Karpathy's files of COCO and Flickr30k.
fn karpathy(json: &[u8], split: Option<&str>, problems: &mut Problems) -> Result<Vec<CaptionImage>, String> {
    let mut images = Images::default();
    let mut splits: BTreeMap<String, usize> = BTreeMap::new();
    entries(json, |spot, value| {
        let (Some("images"), Some(_)) = (spot.key, spot.index) else { return };
        let Some(mut entry) = Entry::of(spot.to_string(), value, problems) else { return };
        let Some(own) = entry.text("split") else { return };
        let is_asked_for = split == Some(own.as_str());
        *splits.entry(own).or_default() += 1;
        if !is_asked_for {
            return;
        }
        let file = entry.text("filename");
        let folder = entry.text_if_there("filepath").map(|folder| format!("{folder}/")).unwrap_or_default();
        let captions = entry.texts_of("sentences", "raw");
        let id = if entry.has(&["cocoid"]) { entry.id(&["cocoid"]) } else { file.as_deref().map(id_of) };
        let (Some(file), Some(captions), Some(id)) = (file, captions, id) else { return };
        if captions.is_empty() || captions.iter().any(|text| text.trim().is_empty()) {
            entry.note(format!("image {id} has no `sentences`, or an empty one; expected a text in each"));
            return;
        }
        images.add(CaptionImage { id, file: folder + &file, captions, domain: None }, &mut entry);
    })?;
    if split.is_none_or(|split| !splits.contains_key(split)) {
        let found: Vec<String> = splits.iter().map(|(name, images)| format!("{name} ({images} images)")).collect();
        let asked = split.map_or_else(|| "none".into(), |split| format!("`{split}`"));
        problems.note("the file", format!("has the splits {}; asked for was {asked}", found.join(", ")));
    }
    Ok(images.all)
}

/// NoCaps' domain of an image, where the file tells.
fn domain_of(entry: &mut Entry<'_>) -> Option<String> {
    let domain = entry.text_if_there("domain")?;
    if !["in-domain", "near-domain", "out-domain"].contains(&domain.as_str()) {
        let found = shown(&Value::String(domain.clone()));
        entry.note(format!("`domain` is {found}; expected in-domain, near-domain or out-domain"));
    }
    Some(domain)
}

/// The id of an image that has none of its own: the number at the end of `COCO_val2014_000000391895.jpg`, as LAVIS takes
/// it, or of `1007129816.jpg`; otherwise the name without its extension.
pub(super) fn id_of(file: &str) -> Id {
    let base = file.rsplit('/').next().unwrap_or(file);
    let stem = base.rsplit_once('.').map_or(base, |(stem, _)| stem);
    let last = stem.rsplit('_').next().unwrap_or(stem);
    match last.parse() {
        Ok(number) if last.bytes().all(|byte| byte.is_ascii_digit()) => Id::Number(number),
        _ => Id::Text(stem.to_owned()),
    }
}

/// COCO's name of an image.
pub(crate) fn coco_file(subtype: &str, id: &Id) -> String {
    // The questions of test-dev are some of those about the test images, which have one folder and one name.
    let year = if subtype == "test-dev2015" { "test2015" } else { subtype };
    match id {
        Id::Number(number) => format!("COCO_{year}_{number:012}.jpg"),
        other => format!("COCO_{year}_{:0>12}.jpg", other.to_string()),
    }
}
