//! `blip2-rank bench-step`: whole training steps, timed, of a model of middling size or of a published one. Weights and inputs
//! are random numbers of the right shape, as in the PyTorch program that `make bench` races (tests/peers/pytorch_step).

pub mod checkpoint;

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Instant;

use cluster::{Collective, Single, Threads};
use configs::{Dtype, LanguageModelSizes, Overrides, Reduction, Run, Stage};
use data_pipeline::rng::{CounterRng, Purpose};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use crate::device;
use crate::frozen::{IMAGE_ENCODER, LANGUAGE_MODEL};
use crate::generator::seeded;
use crate::losses::itc::Contrast;
use crate::model::image_tower::ImageTower;
use crate::model::language_tower::LanguageTower;
use crate::model::tensors::Init;
use crate::model::{Scope, Spec, Tensors, declare};
use crate::optimizer::adamw;
use crate::precision::{compute_kind, kind_of};
use crate::slices::{SliceMap, Traffic};
use crate::stage1::{Stage1, Text};
use crate::stage2::{Stage2, Words};
use crate::state::State;
use crate::step::{Losses, Slice, StepKey, Variant, draw_negatives, generative, representation_with};
use crate::{TrainerError, memory, shim};

/// Batches that are made before and used in turns.
const BATCHES: u64 = 4;
/// Shortest caption with its special tokens.
const SHORTEST: u64 = 6;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// `mid`, or a published size such as `vitg_opt2.7b`.
    pub preset: String,
    /// Where everything is computed.
    pub device: Device,
    /// 1 or 2.
    pub stage: usize,
    /// Images per step, over all ranks.
    pub batch: usize,
    /// Slices of the batch.
    pub slices: usize,
    /// Steps that are timed, and steps before them.
    pub steps: [usize; 2],
    /// `f32` or `bf16`.
    pub dtype: String,
    /// `math` or `flash`.
    pub attention: String,
    /// Of the Q-Former, and of the language model.
    pub dropout: [f64; 2],
    /// Tokens of a caption at most.
    pub text_tokens: usize,
    /// Whether all captions are that long; of 6 to so many tokens otherwise.
    pub fixed_text: bool,
    /// Whether captions are padded to `text_tokens` even where the longest of the batch is shorter.
    pub pad_to_limit: bool,
    /// Whether keys and values of an image are computed once per step, or at each use.
    pub project_once: bool,
    /// Whether the language model's activations are computed again instead of kept.
    pub recompute: bool,
    /// Times each step with the exact reduction and with the library's all-reduce, in turns.
    pub compare_reductions: bool,
    /// Waits for the device behind every part of a step, and times each.
    pub phases: bool,
    /// Where to write what one more step does, operation by operation.
    pub trace: Option<PathBuf>,
}

/// Times of every step in seconds, losses, and what was measured.
///
/// # Errors
/// When the options do not fit together, or ranks cannot talk.
pub fn steps(options: &Options, ranks: &dyn Collective) -> Result<Value, TrainerError> {
    let run = run_of(options)?;
    let before_models = memory::of_process("VmRSS:");
    let bench = Bench::new(&run, options)?;
    let kinds: &[Reduction] =
        if options.compare_reductions { &[Reduction::Exact, Reduction::AllReduce] } else { &[Reduction::Exact] };
    let mut sides = kinds.iter().map(|kind| Side::new(&bench, ranks, *kind)).collect::<Result<Vec<_>, _>>()?;
    let [timed, before] = options.steps;
    for step in 0..(timed + before) as u64 {
        if step == before as u64
            && let Device::Cuda(number) = options.device
        {
            shim::gpu_memory(number, true)?;
        }
        for side in &mut sides {
            side.step(&bench, step)?;
        }
    }
    if let Some(path) = &options.trace {
        shim::traced(path, || {
            sides[0].step(&bench, (timed + before) as u64)?;
            device::wait_for(options.device);
            Ok(())
        })?;
    }
    let names: Vec<String> = kinds.iter().map(ToString::to_string).collect();
    let reports: Vec<Value> = sides.iter().map(|side| side.report(options.steps)).collect();
    Ok(json!({
        "schema_version": 1, "preset": options.preset, "device": device::name(options.device),
        "stage": options.stage, "batch": options.batch, "slices": options.slices, "dtype": options.dtype,
        "attention": options.attention, "dropout": options.dropout, "text_tokens": options.text_tokens,
        "fixed_text": options.fixed_text, "pad_to_limit": options.pad_to_limit,
        "project_once": options.project_once, "recompute": options.recompute, "world_size": ranks.world_size(),
        "threads": tch::get_num_threads(), "trained_parameters": bench.specs.iter().map(elements).sum::<i64>(),
        "reductions": names, "sides": reports, "peak_memory_bytes": peak_memory(options.device)?,
        "memory_bytes": memory_parts(before_models, &bench, &sides),
    }))
}

