//! Captions of held-out scenes: are the objects that they name in the picture?

use base64::Engine;
use data_pipeline::rng::{CounterRng, Purpose};
use data_pipeline::synthetic::held_out_pairs;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use super::scene_words::{Count, Hits};
use super::scenes::HeldOut;
use super::{BATCH, Loaded, synthetic_source};
use crate::TrainerError;
use crate::events::{Event, Events};
use crate::generate::Greedy;
use crate::stage2::Stage2;

/// Scenes that a result shows.
const EXAMPLES: usize = 24;

/// How captions are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Text that every caption continues.
    pub prompt: Option<String>,
    /// Beams of the search; 0 and 1 are greedy.
    pub beams: u32,
}

impl Options {
    fn check(&self) -> Result<(), TrainerError> {
        let later =
            "captions are written greedily and from their beginning so far; prompts and beams come with generation";
        let found = match self {
            Self { prompt: Some(prompt), .. } if !prompt.is_empty() => format!("--prompt {prompt:?}"),
            Self { beams: 2.., .. } => format!("--beams {}", self.beams),
            _ => return Ok(()),
        };
        Err(TrainerError::Unsupported { found, expected: later.into() })
    }
}

/// Writes a caption for every image, greedily.
///
/// # Errors
/// When the weights do not fit the model, or the options ask for more than there is.
///
/// # Shapes
/// `pixels`: `[n, 3, S, S]`, normalised.
pub fn write(loaded: &Loaded, pixels: &Tensor, options: &Options, events: Events) -> Result<Vec<String>, TrainerError> {
    options.check()?;
    no_grad(|| {
        let stage2 = Stage2::new(&loaded.weights.scope(""), &loaded.run.model, false)?;
        let tokenizer = loaded.towers.language_tokenizer();
        let greedy = Greedy::captions(tokenizer, loaded.run.model.language_model.settings().max_text_tokens);
        let rows = Tensor::arange(pixels.size()[0], (Kind::Int64, Device::Cpu)).split(BATCH, 0);
        let steps = rows.len() as u64;
        let what = format!("writing captions for {} images", pixels.size()[0]);
        events.send(&Event::Phase { name: "evaluate".into(), what, steps });
        let mut captions = Vec::new();
        for (step, rows) in rows.iter().enumerate() {
            let patches = loaded.towers.image_encoder.forward(&pixels.index_select(0, rows));
            let model = loaded.towers.language_model.model();
            let prefix = stage2.prefix(&patches).to_kind(model.kind());
            captions.extend(greedy.write(model, &prefix).iter().map(|ids| tokenizer.decode(ids).trim().to_owned()));
            let losses = serde_json::Map::new();
            let (name, step) = ("evaluate".to_owned(), step as u64 + 1);
            events.send(&Event::Progress { name, step, steps, losses, lr: None, images_per_s: None });
        }
        Ok(captions)
    })
}

/// Scores of the captions, each beside its control: the caption of another image of the split.
///
/// # Errors
/// As [`write()`].
pub fn score(loaded: &Loaded, scenes: &HeldOut, events: Events) -> Result<Value, TrainerError> {
    let captions = write(loaded, &scenes.pixels, &Options::default(), events)?;
    let held_out = held_out_pairs(synthetic_source(&loaded.run)?.seed);
    // Every scene is scored with the caption of another one: a cycle through all of them in a drawn order.
    let mut order: Vec<usize> = (0..scenes.len()).collect();
    CounterRng::new(0, Purpose::Inspect, &[]).shuffle(&mut order);
    let mut other = vec![0; order.len()];
    for (place, &scene) in order.iter().enumerate() {
        other[scene] = order[(place + 1) % order.len()];
    }
    let hits = |caption_of: &dyn Fn(usize) -> usize| {
        let one = |(i, scene)| Hits::of(scene, &captions[caption_of(i)], &held_out);
        scenes.scenes.iter().enumerate().map(one).fold(Hits::default(), Hits::plus)
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
    let example = |i: usize| {
        let image = base64::engine::general_purpose::STANDARD.encode(&scenes.files[i]);
        json!({ "image_jpeg_base64": image, "truth": scenes.captions[i], "generated": captions[i] })
    };
    Ok(json!({
        "rows": rows,
        "examples": (0..scenes.len().min(EXAMPLES)).map(example).collect::<Vec<_>>(),
        "captions": captions,
        "settings": { "decoding": "greedy", "max_tokens": loaded.run.model.language_model.settings().max_text_tokens },
    }))
}
