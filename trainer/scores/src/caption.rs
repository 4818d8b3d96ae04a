//! BLEU-1 to BLEU-4, ROUGE-L and CIDEr of captions, as `pycocoevalcap` 1.2 computes them.

mod bleu;
mod cider;
mod ngrams;
mod rouge;

use rustc_hash::FxHashSet;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ScoresError;
use crate::parallel::map_chunks;
use crate::{ptb, python};
use bleu::Counts;
use ngrams::{Numbered, Text, Words};

/// What captions are often scored by and this crate does not compute, with the reason; for outputs to print.
pub const NOT_OFFERED: [(&str, &str); 2] = [
    ("METEOR", "it needs a Java program and its tables of paraphrases"),
    ("SPICE", "it needs a Java program, a parser of its own and WordNet"),
];

/// Captions that a thread takes at a time.
const CHUNK: usize = 256;

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

impl CaptionScores {
    /// The set's scores by name, as results name them.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let bleu = self.bleu.iter().zip(1..).map(|(score, n)| (format!("bleu_{n}"), *score));
        bleu.chain([("rouge_l".to_owned(), self.rouge_l), ("cider".to_owned(), self.cider)]).collect()
    }
}

/// The scores of a whole set, and of each of its domains as a set of its own, as NoCaps is reported; `domains` has one entry
/// for each item.
///
/// # Errors
/// As [`score`].
pub fn score_by_domain(
    items: &[CaptionItem],
    domains: &[Option<String>],
) -> Result<(CaptionScores, BTreeMap<String, CaptionScores>), ScoresError> {
    let mut of_domains: BTreeMap<&str, Vec<CaptionItem>> = BTreeMap::new();
    for (item, domain) in items.iter().zip(domains) {
        if let Some(domain) = domain {
            of_domains.entry(domain).or_default().push(item.clone());
        }
    }
    let of_domains = of_domains.into_iter().map(|(domain, items)| Ok((domain.to_owned(), score(&items)?)));
    Ok((score(items)?, of_domains.collect::<Result<_, _>>()?))
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
/// Texts are tokenised first ([`ptb::tokenize`]): all references as one list in the order of the items, and all
/// captions as another, as the reference does.
///
/// # Errors
/// When there is no item, an item has no reference, or two items have one id.
pub fn score(items: &[CaptionItem]) -> Result<CaptionScores, ScoresError> {
    check(items)?;
    score_tokenized(&tokenized(items))
}

/// The same items with tokens, separated by spaces, in place of texts.
pub fn tokenized(items: &[CaptionItem]) -> Vec<CaptionItem> {
    let references: Vec<&str> = items.iter().flat_map(|item| &item.references).map(String::as_str).collect();
    let captions: Vec<&str> = items.iter().map(|item| item.caption.as_str()).collect();
    let mut references = ptb::tokenize(&references).into_iter();
    let captions = ptb::tokenize(&captions).into_iter();
    let with_tokens = |(item, caption): (&CaptionItem, String)| CaptionItem {
        id: item.id.clone(),
        references: references.by_ref().take(item.references.len()).collect(),
        caption,
    };
    items.iter().zip(captions).map(with_tokens).collect()
}

/// The scores of captions whose texts are tokens joined by single spaces already.
///
/// # Errors
/// When there is no item, an item has no reference, or two items have one id.
pub fn score_tokenized(items: &[CaptionItem]) -> Result<CaptionScores, ScoresError> {
    check(items)?;
    let mut words = Words::default();
    let mut numbered = Vec::with_capacity(items.len());
    for item in items {
        let references: Vec<_> = item.references.iter().map(|reference| words.text(reference)).collect();
        numbered.push((words.text(&item.caption), references));
    }
    let counted = |(caption, references): &(Numbered, Vec<Numbered>)| {
        (caption.counted(), references.iter().map(Numbered::counted).collect())
    };
    let all: Vec<(Text, Vec<Text>)> =
        map_chunks(items.len(), CHUNK, || (), |(), range| numbered[range].iter().map(counted).collect());
    let frequencies = cider::Frequencies::of(&all);
    let scored: Vec<(Counts, f64, f64)> = map_chunks(
        all.len(),
        CHUNK,
        || (),
        |(), range| {
            let one = |(caption, references): &(Text, Vec<Text>)| {
                let counts = Counts::of(caption, references);
                (counts, rouge::rouge_l(caption, references), frequencies.cider(caption, references))
            };
            all[range].iter().map(one).collect()
        },
    );
    let total = scored.iter().fold(Counts::default(), |total, (counts, ..)| total + *counts);
    let rouge: Vec<f64> = scored.iter().map(|(_, rouge, _)| *rouge).collect();
    let cider: Vec<f64> = scored.iter().map(|(.., cider)| *cider).collect();
    let each = items.iter().zip(&scored).map(|(item, (counts, rouge_l, cider))| ItemScores {
        id: item.id.clone(),
        bleu: counts.bleu(),
        rouge_l: *rouge_l,
        cider: *cider,
    });
    Ok(CaptionScores {
        bleu: total.bleu(),
        rouge_l: python::mean(&rouge),
        cider: python::mean(&cider),
        items: each.collect(),
    })
}

fn check(items: &[CaptionItem]) -> Result<(), ScoresError> {
    if items.is_empty() {
        return Err(ScoresError::Nothing { what: "captions" });
    }
    let mut seen = FxHashSet::default();
    for item in items {
        if item.references.is_empty() {
            return Err(ScoresError::NoReference { id: item.id.clone(), what: "references" });
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

    fn item(id: &str, references: &[&str], caption: &str) -> CaptionItem {
        let references = references.iter().map(|&reference| reference.to_owned()).collect();
        CaptionItem { id: id.to_owned(), references, caption: caption.to_owned() }
    }

    #[test]
    fn what_cannot_be_scored_is_named() {
        assert_eq!(score(&[]), Err(ScoresError::Nothing { what: "captions" }));
        let lonely = score(&[item("7", &[], "a dog")]);
        assert_eq!(lonely, Err(ScoresError::NoReference { id: "7".into(), what: "references" }));
        let twice = score(&[item("7", &["a"], "a"), item("7", &["a"], "a")]);
        assert_eq!(twice, Err(ScoresError::Duplicate { id: "7".into() }));
    }

    #[test]
    fn a_perfect_caption_has_the_highest_scores() {
        let dog = "a brown dog runs on the beach";
        let scores = score(&[item("1", &[dog], dog), item("2", &["two cats sleep in the sun"], "a cat")]).unwrap();
        assert!(scores.items[0].bleu.iter().all(|bleu| (bleu - 1.0).abs() < 1e-8));
        assert_eq!(scores.items[0].rouge_l, 1.0);
        assert!((scores.items[0].cider - 10.0).abs() < 1e-9);
        assert_eq!((scores.items[1].rouge_l, scores.items[1].cider), (0.0, 0.0));
    }

    #[test]
    fn empty_texts_score_without_dividing_by_zero() {
        let scores = score(&[item("1", &[""], ""), item("2", &["a dog"], "")]).unwrap();
        assert_eq!((scores.items[0].rouge_l, scores.items[0].cider), (1.0, 0.0));
        assert_eq!(scores.items[1].bleu, [0.0; 4]);
        assert!(scores.bleu.iter().all(|bleu| bleu.is_finite()));
    }
}
