//! The promise of the exact step: the same bits on any number of ranks, over MPI and as threads, before and after kills.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::process::{Command, Output};

use integration_tests::programs::{all_output, built, run_within};
use serde_json::Value;

fn verify(arguments: &[&str]) -> (Output, Value) {
    let mut command = Command::new(built("blip2"));
    command.args(["verify", "exactness", "--json"]).args(arguments);
    let output = run_within(1500, &command);
    let answer = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", all_output(&output)));
    (output, answer)
}

/// The row's stage, number format, back end, ranks of all launches and steps.
fn labels(answer: &Value) -> Vec<String> {
    let row = |row: &Value| {
        let text = |key: &str| row[key].to_string().replace('"', "");
        ["stage", "dtype", "backend", "world_sizes", "steps"].map(text).join(" ")
    };
    answer["rows"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn any_number_of_ranks_and_any_restart_train_the_same_bits() {
    // The whole table takes minutes; the fast tier has every kind of row.
    let all = std::env::var("BLIP2_TIER").is_ok_and(|tier| tier == "all");
    let (output, answer) = match all {
        true => verify(&["--threads", "1,2,3,5,8,11,16"]),
        false => verify(&["--steps", "8", "--ranks", "1,3", "--threads", "16", "--dtype", "bf16"]),
    };
    assert!(output.status.success(), "{}", all_output(&output));
    assert_eq!(answer["equal"], true);
    let labels = labels(&answer);
    let has = |label: &str| assert!(labels.iter().any(|found| found == label), "{label}: {labels:#?}");
    if all {
        assert_eq!(labels.len(), 2 * 2 * (4 + 1 + 7));
        has("generative f32 threads [11] 20");
    }
    let steps = if all { 20 } else { 8 };
    for stage in ["representation", "generative"] {
        has(&format!("{stage} bf16 single [1] {steps}"));
        has(&format!("{stage} bf16 mpi [3] {steps}"));
        has(&format!("{stage} bf16 mpi [2,4,1,3] {steps}"));
        has(&format!("{stage} bf16 threads [16] {steps}"));
    }
    for row in answer["rows"].as_array().unwrap() {
        assert_eq!(row["sha256"].as_str().unwrap().len(), 64);
    }
}

/// The library's all-reduce adds in an order that depends on the ranks: the check must see it.
#[test]
fn another_order_of_summation_is_found() {
    let arguments = [
        "--steps",
        "6",
        "--ranks",
        "1",
        "--threads",
        "5",
        "--dtype",
        "f32",
        "--no-kills",
        "--set",
        "cluster.reduction=all_reduce",
    ];
    let (output, answer) = verify(&arguments);
    assert_eq!(output.status.code(), Some(1), "{}", all_output(&output));
    assert_eq!(answer["equal"], false);
    assert!(all_output(&output).contains("representation in f32 (2 hashes)"), "{}", all_output(&output));
}
