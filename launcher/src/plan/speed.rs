//! How fast steps are: on a GPU by the shares of its rate that were measured, or from a measured step.
//!
//! The shares come from one H200 (docs/benchmarks/nvidia-h200.md); docs/planning.md tells how.

use configs::parameters::Tensors;
use configs::{Dtype, Flops, Gpu, LanguageModelSizes, Reduction, Run, Stage};
use serde::Serialize;

use super::shares::most_slices;
use super::traffic::Traffic;

/// Shares of a GPU's rate on its data sheet, of whole steps of ViT-g at 128 images: the image encoder without a graph.
const ENCODER_SHARE: f64 = 0.52;
/// The Q-Former and its heads, whose products are small.
const QFORMER_SHARE: f64 = 0.334;
/// OPT-2.7B, forward and back to its inputs.
const OPT_SHARE: f64 = 0.514;
/// FlanT5-XL, of many small kernels.
const T5_SHARE: f64 = 0.275;
/// Seconds in which the processor launches the kernels of one layer of the Q-Former for one slice of stage 1: a batch of 32 takes
/// hardly less time than one of 128 (docs/gpu.md, an earlier build). 0.09 s for 12 layers.
const LAUNCH_S_PER_LAYER: f64 = 0.09 / 12.0;
/// Seconds of an update without its reading and writing.
const UPDATE_S: f64 = 2.1e-3;
/// Bytes that AdamW reads and writes for each trained parameter: weight, gradient and both moments; three of them again.
const UPDATE_BYTES: f64 = 28.0;
/// The share of the memory's rate at which it does.
const UPDATE_SHARE: f64 = 0.74;
/// Bytes per second between a GPU's memory and its host's; what ranks exchange passes it four times (`cluster/src/nccl.rs`).
/// An assumption: PCIe 4 with 16 lanes gives about so much.
const HOST_BYTES_PER_S: f64 = 20e9;
/// Bytes per second that a GPU receives from other machines. An assumption: 200 Gb/s for each.
const NETWORK_BYTES_PER_S: f64 = 25e9;
/// Bytes of JPEG that a core decodes, crops and resizes in a second: 31 kB photos at 1,131 and 160 kB ones at 226
/// (docs/benchmarks/data-path.md).
pub const DECODED_BYTES_PER_S: f64 = 35e6;

/// What a step takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Speed {
    /// Images per second over all ranks.
    pub images_per_s: f64,
    /// Seconds of a step.
    pub step_s: f64,
    /// The parts of a step in seconds, where they are known.
    pub parts_s: Vec<(&'static str, f64)>,
    /// Images per second that the decoding threads of all ranks deliver at most.
    pub decoded_per_s: f64,
    /// The share of the GPUs' rate on their data sheet; none on processors.
    pub utilisation: Option<f64>,
}

/// A stage on so many ranks.
#[derive(Clone, Copy, Debug)]
pub struct Steps<'a> {
    /// The run.
    pub run: &'a Run,
    /// The stage.
    pub stage: &'a Stage,
    /// Ranks.
    pub ranks: usize,
    /// Bytes of a stored image.
    pub image_bytes: f64,
}

/// A step that was measured on this machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Seconds.
    pub step_s: f64,
    /// Ranks that took it side by side.
    pub ranks: usize,
    /// Cores of this machine.
    pub cores: usize,
    /// The most memory that a rank held.
    pub peak_memory_bytes: Option<u64>,
}

