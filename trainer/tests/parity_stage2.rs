//! Stage 2 with OPT against the reference implementation: losses of three kinds of text, and all gradients.
//!
//! Fixture and tolerances as in `parity_stage1.rs`.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

mod reference;

use cluster::Single;
use configs::{OptSizes, Run, Stage};
use serde_json::Value;
use trainer::model::opt::Opt;
use trainer::slices::SliceMap;
use trainer::stage1::Text;
use trainer::stage2::Stage2;
use trainer::step::{Slice, StepKey, generative};

use reference::{Fixture, assert_gradients, assert_loss, patches, state_of};

/// The tiny preset with the fixture's sizes, in f32.
fn run_of(config: &Value) -> Run {
    let language = &config["language_model"];
    reference::run_of(
        config,
        &[
            ("model.language_model.dtype", "f32".to_owned()),
            ("model.language_model.hidden_dim", language["hidden_size"].to_string()),
            ("model.language_model.heads", language["num_attention_heads"].to_string()),
        ],
    )
}

/// The fixture's language model, which need not fit the preset's tokenizer.
fn sizes_of(language: &Value) -> OptSizes {
    let size = |key: &str| language[key].as_u64().unwrap() as usize;
    OptSizes {
        vocab_size: size("vocab_size"),
        max_positions: size("max_position_embeddings"),
        hidden_dim: size("hidden_size"),
        depth: size("num_hidden_layers"),
        heads: size("num_attention_heads"),
        mlp_dim: size("ffn_dim"),
    }
}

#[test]
fn losses_and_gradients_equal_the_reference() {
    let Some(fixture) = Fixture::open("lavis_stage2_opt") else { return };
    let (config, expected) = (fixture.json("config.json"), fixture.json("expected.json"));
    let run = run_of(&config);
    let (weights, io) = (fixture.public("weights.safetensors"), fixture.tensors("io.safetensors"));
    let sizes = sizes_of(&config["language_model"]);
    let opt = Opt::new(&weights.scope("language_model"), sizes, run.model.attention).unwrap();
    let patches = patches(&run, &weights, io.get("image").unwrap());
    let text_of = |case: &str| {
        let tensor = |name: &str| io.get(&format!("{case}.{name}")).unwrap().shallow_clone();
        Text { ids: tensor("input_ids"), mask: tensor("attention_mask") }
    };
    let stage2 = Stage2::new(&weights.scope(""), &run.model, true).unwrap();
    let masked = expected["prompt_length_masked"].as_i64().unwrap();
    for (case, prompt_tokens) in [("caption", 0), ("caption_truncated", 0), ("caption_prompt", masked)] {
        let loss = stage2.loss(&opt, &patches, &text_of(case), prompt_tokens, 0.0).double_value(&[]);
        assert_loss(case, loss, &expected["cases"][case]["loss"]);
    }

    let state = state_of(&Stage2::specs(&run.model).unwrap(), &weights, 1);
    let Stage::Generative(stage) = &run.stages[1] else { panic!("the second stage of tiny is generative") };
    let slice = Slice { index: 0, patches, text: text_of("caption") };
    let ranks = Single;
    let map = SliceMap::new(&ranks, 1, configs::Reduction::Exact).unwrap();
    let key = StepKey { seed: 1, stage: 2, step: 0 };
    let (losses, gradient) = generative(&state, &run.model, stage, &opt, &[slice], &map, key).unwrap();
    assert_loss("the step's loss", losses.means(&map).unwrap()[1], &expected["cases"]["caption"]["loss"]);
    let compared = assert_gradients(&state, &gradient, &fixture.public("grads.safetensors"));
    assert_eq!(compared, state.segments.len(), "every trained tensor is compared");
}