/// One step of `run.stages[options.stage - 1]` with random weights and inputs: seconds, and the most memory that was held, in
/// bytes, where that is known.
///
/// # Errors
/// When the options do not fit the run, or memory does not suffice.
pub(crate) fn one_step(run: &Run, options: &Options) -> Result<(f64, Option<u64>), TrainerError> {
    let bench = Bench::new(run, options)?;
    let mut side = Side::new(&bench, &Single, Reduction::Exact)?;
    side.step(&bench, 0)?;
    Ok((side.seconds[0], peak_memory(options.device)?))
}

/// Bytes that the ranks of worlds of several sizes receive in one step of stage 1, with one slice of `options.batch` images
/// per rank: the most that any rank received. Ranks are threads.
///
/// # Errors
/// When the options do not fit together.
pub fn traffic(options: &Options, worlds: &[usize]) -> Result<Value, TrainerError> {
    let one = |world_size: usize| {
        let options = Options { stage: 1, batch: options.batch * world_size, slices: world_size, ..options.clone() };
        let run = run_of(&options)?;
        let received = std::thread::scope(|scope| {
            let rank = |ranks: Threads| {
                let (run, options) = (&run, &options);
                move || {
                    let bench = Bench::new(run, options)?;
                    let mut side = Side::new(&bench, &ranks, Reduction::Exact)?;
                    side.step(&bench, 0)?;
                    ranks.finish()?;
                    Ok::<_, TrainerError>(side.map.traffic())
                }
            };
            let ranks: Vec<_> = Threads::world(world_size).into_iter().map(|one| scope.spawn(rank(one))).collect();
            let joined =
                ranks.into_iter().map(|rank| rank.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            joined.collect::<Result<Vec<Traffic>, _>>()
        })?;
        let most = |part: fn(&Traffic) -> usize| received.iter().map(part).max().unwrap_or(0);
        let encoder = &run.model.image_encoder;
        let row = encoder.num_tokens()
            * encoder.sizes().width
            * compute_kind(encoder.dtype(), options.device).elt_size_in_bytes();
        Ok(json!({
            "world_size": world_size, "images_per_rank": options.batch / world_size,
            "negatives_bytes": most(|it| it.negatives),
            "bytes_of_one_slice": options.batch / world_size * row,
            "gather_of_all_images_bytes": (options.batch - options.batch / world_size) * row,
            "gradients_bytes": most(|it| it.gradients), "gathered_bytes": most(|it| it.gathered),
        }))
    };
    let rows = worlds.iter().map(|size| one(*size)).collect::<Result<Vec<Value>, TrainerError>>()?;
    Ok(json!({ "schema_version": 1, "rows": rows }))
}

/// The most that the process held, or its tensors of a GPU's memory during the timed steps.
fn peak_memory(device: Device) -> Result<Option<u64>, TrainerError> {
    match device {
        Device::Cuda(number) => Ok(Some(shim::gpu_memory(number, false)?.peak)),
        _ => Ok(memory::of_process("VmHWM:")),
    }
}

fn elements(spec: &Spec) -> i64 {
    spec.shape.iter().product()
}

/// A published preset, or the tiny one with the sizes of the PyTorch program's `mid`.
fn run_of(options: &Options) -> Result<Run, TrainerError> {
    let stage = |name: &str| {
        [("global_batch", options.batch), ("slices", options.slices)]
            .map(|(key, value)| format!("stages.{name}.{key}={value}"))
    };
    let mid = [
        "data.image_size=224",
        "model.image_encoder.image_size=224",
        "model.image_encoder.patch_size=14",
        "model.image_encoder.width=384",
        "model.image_encoder.depth=12",
        "model.image_encoder.heads=6",
        "model.image_encoder.mlp_dim=1536",
        "model.qformer.num_query_tokens=32",
        "model.qformer.hidden_dim=384",
        "model.qformer.depth=6",
        "model.qformer.heads=6",
        "model.qformer.mlp_dim=1536",
        "model.qformer.projection_dim=256",
        "model.qformer.vocab_size=30523",
        "model.qformer.max_positions=512",
        "model.language_model.hidden_dim=512",
        "model.language_model.depth=6",
        "model.language_model.heads=8",
        "model.language_model.mlp_dim=2048",
        "model.language_model.vocab_size=50272",
        "model.language_model.max_positions=2048",
    ];
    let (preset, sizes) = if options.preset == "mid" { ("tiny", &mid[..]) } else { (options.preset.as_str(), &[][..]) };
    let formats =
        ["image_encoder", "qformer", "language_model"].map(|part| format!("model.{part}.dtype={}", options.dtype));
    let others = [
        format!("model.attention={}", options.attention),
        format!("model.qformer.dropout={}", options.dropout[0]),
        format!("model.language_model.dropout={}", if options.recompute { 0.0 } else { options.dropout[1] }),
        format!("model.language_model.recompute={}", options.recompute),
        format!("model.qformer.max_text_tokens={}", options.text_tokens),
        format!("data.lanes={}", options.slices),
        "cluster.nodes=1".to_owned(),
        "cluster.ranks_per_node=1".to_owned(),
        "cluster.backend=single".to_owned(),
    ];
    let sets = sizes.iter().map(|set| (*set).to_owned()).chain(formats).chain(others);
    let overrides = Overrides::new(sets.chain(stage("representation")).chain(stage("generative")));
    let text = configs::preset(preset).ok_or_else(|| TrainerError::Unsupported {
        found: format!("--preset {}", options.preset),
        expected: format!(
            "mid, or one of {}",
            configs::PRESETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
        ),
    })?;
    configs::load_str(preset, text, &overrides).map_err(|error| TrainerError::Unsupported {
        found: error.to_string(),
        expected: "options that make a run".into(),
    })
}

/// Random weights of a frozen tower. On a GPU they are drawn there: billions of numbers by one thread take minutes.
fn random_tower(specs: &[Spec], dtype: Dtype, device: Device) -> Tensors {
    let kind = compute_kind(dtype, device);
    if device == Device::Cpu {
        return Tensors::random(specs, 1, device).cast(kind_of(dtype)).cast(kind);
    }
    let tensor = |spec: &Spec| {
        let shape = spec.shape.as_slice();
        match spec.init {
            Init::Normal(std) => Tensor::randn(shape, (kind, device)) * std,
            Init::Uniform(bound) => (Tensor::rand(shape, (kind, device)) * 2.0 - 1.0) * bound,
            Init::Constant(value) => Tensor::full(shape, value, (kind, device)),
        }
    };
    let _generator = seeded(1);
    specs.iter().map(|spec| (spec.name.clone(), tensor(spec))).collect()
}

/// The special tokens of a tokenizer, and how many words it knows.
#[derive(Clone, Copy)]
struct Marks {
    first: Option<i64>,
    last: i64,
    pad: i64,
    words: u64,
}

impl Marks {
    /// The same in a vocabulary of so many words.
    fn within(self, words: u64) -> Self {
        let id = |id: i64| id.min(words.cast_signed() - 1);
        Self { first: self.first.map(id), last: id(self.last), pad: id(self.pad), words: self.words.min(words) }
    }
}

/// What all sides share.
struct Bench<'a> {
    run: &'a Run,
    stage: &'a Stage,
    tower: ImageTower,
    language_model: LanguageTower,
    specs: Vec<Spec>,
    /// Of the frozen towers.
    frozen_bytes: u64,
    options: &'a Options,
}

