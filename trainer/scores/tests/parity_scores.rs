//! Scores against the fixture `metrics`: what pycocoevalcap 1.2 and LAVIS' copy of VQA's evaluation give for the same
//! texts.
//!
//! The fixture's root is `BLIP2_FIXTURES`, or the project's `tests/fixtures`; any set with the same layout runs
//! unchanged. Tokens, normalised answers and accuracies must be equal.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise and says what it saw")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scores::caption::{CaptionItem, CaptionScores, score, score_tokenized};
use scores::ptb;
use scores::vqa::{Rules, VqaItem, clean, digits_and_articles, punctuation};
use serde_json::Value;

/// Largest relative difference of BLEU, ROUGE-L and CIDEr, as the fixture's description states it.
const TOLERANCE: f64 = 1e-9;

/// A file of the fixture, or nothing and a loud line when it is absent.
fn fixture(name: &str) -> Option<Value> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let path = std::env::var_os("BLIP2_FIXTURES").map_or(default, PathBuf::from).join("metrics").join(name);
    if !path.exists() {
        eprintln!("SKIPPED: no fixture {}; set BLIP2_FIXTURES to the folder that holds it", path.display());
        return None;
    }
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn captions(items: &[&Value], references: &str, caption: &str) -> Vec<CaptionItem> {
    let one = |item: &&Value| CaptionItem {
        id: item["id"].to_string(),
        references: texts(&item[references]),
        caption: item[caption].as_str().unwrap().to_owned(),
    };
    items.iter().map(one).collect()
}

fn assert_close(what: &str, found: f64, expected: &Value) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= TOLERANCE * expected.abs(), "{what}: {found}, the reference gives {expected}");
}

fn assert_corpus(scores: &CaptionScores, expected: &Value) {
    for (order, bleu) in scores.bleu.iter().enumerate() {
        let name = format!("Bleu_{}", order + 1);
        assert_close(&name, *bleu, &expected[&name]);
    }
    assert_close("ROUGE_L", scores.rouge_l, &expected["ROUGE_L"]);
    assert_close("CIDEr", scores.cider, &expected["CIDEr"]);
}

#[test]
fn captions_have_the_tokens_of_the_reference() {
    let Some(fixture) = fixture("captions.json") else { return };
    let items: Vec<&Value> = fixture["items"].as_array().unwrap().iter().collect();
    let raw = captions(&items, "references", "hypothesis");
    let tokenized = captions(&items, "tokenized_references", "tokenized_hypothesis");
    let all = |items: &[CaptionItem]| items.iter().flat_map(|item| item.references.clone()).collect::<Vec<_>>();
    let each = |items: &[CaptionItem]| items.iter().map(|item| item.caption.clone()).collect::<Vec<_>>();
    assert_eq!(ptb::tokenize(&all(&raw)), all(&tokenized));
    assert_eq!(ptb::tokenize(&each(&raw)), each(&tokenized));
}

#[test]
fn captions_have_the_scores_of_the_reference() {
    let Some(fixture) = fixture("captions.json") else { return };
    let items: Vec<&Value> = fixture["items"].as_array().unwrap().iter().collect();
    let scores = score(&captions(&items, "references", "hypothesis")).unwrap();
    assert_corpus(&scores, &fixture["corpus"]);
    for (found, item) in scores.items.iter().zip(&items) {
        for (order, bleu) in found.bleu.iter().enumerate() {
            assert_close(&format!("item {}, BLEU-{}", found.id, order + 1), *bleu, &item["bleu"][order]);
        }
        assert_close(&format!("item {}, ROUGE-L", found.id), found.rouge_l, &item["rouge_l"]);
        assert_close(&format!("item {}, CIDEr", found.id), found.cider, &item["cider"]);
    }
    // Over fewer items the document frequencies change.
    let ids = fixture["subset"]["ids"].as_array().unwrap();
    let some: Vec<&Value> = items.into_iter().filter(|item| ids.contains(&item["id"])).collect();
    let scores = score_tokenized(&captions(&some, "tokenized_references", "tokenized_hypothesis")).unwrap();
    assert_corpus(&scores, &fixture["subset"]);
}

#[test]
fn answers_are_normalised_as_in_the_reference() {
    let Some(fixture) = fixture("vqa.json") else { return };
    for stages in fixture["normalisation"].as_array().unwrap() {
        let cleaned = clean(stages["raw"].as_str().unwrap());
        let without_marks = punctuation(&cleaned);
        let last = digits_and_articles(&without_marks);
        assert_eq!(
            [&cleaned, &without_marks, &last].map(String::as_str),
            [
                stages["stripped"].as_str().unwrap(),
                stages["punctuation"].as_str().unwrap(),
                stages["final"].as_str().unwrap()
            ]
        );
    }
}

#[test]
fn answers_have_the_accuracies_of_the_reference() {
    let Some(fixture) = fixture("vqa.json") else { return };
    let expected = fixture["items"].as_array().unwrap();
    let items: Vec<VqaItem> = expected
        .iter()
        .map(|item| VqaItem {
            id: item["question_id"].to_string(),
            answer: item["prediction"].as_str().unwrap().to_owned(),
            ground_truths: texts(&item["answers"]),
            answer_type: item["answer_type"].as_str().unwrap().to_owned(),
            question_type: item["question_type"].as_str().unwrap().to_owned(),
        })
        .collect();
    let scores = scores::vqa::score(&items, Rules::Lavis).unwrap();
    let each: Vec<f64> = expected.iter().map(|item| item["accuracy_percent"].as_f64().unwrap()).collect();
    assert_eq!(scores.items, each);
    let types =
        |name: &str| -> BTreeMap<String, f64> { serde_json::from_value(fixture["accuracy"][name].clone()).unwrap() };
    assert_eq!(Some(scores.overall), fixture["accuracy"]["overall"].as_f64());
    assert_eq!(scores.per_answer_type, types("perAnswerType"));
    assert_eq!(scores.per_question_type, types("perQuestionType"));
}
