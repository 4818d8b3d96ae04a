//! GQA accuracy: answers that are equal once both sides are normalised as VQA's are.

use std::collections::BTreeMap;

use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

use crate::ScoresError;
use crate::vqa::{clean, normalize};

/// An answer with the one that is right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GqaItem {
    /// The question; every item has its own.
    pub id: String,
    /// The answer to score.
    pub answer: String,
    /// The right answer.
    pub ground_truth: String,
    /// The data set's type of question, such as `query`.
    pub question_type: String,
}

/// Accuracies in percent, not rounded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GqaScores {
    /// Of all questions.
    pub overall: f64,
    /// By type of question.
    pub per_question_type: BTreeMap<String, f64>,
    /// Whether each answer is right, in the order given.
    pub items: Vec<bool>,
}

/// The accuracies of a set of answers.
///
/// # Errors
/// When there is no item or two items have one id.
pub fn score(items: &[GqaItem]) -> Result<GqaScores, ScoresError> {
    if items.is_empty() {
        return Err(ScoresError::Nothing { what: "answers" });
    }
    let mut seen = FxHashSet::default();
    if let Some(twice) = items.iter().find(|item| !seen.insert(item.id.as_str())) {
        return Err(ScoresError::Duplicate { id: twice.id.clone() });
    }
    let normalized = |answer: &str| normalize(&clean(answer));
    let right: Vec<bool> =
        items.iter().map(|item| normalized(&item.answer) == normalized(&item.ground_truth)).collect();
    let mut groups: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    for (item, right) in items.iter().zip(&right) {
        groups.entry(item.question_type.clone()).or_default().push(*right);
    }
    Ok(GqaScores {
        overall: percent(&right),
        per_question_type: groups.into_iter().map(|(kind, right)| (kind, percent(&right))).collect(),
        items: right,
    })
}

fn percent(right: &[bool]) -> f64 {
    right.iter().filter(|right| **right).count() as f64 / right.len() as f64 * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_normalised() {
        let item = |id: &str, answer: &str, ground_truth: &str, question_type: &str| GqaItem {
            id: id.into(),
            answer: answer.into(),
            ground_truth: ground_truth.into(),
            question_type: question_type.into(),
        };
        let items = [
            item("1", "The dog.", "dog", "query"),
            item("2", "two", "2", "query"),
            item("3", "no", "yes", "verify"),
            item("4", " yes\n", "yes", "verify"),
        ];
        let scores = score(&items).unwrap();
        assert_eq!((scores.overall, scores.items), (75.0, vec![true, true, false, true]));
        assert_eq!(scores.per_question_type.into_values().collect::<Vec<_>>(), [100.0, 50.0]);
        assert_eq!(score(&[]), Err(ScoresError::Nothing { what: "answers" }));
        let twice = [items[0].clone(), items[0].clone()];
        assert_eq!(score(&twice), Err(ScoresError::Duplicate { id: "1".into() }));
    }
}