impl<'a> Bench<'a> {
    fn new(run: &'a Run, options: &'a Options) -> Result<Self, TrainerError> {
        let (encoder, kernel) = (&run.model.image_encoder, run.model.attention);
        let frozen_bytes = Cell::new(0);
        let frozen = |specs: &[Spec], dtype| {
            let tensors = random_tower(specs, dtype, options.device);
            let bytes = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
            frozen_bytes.set(frozen_bytes.get() + tensors.iter().map(|(_, tensor)| bytes(tensor) as u64).sum::<u64>());
            tensors
        };
        let build_tower = |scope: &Scope<'_>| {
            ImageTower::new(&scope.at(IMAGE_ENCODER), encoder.sizes(), encoder.image_size(), kernel)
        };
        let tower = build_tower(&frozen(&declare(build_tower)?, encoder.dtype()).scope(""))?;
        let sizes = run.model.language_model.sizes();
        let build_language_model = |scope: &Scope<'_>| LanguageTower::new(&scope.at(LANGUAGE_MODEL), sizes, kernel);
        let settings = run.model.language_model.settings();
        let language_model = build_language_model(&frozen(&declare(build_language_model)?, settings.dtype).scope(""))?
            .with_dropout(settings.dropout);
        let specs = match options.stage {
            1 => Stage1::specs(&run.model)?,
            _ => Stage2::specs(&run.model)?,
        };
        let stage = &run.stages[options.stage.clamp(1, 2) - 1];
        Ok(Self { run, stage, tower, language_model, specs, frozen_bytes: frozen_bytes.get(), options })
    }

    /// Pixels and captions of a slice of a step.
    fn inputs(&self, step: u64, slice: usize) -> (Tensor, Words) {
        let rng = |slice: usize| CounterRng::new(1, Purpose::Inspect, &[step % BATCHES, slice as u64]);
        let (rows, limit) = (self.options.batch / self.options.slices, self.options.text_tokens);
        let lengths_of = |rng: &mut CounterRng| -> Vec<usize> {
            let drawn = |rng: &mut CounterRng| (SHORTEST + rng.below(limit as u64 - SHORTEST + 1)) as usize;
            (0..rows).map(|_| if self.options.fixed_text { limit } else { drawn(rng) }).collect()
        };
        // All slices are padded alike: to the longest text of the batch.
        let longest = (0..self.options.slices).flat_map(|slice| lengths_of(&mut rng(slice))).max().unwrap_or(limit);
        let padded = if self.options.pad_to_limit { limit } else { longest };
        let mut rng = rng(slice);
        let lengths = lengths_of(&mut rng);
        let side = self.run.data.image_size as i64;
        let generator = seeded(rng.next_u64().cast_signed());
        let pixels = Tensor::randn([rows as i64, 3, side, side], (Kind::Float, self.options.device));
        drop(generator);
        let sizes = self.run.model.language_model.sizes();
        let words = match (self.options.stage, sizes) {
            // As in the PyTorch program: BERT's marks around words in stage 1, OPT's in stage 2.
            (1, _) => self
                .text(&lengths, padded, Marks { first: Some(101), last: 102, pad: 0, words: 30_521 }, &mut rng)
                .into(),
            (_, LanguageModelSizes::Opt(_)) => self
                .text(&lengths, padded, Marks { first: Some(2), last: 50_118, pad: 1, words: 50_270 }, &mut rng)
                .into(),
            // And a caption's beginning for T5's encoder, the rest for its decoder.
            (_, LanguageModelSizes::T5(_)) => {
                let marks = Marks { first: None, last: 1, pad: 0, words: 32_000 };
                let cut = |length: &usize| match self.options.fixed_text {
                    true => length / 4,
                    false => 1 + rng.below(*length as u64 / 2) as usize,
                };
                let given: Vec<usize> = lengths.iter().map(cut).collect();
                let said: Vec<usize> = lengths.iter().zip(&given).map(|(whole, given)| whole - given).collect();
                let [given_most, said_most] =
                    if self.options.fixed_text { [limit / 4, limit - limit / 4] } else { [limit / 2, padded] };
                Words {
                    input: Some(self.text(&given, given_most, marks, &mut rng)),
                    text: self.text(&said, said_most, marks, &mut rng),
                    question: None,
                    prompt_tokens: Vec::new(),
                }
            }
        };
        (pixels, words)
    }

    /// How many words the model knows that is given texts.
    fn vocabulary(&self) -> u64 {
        let words = match (self.options.stage, self.run.model.language_model.sizes()) {
            (1, _) => self.run.model.qformer.vocab_size,
            (_, LanguageModelSizes::Opt(sizes)) => sizes.vocab_size,
            (_, LanguageModelSizes::T5(sizes)) => sizes.vocab_size,
        };
        words as u64
    }

    /// Random words of these lengths with a tokenizer's marks, `padded` places for each.
    fn text(&self, lengths: &[usize], padded: usize, marks: Marks, rng: &mut CounterRng) -> Text {
        let marks = marks.within(self.vocabulary());
        let special = 1000.min(marks.words / 2);
        let mut ids = Vec::with_capacity(lengths.len() * padded);
        for length in lengths {
            for place in 0..padded {
                ids.push(match (place, marks.first) {
                    (0, Some(first)) => first,
                    _ if place + 1 == *length => marks.last,
                    _ if place < *length => (special + rng.below(marks.words - special)) as i64,
                    _ => marks.pad,
                });
            }
        }
        let (rows, device) = (lengths.len() as i64, self.options.device);
        let ids = Tensor::from_slice(&ids).view([rows, padded as i64]);
        let lengths = Tensor::from_slice(&lengths.iter().map(|length| *length as i64).collect::<Vec<_>>());
        let places = Tensor::arange(padded as i64, (Kind::Int64, Device::Cpu)).unsqueeze(0);
        let mask = places.lt_tensor(&lengths.unsqueeze(1)).to_kind(Kind::Int64);
        Text { ids: ids.to_device(device), mask }
    }
}

