//! A folder of images with a file of captions, or with files of questions and answers.

use arrow::array::{ListBuilder, StringArray, StringBuilder};
use configs::{AnnotatedSource, VqaSource};

use super::{Builder, IndexedGroup, IndexedShard};
use crate::annotations::{self, Folder, Found, ImageName, normal};
use crate::catalog::{BadEntries, Catalog, Form, Images, Place};
use crate::error::{DataError, Result};
use crate::filters::Rejected;
use crate::store::Location;

/// Images of a run, about as many as a row group of img2dataset has.
const RUN: usize = 64;

/// A sample as annotations describe it.
struct Sample {
    image: ImageName,
    key: String,
    /// Captions, or answers to the question.
    texts: Vec<String>,
    question: Option<String>,
}

/// The samples of annotations that have texts.
struct Described {
    samples: Vec<Sample>,
    /// Samples that are left out already.
    rejected: Rejected,
    bad_entries: BadEntries,
}

impl Described {
    fn reject(&mut self, reason: &str) {
        *self.rejected.entry(reason.to_owned()).or_default() += 1;
    }
}

/// The folder of images below a source's folder; `.` is that folder itself.
pub(super) fn folder(source: Location, images: &str) -> Location {
    match normal(images).as_str() {
        "" => source,
        name => source.child(name),
    }
}

/// All captions of an image are one sample.
pub(super) async fn index_images(
    source: &AnnotatedSource,
    images: &Location,
    settings: serde_json::Value,
) -> Result<Catalog> {
    let file = Location::parse(source.uri.as_str())?.child(&source.annotations);
    let read = annotations::parse(file.uri(), &file.read().await?)?;
    let mut described =
        Described { samples: Vec::new(), rejected: Rejected::new(), bad_entries: BadEntries::default() };
    described.bad_entries.add(&source.annotations, &read.bad);
    for one in read.images {
        if one.captions.is_empty() {
            described.reject("no_caption");
        } else {
            described.samples.push(Sample { image: one.image, key: one.key, texts: one.captions, question: None });
        }
    }
    index_samples(described, &Folder::list(images, &source.images).await?, images, settings)
}

/// Every question is a sample, with all of its answers. Those about one image follow each other, so that it is read once.
pub(super) async fn index_questions(
    source: &VqaSource,
    images: &Location,
    settings: serde_json::Value,
) -> Result<Catalog> {
    let place = Location::parse(source.uri.as_str())?;
    // The answers may stand in the file of questions.
    let are_apart = normal(&source.questions) != normal(&source.annotations);
    let (questions, answers) = (place.child(&source.questions), place.child(&source.annotations));
    let read = annotations::read_questions(&questions, are_apart.then_some(&answers)).await?;
    let mut described =
        Described { samples: Vec::new(), rejected: Rejected::new(), bad_entries: BadEntries::default() };
    described.bad_entries.add(&source.questions, &read.bad[0]);
    described.bad_entries.add(&source.annotations, &read.bad[1]);
    for one in read.questions {
        match (&one.text, one.answers.is_empty()) {
            (None, _) => described.reject("no_question"),
            (Some(_), true) => described.reject("no_answer"),
            _ => {
                described.samples.push(Sample {
                    image: one.image,
                    key: one.key,
                    texts: one.answers,
                    question: one.text,
                });
            }
        }
    }
    index_samples(described, &Folder::list(images, &source.images).await?, images, settings)
}

/// The catalogue of the samples whose images are there; the others are counted.
fn index_samples(
    mut described: Described,
    folder: &Folder,
    images: &Location,
    settings: serde_json::Value,
) -> Result<Catalog> {
    let all = std::mem::take(&mut described.samples);
    let mut placed: Vec<(&str, u64, &Sample)> = Vec::with_capacity(all.len());
    for sample in &all {
        match folder.find(&sample.image) {
            Found::At { size: 0, .. } => described.reject("no_image"),
            Found::At { path, size } => placed.push((path, size, sample)),
            Found::Missing => described.reject("image_missing"),
            Found::Ambiguous => described.reject("image_ambiguous"),
        }
    }
    if placed.is_empty() {
        return Err(none_found(&all, &described.rejected, folder, images));
    }
    placed.sort_by_key(|(path, ..)| *path);
    let mut catalog = Builder::new(Form::Images, images, settings);
    let columns = columns(&placed);
    let groups = columns.sizes.chunks(RUN).enumerate().map(|(run, sizes)| IndexedGroup {
        place: Place::Images { first: (run * RUN) as u64 },
        bytes: sizes.iter().sum(),
        used: vec![true; sizes.len()],
    });
    let indexed = IndexedShard { groups: groups.collect(), ..IndexedShard::default() };
    catalog.add(images, columns.sizes.iter().sum(), indexed);
    catalog.description.rows += described.rejected.values().sum::<u64>();
    catalog.description.rejected = described.rejected;
    catalog.description.bad_entries = described.bad_entries;
    catalog.images = Some(columns);
    catalog.finish(None)
}

/// The columns of samples in the order of their images. Captions of one image under two names are one sample.
fn columns(placed: &[(&str, u64, &Sample)]) -> Images {
    let (mut files, mut keys, mut sizes, mut questions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut captions = ListBuilder::new(StringBuilder::new());
    let is_same = |one: &(&str, u64, &Sample), other: &(&str, u64, &Sample)| {
        one.0 == other.0 && one.2.question.is_none() && other.2.question.is_none()
    };
    for group in placed.chunk_by(is_same) {
        let (path, size, sample) = group[0];
        files.push(path);
        keys.push(sample.key.as_str());
        sizes.push(size);
        captions.append_value(group.iter().flat_map(|(_, _, sample)| sample.texts.iter().map(Some)));
        questions.extend(sample.question.as_deref());
    }
    Images {
        files: StringArray::from(files),
        keys: StringArray::from(keys),
        sizes,
        captions: captions.finish(),
        questions: (!questions.is_empty()).then(|| StringArray::from(questions)),
    }
}

/// The error of annotations none of whose images can be used: an example, and what to set.
fn none_found(all: &[Sample], rejected: &Rejected, folder: &Folder, images: &Location) -> DataError {
    let counts: Vec<String> = rejected.iter().map(|(reason, samples)| format!("{reason} {samples}")).collect();
    let what = format!("{}: no sample of the annotations can be used ({})", images.uri(), counts.join(", "));
    let Some(missing) = all.iter().find(|sample| folder.find(&sample.image) == Found::Missing) else {
        let example = all.first().map(|sample| sample.image.to_string()).unwrap_or_default();
        return DataError::Setting(format!(
            "{what}, such as {example}. Expected images with their bytes; download them again"
        ));
    };
    let name = missing.image.to_string();
    let found = match (folder.elsewhere(&name), folder.any()) {
        (Some(path), _) => format!("it has {path}"),
        (None, Some(path)) => format!("it has other files, such as {path}"),
        (None, None) => "it is empty or does not exist".into(),
    };
    DataError::Setting(format!(
        "{what}: {name} is not in this folder; {found}. Expected every image under the name that the annotations give it; set \
         data.sources[].images to the folder below which the images have these names"
    ))
}

#[cfg(test)]
mod tests;
