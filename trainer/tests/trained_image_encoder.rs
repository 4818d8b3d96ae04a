//! A stage that trains the image encoder: the gradient is that of one graph over everything, on one rank and on several the
//! same bits, whether blocks are computed again one by one or all at once.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use cluster::{Collective, Single, Threads};
use configs::{Overrides, Reduction, Run, Stage};
use tch::{Device, Kind, Tensor};
use trainer::generator::seeded;
use trainer::losses::itc::Contrast;
use trainer::model::Tensors;
use trainer::model::image_tower::ImageTower;
use trainer::slices::SliceMap;
use trainer::stage1::{NegativeRows, Stage1, Text};
use trainer::state::State;
use trainer::step::{Draws, Slice, StepKey, Variant, representation_with};
use trainer::trained_image_encoder;

const SLICES: usize = 4;
const ROWS: i64 = 3;

fn run(sets: &[&str]) -> Run {
    let small = [
        "model.qformer.hidden_dim=32",
        "model.qformer.depth=2",
        "model.qformer.mlp_dim=64",
        "model.qformer.projection_dim=16",
        "model.qformer.dtype=f32",
        "model.qformer.dropout=0.0",
        "model.image_encoder.dtype=f32",
        "model.image_encoder.width=24",
        "model.image_encoder.depth=3",
        "model.image_encoder.heads=2",
        "model.image_encoder.mlp_dim=48",
        "stages.representation.train_image_encoder=true",
        "stages.generative.train_image_encoder=true",
    ];
    let overrides = Overrides::new(small.iter().chain(sets).map(|set| (*set).to_owned()));
    configs::load_str("tiny.yaml", configs::preset("tiny").unwrap(), &overrides).unwrap()
}

fn state(run: &Run, map: &SliceMap<'_>) -> State {
    let mut specs = Stage1::specs(&run.model).unwrap();
    specs.extend(trained_image_encoder::specs(&run.model).unwrap());
    let start = Tensors::random(&specs, 1, Device::Cpu);
    State::new(&specs, &start, map.len(), map.chunks(), Device::Cpu)
}

fn pixels(run: &Run, index: usize) -> Tensor {
    let _generator = seeded(index as i64);
    let side = run.model.image_encoder.image_size() as i64;
    Tensor::randn([ROWS, 3, side, side], (Kind::Float, Device::Cpu))
}

fn text(index: usize) -> Text {
    let ids = Tensor::arange(ROWS * 5, (Kind::Int64, Device::Cpu)).view([ROWS, 5]) + 7 * index as i64;
    Text { mask: ids.ones_like(), ids }
}

/// Every slice draws rows of itself and of others, some of them twice.
fn draws(slice: usize, slices: usize) -> Draws {
    let all = ROWS * slices as i64;
    let row = |i: i64| (slice as i64 * ROWS + 4 + 2 * (i / 2)).rem_euclid(all);
    let images: Vec<i64> = (0..ROWS).map(row).collect();
    Draws { texts: images.iter().rev().copied().collect(), images }
}

/// The own chunks of the mean gradient on a rank.
fn gradient(run: &Run, ranks: &dyn Collective, slices: usize) -> Vec<f32> {
    let Stage::Representation(stage) = &run.stages[0] else { panic!("the first stage is representation") };
    let map = SliceMap::new(ranks, slices, Reduction::Exact).unwrap();
    let state = state(run, &map);
    let slice = |index: usize| {
        let pixels = pixels(run, index);
        let patches = trained_image_encoder::encode(&state, &run.model, &pixels).unwrap();
        Slice { index, patches, pixels: Some(pixels), words: text(index).into(), samples: Vec::new(), image_ids: None }
    };
    let own: Vec<Slice> = map.own().map(slice).collect();
    let choose = |slice: usize, _: &Tensor, _: &Contrast| Ok(draws(slice, slices));
    let variant = Variant { model: &run.model, stage, choose: &choose, project_once: true };
    let key = StepKey { seed: 1, stage: 1, step: 0 };
    let (_, gradient) = representation_with(&state, &variant, &own, &map, key, &mut || {}).unwrap();
    Vec::try_from(gradient).unwrap()
}

