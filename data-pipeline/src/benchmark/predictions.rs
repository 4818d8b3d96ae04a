//! Predictions in the files that people hand in, checked against their set.

use std::collections::BTreeMap;

use super::entry::{Entry, Places};
use super::outline::entries;
use super::{CaptionSet, Id, Problems, QuestionSet};
use crate::error::Result;
use crate::store::Location;

/// What to do about predictions that do not fit.
const PREDICT_ANEW: &str =
    "Nothing was scored: expected is one prediction for every entry of the set, and none besides";

/// One caption for each image of the set, in its order, from COCO's results file: `[{"image_id", "caption"}]`.
///
/// # Errors
/// [`DataError::Benchmark`](crate::DataError::Benchmark) with all that is wrong: malformed and repeated entries, images
/// that the set does not have, and images without a prediction; [`DataError::Store`](crate::DataError::Store).
pub async fn read_caption_predictions(file: &Location, set: &CaptionSet) -> Result<Vec<String>> {
    let ids = set.images.iter().map(|image| &image.id);
    read(file, ids, &Form { what: "image", id: &["image_id"], text: &["caption"] }).await
}

/// One answer to each question of the set, in its order, from VQA's results file, `[{"question_id", "answer"}]`, or GQA's,
/// `[{"questionId", "prediction"}]`.
///
/// # Errors
/// As [`read_caption_predictions`].
pub async fn read_answer_predictions(file: &Location, set: &QuestionSet) -> Result<Vec<String>> {
    let ids = set.questions.iter().map(|question| &question.id);
    let form = Form { what: "question", id: &["question_id", "questionId"], text: &["answer", "prediction"] };
    read(file, ids, &form).await
}

/// The keys of an entry.
struct Form {
    /// What an id is of.
    what: &'static str,
    id: &'static [&'static str],
    text: &'static [&'static str],
}

async fn read<'a>(file: &Location, ids: impl Iterator<Item = &'a Id>, form: &Form) -> Result<Vec<String>> {
    let json = file.read().await?;
    let mut problems = Problems::default();
    let texts = parse(&json, ids, form, &mut problems);
    problems.refuse(file.uri(), PREDICT_ANEW)?;
    Ok(texts)
}

/// A text for every id, where no problem was noted.
fn parse<'a>(json: &[u8], ids: impl Iterator<Item = &'a Id>, form: &Form, problems: &mut Problems) -> Vec<String> {
    let order: Vec<String> = ids.map(ToString::to_string).collect();
    let mut texts: BTreeMap<&str, Option<String>> = order.iter().map(|id| (id.as_str(), None)).collect();
    let mut places = Places::default();
    let read = entries(json, |spot, value| {
        if spot.key.is_some() || spot.index.is_none() {
            return problems.note("the file", format!("is no list, but has {spot}; expected a list of predictions"));
        }
        let Some(mut entry) = Entry::of(spot.to_string(), value, problems) else { return };
        // A model may say nothing, which scores as what it is.
        let (Some(id), Some(text)) = (entry.id(form.id), entry.any_text(form.text)) else { return };
        if let Some(first) = places.add(&id, &entry.place) {
            let what = format!("{} {id} stands in {first} already; expected one prediction", form.what);
            return entry.note(what);
        }
        match texts.get_mut(id.to_string().as_str()) {
            Some(place) => *place = Some(text),
            None => entry.note(format!("{} {id} is not in the set", form.what)),
        }
    });
    if let Err(error) = read {
        problems.note("the file", format!("is no whole JSON: {error}"));
        return Vec::new();
    }
    let mut predicted = Vec::with_capacity(order.len());
    for id in &order {
        match texts.get_mut(id.as_str()).and_then(Option::take) {
            Some(text) => predicted.push(text),
            None => problems.note(format!("{} {id}", form.what), "no prediction".into()),
        }
    }
    predicted
}
