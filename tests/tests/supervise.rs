//! Ranks that die, stop, hang, panic or are asked to leave, under a launcher that watches them: named, recovered, and the
//! same bits as a run that nothing disturbed.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use integration_tests::blip2::stderr;
use integration_tests::runs::{assert_same, launch, trained, undisturbed, wait_for_commits};

/// Runs take turns: on few cores several of them at a time would be slow enough to be taken for hung.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A launch on two ranks that starts them again after failures.
fn supervised(output: &Path, more: &[&str]) -> Command {
    let mut command = launch(output, &undisturbed().0, 2);
    for set in ["cluster.restarts.max=4", "cluster.restarts.backoff_s=0"].iter().chain(more) {
        command.args(["--set", set]);
    }
    command
}

fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What a launch printed, once it has ended.
fn ended(mut child: Child) -> Output {
    let mut stderr = Vec::new();
    let mut pipe = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        pipe.read_to_end(&mut stderr).unwrap();
        stderr
    });
    let since = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if since.elapsed() > Duration::from_secs(120) => {
                child.kill().unwrap();
                let printed = String::from_utf8_lossy(&reader.join().unwrap()).into_owned();
                panic!("the launch did not end within 120 s:\n{printed}");
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    Output { status, stdout: Vec::new(), stderr: reader.join().unwrap() }
}

/// The process that the note of a rank names, once there is one.
fn pid(output: &Path, rank: usize) -> u32 {
    let since = Instant::now();
    loop {
        let note = fs::read(output.join(format!("launch/rank-{rank}.pid"))).ok();
        let note: Option<serde_json::Value> = note.and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(pid) = note.and_then(|note| note["pid"].as_u64()) {
            return pid as u32;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "rank {rank} wrote no note in 60 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn send(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success(), "kill {signal} {pid}");
}

fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn assert_says(output: &Output, parts: &[&str]) {
    let said = stderr(output);
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
}

/// The run is done, and as if nothing had happened.
fn assert_undisturbed(what: &str, result: &Output, output: &Path) {
    assert!(result.status.success(), "{what}: {}", stderr(result));
    assert_same(what, &trained(output), &undisturbed().1);
}

#[test]
fn a_rank_that_is_killed_is_named_and_the_run_goes_on() {
    let output = undisturbed().0.join("killed");
    let _turn = turn();
    let mut child = spawn(&mut supervised(&output, &[]));
    wait_for_commits(&output, 2, &mut child);
    send("-KILL", pid(&output, 1));
    let result = ended(child);
    assert_undisturbed("after a kill", &result, &output);
    assert_says(&result, &["rank 1 on ", "has ended without a word in ", "started again", "launch/faults/1"]);
    let fault: serde_json::Value =
        serde_json::from_slice(&fs::read(output.join("launch/faults/1/fault.json")).unwrap()).unwrap();
    assert_eq!(fault["ranks"], serde_json::json!([1]), "{fault}");
    assert!(fs::metadata(output.join("launch/faults/1/rank-0-beats.jsonl")).unwrap().len() > 0);
    assert!(output.join("launch/logs/rank-1.log").exists());
}

#[test]
fn a_rank_that_is_stopped_is_named_as_silent() {
    let output = undisturbed().0.join("stopped");
    let _turn = turn();
    let mut child = spawn(&mut supervised(&output, &["cluster.timeouts_s.silence=3"]));
    wait_for_commits(&output, 2, &mut child);
    let stopped = pid(&output, 1);
    send("-STOP", stopped);
    let result = ended(child);
    assert_undisturbed("after a stop", &result, &output);
    assert_says(&result, &["rank 1 on ", "has said nothing for ", "; rank 0 waits in ", "started again"]);
    let record = fs::read_to_string(output.join("launch/faults/1/rank-1-system.txt")).unwrap();
    assert!(record.contains("State:\tT"), "{record}");
    assert!(!runs(stopped));
}

#[test]
fn a_panic_ends_the_job_and_is_repeated_to_the_reader() {
    let output = undisturbed().0.join("panicked");
    let _turn = turn();
    let result = ended(spawn(supervised(&output, &[]).env("BLIP2_TEST_FAULT", "panic:1:7")));
    assert_undisturbed("after a panic", &result, &output);
    assert_says(&result, &["rank 1 on ", "panicked at ", "planted: step 7", "started again"]);
}

#[test]
fn a_panic_that_comes_again_at_the_same_step_ends_the_run() {
    let output = undisturbed().0.join("panics");
    let _turn = turn();
    let result = ended(spawn(supervised(&output, &[]).env("BLIP2_TEST_FAULT", "panic:0:3:all")));
    assert_eq!(result.status.code(), Some(1), "{}", stderr(&result));
    assert_says(&result, &["rank 0 on ", "planted: step 3", "the same error came again at the same step"]);
    assert_eq!(stderr(&result).matches("are started again").count(), 1, "{}", stderr(&result));
}

#[test]
fn a_rank_that_hangs_is_named_with_what_the_others_wait_in() {
    let output = undisturbed().0.join("hung");
    let _turn = turn();
    let mut command = supervised(&output, &["cluster.timeouts_s.step=6", "cluster.timeouts_s.first_step=60"]);
    let result = ended(spawn(command.env("BLIP2_TEST_FAULT", "hang:1:7")));
    assert_undisturbed("after a hang", &result, &output);
    assert_says(&result, &["rank 1 on ", "has been in step 8 of representation for ", "; rank 0 waits in "]);
    assert!(output.join("launch/faults/1/rank-1-threads.txt").exists());
}

/// The shards stay what they are; one of them never answers: it is a pipe that nobody writes to.
#[test]
fn a_shard_that_never_arrives_is_named() {
    let (shared, _) = undisturbed();
    let (output, shards) = (shared.join("stalled"), shared.join("stalled-shards"));
    let _turn = turn();
    assert!(Command::new("cp").arg("-r").args([&shared.join("shards"), &shards]).status().unwrap().success());
    let uri = format!("data.sources[0].uri={}", shards.display());
    // The catalogue is made, and a first checkpoint, while all is well.
    let mut child = spawn(&mut supervised(&output, &[&uri]));
    wait_for_commits(&output, 1, &mut child);
    send("-USR1", child.id());
    assert_eq!(ended(child).status.code(), Some(75));
    let shard = shards.join("train/00000.parquet");
    let (kept, name) = (shard.with_extension("kept"), shard.file_name().unwrap().to_str().unwrap().to_owned());
    fs::rename(&shard, &kept).unwrap();
    assert!(Command::new("mkfifo").arg(&shard).status().unwrap().success());
    let mended = {
        let (fault, kept, shard) = (output.join("launch/faults/1/fault.json"), kept.clone(), shard.clone());
        std::thread::spawn(move || {
            let since = Instant::now();
            while !fault.exists() && since.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(10));
            }
            fs::rename(kept, shard).unwrap();
        })
    };
    let limits = ["cluster.timeouts_s.step=8", "cluster.timeouts_s.first_step=8", &uri];
    let result = ended(spawn(&mut supervised(&output, &limits)));
    mended.join().unwrap();
    assert_undisturbed("after a shard that never came", &result, &output);
    assert_says(&result, &["has been in data wait for ", &format!("shard {name}"), "started again"]);
}

