//! A run on two sources, one of them damaged: the same bits, counts and lists on one and two ranks, and after a kill.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use integration_tests::programs::{all_output, built, checkout, run_within};
use integration_tests::runs::{SCHEDULE, Victim, assert_same, drain, kill, trained, wait_for_commits};
use serde_json::{Value, json};

fn blip2(arguments: &[&str]) -> std::process::Output {
    let done = Command::new(built("blip2")).args(arguments).output().unwrap();
    assert!(done.status.success(), "{}", all_output(&done));
    done
}

/// Shards of 100 rows, of which every hundredth image is damaged where its JPEG begins.
fn damaged_shards(folder: &Path) {
    let (out, scenes) = (folder.join("corpus").display().to_string(), "600");
    blip2(&["data", "synth", "--out", &out, "--scenes", scenes, "--test-scenes", "0", "--shard-rows", "100"]);
    for shard in fs::read_dir(folder.join("corpus/train")).unwrap().map(|entry| entry.unwrap().path()) {
        let mut bytes = fs::read(&shard).unwrap();
        let begins: Vec<usize> =
            bytes.windows(3).enumerate().filter(|(_, w)| *w == [0xff, 0xd8, 0xff]).map(|(at, _)| at).collect();
        for at in begins.iter().skip(30).step_by(100) {
            bytes[*at..*at + 3].fill(b'x');
        }
        fs::write(shard, bytes).unwrap();
    }
}

/// The small run with the damaged shards as a second source.
fn config(folder: &Path) -> PathBuf {
    let tiny = checkout().join("configs/tiny.yaml").display().to_string();
    let mut show = vec!["config", "show", &tiny, "--json"];
    for set in configs::SMALL.iter().chain(SCHEDULE) {
        show.extend(["--set", set]);
    }
    let mut run: Value = serde_json::from_slice(&blip2(&show).stdout).unwrap();
    let place = |name: &str| Value::from(folder.join(name).display().to_string());
    run["data"]["shuffle_window_row_groups"] = 3.into();
    run["data"]["loader"]["max_bad_fraction"] = 0.5.into();
    run["data"]["sources"][0]["uri"] = place("shards");
    run["data"]["sources"][0]["weight"] = 3.0.into();
    let filters = json!({ "min_side": 16, "max_aspect": null, "max_nsfw": null, "min_similarity": null,
        "min_caption_chars": 3, "max_caption_chars": 500, "drop_junk_captions": true });
    let second = json!({ "name": "damaged", "kind": "parquet", "uri": place("corpus/train"), "catalog": null, "weight": 1.0,
        "top_captions": 3, "filters": filters });
    run["data"]["sources"].as_array_mut().unwrap().push(second);
    run["model"]["image_encoder"]["weights"]["uri"] = place("image_encoder.safetensors");
    run["model"]["language_model"]["weights"]["uri"] = place("language_model.safetensors");
    let path = folder.join("mixed.yaml");
    fs::write(&path, serde_json::to_string_pretty(&run).unwrap()).unwrap();
    path
}

/// The samples that were replaced, as the ranks' lists have them. Steps that were done twice stand there twice.
fn quarantine(output: &Path) -> BTreeSet<String> {
    let lists = fs::read_dir(output.join("quarantine")).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()));
    lists.flat_map(|list| list.unwrap().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The last counts of each stage in the metrics.
fn counts(output: &Path) -> BTreeMap<String, Value> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(output.join("metrics")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut last = BTreeMap::new();
    for line in
        files.iter().flat_map(|file| fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
    {
        let record: Value = serde_json::from_str(&line).unwrap();
        let Some(stage) = record["stage"].as_str() else { continue };
        let values = record.as_object().unwrap().iter().filter(|(name, _)| name.starts_with("data/"));
        last.insert(stage.to_owned(), values.map(|(name, value)| (name.clone(), value.clone())).collect());
    }
    last
}

#[test]
fn a_damaged_source_changes_nothing_between_ranks_and_launches() {
    let folder = tempfile::tempdir().unwrap();
    damaged_shards(folder.path());
    let config = config(folder.path()).display().to_string();
    let output = |name: &str| folder.path().join(name);
    let launch = |name: &str, ranks: usize| {
        let mut command = Command::new(built("blip2"));
        command.args(["launch", &config, "--ranks", &ranks.to_string()]);
        command.args(["--set", &format!("run.output={}", output(name).display())]);
        command
    };
    // Shards and towers are made by a run that is not looked at.
    let first = run_within(300, &launch("first", 1));
    assert!(first.status.success(), "{}", all_output(&first));
    for name in ["one", "two"] {
        let set = format!("run.output={}", output(name).display());
        let said = blip2(&["data", "index", &config, "--set", &set, "--json"]);
        let found: Value = serde_json::from_slice(&said.stdout).unwrap();
        assert_eq!(
            (&found["sources"][1]["rows"], &found["sources"][1]["usable"]),
            (&600.into(), &600.into()),
            "{found}"
        );
    }
    // A shard that is gone after it was catalogued.
    fs::remove_file(output("corpus/train/00003.parquet")).unwrap();

    let one = run_within(300, &launch("one", 1));
    assert!(one.status.success(), "{}", all_output(&one));
    let mut child = launch("two", 2).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = drain(&mut child);
    wait_for_commits(&output("two"), 3, &mut child);
    kill(Victim::Launcher, &child, &output("two"));
    let _ended = child.wait().unwrap();
    drop(log);
    let two = run_within(300, &launch("two", 2));
    assert!(two.status.success(), "{}", all_output(&two));

    assert_same("two ranks and a kill", &trained(&output("two")), &trained(&output("one")));
    let (list, counts_of_one) = (quarantine(&output("one")), counts(&output("one")));
    assert_eq!(quarantine(&output("two")), list);
    assert_eq!(counts(&output("two")), counts_of_one);
    let stage = &counts_of_one["representation"];
    assert_eq!(stage["data/synthetic/seen"].as_f64().unwrap() + stage["data/damaged/seen"].as_f64().unwrap(), 192.0);
    assert_eq!(stage["data/synthetic/skipped"], 0.0);
    assert!(stage["data/damaged/skipped/shard_unavailable"].as_f64().unwrap() > 0.0, "{stage}");
    assert!(list.iter().all(|line| line.contains("\"source\":\"damaged\"")), "{list:?}");
    assert!(!fs::read_dir(output("one/lost")).unwrap().map(|e| e.unwrap()).collect::<Vec<_>>().is_empty());
}
