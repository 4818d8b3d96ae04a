//! What a model in a folder of Hugging Face's makes of images: scores of given texts, and texts by beam search, with the
//! time that these took. For comparisons with transformers (tests/peers/hugging_face.py, tests/peers/bench_caption.py).
//!
//! `answers SETTINGS.json`: `weights` (the folder), `set` (overrides of the tiny preset), `input` and `output` (safetensors with
//! `pixel_values` `[B, 3, S, S]` and `input_ids` `[B, T]`; `logits` `[B, T, W]` and `tokens` `[B, max_tokens]`, -1 behind the
//! end), `end`, `beams`, `max_tokens`, `min_tokens`, `threads`, `repeat`.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use configs::Overrides;
use serde_json::{Value, json};
use tch::{Kind, Tensor, no_grad};
use trainer::frozen::{IMAGE_ENCODER, LANGUAGE_MODEL};
use trainer::generate::{Decoding, OptWriter, Rules, Search};
use trainer::model::image_tower::ImageTower;
use trainer::model::language_tower::LanguageTower;
use trainer::stage2::Stage2;
use trainer::weights::{Part, load};

fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("expected a file of settings")?;
    let settings: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    trainer::shim::be_deterministic()?;
    let number = |key: &str| settings[key].as_i64().with_context(|| format!("{key} is no number"));
    let text = |key: &str| settings[key].as_str().with_context(|| format!("{key} is no text"));
    tch::set_num_threads(i32::try_from(number("threads")?)?);
    let set: Vec<String> = serde_json::from_value(settings["set"].clone())?;
    let preset = configs::preset("tiny").context("there is no preset tiny")?;
    let run = configs::load_str("tiny.yaml", preset, &Overrides::new(&set))?;
    let [encoder, qformer, language_model] = [Part::ImageEncoder, Part::QFormer, Part::LanguageModel]
        .map(|part| load(settings["weights"].as_str().unwrap_or_default(), part));
    let (encoder, qformer, language_model) = (encoder?, qformer?, language_model?);
    let model = &run.model;
    let tower = ImageTower::new(
        &encoder.scope(IMAGE_ENCODER),
        model.image_encoder.sizes(),
        model.image_encoder.image_size(),
        model.attention,
    )?;
    let stage2 = Stage2::new(&qformer.scope(""), model, false)?;
    let scope = language_model.scope(LANGUAGE_MODEL);
    let language_model = LanguageTower::new(&scope, model.language_model.sizes(), model.attention)?.for_writing();
    let LanguageTower::Opt(opt) = language_model else { bail!("the language model is no decoder") };
    let input = Tensor::read_safetensors(text("input")?)?;
    let given = |name: &str| {
        let found = input.iter().find(|(known, _)| known == name);
        found.map(|(_, tensor)| tensor).with_context(|| format!("the input has no {name}"))
    };
    let (pixels, ids) = (given("pixel_values")?, given("input_ids")?);
    let (rows, length) = ids.size2()?;
    let inputs = || {
        let prefix = stage2.prefix(&tower.forward(pixels), None);
        let inputs = Tensor::cat(&[prefix, opt.embed_tokens(ids)], 1);
        let mask = Tensor::ones([rows, inputs.size()[1]], (Kind::Int64, inputs.device()));
        (inputs, mask)
    };
    let logits = no_grad(|| {
        let (inputs, mask) = inputs();
        let hidden = opt.forward(&inputs, Some(&mask));
        opt.logits(&hidden.narrow(1, hidden.size()[1] - length, length))
    });
    let max_tokens = usize::try_from(number("max_tokens")?)?;
    let decoding = Decoding {
        search: Search::Beams(usize::try_from(number("beams")?)?),
        rules: Rules::HuggingFace,
        min_tokens: usize::try_from(number("min_tokens")?)?,
        ..Decoding::greedy(number("end")?, max_tokens)
    };
    let (mut seconds, mut texts) = (Vec::new(), Vec::new());
    for _ in 0..number("repeat")? {
        let began = Instant::now();
        texts = no_grad(|| {
            let (inputs, mask) = inputs();
            decoding.write(&mut OptWriter::new(&opt, &inputs, &mask), ids)
        });
        seconds.push(began.elapsed().as_secs_f64());
    }
    let padded = texts.iter().flat_map(|texts| {
        let tokens = texts[0].tokens.iter().copied();
        tokens.chain(std::iter::repeat(-1)).take(max_tokens)
    });
    let tokens = Tensor::from_slice(&padded.collect::<Vec<i64>>()).view([rows, max_tokens as i64]);
    Tensor::write_safetensors(&[("logits", logits), ("tokens", tokens)], text("output")?)?;
    #[expect(clippy::print_stdout, reason = "the program's answer")]
    {
        println!("{}", json!({ "seconds": seconds }));
    }
    Ok(())
}