impl Steps<'_> {
    /// What the decoding threads deliver, in images per second.
    fn decoded_per_s(&self) -> f64 {
        let threads = self.ranks * self.run.data.loader.decode_threads;
        threads as f64 * DECODED_BYTES_PER_S / self.image_bytes
    }

    /// Images of the rank that has most of them.
    fn rows(&self) -> f64 {
        (most_slices(self.ranks, self.stage.slices()) * self.stage.slice_size()) as f64
    }

    fn of_parts(&self, parts_s: Vec<(&'static str, f64)>) -> Speed {
        let computed: f64 = parts_s.iter().map(|(_, seconds)| seconds).sum();
        let decoded_per_s = self.decoded_per_s();
        // Decoding goes on beside the step; it counts where it is slower.
        let step_s = computed.max(self.stage.global_batch() as f64 / decoded_per_s);
        let images_per_s = self.stage.global_batch() as f64 / step_s;
        Speed { images_per_s, step_s, parts_s, decoded_per_s, utilisation: None }
    }

    /// On GPUs.
    ///
    /// # Errors
    /// Why this run's speed on it cannot be told.
    pub fn on(&self, gpu: &Gpu, traffic: Traffic) -> Result<Speed, String> {
        self.check_formats(gpu)?;
        let (model, flops) = (&self.run.model, Flops::of(&self.run.model, self.stage));
        let peak = gpu.bf16_tflops * 1e12;
        let rows = self.rows();
        let own = most_slices(self.ranks, self.stage.slices());
        // A trained image encoder computes its forward pass once more, for its graph.
        let encoded = flops.image_encoder * if self.stage.train_image_encoder() { 4.0 / 3.0 } else { 1.0 };
        let repeated = if own > 1 { configs::flops::repeated(model, self.stage) } else { 0.0 };
        let launched = match self.stage {
            Stage::Representation(_) => own as f64 * model.qformer.depth as f64 * LAUNCH_S_PER_LAYER,
            Stage::Generative(_) => 0.0,
        };
        let share = match model.language_model.sizes() {
            LanguageModelSizes::Opt(_) => OPT_SHARE,
            LanguageModelSizes::T5(_) => T5_SHARE,
        };
        let again = match model.language_model.settings().recompute {
            true => Flops::forward(model, self.stage).language_model,
            false => 0.0,
        };
        let flat = Tensors::trained(model, self.stage).flat_len(self.stage.slices()) as f64;
        let updated = match self.run.cluster.reduction {
            Reduction::Exact => flat * own as f64 / self.stage.slices() as f64,
            Reduction::AllReduce => flat,
        };
        let speed = self.of_parts(vec![
            ("image_encoder", rows * encoded / (peak * ENCODER_SHARE)),
            ("qformer", (rows * (flops.qformer + repeated) / (peak * QFORMER_SHARE)).max(launched)),
            ("language_model", rows * (flops.language_model + again) / (peak * share)),
            ("update", UPDATE_S + updated * UPDATE_BYTES / (gpu.memory_gb_per_s * 1e9 * UPDATE_SHARE)),
            ("exchange", self.exchange_s(gpu, traffic)),
        ]);
        let utilisation = speed.images_per_s * flops.total() / (self.ranks as f64 * peak);
        Ok(Speed { utilisation: Some(utilisation), ..speed })
    }

    fn check_formats(&self, gpu: &Gpu) -> Result<(), String> {
        let model = &self.run.model;
        let formats = [
            ("model.image_encoder.dtype", model.image_encoder.dtype()),
            ("model.qformer.dtype", model.qformer.dtype),
            ("model.language_model.dtype", model.language_model.settings().dtype),
        ];
        for (key, dtype) in formats {
            if dtype == Dtype::F32 {
                return Err(format!(
                    "{key} is f32; rates of GPUs are known for 16-bit formats. Set it to {}",
                    gpu.format
                ));
            }
            if dtype == Dtype::Bf16 && gpu.format == Dtype::F16 {
                return Err(format!("{key} is bf16, which {} does not compute in. Set it to f16", gpu.title));
            }
        }
        Ok(())
    }

    fn exchange_s(&self, gpu: &Gpu, traffic: Traffic) -> f64 {
        let link = match self.ranks > self.run.cluster.ranks_per_node {
            true => NETWORK_BYTES_PER_S.min(gpu.link_gb_per_s * 1e9),
            false => gpu.link_gb_per_s * 1e9,
        };
        traffic.total() as f64 * (1.0 / link + 4.0 / HOST_BYTES_PER_S)
    }

    /// From a measured step of the ranks of one machine, of as many images for each as in the run. It holds computation and the
    /// exchange among them; decoding takes turns with it where threads fill all cores.
    pub fn from(&self, measured: &Measured) -> Speed {
        let local_images = self.rows() * measured.ranks as f64;
        let decoding_s = local_images * self.image_bytes / DECODED_BYTES_PER_S;
        let busy = measured.ranks * self.run.cluster.threads_per_rank >= measured.cores;
        let beside = if busy { decoding_s / measured.cores as f64 } else { 0.0 };
        self.of_parts(vec![("measured_step", measured.step_s), ("decoding", beside)])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::preset;
    use super::*;

    fn speed(name: &str, sets: &[&str], stage: usize, batch: usize) -> Speed {
        let own = [
            format!("stages.representation.global_batch={batch}"),
            "stages.representation.slices=1".to_owned(),
            format!("stages.generative.global_batch={batch}"),
            "stages.generative.slices=1".to_owned(),
            "data.lanes=1".to_owned(),
            "cluster.nodes=1".to_owned(),
            "cluster.ranks_per_node=1".to_owned(),
        ];
        let all: Vec<&str> = own.iter().map(String::as_str).chain(sets.iter().copied()).collect();
        let run = preset(name, &all);
        // Random inputs that lay in memory: no decoding.
        let steps = Steps { run: &run, stage: &run.stages[stage], ranks: 1, image_bytes: 1.0 };
        steps.on(Gpu::named("h200").unwrap(), Traffic::default()).unwrap()
    }

    /// Rows of docs/benchmarks/nvidia-h200.md, which the shares were taken from.
    #[test]
    fn the_speed_of_measured_steps_on_an_h200() {
        for (name, stage, batch, measured, within) in [
            ("vitg_opt2.7b", 0, 128, 565.8, 0.03),
            ("vitg_opt2.7b", 1, 128, 406.7, 0.03),
            ("vitg_flant5xl", 1, 128, 358.3, 0.03),
        ] {
            let found = speed(name, &[], stage, batch).images_per_s;
            assert!((found / measured - 1.0).abs() < within, "{name} {stage} {batch}: {found:.1}, measured {measured}");
        }
    }

    #[test]
    fn recomputing_and_training_the_encoder_cost_time() {
        let plain = speed("vitg_opt2.7b", &[], 1, 64);
        let recomputed = speed("vitg_opt2.7b", &["model.language_model.recompute=true"], 1, 64);
        let trained = speed("vitg_opt2.7b", &["stages.generative.train_image_encoder=true"], 1, 64);
        assert!(plain.images_per_s > recomputed.images_per_s && recomputed.images_per_s > trained.images_per_s);
        assert!(plain.utilisation.unwrap() > recomputed.utilisation.unwrap());
    }

    #[test]
    fn formats_that_a_gpu_has_no_rate_for_are_told() {
        let run = preset("vitg_opt2.7b", &[]);
        let steps = Steps { run: &run, stage: &run.stages[0], ranks: 16, image_bytes: 3e4 };
        let refused = steps.on(Gpu::named("v100").unwrap(), Traffic::default()).unwrap_err();
        assert!(refused.contains("model.image_encoder.dtype is bf16"), "{refused}");
        let mid = preset("mid", &[]);
        let steps = Steps { run: &mid, stage: &mid.stages[0], ranks: 2, image_bytes: 3e4 };
        assert!(steps.on(Gpu::named("h100").unwrap(), Traffic::default()).unwrap_err().contains("Set it to bf16"));
    }

    #[test]
    fn decoding_bounds_the_speed_and_takes_turns_where_cores_are_few() {
        let run = preset("mid", &[]);
        let steps = |image_bytes| Steps { run: &run, stage: &run.stages[0], ranks: 2, image_bytes };
        let measured = |cores| Measured { step_s: 2.0, ranks: 2, cores, peak_memory_bytes: None };
        // 16 images of 350 kB: 0.16 s of one core.
        assert!((steps(350e3).from(&measured(2)).step_s - 2.08).abs() < 1e-9);
        assert!((steps(350e3).from(&measured(64)).step_s - 2.0).abs() < 1e-9);
        // 2 decoding threads, 35 MB a second each.
        let slow = steps(35e6).from(&measured(64));
        assert!((slow.images_per_s - 2.0).abs() < 1e-9, "{}", slow.images_per_s);
    }
}
