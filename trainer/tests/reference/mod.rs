//! Reading the reference's fixtures, and comparing with them.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise and says what it saw")]
#![allow(dead_code, reason = "every test file uses a part")]

pub mod language_models;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use configs::{Overrides, Run};
use serde_json::Value;
use tch::{Device, Tensor};
use trainer::model::eva_vit::EvaVit;
use trainer::model::{Spec, Tensors};
use trainer::state::State;
use trainer::weight_names::{joined_bias, lavis_to_hf};

/// Where everything is computed: the processor, or the first GPU where `BLIP2_TEST_DEVICE` is `cuda`.
pub fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    *DEVICE.get_or_init(|| match std::env::var("BLIP2_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::Cpu,
        Ok("cuda") => {
            let library = trainer::libraries::load_cuda();
            let gpu = trainer::device::gpu(0).unwrap_or_else(|error| panic!("{error}; {library:?}"));
            trainer::shim::be_deterministic().unwrap();
            gpu
        }
        Ok(other) => panic!("BLIP2_TEST_DEVICE is {other}; expected cpu or cuda"),
    })
}

/// A folder of the reference's inputs and results.
pub struct Fixture {
    folder: PathBuf,
}

impl Fixture {
    /// The fixture, or nothing and a loud line when it is absent.
    pub fn open(name: &str) -> Option<Self> {
        // Before anything of libtorch: it looks for its CUDA part once.
        device();
        let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let folder = std::env::var_os("BLIP2_FIXTURES").map_or(default, PathBuf::from).join(name);
        if !folder.is_dir() {
            eprintln!("SKIPPED: no fixture in {}; set BLIP2_FIXTURES to the folder that holds it", folder.display());
            return None;
        }
        Some(Self { folder })
    }

    /// Where a file of it lies.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file).canonicalize().unwrap()
    }

    /// A JSON file of it.
    pub fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.folder.join(file)).unwrap()).unwrap()
    }

    /// A safetensors file of it.
    pub fn tensors(&self, file: &str) -> Tensors {
        let read = Tensor::read_safetensors(self.folder.join(file)).unwrap().into_iter();
        read.map(|(name, tensor)| (name, tensor.to_device(device()))).collect()
    }

    /// A file of parameters or gradients, under public names.
    pub fn public(&self, file: &str) -> Tensors {
        public(&self.tensors(file))
    }

    /// A file of an image encoder alone, whose names have no beginning, under public names.
    pub fn public_tower(&self, file: &str) -> Tensors {
        let named = |(name, tensor): (&str, &Tensor)| (format!("visual_encoder.{name}"), tensor.shallow_clone());
        public(&self.tensors(file).iter().map(named).collect())
    }
}

fn public(lavis: &Tensors) -> Tensors {
    let mut public = Tensors::default();
    for (name, tensor) in lavis.iter() {
        if let Some((joined, value)) = joined_bias(name) {
            let value = lavis.get(&value).unwrap();
            public.insert(joined, Tensor::cat(&[tensor, &tensor.zeros_like(), value], 0));
        } else if let Some(name) = lavis_to_hf(name) {
            public.insert(name, tensor.shallow_clone());
        }
    }
    public
}

