//! The second half: of all captions of an image, those that fit it best are kept.

use arrow::array::AsArray;
use arrow::array::{Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use data_pipeline::caption::Cleaner;
use data_pipeline::derived::with_columns;
use data_pipeline::filters::FILTERED;
use data_pipeline::image::RgbImage;
use serde_json::{Value, json};

use super::columns::{
    CAPTIONS, Column, SIMILARITIES, SOURCES, SYNTHETIC, constant, numbers, read_texts, texts, texts_of,
};
use super::images::{Seen, View, in_batches};
use super::job::{Group, Step, Tally, refuse_second_pass};
use super::scorer::Scorer;
use crate::error::Result;

/// Images that are scored at once.
const AT_ONCE: usize = 16;

/// Keeps the best captions.
pub(super) struct Filter<'a> {
    scorer: &'a Scorer,
    top: usize,
    min_similarity: Option<f64>,
    settings: Value,
}

/// A caption that may be kept.
#[derive(Clone, Debug, PartialEq)]
struct Candidate {
    text: String,
    source: &'static str,
}

/// What is kept of a row.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kept {
    captions: Vec<String>,
    similarities: Vec<f32>,
    sources: Vec<&'static str>,
}

impl<'a> Filter<'a> {
    /// What keeps the `top` best captions of an image that reach `min_similarity`.
    pub fn new(scorer: &'a Scorer, top: usize, min_similarity: Option<f64>, threads: usize) -> Self {
        let settings = json!({
            "scorer": scorer.facts, "top": top, "min_similarity": min_similarity, "images_at_once": AT_ONCE,
            "threads": threads, "program_version": env!("CARGO_PKG_VERSION"),
        });
        Self { scorer, top, min_similarity, settings }
    }

    fn columns(&self, group: &Group, seen: &Seen, kept: &[Option<Kept>]) -> Vec<Column> {
        let mut columns = Vec::new();
        if !group.is_parquet {
            columns.extend(seen.sides());
        }
        let status = group.batch.column_by_name("status").and_then(|status| cast(status, &DataType::Utf8).ok());
        let status = status.unwrap_or_else(|| seen.status().1);
        let status = status.as_string::<i32>().iter().zip(kept);
        let is_filtered = |kept: &Option<Kept>| kept.as_ref().is_some_and(|kept| kept.captions.is_empty());
        let status = status.map(|(status, kept)| if is_filtered(kept) { Some(FILTERED) } else { status });
        columns
            .push((Field::new("status", DataType::Utf8, true), std::sync::Arc::new(status.collect::<StringArray>())));
        let lists = |part: fn(&Kept) -> Vec<String>| kept.iter().map(|row| row.as_ref().map(part)).collect::<Vec<_>>();
        let similarities: Vec<_> = kept.iter().map(|row| row.as_ref().map(|kept| kept.similarities.clone())).collect();
        let (rows, facts) = (kept.len(), &self.scorer.facts);
        let fact = |name: &str| facts[name].as_str().unwrap_or_default().to_owned();
        columns.extend([
            texts(CAPTIONS, &lists(|kept| kept.captions.clone())),
            numbers(SIMILARITIES, &similarities),
            texts(SOURCES, &lists(|kept| kept.sources.iter().map(|source| (*source).to_owned()).collect())),
            constant("scorer_kind", &fact("kind"), rows),
            constant("scorer_sha256", &fact("sha256"), rows),
            constant("scorer_settings", &self.settings.to_string(), rows),
            constant("scorer_version", env!("CARGO_PKG_VERSION"), rows),
        ]);
        columns
    }
}

