//! A plan against the run that it is for. In a file of its own: tests of one file share the cores, which are what is measured.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

use integration_tests::blip2::stderr;
use integration_tests::programs::built;
use integration_tests::skip::{skip, tier_is_all};
use serde_json::Value;

/// Fewer steps than the preset's, and more reports.
const SHORT: [&str; 3] = ["stages.representation.steps=16", "stages.generative.steps=16", "metrics.every_steps=2"];

/// The bound that the plan is held to: steps of the same work differ by a few percent between two minutes of a quiet machine.
const WITHIN: f64 = 0.15;

#[test]
fn the_plan_of_mid_is_near_what_a_run_measures() {
    if !tier_is_all() {
        return skip("the_plan_of_mid_is_near_what_a_run_measures", "trains a model of middling size; `make test-all`");
    }
    let folder = tempfile::tempdir().unwrap();
    let mid = |arguments: &[&str]| -> Output {
        let mut command = Command::new(built("blip2"));
        command.current_dir(folder.path()).args(arguments);
        SHORT.iter().for_each(|set| {
            command.args(["--set", set]);
        });
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        output
    };
    mid(&["launch", "mid"]);
    let plan: Value = serde_json::from_slice(&mid(&["plan", "mid", "--calibrate", "--json"]).stdout).unwrap();
    let stages = plan["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 2);
    for stage in stages {
        for error in ["images_per_s_error", "peak_memory_error"] {
            let found = stage["measured"][error].as_f64().unwrap();
            assert!(found.abs() <= WITHIN, "{error} {found:.3} of stage {}: {}", stage["name"], stage["measured"]);
        }
    }
}