/// Steps with one kind of reduction.
struct Side<'a> {
    map: SliceMap<'a>,
    state: State,
    seconds: Vec<f64>,
    cpu_seconds: Vec<f64>,
    losses: Vec<Vec<f64>>,
    /// Of every step: image encoder, gradient, update.
    phases: Vec<[f64; 3]>,
}

impl<'a> Side<'a> {
    fn new(bench: &Bench<'_>, ranks: &'a dyn Collective, reduction: Reduction) -> Result<Self, TrainerError> {
        let map = SliceMap::new(ranks, bench.options.slices, reduction)?;
        let device = bench.options.device;
        let start = Tensors::random(&bench.specs, 1, device);
        let state = State::new(&bench.specs, &start, bench.options.slices, map.chunks(), device);
        let (seconds, cpu_seconds, losses, phases) = Default::default();
        Ok(Self { map, state, seconds, cpu_seconds, losses, phases })
    }

    fn step(&mut self, bench: &Bench<'_>, step: u64) -> Result<(), TrainerError> {
        let inputs: Vec<_> = self.map.own().map(|slice| (slice, bench.inputs(step, slice))).collect();
        let device = bench.options.device;
        device::wait_for(device);
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let lap = || {
            if bench.options.phases {
                device::wait_for(device);
            }
            began.elapsed().as_secs_f64()
        };
        let slice = |(index, (pixels, words)): (usize, (Tensor, Words))| Slice {
            index,
            pixels: None,
            patches: no_grad(|| bench.tower.forward(&pixels)),
            words,
            samples: Vec::new(),
            image_ids: None,
        };
        let slices: Vec<Slice> = inputs.into_iter().map(slice).collect();
        let encoded = lap();
        let key = StepKey { seed: 1, stage: bench.options.stage as u64, step };
        let model = &bench.run.model;
        let (losses, gradient): (Losses, Tensor) = match bench.stage {
            Stage::Representation(stage) => {
                let choose =
                    |slice: usize, partners: &Tensor, itc: &Contrast| draw_negatives(stage, key, slice, partners, itc);
                let variant = Variant { model, stage, choose: &choose, project_once: bench.options.project_once };
                representation_with(&self.state, &variant, &slices, &self.map, key)?
            }
            Stage::Generative(stage) => {
                generative(&self.state, model, stage, &bench.language_model, &slices, &self.map, key)?
            }
        };
        let differentiated = lap();
        let _norm = self.map.norm(&gradient)?;
        let configs::Optimizer::AdamW(settings) = bench.stage.optimizer();
        adamw(&mut self.state, &gradient, 1e-4, settings)?;
        self.map.share(&mut self.state.weights)?;
        device::wait_for(device);
        let whole = began.elapsed().as_secs_f64();
        self.phases.push([encoded, differentiated - encoded, whole - differentiated]);
        self.seconds.push(whole);
        self.cpu_seconds.push(cpu_seconds() - cpu);
        self.losses.push(losses.means(&self.map)?);
        Ok(())
    }

