//! Sets for evaluation in the layouts in which they are published: captions, questions, and predictions about them.
//!
//! | layout | published as |
//! | --- | --- |
//! | [`Layout::CaptionList`] | LAVIS' Karpathy lists of COCO and Flickr30k, its list of NoCaps |
//! | [`Layout::Coco`] | COCO's own files, NoCaps', and LAVIS' ground truth of the Karpathy lists |
//! | [`Layout::Karpathy`] | Karpathy's files of COCO and Flickr30k, all splits in one |
//! | [`Layout::VqaQuestions`] | questions of VQAv2 and OK-VQA, with their annotations or without |
//! | [`Layout::Gqa`] | questions of GQA |
//! | [`Layout::QuestionList`] | LAVIS' lists of VQAv2, OK-VQA and GQA |
//!
//! A score of a set that lacks a part of its entries is no score of the set: whatever cannot be used is an error, and one
//! error names all of it. Training, in contrast, goes on without single samples ([`crate::catalog`]).

pub(crate) mod captions;
pub(crate) mod entry;
mod images;
mod layout;
pub(crate) mod outline;
mod predictions;
mod problems;
mod questions;
mod sets;

pub use crate::annotations::Id;
pub use images::ImageFolder;
pub use layout::Layout;
pub use predictions::{read_answer_predictions, read_caption_predictions};
pub use problems::Problems;
pub use sets::{CaptionImage, CaptionSet, Question, QuestionSet, read_captions, read_questions};