impl Step for Filter<'_> {
    fn task(&self) -> &'static str {
        "data_filter"
    }

    fn settings(&self) -> &Value {
        &self.settings
    }

    fn apply(&self, group: &Group, tally: &mut Tally) -> Result<RecordBatch> {
        refuse_second_pass(group, SOURCES)?;
        let synthetic = read_texts(&group.batch, SYNTHETIC);
        let fill = |image: &RgbImage, out: &mut [f32]| self.scorer.view(image, out);
        let mut kept: Vec<Option<Kept>> = vec![None; group.batch.num_rows()];
        let seen =
            in_batches(&group.rows, &View { side: self.scorer.side, fill: &fill }, AT_ONCE, |numbers, pixels| {
                let candidates: Vec<Vec<Candidate>> = numbers
                    .iter()
                    .map(|row| {
                        let captions = &group.rows.captions;
                        let web = captions.is_valid(*row).then(|| captions.value(*row).to_owned());
                        let more = texts_of(group.rows.all_captions.as_ref(), *row);
                        candidates(web.into_iter().chain(more), texts_of(synthetic.as_ref(), *row))
                    })
                    .collect();
                let texts: Vec<Vec<String>> =
                    candidates.iter().map(|own| own.iter().map(|one| one.text.clone()).collect()).collect();
                let scores = self.scorer.score(pixels, &texts);
                for ((row, own), scores) in numbers.iter().zip(candidates).zip(scores) {
                    let best = best(own, &scores, self.top, self.min_similarity);
                    tally.texts += best.captions.len() as u64;
                    tally.filtered += u64::from(best.captions.is_empty());
                    kept[*row] = Some(best);
                }
                Ok(())
            })?;
        tally.add(group.batch.num_rows(), &seen);
        Ok(with_columns(&group.batch, self.columns(group, &seen, &kept))?)
    }
}

/// The texts that compete: those that came with the image first. Of texts that are the same once cleaned for training, the
/// first one stands; what has no word is none.
fn candidates(web: impl Iterator<Item = String>, synthetic: Vec<String>) -> Vec<Candidate> {
    let mut seen = std::collections::BTreeSet::new();
    let web = web.map(|text| Candidate { text, source: "web" });
    let all = web.chain(synthetic.into_iter().map(|text| Candidate { text, source: "synthetic" }));
    all.filter(|candidate| {
        let clean = Cleaner::default().caption(&candidate.text);
        !clean.is_empty() && seen.insert(clean)
    })
    .collect()
}

/// The best candidates, best first; of equal ones those that come first. A score that is no number reaches nothing.
fn best(candidates: Vec<Candidate>, scores: &[f32], top: usize, min_similarity: Option<f64>) -> Kept {
    let least = min_similarity.unwrap_or(f64::NEG_INFINITY);
    let mut ranked: Vec<(f32, Candidate)> =
        scores.iter().copied().zip(candidates).filter(|(score, _)| f64::from(*score) >= least).collect();
    ranked.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    let mut kept = Kept::default();
    for (score, candidate) in ranked.into_iter().take(top) {
        kept.captions.push(candidate.text);
        kept.similarities.push(score);
        kept.sources.push(candidate.source);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<Candidate> {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        candidates(texts(&["A dog.", " !"]).into_iter(), texts(&["a dog", "a cat", "", "a cat", "a pig"]))
    }

    #[test]
    fn the_same_text_competes_once() {
        let found: Vec<(String, &str)> = three().into_iter().map(|one| (one.text, one.source)).collect();
        let expected = [("A dog.", "web"), ("a cat", "synthetic"), ("a pig", "synthetic")];
        assert_eq!(found, expected.map(|(text, source)| (text.to_owned(), source)));
    }

    #[test]
    fn the_best_come_first_and_ties_stay_in_order() {
        let kept = best(three(), &[0.2, 0.3, 0.2], 2, None);
        assert_eq!((kept.captions, kept.similarities), (vec!["a cat".to_owned(), "A dog.".into()], vec![0.3, 0.2]));
        assert_eq!(kept.sources, ["synthetic", "web"]);
        assert_eq!(best(three(), &[0.2, f32::NAN, 0.1], 5, Some(0.2)).captions, ["A dog."]);
        assert_eq!(best(three(), &[0.2, f32::NAN, 0.1], 5, Some(0.5)), Kept::default());
        assert_eq!(best(three(), &[0.2, f32::NAN, 0.1], 5, None).captions, ["A dog.", "a pig"]);
    }
}
