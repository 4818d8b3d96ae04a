//! One stage of a plan.

use std::collections::BTreeMap;

use configs::parameters::Tensors;
use configs::{Flops, Run, Stage};
use serde::Serialize;

use super::Request;
use super::measured::Comparison;
use super::memory::{Device, memory};
use super::speed::{DECODED_BYTES_PER_S, Measured, Speed, Steps};
use super::traffic::Exchange;

/// The share of a GPU's memory that is planned with; the rest is for gaps between the allocator's blocks.
const USABLE_MEMORY: f64 = 0.94;

/// Parameters of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// All.
    pub count: u64,
    /// Whether the stage trains them.
    pub trained: bool,
}

/// What one stage takes.
#[derive(Clone, Debug, Serialize)]
pub struct StagePlan {
    /// Name.
    pub name: String,
    /// Updates.
    pub steps: u64,
    /// Images per update.
    pub global_batch: usize,
    /// Slices of them.
    pub slices: usize,
    /// Images of a slice.
    pub slice_size: usize,
    /// Parts of the model in the order of the data flow.
    pub parameters: BTreeMap<&'static str, Parameters>,
    /// 10^9 FLOPs of a training step for each image, by part and in all.
    pub gflop_per_image: BTreeMap<&'static str, f64>,
    /// Of the forward passes alone.
    pub forward_gflop_per_image: BTreeMap<&'static str, f64>,
    /// Bytes of one rank where its model is, by part and in all.
    pub memory_bytes: BTreeMap<&'static str, u64>,
    /// Bytes of one rank's own memory beside its GPU.
    pub host_memory_bytes: BTreeMap<&'static str, u64>,
    /// The peak of a rank: the formula's, or what the measured step held and what a run has besides.
    pub peak_memory_bytes: u64,
    /// The most images of a slice that fit the named GPU, one slice for each rank.
    pub largest_slice: Option<u64>,
    /// Bytes read from the store: of a step, and of the stage.
    pub store_bytes: BTreeMap<&'static str, f64>,
    /// Bytes that a rank receives from others in a step, at most, by kind and in all.
    pub network_bytes_per_step: BTreeMap<&'static str, u64>,
    /// Images per second; nothing where no speed is known.
    pub images_per_s: BTreeMap<&'static str, f64>,
    /// Seconds of a step by part, where they are known.
    pub step_s: BTreeMap<&'static str, f64>,
    /// Steps per second.
    pub steps_per_s: Option<f64>,
    /// The share of the GPUs' rate.
    pub utilisation: Option<f64>,
    /// Seconds of the stage; nothing where no speed is known.
    pub eta_s: BTreeMap<&'static str, f64>,
    /// The price of the stage.
    pub cost: Option<f64>,
    /// Why no speed is known, in words.
    pub no_speed: Option<String>,
    /// What a run measured.
    pub measured: Option<Comparison>,
}

