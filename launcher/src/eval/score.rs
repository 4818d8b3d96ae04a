//! `blip2 eval score`: scores of captions or answers that lie in a file.

use data_pipeline::benchmark::{
    CaptionImage, CaptionSet, Layout, Question, QuestionSet, read_answer_predictions, read_caption_predictions,
    read_captions, read_questions,
};
use data_pipeline::error::Result;
use data_pipeline::store::Location;
use scores::caption::{CaptionItem, NOT_OFFERED, score_by_domain};
use scores::vqa::VqaItem;
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
            let domains: Vec<Option<String>> = set.images.iter().map(|image| image.domain.clone()).collect();
            let item = |(image, caption): (CaptionImage, String)| CaptionItem {
                id: image.id.to_string(),
                references: image.captions,
                caption,
            };
            let all: Vec<CaptionItem> = set.images.into_iter().zip(captions).map(item).collect();
            Ok(told("caption", (&set.name, &set.sha256), args, all.len(), &captions_scored(&all, &domains)?))
        }
        Predicted::Answers(set, answers) => {
            let count = set.questions.len();
            let metrics = answers_scored(set.questions, answers)?;
            Ok(told("vqa", (&set.name, &set.sha256), args, count, &metrics))
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

fn captions_scored(all: &[CaptionItem], domains: &[Option<String>]) -> anyhow::Result<Value> {
    let (scores, domains) = score_by_domain(all, domains)?;
    let mut metrics = json!(scores.metrics());
    for (domain, scores) in &domains {
        metrics[format!("domain/{domain}")] = json!(scores.metrics());
    }
    Ok(metrics)
}

fn answers_scored(questions: Vec<Question>, answers: Vec<String>) -> anyhow::Result<Value> {
    let type_of = |of: Option<String>| of.unwrap_or_else(|| "other".into());
    let item = |(question, answer): (Question, String)| VqaItem {
        id: question.id.to_string(),
        answer,
        ground_truths: question.answers,
        answer_type: type_of(question.answer_type),
        question_type: type_of(question.question_type),
    };
    let all: Vec<VqaItem> = questions.into_iter().zip(answers).map(item).collect();
    Ok(json!(scores::answers::score(&all)?.by_rules))
}
