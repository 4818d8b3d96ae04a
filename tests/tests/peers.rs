//! Peers: Python readers open our shards and runs, also from a real S3 server. Needs the set-up of `make test-all`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use integration_tests::blip2::{blip2, peers_python, stderr, transformers_python};
use integration_tests::object_servers::ObjectServer;
use integration_tests::programs::{built, checkout};

#[test]
fn pandas_and_datasets_open_the_shards() {
    let Some(python) = peers_python("pandas_and_datasets_open_the_shards") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("corpus").display().to_string();
    let made =
        blip2(&["data", "synth", "--out", &out, "--scenes", "3000", "--test-scenes", "200", "--shard-rows", "1000"]);
    assert!(made.status.success(), "{}", stderr(&made));
    let read = Command::new(python).arg(checkout().join("tests/peers/read_shards.py")).arg(&out).output().unwrap();
    assert!(read.status.success(), "{}{}", String::from_utf8_lossy(&read.stdout), stderr(&read));
}

/// Writes a small run with a restart in it.
fn write_run() -> PathBuf {
    built("examples/write_run")
}

/// Lets Python's safetensors and TensorBoard read the run.
fn read_run(python: &Path, run: &Path) {
    let script = checkout().join("tests/peers/read_run.py");
    let read = Command::new(python).arg(script).arg(run).arg("--example").output().unwrap();
    assert!(read.status.success(), "{}{}", String::from_utf8_lossy(&read.stdout), stderr(&read));
}

#[test]
fn safetensors_and_tensorboard_read_a_run() {
    let Some(python) = peers_python("safetensors_and_tensorboard_read_a_run") else { return };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let written = Command::new(write_run()).arg(&run).output().unwrap();
    assert!(written.status.success(), "{}", stderr(&written));
    read_run(&python, &run);
}

#[test]
fn a_run_goes_to_s3_and_reads_the_same() {
    let Some(python) = peers_python("a_run_goes_to_s3_and_reads_the_same") else { return };
    let Some(server) = ObjectServer::s3("a_run_goes_to_s3_and_reads_the_same") else { return };
    let written = server.run(&write_run(), &["s3://bucket/runs/tiny"]);
    assert!(written.status.success(), "{}", stderr(&written));
    let folder = tempfile::tempdir().unwrap();
    let fetched = Command::new(&python)
        .arg(checkout().join("tests/peers/fetch_bucket.py"))
        .args([&format!("http://{}", server.address()), "bucket"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(fetched.status.success(), "{}", stderr(&fetched));
    read_run(&python, &folder.path().join("runs/tiny"));
}

/// Trains a small model, exports it, and lets transformers load it, score texts and write some.
#[test]
fn a_trained_model_goes_to_transformers() {
    let Some(python) = transformers_python("a_trained_model_goes_to_transformers") else { return };
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    // In f32, and with the one epsilon that Hugging Face has.
    let more = [
        "model.image_encoder.dtype=f32".to_owned(),
        "model.qformer.dtype=f32".to_owned(),
        "model.qformer.image_norm_eps=1e-6".to_owned(),
        "model.language_model.dtype=f32".to_owned(),
        "stages.representation.steps=6".to_owned(),
        "stages.representation.lr_schedule.warmup_steps=2".to_owned(),
        // A language model that has read a little, so that texts differ.
        "model.language_model.pretrain.steps=300".to_owned(),
        "model.language_model.pretrain.batch=16".to_owned(),
        "stages.generative.steps=40".to_owned(),
        "stages.generative.lr_schedule.warmup_steps=2".to_owned(),
        format!("run.output={}", place("run")),
        format!("data.sources[0].uri={}", place("shards")),
        format!("model.image_encoder.weights.uri={}", place("image_encoder.safetensors")),
        format!("model.language_model.weights.uri={}", place("language_model.safetensors")),
    ];
    let sets: Vec<String> = configs::SMALL.iter().map(|set| (*set).to_owned()).chain(more).collect();
    let words: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let trained = blip2(&[&["launch", "tiny"], &words[..]].concat());
    assert!(trained.status.success(), "{}", stderr(&trained));
    let exported = blip2(&["weights", "export", &place("run"), "--output", &place("exported")]);
    assert!(exported.status.success(), "{}", stderr(&exported));
    std::fs::write(place("overrides.json"), serde_json::to_string(&sets).unwrap()).unwrap();
    let script = checkout().join("tests/peers/hf_round_trip.py");
    let read = Command::new(python).arg(script).args([place("exported"), place("overrides.json")]).output().unwrap();
    assert!(read.status.success(), "{}{}", String::from_utf8_lossy(&read.stdout), stderr(&read));
}
