//! What the run's folder promises, on paths and in a store whose answers fail on purpose.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crash;
mod holding;

use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::checkpoint::log::{Entry, Event, entry_name};

fn holder(host: &str) -> Holder {
    Holder { host: host.into(), pid: 7, ..Holder::default() }
}

/// A state with recognisable numbers.
fn state(stage_index: usize, step: u64) -> Snapshot {
    let values: Vec<f32> = (0..6).map(|i| step as f32 + i as f32 / 8.0).collect();
    Snapshot {
        stage_index,
        stage: ["representation", "generative"][stage_index - 1].into(),
        step,
        seed: u64::MAX,
        samples_seen: step * 32,
        adamw_count: step.saturating_sub(1),
        trainable: vec![
            NamedArray { name: "query_tokens".into(), shape: vec![1, 2, 3], values: values.clone() },
            NamedArray { name: "itm_head.bias".into(), shape: vec![2], values: vec![f32::MIN_POSITIVE, -0.0] },
            NamedArray { name: "temp".into(), shape: vec![], values: vec![0.07] },
        ],
        exp_avg: vec![0.25; 9],
        exp_avg_sq: vec![0.5; 9],
        segments: vec![Segment { name: "query_tokens".into(), shape: vec![1, 2, 3], offset: 0 }],
        frozen: BTreeMap::from([("s3://weights/vit.safetensors".into(), "ab".repeat(32))]),
        facts: BTreeMap::from([("torch".into(), "2.11.0".into())]),
        ledger: serde_json::json!({ "skipped": [3, 5] }),
    }
}

fn new_run() -> (TempDir, RunPrefix) {
    let folder = tempfile::tempdir().unwrap();
    let run = RunPrefix::open(folder.path().join("run").to_str().unwrap()).unwrap();
    (folder, run)
}

fn steps(run: &RunPrefix) -> Vec<(usize, u64)> {
    run.commits().unwrap().iter().map(|commit| (commit.record.stage_index, commit.record.step)).collect()
}

