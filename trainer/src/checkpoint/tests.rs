//! What the run's folder promises, on paths and in a store whose answers fail on purpose.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crash;
mod elastic;
mod golden;
mod holding;

use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::checkpoint::log::{Entry, Event, entry_name};

fn holder(host: &str) -> Holder {
    Holder { host: host.into(), pid: 7, ..Holder::default() }
}

/// A state with recognisable numbers: three tensors with room between them.
fn state(stage_index: usize, step: u64) -> Snapshot {
    let values: Vec<f32> = (0..6).map(|i| step as f32 + i as f32 / 8.0).collect();
    let segment = |name: &str, shape: &[usize], offset| Segment { name: name.into(), shape: shape.into(), offset };
    let array = |name: &str, shape: &[usize], values| NamedArray { name: name.into(), shape: shape.into(), values };
    let about = About {
        stage_index,
        stage: ["representation", "generative"][stage_index - 1].into(),
        step,
        seed: u64::MAX,
        samples_seen: step * 32,
        adamw_count: step.saturating_sub(1),
        flat_len: 24,
        segments: vec![
            segment("itm_head.bias", &[2], 0),
            segment("query_tokens", &[1, 2, 3], 8),
            segment("temp", &[], 16),
        ],
        frozen: [("s3://weights/vit.safetensors".into(), "ab".repeat(32))].into(),
        facts: [("torch".into(), "2.11.0".into())].into(),
        ledger: serde_json::json!({ "skipped": [3, 5] }),
        metrics: [("total".into(), 3.5)].into(),
    };
    let trainable = vec![
        array("itm_head.bias", &[2], vec![f32::MIN_POSITIVE, -0.0]),
        array("query_tokens", &[1, 2, 3], values),
        array("temp", &[], vec![0.07]),
    ];
    let moments = |first: f32| (0..24).map(|i| first + i as f32).collect();
    Snapshot { about, trainable, exp_avg: moments(0.25), exp_avg_sq: moments(100.5) }
}

/// The newest checkpoint that verifies, whole, and why newer ones were passed over.
fn load(run: &RunPrefix, stage: Option<usize>) -> Option<(Snapshot, Vec<String>)> {
    let mut candidates = run.candidates(stage).unwrap()?;
    let snapshot = candidates.find(|stored| stored.snapshot()).unwrap();
    Some((snapshot, candidates.fell_back))
}

/// The same, where none is damaged.
fn newest(run: &RunPrefix) -> Snapshot {
    let (snapshot, fell_back) = load(run, None).unwrap();
    assert_eq!(fell_back, [""; 0]);
    snapshot
}

fn keep(keep_last: u64, keep_every_steps: Option<u64>) -> Retention {
    Retention { keep_last, keep_every_steps, ..Retention::default() }
}

const TRAINABLE: &str = "trainable-00001-of-00001.safetensors";
const MOMENTS: &str = "moments-00001-of-00001.safetensors";
const TRAINABLE_INDEX: &str = manifest::TRAINABLE_INDEX;

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
    assert!(load(&run, None).is_none() && run.latest(None).unwrap().is_none());
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

    assert_eq!(newest(&run), state(2, 5));
    assert_eq!(load(&run, Some(1)).unwrap().0, state(1, 20));
    assert!(load(&run, Some(3)).is_none());
    for uri in [&committed.uri, &run.uri()] {
        let found = open_checkpoint(uri).unwrap();
        assert_eq!((&found.about, &found.trainable), (&state(2, 5).about, &state(2, 5).trainable));
        assert_eq!(open_stored(uri).unwrap().snapshot().unwrap(), state(2, 5));
    }
    let record = &run.commits().unwrap()[2].record;
    let bytes: u64 = open_stored(&committed.uri).unwrap().files().map(|(_, size)| size).sum();
    assert_eq!((record.bytes, record.metrics["total"]), (bytes, 3.5));
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
    assert!(matches!(old.retain(&keep(1, None)), Err(TrainerError::Fenced { .. })));
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
        (TRAINABLE, "truncate"),
        (MOMENTS, "flip"),
        (MOMENTS, "delete"),
        (TRAINABLE_INDEX, "flip"),
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
        let (found, fell_back) = load(&run, None).unwrap();
        assert_eq!(found, state(1, 10), "{file} {damage}");
        assert_eq!(fell_back.len(), 1);
        let reason = &fell_back[0];
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
    let (found, fell_back) = load(&run, None).unwrap();
    assert_eq!((found.about.step, fell_back.len()), (10, 1));
    let next = run.take_over(holder("b")).unwrap();
    assert_eq!(next.epoch(), 3, "the unreadable entry may have been epoch 2");
    next.commit(&state(1, 30)).unwrap();
    assert_eq!(newest(&run).about.step, 30);
}

