//! What reaches the weights: nothing of a batch that is not finite, and the same bits with f16's loss scale as without.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use cluster::Single;
use configs::{Dtype, Overrides, Reduction, Run, Stage};
use tch::{Device, Kind, Tensor};
use trainer::events::Events;
use trainer::finite::FiniteGuard;
use trainer::generator::seeded;
use trainer::model::Tensors;
use trainer::slices::SliceMap;
use trainer::stage1::{Stage1, Text};
use trainer::state::State;
use trainer::step::{Slice, StepKey, representation};

const SLICES: usize = 3;
const ROWS: i64 = 2;

fn run() -> Run {
    let small = ["hidden_dim=32", "depth=2", "mlp_dim=64", "projection_dim=16", "dtype=f32", "dropout=0.1"];
    let overrides = Overrides::new(small.map(|set| format!("model.qformer.{set}")));
    configs::load_str("tiny.yaml", configs::preset("tiny").unwrap(), &overrides).unwrap()
}

/// The mean gradient of one step and its norm; `broken` is a value that one image is given.
fn step(run: &Run, guard: FiniteGuard, broken: Option<f64>) -> (Vec<f32>, f64, State, Vec<Slice>) {
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
        Slice { index, patches, text, samples: vec![10 * index as u64, 10 * index as u64 + 1], image_ids: None }
    };
    let slices: Vec<Slice> = (0..SLICES).map(slice).collect();
    let key = StepKey { seed: 1, stage: 1, step: 0 };
    let (_, gradient) = representation(&state, &run.model, stage, &slices, &map, key).unwrap();
    let norm = map.norm(&gradient).unwrap();
    (Vec::try_from(&gradient).unwrap(), norm, state, slices)
}

#[test]
fn the_loss_scale_changes_no_bit_of_what_fits_f32() {
    let run = run();
    let (plain, norm, ..) = step(&run, FiniteGuard::default(), None);
    let scaled = FiniteGuard::of_formats(&[Dtype::F16]);
    assert!(scaled.loss_scale() > 1.0 && norm.is_finite());
    assert!(step(&run, scaled, None).0 == plain, "gradients differ");
}

#[test]
fn a_batch_that_is_not_finite_is_left_out_with_its_samples() {
    let run = run();
    for value in [f64::NAN, f64::INFINITY] {
        let (_, norm, mut state, slices) = step(&run, FiniteGuard::default(), Some(value));
        assert!(!norm.is_finite(), "{value} gives the norm {norm}");
        let map = SliceMap::new(&Single, SLICES, Reduction::Exact).unwrap();
        let mut allows = |limit: u64| state.finite.allows(norm, 1, limit, (&slices, &map), Events::Silent);
        assert!(!allows(1).unwrap());
        let error = allows(1).unwrap_err().to_string();
        assert!(error.contains("[0, 1, 10, 11, 20, 21]"), "{error}");
    }
}
