//! The learning rate against the fixture `schedules`: what LAVIS' schedulers set at every step.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise and says what it saw")]

use std::path::{Path, PathBuf};

use configs::{LavisEpochCosine, LrSchedule};
use serde_json::Value;
use trainer::schedule::learning_rate;

/// Largest difference, relative to the peak: both sides are float64, the order of the operations may differ.
const TOLERANCE: f64 = 1e-12;

/// LAVIS' schedulers that no config can ask for, with the reason.
const NOT_OFFERED: [(&str, &str); 1] =
    [("linear_warmup_step_lr", "no recipe of BLIP-2 uses decay by a constant factor per epoch")];

#[test]
fn every_step_has_the_learning_rate_of_lavis() {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let path = std::env::var_os("BLIP2_FIXTURES").map_or(default, PathBuf::from).join("schedules/expected.json");
    let Ok(text) = std::fs::read(&path) else {
        eprintln!("SKIPPED: no fixture {}; set BLIP2_FIXTURES to the folder that holds it", path.display());
        return;
    };
    let expected: Value = serde_json::from_slice(&text).unwrap();
    let mut compared = 0;
    for case in expected["schedules"].as_array().unwrap() {
        let name = case["scheduler"].as_str().unwrap();
        if let Some((_, reason)) = NOT_OFFERED.iter().find(|(known, _)| *known == name) {
            eprintln!("not offered: {name}: {reason}");
            continue;
        }
        assert_eq!(name, "linear_warmup_cosine_lr", "a scheduler that this test does not know");
        compare(case);
        compared += 1;
    }
    assert!(compared > 0, "{}: no case was compared", path.display());
}

fn compare(case: &Value) {
    let number = |key: &str| case[key].as_f64().unwrap();
    let peak = number("init_lr");
    // A negative start means the peak in LAVIS.
    let start = if number("warmup_start_lr") < 0.0 { peak } else { number("warmup_start_lr") };
    let schedule = LrSchedule::LavisEpochCosine(LavisEpochCosine {
        start,
        peak,
        floor: number("min_lr"),
        warmup_steps: case["warmup_steps"].as_u64().unwrap(),
        steps_per_epoch: case["iters_per_epoch"].as_u64().unwrap(),
    });
    let expected = case["lr"].as_array().unwrap();
    for (step, expected) in expected.iter().map(|value| value.as_f64().unwrap()).enumerate() {
        let found = learning_rate(&schedule, step as u64, case["lr"].as_array().unwrap().len() as u64);
        assert!((found - expected).abs() <= TOLERANCE * peak, "step {step}: found {found}, expected {expected}");
    }
}