impl StagePlan {
    /// Plans one stage.
    pub fn new(run: &Run, stage: &Stage, request: &Request, device: Device, timed: Option<Measured>) -> Self {
        let (model, ranks) = (&run.model, request.ranks);
        let exchange = Exchange {
            model,
            stage,
            reduction: run.cluster.reduction,
            ranks,
            text_tokens: model.qformer.max_text_tokens,
            element: device.element(model.image_encoder.dtype()),
        };
        let traffic = exchange.traffic();
        let memory = memory(run, stage, ranks, device, request.image_bytes);
        let steps = Steps { run, stage, ranks, image_bytes: request.image_bytes };
        let speed = match (timed, request.gpu) {
            (Some(timed), _) => Some(Ok(steps.from(&timed))),
            (None, Some(gpu)) => Some(steps.on(gpu, traffic)),
            (None, None) => None,
        };
        let (speed, no_speed) = match speed {
            Some(Ok(speed)) => (Some(speed), None),
            Some(Err(reason)) => (None, Some(reason)),
            None => (None, None),
        };
        let flops = |flops: Flops| with_total(flops.parts().map(|(name, flops)| (name, flops / 1e9)));
        let bytes_per_step = stage.global_batch() as f64 * request.image_bytes;
        let eta_s = speed.as_ref().map(|speed| speed.step_s * stage.steps() as f64);
        let in_run = |measured: Measured| Some(measured.peak_memory_bytes? + memory.besides_benchmark());
        Self {
            name: stage.name().to_owned(),
            steps: stage.steps(),
            global_batch: stage.global_batch(),
            slices: stage.slices(),
            slice_size: stage.slice_size(),
            parameters: parameters(run, stage),
            gflop_per_image: flops(Flops::of(model, stage)),
            forward_gflop_per_image: flops(Flops::forward(model, stage)),
            peak_memory_bytes: timed.and_then(in_run).unwrap_or_else(|| memory.total()),
            largest_slice: request
                .gpu
                .and_then(|gpu| memory.largest_slice((gpu.memory_bytes as f64 * USABLE_MEMORY) as u64)),
            memory_bytes: with_total(memory.parts.iter().copied()),
            host_memory_bytes: memory.host.iter().copied().collect(),
            store_bytes: [("step", bytes_per_step), ("stage", bytes_per_step * stage.steps() as f64)].into(),
            network_bytes_per_step: with_total([
                ("gathered", traffic.gathered),
                ("negatives", traffic.negatives),
                ("gradients", traffic.gradients),
            ]),
            images_per_s: speed.as_ref().map(|speed| images_per_s(speed, ranks)).unwrap_or_default(),
            step_s: speed.as_ref().map(|speed| speed.parts_s.iter().copied().collect()).unwrap_or_default(),
            steps_per_s: speed.as_ref().map(|speed| 1.0 / speed.step_s),
            utilisation: speed.as_ref().and_then(|speed| speed.utilisation),
            eta_s: eta_s.map(|seconds| ("stage", seconds)).into_iter().collect(),
            cost: request.price.zip(eta_s).map(|(price, seconds)| price * ranks as f64 * seconds / 3600.0),
            no_speed,
            measured: None,
        }
    }

    /// Seconds of the stage.
    pub fn seconds(&self) -> Option<f64> {
        self.eta_s.get("stage").copied()
    }

    /// Images per second over all ranks.
    pub fn speed(&self) -> Option<f64> {
        self.images_per_s.get("total").copied()
    }

    /// Whether decoding is what a step waits for.
    pub fn waits_for_data(&self) -> bool {
        let decoded = self.images_per_s.get("decoded_at_most");
        decoded.zip(self.speed()).is_some_and(|(decoded, total)| decoded * (1.0 - 1e-9) <= total)
    }

    /// Decoding threads over all ranks that would keep up with everything else.
    pub fn decode_threads_wanted(&self, image_kb: f64) -> Option<f64> {
        let computed: f64 = self.step_s.values().sum();
        (computed > 0.0).then(|| self.global_batch as f64 / computed * image_kb * 1e3 / DECODED_BYTES_PER_S)
    }
}

fn images_per_s(speed: &Speed, ranks: usize) -> BTreeMap<&'static str, f64> {
    [
        ("total", speed.images_per_s),
        ("per_rank", speed.images_per_s / ranks as f64),
        ("decoded_at_most", speed.decoded_per_s),
    ]
    .into()
}

fn parameters(run: &Run, stage: &Stage) -> BTreeMap<&'static str, Parameters> {
    let model = &run.model;
    let part = |tensors: Tensors, trained| Parameters { count: tensors.count(), trained };
    let mut parts = BTreeMap::from([
        ("image_encoder", part(Tensors::image_encoder(model), stage.train_image_encoder())),
        ("qformer", part(Tensors::qformer(model, stage), true)),
    ]);
    // Stage 1 makes no use of it; ranks hold it all the same.
    parts.insert("language_model", part(Tensors::language_model(model), false));
    parts
}

fn with_total<T: Copy + std::iter::Sum>(
    parts: impl IntoIterator<Item = (&'static str, T)>,
) -> BTreeMap<&'static str, T> {
    let mut all: BTreeMap<&'static str, T> = parts.into_iter().collect();
    let total = all.values().copied().sum();
    all.insert("total", total);
    all
}
