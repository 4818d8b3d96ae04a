//! Which text belongs to an image, and which image to a text (LAVIS `blip2_qformer.py`, `compute_sim_matrix`): all pairs
//! by ITC's cosine, the best of each row once more by ITM.
//!
//! Letters: `n` images, `m` texts, `k` candidates that are scored again.

use std::collections::BTreeSet;

use data_pipeline::caption::Cleaner;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use super::images::in_batches;
use super::sets::Captioned;
use super::shares::Shares;
use super::{BATCH, Subject};
use crate::TrainerError;
use crate::batches;
use crate::events::{Event, Events};
use crate::losses::itc::best_query_in_blocks;
use crate::stage1::{Stage1, Text};

/// Pairs that the matching head scores at once.
const PAIRS: usize = 400;
/// What a pair that is no candidate scores, as in LAVIS.
const NO_CANDIDATE: f64 = -100.0;
/// Tokens of a text at most, as in LAVIS' retrieval; training has 32.
const TEXT_TOKENS: usize = 35;

/// What is searched, and how.
pub struct Search<'a> {
    /// The model.
    pub stage1: &'a Stage1,
    /// The image encoder's output for images of these numbers, `[b, P, V]`.
    pub patches: &'a dyn Fn(&[usize]) -> Result<Tensor, TrainerError>,
    /// Images.
    pub images: usize,
    /// The texts, `[m, T]`.
    pub text: &'a Text,
    /// Candidates of each row that the matching head scores.
    pub candidates: usize,
    /// Who does it.
    pub shares: Shares<'a>,
    /// Told of images that are done, and of how many there are.
    pub progress: &'a dyn Fn(u64, u64),
}

/// Scores of pairs, on the processor.
#[derive(Debug)]
pub struct Scores {
    /// Cosine of the most similar query, `[n, m]`.
    pub cosine: Tensor,
    /// For each image its candidates' match logit plus cosine, -100 elsewhere, `[n, m]`.
    pub image_to_text: Tensor,
    /// The same for each text, `[m, n]`.
    pub text_to_image: Tensor,
}

impl Scores {
    /// Recalls of the re-ranked pairs in both directions, in percent, given the image of each text.
    pub fn recalls(&self, image_of: &[i64]) -> Value {
        let images = self.cosine.size()[0] as usize;
        Truth::new(image_of, images).both(&self.image_to_text, &self.text_to_image).recalls()
    }
}

impl Search<'_> {
    /// Scores all pairs. Every rank calls it and is given the same.
    ///
    /// # Errors
    /// When images cannot be read, or ranks cannot talk.
    pub fn run(&self) -> Result<Scores, TrainerError> {
        no_grad(|| {
            let cosine = self.cosines()?;
            let (n, m) = cosine.size2().expect("invariant: cosines are [n, m]");
            let k = |others: i64| (self.candidates as i64).min(others);
            let (_, texts) = cosine.topk(k(m), 1, true, true);
            let (_, images) = cosine.tr().topk(k(n), 1, true, true);
            let logits = self.match_logits(&wanted(&texts, &images))?;
            let scored = logits + &cosine;
            let kept = |scores: &Tensor, places: &Tensor| {
                let none = Tensor::full(scores.size(), NO_CANDIDATE, (Kind::Float, Device::Cpu));
                none.scatter(1, places, &scores.gather(1, places, false))
            };
            let (image_to_text, text_to_image) = (kept(&scored, &texts), kept(&scored.tr(), &images));
            Ok(Scores { cosine, image_to_text, text_to_image })
        })
    }

    fn cosines(&self) -> Result<Tensor, TrainerError> {
        let own = self.shares.own(self.images);
        let mut image = Vec::new();
        for rows in in_batches(own.clone(), BATCH) {
            let patches = (self.patches)(&rows)?;
            (self.shares.beat)();
            image.push(self.stage1.encode_image(&self.stage1.key_values(&patches), rows.len() as i64));
        }
        let m = self.text.ids.size()[0];
        let own_texts = self.shares.own(m as usize);
        let text = |rows: Vec<usize>| self.stage1.encode_text(&self.text.rows(&numbers(&rows)));
        let text: Vec<Tensor> = in_batches(own_texts, BATCH).map(text).collect();
        // A rank may have no image, or no text, of a small set.
        let rows = |parts: &[Tensor], shape: &[i64]| match parts.is_empty() {
            true => Tensor::zeros(shape, (Kind::Float, Device::Cpu)),
            false => Tensor::cat(parts, 0),
        };
        let text = self.shares.rows(&rows(&text, &[0, self.stage1.feature_dim()]))?.to_device(self.text.ids.device());
        let own = match image.is_empty() {
            true => Tensor::zeros([0, m], (Kind::Float, Device::Cpu)),
            false => best_query_in_blocks(&Tensor::cat(&image, 0), &text),
        };
        self.shares.rows(&own)
    }

    /// Logits of a match of the wanted texts of every image, 0 elsewhere.
    ///
    /// # Shapes
    /// Result: `[n, m]`.
    fn match_logits(&self, wanted: &[BTreeSet<i64>]) -> Result<Tensor, TrainerError> {
        let own = self.shares.own(self.images);
        let total = own.len() as u64;
        let m = self.text.ids.size()[0];
        let mut rows_of_logits = Vec::new();
        for rows in in_batches(own.clone(), BATCH) {
            // Which pairs are scored together depends on the images of a batch alone, and so do their bits.
            rows_of_logits.push(self.match_logits_of(&rows, wanted)?);
            (self.progress)((rows[rows.len() - 1] - own.start) as u64 + 1, total);
        }
        self.shares.rows(&match rows_of_logits.is_empty() {
            true => Tensor::zeros([0, m], (Kind::Float, Device::Cpu)),
            false => Tensor::cat(&rows_of_logits, 0),
        })
    }

    /// # Shapes
    /// Result: `[b, m]`, of the images `rows`.
    fn match_logits_of(&self, rows: &[usize], wanted: &[BTreeSet<i64>]) -> Result<Tensor, TrainerError> {
        let patches = (self.patches)(rows)?;
        let seen = self.stage1.key_values(&patches);
        let of_image = |(place, image): (usize, &usize)| wanted[*image].iter().map(move |text| (place as i64, *text));
        let pairs: Vec<(i64, i64)> = rows.iter().enumerate().flat_map(of_image).collect();
        let logits = Tensor::zeros([rows.len() as i64, self.text.ids.size()[0]], (Kind::Float, Device::Cpu));
        for pairs in pairs.chunks(PAIRS) {
            let (images, texts): (Vec<i64>, Vec<i64>) = pairs.iter().copied().unzip();
            let (images, texts) = (Tensor::from_slice(&images), Tensor::from_slice(&texts));
            let seen = seen.rows(&images.to_device(patches.device()));
            let of_pairs = self.stage1.match_logits(&seen, &self.text.rows(&texts)).select(1, 1);
            let places = [Some(images), Some(texts)];
            let _ = logits.shallow_clone().index_put_(&places, &of_pairs.to_device(Device::Cpu), false);
            (self.shares.beat)();
        }
        Ok(logits)
    }
}

