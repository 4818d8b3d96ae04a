//! Whole plans.

use configs::{Gpu, Overrides, Run};

use super::*;

/// A preset with overrides.
pub(super) fn preset(name: &str, sets: &[&str]) -> Run {
    let text = configs::preset(name).unwrap();
    configs::load_str(name, text, &Overrides::new(sets.iter().copied())).unwrap()
}

fn request(run: &Run, gpu: Option<&str>) -> Request {
    let gpu = gpu.map(|name| Gpu::named(name).unwrap());
    Request { ranks: run.world_size(), gpu, price: None, image_bytes: 31e3, assumed_images: true }
}

#[test]
fn every_preset_has_a_plan() {
    for (name, _) in configs::PRESETS {
        let run = preset(name, &[]);
        for gpu in [None, Some("h100"), Some("a100-40gb")] {
            let request = request(&run, gpu);
            let plan = plan(&run, &request, &vec![None; run.stages.len()]);
            assert_eq!(plan.stages.len(), run.stages.len(), "{name}");
            let page = text::text(&run, &plan);
            assert!(page.lines().all(|line| line == line.trim_end()) && page.lines().count() < 60, "{name}:\n{page}");
            for stage in &plan.stages {
                assert!(page.contains(&stage.name), "{name}:\n{page}");
                let total = stage.memory_bytes["total"];
                assert_eq!(total, stage.memory_bytes.values().sum::<u64>() - total, "{name}");
                assert!(stage.gflop_per_image["total"] > 0.0, "{name}");
                assert_eq!(stage.speed().is_some(), gpu.is_some() && stage.no_speed.is_none(), "{name}");
            }
        }
    }
}

#[test]
fn the_paper_s_recipe() {
    let run = preset("vitg_opt2.7b", &[]);
    let request = Request { price: Some(2.0), ..request(&run, Some("h100")) };
    let plan = plan(&run, &request, &[None, None]);
    let page = text::text(&run, &plan);
    for part in ["520.7", "761.2", "985,949,440", "trained", "frozen", "H100 SXM 80 GB", "largest slice", "costs"] {
        assert!(page.contains(part), "{part:?} is missing in:\n{page}");
    }
    let stage = &plan.stages[0];
    let images: f64 = 250_000.0 * 1680.0;
    assert!((stage.seconds().unwrap() - images / stage.speed().unwrap()).abs() < 1.0);
    assert!((stage.cost.unwrap() - 2.0 * 16.0 * stage.seconds().unwrap() / 3600.0).abs() < 1e-6);
    assert!((plan.eta_s.unwrap() - plan.stages.iter().map(|stage| stage.seconds().unwrap()).sum::<f64>()).abs() < 1e-6);
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["schema_version"], 1);
    let first = &json["stages"][0];
    for key in ["gflop_per_image", "memory_bytes", "images_per_s", "eta_s"] {
        assert!(first[key].is_object(), "{key}: {first}");
    }
    assert!((first["gflop_per_image"]["total"].as_f64().unwrap() - 761.203_923_456).abs() < 1e-6);
}

#[test]
fn a_measured_step_makes_a_plan() {
    let run = preset("mid", &[]);
    let timed = |step_s| Some(Measured { step_s, ranks: 2, cores: 2, peak_memory_bytes: Some(1 << 30) });
    let request = Request { image_bytes: 11_000.0, ..request(&run, None) };
    let plan = plan(&run, &request, &[timed(2.0), timed(1.0)]);
    let stage = &plan.stages[0];
    // 16 images and, on two cores that are busy, their decoding.
    let step_s = 2.0 + 16.0 * 11_000.0 / speed::DECODED_BYTES_PER_S / 2.0;
    assert!((stage.speed().unwrap() - 16.0 / step_s).abs() < 1e-9);
    let besides: u64 = ["loader", "checkpoint_copy", "rest_of_run"].iter().map(|part| stage.memory_bytes[part]).sum();
    assert_eq!(stage.peak_memory_bytes, (1 << 30) + besides);
    assert!(text::text(&run, &plan).contains("timed on this machine"));
}
