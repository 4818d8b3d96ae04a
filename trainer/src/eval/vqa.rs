//! Answers to questions about images, compared with what people answered.

use configs::{LanguageModelSizes, Stage};
use data_pipeline::caption::Cleaner;
use scores::answers::score as score_answers;
use scores::vqa::{NOT_OFFERED, VqaItem};
use serde_json::{Map, Value, json};

use super::Subject;
use super::decoding::Options;
use super::sets::{Asked, Question};
use super::shares::Shares;
use super::speaker::Speaker;
use crate::TrainerError;
use crate::events::Events;
use crate::text::asked;

/// How questions are asked and answered where options do not say: beams, length and penalty are the paper's (section 4.1;
/// LAVIS' code passes OPT a length penalty of 0 instead), and so are the prompts, of which each kind of language model has
/// its own. A stage that was trained to answer has its prompt; the few words of the synthetic corpus are asked without one.
pub fn defaults(subject: &Subject<'_>, set: &Asked) -> Options {
    let prompt = match subject.stage {
        Stage::Generative(stage) if stage.prompt.contains("{}") => stage.prompt.clone(),
        _ if set.is_held_out => "{}".to_owned(),
        _ => match subject.run.model.language_model.sizes() {
            LanguageModelSizes::Opt(_) => "Question: {} Answer:".to_owned(),
            LanguageModelSizes::T5(_) => "Question: {} Short answer:".to_owned(),
        },
    };
    let (beams, max_tokens) = (Some(5), Some(10));
    Options { prompt, beams, max_tokens, min_tokens: Some(1), length_penalty: Some(-1.0), ..Options::default() }
}

/// Answers every question of a set. Every rank calls it and is given the answers of all.
///
/// # Errors
/// When images cannot be read, the weights do not fit the model, or the options do not fit together.
pub fn answer(
    subject: &Subject<'_>,
    set: &Asked,
    options: &Options,
    shares: Shares<'_>,
    events: Events,
) -> Result<Vec<String>, TrainerError> {
    let speaker = Speaker::of(*subject, options)?;
    if !speaker.prompt().contains("{}") {
        return Err(TrainerError::Unsupported {
            found: format!("the prompt {:?} has no place for the question", speaker.prompt()),
            expected: "a prompt with {} in it, as in --prompt 'Question: {} Answer:'".into(),
        });
    }
    let cleaner = Cleaner::default();
    let what = format!("answering {} questions about {} images", set.questions.len(), set.images.len());
    shares.written(set.questions.len(), what, events, |rows| {
        let images: Vec<usize> = rows.iter().map(|row| set.questions[*row].image).collect();
        let pixels = set.images.pixels(&images, subject.towers.device)?;
        let questions: Vec<String> = rows.iter().map(|row| cleaner.question(&set.questions[*row].text)).collect();
        let prompts: Vec<String> = questions.iter().map(|question| asked(speaker.prompt(), question)).collect();
        speaker.answer(&subject.image_encoder.forward(&pixels), &prompts, &questions)
    })
}

/// Accuracies of the answers that a model gives.
///
/// # Errors
/// As [`answer()`].
pub fn score(
    subject: &Subject<'_>,
    set: &Asked,
    options: &Options,
    shares: Shares<'_>,
    events: Events,
) -> Result<Value, TrainerError> {
    let answers = answer(subject, set, options, shares, events)?;
    let mut result = against_people(&set.questions, &answers)?;
    result["settings"] = json!({
        "decoding": options, "prompt": Speaker::of(*subject, options)?.prompt(),
        "not_offered": Map::from_iter(NOT_OFFERED.iter().map(|(name, reason)| ((*name).to_owned(), json!(reason)))),
    });
    result["images"] = json!(set.images.len());
    Ok(result)
}

/// Accuracies under the rules of the set; none where there is no answer to compare with.
///
/// # Errors
/// When there is nothing to score.
pub fn against_people(questions: &[Question], answers: &[String]) -> Result<Value, TrainerError> {
    let item = |(question, answer): (&Question, &String)| VqaItem {
        id: question.id.clone(),
        answer: answer.clone(),
        ground_truths: question.answers.clone(),
        answer_type: question.answer_type.clone(),
        question_type: question.question_type.clone(),
    };
    let found = score_answers(&questions.iter().zip(answers).map(item).collect::<Vec<_>>())?;
    let items = questions.iter().zip(answers).zip(&found.items).map(|((question, answer), accuracy)| {
        json!({
            "question_id": question.id, "question": question.text, "answer": answer,
            "ground_truths": question.answers, "accuracy": accuracy,
        })
    });
    let metrics = if found.by_rules.is_empty() { Value::Null } else { json!(found.by_rules) };
    Ok(json!({ "questions": questions.len(), "metrics": metrics, "items": items.collect::<Vec<_>>() }))
}
