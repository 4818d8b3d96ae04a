//! CLIP against transformers' `CLIPModel`: pixels, tokens, features of both towers, and which texts fit an image best. The fixture
//! is what `tests/peers/clip_similarity.py record` writes.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

mod reference;

use data_pipeline::image::{DecodeLimits, decode};
use serde_json::Value;
use tch::{Kind, Tensor};
use trainer::capfilt::{Scorer, ScorerRequest};
use trainer::text::{PadTo, Role, Tokenizer};
use trainer::weights::clip;

use reference::Fixture;

/// Features have length 1 and go through two blocks in f32; other orders of the same sums differ by less.
const TOLERANCE: f64 = 1e-5;

fn open() -> Option<(Fixture, String)> {
    let fixture = Fixture::open("clip_similarity")?;
    let folder = fixture.path("").display().to_string();
    Some((fixture, folder))
}

fn largest_difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    (found - expected).abs().max().to_kind(Kind::Double).double_value(&[])
}

fn list<T: serde::de::DeserializeOwned>(expected: &Value, name: &str) -> T {
    serde_json::from_value(expected[name].clone()).unwrap()
}

#[test]
fn features_are_those_of_transformers() {
    let Some((fixture, folder)) = open() else { return };
    let (io, loaded) = (fixture.tensors("io.safetensors"), clip::load(&folder).unwrap());
    let image = loaded.model.encode_image(io.get("pixels").unwrap());
    assert!(largest_difference(&image, io.get("image_features").unwrap()) < TOLERANCE);
    let ids = io.get("ids").unwrap();
    let tokenizer = Tokenizer::open(&folder, Role::Clip, loaded.sizes.text.vocab_size).unwrap();
    let texts: Vec<String> = list(&fixture.json("expected.json"), "texts");
    let tokens = tokenizer.encode(&texts, loaded.sizes.text.max_tokens, PadTo::Longest);
    assert_eq!((&tokens.ids_tensor(), &tokens.mask_tensor()), (ids, io.get("mask").unwrap()));
    let ends = tokens.mask_tensor().sum_dim_intlist([1_i64].as_slice(), false, Kind::Int64) - 1;
    let text = loaded.model.encode_text(ids, &ends);
    assert!(largest_difference(&text, io.get("text_features").unwrap()) < TOLERANCE);
    // What stands behind the end is not seen.
    let padded = Tensor::cat(&[ids.narrow(1, 0, 10), ids.narrow(1, 0, 2).zeros_like()], 1).narrow(0, 0, 1);
    let short = loaded.model.encode_text(&padded, &ends.narrow(0, 0, 1));
    assert!(largest_difference(&short, &text.narrow(0, 0, 1)) < TOLERANCE);
}

#[test]
fn files_are_seen_and_ranked_as_by_transformers() {
    let Some((fixture, folder)) = open() else { return };
    let (expected, io) = (fixture.json("expected.json"), fixture.tensors("io.safetensors"));
    let scorer = Scorer::open(&ScorerRequest { model: folder, stage: None, by_match: false }).unwrap();
    let (files, texts): (Vec<String>, Vec<String>) = (list(&expected, "images"), list(&expected, "texts"));
    let mut values = vec![0.0; files.len() * 3 * scorer.side * scorer.side];
    for (file, slot) in files.iter().zip(values.chunks_exact_mut(3 * scorer.side * scorer.side)) {
        let bytes = std::fs::read(fixture.path("../preprocess").join(file)).unwrap();
        scorer.view(&decode(&bytes, &DecodeLimits::default()).unwrap(), slot);
    }
    let pixels = Tensor::from_slice(&values).view_as(io.get("pixels").unwrap());
    assert!(largest_difference(&pixels, io.get("pixels").unwrap()) < 1e-6, "8-bit pixels are equal, f32 nearly");
    let scores = scorer.score(&pixels, &vec![texts.clone(); files.len()]);
    let similarity: Vec<Vec<f64>> = list(&expected, "similarity");
    let ranking: Vec<Vec<usize>> = list(&expected, "ranking");
    for ((scores, similarity), ranking) in scores.iter().zip(&similarity).zip(&ranking) {
        assert!(scores.iter().zip(similarity).all(|(a, b)| (f64::from(*a) - b).abs() < TOLERANCE), "{scores:?}");
        let mut found: Vec<usize> = (0..texts.len()).collect();
        found.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        assert_eq!(found, *ranking);
    }
    // An image may have any number of texts, none too.
    let own = vec![Vec::new(), texts[..2].to_vec(), Vec::new()];
    let few = scorer.score(&pixels, &own);
    assert_eq!(few.iter().map(Vec::len).collect::<Vec<_>>(), [0, 2, 0]);
    assert!((few[1][1] - scores[1][1]).abs() < TOLERANCE as f32);
}

#[test]
fn what_is_no_whole_clip_is_refused() {
    let Some((fixture, folder)) = open() else { return };
    let copy = tempfile::tempdir().unwrap();
    let place = copy.path().display().to_string();
    for file in ["model.safetensors", "vocab.json", "merges.txt"] {
        std::fs::copy(fixture.path(file), copy.path().join(file)).unwrap();
    }
    assert!(!clip::is_clip(&place).unwrap() && clip::is_clip(&folder).unwrap());
    let error = |change: fn(&mut Value)| {
        let mut config = fixture.json("config.json");
        change(&mut config);
        std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
        clip::load(&place).unwrap_err().to_string()
    };
    assert!(error(|config| config["text_config"]["hidden_act"] = "gelu".into()).contains("gelu"));
    assert!(error(|config| config["vision_config"]["num_attention_heads"] = 5.into()).contains("5 heads"));
    let request = ScorerRequest { model: folder, stage: None, by_match: true };
    assert!(Scorer::open(&request).err().unwrap().to_string().contains("matching head"));
    let towers = fixture.path("../vit").display().to_string();
    assert!(clip::load(&towers).is_err());
}
