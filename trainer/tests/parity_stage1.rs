//! Stage 1 against the reference implementation: losses, gradients, two ranks as two slices, thirty updates.
//!
//! The fixtures' root is `BLIP2_FIXTURES`, or the project's `tests/fixtures`. Tolerances are those of the fixtures'
//! README: losses 1e-5 relative, gradients 1e-5 · max(1, max |g|).
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise and says what it saw")]

mod reference;

use std::ops::Range;
use std::thread;

use cluster::{Collective, Single, Threads};
use configs::{AdamW, RepresentationStage, Run, Stage};
use serde_json::Value;
use tch::Tensor;
use trainer::losses::itc::{Contrast, contrast, own_rows};
use trainer::losses::negatives;
use trainer::model::Tensors;
use trainer::optimizer::adamw;
use trainer::slices::SliceMap;
use trainer::stage1::{Stage1, Text};
use trainer::state::State;
use trainer::step::{Chooser, Draws, Losses, Slice, StepKey, Variant, representation_with};

use reference::{Fixture, assert_gradients, assert_loss, assert_near, patches, stage1_run_of as run_of};

fn stage_of(run: &Run) -> &RepresentationStage {
    let Stage::Representation(stage) = &run.stages[0] else { panic!("the first stage of tiny is representation") };
    stage
}

fn text_of(io: &Tensors) -> Text {
    let tensor = |name: &str| io.get(name).unwrap().shallow_clone();
    Text { ids: tensor("input_ids"), mask: tensor("attention_mask") }
}

fn indices(io: &Tensors, name: &str) -> Vec<i64> {
    Vec::try_from(io.get(name).unwrap()).unwrap()
}

/// The recorded negatives of a slice, in place of drawn ones.
fn draws_of(io: &Tensors) -> Draws {
    Draws { images: indices(io, "neg_image_idx_for_text"), texts: indices(io, "neg_text_idx_for_image") }
}

fn state_of(run: &Run, weights: &Tensors, chunks: usize, own: Range<usize>) -> State {
    reference::state_of(&Stage1::specs(&run.model).unwrap(), weights, chunks, own)
}

/// One step with given wrong partners.
fn step(
    state: &State,
    run: &Run,
    slices: &[Slice],
    map: &SliceMap<'_>,
    choose: &Chooser<'_>,
    project_once: bool,
) -> (Losses, Tensor) {
    let variant = Variant { model: &run.model, stage: stage_of(run), choose, project_once };
    let key = StepKey { seed: 1, stage: 1, step: 0 };
    representation_with(state, &variant, slices, map, key, &mut || {}).unwrap()
}

#[test]
fn losses_and_gradients_equal_the_reference() {
    let Some(fixture) = Fixture::open("lavis_stage1") else { return };
    let (config, expected) = (fixture.json("config.json"), fixture.json("expected.json"));
    let mut run = run_of(&config);
    let (weights, io) = (fixture.public("weights.safetensors"), fixture.tensors("io.safetensors"));
    let state = state_of(&run, &weights, 1, 0..1);
    let ranks = Single;
    let map = SliceMap::new(&ranks, 1, configs::Reduction::Exact).unwrap();
    let terms = [("total", "loss", [1.0, 1.0, 1.0]), ("loss_itc", "loss_itc", [1.0, 0.0, 0.0])];
    let terms =
        terms.into_iter().chain([("loss_itm", "loss_itm", [0.0, 1.0, 0.0]), ("loss_lm", "loss_lm", [0.0, 0.0, 1.0])]);
    for (file, loss, [itc, itm, itg]) in terms {
        let Stage::Representation(stage) = &mut run.stages[0] else { panic!("the first stage is representation") };
        stage.losses = configs::Losses { itc, itm, itg };
        let slice = Slice {
            index: 0,
            pixels: None,
            patches: patches(&run, &weights, io.get("image").unwrap()),
            words: text_of(&io).into(),
            samples: Vec::new(),
            image_ids: None,
        };
        let draws = |_: usize, _: &Tensor, _: &Contrast| Ok(draws_of(&io));
        let slices = [slice];
        for project_once in [true, false] {
            let (losses, gradient) = step(&state, &run, &slices, &map, &draws, project_once);
            let means = losses.means(&map).unwrap();
            assert_loss(loss, means[3], &expected["losses"][loss]);
            let compared = assert_gradients(&state, &gradient, &fixture.public(&format!("grads_{file}.safetensors")));
            assert!(compared > 20, "{file}: only {compared} gradients were compared");
        }
    }
}

