//! Scores of a stage while it is trained, on data that is held out.

use configs::{Evaluation, GenerativeText, Run, Stage};
use data_pipeline::synthetic::Split;
use serde_json::Value;

use super::decoding::Options;
use super::sets::{Asked, Captioned, Data, Files};
use super::shares::Shares;
use super::{Subject, caption, retrieval, vqa};
use crate::TrainerError;
use crate::events::Events;

/// What a stage is scored on.
pub struct During {
    set: Set,
    candidates: usize,
}

enum Set {
    Retrieval(Captioned),
    Captions(Captioned, Options),
    Questions(Asked),
}

/// A score, and what it is made of by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// The one number that the best checkpoint has the highest of.
    pub score: f64,
    /// For metrics.
    pub parts: Vec<(String, f64)>,
}

impl During {
    /// Reads what the stage is scored on.
    ///
    /// # Errors
    /// When it cannot be read, or something is wrong with it.
    pub fn open(run: &Run, stage: &Stage) -> Result<Self, TrainerError> {
        let Evaluation { limit, candidates, annotations, answers, images, split, .. } = &run.evaluation;
        let data = match (annotations, images) {
            (Some(annotations), Some(images)) => Data::Files(Files {
                annotations: annotations.to_string(),
                answers: answers.as_ref().map(ToString::to_string),
                images: images.to_string(),
                split: split.clone(),
            }),
            _ => Data::HeldOut(Split::TestSeen),
        };
        let limit = Some(*limit as usize);
        let set = match stage {
            Stage::Representation(_) => {
                let set = Captioned::open(run, &data, limit)?;
                Set::Retrieval(if data.is_held_out() { set.with_one_caption() } else { set })
            }
            Stage::Generative(stage) if stage.text == GenerativeText::QuestionAnswer => {
                Set::Questions(Asked::open(run, &data, limit)?)
            }
            Stage::Generative(_) => {
                let options = if data.is_held_out() { Options::default() } else { caption::published_defaults() };
                Set::Captions(Captioned::open(run, &data, limit)?, options)
            }
        };
        Ok(Self { set, candidates: *candidates as usize })
    }

    /// The scores of the model as it stands. Every rank calls it and is given the same.
    ///
    /// # Errors
    /// When images cannot be read, or ranks cannot talk.
    pub fn score(&self, subject: &Subject<'_>, shares: Shares<'_>) -> Result<Score, TrainerError> {
        let number = |result: &Value, place: &str| result.pointer(place).and_then(Value::as_f64).unwrap_or_default();
        let (score, parts) = match &self.set {
            Set::Retrieval(set) => {
                let result = retrieval::score(subject, set, self.candidates, shares, Events::Silent)?;
                let mean = |by: &str| {
                    let recall = |way: &str| number(&result, &format!("/metrics/{by}/{way}/r1"));
                    (recall("image_to_text") + recall("text_to_image")) / 2.0
                };
                let (itc, itm) = (mean("itc"), mean("itm"));
                let matches = matches!(subject.stage, Stage::Representation(stage) if stage.losses.itm > 0.0);
                (if matches { itm } else { itc }, vec![("itc_r1", itc), ("itm_r1", itm)])
            }
            Set::Captions(set, options) => {
                let result = caption::score(subject, set, options, shares, Events::Silent)?;
                let of = |name: &str| 100.0 * number(&result, &format!("/metrics/{name}"));
                (of("cider"), vec![("bleu_4", of("bleu_4")), ("cider", of("cider"))])
            }
            Set::Questions(set) => {
                let options = vqa::defaults(subject, set);
                let result = vqa::score(subject, set, &options, shares, Events::Silent)?;
                let rules = if result["metrics"]["gqa"].is_object() { "gqa" } else { "lavis" };
                let accuracy = number(&result, &format!("/metrics/{rules}/overall"));
                (accuracy, vec![("accuracy", accuracy)])
            }
        };
        let parts = parts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Score { score, parts })
    }
}
