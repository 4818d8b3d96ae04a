//! Images in a folder with their texts in files of annotations, for training.
//!
//! | form | published as |
//! | --- | --- |
//! | `{"images": […], "annotations": […]}` | COCO's captions |
//! | `[{"id", "regions": [{"phrase"}]}]` | Visual Genome's regions |
//! | `[{"image", "caption"}]` | LAVIS' lists; the file also under `file_name`, `path` …, the texts under `captions`, `text` … |
//! | `{"images": [{"filename", "split", "sentences": [{"raw"}]}]}` | Karpathy's splits, of which `train` and `restval` are taken |
//! | an object a line | JSON Lines, such as `metadata.jsonl` of Hugging Face's image folders |
//! | CSV, TSV | `metadata.csv`, or two columns without a header: file, text |
//!
//! All texts of one image are one sample, of which one is drawn each time: two of them in one batch would be false
//! negatives of each other.
//!
//! A bad entry costs itself only, and is noted with its place ([`Annotations::bad`]). Evaluation, in contrast, takes whole
//! sets only ([`crate::benchmark`]).

mod answers;
mod captions;
mod folder;
mod questions;
mod records;
mod table;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use captions::{Annotated, Annotations, parse};
pub use folder::{Folder, Found};
pub use questions::{Asked, AskedQuestions, read_questions};

/// The id of an image or a question: a number in some files, a text in others. It is written as it was read; a whole
/// number with a fraction of 0 as a whole number.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(untagged)]
pub enum Id {
    /// A number.
    Number(u64),
    /// A number below 0.
    Negative(i64),
    /// A text.
    Text(String),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Negative(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// The name of an image in annotations.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageName {
    /// Its file.
    File(String),
    /// Its id in Visual Genome, whose annotations do not name the file: `ID.jpg`, in the folder `VG_100K` or `VG_100K_2`
    /// as it is published.
    Genome(String),
}

impl ImageName {
    /// The image in a file, by its name without `.` and empty parts: `./a//b.jpg` is `a/b.jpg`.
    pub fn file(name: &str) -> Self {
        Self::File(normal(name))
    }
}

/// The file's name.
impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name) => f.write_str(name),
            Self::Genome(id) => write!(f, "{id}.jpg"),
        }
    }
}

/// A relative name without `.` and empty parts; an absolute one stays absolute.
pub(crate) fn normal(name: &str) -> String {
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let root = if name.starts_with('/') { "/" } else { "" };
    format!("{root}{}", parts.join("/"))
}
