//! How much of what the hardware promises training makes use of: model FLOPs utilisation (PaLM, appendix B).

use configs::flops::Flops;
use configs::gpus::Gpu;
use configs::{Model, Stage};
use tch::Device;

use crate::libraries::device_model;

/// FLOP in a TFLOP.
const TERA: f64 = 1e12;

/// What rates of images are measured by.
#[derive(Clone, Copy, Debug)]
pub struct Utilisation {
    ranks: usize,
    /// 10^12 FLOP per second of one rank's device; none where its data sheet is not known.
    peak_tflops: Option<f64>,
}

impl Utilisation {
    /// Of so many ranks that compute on devices like this one.
    pub fn new(ranks: usize, device: Device) -> Self {
        let gpu = if device == Device::Cpu { None } else { Gpu::of_driver(&device_model(device)) };
        Self { ranks, peak_tflops: gpu.map(|gpu| gpu.bf16_tflops) }
    }

    /// Names and values for metrics of a rate of images per second over all ranks: `tflop_per_s` of one rank, counted as
    /// docs/planning.md says, and, on a GPU that is known, `mfu`, its share of the dense bf16 rate of the data sheet.
    pub fn metrics(&self, model: &Model, stage: &Stage, images_per_s: f64) -> Vec<(String, f64)> {
        let rate = images_per_s * Flops::of(model, stage).total() / self.ranks as f64 / TERA;
        let share = self.peak_tflops.map(|peak| ("mfu".to_owned(), rate / peak));
        std::iter::once(("tflop_per_s".to_owned(), rate)).chain(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_one_rank_and_its_share_is_told_of_known_gpus() {
        let text = configs::preset("vitg_opt2.7b").unwrap();
        let run = configs::load_str("vitg_opt2.7b.yaml", text, &configs::Overrides::default()).unwrap();
        let known =
            Utilisation { ranks: 2, peak_tflops: Gpu::of_driver("NVIDIA H100 80GB HBM3").map(|it| it.bf16_tflops) };
        let stage = &run.stages[0];
        let values = known.metrics(&run.model, stage, 1000.0);
        let rate = 500.0 * Flops::of(&run.model, stage).total() / 1e12;
        assert!(rate > 300.0 && rate < 500.0, "stage 1 of ViT-g takes about 0.76 TFLOP per image: {rate}");
        assert_eq!(values[0], ("tflop_per_s".to_owned(), rate));
        assert!(values[1].0 == "mfu" && (values[1].1 - rate / 989.0).abs() < 0.01 * values[1].1, "{values:?}");
        let processor = Utilisation::new(2, Device::Cpu).metrics(&run.model, stage, 1000.0);
        assert_eq!(processor, values[..1]);
    }
}
