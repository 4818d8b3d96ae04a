//! `blip2 plan`: what a run will take, before it takes it: parameters, FLOPs, memory, bytes, time, money; and afterwards how wrong
//! that was. docs/planning.md has all formulas.

mod calibrate;
mod measured;
mod memory;
mod shares;
mod speed;
mod stage;
#[cfg(test)]
mod tests;
mod text;
mod traffic;

use configs::{Gpu, Run, Source, Stage};
use serde::Serialize;

use crate::cli::PlanArgs;
use crate::data::print_json;
use crate::exit::Unusable;
use crate::ranks::Programs;
use crate::source::RunSource;
use memory::Device;
use speed::Measured;
use stage::StagePlan;

/// Kilobytes of a photo of 256 pixels (docs/benchmarks/data-path.md).
const PHOTO_KB: f64 = 31.0;
/// Bytes for each pixel of a generated scene, as a JPEG of quality 90.
const SCENE_BYTES_PER_PIXEL: f64 = 0.22;

/// A whole plan.
#[derive(Debug, Serialize)]
struct Plan {
    schema_version: u64,
    name: String,
    ranks: usize,
    /// The GPU of each rank.
    gpu: Option<&'static str>,
    /// Whether times were measured on this machine.
    calibrated: bool,
    image_kb: f64,
    stages: Vec<StagePlan>,
    /// Seconds of all stages, where all are known.
    eta_s: Option<f64>,
    /// The price of all stages, where it is known.
    cost: Option<f64>,
    /// What was assumed or left out, in words.
    notes: Vec<String>,
}

/// Prints what a run will take.
///
/// # Errors
/// A configuration that is wrong, an unknown GPU, more ranks than slices, a calibration that fails.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub fn run(args: &PlanArgs, programs: &Programs) -> anyhow::Result<()> {
    let run = RunSource::find(&args.run).load(&args.set)?;
    let request = Request::new(args, &run)?;
    let timed = match args.calibrate {
        true => calibrate::measure(&run, request.ranks, programs)?.into_iter().map(Some).collect(),
        false => vec![None; run.stages.len()],
    };
    let mut plan = plan(&run, &request, &timed);
    measured::compare(&run, &mut plan, args.compare)?;
    if args.json {
        return print_json(&plan);
    }
    print!("{}", text::text(&run, &plan));
    Ok(())
}

/// What a person asks for.
#[derive(Clone, Copy, Debug)]
struct Request {
    ranks: usize,
    gpu: Option<&'static Gpu>,
    price: Option<f64>,
    image_bytes: f64,
    /// Whether the size of images was taken for granted.
    assumed_images: bool,
}

impl Request {
    fn new(args: &PlanArgs, run: &Run) -> anyhow::Result<Self> {
        let gpu = args.gpu.as_deref().map(named).transpose()?;
        let ranks = args.ranks.map_or(run.world_size(), |ranks| ranks as usize);
        if ranks > run.max_world_size() {
            return Err(Unusable(format!(
                "found {ranks} ranks for {} slices; expected at least one slice for each rank. Plan with --ranks {} or less, or \
                 raise `slices` of every stage",
                run.max_world_size(),
                run.max_world_size()
            ))
            .into());
        }
        for (name, value) in [("--price", args.price), ("--image-kb", args.image_kb)] {
            if let Some(value) = value.filter(|value| !value.is_finite() || *value <= 0.0) {
                return Err(Unusable(format!("found {name} {value}; expected a number above 0")).into());
            }
        }
        let known = scene_bytes(run);
        let image_bytes = args.image_kb.map(|kb| kb * 1e3).or(known).unwrap_or(PHOTO_KB * 1e3);
        let assumed_images = args.image_kb.is_none() && known.is_none();
        Ok(Self { ranks, gpu, price: args.price, image_bytes, assumed_images })
    }
}

fn named(name: &str) -> anyhow::Result<&'static Gpu> {
    let unknown = || {
        Unusable(format!(
            "found --gpu {name}; expected one of {}. For another one, measure with --calibrate on a machine that has it",
            Gpu::names()
        ))
    };
    Ok(Gpu::named(name).or_else(|| Gpu::of_driver(name)).ok_or_else(unknown)?)
}

/// Bytes of an image where all are generated scenes.
fn scene_bytes(run: &Run) -> Option<f64> {
    let shares = run.data.shares();
    let bytes = run.data.sources.iter().zip(shares).map(|(source, share)| match source {
        Source::Synthetic(scenes) => {
            Some(share * SCENE_BYTES_PER_PIXEL * (scenes.image_size * scenes.image_size) as f64)
        }
        _ => None,
    });
    bytes.sum()
}

fn plan(run: &Run, request: &Request, timed: &[Option<Measured>]) -> Plan {
    let device = if request.gpu.is_some() { Device::Gpu } else { Device::of(run) };
    let stages: Vec<StagePlan> = run
        .stages
        .iter()
        .zip(timed)
        .map(|(stage, timed)| StagePlan::new(run, stage, request, device, *timed))
        .collect();
    let eta_s = stages.iter().map(StagePlan::seconds).sum::<Option<f64>>();
    let cost = stages.iter().map(|stage| stage.cost).sum::<Option<f64>>();
    let calibrated = timed.iter().any(Option::is_some);
    Plan {
        schema_version: 1,
        name: run.run.name.clone(),
        ranks: request.ranks,
        gpu: request.gpu.map(|gpu| gpu.name),
        calibrated,
        image_kb: request.image_bytes / 1e3,
        notes: notes(run, request, device, calibrated),
        stages,
        eta_s,
        cost,
    }
}

/// What a reader should know before believing a number.
fn notes(run: &Run, request: &Request, device: Device, calibrated: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |applies: bool, text: &str| {
        if applies {
            notes.push(text.to_owned());
        }
    };
    note(
        request.assumed_images,
        "Images are taken to have 31 kB, as photos of 256 pixels; --image-kb N says it better.",
    );
    note(
        request.gpu.is_some(),
        "Shares of a GPU's rate were measured on one H200 with one rank (docs/benchmarks/nvidia-h200.md); for other GPUs \
         they are assumed.",
    );
    note(
        request.gpu.is_some() && request.ranks > 1,
        "The time of the exchange between GPUs is computed, not measured: 20 GB/s between a GPU and its host, 25 GB/s for each \
         GPU between machines. No step on several GPUs was measured so far.",
    );
    note(
        request.gpu.is_none() && !calibrated,
        "No speed: name a GPU with --gpu, or measure on a machine like those of the run with --calibrate.",
    );
    note(
        calibrated && request.ranks > if device == Device::Gpu { 1 } else { run.cluster.ranks_per_node },
        "The measured step has no exchange with ranks that it was not taken with: those of other GPUs and machines.",
    );
    note(
        run.stages.iter().any(Stage::train_image_encoder) && run.model.image_encoder.recompute(),
        "Recomputed blocks of the image encoder cost time that is not counted.",
    );
    notes
}
