//! Answers to questions about images, compared with what people answered.

use configs::{LanguageModelSizes, Stage};
use data_pipeline::caption::Cleaner;
use scores::answers::score as score_answers;
use scores::vqa::{NOT_OFFERED, VqaItem};
use serde_json::{Map, Value, json};

use super::decoding::Options;
use super::images::in_batches;
use super::sets::{Asked, Question};
use super::shares::Shares;
use super::speaker::Speaker;
use super::{BATCH, Subject};
use crate::TrainerError;
use crate::events::{Event, Events};
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
    let own = shares.own(set.questions.len());
    let steps = own.len().div_ceil(BATCH) as u64;
    if shares.is_first() {
        let what = format!("answering {} questions about {} images", set.questions.len(), set.images.len());
        events.send(&Event::Phase { name: "evaluate".into(), what, steps });
    }
    let mut answers = Vec::with_capacity(own.len());
    for (step, rows) in in_batches(own, BATCH).enumerate() {
        (shares.beat)();
        let images: Vec<usize> = rows.iter().map(|row| set.questions[*row].image).collect();
        let pixels = set.images.pixels(&images, subject.towers.device)?;
        let patches = subject.image_encoder.forward(&pixels);
        let questions: Vec<String> = rows.iter().map(|row| cleaner.question(&set.questions[*row].text)).collect();
        let prompts: Vec<String> = questions.iter().map(|question| asked(speaker.prompt(), question)).collect();
        let written = speaker.answer(&patches, &prompts, &questions)?;
        answers.extend(written.into_iter().map(|mut texts| texts.swap_remove(0)));
        if shares.is_first() {
            events.progress("evaluate", step as u64 + 1, steps);
        }
    }
    shares.texts(answers)
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