    fn report(&self, [timed, before]: [usize; 2]) -> Value {
        json!({
            "step_seconds": self.seconds[before..before + timed],
            "step_cpu_seconds": self.cpu_seconds[before..before + timed],
            "losses": self.losses[before..before + timed],
            "phase_names": ["image_encoder", "gradient", "update"],
            "phase_seconds": self.phases[before..before + timed],
        })
    }
}

/// Processor time of this process, all threads.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// What a rank's memory is made of: the process before there are models, the models with what is trained, and what is left of
/// the peak. A gradient is held once by the leaves and once flat, of one side at a time.
fn memory_parts(before_models: Option<u64>, bench: &Bench<'_>, sides: &[Side<'_>]) -> Value {
    let all = |of: fn(&State) -> usize| sides.iter().map(|side| 4 * of(&side.state) as i64).sum::<i64>();
    let (process, frozen) = (before_models.unwrap_or(0).cast_signed(), bench.frozen_bytes.cast_signed());
    let weights = all(|state| state.weights.numel());
    let moments = all(|state| state.exp_avg.numel() + state.exp_avg_sq.numel());
    let gradients = 2 * weights / sides.len() as i64;
    let peak = memory::of_process("VmHWM:").unwrap_or(0).cast_signed();
    json!({
        "process": process, "frozen": frozen, "master_weights": weights, "moments": moments, "gradients": gradients,
        "activations_and_rest": peak - (process + frozen + weights + moments + gradients), "peak": peak,
    })
}
