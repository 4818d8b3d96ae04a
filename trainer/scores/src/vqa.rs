//! VQA accuracy of answers under two sets of rules, and the normalisation of answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ScoresError;

/// What the evaluation of OK-VQA adds and this crate does not; for outputs to print.
pub const NOT_OFFERED: [(&str, &str); 1] =
    [("lemmatisation of answers (OK-VQA)", "it needs spaCy and its English model; answers are compared as they are")];

/// Which evaluation's rules count; they differ in what happens to ground truths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rules {
    /// The copy in LAVIS: answers are normalised fully; ground truths only lose punctuation, and only if they differ.
    Lavis,
    /// The later official code: both sides are normalised fully if the ground truths differ, and neither otherwise.
    Official,
}

/// An answer with those of the people who were asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VqaItem {
    /// The question; every item has its own.
    pub id: String,
    /// The answer to score.
    pub answer: String,
    /// What people answered, ten as a rule.
    pub ground_truths: Vec<String>,
    /// The data set's type of answer, such as `yes/no`.
    pub answer_type: String,
    /// The data set's type of question, such as `how many`.
    pub question_type: String,
}

/// Accuracies in percent, rounded to two decimals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VqaScores {
    /// The rules that were used.
    pub rules: Rules,
    /// Of all questions.
    pub overall: f64,
    /// By type of answer.
    pub per_answer_type: BTreeMap<String, f64>,
    /// By type of question.
    pub per_question_type: BTreeMap<String, f64>,
    /// Of every question, in the order given.
    pub items: Vec<f64>,
}

/// The accuracies of a set of answers.
///
/// # Errors
/// When there is no item, an item has no ground truth, or two items have one id.
pub fn score(items: &[VqaItem], rules: Rules) -> Result<VqaScores, ScoresError> {
    let _ = rules;
    let Some(_) = items.first() else { return Err(ScoresError::Nothing { what: "answers" }) };
    Err(ScoresError::Nothing { what: "answers" })
}

/// An answer without punctuation, in lower case, without articles, with digits for number words and with the
/// apostrophes of contractions: what answers are compared by.
pub fn normalize(answer: &str) -> String {
    answer.to_owned()
}
