//! The layouts, told apart by what stands in a file.

use super::Problems;
use super::outline::outline;
use crate::error::Result;

/// How a file lays out its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[{"image", "caption": […]}]`.
    CaptionList,
    /// `{"images": […], "annotations": […]}` with a caption in every annotation.
    Coco,
    /// `{"dataset", "images": [{"split", "filename", "sentences": […]}]}`.
    Karpathy,
    /// `{"data_subtype", "questions": […]}`.
    VqaQuestions,
    /// `{"data_subtype", "annotations": […]}` with ten answers in every annotation.
    VqaAnnotations,
    /// `{question id: {"question", "imageId"}}`.
    Gqa,
    /// `[{"question_id", "question", "image"}]`.
    QuestionList,
}

/// What to do about a file that is none of those that are read.
pub(super) const GET_ANEW: &str = "Nothing of the file is used: get it anew from where it is published, or mend it";

impl Layout {
    /// The layout of a file, which is read to its end.
    ///
    /// # Errors
    /// [`DataError::Benchmark`](crate::DataError::Benchmark) when the file is no JSON, or of no layout.
    pub fn detect(uri: &str, json: &[u8]) -> Result<Self> {
        let mut problems = Problems::default();
        match outline(json) {
            Err(error) => problems.note("the file", format!("is no whole JSON: {error}")),
            Ok(found) => {
                let keys = if found.is_list { &found.first } else { &found.keys };
                match Self::of(found.is_list, keys, &found.first) {
                    Some(layout) => return Ok(layout),
                    None => problems.note("the file", unknown(found.is_list, keys)),
                }
            }
        }
        Err(problems.error(uri, GET_ANEW))
    }

    fn of(is_list: bool, keys: &[String], first: &[String]) -> Option<Self> {
        let has = |key: &str| keys.iter().any(|found| found == key);
        if is_list {
            return match () {
                () if has("question") => Some(Self::QuestionList),
                () if has("image") => Some(Self::CaptionList),
                () => None,
            };
        }
        match (has("questions"), has("images"), has("annotations")) {
            (true, _, _) => Some(Self::VqaQuestions),
            (_, true, true) => Some(Self::Coco),
            (_, true, false) if has("dataset") => Some(Self::Karpathy),
            (_, false, true) => Some(Self::VqaAnnotations),
            _ if first.iter().any(|key| key == "imageId") => Some(Self::Gqa),
            _ => None,
        }
    }

    /// The layout in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CaptionList => "a list of images with captions",
            Self::Coco => "COCO's captions",
            Self::Karpathy => "Karpathy's splits",
            Self::VqaQuestions => "VQA's questions",
            Self::VqaAnnotations => "VQA's annotations",
            Self::Gqa => "GQA's questions",
            Self::QuestionList => "a list of questions",
        }
    }
}

fn unknown(is_list: bool, keys: &[String]) -> String {
    let keys = if keys.is_empty() { "no keys".into() } else { format!("the keys {}", keys.join(", ")) };
    let what = if is_list { "a list whose first entry has" } else { "an object with" };
    format!(
        "is {what} {keys}; expected a list of `image` and `caption`, a list of `question` and `image`, or an object with \
         `images` and `annotations`, `images` and `dataset`, `questions`, `annotations`, or GQA's questions by their ids"
    )
}