/// Steps of the metrics files of a run, by stage: each may be there once.
fn assert_one_curve(output: &Path) {
    let mut seen = BTreeSet::new();
    for file in fs::read_dir(output.join("metrics")).unwrap().map(|entry| entry.unwrap().path()) {
        for line in fs::read_to_string(&file).unwrap().lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            if let (Some(stage), Some(step)) = (record["stage"].as_str(), record["step"].as_u64()) {
                assert!(seen.insert((stage.to_owned(), step)), "step {step} of {stage} was recorded twice");
            }
        }
    }
    assert!(seen.len() >= 8, "{seen:?}");
}

#[test]
fn a_run_that_is_asked_to_leave_leaves_in_order_and_goes_on_later() {
    let output = undisturbed().0.join("preempted");
    let _turn = turn();
    let rounds: [(&str, Option<usize>, usize); 3] = [("-USR1", None, 1), ("-TERM", None, 3), ("-USR1", Some(1), 5)];
    for (signal, rank, commits) in rounds {
        let mut child = spawn(&mut supervised(&output, &[]));
        wait_for_commits(&output, commits, &mut child);
        send(signal, rank.map_or(child.id(), |rank| pid(&output, rank)));
        let result = ended(child);
        assert_eq!(result.status.code(), Some(75), "{signal} to {rank:?}: {}", stderr(&result));
        assert_says(&result, &["preempted", "the same command continues"]);
    }
    let result = ended(spawn(&mut supervised(&output, &[])));
    assert_undisturbed("after three requests to leave", &result, &output);
    assert_one_curve(&output);
}

