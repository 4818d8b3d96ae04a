//! Captions of images, and of held-out scenes: are the objects that they name in the picture?

use base64::Engine;
use configs::{LanguageModelSizes, Stage};
use data_pipeline::rng::{CounterRng, Purpose};
use data_pipeline::synthetic::held_out_pairs;
use serde::Deserialize;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use super::scene_words::{Count, Hits};
use super::scenes::HeldOut;
use super::{BATCH, Loaded, synthetic_source};
use crate::TrainerError;
use crate::events::{Event, Events};
use crate::generate::{Decoding, OptWriter, QFormerWriter, Rules, Search, T5Writer, Writer, Written};
use crate::model::language_tower::LanguageTower;
use crate::stage1::Stage1;
use crate::stage2::Stage2;
use crate::text::Tokenizer;

/// Scenes that a result shows.
const EXAMPLES: usize = 24;

/// How captions are written, as `blip2 caption` names it. What is absent is as in training, and greedy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Text that every caption continues.
    pub prompt: String,
    /// Beams of the search.
    pub beams: Option<usize>,
    /// Draws among the most probable tokens that together have this probability.
    pub top_p: Option<f64>,
    /// Draws among so many most probable tokens.
    pub top_k: Option<usize>,
    /// Draws, with scores divided by it.
    pub temperature: Option<f64>,
    /// Key of the draws.
    pub seed: u64,
    /// Tokens at most, the end token included.
    pub max_tokens: Option<usize>,
    /// Tokens before a text may end.
    pub min_tokens: usize,
    /// Divides what speaks for tokens that are there already.
    pub repetition_penalty: Option<f64>,
    /// Exponent of the length by which beams' scores are divided.
    pub length_penalty: Option<f64>,
    /// Texts for each image.
    pub texts: Option<usize>,
    /// Whose rules beam search follows.
    pub rules: Rules,
}

impl Options {
    /// Texts that end with the token `end`, of `max_tokens` where the options do not say.
    ///
    /// # Errors
    /// When options contradict one another, or lie outside of what they may be.
    pub fn decoding(&self, end: i64, max_tokens: usize) -> Result<Decoding, TrainerError> {
        let refuse =
            |found: String, expected: &str| Err(TrainerError::Unsupported { found, expected: expected.into() });
        let draws = self.top_p.is_some() || self.top_k.is_some() || self.temperature.is_some();
        let (top_p, temperature) = (self.top_p.unwrap_or(1.0), self.temperature.unwrap_or(1.0));
        let beams = self.beams.unwrap_or(1);
        let texts = self.texts.unwrap_or(1);
        let penalty = self.repetition_penalty.unwrap_or(1.0);
        if beams == 0 || (draws && beams > 1) {
            return refuse(format!("--beams {beams}"), "1 or more, and 1 where tokens are drawn");
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return refuse(format!("--top-p {top_p}"), "a probability above 0 and at most 1");
        }
        if !(temperature > 0.0 && temperature.is_finite()) {
            return refuse(
                format!("--temperature {temperature}"),
                "a number above 0; for the likeliest text, draw nothing",
            );
        }
        if !(penalty > 0.0 && penalty.is_finite()) {
            return refuse(format!("--repetition-penalty {penalty}"), "a number above 0; 1 changes nothing");
        }
        if texts == 0 || (texts > beams && !draws) {
            let expected = "from 1 to the number of beams, or any number of texts that are drawn";
            return refuse(format!("--texts {texts} with {beams} beams"), expected);
        }
        let max_tokens = self.max_tokens.unwrap_or(max_tokens);
        if max_tokens == 0 || self.min_tokens > max_tokens {
            let found = format!("--max-tokens {max_tokens} with --min-tokens {}", self.min_tokens);
            return refuse(found, "at least 1, and not below --min-tokens");
        }
        let search = match draws {
            true => Search::Sample { temperature, top_k: self.top_k.unwrap_or(0), top_p, seed: self.seed },
            false if beams > 1 => Search::Beams(beams),
            false => Search::Greedy,
        };
        Ok(Decoding {
            search,
            rules: self.rules,
            min_tokens: self.min_tokens,
            repetition_penalty: penalty,
            length_penalty: self.length_penalty.unwrap_or(1.0),
            texts,
            ..Decoding::greedy(end, max_tokens)
        })
    }
}

/// What writes captions: a checkpoint's model, its tokens, and how they are chosen.
pub(crate) struct Speaker<'a> {
    model: Model<'a>,
    tokenizer: &'a Tokenizer,
    decoding: Decoding,
}