fn manifests(folder: &Path) -> usize {
    files(folder).iter().filter(|path| path.ends_with(MANIFEST)).count()
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn an_empty_folder_has_no_checkpoint() {
    let (_folder, run) = new_run();
    assert_eq!(run.latest(None).unwrap(), None);
    assert!(run.commits().unwrap().is_empty());
    assert!(matches!(open_checkpoint(&run.uri()), Err(TrainerError::NoCheckpoint { .. })));
}

#[test]
fn a_commit_comes_back_whole_by_run_stage_and_folder() {
    let (_folder, run) = new_run();
    let lease = run.take_over(holder("a")).unwrap();
    assert_eq!((lease.epoch(), lease.collected().unwrap().len()), (1, 0));
    lease.commit(&state(1, 10)).unwrap();
    lease.commit(&state(1, 20)).unwrap();
    let committed = lease.commit(&state(2, 5)).unwrap();
    assert_eq!(steps(&run), [(1, 10), (1, 20), (2, 5)]);

    let found = run.latest(None).unwrap().unwrap();
    assert_eq!((&found.snapshot, &found.uri, found.fell_back.len()), (&state(2, 5), &committed.uri, 0));
    assert_eq!(run.latest(Some(1)).unwrap().unwrap().snapshot, state(1, 20));
    assert_eq!(run.latest(Some(3)).unwrap(), None);
    assert_eq!(open_checkpoint(&committed.uri).unwrap().snapshot, state(2, 5));
    assert_eq!(open_checkpoint(&run.uri()).unwrap().snapshot, state(2, 5));
}

#[test]
fn the_older_of_two_holders_is_fenced() {
    let (_folder, run) = new_run();
    let old = run.take_over(holder("old")).unwrap();
    old.commit(&state(1, 10)).unwrap();
    let new = run.take_over(holder("new")).unwrap();
    assert_eq!(new.epoch(), 2);
    assert!(new.launch() > old.launch());
    let fenced = old.commit(&state(1, 11)).unwrap_err();
    assert!(matches!(&fenced, TrainerError::Fenced { holder, found: 2, own: 1, .. } if holder == "process 7 on new"));
    assert!(matches!(old.check(), Err(TrainerError::Fenced { .. })));
    assert!(matches!(old.retain(Retention { keep_last: 1, keep_every_steps: None }), Err(TrainerError::Fenced { .. })));
    new.commit(&state(1, 12)).unwrap();
    assert_eq!(steps(&run), [(1, 10), (1, 12)]);
}

#[test]
fn a_commit_behind_a_newer_take_over_does_not_count() {
    let (_folder, run) = new_run();
    let old = run.take_over(holder("old")).unwrap();
    old.commit(&state(1, 10)).unwrap();
    run.take_over(holder("new")).unwrap();
    let mut record = run.commits().unwrap()[0].record.clone();
    record.step = 99;
    let entry = Entry::new(1, "late".into(), Event::Commit(record));
    log::append(&run.storage, 3, &entry).unwrap();
    assert_eq!(steps(&run), [(1, 10)]);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_with_its_reason() {
    for (file, damage) in [
        (weights::TRAINABLE, "truncate"),
        (weights::MOMENTS, "flip"),
        (weights::MOMENTS, "delete"),
        (weights::TRAINABLE_INDEX, "flip"),
        (MANIFEST, "flip"),
        (MANIFEST, "delete"),
    ] {
        let (_folder, run) = new_run();
        let lease = run.take_over(holder("a")).unwrap();
        lease.commit(&state(1, 10)).unwrap();
        let newest = lease.commit(&state(1, 20)).unwrap().uri;
        let path = Path::new(&newest).join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let expected = match damage {
            "truncate" => std::fs::write(&path, &bytes[..last]).map(|()| format!("expected {}", last + 1)),
            "flip" => std::fs::write(&path, &bytes).map(|()| "sha256".to_owned()),
            _ => std::fs::remove_file(&path).map(|()| "missing".to_owned()),
        };
        let found = run.latest(None).unwrap().unwrap();
        assert_eq!(found.snapshot, state(1, 10), "{file} {damage}");
        assert_eq!(found.fell_back.len(), 1);
        let reason = &found.fell_back[0];
        assert!(reason.contains(&expected.unwrap()) && reason.contains(file), "{reason}");
    }
}

#[test]
fn a_run_without_any_good_checkpoint_does_not_start_over() {
    let (folder, run) = new_run();
    let lease = run.take_over(holder("a")).unwrap();
    for step in 1..=5 {
        lease.commit(&state(1, step)).unwrap();
    }
    std::fs::remove_dir_all(folder.path().join("run/stage1")).unwrap();
    let error = run.latest(None).unwrap_err().to_string();
    assert!(error.contains("5 committed checkpoints") && error.contains("missing"), "{error}");
}

#[test]
fn an_unreadable_entry_is_reported_and_stops_nobody_from_resuming() {
    let (folder, run) = new_run();
    let lease = run.take_over(holder("a")).unwrap();
    lease.commit(&state(1, 10)).unwrap();
    std::fs::write(folder.path().join("run").join(entry_name(2)), "{\"format").unwrap();
    assert!(matches!(lease.commit(&state(1, 20)), Err(TrainerError::Fenced { .. })));
    let found = run.latest(None).unwrap().unwrap();
    assert_eq!((found.snapshot.step, found.fell_back.len()), (10, 1));
    let next = run.take_over(holder("b")).unwrap();
    assert_eq!(next.epoch(), 3, "the unreadable entry may have been epoch 2");
    next.commit(&state(1, 30)).unwrap();
    assert_eq!(run.latest(None).unwrap().unwrap().snapshot.step, 30);
}

#[test]
fn retention_deletes_only_what_a_newer_commit_replaces() {
    let (folder, run) = new_run();
    let lease = run.take_over(holder("a")).unwrap();
    for (stage, step) in [(1, 10), (1, 20), (1, 30), (1, 35), (2, 10), (2, 15), (2, 20)] {
        lease.commit(&state(stage, step)).unwrap();
    }
    let deleted = lease.retain(Retention { keep_last: 2, keep_every_steps: Some(20) }).unwrap();
    let parents: Vec<&str> = deleted.iter().map(|folder| folder.rsplit_once('/').unwrap().0).collect();
    assert_eq!(parents, ["stage1/step-00000010", "stage1/step-00000030", "stage2/step-00000010"]);
    assert_eq!(manifests(folder.path()), 4);
    assert!(!folder.path().join("run/stage1/step-00000010").exists());
    assert_eq!(run.latest(None).unwrap().unwrap().snapshot, state(2, 20));
    assert_eq!(run.latest(Some(1)).unwrap().unwrap().snapshot, state(1, 35));
    assert!(lease.retain(Retention { keep_last: 2, keep_every_steps: Some(20) }).unwrap().is_empty());
}

#[test]
fn a_take_over_clears_what_killed_processes_left() {
    let (folder, run) = new_run();
    run.take_over(holder("a")).unwrap().commit(&state(1, 10)).unwrap();
    let stages = folder.path().join("run");
    for left in ["stage1/step-00000010/1-empty", "stage1/step-00000011/1-staged", "stage2/step-00000001/1-torn"] {
        std::fs::create_dir_all(stages.join(left)).unwrap();
    }
    std::fs::write(stages.join("stage1/step-00000011/1-staged/moments-00001-of-00001.safetensors#1"), "half").unwrap();
    std::fs::write(stages.join("stage2/step-00000001/1-torn").join(weights::TRAINABLE), "half").unwrap();
    assert_eq!(run.take_over(holder("b")).unwrap().collected().unwrap().len(), 3);
    assert_eq!(files(&stages.join("stage1")).len(), 4);
    assert!(!stages.join("stage1/step-00000011").exists() && !stages.join("stage2/step-00000001").exists());
    assert_eq!(run.latest(None).unwrap().unwrap().snapshot, state(1, 10));
}

#[test]
fn a_lease_may_save_from_another_thread() {
    let (_folder, run) = new_run();
    let lease = run.take_over(holder("a")).unwrap();
    std::thread::spawn(move || lease.commit(&state(1, 1)).unwrap()).join().unwrap();
    assert_eq!(steps(&run), [(1, 1)]);
}

#[test]
fn the_config_is_written_once() {
    let (_folder, run) = new_run();
    assert_eq!(run.config().unwrap(), None);
    assert_eq!(run.write_config("a: 1\n").unwrap(), ConfigWritten::New);
    assert_eq!(run.write_config("a: 1\n").unwrap(), ConfigWritten::Same);
    assert_eq!(run.write_config("a: 2\n").unwrap(), ConfigWritten::Differs { stored: "a: 1\n".into() });
    assert_eq!(run.config().unwrap().as_deref(), Some("a: 1\n"));
}

#[test]
fn a_state_that_contradicts_itself_is_refused() {
    let (_folder, run) = new_run();
    let lease = run.take_over(holder("a")).unwrap();
    let mut wrong = state(1, 1);
    wrong.trainable[0].values.pop();
    assert!(lease.commit(&wrong).unwrap_err().to_string().contains("found 5 values in `query_tokens`, expected 6"));
    let mut wrong = state(1, 1);
    wrong.trainable[1] = wrong.trainable[0].clone();
    assert!(lease.commit(&wrong).unwrap_err().to_string().contains("twice"));
    let mut wrong = state(1, 1);
    wrong.segments[0].offset = 4;
    assert!(lease.commit(&wrong).unwrap_err().to_string().contains("ends at 10"));
    assert!(run.commits().unwrap().is_empty());
}

#[test]
fn large_files_go_and_come_in_parts() {
    let (_folder, run) = new_run();
    let lease = run.take_over(holder("a")).unwrap();
    let mut large = state(1, 1);
    // 20 MiB each: more than one part.
    large.exp_avg = (0..5 << 20).map(|i| i as f32).collect();
    large.exp_avg_sq = large.exp_avg.clone();
    lease.commit(&large).unwrap();
    assert!(run.latest(None).unwrap().unwrap().snapshot == large);
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let (_folder, run) = new_run();
    let uri = run.take_over(holder("a")).unwrap().commit(&state(1, 1)).unwrap().uri;
    let path = Path::new(&uri).join(MANIFEST);
    let text = std::fs::read_to_string(&path).unwrap().replace("\"format_version\": 1", "\"format_version\": 2");
    std::fs::write(&path, text).unwrap();
    let error = open_checkpoint(&uri).unwrap_err().to_string();
    assert!(error.contains("found format_version 2, expected 1"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_state_comes_back_bit_for_bit(
        bits in proptest::collection::vec(any::<u32>(), 1..40),
        step in any::<u64>(),
        seed in any::<u64>(),
        name in "[a-z0-9._/ ]{1,20}",
    ) {
        let values: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
        let array = NamedArray { name, shape: vec![values.len()], values: values.clone() };
        let snapshot = Snapshot {
            stage_index: 1, step, seed, trainable: vec![array], exp_avg: values.clone(), exp_avg_sq: values,
            ..Snapshot::default()
        };
        let (_folder, run) = new_run();
        run.take_over(holder("a")).unwrap().commit(&snapshot).unwrap();
        let found = run.latest(None).unwrap().unwrap().snapshot;
        let to_bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(to_bits(&found.trainable[0].values), bits.clone());
        prop_assert_eq!(to_bits(&found.exp_avg), bits.clone());
        prop_assert_eq!(to_bits(&found.exp_avg_sq), bits);
        prop_assert_eq!((found.step, found.seed), (step, seed));
    }
}
