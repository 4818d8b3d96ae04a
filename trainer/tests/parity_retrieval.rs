//! Retrieval scores of a Hugging Face checkpoint: features, cosines, matching logits.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

mod reference;

use tch::{Kind, Tensor};
use trainer::model::Tensors;
use trainer::stage1::{Stage1, Text};

use reference::language_models::in_lavis_words;
use reference::{Fixture, assert_near, patches};

/// The fixtures' tolerance for activations.
const ACTIVATION: f64 = 1e-4;

#[test]
fn scores_equal_hugging_face() {
    let Some(fixture) = Fixture::open("hf_blip2_retrieval") else { return };
    let given = fixture.json("config.json");
    let qformer = &given["qformer_config"];
    let run = reference::run_of(
        &in_lavis_words(&given),
        &[
            ("model.qformer.image_norm_eps", given["vision_config"]["layer_norm_eps"].to_string()),
            ("model.qformer.max_positions", qformer["max_position_embeddings"].to_string()),
            ("model.qformer.vocab_size", qformer["vocab_size"].to_string()),
            ("model.qformer.projection_dim", given["image_text_hidden_size"].to_string()),
        ],
    );
    let (mut weights, io) = (fixture.tensors("weights.safetensors"), fixture.tensors("io.safetensors"));
    // Hugging Face has neither temperature nor captioning head, and these scores need none.
    for spec in Stage1::specs(&run.model).unwrap() {
        if weights.get(&spec.name).is_none() {
            assert!(spec.name == "temp" || spec.name.starts_with("cls.predictions."), "{} is missing", spec.name);
            let absent = Tensor::zeros(spec.shape.as_slice(), (Kind::Float, reference::device()));
            weights.insert(spec.name, absent);
        }
    }
    let io = |name: &str| io.get(name).unwrap();
    let stage1 = Stage1::new(&weights.scope(""), &run.model, false).unwrap();
    let patches = patches(&run, &weights, io("pixel_values"));
    assert_near("patches", &normed(&weights, &patches, &given), io("vision_last_hidden_state"), ACTIVATION);
    let text = Text { ids: io("input_ids").shallow_clone(), mask: io("attention_mask").shallow_clone() };
    let (images, rows) = (stage1.key_values(&patches), patches.size()[0]);
    let image_features = stage1.encode_image(&images, rows);
    let text_features = stage1.encode_text(&text);
    assert_near("image features", &image_features, io("itc_image_embeds"), ACTIVATION);
    assert_near("text features", &text_features, io("itc_text_embeds"), ACTIVATION);
    let cosines = image_features.matmul(&text_features.tr()).amax([1_i64].as_slice(), false);
    assert_near("cosines", &cosines, io("itc_logits_per_image"), ACTIVATION);
    assert_near("own pairs", &stage1.match_logits(&images, &text), io("itm_logits"), ACTIVATION);
    for image in 0..rows {
        let one = patches.narrow(0, image, 1).expand([rows, -1, -1], false).contiguous();
        let found = stage1.match_logits(&stage1.key_values(&one), &text);
        assert_near("all pairs", &found, &io("itm_logits_all_pairs").get(image), ACTIVATION);
    }
}

/// Hugging Face's tower ends with the norm that belongs to the Q-Former here.
fn normed(weights: &Tensors, patches: &Tensor, config: &serde_json::Value) -> Tensor {
    let norm = |name: &str| weights.get(&format!("vision_model.post_layernorm.{name}")).unwrap();
    let (weight, bias) = (norm("weight"), norm("bias"));
    let eps = config["vision_config"]["layer_norm_eps"].as_f64().unwrap();
    patches.layer_norm(weight.size(), Some(weight), Some(bias), eps, false)
}
