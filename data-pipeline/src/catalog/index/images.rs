//! A folder of images with a file of captions, or with files of questions and answers.

use arrow::array::{ListBuilder, StringArray, StringBuilder};
use configs::{AnnotatedSource, VqaSource};

use super::{Builder, IndexedGroup, IndexedShard};
use crate::annotations::{self, Folder};
use crate::benchmark::read_questions;
use crate::catalog::{Catalog, Form, Images, Place};
use crate::error::{DataError, Result};
use crate::store::Location;

/// Images of a run, about as many as a row group of img2dataset has.
const RUN: usize = 64;

/// A sample as annotations describe it.
struct Sample {
    file: String,
    key: String,
    /// Captions, or answers to the question.
    texts: Vec<String>,
    question: Option<String>,
}

/// All captions of an image are one sample.
pub(super) async fn index_images(
    source: &AnnotatedSource,
    images: &Location,
    settings: serde_json::Value,
) -> Result<Catalog> {
    let file = Location::parse(source.uri.as_str())?.child(&source.annotations);
    let annotated = annotations::parse(file.uri(), &file.read().await?)?;
    let sample = |it: annotations::Annotated| Sample { file: it.file, key: it.key, texts: it.captions, question: None };
    index_samples(annotated.into_iter().map(sample).collect(), images, settings).await
}

/// Every question is a sample, with all of its answers. Those about one image follow each other, so that it is read once.
pub(super) async fn index_questions(
    source: &VqaSource,
    images: &Location,
    settings: serde_json::Value,
) -> Result<Catalog> {
    let place = Location::parse(source.uri.as_str())?;
    let (questions, annotations) = (place.child(&source.questions), place.child(&source.annotations));
    let mut asked = read_questions(&questions, Some(&annotations)).await?.questions;
    asked.sort_by(|a, b| a.file.cmp(&b.file));
    let sample = |it: crate::benchmark::Question| Sample {
        file: it.file,
        key: it.id.to_string(),
        texts: it.answers,
        question: Some(it.text),
    };
    index_samples(asked.into_iter().map(sample).collect(), images, settings).await
}

/// The catalogue of the samples whose images are there; the others are counted.
async fn index_samples(samples: Vec<Sample>, images: &Location, settings: serde_json::Value) -> Result<Catalog> {
    let folder = Folder::list(images).await?;
    let mut catalog = Builder::new(Form::Images, images, settings);
    let (mut files, mut keys, mut sizes, mut questions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut captions = ListBuilder::new(StringBuilder::new());
    for sample in &samples {
        let Some((path, size)) = folder.find(&sample.file) else { continue };
        files.push(path.to_owned());
        keys.push(sample.key.as_str());
        sizes.push(size);
        captions.append_value(sample.texts.iter().map(Some));
        questions.extend(sample.question.as_deref());
    }
    if files.is_empty() {
        let found = format!("none of the {} annotated images, such as {}", samples.len(), samples[0].file);
        return Err(DataError::NoShards { uri: images.uri().into(), suffix: samples[0].file.clone(), found });
    }
    let groups = sizes.chunks(RUN).enumerate().map(|(run, sizes)| IndexedGroup {
        place: Place::Images { first: (run * RUN) as u64 },
        bytes: sizes.iter().sum(),
        used: vec![true; sizes.len()],
    });
    let indexed = IndexedShard { groups: groups.collect(), ..IndexedShard::default() };
    catalog.add(images, sizes.iter().sum(), indexed);
    let missing = (samples.len() - files.len()) as u64;
    catalog.description.rows += missing;
    if missing > 0 {
        catalog.description.rejected.insert("image_missing".into(), missing);
    }
    catalog.images = Some(Images {
        files: StringArray::from(files),
        keys: StringArray::from(keys),
        sizes,
        captions: captions.finish(),
        questions: (!questions.is_empty()).then(|| StringArray::from(questions)),
    });
    catalog.finish(None)
}
