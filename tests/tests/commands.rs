//! The command line as people meet it: answers, exit codes, nothing half-written.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use integration_tests::blip2::{blip2, stderr, stdout};
use integration_tests::programs::{all_output, built, checkout, refused, run_within};
use integration_tests::skip::skip;
use integration_tests::stand_ins::StandIns;

fn corpus(folder: &Path) -> String {
    let out = folder.join("corpus").display().to_string();
    let made = blip2(&["data", "synth", "--out", &out, "--scenes", "300", "--test-scenes", "50", "--image-size", "32"]);
    assert!(made.status.success(), "{}", stderr(&made));
    out
}

#[test]
fn synth_inspect_and_bench_work_together() {
    let folder = tempfile::tempdir().unwrap();
    let out = corpus(folder.path());

    let page = folder.path().join("page.html");
    let looked =
        blip2(&["data", "inspect", &format!("{out}/train"), "--html", page.to_str().unwrap(), "--samples", "12"]);
    assert!(looked.status.success(), "{}", stderr(&looked));
    let text = stdout(&looked);
    for part in ["300 rows", "caption: Utf8", "jpg: Binary", "status success: 300"] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    let html = std::fs::read_to_string(page).unwrap();
    assert_eq!(html.matches("<figure>").count(), 12);
    assert_eq!(html.matches("data:image/jpeg;base64,").count(), 12);
    assert!(!html.contains("http://") && !html.contains("https://"), "the page needs no network");

    let json = blip2(&["data", "inspect", &out, "--json", "--samples", "3"]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["inspection"]["rows"], 400);
    assert_eq!(value["inspection"]["samples"].as_array().unwrap().len(), 3);

    let timed = blip2(&["bench", "data", &format!("{out}/train"), "--image-size", "32", "--batch", "16", "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&timed.stdout).unwrap();
    assert_eq!(value["images"], 288);
    assert!(value["images_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(value["skipped"], 0);
}

#[test]
fn synth_writes_evaluation_sets_where_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let out = corpus(folder.path());
    let sets = Path::new(&out).join("benchmarks");
    assert!(!sets.exists());
    let same = ["data", "synth", "--out", &out, "--scenes", "300", "--test-scenes", "50", "--image-size", "32"];
    let with = |more: &[&str]| blip2(&[&same, more].concat());
    let made = with(&["--benchmarks", "--benchmark-scenes", "60", "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(value["corpus"]["shards_written"], 0, "the corpus was there");
    let scenes: Vec<(&str, u64)> = value["benchmarks"]["splits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|split| (split["name"].as_str().unwrap(), split["scenes"].as_u64().unwrap()))
        .collect();
    assert_eq!(scenes, [("train", 300), ("test_seen", 60), ("test_unseen", 60)]);
    assert_eq!(std::fs::read_dir(sets.join("images")).unwrap().count(), 420);
    assert!(sets.join("annotations_test_unseen.json").exists() && sets.join("benchmarks.json").exists());

    let before = tree(Path::new(&out));
    let refused = with(&["--benchmarks", "--benchmark-train-scenes", "301"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("expected at most 300"), "{}", stderr(&refused));
    assert_eq!(with(&["--benchmark-scenes", "5"]).status.code(), Some(2), "a size without --benchmarks");
    assert_eq!(before, tree(Path::new(&out)), "a refused command changed files");
}

#[test]
fn the_same_command_gives_the_same_bytes_and_another_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = corpus(folder.path());
    let before = tree(Path::new(&out));
    assert_eq!(corpus(folder.path()), out, "running again is fine");
    assert_eq!(before, tree(Path::new(&out)));
    let other = blip2(&["data", "synth", "--out", &out, "--scenes", "301", "--seed", "7"]);
    assert!(!other.status.success());
    assert!(stderr(&other).contains("--overwrite") || stderr(&other).contains("overwrite"), "{}", stderr(&other));
    assert_eq!(before, tree(Path::new(&out)), "a refused command changed files");
}

/// Every file with its bytes.
fn tree(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(tree(&path));
        } else {
            files.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

#[test]
fn exit_codes_are_those_of_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = checkout().join("configs/tiny.yaml").display().to_string();
    let missing = folder.path().join("none").display().to_string();
    let cases: [(&[&str], i32, &str); 8] = [
        (&["config", "check", &tiny], 0, ""),
        (&["config", "check", &tiny, "--set", "run.seed=red"], 2, "run.seed"),
        (&["config", "check", &missing], 2, "none"),
        (&["data", "inspect", &missing], 1, "no *.parquet found"),
        (&["data", "inspect", "ftp://host/x"], 2, "ftp://host/x"),
        (&["data", "synth", "--out", &missing, "--scenes", "0"], 2, "scenes is 0"),
        (&["data", "synth"], 2, "--out"),
        (&["nonsense"], 2, "nonsense"),
    ];
    for (arguments, code, message) in cases {
        let output = blip2(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(message), "{arguments:?}: {}", stderr(&output));
        assert!(code == 0 || output.stdout.is_empty(), "{arguments:?} failed and still answered");
    }
    assert!(!Path::new(&missing).exists(), "a refused command created something");
}

#[test]
fn the_resolved_config_reads_back_as_itself() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = checkout().join("configs/tiny.yaml").display().to_string();
    let shown = stdout(&blip2(&["config", "show", &tiny, "--set", "run.seed=7"]));
    let resolved = folder.path().join("resolved.yaml");
    std::fs::write(&resolved, &shown).unwrap();
    let again = stdout(&blip2(&["config", "show", resolved.to_str().unwrap()]));
    assert_eq!(shown, again);
    assert!(shown.contains("seed: 7"), "{shown}");
}

#[test]
fn a_full_disk_is_named_and_leaves_no_half_shard() {
    // A small file system of the test's own, in namespaces that end with it.
    let script = r#"
        mount -t tmpfs -o size=3m none "$1" || exit 99
        "$2" data synth --out "$1/corpus" --scenes 20000 --shard-rows 500
        code=$?
        find "$1" -type f -name '*.parquet' | while read -r shard; do tail -c 4 "$shard" | grep -q PAR1 || echo "torn: $shard"; done
        [ -e "$1/corpus/corpus.json" ] && echo "torn: corpus.json"
        exit $code
    "#;
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .args([folder.path(), &built("blip2")])
        .output();
    match output {
        Ok(output) if output.status.code() == Some(1) && stderr(&output).contains("disk is full") => {
            assert_eq!(stdout(&output), "", "half-written files");
        }
        Ok(output) if output.status.code() == Some(99) || stderr(&output).contains("unshare") => {
            skip("a_full_disk_is_named_and_leaves_no_half_shard", "this machine allows no mount namespace");
        }
        Ok(output) => panic!("exit code {:?}: {}", output.status.code(), stderr(&output)),
        Err(error) => skip("a_full_disk_is_named_and_leaves_no_half_shard", &format!("no unshare: {error}")),
    }
}

#[test]
fn an_interrupt_says_what_stays_and_the_same_command_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("corpus").display().to_string();
    let arguments = ["data", "synth", "--out", &out, "--scenes", "60000", "--shard-rows", "1000", "--image-size", "64"];
    let running = Command::new(built("blip2")).args(arguments).stderr(std::process::Stdio::piped()).spawn().unwrap();
    // The record is written last: with it the shard counts as complete.
    let shard = Path::new(&out).join("train/_00000_stats.json");
    for _ in 0..600 {
        if shard.exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let sent = Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("continues from them"), "{}", stderr(&output));
    assert!(!Path::new(&out).join("corpus.json").exists(), "a torn corpus looks whole");

    let resumed = blip2(&[&arguments[..], &["--json"]].concat());
    let value: serde_json::Value = serde_json::from_slice(&resumed.stdout).unwrap();
    assert!(value["corpus"]["shards_kept"].as_u64().unwrap() > 0, "{value}");
    assert!(Path::new(&out).join("corpus.json").exists());
}

#[test]
fn a_runs_file_is_timed_at_its_own_sizes() {
    let tiny = checkout().join("configs/tiny.yaml").display().to_string();
    let bench = |options: &[&str]| {
        let few = ["--batch", "4", "--slices", "2", "--steps", "2", "--warmup", "0"];
        let mut command = Command::new(built("blip2-rank"));
        command.arg("bench-step").args(few).args(options);
        for set in configs::SMALL {
            command.args(["--set", set]);
        }
        command
    };
    for (file, stage, text_tokens) in
        [(tiny.as_str(), "1", 36), (tiny.as_str(), "2", 36), ("preset:tiny_finetune_retrieval", "1", 36)]
    {
        let output = run_within(300, &bench(&["--run", file, "--stage", stage]));
        assert!(output.status.success(), "{}", all_output(&output));
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["preset"], file);
        assert_eq!((answer["batch"].as_u64(), answer["slices"].as_u64()), (Some(4), Some(2)));
        assert_eq!((answer["text_tokens"].as_u64(), answer["dtype"].as_str()), (Some(text_tokens), Some("bf16")));
        assert_eq!(answer["dropout"][0].as_f64(), Some(0.1), "the run's file, with --set: {answer}");
        let side = &answer["sides"][0];
        let losses = side["losses"].as_array().unwrap();
        assert!(losses.len() == 2 && losses.iter().flat_map(|step| step.as_array().unwrap()).all(|it| it.is_f64()));
        let seconds: Vec<f64> =
            side["step_seconds"].as_array().unwrap().iter().map(|it| it.as_f64().unwrap()).collect();
        let names: Vec<&str> =
            side["part_names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        for (whole, parts) in seconds.iter().zip(side["part_seconds"].as_array().unwrap()) {
            let parts: Vec<f64> = parts.as_array().unwrap().iter().map(|it| it.as_f64().unwrap()).collect();
            let sum: f64 = parts.iter().sum();
            assert!((sum - whole).abs() <= 0.05 * whole + 1e-3, "{sum} of {whole}: {side}");
            let part = |name: &str| parts[names.iter().position(|known| *known == name).unwrap()];
            assert!(part("image_encoder") > 0.0 && part("qformer") > 0.0 && part("optimizer") > 0.0, "{side}");
            assert_eq!(part("language_model") > 0.0, stage == "2", "{side}");
        }
    }
    refused(&bench(&["--run", &tiny, "--preset", "mid"]), &["--run", "--preset"]);
    refused(&bench(&["--run", &tiny, "--recompute"]), &["--run", "--recompute"]);
    refused(&bench(&["--run", "preset:tiny_finetune_retrieval", "--stage", "2"]), &["has no such stage", "generative"]);
}

/// The plan as JSON.
fn plan(arguments: &[&str]) -> serde_json::Value {
    let output = blip2(&[&["plan"], arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_plan_tells_the_published_figures_and_the_page_of_the_docs() {
    let command = ["plan", "vitg_opt2.7b", "--gpu", "h100", "--ranks", "16"];
    let page = stdout(&blip2(&command));
    let docs = std::fs::read_to_string(checkout().join("docs/planning.md")).unwrap();
    let shown = docs.split(&format!("$ blip2 {}\n", command.join(" "))).nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(page, shown, "docs/planning.md shows another page");

    let value = plan(&command[1..]);
    assert_eq!((value["schema_version"].as_u64(), value["ranks"].as_u64()), (Some(1), Some(16)));
    let [first, second] = [0, 1].map(|stage| &value["stages"][stage]);
    let near = |found: &serde_json::Value, expected: f64| (found.as_f64().unwrap() - expected).abs() < 0.05;
    assert!(near(&first["forward_gflop_per_image"]["image_encoder"], 520.7), "{first}");
    assert!(near(&first["gflop_per_image"]["total"], 761.2), "{first}");
    assert!(near(&second["gflop_per_image"]["total"], 1224.1), "{second}");
    assert_eq!(first["parameters"]["image_encoder"]["count"], 985_949_440);
    for stage in [first, second] {
        let eta = stage["eta_s"]["stage"].as_f64().unwrap();
        let images = stage["steps"].as_f64().unwrap() * stage["global_batch"].as_f64().unwrap();
        assert!((eta * stage["images_per_s"]["total"].as_f64().unwrap() / images - 1.0).abs() < 1e-9, "{stage}");
    }
    // Without a GPU there is no speed; more ranks share the moments.
    let silent = plan(&["vitg_opt2.7b"]);
    assert_eq!(silent["stages"][0]["images_per_s"], serde_json::json!({}));
    let moments =
        |ranks: &str| plan(&["vitg_opt2.7b", "--ranks", ranks])["stages"][0]["memory_bytes"]["moments"].as_u64();
    assert_eq!(moments("8"), moments("16").map(|bytes| 2 * bytes));
}

#[test]
fn a_plan_that_cannot_be_made_says_why() {
    let cases: [(&[&str], &str); 5] = [
        (&["tiny", "--gpu", "abacus"], "expected one of v100, a100-40gb"),
        (&["tiny", "--ranks", "3"], "found 3 ranks for 2 slices"),
        (&["tiny", "--price", "0"], "expected a number above 0"),
        (&["tiny", "--gpu", "h100", "--calibrate"], "--calibrate"),
        (&["tinny"], "tinny"),
    ];
    for (arguments, message) in cases {
        let output = blip2(&[&["plan"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(message), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{arguments:?} failed and still answered");
    }
    let mut calibrated = Command::new(built("blip2"));
    let output = calibrated.args(["plan", "tiny", "--calibrate"]).env("BLIP2_RANK", "/nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("BLIP2_RANK names /nowhere"), "{}", stderr(&output));
}

#[test]
fn a_calibrated_plan_counts_measured_steps_and_its_own_error() {
    let stand_ins = StandIns::new();
    let folder = stand_ins.path();
    // What `blip2-rank bench-step` answers; it leaves behind what it was asked.
    let asked = folder.join("asked");
    let answer = r#"{"sides": [{"step_seconds": [2.0, 2.0, 9.0]}], "peak_memory_bytes": 1000000000}"#;
    stand_ins.script("rank", &format!("#!/bin/sh\necho \"$@\" >> {}\necho '{answer}'\n", asked.display()));
    // What a run of the first stage reported.
    let output = folder.join("run");
    std::fs::create_dir_all(output.join("metrics")).unwrap();
    let record = |step: u64, rate: f64| {
        format!("{{\"stage\":\"representation\",\"step\":{step},\"images_per_s\":{rate},\"resident_mib\":1200.0}}\n")
    };
    std::fs::write(output.join("metrics/0.jsonl"), record(5, 8.0) + &record(10, 8.0)).unwrap();

    let set = format!("run.output={}", output.display());
    let mut command = Command::new(built("blip2"));
    command.args(["plan", "mid", "--ranks", "1", "--calibrate", "--set", &set, "--json"]);
    let planned = command.env("BLIP2_RANK", folder.join("rank")).output().unwrap();
    assert!(planned.status.success(), "{}", stderr(&planned));
    let value: serde_json::Value = serde_json::from_slice(&planned.stdout).unwrap();
    assert_eq!(value["calibrated"], true);
    let stage = &value["stages"][0];
    // 16 images in 2 s, and a little for decoding.
    let speed = stage["images_per_s"]["total"].as_f64().unwrap();
    assert!((7.9..=8.0).contains(&speed), "{speed}");
    assert!((stage["measured"]["images_per_s_error"].as_f64().unwrap() - (speed / 8.0 - 1.0)).abs() < 1e-9);
    let peak = stage["peak_memory_bytes"].as_f64().unwrap();
    assert!(peak > 1e9, "a run holds more than its steps: {peak}");
    let error = peak / (1200.0 * f64::from(1 << 20)) - 1.0;
    assert!((stage["measured"]["peak_memory_error"].as_f64().unwrap() - error).abs() < 1e-9, "{stage}");
    assert!(value["stages"][1]["measured"].is_null());

    let asked = std::fs::read_to_string(asked).unwrap();
    let lines: Vec<&str> = asked.lines().collect();
    assert_eq!(lines.len(), 2, "{asked}");
    for (line, number) in lines.iter().zip(["1", "2"]) {
        assert!(line.starts_with("bench-step --run /"), "{line}");
        assert!(line.contains(&format!(" --stage {number} --batch 16 --slices 2 ")), "{line}");
        assert!(line.ends_with("--threads 1"), "{line}");
        let file = line.split(' ').nth(2).unwrap();
        assert!(!Path::new(file).exists(), "{file} was left behind");
    }
}
