//! What reaches the weights: nothing of a batch that is not finite, and the same gradient with a loss scale as without; in f16
//! also what would vanish without it.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use cluster::Single;
use configs::{Overrides, Reduction, Run, Stage};
use tch::{Device, Kind, Tensor};
use trainer::events::Events;
use trainer::finite::FiniteGuard;
use trainer::generator::seeded;
use trainer::model::language_tower::LanguageTower;
use trainer::model::{Scope, Tensors, declare};
use trainer::optimizer::{Update, update_if_finite};
use trainer::precision::{compute_kind, kind_of};
use trainer::slices::SliceMap;
use trainer::stage1::{Stage1, Text};
use trainer::stage2::Stage2;
use trainer::state::State;
use trainer::step::{Slice, StepKey, generative, representation};

const SLICES: usize = 3;
const ROWS: i64 = 2;

fn run() -> Run {
    let small = ["hidden_dim=32", "depth=2", "mlp_dim=64", "projection_dim=16", "dtype=f32", "dropout=0.1"];
    let overrides = Overrides::new(small.map(|set| format!("model.qformer.{set}")));
    configs::load_str("tiny.yaml", configs::preset("tiny").unwrap(), &overrides).unwrap()
}

/// The mean gradient of one step, with the state and the slices; `broken` is a value that one image is given.
fn step(run: &Run, guard: FiniteGuard, broken: Option<f64>) -> (Tensor, State, Vec<Slice>) {
    let Stage::Representation(stage) = &run.stages[0] else { panic!("the first stage is representation") };
    let specs = Stage1::specs(&run.model).unwrap();
    let start = Tensors::random(&specs, 1, Device::Cpu);
    let mut state = State::new(&specs, &start, SLICES, 0..SLICES, Device::Cpu);
    state.finite = guard;
    let map = SliceMap::new(&Single, SLICES, Reduction::Exact).unwrap();
    let (tokens, width) = (run.model.image_encoder.num_tokens() as i64, run.model.image_encoder.sizes().width as i64);
    let slice = |index: usize| {
        let generator = seeded(index as i64);
        let patches = Tensor::randn([ROWS, tokens, width], (Kind::Float, Device::Cpu));
        drop(generator);
        if let (1, Some(value)) = (index, broken) {
            let _filled = patches.get(1).get(3).narrow(0, 5, 1).fill_(value);
        }
        let ids = Tensor::arange(ROWS * 5, (Kind::Int64, Device::Cpu)).view([ROWS, 5]) + index as i64;
        let text = Text { mask: ids.ones_like(), ids };
        Slice {
            index,
            pixels: None,
            patches,
            words: text.into(),
            samples: vec![10 * index as u64, 10 * index as u64 + 1],
            image_ids: None,
        }
    };
    let slices: Vec<Slice> = (0..SLICES).map(slice).collect();
    let key = StepKey { seed: 1, stage: 1, step: 0 };
    let (_, gradient) = representation(&state, (&run.model, stage), &slices, &map, key, &mut || {}).unwrap();
    (gradient, state, slices)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor).unwrap()
}

#[test]
fn the_loss_scale_changes_no_bit_of_what_fits_f32() {
    let run = run();
    let scaled = FiniteGuard::of_kinds(&[Kind::Half]);
    assert!(scaled.loss_scale() > 1.0);
    let (plain, ..) = step(&run, FiniteGuard::default(), None);
    assert!(values(&step(&run, scaled, None).0) == values(&plain), "gradients differ");
}

#[test]
fn a_gradient_that_vanishes_in_f16_survives_with_the_loss_scale() {
    // A gradient of 1e-9 that passes through f16, whose smallest number is 6e-8.
    let gradient = |scale: f64| {
        let weight = Tensor::from_slice(&[1.0_f32]).set_requires_grad(true);
        let loss = weight.to_kind(Kind::Half).to_kind(Kind::Float).sum(Kind::Float) * 1e-9;
        (loss * scale).backward();
        (weight.grad() / scale).double_value(&[0])
    };
    assert_eq!(gradient(1.0), 0.0);
    let found = gradient(FiniteGuard::of_kinds(&[Kind::Half]).loss_scale());
    assert!((found - 1e-9).abs() < 1e-11, "{found}");
}