#[test]
fn hidden_states_scores_and_weights_of_negatives_equal_the_reference() {
    let Some(fixture) = Fixture::open("lavis_stage1") else { return };
    let run = run_of(&fixture.json("config.json"));
    let (weights, io) = (fixture.public("weights.safetensors"), fixture.tensors("io.safetensors"));
    let stage1 = Stage1::new(&weights.scope(""), &run.model, false).unwrap();
    let (patches, text) = (patches(&run, &weights, io.get("image").unwrap()), text_of(&io));
    let encoded = stage1.encode(&patches, &text);
    assert_near("image features", &encoded.features.image, io.get("image_feats").unwrap(), 1e-4);
    assert_near("text features", &encoded.features.text, io.get("text_feat").unwrap(), 1e-4);
    let scores = stage1.match_logits(&stage1.key_values(&patches), &text).select(1, 1);
    assert_near("matching scores", &scores, io.get("infer_itm_score").unwrap(), 1e-4);
    let rows = patches.size()[0];
    let own = own_rows(0, rows, rows, patches.device());
    let itc = contrast(&encoded.features, &encoded.features, &stage1.temperature, &own, 0.1);
    let sides = [(&itc.text_to_image, "weights_t2i"), (&itc.image_to_text, "weights_i2t")];
    let head = fixture.tensors("hard_negative_weights_git.safetensors");
    for (similarity, name) in sides {
        let masked = negatives::weights(similarity, &own, configs::Negatives::MaskedSoftmax);
        assert_near(name, &masked, head.get(name).unwrap(), 1e-5);
        let floor = negatives::weights(similarity, &own, configs::Negatives::SoftmaxFloor);
        assert_near(name, &floor, io.get(name).unwrap(), 1e-5);
    }
}

#[test]
fn captions_that_share_an_image_are_partners_as_in_the_reference() {
    let (Some(fixture), Some(one)) = (Fixture::open("lavis_stage1_image_id"), Fixture::open("lavis_stage1")) else {
        return;
    };
    let run = run_of(&one.json("config.json"));
    let (weights, io) = (one.public("weights.safetensors"), fixture.tensors("io.safetensors"));
    let state = state_of(&run, &weights, 1, 0..1);
    let ranks = Single;
    let map = SliceMap::new(&ranks, 1, configs::Reduction::Exact).unwrap();
    let slice = Slice {
        index: 0,
        pixels: None,
        patches: patches(&run, &weights, io.get("image").unwrap()),
        words: text_of(&io).into(),
        samples: Vec::new(),
        image_ids: Some(io.get("image_id").unwrap().shallow_clone()),
    };
    let draws = |_: usize, partners: &Tensor, itc: &Contrast| {
        let recorded = draws_of(&io);
        for (drawn, similarity) in [(&recorded.images, &itc.text_to_image), (&recorded.texts, &itc.image_to_text)] {
            let weights = negatives::weights(similarity, partners, configs::Negatives::MaskedSoftmax);
            let chance = |(row, column): (usize, &i64)| weights.double_value(&[row as i64, *column]);
            assert!(drawn.iter().enumerate().map(chance).all(|chance| chance > 0.0), "a negative of the same image");
        }
        Ok(recorded)
    };
    let (losses, gradient) = step(&state, &run, &[slice], &map, &draws, true);
    let (found, expected) = (losses.means(&map).unwrap(), fixture.json("expected.json"));
    for (place, name) in ["loss_itc", "loss_itm", "loss_lm", "loss"].into_iter().enumerate() {
        assert_loss(name, found[place], &expected["losses"][name]);
    }
    assert!(assert_gradients(&state, &gradient, &fixture.public("grads_total.safetensors")) > 100);
}

