//! `blip2-rank bench-step`: whole training steps, timed, of a model of middling size or of a published one. Weights and inputs
//! are random numbers of the right shape, as in the PyTorch program that `make bench` races (tests/peers/pytorch_step). The sizes
//! are a preset's or those of a run's file.

pub mod checkpoint;
mod inputs;
mod options;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use cluster::{Collective, Observed, Single, Threads};
use configs::{Dtype, Reduction, Run, Stage};
use serde_json::{Value, json};
use tch::{Device, Tensor};

pub use options::Options;

use crate::activity::Activity;
use crate::ahead::{Ahead, Images};
use crate::device;
use crate::frozen::{IMAGE_ENCODER, LANGUAGE_MODEL};
use crate::generator::seeded;
use crate::losses::itc::Contrast;
use crate::model::image_tower::{ImageTower, Share};
use crate::model::language_tower::LanguageTower;
use crate::model::tensors::Init;
use crate::model::{Scope, Spec, Tensors, declare};
use crate::optimizer::adamw;
use crate::parts::{Part, Parts, Times};
use crate::precision::{compute_kind, kind_of};
use crate::slices::{SliceMap, Traffic};
use crate::stage2::Words;
use crate::state::State;
use crate::step::{Losses, Slice, StepKey, Variant, draw_negatives, generative, representation_with};
use crate::train::build_specs;
use crate::{TrainerError, memory, shim, trained_image_encoder};