/// The model that writes, of a checkpoint's stage.
enum Model<'a> {
    /// The Q-Former itself.
    Stage1(Stage1),
    /// The language model behind the Q-Former, and the texts' beginning as it reads it.
    Stage2(Stage2, &'a LanguageTower, Tensor),
}

/// Writes captions of every image, best first.
///
/// # Errors
/// When the weights do not fit the model, or the options do not fit together.
///
/// # Shapes
/// `pixels`: `[n, 3, S, S]`, normalised.
pub fn write(
    loaded: &Loaded,
    pixels: &Tensor,
    options: &Options,
    events: Events,
) -> Result<Vec<Vec<String>>, TrainerError> {
    let speaker = Speaker::of(loaded, options)?;
    let rows = Tensor::arange(pixels.size()[0], (Kind::Int64, Device::Cpu)).split(BATCH, 0);
    let steps = rows.len() as u64;
    let what = format!("writing captions for {} images", pixels.size()[0]);
    events.send(&Event::Phase { name: "evaluate".into(), what, steps });
    let mut captions = Vec::new();
    for (step, rows) in rows.iter().enumerate() {
        let pixels = pixels.index_select(0, rows).to_device(loaded.towers.device);
        let patches = loaded.towers.image_encoder.forward(&pixels);
        let keys: Vec<u64> = (0..patches.size()[0].unsigned_abs()).collect();
        captions.extend(speaker.write(&patches, &keys));
        let losses = serde_json::Map::new();
        let (name, step) = ("evaluate".to_owned(), step as u64 + 1);
        events.send(&Event::Progress { name, step, steps, losses, lr: None, images_per_s: None });
    }
    Ok(captions)
}

impl<'a> Speaker<'a> {
    /// The model of a checkpoint's stage.
    ///
    /// # Errors
    /// When the weights do not fit the model, or the options do not fit together.
    pub(crate) fn of(loaded: &'a Loaded, options: &Options) -> Result<Self, TrainerError> {
        let (model, towers) = (&loaded.run.model, &loaded.towers);
        let scope = loaded.weights.scope("");
        let Stage::Generative(stage) = loaded.stage() else {
            if !options.prompt.is_empty() {
                return Err(TrainerError::Unsupported {
                    found: format!("--prompt {:?} with a checkpoint of stage 1", options.prompt),
                    expected: "the Q-Former writes whole captions; a language model continues prompts, in stage 2"
                        .into(),
                });
            }
            let tokenizer = towers.qformer_tokenizer();
            let decoding = options.decoding(tokenizer.end(), model.qformer.max_text_tokens)?;
            fits(&decoding, 1, model.qformer.max_positions)?;
            return Ok(Self { model: Model::Stage1(Stage1::new(&scope, model, false)?), tokenizer, decoding });
        };
        let tokenizer = towers.language_tokenizer();
        let decoding = options.decoding(tokenizer.end(), model.language_model.settings().max_text_tokens)?;
        // What a stage was trained with stands in front of every caption.
        let prompt = if options.prompt.is_empty() { stage.prompt.trim_end() } else { options.prompt.as_str() };
        let unknown = tokenizer.unknown_words(prompt);
        if unknown > 0 {
            return Err(TrainerError::Unsupported {
                found: format!("{unknown} words of {prompt:?} are not in the vocabulary"),
                expected: "a prompt of words that the language model knows".into(),
            });
        }
        let prompt = tokenizer.prompt(prompt);
        if let LanguageModelSizes::Opt(sizes) = model.language_model.sizes() {
            fits(&decoding, model.qformer.num_query_tokens + prompt.len(), sizes.max_positions)?;
        }
        let language_model = towers.language_model.model();
        let stage2 = Stage2::new(&scope, model, false)?;
        Ok(Self { model: Model::Stage2(stage2, language_model, Tensor::from_slice(&prompt)), tokenizer, decoding })
    }

    /// Captions of every image, best first; draws are keyed by `keys`, one for each image.
    ///
    /// # Shapes
    /// `patches`: `[n, P, V]`.
    pub(crate) fn write(&self, patches: &Tensor, keys: &[u64]) -> Vec<Vec<String>> {
        let texts = no_grad(|| self.tokens(patches, keys));
        let decode = |text: &Written| self.tokenizer.decode(&text.tokens).trim().to_owned();
        texts.iter().map(|texts| texts.iter().map(decode).collect()).collect()
    }