#[test]
fn two_slices_on_one_rank_and_on_two_equal_two_ranks_of_the_reference() {
    let (Some(fixture), Some(one)) = (Fixture::open("lavis_stage1_2ranks"), Fixture::open("lavis_stage1")) else {
        return;
    };
    let (run, expected) = (run_of(&fixture.json("config.json")), fixture.json("expected.json"));
    // Compares the losses of this rank's slices and, at rank 0, the whole gradient, which it returns.
    let compare = |ranks: &dyn Collective| {
        let weights = one.public("weights.safetensors");
        let io = [0, 1].map(|rank| fixture.tensors(&format!("io_rank{rank}.safetensors")));
        let slice = |index: usize| {
            let patches = patches(&run, &weights, io[index].get("image").unwrap());
            Slice {
                index,
                pixels: None,
                patches,
                words: text_of(&io[index]).into(),
                samples: Vec::new(),
                image_ids: None,
            }
        };
        let map = SliceMap::new(ranks, 2, configs::Reduction::Exact).unwrap();
        let state = state_of(&run, &weights, 2, map.chunks());
        let slices: Vec<Slice> = map.own().map(slice).collect();
        let draws = |slice: usize, _: &Tensor, _: &Contrast| Ok(draws_of(&io[slice]));
        let (losses, gradient) = step(&state, &run, &slices, &map, &draws, true);
        for (slice, terms) in map.own().zip(&losses.slices) {
            for (place, name) in ["loss_itc", "loss_itm", "loss_lm", "loss"].into_iter().enumerate() {
                assert_loss(name, terms.double_value(&[place as i64]), &expected["ranks"][slice]["losses"][name]);
            }
        }
        let whole = map.collect(&gradient).unwrap()?;
        assert!(assert_gradients(&state, &whole, &fixture.public("grads_averaged.safetensors")) > 100);
        Some(Vec::<f32>::try_from(&whole).unwrap())
    };
    let alone = compare(&Single).unwrap();
    let together = thread::scope(|scope| {
        let compare = &compare;
        let ranks: Vec<_> = Threads::world(2).into_iter().map(|rank| scope.spawn(move || compare(&rank))).collect();
        ranks.into_iter().filter_map(|rank| rank.join().unwrap()).next().unwrap()
    });
    assert!(alone == together, "one rank and two ranks differ in bits");
}

#[test]
fn thirty_updates_equal_the_reference() {
    let (Some(fixture), Some(one)) = (Fixture::open("lavis_stage1_train30"), Fixture::open("lavis_stage1")) else {
        return;
    };
    let run = run_of(&one.json("config.json"));
    let weights = one.public("weights.safetensors");
    let mut state = state_of(&run, &weights, 1, 0..1);
    let (io, expected) = (fixture.tensors("io.safetensors"), fixture.json("expected.json"));
    let hyper = &expected["hyper"];
    let number = |value: &Value| value.as_f64().unwrap();
    let settings = AdamW {
        betas: [number(&hyper["betas"][0]), number(&hyper["betas"][1])],
        eps: number(&hyper["eps"]),
        weight_decay: number(&hyper["weight_decay"]),
        max_grad_norm: None,
        layer_decay: 1.0,
    };
    let ranks = Single;
    let map = SliceMap::new(&ranks, 1, configs::Reduction::Exact).unwrap();
    let batches = hyper["iters_per_epoch"].as_u64().unwrap();
    for (step, rate) in expected["lr"].as_array().unwrap().iter().enumerate() {
        let batch = |name: &str| io.get(&format!("batch{}.{name}", step as u64 % batches)).unwrap().shallow_clone();
        let recorded = |name: &str| Vec::try_from(io.get(name).unwrap().get(step as i64)).unwrap();
        let slice = Slice {
            index: 0,
            pixels: None,
            patches: patches(&run, &weights, &batch("image")),
            words: Text { ids: batch("input_ids"), mask: batch("attention_mask") }.into(),
            samples: Vec::new(),
            image_ids: None,
        };
        let draws = Draws { images: recorded("neg_image_idx_for_text"), texts: recorded("neg_text_idx_for_image") };
        let given = |_: usize, _: &Tensor, _: &Contrast| Ok(draws.clone());
        let (losses, gradient) = self::step(&state, &run, &[slice], &map, &given, true);
        let found = losses.means(&map).unwrap()[3];
        let reference = number(&expected["losses_f32"][step]["loss"]);
        assert!((found - reference).abs() <= 1e-5 * reference, "step {step}: {found}, expected {reference}");
        adamw(&mut state, &gradient, number(rate), &settings).unwrap();
    }
    let last = fixture.public("final_weights.safetensors");
    let mut compared = 0;
    // A key bias has no gradient (softmax does not see it): Adam turns rounding into steps there.
    for segment in state.segments.iter().filter(|segment| !segment.name.ends_with(".key.bias")) {
        let found = state.parameters().get(&segment.name).unwrap().detach();
        assert_near(&segment.name, &found, last.get(&segment.name).unwrap(), 1e-5);
        compared += 1;
    }
    assert!(compared > 100, "only {compared} tensors were compared");
}