fn numbers(rows: &[usize]) -> Tensor {
    Tensor::from_slice(&rows.iter().map(|row| *row as i64).collect::<Vec<_>>())
}

/// The texts of every image that are its candidates, or whose candidate it is.
fn wanted(texts_of_images: &Tensor, images_of_texts: &Tensor) -> Vec<BTreeSet<i64>> {
    let rows = |places: &Tensor| Vec::<Vec<i64>>::try_from(places).unwrap_or_default();
    let mut wanted: Vec<BTreeSet<i64>> =
        rows(texts_of_images).into_iter().map(|texts| texts.into_iter().collect()).collect();
    for (text, images) in rows(images_of_texts).into_iter().enumerate() {
        for image in images {
            wanted[image as usize].insert(text as i64);
        }
    }
    wanted
}

/// Recalls of ITC alone and after re-ranking by ITM, and what was found for each image and text.
///
/// # Errors
/// As [`Search::run`].
pub fn score(
    subject: &Subject<'_>,
    set: &Captioned,
    candidates: usize,
    shares: Shares<'_>,
    events: Events,
) -> Result<Value, TrainerError> {
    let (model, towers) = (&subject.run.model, subject.towers);
    let stage1 = Stage1::new(&subject.weights.scope(""), model, false)?;
    let cleaner = Cleaner::default();
    let texts: Vec<String> = set.captions.iter().flatten().map(|caption| cleaner.caption(caption)).collect();
    let limit = TEXT_TOKENS.min(model.qformer.max_positions);
    let tokens = towers.encode_for_qformer_within(&texts, limit);
    let device = towers.device;
    let text = batches::text(&tokens, tokens.longest(), device);
    let what = format!("scoring {} images and {} captions", set.len(), texts.len());
    let steps = shares.own(set.len()).len() as u64;
    if shares.is_first() {
        events.send(&Event::Phase { name: "evaluate".into(), what, steps });
    }
    let patches = |rows: &[usize]| Ok(subject.image_encoder.forward(&set.images.pixels(rows, device)?));
    let progress = |done: u64, steps: u64| {
        if shares.is_first() {
            events.progress("evaluate", done, steps);
        }
    };
    let search = Search {
        stage1: &stage1,
        patches: &patches,
        images: set.len(),
        text: &text,
        candidates,
        shares,
        progress: &progress,
    };
    let scores = search.run()?;
    let image_of: Vec<i64> =
        set.captions.iter().enumerate().flat_map(|(image, of)| vec![image as i64; of.len()]).collect();
    let truth = Truth::new(&image_of, set.len());
    let itc = truth.both(&scores.cosine, &scores.cosine.tr());
    let itm = truth.both(&scores.image_to_text, &scores.text_to_image);
    let k = candidates.min(set.len().max(texts.len()));
    Ok(json!({
        "images": set.len(), "texts": texts.len(),
        "itc": itc.recalls(), "itm": itm.recalls(), "rerank_k": k,
        "chance_r1": 100.0 / set.len() as f64,
        "metrics": { "itc": itc.recalls(), "itm": itm.recalls() },
        "settings": {
            "itc": "cosine of the most similar query", "itm": "logit of match + cosine, of the first rerank_k by ITC",
            "rerank_k": k, "text_tokens": limit, "ties": "count against the right one",
        },
        "items": itm.items(&set.ids, &texts, &image_of),
    }))
}

