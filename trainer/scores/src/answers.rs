//! Answers scored by the rules of their set: VQA's, both kinds, where several people answered each question; GQA's where there
//! is one right answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ScoresError;
use crate::gqa::{self, GqaItem};
use crate::vqa::{self, Rules, VqaItem};

/// Accuracies in percent under one set of rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accuracies {
    /// Of all questions.
    pub overall: f64,
    /// By type of answer; GQA has none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub per_answer_type: BTreeMap<String, f64>,
    /// By type of question.
    pub per_question_type: BTreeMap<String, f64>,
}

/// The accuracies of a set of answers under every set of rules that is theirs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AnswerScores {
    /// By the rules' names: `lavis` and `official`, or `gqa`; nothing where there are no ground truths.
    pub by_rules: BTreeMap<&'static str, Accuracies>,
    /// Of every answer, in the order given: its accuracy in percent by the rules' names.
    pub items: Vec<BTreeMap<&'static str, f64>>,
}

/// Scores answers; which rules are theirs is told by the number of ground truths.
///
/// # Errors
/// As [`vqa::score`] and [`gqa::score`].
pub fn score(items: &[VqaItem]) -> Result<AnswerScores, ScoresError> {
    let most = items.iter().map(|item| item.ground_truths.len()).max().unwrap_or(0);
    let mut scores = AnswerScores { items: vec![BTreeMap::new(); items.len()], ..AnswerScores::default() };
    match most {
        0 => {}
        1 => {
            let found = gqa::score(&items.iter().map(gqa_item).collect::<Vec<_>>())?;
            for (item, is_right) in scores.items.iter_mut().zip(&found.items) {
                item.insert("gqa", if *is_right { 100.0 } else { 0.0 });
            }
            let gqa::GqaScores { overall, per_question_type, .. } = found;
            let per_answer_type = BTreeMap::new();
            scores.by_rules.insert("gqa", Accuracies { overall, per_answer_type, per_question_type });
        }
        _ => {
            for (name, rules) in [("lavis", Rules::Lavis), ("official", Rules::Official)] {
                let found = vqa::score(items, rules)?;
                for (item, accuracy) in scores.items.iter_mut().zip(&found.items) {
                    item.insert(name, *accuracy);
                }
                let vqa::VqaScores { overall, per_answer_type, per_question_type, .. } = found;
                scores.by_rules.insert(name, Accuracies { overall, per_answer_type, per_question_type });
            }
        }
    }
    Ok(scores)
}

fn gqa_item(item: &VqaItem) -> GqaItem {
    GqaItem {
        id: item.id.clone(),
        answer: item.answer.clone(),
        ground_truth: item.ground_truths.first().cloned().unwrap_or_default(),
        question_type: item.question_type.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(answer: &str, ground_truths: &[&str]) -> VqaItem {
        VqaItem {
            id: answer.into(),
            answer: answer.into(),
            ground_truths: ground_truths.iter().map(|truth| (*truth).to_owned()).collect(),
            answer_type: "other".into(),
            question_type: "what".into(),
        }
    }

    #[test]
    fn the_number_of_ground_truths_tells_the_rules() {
        let ten = score(&[item("red", &["red"; 10]), item("blue", &["red"; 10])]).unwrap();
        assert_eq!(ten.by_rules.keys().copied().collect::<Vec<_>>(), ["lavis", "official"]);
        assert_eq!((ten.by_rules["lavis"].overall, ten.items[1]["official"]), (50.0, 0.0));
        let one = score(&[item("a red one", &["red one"])]).unwrap();
        assert_eq!((one.by_rules["gqa"].overall, one.items[0]["gqa"]), (100.0, 100.0));
        assert!(score(&[item("red", &[])]).unwrap().by_rules.is_empty());
    }
}
