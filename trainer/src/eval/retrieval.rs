//! Which caption belongs to an image, and which image to a caption (LAVIS `blip2_qformer.py`, `compute_sim_matrix`).
//!
//! Letters: `n` images and as many texts, `k` candidates that are scored again.

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use super::scenes::HeldOut;
use super::{BATCH, Loaded};
use crate::TrainerError;
use crate::batches;
use crate::events::{Event, Events};
use crate::losses::itc::best_query;
use crate::stage1::{Stage1, Text};

/// Candidates that the matching head scores again; the reference takes 128 of thousands.
const CANDIDATES: i64 = 16;
/// Pairs that the matching head scores at once.
const PAIRS: i64 = 400;

/// Recalls of ITC alone and after re-ranking by ITM.
pub fn score(loaded: &Loaded, scenes: &HeldOut, events: Events) -> Result<Value, TrainerError> {
    no_grad(|| {
        let stage1 = Stage1::new(&loaded.weights.scope(""), &loaded.run.model, false)?;
        let tokens = loaded.towers.encode_for_qformer(&scenes.captions);
        let text = batches::text(&tokens, tokens.longest(), loaded.towers.device);
        let n = scenes.len() as i64;
        let k = CANDIDATES.min(n);
        let steps = 2 * rerank_steps(n, k);
        let what = format!("scoring {n} images and captions");
        events.send(&Event::Phase { name: "evaluate".into(), what, steps });
        let device = loaded.towers.device;
        let pixels = |rows: &Tensor| scenes.pixels.index_select(0, rows).to_device(device);
        // Pixels are kept by the processor, as row numbers are.
        let patches = in_batches(n, |rows| loaded.towers.image_encoder.forward(&pixels(rows)));
        let image = in_batches(n, |rows| {
            let patches = patches.index_select(0, &rows.to_device(device));
            stage1.encode_image(&stage1.key_values(&patches), rows.size()[0])
        });
        let words = in_batches(n, |rows| stage1.encode_text(&text.rows(&rows.to_device(device))));
        let cosine = best_query(&image, &words);
        let judge = Judge { stage1: &stage1, patches: &patches, text: &text, cosine: &cosine };
        let (texts_of_image, images_of_text) =
            (judge.rerank(k, Side::Image, events), judge.rerank(k, Side::Text, events));
        let both = |images: &Tensor, texts: &Tensor| json!({ "image_to_text": recalls(images), "text_to_image": recalls(texts) });
        Ok(json!({
            "itc": both(&cosine, &cosine.transpose(0, 1)),
            "itm": both(&texts_of_image, &images_of_text),
            "rerank_k": k,
            "chance_r1": 100.0 / n as f64,
            "settings": {
                "itc": "cosine of the most similar query", "itm": "logit of match + cosine, of the first rerank_k by ITC",
            },
        }))
    })
}

/// Batches of pairs that re-ranking one side takes.
fn rerank_steps(n: i64, k: i64) -> u64 {
    (n * k).unsigned_abs().div_ceil(PAIRS.unsigned_abs())
}

/// Applies `f` to the row numbers `0..n`, a batch at a time.
fn in_batches(n: i64, f: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let rows = Tensor::arange(n, (Kind::Int64, Device::Cpu));
    let parts: Vec<Tensor> = rows.split(BATCH, 0).iter().map(f).collect();
    Tensor::cat(&parts, 0)
}

/// Whose candidates are scored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Image,
    Text,
}

struct Judge<'a> {
    stage1: &'a Stage1,
    patches: &'a Tensor,
    text: &'a Text,
    cosine: &'a Tensor,
}

impl Judge<'_> {
    /// Scores of the `k` best candidates by cosine: the logit of a match plus the cosine; far below for all others.
    ///
    /// # Shapes
    /// Result: `[n, n]`, own side first.
    fn rerank(&self, k: i64, side: Side, events: Events) -> Tensor {
        let cosine = if side == Side::Image { self.cosine.shallow_clone() } else { self.cosine.transpose(0, 1) };
        let n = cosine.size()[0];
        let (best, candidates) = cosine.topk(k, 1, true, true);
        let own = Tensor::arange(n, (Kind::Int64, cosine.device())).unsqueeze(1).expand([n, k], false).reshape([-1]);
        let other = candidates.reshape([-1]);
        let (images, texts) = if side == Side::Image { (&own, &other) } else { (&other, &own) };
        let mut logits = Vec::new();
        for (images, texts) in images.split(PAIRS, 0).iter().zip(texts.split(PAIRS, 0)) {
            let seen = self.stage1.key_values(&self.patches.index_select(0, images));
            logits.push(self.stage1.match_logits(&seen, &self.text.rows(&texts)).select(1, 1));
            events.send(&Event::Progress {
                name: "evaluate".into(),
                step: logits.len() as u64 + if side == Side::Text { rerank_steps(n, k) } else { 0 },
                steps: 2 * rerank_steps(n, k),
                losses: serde_json::Map::new(),
                lr: None,
                images_per_s: None,
            });
        }
        let scores = Tensor::cat(&logits, 0).view([n, k]) + best;
        // LAVIS fills with -100.
        Tensor::full([n, n], -100.0, (Kind::Float, scores.device())).scatter(1, &candidates, &scores)
    }
}

/// Shares, in percent, of rows whose own column is among the 1, 5 and 10 highest. Columns that tie with the own one
/// count against it.
fn recalls(scores: &Tensor) -> Value {
    let own = scores.diagonal(0, 0, 1).unsqueeze(1);
    let before = scores.ge_tensor(&own).sum_dim_intlist([1_i64].as_slice(), false, Kind::Int64) - 1;
    let share = |k: i64| before.lt(k).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]) * 100.0;
    json!({ "r1": share(1), "r5": share(5), "r10": share(10) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_count_against_the_right_column() {
        let scores = Tensor::from_slice(&[3.0_f32, 1.0, 2.0, 5.0, 5.0, 0.0, 9.0, 8.0, 1.0]).view([3, 3]);
        let recalls = recalls(&scores);
        assert!((recalls["r1"].as_f64().unwrap() - 100.0 / 3.0).abs() < 1e-9, "{recalls}");
        assert_eq!(recalls["r5"], 100.0);
    }
}