/// Which text belongs to which image.
struct Truth {
    /// `[n, m]`, bool.
    is_own: Tensor,
}

/// What was found in both directions.
struct Ranks {
    /// For each image, how many wrong texts score at least as high as its best own one; and the text that scores highest.
    of_images: (Vec<i64>, Vec<i64>),
    /// The same for each text.
    of_texts: (Vec<i64>, Vec<i64>),
}

impl Truth {
    fn new(image_of: &[i64], images: usize) -> Self {
        let all = Tensor::arange(images as i64, (Kind::Int64, Device::Cpu)).unsqueeze(1);
        Self { is_own: all.eq_tensor(&Tensor::from_slice(image_of)) }
    }

    /// # Shapes
    /// `image_to_text`: `[n, m]`; `text_to_image`: `[m, n]`.
    fn both(&self, image_to_text: &Tensor, text_to_image: &Tensor) -> Ranks {
        let ranks = |scores: &Tensor, is_own: &Tensor| {
            let best = scores.masked_fill(&is_own.logical_not(), f64::NEG_INFINITY).amax([1_i64].as_slice(), true);
            let before = scores.ge_tensor(&best).logical_and(&is_own.logical_not());
            let before = before.sum_dim_intlist([1_i64].as_slice(), false, Kind::Int64);
            let numbers = |x: &Tensor| Vec::<i64>::try_from(x).unwrap_or_default();
            (numbers(&before), numbers(&scores.argmax(1, false)))
        };
        Ranks { of_images: ranks(image_to_text, &self.is_own), of_texts: ranks(text_to_image, &self.is_own.tr()) }
    }
}

impl Ranks {
    /// Shares, in percent, of rows whose own column is among the 1, 5 and 10 highest. Columns that tie with the own one
    /// count against it.
    fn recalls(&self) -> Value {
        let recalls = |(before, _): &(Vec<i64>, Vec<i64>)| {
            let share =
                |k: i64| 100.0 * before.iter().filter(|rank| **rank < k).count() as f64 / before.len().max(1) as f64;
            let [r1, r5, r10] = [share(1), share(5), share(10)];
            json!({ "r1": r1, "r5": r5, "r10": r10, "mean": (r1 + r5 + r10) / 3.0 })
        };
        json!({ "image_to_text": recalls(&self.of_images), "text_to_image": recalls(&self.of_texts) })
    }

    /// Every image with its best text, and every text with its best image.
    fn items(&self, ids: &[String], texts: &[String], image_of: &[i64]) -> Value {
        let images = ids.iter().zip(&self.of_images.0).zip(&self.of_images.1);
        let images: Vec<Value> = images
            .map(
                |((id, before), best)| json!({ "image_id": id, "wrong_before": before, "best": texts[*best as usize] }),
            )
            .collect();
        let of_texts = texts.iter().zip(image_of).zip(self.of_texts.0.iter().zip(&self.of_texts.1));
        let texts: Vec<Value> = of_texts
            .map(|((text, own), (before, best))| {
                json!({ "text": text, "image_id": ids[*own as usize], "wrong_before": before, "best": ids[*best as usize] })
            })
            .collect();
        json!({ "images": images, "texts": texts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_count_against_the_right_column() {
        let scores = Tensor::from_slice(&[3.0_f32, 1.0, 2.0, 5.0, 5.0, 0.0, 9.0, 8.0, 1.0]).view([3, 3]);
        let recalls = Truth::new(&[0, 1, 2], 3).both(&scores, &scores.tr()).recalls();
        assert!((recalls["image_to_text"]["r1"].as_f64().unwrap() - 100.0 / 3.0).abs() < 1e-9, "{recalls}");
        assert_eq!(recalls["image_to_text"]["r5"], 100.0);
    }

    #[test]
    fn the_best_of_several_own_texts_counts() {
        // Two images, the first with two texts: its second one is found first.
        let scores = Tensor::from_slice(&[1.0_f32, 9.0, 5.0, 2.0, 3.0, 2.5]).view([2, 3]);
        let ranks = Truth::new(&[0, 0, 1], 2).both(&scores, &scores.tr());
        assert_eq!(ranks.of_images, (vec![0, 1], vec![1, 1]));
        assert_eq!(ranks.of_texts, (vec![1, 0, 1], vec![1, 0, 0]));
    }
}