#[test]
fn it_is_the_gradient_of_one_graph_over_tower_and_losses() {
    let run = run(&["stages.representation.losses.itc=0.5"]);
    let Stage::Representation(stage) = &run.stages[0] else { panic!("the first stage is representation") };
    let map = SliceMap::new(&Single, 1, Reduction::Exact).unwrap();
    let found = gradient(&run, &Single, 1);
    let state = state(&run, &map);
    {
        let parameters = state.parameters();
        let encoder = &run.model.image_encoder;
        let scope = parameters.scope("vision_model");
        let tower = ImageTower::new(&scope, encoder.sizes(), encoder.image_size(), run.model.attention).unwrap();
        let patches = tower.forward(&pixels(&run, 0));
        let stage1 = Stage1::new(&parameters.scope(""), &run.model, true).unwrap();
        let (own, draws) = (text(0), draws(0, 1));
        let encoded = stage1.encode(&patches, &own);
        let negatives = NegativeRows {
            patches: patches.index_select(0, &Tensor::from_slice(&draws.images)),
            text: own.rows(&Tensor::from_slice(&draws.texts)),
        };
        let partners = trainer::losses::itc::own_rows(0, ROWS, ROWS, Device::Cpu);
        let features = &encoded.features;
        let fixed = trainer::losses::itc::Features { image: features.image.detach(), text: features.text.detach() };
        let smoothing = stage.label_smoothing;
        let itc = trainer::losses::itc::contrast(features, &fixed, &stage1.temperature, &partners, smoothing).loss;
        let itm = stage1.matching_loss(&encoded, &own, &negatives, true);
        let start = run.model.qformer.vocab_size as i64 - 1;
        (itc * 0.5 + itm + stage1.captioning_loss(&encoded, &own, start, smoothing)).backward();
    }
    let expected = Vec::<f32>::try_from(state.take_gradients()).unwrap();
    let mut of_tower = 0;
    for segment in &state.segments {
        let range = segment.offset as usize..(segment.offset + segment.len) as usize;
        let (found, mut expected) = (&found[range.clone()], expected[range].to_vec());
        if segment.name.ends_with("self_attn.qkv.bias") {
            let third = expected.len() / 3;
            assert!(expected[third..2 * third].iter().all(|value| value.abs() < 1e-6), "a key's bias changes nothing");
            expected[third..2 * third].fill(0.0);
        }
        let largest = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        // Sums in another order: own losses, drawn rows and blocks are added one by one here.
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() <= 1e-5 * largest.max(1.0), "{}: {found} {expected}", segment.name);
        }
        let is_of_tower = segment.name.starts_with("vision_model.") && !segment.name.contains("post_layernorm");
        of_tower += usize::from(is_of_tower && largest > 1e-6);
    }
    assert!(of_tower > 30, "only {of_tower} tensors of the tower have a gradient");
}

#[test]
fn any_number_of_ranks_computes_the_same_bits() {
    let run = run(&[]);
    let straight = gradient(&run, &Single, SLICES);
    for world_size in [2, 3, 4] {
        let parts = std::thread::scope(|scope| {
            let rank = |ranks: Threads| {
                let run = &run;
                scope.spawn(move || {
                    let part = gradient(run, &ranks, SLICES);
                    ranks.finish().unwrap();
                    part
                })
            };
            let ranks: Vec<_> = Threads::world(world_size).into_iter().map(rank).collect();
            ranks.into_iter().flat_map(|rank| rank.join().unwrap()).collect::<Vec<f32>>()
        });
        assert!(straight == parts, "{world_size} ranks");
    }
}

#[test]
fn blocks_computed_again_one_by_one_give_the_same_gradient() {
    let whole = gradient(&run(&["model.image_encoder.recompute=false"]), &Single, 2);
    let by_block = gradient(&run(&["model.image_encoder.recompute=true"]), &Single, 2);
    assert!(whole == by_block);
}
