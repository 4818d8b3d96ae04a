//! What a set holds, whatever its layout.

use super::{Id, ImageFolder};
use crate::error::Result;
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
pub async fn read_captions(_file: &Location, _split: Option<&str>) -> Result<CaptionSet> {
    Err(crate::DataError::Stopped)
}

/// The questions of a file in any of the layouts, with the answers of `annotations` where they are in a file of their
/// own. Without that file, questions of VQAv2's layout have no answers.
///
/// # Errors
/// As [`read_captions`].
pub async fn read_questions(_questions: &Location, _annotations: Option<&Location>) -> Result<QuestionSet> {
    Err(crate::DataError::Stopped)
}

impl CaptionSet {
    /// The folder that holds the images of the set, each by its path below the folder or else by its base name.
    ///
    /// # Errors
    /// [`DataError::Benchmark`](crate::DataError::Benchmark) with all images that are missing,
    /// [`DataError::Store`](crate::DataError::Store) when the folder cannot be listed.
    pub async fn open_images(&self, folder: &Location) -> Result<ImageFolder> {
        ImageFolder::open(folder, self.images.iter().map(|image| image.file.as_str())).await
    }
}

impl QuestionSet {
    /// The folder that holds the images of the set, each by its path below the folder or else by its base name.
    ///
    /// # Errors
    /// As [`CaptionSet::open_images`].
    pub async fn open_images(&self, folder: &Location) -> Result<ImageFolder> {
        ImageFolder::open(folder, self.questions.iter().map(|question| question.file.as_str())).await
    }
}
