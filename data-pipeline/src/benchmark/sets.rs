//! What a set holds, whatever its layout.

use sha2::{Digest, Sha256};

use super::layout::GET_ANEW;
use super::{Id, ImageFolder, Layout, Problems, captions, questions};
use crate::error::Result;
use crate::hex::hex;
use crate::store::Location;

/// Images with their captions: for captioning, and for retrieval in both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptionSet {
    /// The annotation file's name without its extension, and the split where one was asked for: `dataset_coco.test`.
    pub name: String,
    /// The images in the order of the file.
    pub images: Vec<CaptionImage>,
    /// SHA-256 of the annotation file's bytes, hexadecimal.
    pub sha256: String,
}

/// An image with its captions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptionImage {
    /// Its id in results files. Where the layout has none, the number at the end of the file's name (COCO's rule), or
    /// else that name.
    pub id: Id,
    /// Its file below the folder of images; see [`CaptionSet::open_images`].
    pub file: String,
    /// Its captions as they are published, at least one.
    pub captions: Vec<String>,
    /// NoCaps: `in-domain`, `near-domain` or `out-domain`.
    pub domain: Option<String>,
}

/// Questions about images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuestionSet {
    /// The file of questions' name without its extension.
    pub name: String,
    /// The questions in the order of the file.
    pub questions: Vec<Question>,
    /// SHA-256 of the bytes of the file of questions and of the file of annotations behind it, hexadecimal.
    pub sha256: String,
}

/// A question about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its id in results files.
    pub id: Id,
    /// The image's id.
    pub image_id: Id,
    /// The image's file below the folder of images; see [`QuestionSet::open_images`].
    pub file: String,
    /// The question as it is published.
    pub text: String,
    /// Ten of VQAv2 and OK-VQA, one of GQA, none of a set that is published without.
    pub answers: Vec<String>,
    /// VQAv2 and OK-VQA: `yes/no`, `number` or `other`. GQA: its semantic type.
    pub answer_type: Option<String>,
    /// VQAv2 and OK-VQA: how the question begins, or its category. GQA: its structural type.
    pub question_type: Option<String>,
    /// GQA: its detailed type.
    pub detailed_type: Option<String>,
}

/// The images and captions of an annotation file in any of the layouts. `split` picks one of a file that holds several,
/// as Karpathy's do.
///
/// # Errors
/// [`DataError::Benchmark`](crate::DataError::Benchmark) with all that is wrong with the file,
/// [`DataError::Store`](crate::DataError::Store) when it cannot be read.
pub async fn read_captions(file: &Location, split: Option<&str>) -> Result<CaptionSet> {
    let json = file.read().await?;
    let layout = Layout::detect(file.uri(), &json)?;
    let mut problems = Problems::default();
    let images = or_note(captions::parse(layout, &json, split, &mut problems), &mut problems);
    if images.is_empty() && problems.is_empty() {
        problems.note("the file", "has no image; expected some".into());
    }
    problems.refuse(file.uri(), GET_ANEW)?;
    let split = split.map(|split| format!(".{split}")).unwrap_or_default();
    Ok(CaptionSet { name: name_of(file) + &split, images, sha256: hex(&Sha256::digest(&json)) })
}

/// The questions of a file in any of the layouts, with the answers of `annotations` where they are in a file of their
/// own. Without that file, questions of VQAv2's layout have no answers.
///
/// # Errors
/// As [`read_captions`].
pub async fn read_questions(questions: &Location, annotations: Option<&Location>) -> Result<QuestionSet> {
    let json = questions.read().await?;
    let layout = Layout::detect(questions.uri(), &json)?;
    let mut problems = Problems::default();
    let mut found = or_note(questions::parse(layout, &json, &mut problems), &mut problems);
    if found.all.is_empty() && problems.is_empty() {
        problems.note("the file", "has no question; expected some".into());
    }
    if annotations.is_some() && layout != Layout::VqaQuestions {
        problems.note("the file", format!("is {}, which need no file of annotations; name none", layout.name()));
    }
    let mut sha256 = Sha256::new_with_prefix(&json);
    let mut uri = questions.uri().to_owned();
    if let Some(annotations) = annotations {
        let json = annotations.read().await?;
        let layout = Layout::detect(annotations.uri(), &json)?;
        if layout == Layout::VqaAnnotations {
            or_note(questions::annotate(&mut found, &json, &mut problems), &mut problems);
        } else {
            problems.note("annotations", format!("are {}; expected VQA's annotations", layout.name()));
        }
        sha256.update(&json);
        uri = format!("{uri} with {}", annotations.uri());
    }
    problems.refuse(&uri, GET_ANEW)?;
    Ok(QuestionSet { name: name_of(questions), questions: found.all, sha256: hex(&sha256.finalize()) })
}

/// What was read, or nothing and a problem.
fn or_note<T: Default>(read: std::result::Result<T, String>, problems: &mut Problems) -> T {
    read.unwrap_or_else(|error| {
        problems.note("the file", format!("is no whole JSON: {error}"));
        T::default()
    })
}

/// The name of a file without its extension.
fn name_of(file: &Location) -> String {
    let name = file.path.filename().unwrap_or_default();
    name.strip_suffix(".json").unwrap_or(name).to_owned()
}

impl CaptionSet {
    /// The folder that holds the images of the set, each by its full name; see [`ImageFolder::open`].
    ///
    /// # Errors
    /// [`DataError::Benchmark`](crate::DataError::Benchmark) with all images that are missing,
    /// [`DataError::Store`](crate::DataError::Store) when the folder cannot be listed.
    pub async fn open_images(&self, folder: &Location) -> Result<ImageFolder> {
        ImageFolder::open(folder, self.images.iter().map(|image| image.file.as_str())).await
    }
}

impl QuestionSet {
    /// The folder that holds the images of the set, each by its full name; see [`ImageFolder::open`].
    ///
    /// # Errors
    /// As [`CaptionSet::open_images`].
    pub async fn open_images(&self, folder: &Location) -> Result<ImageFolder> {
        ImageFolder::open(folder, self.questions.iter().map(|question| question.file.as_str())).await
    }
}
