//! Peers: Python readers open our shards and runs, also from a real S3 server. Needs the set-up of `make test-all`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Float32Type;
use data_pipeline::catalog::Catalog;
use data_pipeline::store::Location;
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

/// Inputs of real users, made by pandas' and Pillow's libraries, each with its right outcome.
#[test]
fn data_cases_have_their_outcomes() {
    let Some(python) = peers_python("data_cases_have_their_outcomes") else { return };
    let folder = tempfile::tempdir().unwrap();
    let cases = folder.path().join("cases");
    let script = |name: &str| checkout().join("tests/peers/data_cases").join(name);
    let made = Command::new(&python).arg(script("make.py")).arg(&cases).output().unwrap();
    assert!(made.status.success(), "{}", stderr(&made));
    let checked = Command::new(&python).arg(script("check.py")).arg(built("blip2")).arg(&cases).output().unwrap();
    assert!(checked.status.success(), "{}{}", String::from_utf8_lossy(&checked.stdout), stderr(&checked));
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

/// Ranks the captions of some scenes with a random CLIP, and lets transformers say how similar they are.
#[test]
fn captions_are_as_similar_as_transformers_says() {
    let Some(python) = transformers_python("captions_are_as_similar_as_transformers_says") else { return };
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let script = |words: &[&str]| {
        let script = checkout().join("tests/peers/clip_similarity.py");
        let answer = Command::new(&python).arg(script).args(words).output().unwrap();
        assert!(answer.status.success(), "{}{}", String::from_utf8_lossy(&answer.stdout), stderr(&answer));
    };
    script(&["record", &place("clip"), "7"]);
    let made = blip2(&["data", "synth", "--out", &place("corpus"), "--scenes", "60", "--test-scenes", "0"]);
    assert!(made.status.success(), "{}", stderr(&made));
    let source = place("corpus/train");
    let ranked =
        blip2(&["data", "filter", &source, "--scorer", &place("clip"), "--out", &place("filtered"), "--top", "3"]);
    assert!(ranked.status.success(), "{}", stderr(&ranked));
    let (before, after) = (shard(&place("corpus/train/00000.parquet")), shard(&place("filtered/00000.parquet")));
    let rows: Vec<serde_json::Value> = (0..60)
        .map(|row| {
            let image = place(&format!("{row}.jpg"));
            std::fs::write(&image, before.column_by_name("jpg").unwrap().as_binary::<i32>().value(row)).unwrap();
            let texts = |batch: &RecordBatch| -> Vec<String> {
                let list = batch.column_by_name("captions").unwrap().as_list::<i32>().value(row);
                list.as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect()
            };
            let similarities = after.column_by_name("similarities").unwrap().as_list::<i32>().value(row);
            let similarities = similarities.as_primitive::<Float32Type>().values().to_vec();
            serde_json::json!({
                "image": image, "candidates": texts(&before), "texts": texts(&after), "similarities": similarities
            })
        })
        .collect();
    std::fs::write(place("rows.json"), serde_json::to_string(&rows).unwrap()).unwrap();
    script(&["check", &place("clip"), &place("rows.json")]);
}

/// Every column of a shard of one row group.
fn shard(file: &str) -> RecordBatch {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let catalog = Catalog::open(&Location::parse(file).unwrap(), |_, _| ()).await.unwrap();
        catalog.read_whole(0).await.unwrap().0
    })
}