/// The tiny preset with the sizes of a fixture's `config.json`, in f32 and without dropout, and with what else a stage
/// needs.
pub fn run_of(config: &Value, more: &[(&str, String)]) -> Run {
    let (vision, qformer) = (&config["vision"], &config["qformer"]);
    let pairs = [
        ("model.image_encoder.dtype", "f32".to_owned()),
        ("model.image_encoder.image_size", vision["image_size"].to_string()),
        ("data.image_size", vision["image_size"].to_string()),
        ("model.image_encoder.patch_size", vision["patch_size"].to_string()),
        ("model.image_encoder.width", vision["embed_dim"].to_string()),
        ("model.image_encoder.depth", vision["depth"].to_string()),
        ("model.image_encoder.heads", vision["num_heads"].to_string()),
        ("model.image_encoder.mlp_dim", vision["mlp_hidden"].to_string()),
        ("model.qformer.dtype", "f32".to_owned()),
        ("model.qformer.hidden_dim", qformer["hidden_size"].to_string()),
        ("model.qformer.depth", qformer["num_hidden_layers"].to_string()),
        ("model.qformer.heads", qformer["num_attention_heads"].to_string()),
        ("model.qformer.mlp_dim", qformer["intermediate_size"].to_string()),
        ("model.qformer.cross_attention_every", qformer["cross_attention_freq"].to_string()),
        ("model.qformer.num_query_tokens", config["num_query_token"].to_string()),
        ("model.qformer.dropout", "0.0".to_owned()),
    ];
    let overrides = Overrides::new(pairs.iter().chain(more).map(|(key, value)| format!("{key}={value}")));
    configs::load_str("tiny.yaml", configs::preset("tiny").unwrap(), &overrides).unwrap()
}

/// The tiny preset with the sizes of a fixture of stage 1, in f32.
pub fn stage1_run_of(config: &Value) -> Run {
    let qformer = &config["qformer"];
    run_of(
        config,
        &[
            ("model.qformer.max_positions", qformer["max_position_embeddings"].to_string()),
            ("model.qformer.vocab_size", qformer["vocab_size"].to_string()),
            ("model.qformer.projection_dim", config["embed_dim"].to_string()),
            ("model.qformer.max_text_tokens", config["max_txt_len"].to_string()),
        ],
    )
}

/// What the frozen tower makes of images.
pub fn patches(run: &Run, weights: &Tensors, image: &Tensor) -> Tensor {
    let encoder = &run.model.image_encoder;
    let scope = weights.scope("vision_model");
    let tower = EvaVit::new(&scope, encoder.sizes(), encoder.image_size(), run.model.attention).unwrap();
    tch::no_grad(|| tower.forward(image))
}

/// Compares within `tolerance` times the largest expected value, or 1 if that is smaller; the two may be on different devices.
pub fn assert_near(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.size(), expected.size(), "{what}");
    let [found, expected] = [found, expected].map(|it| it.to_device(tch::Device::Cpu));
    let scale = expected.abs().max().double_value(&[]).max(1.0);
    let difference = (&found - &expected).abs().max().double_value(&[]);
    assert!(difference <= tolerance * scale, "{what}: differs by {difference:e}, allowed {:e}", tolerance * scale);
}

/// Compares within the fixtures' tolerance for losses.
pub fn assert_loss(what: &str, found: f64, expected: &Value) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= 1e-5 * expected.abs(), "{what}: found {found}, expected {expected}");
}

/// The fixtures' tolerance for gradients, relative to the largest of a tensor or 1.
pub const GRADIENT: f64 = 1e-5;

/// Compares every tensor of `expected` with the flat gradient within [`GRADIENT`]; returns how many there were.
pub fn assert_gradients(state: &State, gradient: &Tensor, expected: &Tensors) -> usize {
    assert_gradients_within(GRADIENT, state, gradient, expected)
}

/// [`assert_gradients`] within another tolerance.
pub fn assert_gradients_within(tolerance: f64, state: &State, gradient: &Tensor, expected: &Tensors) -> usize {
    for (name, tensor) in expected.iter() {
        let segment = state.segments.iter().find(|segment| segment.name == name);
        let segment = segment.unwrap_or_else(|| panic!("{name} is not trained"));
        let found = gradient.narrow(0, segment.offset, segment.len).view(segment.shape.as_slice());
        assert_near(name, &found, tensor, tolerance);
    }
    expected.len()
}

/// A training state that holds the reference's weights, and moments of the `own` chunks.
pub fn state_of(specs: &[Spec], weights: &Tensors, chunks: usize, own: Range<usize>) -> State {
    let device = device();
    let mut state = State::new(specs, &Tensors::random(specs, 0, device), chunks, own, device);
    for spec in specs {
        assert!(state.set(&spec.name, weights.get(&spec.name).unwrap_or_else(|| panic!("{} is missing", spec.name))));
    }
    state
}
