//! Captions of a set: written, compared with what people wrote, and, of held-out scenes, with what is in the picture.

use base64::Engine;
use data_pipeline::rng::{CounterRng, Purpose};
use data_pipeline::synthetic::{Pair, held_out_pairs};
use scores::caption::{CaptionItem, NOT_OFFERED, score_by_domain};
use serde_json::{Map, Value, json};

use super::Subject;
use super::decoding::Options;
use super::scene_words::{Count, Hits};
use super::sets::{Captioned, synthetic_source};
use super::shares::Shares;
use super::speaker::Speaker;
use crate::TrainerError;
use crate::events::Events;

/// Scenes that a result shows.
const EXAMPLES: usize = 24;

/// How captions of a published set are written: LAVIS HEAD's captioning task (`caption_coco_ft.yaml`; the penalties are the
/// task's own where the file does not say).
pub fn published_defaults() -> Options {
    Options {
        beams: Some(5),
        max_tokens: Some(30),
        min_tokens: Some(8),
        length_penalty: Some(0.0),
        repetition_penalty: Some(1.15),
        ..Options::default()
    }
}

/// Writes captions of every image of a set, best first. Every rank calls it and is given those of all.
///
/// # Errors
/// When images cannot be read, the weights do not fit the model, or the options do not fit together.
pub fn write(
    subject: &Subject<'_>,
    set: &Captioned,
    options: &Options,
    shares: Shares<'_>,
    events: Events,
) -> Result<Vec<String>, TrainerError> {
    let speaker = Speaker::of(*subject, options)?;
    let what = format!("writing captions for {} images", set.len());
    shares.written(set.len(), what, events, |rows| {
        let pixels = set.images.pixels(rows, subject.towers.device)?;
        let keys: Vec<u64> = rows.iter().map(|row| *row as u64).collect();
        Ok(speaker.write(&subject.image_encoder.forward(&pixels), &keys))
    })
}

/// Scores of the captions that a model writes for a set.
///
/// # Errors
/// As [`write()`].
pub fn score(
    subject: &Subject<'_>,
    set: &Captioned,
    options: &Options,
    shares: Shares<'_>,
    events: Events,
) -> Result<Value, TrainerError> {
    let captions = write(subject, set, options, shares, events)?;
    let mut result = against_references(set, &captions)?;
    result["settings"] = json!({
        "decoding": options, "prompt": Speaker::of(*subject, options)?.prompt(),
        "max_tokens": options.max_tokens.unwrap_or(subject.run.model.language_model.settings().max_text_tokens),
        "tokenizer": "PTB, as pycocoevalcap 1.2", "not_offered": Map::from_iter(not_offered()),
    });
    if !set.scenes.is_empty() {
        let held_out = held_out_pairs(synthetic_source(subject.run)?.seed);
        result["rows"] = against_scenes(set, &captions, &held_out);
        result["examples"] = examples(set, &captions);
    }
    result["images"] = json!(set.len());
    Ok(result)
}

fn not_offered() -> impl Iterator<Item = (String, Value)> {
    NOT_OFFERED.iter().map(|(name, reason)| ((*name).to_owned(), json!(reason)))
}

/// BLEU, ROUGE-L and CIDEr of a whole set, and of each of its domains.
///
/// # Errors
/// When there is nothing to score.
pub fn against_references(set: &Captioned, captions: &[String]) -> Result<Value, TrainerError> {
    let item = |(place, caption): (usize, &String)| CaptionItem {
        id: set.ids[place].clone(),
        references: set.captions[place].clone(),
        caption: caption.clone(),
    };
    let all: Vec<CaptionItem> = captions.iter().enumerate().map(item).collect();
    let (scores, domains) = score_by_domain(&all, &set.domains)?;
    let mut metrics = json!(scores.metrics());
    for (domain, scores) in &domains {
        metrics[format!("domain/{domain}")] = json!(scores.metrics());
    }
    let items = all.iter().zip(&scores.items).map(|(item, scores)| {
        json!({
            "image_id": item.id, "caption": item.caption, "references": item.references, "bleu_4": scores.bleu[3],
            "rouge_l": scores.rouge_l, "cider": scores.cider,
        })
    });
    Ok(json!({ "metrics": metrics, "items": items.collect::<Vec<_>>() }))
}

/// How many objects of the scenes their captions name rightly, each count beside its control: with the caption of another
/// image of the split.
fn against_scenes(set: &Captioned, captions: &[String], held_out: &[Pair]) -> Value {
    // Every scene is scored with the caption of another one: a cycle through all of them in a drawn order.
    let mut order: Vec<usize> = (0..set.len()).collect();
    CounterRng::new(0, Purpose::Inspect, &[]).shuffle(&mut order);
    let mut other = vec![0; order.len()];
    for (place, &scene) in order.iter().enumerate() {
        other[scene] = order[(place + 1) % order.len()];
    }
    let hits = |caption_of: &dyn Fn(usize) -> usize| {
        let one = |(i, scene)| Hits::of(scene, &captions[caption_of(i)], held_out);
        set.scenes.iter().enumerate().map(one).fold(Hits::default(), Hits::plus)
    };
    let (found, control) = (hits(&|i| i), hits(&|i| other[i]));
    let row = |name: &str, part: &dyn Fn(&Hits) -> Count| {
        let (found, control) = (part(&found), part(&control));
        json!({ "name": name, "score": found.percent(), "control": control.percent(), "objects": found.all })
    };
    let mut rows = vec![
        row("pair, all objects", &|hits| hits.seen.plus(hits.unseen)),
        row("pair, seen pairs", &|hits| hits.seen),
        row("pair, unseen pairs", &|hits| hits.unseen),
        row("colour", &|hits| hits.colour),
        row("shape", &|hits| hits.shape),
    ];
    // Scenes of seen pairs have no object of an unseen one.
    rows.retain(|row| row["objects"] != 0);
    json!(rows)
}

/// The first scenes with their pictures, for reports.
fn examples(set: &Captioned, captions: &[String]) -> Value {
    let example = |i: usize| {
        let image = base64::engine::general_purpose::STANDARD.encode(set.images.bytes(i).unwrap_or_default());
        json!({ "image_jpeg_base64": image, "truth": set.captions[i][0], "generated": captions[i] })
    };
    json!((0..set.len().min(EXAMPLES)).map(example).collect::<Vec<_>>())
}
