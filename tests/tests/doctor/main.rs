//! `blip2 doctor` passes a run that works, and finds faults that are really planted: each in a real file, limit,
//! store, port or
//! program, and each with the fix named.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
mod cases;
mod late_store;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use integration_tests::blip2::stderr;
use integration_tests::programs::{all_output, built, run_within};
use integration_tests::skip::skip;
use integration_tests::stand_ins::StandIns;
use serde_json::Value;

use bench::{Bench, LIMIT_S, Planted};
use cases::{CASES, Case, path_with};

/// Plants a fault, looks, and checks that it is found with its fix.
fn examine(case: &Case) {
    let bench = Bench::new();
    let planted = (case.plant)(&bench);
    let looked = bench.look(&planted, &["--samples", "50", "--only", case.only]);
    let code = looked.output.status.code();
    let refused = planted.mounts && stderr(&looked.output).contains("unshare");
    if planted.inside.is_some() && (code == Some(99) || refused) {
        return skip(&format!("doctor: {}", case.name), "this machine does not allow what plants the fault");
    }
    let check = looked.check(case.check);
    assert_eq!(check["state"], case.state, "{}: {check}", case.name);
    let [found, fix] = ["found", "fix"].map(|key| check[key].as_str().unwrap());
    assert!(found.contains(case.found), "{}: {:?} is missing in: {check}", case.name, case.found);
    assert!(fix.contains(case.fix), "{}: {:?} is missing in: {check}", case.name, case.fix);
    let expected = i32::from(case.state == "failure");
    assert_eq!(code, Some(expected), "{}: {}", case.name, all_output(&looked.output));
}

/// Looks at the cases of which the number leaves this rest; two tests share the cores of a small machine.
fn examine_half(rest: usize) {
    CASES.iter().skip(rest).step_by(2).for_each(examine);
}

#[test]
fn planted_faults_are_found_with_their_fix() {
    examine_half(0);
}

#[test]
fn more_planted_faults_are_found_with_their_fix() {
    examine_half(1);
}

#[test]
fn every_case_is_another_fault() {
    let names: BTreeSet<&str> = CASES.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), CASES.len());
    assert!(CASES.iter().filter(|case| case.state == "failure").count() >= 15);
}

#[test]
fn a_run_that_works_passes_and_nothing_of_it_is_touched() {
    let bench = Bench::new();
    let looked = bench.look(&Planted::default(), &["--samples", "50"]);
    assert_eq!(looked.output.status.code(), Some(0), "{}", all_output(&looked.output));
    let bad: Vec<&Value> = looked.checks.iter().filter(|check| check["state"] == "failure").collect();
    assert!(bad.is_empty(), "{bad:?}");
    let passed = [
        "configuration",
        "placement",
        "limits.open_files",
        "ports",
        "rank_program",
        "mpi",
        "store.output",
        "store.synthetic",
        "disk.output",
        "samples.synthetic",
        "weights.image_encoder",
        "weights.language_model",
        "tokenizer.qformer",
        "tokenizer.language_model",
        "output.run",
        "checkpoint",
        "ranks",
        "ports.ranks",
        "step.representation",
        "step.generative",
    ];
    for name in passed {
        // A busy machine may be slow, and says so.
        let is_fine = ["ok", "warning"].iter().any(|state| looked.check(name)["state"] == *state);
        assert!(is_fine, "{}", looked.check(name));
    }
    assert!(looked.check("bandwidth")["found"].as_str().unwrap().contains("GB/s"), "{}", looked.check("bandwidth"));
    assert!(looked.check("checkpoint")["found"].as_str().unwrap().contains("refused"));
    let left: Vec<_> = fs::read_dir(bench.path("run")).into_iter().flatten().flatten().map(|it| it.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    // Progress goes to the other stream.
    assert!(stderr(&looked.output).contains("doctor: weights"), "{}", stderr(&looked.output));
}

#[test]
fn a_table_ends_with_failures_and_their_fix() {
    let bench = Bench::new();
    let planted = Planted::env("BLIP2_ADDRESS", "192.0.2.7");
    let mut command = bench.doctor(&planted, &["--only", "ports,placement"]);
    let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    command = Command::new(built("blip2"));
    command.args(words.iter().filter(|word| *word != "--json")).current_dir(bench.folder.path());
    command.env("BLIP2_ADDRESS", "192.0.2.7");
    let output = run_within(LIMIT_S, &command);
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let (well, failed) = table.split_once("failure  ports").unwrap_or_else(|| panic!("{table}"));
    assert!(well.contains("ok       placement") && failed.contains("fix:      name an address"), "{table}");
    assert!(table.trim_end().ends_with("1 failures"), "{table}");
}

/// Starts what it is told twice, the second time as a node on which hardly any file may be opened.
const SRUN: &str = r#"#!/bin/sh
while [ "${1##*/}" != blip2 ]; do shift; done
"$@" && ulimit -n 64 && "$@"
"#;

#[test]
fn every_node_of_an_allocation_is_looked_at_and_the_one_that_differs_is_named() {
    let (bench, programs) = (Bench::new(), StandIns::new());
    programs.script("srun", SRUN);
    let planted = Planted::env("PATH", path_with(&programs))
        .with_env("SLURM_JOB_ID", "17")
        .with_env("SLURM_JOB_NUM_NODES", "2")
        .with_env("SLURMD_NODENAME", "n1");
    let looked = bench.look(&planted, &["--slurm", "--only", "limits,ports"]);
    assert_eq!(looked.output.status.code(), Some(1), "{}", all_output(&looked.output));
    assert_eq!(looked.check("nodes")["state"], "ok", "{}", looked.check("nodes"));
    let found = |name: &str| looked.check(name)["found"].as_str().unwrap().to_owned();
    assert!(found("ports").contains("2 of 2 nodes"), "{}", found("ports"));
    assert!(found("limits.open_files").contains("1 of 2 nodes"), "{}", found("limits.open_files"));
    let bad: Vec<&Value> = looked.checks.iter().filter(|check| check["state"] == "failure").collect();
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert!(bad[0]["name"].as_str().unwrap().starts_with("limits.open_files@"), "{bad:?}");
}

#[test]
fn a_wrong_configuration_is_told_with_code_2() {
    let bench = Bench::new();
    let looked = bench.look(&Planted::set(["run.seed=red".into()]), &[]);
    assert_eq!(looked.output.status.code(), Some(2), "{}", all_output(&looked.output));
    let check = looked.check("configuration");
    assert_eq!(check["state"], "failure");
    assert!(check["found"].as_str().unwrap().contains("run.seed"), "{check}");
    assert!(check["fix"].as_str().unwrap().contains("blip2 config check"), "{check}");
    let unknown = bench.look(&Planted::default(), &["--only", "moon"]);
    assert_eq!(unknown.output.status.code(), Some(2), "{}", all_output(&unknown.output));
}
