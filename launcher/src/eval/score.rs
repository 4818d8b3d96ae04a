//! `blip2 eval score`: scores of captions or answers that lie in a file.

use std::collections::BTreeMap;

use data_pipeline::benchmark::{
    CaptionSet, Layout, Question, QuestionSet, read_answer_predictions, read_caption_predictions, read_captions,
    read_questions,
};
use data_pipeline::error::Result;
use data_pipeline::store::Location;
use scores::caption::{CaptionItem, NOT_OFFERED};
use scores::gqa::GqaItem;
use scores::vqa::{Rules, VqaItem};
use serde_json::{Map, Value, json};

use crate::cli::ScoreArgs;
use crate::data::block_on;

/// What an interruption leaves behind.
const KEPT: &str = "nothing was written";

/// A set with what was predicted for each of its entries.
enum Predicted {
    Captions(CaptionSet, Vec<String>),
    Answers(QuestionSet, Vec<String>),
}

/// The scores as a JSON object.
///
/// # Errors
/// All that is wrong with the set or with the predictions.
pub fn score(args: &ScoreArgs) -> anyhow::Result<Value> {
    match block_on(read(args), KEPT)? {
        Predicted::Captions(set, captions) => {
            let mut all = Vec::with_capacity(captions.len());
            let mut domains: BTreeMap<String, Vec<CaptionItem>> = BTreeMap::new();
            for (image, caption) in set.images.into_iter().zip(captions) {
                let item = CaptionItem { id: image.id.to_string(), references: image.captions, caption };
                if let Some(domain) = image.domain {
                    domains.entry(domain).or_default().push(item.clone());
                }
                all.push(item);
            }
            Ok(told("caption", (&set.name, &set.sha256), args, all.len(), &captions_scored(&all, &domains)?))
        }
        Predicted::Answers(set, answers) => {
            let metrics = answers_scored(&set.questions, answers)?;
            Ok(told("vqa", (&set.name, &set.sha256), args, set.questions.len(), &metrics))
        }
    }
}

async fn read(args: &ScoreArgs) -> Result<Predicted> {
    let (annotations, predictions) = (Location::parse(&args.annotations)?, Location::parse(&args.predictions)?);
    match Layout::detect(annotations.uri(), &annotations.read().await?)? {
        Layout::CaptionList | Layout::Coco | Layout::Karpathy => {
            let set = read_captions(&annotations, args.split.as_deref()).await?;
            let captions = read_caption_predictions(&predictions, &set).await?;
            Ok(Predicted::Captions(set, captions))
        }
        Layout::VqaQuestions | Layout::VqaAnnotations | Layout::Gqa | Layout::QuestionList => {
            let answers = args.answers.as_deref().map(Location::parse).transpose()?;
            let set = read_questions(&annotations, answers.as_ref()).await?;
            let answers = read_answer_predictions(&predictions, &set).await?;
            Ok(Predicted::Answers(set, answers))
        }
    }
}

fn told(task: &str, (set, data_sha256): (&str, &str), args: &ScoreArgs, count: usize, metrics: &Value) -> Value {
    let count_of = if task == "caption" { "images" } else { "questions" };
    let not_offered = NOT_OFFERED.iter().map(|(name, reason)| ((*name).to_owned(), json!(reason)));
    json!({
        "schema_version": 1, "task": task, "set": set, "data_sha256": data_sha256, "predictions": args.predictions,
        count_of: count, "metrics": metrics, "program_version": env!("CARGO_PKG_VERSION"),
        "settings": if task == "caption" { json!({ "not_offered": Map::from_iter(not_offered) }) } else { json!({}) },
    })
}

fn captions_scored(all: &[CaptionItem], domains: &BTreeMap<String, Vec<CaptionItem>>) -> anyhow::Result<Value> {
    let of = |items: &[CaptionItem]| {
        let found = scores::caption::score(items)?;
        anyhow::Ok(json!({
            "bleu_1": found.bleu[0], "bleu_2": found.bleu[1], "bleu_3": found.bleu[2], "bleu_4": found.bleu[3],
            "rouge_l": found.rouge_l, "cider": found.cider,
        }))
    };
    let mut metrics = of(all)?;
    for (domain, items) in domains {
        metrics[format!("domain/{domain}")] = of(items)?;
    }
    Ok(metrics)
}

fn answers_scored(questions: &[Question], answers: Vec<String>) -> anyhow::Result<Value> {
    let type_of = |of: &Option<String>| of.clone().unwrap_or_else(|| "other".into());
    if questions.iter().all(|question| question.answers.len() == 1) {
        let item = |(question, answer): (&Question, String)| GqaItem {
            id: question.id.to_string(),
            answer,
            ground_truth: question.answers[0].clone(),
            question_type: type_of(&question.question_type),
        };
        let found = scores::gqa::score(&questions.iter().zip(answers).map(item).collect::<Vec<_>>())?;
        return Ok(json!({ "gqa": { "overall": found.overall, "per_question_type": found.per_question_type } }));
    }
    let item = |(question, answer): (&Question, String)| VqaItem {
        id: question.id.to_string(),
        answer,
        ground_truths: question.answers.clone(),
        answer_type: type_of(&question.answer_type),
        question_type: type_of(&question.question_type),
    };
    let all: Vec<VqaItem> = questions.iter().zip(answers).map(item).collect();
    let mut metrics = Map::new();
    for (name, rules) in [("lavis", Rules::Lavis), ("official", Rules::Official)] {
        let found = scores::vqa::score(&all, rules)?;
        metrics.insert(
            name.into(),
            json!({
                "overall": found.overall, "per_answer_type": found.per_answer_type,
                "per_question_type": found.per_question_type,
            }),
        );
    }
    Ok(Value::Object(metrics))
}