#[test]
fn a_run_that_has_nothing_to_save_leaves_at_once() {
    let output = undisturbed().0.join("early");
    let _turn = turn();
    for ms in [60, 300, 900] {
        let child = spawn(&mut supervised(&output, &[]));
        std::thread::sleep(Duration::from_millis(ms));
        let since = Instant::now();
        send("-USR1", child.id());
        let result = ended(child);
        assert_eq!(result.status.code(), Some(75), "after {ms} ms: {}", stderr(&result));
        assert!(since.elapsed() < Duration::from_secs(10), "after {ms} ms: {:?}", since.elapsed());
    }
}

#[test]
fn nothing_outlives_a_launcher_that_is_killed() {
    let output = undisturbed().0.join("orphans");
    let _turn = turn();
    let mut child = spawn(&mut supervised(&output, &[]));
    wait_for_commits(&output, 1, &mut child);
    let ranks = [pid(&output, 0), pid(&output, 1)];
    child.kill().unwrap();
    child.wait().unwrap();
    let since = Instant::now();
    while ranks.iter().any(|rank| runs(*rank)) {
        assert!(since.elapsed() < Duration::from_secs(10), "ranks {ranks:?} outlive their launcher by 10 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_rank_that_computes_longer_is_flagged() {
    let output = undisturbed().0.join("slow");
    let _turn = turn();
    let mut command = supervised(&output, &["stages.representation.steps=40", "stages.generative.steps=4"]);
    let result = ended(spawn(command.env("BLIP2_TEST_FAULT", "slow-150:1:1")));
    assert!(result.status.success(), "{}", stderr(&result));
    assert_says(&result, &["rank 1 is slow: it computes "]);
    let table: serde_json::Value =
        serde_json::from_slice(&fs::read(output.join("launch/ranks.json")).unwrap()).unwrap();
    assert!(table["ranks"][1]["slow_factor"].as_f64().unwrap() > 1.5, "{table}");
}

#[test]
fn logs_that_cannot_be_written_are_found_before_ranks_start() {
    let output = undisturbed().0.join("no-logs");
    let result = ended(spawn(&mut supervised(&output, &["cluster.logs.folder=/dev/null/logs"])));
    assert_eq!(result.status.code(), Some(2), "{}", stderr(&result));
    assert_says(&result, &["/dev/null/logs", "cluster.logs.folder"]);
    assert!(!output.join("launch/rank-0.pid").exists());
}

#[test]
fn a_log_for_programs_is_one_object_per_line() {
    let output = undisturbed().0.join("json");
    let _turn = turn();
    let mut command = supervised(&output, &["stages.representation.steps=14", "stages.generative.steps=4"]);
    let result = ended(spawn(command.args(["--log", "json"]).env("BLIP2_TEST_FAULT", "panic:1:6")));
    assert!(result.status.success(), "{}", stderr(&result));
    let lines: Vec<serde_json::Value> =
        stderr(&result).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(lines.iter().all(|line| line["time"].is_number()), "{lines:?}");
    assert!(lines.iter().any(|line| line["event"]["event"] == "progress"), "{lines:?}");
    assert!(lines.iter().any(|line| line["rank"] == 1 && line["level"] == "error"), "{lines:?}");
}

/// Kills a drawn rank at a drawn moment, in the making of towers too.
#[test]
fn random_kills_leave_the_result_as_it_is() {
    let seeds = if std::env::var("BLIP2_TIER").is_ok_and(|tier| tier == "all") { 20 } else { 1 };
    let (shared, _) = undisturbed();
    let _turn = turn();
    for seed in 1..=seeds {
        let output = shared.join(format!("random-{seed}"));
        let mut child = spawn(&mut supervised(&output, &[]));
        // Knuth's generator; its upper bits are the good ones.
        let mut drawn: u64 = seed;
        for _ in 0..2 {
            drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(Duration::from_millis(300 + (drawn >> 33) % 3000));
            let victim = (drawn >> 60) as usize % 2;
            if child.try_wait().unwrap().is_none() && output.join(format!("launch/rank-{victim}.pid")).exists() {
                let victim = pid(&output, victim);
                // The note may be of a rank that has ended, and its number another's.
                if fs::read_to_string(format!("/proc/{victim}/comm")).is_ok_and(|name| name == "blip2-rank\n") {
                    let _gone = Command::new("kill").args(["-9", &victim.to_string()]).status().unwrap();
                }
            }
        }
        let result = ended(child);
        assert_undisturbed(&format!("seed {seed}"), &result, &output);
        fs::remove_dir_all(&output).unwrap();
    }
}
