//! VQA accuracy of answers under two sets of rules.

mod normalize;

use std::collections::BTreeMap;

use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

use crate::{ScoresError, python};
pub use normalize::{clean, digits_and_articles, normalize, punctuation};

/// What the evaluation of OK-VQA adds and this crate does not; for outputs to print.
pub const NOT_OFFERED: [(&str, &str); 1] =
    [("lemmatisation of answers (OK-VQA)", "it needs spaCy and its English model; answers are compared as they are")];

/// Which evaluation's rules count; they differ in what happens to ground truths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rules {
    /// The copy in LAVIS (`lavis/common/vqa_tools/vqa_eval.py`): answers are normalised fully; ground truths only lose
    /// punctuation, and only if they differ.
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
    /// What people answered, ten as a rule; each counts as another person's, also where texts are equal.
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
    check(items)?;
    let accuracies: Vec<f64> = items.iter().map(|item| accuracy(item, rules)).collect();
    let by = |kind: fn(&VqaItem) -> &str| {
        let mut groups: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (item, accuracy) in items.iter().zip(&accuracies) {
            groups.entry(kind(item).to_owned()).or_default().push(*accuracy);
        }
        groups.into_iter().map(|(kind, accuracies)| (kind, percent(&accuracies))).collect()
    };
    Ok(VqaScores {
        rules,
        overall: percent(&accuracies),
        per_answer_type: by(|item| &item.answer_type),
        per_question_type: by(|item| &item.question_type),
        items: accuracies.iter().map(|accuracy| python::round2(100.0 * accuracy)).collect(),
    })
}

/// The accuracy of one answer, between 0 and 1: over every choice of all people but one, a third for each of them who
/// gave the answer, and 1 at most.
fn accuracy(item: &VqaItem, rules: Rules) -> f64 {
    let answer = clean(&item.answer);
    let given = item.ground_truths.iter().map(|truth| match rules {
        Rules::Lavis => truth.clone(),
        Rules::Official => clean(truth),
    });
    let mut truths: Vec<String> = given.collect();
    let differ = truths.iter().any(|truth| *truth != truths[0]);
    let answer = if rules == Rules::Lavis || differ { normalize(&answer) } else { answer };
    if differ {
        for truth in &mut truths {
            *truth = match rules {
                Rules::Lavis => punctuation(truth),
                Rules::Official => normalize(truth),
            };
        }
    }
    let matching = truths.iter().filter(|truth| **truth == answer).count();
    let without_one = |truth: &String| {
        let others = matching - usize::from(*truth == answer);
        f64::min(1.0, others as f64 / 3.0)
    };
    truths.iter().map(without_one).sum::<f64>() / truths.len() as f64
}

/// The mean in percent, with the reference's order of operations and its rounding.
fn percent(accuracies: &[f64]) -> f64 {
    python::round2(100.0 * accuracies.iter().sum::<f64>() / accuracies.len() as f64)
}

fn check(items: &[VqaItem]) -> Result<(), ScoresError> {
    if items.is_empty() {
        return Err(ScoresError::Nothing { what: "answers" });
    }
    let mut seen = FxHashSet::default();
    for item in items {
        if item.ground_truths.is_empty() {
            return Err(ScoresError::NoReference { id: item.id.clone(), what: "ground truths" });
        }
        if !seen.insert(item.id.as_str()) {
            return Err(ScoresError::Duplicate { id: item.id.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(answer: &str, ground_truths: &[&str]) -> VqaItem {
        VqaItem {
            id: "1".into(),
            answer: answer.into(),
            ground_truths: ground_truths.iter().map(|&truth| truth.into()).collect(),
            answer_type: "other".into(),
            question_type: "what".into(),
        }
    }

    fn both(answer: &str, ground_truths: &[&str]) -> (f64, f64) {
        let of = |rules| score(&[item(answer, ground_truths)], rules).unwrap().overall;
        (of(Rules::Lavis), of(Rules::Official))
    }

    #[test]
    fn each_person_is_left_out_in_turn() {
        let mut truths = ["red"; 10];
        truths[..7].fill("blue");
        assert_eq!(both("red", &truths), (90.0, 90.0));
        truths[..8].fill("blue");
        assert_eq!(both("red", &truths), (60.0, 60.0));
    }

    #[test]
    fn the_rules_differ_in_number_words_and_in_equal_answers() {
        let mut truths = ["two"; 10];
        assert_eq!(both("two", &truths), (0.0, 100.0));
        truths[0] = "three";
        assert_eq!(both("2", &truths), (0.0, 100.0));
    }

    #[test]
    fn what_cannot_be_scored_is_named() {
        assert_eq!(score(&[], Rules::Lavis), Err(ScoresError::Nothing { what: "answers" }));
        let lonely = score(&[item("red", &[])], Rules::Official);
        assert_eq!(lonely, Err(ScoresError::NoReference { id: "1".into(), what: "ground truths" }));
        let twice = score(&[item("red", &["red"]), item("red", &["red"])], Rules::Official);
        assert_eq!(twice, Err(ScoresError::Duplicate { id: "1".into() }));
    }
}