#[test]
fn nothing_of_a_batch_that_is_not_finite_reaches_the_weights() {
    let run = run();
    let map = SliceMap::new(&Single, SLICES, Reduction::Exact).unwrap();
    // One update may be left out: the stage's limit is at least that.
    let limit = run.stages[0].max_skipped_updates();
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let (gradient, mut state, slices) = step(&run, FiniteGuard::default(), Some(value));
        let grad_norm = map.norm(&gradient).unwrap();
        let update = |state: &mut State, gradient: &Tensor, grad_norm: f64| {
            let (stage, batch, slices) = (&run.stages[0], slices.as_slice(), &map);
            let update =
                Update { stage, step: 1, grad_norm, learning_rate: 0.1, batch, slices, events: Events::Silent };
            update_if_finite(state, gradient.shallow_clone(), &update)
        };
        let before = values(&state.weights);
        for _ in 0..limit {
            assert!(!update(&mut state, &gradient, grad_norm).unwrap(), "{value} gives the norm {grad_norm}");
        }
        let error = update(&mut state, &gradient, grad_norm).unwrap_err().to_string();
        assert!(error.contains("[0, 1, 10, 11, 20, 21]"), "{error}");
        assert!(values(&state.weights) == before && state.updates == 0, "{value} reached the weights");
        // The same call does update by a gradient that is finite.
        assert!(update(&mut state, &gradient.ones_like(), 1.0).unwrap());
        assert!(values(&state.weights) != before && state.updates == 1);
    }
}

#[test]
fn the_cut_of_stage_2_at_the_soft_prompt_changes_no_bit() {
    for (dtype, guard) in [("f32", FiniteGuard::default()), ("bf16", FiniteGuard::of_kinds(&[Kind::Half]))] {
        let formats = ["qformer", "language_model"].map(|part| format!("model.{part}.dtype={dtype}"));
        let sets = configs::SMALL.iter().map(|set| (*set).to_owned()).chain(formats);
        let overrides = Overrides::new(sets.chain(["model.qformer.dropout=0.0".to_owned()]));
        let run = configs::load_str("tiny.yaml", configs::preset("tiny").unwrap(), &overrides).unwrap();
        let Stage::Generative(stage) = &run.stages[1] else { panic!("the second stage is generative") };
        let settings = run.model.language_model.settings();
        let build = |scope: &Scope<'_>| {
            LanguageTower::new(&scope.at("language_model"), run.model.language_model.sizes(), run.model.attention)
        };
        let weights = Tensors::random(&declare(build).unwrap(), 1, Device::Cpu);
        let weights = weights.cast(kind_of(settings.dtype)).cast(compute_kind(settings.dtype, Device::Cpu));
        let language_model = build(&weights.scope("")).unwrap();
        let specs = Stage2::specs(&run.model).unwrap();
        let mut state = State::new(&specs, &Tensors::random(&specs, 1, Device::Cpu), 1, 0..1, Device::Cpu);
        state.finite = guard;
        let (_, _, mut slices) = step(&run, FiniteGuard::default(), None);
        slices.truncate(1);
        let map = SliceMap::new(&Single, 1, Reduction::Exact).unwrap();
        let key = StepKey { seed: 1, stage: 2, step: 0 };
        let (_, cut) = generative(&state, &run.model, stage, &language_model, &slices, &map, key).unwrap();
        let stage2 = Stage2::of_stage(&state.parameters().scope(""), &run.model, stage, true).unwrap();
        let prefix = stage2.prefix(&slices[0].patches, None);
        let loss = stage2.prompted_loss(&language_model, &prefix, &slices[0].words, stage.label_smoothing);
        (loss * state.finite.loss_scale()).backward();
        let whole = state.take_gradients() / state.finite.loss_scale();
        assert!(values(&cut).iter().any(|value| *value != 0.0), "{dtype}: a gradient that is not 0");
        let same = values(&cut).iter().zip(values(&whole)).all(|(cut, whole)| cut.to_bits() == whole.to_bits());
        assert!(same, "{dtype}: the gradients differ");
    }
}
