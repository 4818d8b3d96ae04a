//! Predictions in the files that people hand in, checked against their set.

use super::{CaptionSet, QuestionSet};
use crate::error::Result;
use crate::store::Location;

/// One caption for each image of the set, in its order, from COCO's results file: `[{"image_id", "caption"}]`.
///
/// # Errors
/// [`DataError::Benchmark`](crate::DataError::Benchmark) with all that is wrong: malformed and repeated entries, images
/// that the set does not have, and images without a prediction; [`DataError::Store`](crate::DataError::Store).
pub async fn read_caption_predictions(_file: &Location, _set: &CaptionSet) -> Result<Vec<String>> {
    Err(crate::DataError::Stopped)
}

/// One answer to each question of the set, in its order, from VQA's results file, `[{"question_id", "answer"}]`, or GQA's,
/// `[{"questionId", "prediction"}]`.
///
/// # Errors
/// As [`read_caption_predictions`].
pub async fn read_answer_predictions(_file: &Location, _set: &QuestionSet) -> Result<Vec<String>> {
    Err(crate::DataError::Stopped)
}