/// Times of every step in seconds, losses, and what was measured.
///
/// # Errors
/// When the options do not fit together, or ranks cannot talk.
pub fn steps(options: &Options, ranks: &dyn Collective) -> Result<Value, TrainerError> {
    let run = options.run()?;
    let before_models = memory::of_process("VmRSS:");
    let activity = Arc::new(Activity::default());
    let ranks = &Observed::new(ranks, &activity.calls);
    let bench = Bench::new(&run, options)?;
    let kinds: &[Reduction] =
        if options.compare_reductions { &[Reduction::Exact, Reduction::AllReduce] } else { &[Reduction::Exact] };
    let mut sides =
        kinds.iter().map(|kind| Side::new(&bench, ranks, *kind, &activity)).collect::<Result<Vec<_>, _>>()?;
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
    let reports = sides.iter().map(|side| side.report(options.steps)).collect::<Result<Vec<Value>, _>>()?;
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

/// One step by one rank of `run`'s first stage of the kind of `options.stage`, with random weights and inputs: seconds, and the
/// most memory that was held, in bytes, where that is known.
///
/// # Errors
/// When the options do not fit the run, or memory does not suffice.
pub(crate) fn one_step(run: &Run, options: &Options) -> Result<(f64, Option<u64>), TrainerError> {
    let bench = Bench::new(run, options)?;
    let mut side = Side::new(&bench, &Single, Reduction::Exact, &Arc::default())?;
    let began = Instant::now();
    side.step(&bench, 0)?;
    let ahead = std::mem::take(&mut side.ahead);
    drop(side.encode(&bench, ahead)?);
    device::wait_for(options.device);
    let seconds = if options.device == Device::Cpu { side.seconds[0] } else { began.elapsed().as_secs_f64() };
    Ok((seconds, peak_memory(options.device)?))
}

/// Bytes that the ranks of worlds of several sizes receive in one step of stage 1, with one slice of `options.batch` images
/// per rank: the most that any rank received. Ranks are threads.
///
/// # Errors
/// When the options do not fit together.
pub fn traffic(options: &Options, worlds: &[usize]) -> Result<Value, TrainerError> {
    let one = |world_size: usize| {
        let options = Options { stage: 1, batch: options.batch * world_size, slices: world_size, ..options.clone() };
        let run = options.run()?;
        let received = std::thread::scope(|scope| {
            let rank = |ranks: Threads| {
                let (run, options) = (&run, &options);
                move || {
                    let bench = Bench::new(run, options)?;
                    let mut side = Side::new(&bench, &ranks, Reduction::Exact, &Arc::default())?;
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

fn build_tower(run: &Run, scope: &Scope<'_>) -> Result<ImageTower, TrainerError> {
    let encoder = &run.model.image_encoder;
    ImageTower::new(&scope.at(IMAGE_ENCODER), encoder.sizes(), encoder.image_size(), run.model.attention)
}

/// What all sides share.
struct Bench<'a> {
    run: &'a Run,
    stage: &'a Stage,
    tower: ImageTower,
    tower_weights: Tensors,
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
        let build_tower = |scope: &Scope<'_>| build_tower(run, scope);
        let tower_weights = frozen(&declare(build_tower)?, encoder.dtype());
        let tower = build_tower(&tower_weights.scope(""))?;
        let sizes = run.model.language_model.sizes();
        let build_language_model = |scope: &Scope<'_>| LanguageTower::new(&scope.at(LANGUAGE_MODEL), sizes, kernel);
        let settings = run.model.language_model.settings();
        let language_model = build_language_model(&frozen(&declare(build_language_model)?, settings.dtype).scope(""))?
            .with_dropout(settings.dropout);
        let stage = options.stage_of(run)?;
        let specs = build_specs(run, stage)?;
        Ok(Self { run, stage, tower, tower_weights, language_model, specs, frozen_bytes: frozen_bytes.get(), options })
    }
}

/// Steps with one kind of reduction.
struct Side<'a> {
    map: SliceMap<'a>,
    encoder: Ahead<'a>,
    state: State,
    seconds: Vec<f64>,
    cpu_seconds: Vec<f64>,
    losses: Vec<Losses>,
    /// Of every step: image encoder, gradient, update.
    phases: Vec<[f64; 3]>,
    parts: Parts,
    times: Vec<Times>,
    /// What the next step is given, where the encoder has it already.
    ahead: Vec<Coming>,
    /// When the last step's gradient was known.
    known: Option<Instant>,
}

/// A slice on its way into a step.
struct Coming {
    index: usize,
    words: Words,
    pixels: Tensor,
    /// Where the frozen encoder has begun.
    images: Option<Images>,
}

impl<'a> Side<'a> {
    fn new(
        bench: &'a Bench<'_>,
        ranks: &'a dyn Collective,
        reduction: Reduction,
        activity: &Arc<Activity>,
    ) -> Result<Self, TrainerError> {
        let device = bench.options.device;
        let parts = Parts::new(device, Arc::clone(activity));
        parts.tell_apart(bench.options.phases);
        let map = SliceMap::new(ranks, bench.options.slices, reduction)?.timed(&parts);
        let twin = || build_tower(bench.run, &bench.tower_weights.scope(""));
        let encoder = Ahead::new(&bench.tower, device, twin)?;
        let start = Tensors::random(&bench.specs, 1, device);
        let state = State::new(&bench.specs, &start, bench.options.slices, map.chunks(), device);
        let (seconds, cpu_seconds, losses, phases, times) = Default::default();
        Ok(Self {
            map,
            encoder,
            state,
            seconds,
            cpu_seconds,
            losses,
            phases,
            parts,
            times,
            ahead: Vec::new(),
            known: None,
        })
    }

    fn step(&mut self, bench: &Bench<'_>, step: u64) -> Result<(), TrainerError> {
        let device = bench.options.device;
        // Training does not wait for a GPU but where it has to: steps overlap, and one ends where the next one does. Parts are
        // timed one by one, without what overlaps; so are steps of a processor, which are done when a call returns.
        let overlaps = device != Device::Cpu && !bench.options.phases && !bench.options.compare_reductions;
        let own = if self.ahead.is_empty() { self.coming(bench, step) } else { std::mem::take(&mut self.ahead) };
        let encodes_ahead = overlaps && !bench.stage.train_image_encoder();
        let mut next = if encodes_ahead { self.coming(bench, step + 1) } else { Vec::new() };
        if !overlaps {
            device::wait_for(device);
        }
        self.parts.begin();
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let lap = || {
            if bench.options.phases {
                device::wait_for(device);
            }
            began.elapsed().as_secs_f64()
        };
        let slices = self.encode(bench, own)?;
        let encoded = lap();
        let key = StepKey { seed: 1, stage: bench.options.stage as u64, step };
        let model = &bench.run.model;
        let (losses, gradient): (Losses, Tensor) = match bench.stage {
            Stage::Representation(stage) => {
                let choose =
                    |slice: usize, partners: &Tensor, itc: &Contrast| draw_negatives(stage, key, slice, partners, itc);
                let variant = Variant { model, stage, choose: &choose, project_once: bench.options.project_once };
                let mut meanwhile = || self.encode_ahead(&mut next, Share::Half);
                representation_with(&self.state, &variant, &slices, &self.map, key, &mut meanwhile)?
            }
            Stage::Generative(stage) => {
                generative(&self.state, model, stage, &bench.language_model, &slices, &self.map, key)?
            }
        };
        let differentiated = lap();
        let _norm = self.map.norm(&gradient)?;
        let known = Instant::now();
        self.encode_ahead(&mut next, Share::All);
        {
            let _time = self.map.time(Part::Optimizer);
            let configs::Optimizer::AdamW(settings) = bench.stage.optimizer();
            adamw(&mut self.state, &gradient, 1e-4, settings)?;
            self.map.share(&mut self.state.weights)?;
            if !overlaps {
                device::wait_for(device);
            }
        }
        let whole = match self.known.replace(known).filter(|_| overlaps) {
            Some(before) => (known - before).as_secs_f64(),
            None => began.elapsed().as_secs_f64(),
        };
        self.times.push(self.parts.take());
        self.phases.push([encoded, differentiated - encoded, whole - differentiated]);
        self.seconds.push(whole);
        self.cpu_seconds.push(cpu_seconds() - cpu);
        self.losses.push(losses);
        self.ahead = next;
        Ok(())
    }

    /// What the own slices of a step are given.
    fn coming(&self, bench: &Bench<'_>, step: u64) -> Vec<Coming> {
        let one = |index: usize| {
            let (pixels, words) = bench.inputs(step, index);
            Coming { index, words, pixels, images: None }
        };
        self.map.own().map(one).collect()
    }

    /// Gives the frozen encoder the next step's images, as training does.
    fn encode_ahead(&self, next: &mut [Coming], share: Share) {
        let _time = self.map.time(Part::ImageEncoder);
        for one in next {
            let images = one.images.take().unwrap_or_else(|| self.encoder.begin(&one.pixels));
            one.images = Some(self.encoder.pass(images, share, false));
        }
    }

    fn encode(&self, bench: &Bench<'_>, coming: Vec<Coming>) -> Result<Vec<Slice>, TrainerError> {
        let _time = self.map.time(Part::ImageEncoder);
        let trains = bench.stage.train_image_encoder();
        if trains {
            // As the losses will; this pass needs the weights in the type that it computes in.
            self.state.begin_step(compute_kind(bench.run.model.qformer.dtype, bench.options.device));
        }
        let slice = |Coming { index, words, pixels, images }: Coming| {
            let (patches, pixels) = match trains {
                true => (trained_image_encoder::encode(&self.state, &bench.run.model, &pixels)?, Some(pixels)),
                false => {
                    let images = images.unwrap_or_else(|| self.encoder.begin(&pixels));
                    (self.encoder.end(images), None)
                }
            };
            Ok(Slice { index, patches, pixels, words, samples: Vec::new(), image_ids: None })
        };
        coming.into_iter().map(slice).collect()
    }

    /// Every rank takes part.
    fn report(&self, [timed, before]: [usize; 2]) -> Result<Value, TrainerError> {
        let losses = self.losses[before..before + timed]
            .iter()
            .map(|losses| losses.means(&self.map))
            .collect::<Result<Vec<_>, _>>()?;
        // A GPU's parts are told apart by waiting for it.
        let parts = (self.parts.tells_apart()).then(|| &self.times[before..before + timed]);
        Ok(json!({
            "step_seconds": self.seconds[before..before + timed],
            "step_cpu_seconds": self.cpu_seconds[before..before + timed],
            "losses": losses,
            "phase_names": ["image_encoder", "gradient", "update"],
            "phase_seconds": self.phases[before..before + timed],
            "part_names": Part::ALL.map(Part::name),
            "part_seconds": parts.map(|times| times.iter().map(Times::seconds).collect::<Vec<_>>()),
        }))
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
