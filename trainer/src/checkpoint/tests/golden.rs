//! Runs that older versions of this program wrote: each is kept as it was, and still read.

use std::path::PathBuf;

use super::*;

/// A copy of a run under `tests/golden/checkpoints`, so that nothing can change it.
fn golden(name: &str) -> (TempDir, RunPrefix) {
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints").join(name);
    let folder = tempfile::tempdir().unwrap();
    for path in files(&from) {
        let to = folder.path().join(path.strip_prefix(&from).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(&path, to).unwrap();
    }
    let run = RunPrefix::open(folder.path().to_str().unwrap()).unwrap();
    (folder, run)
}

/// sha256 of each array's bytes, as Python found them in the files when they were written.
fn expected(folder: &TempDir) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(folder.path().join("expected.json")).unwrap()).unwrap()
}

fn check(name: &str) {
    let (folder, run) = golden(name);
    let expected = expected(&folder);
    for stage in [1, 2] {
        let (found, fell_back) = load(&run, Some(stage)).unwrap();
        assert!(fell_back.is_empty(), "{fell_back:?}");
        let expected = &expected[format!("stage{stage}")];
        assert_eq!((found.about.step, found.about.flat_len), (expected["step"].as_u64().unwrap(), found.exp_avg.len()));
        let sum = |values: &[f32]| {
            manifest::sha256(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
        };
        assert_eq!(sum(&found.exp_avg), expected["exp_avg"], "{name} stage {stage}");
        assert_eq!(sum(&found.exp_avg_sq), expected["exp_avg_sq"], "{name} stage {stage}");
        let tensors = expected["trainable"].as_object().unwrap();
        assert_eq!(found.trainable.len(), tensors.len());
        for array in &found.trainable {
            assert_eq!(sum(&array.values), tensors[&array.name], "{name} stage {stage} {}", array.name);
        }
        assert!(!found.about.frozen.is_empty() && !found.about.facts.is_empty() && found.about.ledger.is_object());
    }
    assert!(run.config().unwrap().unwrap().contains("seed: 42"));
    // Whoever goes on with the run does so in the newest version.
    let lease = run.take_over(holder("new")).unwrap();
    let mut next = newest(&run);
    next.about.step += 1;
    let uri = lease.commit(&next).unwrap().uri;
    assert_eq!(newest(&run), next);
    let text = std::fs::read_to_string(Path::new(&uri).join(MANIFEST)).unwrap();
    assert!(text.contains(&format!("\"format_version\": {FORMAT_VERSION}")), "{text}");
}

#[test]
fn a_run_of_version_1_is_read_and_goes_on() {
    check("v1");
}

#[test]
fn a_run_of_version_2_that_two_ranks_wrote_is_read_and_goes_on() {
    check("v2");
}

#[test]
fn a_damaged_checkpoint_of_version_1_is_named() {
    for file in [TRAINABLE, MOMENTS, TRAINABLE_INDEX, MANIFEST] {
        let (folder, run) = golden("v1");
        let path = files(&folder.path().join("stage2")).into_iter().find(|path| path.ends_with(file)).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        let (found, fell_back) = load(&run, None).unwrap();
        assert_eq!((found.about.stage_index, fell_back.len()), (1, 1));
        assert!(fell_back[0].contains(file) && fell_back[0].contains("sha256"), "{fell_back:?}");
    }
}
