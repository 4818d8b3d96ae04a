//! Retrieval scores of a Hugging Face checkpoint: features, cosines, matching logits; and LAVIS' whole evaluation.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

mod reference;

use cluster::{Collective, Single, Threads};
use tch::{Kind, Tensor};
use trainer::eval::retrieval::{Scores, Search};
use trainer::eval::shares::Shares;
use trainer::model::Tensors;
use trainer::stage1::{Stage1, Text};

use reference::language_models::in_lavis_words;
use reference::{Fixture, assert_near, patches, stage1_run_of};

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

/// LAVIS' evaluation on some ranks.
fn searched(fixture: &Fixture, model: &Fixture, ranks: &dyn Collective) -> Scores {
    let (run, weights) = (stage1_run_of(&model.json("config.json")), model.public("weights.safetensors"));
    let (io, expected) = (fixture.tensors("io.safetensors"), fixture.json("expected.json"));
    let stage1 = Stage1::new(&weights.scope(""), &run.model, false).unwrap();
    let all = patches(&run, &weights, io.get("image").unwrap());
    let tensor = |name: &str| io.get(name).unwrap().shallow_clone();
    let text = Text { ids: tensor("input_ids"), mask: tensor("attention_mask") };
    let candidates = expected["k_test"].as_u64().unwrap() as usize;
    let rows = |rows: &[usize]| Tensor::from_slice(&rows.iter().map(|row| *row as i64).collect::<Vec<_>>());
    let patches = |numbers: &[usize]| Ok(all.index_select(0, &rows(numbers).to_device(all.device())));
    let (images, shares) = (all.size()[0] as usize, Shares { ranks, beat: &|| () });
    let progress = |_, _| ();
    Search { stage1: &stage1, patches: &patches, images, text: &text, candidates, shares, progress: &progress }
        .run()
        .unwrap()
}

#[test]
fn candidates_scores_and_recalls_equal_lavis() {
    let (Some(fixture), Some(model)) = (Fixture::open("lavis_retrieval_eval"), Fixture::open("lavis_stage1")) else {
        return;
    };
    let (io, expected) = (fixture.tensors("io.safetensors"), fixture.json("expected.json"));
    let scores = searched(&fixture, &model, &Single);
    assert_near("cosines", &scores.cosine, io.get("itc_sims_i2t").unwrap(), ACTIVATION);
    assert_near("image to text", &scores.image_to_text, io.get("score_matrix_i2t").unwrap(), ACTIVATION);
    assert_near("text to image", &scores.text_to_image, io.get("score_matrix_t2i").unwrap(), ACTIVATION);
    let texts = io.get("input_ids").unwrap().size()[0];
    let image_of: Vec<i64> = (0..texts).map(|text| expected["txt2img"][text.to_string()].as_i64().unwrap()).collect();
    let recalls = scores.recalls(&image_of);
    for (direction, name) in [("image_to_text", "txt"), ("text_to_image", "img")] {
        for at in ["r1", "r5", "r10", "mean"] {
            let key = if at == "mean" { format!("{name}_r_mean") } else { format!("{name}_{at}") };
            let found = recalls[direction][at].as_f64().unwrap();
            let expected = expected["metrics"][key.as_str()].as_f64().unwrap();
            // Beyond the 5 candidates all texts score -100. LAVIS leaves their order to NumPy's unstable sort, which
            // differs by processor; here ties count against the right text, so that luck finds none.
            match key.as_str() {
                "txt_r10" => {
                    assert!(found == recalls[direction]["r5"] && found <= expected, "{key}: {found}, {expected}")
                }
                "txt_r_mean" => assert!(found <= expected, "{key}: {found}, {expected}"),
                _ => assert!((found - expected).abs() < 1e-9, "{key}: {found}, expected {expected}"),
            }
        }
    }
    // Shared among ranks, the matrices are the same on each of them.
    for world_size in [2, 3] {
        let found = std::thread::scope(|scope| {
            let rank = |ranks: Threads| {
                let (fixture, model) = (&fixture, &model);
                scope.spawn(move || {
                    let scores = searched(fixture, model, &ranks);
                    ranks.finish().unwrap();
                    scores
                })
            };
            let running: Vec<_> = Threads::world(world_size).into_iter().map(rank).collect();
            running.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>()
        });
        for found in found {
            assert!(found.image_to_text == scores.image_to_text && found.text_to_image == scores.text_to_image);
        }
    }
}

/// Hugging Face's tower ends with the norm that belongs to the Q-Former here.
fn normed(weights: &Tensors, patches: &Tensor, config: &serde_json::Value) -> Tensor {
    let norm = |name: &str| weights.get(&format!("vision_model.post_layernorm.{name}")).unwrap();
    let (weight, bias) = (norm("weight"), norm("bias"));
    let eps = config["vision_config"]["layer_norm_eps"].as_f64().unwrap();
    patches.layer_norm(weight.size(), Some(weight), Some(bias), eps, false)
}
