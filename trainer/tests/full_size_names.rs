//! Names and shapes of every published size, against those of transformers, without allocating a weight.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

mod reference;

use std::collections::BTreeMap;

use configs::{LanguageModelSizes, Overrides, Run, Stage, parameters};
use trainer::frozen::{IMAGE_ENCODER, LANGUAGE_MODEL};
use trainer::model::image_tower::ImageTower;
use trainer::model::opt::Opt;
use trainer::model::t5::T5;
use trainer::model::{Spec, declare};
use trainer::stage1::Stage1;
use trainer::stage2::Stage2;
use trainer::weight_names::shared_with;

use reference::Fixture;

type Shapes = BTreeMap<String, Vec<i64>>;

fn preset(name: &str) -> Run {
    configs::load_str(name, configs::preset(name).unwrap(), &Overrides::default()).unwrap()
}

fn image_encoder(run: &Run) -> Vec<Spec> {
    let encoder = &run.model.image_encoder;
    declare(|scope| {
        ImageTower::new(&scope.at(IMAGE_ENCODER), encoder.sizes(), encoder.image_size(), run.model.attention)
    })
    .unwrap()
}

/// The language model, with as many words as the recorded one has.
fn language_model(run: &Run, words: i64) -> Vec<Spec> {
    match run.model.language_model.sizes() {
        LanguageModelSizes::Opt(mut sizes) => {
            sizes.vocab_size = words as usize;
            declare(|scope| Opt::new(&scope.at(LANGUAGE_MODEL), sizes, run.model.attention)).unwrap()
        }
        LanguageModelSizes::T5(mut sizes) => {
            sizes.vocab_size = words as usize;
            declare(|scope| T5::new(&scope.at(LANGUAGE_MODEL), sizes)).unwrap()
        }
    }
}

/// What transformers has recorded: shapes by name, without the names that share the values of another one.
fn recorded(fixture: &Fixture, file: &str) -> Shapes {
    let all: BTreeMap<String, Vec<i64>> =
        serde_json::from_value(fixture.json(&format!("{file}.json"))["shapes"].clone()).unwrap();
    for (name, shape) in &all {
        if let Some(shared) = shared_with(name, |other| all.contains_key(other)) {
            assert_eq!(shape, &all[shared], "{name} shares the values of {shared}");
        }
    }
    all.iter()
        .filter(|(name, _)| shared_with(name, |other| all.contains_key(other)).is_none())
        .map(|(name, shape)| (name.clone(), shape.clone()))
        .collect()
}

fn shapes(specs: impl IntoIterator<Item = Spec>) -> Shapes {
    specs.into_iter().map(|spec| (spec.name, spec.shape)).collect()
}

#[test]
fn every_published_size_has_the_names_of_transformers() {
    let Some(fixture) = Fixture::open("full_size_names") else { return };
    let sizes = [
        ("vitg_opt2.7b", "blip2_opt_2_7b"),
        ("vitg_opt6.7b", "blip2_opt_6_7b"),
        ("vitg_flant5xl", "blip2_flan_t5_xl"),
        ("vitg_flant5xxl", "blip2_flan_t5_xxl"),
    ];
    for (name, file) in sizes {
        let run = preset(name);
        let recorded = recorded(&fixture, file);
        let words = ["language_model.model.decoder.embed_tokens.weight", "language_model.shared.weight"];
        let words = words.iter().find_map(|name| recorded.get(*name)).unwrap()[0];
        let own = [image_encoder(&run), Stage2::specs(&run.model).unwrap(), language_model(&run, words)].concat();
        assert_eq!(shapes(own), recorded, "{name}");
    }
}

#[test]
fn the_retrieval_model_has_the_names_of_transformers() {
    let Some(fixture) = Fixture::open("full_size_names") else { return };
    let run = preset("vitg_opt2.7b");
    let own = [image_encoder(&run), Stage1::specs(&run.model).unwrap()].concat();
    // Hugging Face has no place for the temperature and the captioning head.
    let own = own.into_iter().filter(|spec| spec.name != "temp" && !spec.name.starts_with("cls.predictions."));
    assert_eq!(shapes(own), recorded(&fixture, "blip2_itm_vit_g"));
}

fn elements(specs: &[Spec]) -> u64 {
    specs.iter().map(|spec| spec.shape.iter().product::<i64>().unsigned_abs()).sum()
}

#[test]
fn plans_count_what_models_hold() {
    for (name, _) in configs::PRESETS {
        let run = preset(name);
        let model = &run.model;
        assert_eq!(parameters::Tensors::image_encoder(model).count(), elements(&image_encoder(&run)), "{name}");
        let words = match model.language_model.sizes() {
            LanguageModelSizes::Opt(sizes) => sizes.vocab_size,
            LanguageModelSizes::T5(sizes) => sizes.vocab_size,
        };
        let built = language_model(&run, words as i64);
        assert_eq!(parameters::Tensors::language_model(model).count(), elements(&built), "{name}");
        for stage in &run.stages {
            let specs = match stage {
                Stage::Representation(_) => Stage1::specs(model).unwrap(),
                Stage::Generative(stage) => Stage2::specs_of_stage(model, stage).unwrap(),
            };
            let counted = parameters::Tensors::qformer(model, stage);
            assert_eq!(counted.count(), elements(&specs), "{name}, {}", stage.name());
            let encoder = if stage.train_image_encoder() { image_encoder(&run) } else { Vec::new() };
            let all = [specs, encoder].concat();
            let trained = parameters::Tensors::trained(model, stage);
            assert_eq!(trained.count(), elements(&all), "{name}, {}", stage.name());
            // Where each tensor lies, as `State` lays them out for 16 slices.
            let places: i64 = all.iter().map(|spec| (spec.shape.iter().product::<i64>() + 63) / 64 * 64).sum();
            let len = (places + 1023) / 1024 * 1024;
            assert_eq!(trained.flat_len(16), len.unsigned_abs(), "{name}, {}", stage.name());
        }
    }
}