#[test]
fn retention_deletes_only_what_a_newer_commit_replaces() {
    let (folder, run) = new_run();
    let lease = run.take_over(holder("a")).unwrap();
    for (stage, step) in [(1, 10), (1, 20), (1, 30), (1, 35), (2, 10), (2, 15), (2, 20)] {
        lease.commit(&state(stage, step)).unwrap();
    }
    let deleted = lease.retain(&keep(2, Some(20))).unwrap();
    let parents: Vec<&str> = deleted.iter().map(|folder| folder.rsplit_once('/').unwrap().0).collect();
    assert_eq!(parents, ["stage1/step-00000010", "stage1/step-00000030", "stage2/step-00000010"]);
    assert_eq!(manifests(folder.path()), 4);
    assert!(!folder.path().join("run/stage1/step-00000010").exists());
    assert_eq!(newest(&run), state(2, 20));
    assert_eq!(load(&run, Some(1)).unwrap().0, state(1, 35));
    assert!(lease.retain(&keep(2, Some(20))).unwrap().is_empty());
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
    std::fs::write(stages.join("stage2/step-00000001/1-torn").join(TRAINABLE), "half").unwrap();
    assert_eq!(run.take_over(holder("b")).unwrap().collected().unwrap().len(), 3);
    assert_eq!(files(&stages.join("stage1")).len(), 4);
    assert!(!stages.join("stage1/step-00000011").exists() && !stages.join("stage2/step-00000001").exists());
    assert_eq!(newest(&run), state(1, 10));
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
    let refused = |change: &dyn Fn(&mut Snapshot), words: &str| {
        let mut wrong = state(1, 1);
        change(&mut wrong);
        let error = lease.commit(&wrong).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(&|wrong| _ = wrong.trainable[1].values.pop(), "found 5 values in `query_tokens`, expected 6");
    refused(&|wrong| wrong.about.segments[1] = wrong.about.segments[0].clone(), "twice");
    refused(&|wrong| wrong.about.segments[1].offset = 20, "ends behind the flat space");
    refused(&|wrong| wrong.about.segments[1].shape = vec![usize::MAX, 2, 3], "ends behind the flat space");
    refused(&|wrong| wrong.trainable.swap(0, 1), "expected the segment's");
    refused(&|wrong| _ = wrong.trainable.pop(), "found 2 tensors, expected 3");
    refused(&|wrong| _ = wrong.exp_avg.pop(), "found 23 first and 24 second moments, expected 24");
    assert!(run.commits().unwrap().is_empty());
}

#[test]
fn large_files_go_and_come_in_parts() {
    let (_folder, run) = new_run();
    let lease = run.take_over(holder("a")).unwrap();
    let mut large = state(1, 1);
    // 20 MiB each: more than one part.
    large.about.flat_len = 5 << 20;
    large.exp_avg = (0..5 << 20).map(|i| i as f32).collect();
    large.exp_avg_sq = large.exp_avg.iter().map(|value| -value).collect();
    lease.commit(&large).unwrap();
    assert!(newest(&run) == large);
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let (_folder, run) = new_run();
    let uri = run.take_over(holder("a")).unwrap().commit(&state(1, 1)).unwrap().uri;
    let path = Path::new(&uri).join(MANIFEST);
    let text = std::fs::read_to_string(&path).unwrap().replace("\"format_version\": 2", "\"format_version\": 3");
    std::fs::write(&path, text).unwrap();
    let error = open_checkpoint(&uri).unwrap_err().to_string();
    assert!(error.contains("found format_version 3, expected 1 to 2"), "{error}");
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
        let shape = vec![values.len()];
        let segment = Segment { name: name.clone(), shape: shape.clone(), offset: 0 };
        let about = About {
            stage_index: 1, step, seed, flat_len: values.len(), segments: vec![segment], ..About::default()
        };
        let array = NamedArray { name, shape, values: values.clone() };
        let snapshot = Snapshot { about, trainable: vec![array], exp_avg: values.clone(), exp_avg_sq: values };
        let (_folder, run) = new_run();
        run.take_over(holder("a")).unwrap().commit(&snapshot).unwrap();
        let found = newest(&run);
        let to_bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(to_bits(&found.trainable[0].values), bits.clone());
        prop_assert_eq!(to_bits(&found.exp_avg), bits.clone());
        prop_assert_eq!(to_bits(&found.exp_avg_sq), bits);
        prop_assert_eq!((found.about.step, found.about.seed), (step, seed));
    }
}