    fn tokens(&self, patches: &Tensor, keys: &[u64]) -> Vec<Vec<Written>> {
        let (rows, start) = (patches.size()[0], self.tokenizer.decoder_start());
        // As in LAVIS, the repetition penalty counts the start token, which OPT is given as part of the prompt only.
        let seen = Tensor::full([rows, 1], start, (Kind::Int64, patches.device()));
        let write = |writer: &mut dyn Writer| self.decoding.write_keyed(writer, &seen, keys);
        match &self.model {
            Model::Stage1(stage1) => write(&mut QFormerWriter::new(stage1, patches, start)),
            Model::Stage2(stage2, language_model, prompt) => {
                let prefix = stage2.prefix(patches, None).to_kind(language_model.kind());
                let prompt = prompt.to_device(patches.device()).unsqueeze(0).expand([rows, -1], false);
                let inputs = Tensor::cat(&[prefix, language_model.embed_tokens(&prompt)], 1);
                let mask = Tensor::ones([rows, inputs.size()[1]], (Kind::Int64, patches.device()));
                match language_model {
                    LanguageTower::Opt(model) => write(&mut OptWriter::new(model, &inputs, &mask)),
                    LanguageTower::T5(model) => write(&mut T5Writer::new(model, &inputs, &mask, start)),
                }
            }
        }
    }
}

/// Refuses texts that have more places than a model has positions.
fn fits(decoding: &Decoding, before: usize, positions: usize) -> Result<(), TrainerError> {
    if before + decoding.max_tokens > positions {
        return Err(TrainerError::Unsupported {
            found: format!("--max-tokens {} behind {before} places of image, prompt and start", decoding.max_tokens),
            expected: format!("at most {}: the model has {positions} positions", positions.saturating_sub(before)),
        });
    }
    Ok(())
}

/// Scores of the captions, each beside its control: the caption of another image of the split.
///
/// # Errors
/// As [`write()`].
pub fn score(loaded: &Loaded, scenes: &HeldOut, events: Events) -> Result<Value, TrainerError> {
    let texts = write(loaded, &scenes.pixels, &Options::default(), events)?;
    let captions: Vec<&str> = texts.iter().map(|texts| texts[0].as_str()).collect();
    let held_out = held_out_pairs(synthetic_source(&loaded.run)?.seed);
    // Every scene is scored with the caption of another one: a cycle through all of them in a drawn order.
    let mut order: Vec<usize> = (0..scenes.len()).collect();
    CounterRng::new(0, Purpose::Inspect, &[]).shuffle(&mut order);
    let mut other = vec![0; order.len()];
    for (place, &scene) in order.iter().enumerate() {
        other[scene] = order[(place + 1) % order.len()];
    }
    let hits = |caption_of: &dyn Fn(usize) -> usize| {
        let one = |(i, scene)| Hits::of(scene, captions[caption_of(i)], &held_out);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn decoding(json: &str) -> Result<Decoding, String> {
        let options: Options = serde_json::from_str(json).map_err(|error| error.to_string())?;
        options.decoding(6, 20).map_err(|error| error.to_string())
    }

    #[test]
    fn options_choose_the_search() {
        assert_eq!(decoding("{}").unwrap(), Decoding::greedy(6, 20));
        let beams = decoding(r#"{"beams": 5, "texts": 2, "rules": "hugging_face", "max_tokens": 9}"#).unwrap();
        assert_eq!((beams.search, beams.texts, beams.rules), (Search::Beams(5), 2, Rules::HuggingFace));
        let drawn = decoding(r#"{"top_p": 0.9, "seed": 3}"#).unwrap();
        assert_eq!(drawn.search, Search::Sample { temperature: 1.0, top_k: 0, top_p: 0.9, seed: 3 });
        assert_eq!(decoding(r#"{"top_k": 5, "texts": 10}"#).unwrap().texts, 10);
    }

    #[test]
    fn options_that_contradict_one_another_are_refused() {
        let wrong = [
            (r#"{"beams": 0}"#, "--beams 0"),
            (r#"{"beams": 2, "top_k": 5}"#, "--beams 2"),
            (r#"{"top_p": 0.0}"#, "--top-p 0"),
            (r#"{"temperature": -1.0}"#, "--temperature -1"),
            (r#"{"repetition_penalty": 0.0}"#, "--repetition-penalty 0"),
            (r#"{"texts": 2}"#, "--texts 2 with 1 beams"),
            (r#"{"min_tokens": 21}"#, "--min-tokens 21"),
            (r#"{"beans": 2}"#, "beans"),
        ];
        for (json, part) in wrong {
            let message = decoding(json).unwrap_err();
            assert!(message.contains(part), "{json}: {message}");
        }
    }
}
