//! Both stages from shards to checkpoints over real ranks: the same bits on one and two ranks, and after any kill.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use integration_tests::programs::{all_output, built, checkout, run_within};
use integration_tests::runs::{
    SCHEDULE, Victim, assert_same, drain, kill, last_checkpoints, launch, trained, undisturbed, wait_for_commits,
};
use safetensors::SafeTensors;

#[test]
fn one_and_two_ranks_train_the_same_bits() {
    let (shared, expected) = undisturbed();
    let two = shared.join("two");
    let output = run_within(300, &launch(&two, shared, 2));
    assert!(output.status.success(), "{}", all_output(&output));
    assert_same("two ranks", &trained(&two), expected);
}

#[test]
fn metrics_tell_where_the_time_of_a_step_goes() {
    let (shared, _) = undisturbed();
    let output = shared.join("one");
    let stages = records(&output);
    assert_eq!(stages.keys().map(String::as_str).collect::<Vec<_>>(), ["generative", "representation"]);
    for (stage, records) in &stages {
        assert!(records.len() >= 4, "{stage}: {records:?}");
        for record in records {
            let seconds =
                |name: &str| record[format!("time/{name}")].as_f64().unwrap_or_else(|| panic!("{name}: {record}"));
            let sum: f64 = PARTS.iter().map(|name| seconds(name)).sum();
            assert!((sum - seconds("step")).abs() <= 0.05 * seconds("step"), "{sum}: {record}");
            assert!(PARTS.iter().all(|name| seconds(name) >= 0.0), "{record}");
            for name in ["image_encoder", "qformer", "optimizer"] {
                assert!(seconds(name) > 0.0, "{name}: {record}");
            }
            assert_eq!(seconds("language_model") > 0.0, stage == "generative", "{record}");
            assert_eq!(seconds("evaluation"), 0.0, "nothing is evaluated: {record}");
            let Some(rate) = record["images_per_s"].as_f64() else { continue };
            assert!((rate * seconds("step") / 8.0 - 1.0).abs() < 1e-6, "8 images a step: {record}");
            assert!(record["tflop_per_s"].as_f64().unwrap() > 0.0 && record.get("mfu").is_none(), "{record}");
        }
        assert!(records.iter().map(|record| record["time/decode"].as_f64().unwrap()).sum::<f64>() > 0.0, "{records:?}");
        // By the clock that records carry. The time that it takes to write one falls to the next; 10 ms for a busy machine.
        for pair in records.windows(2) {
            let between = |name: &str| pair[1][name].as_f64().unwrap() - pair[0][name].as_f64().unwrap();
            let (wall, told) = (between("time"), between("step") * pair[1]["time/step"].as_f64().unwrap());
            assert!((wall - told).abs() <= 0.05 * wall + 0.01, "{wall} s, told {told}: {pair:?}");
        }
    }
    let page = fs::read_to_string(checkout().join("docs/metrics.md")).unwrap();
    for key in stages.values().flatten().flat_map(|record| record.as_object().unwrap().keys()) {
        let name = key.replace("data/synthetic/", "data/<source>/");
        assert!(page.contains(&format!("`{name}`")), "docs/metrics.md lacks {name}");
    }
    let events = fs::read_dir(output.join("tb/generative")).unwrap().next().unwrap().unwrap().path();
    let events = fs::read(events).unwrap();
    for name in PARTS.iter().map(|part| format!("time/{part}")).chain(["time/step".into(), "tflop_per_s".into()]) {
        assert!(events.windows(name.len()).any(|bytes| bytes == name.as_bytes()), "TensorBoard lacks {name}");
    }
}

/// The parts that add up to a step.
const PARTS: [&str; 9] = [
    "data_wait",
    "image_encoder",
    "qformer",
    "language_model",
    "communication",
    "optimizer",
    "checkpoint",
    "evaluation",
    "other",
];

/// The records of the steps of a run of one launch, by stage.
fn records(output: &Path) -> BTreeMap<String, Vec<serde_json::Value>> {
    let mut stages: BTreeMap<String, Vec<serde_json::Value>> = BTreeMap::new();
    for entry in fs::read_dir(output.join("metrics")).unwrap() {
        for line in fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            if let (Some(stage), true) = (record["stage"].as_str(), record.get("lr").is_some()) {
                stages.entry(stage.to_owned()).or_default().push(record);
            }
        }
    }
    stages
}

#[test]
fn a_run_is_scored_and_describes_a_picture() {
    let (shared, _) = undisturbed();
    let run = shared.join("one").display().to_string();
    let answer = |arguments: &[&str]| {
        let mut command = Command::new(built("blip2"));
        let output = run_within(300, command.args(arguments));
        assert!(output.status.success(), "{}", all_output(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let json = |arguments: &[&str]| serde_json::from_str::<serde_json::Value>(&answer(arguments)).unwrap();
    for split in ["test_seen", "test_unseen"] {
        let stage = ["--stage", "representation", "--split", split, "--json"];
        let result = json(&[&["eval", "retrieval", &run][..], &stage].concat());
        assert_eq!((result["scenes"].as_u64(), result["chance_r1"].as_f64()), (Some(40), Some(2.5)), "{result}");
        for (ranking, way) in ["itc", "itm"].into_iter().flat_map(|r| [(r, "image_to_text"), (r, "text_to_image")]) {
            let recalls = ["r1", "r5", "r10"].map(|at| result[ranking][way][at].as_f64().unwrap());
            assert!(recalls[0] <= recalls[1] && recalls[1] <= recalls[2] && recalls[2] <= 100.0, "{result}");
        }
    }
    let captions = ["eval", "caption", &run, "--stage", "generative"];
    let table = answer(&captions);
    assert!(table.contains("caption on test_seen, 40 scenes") && table.contains("pair, seen pairs"), "{table}");
    let result = json(&[&captions[..], &["--json"]].concat());
    let example = &result["examples"][0];
    let bytes = base64::engine::general_purpose::STANDARD.decode(example["image_jpeg_base64"].as_str().unwrap());
    let picture = shared.join("picture.jpg").display().to_string();
    fs::write(&picture, bytes.unwrap()).unwrap();
    let said = answer(&["caption", &run, &picture]);
    assert_eq!(said, format!("{picture}: {}\n", example["generated"].as_str().unwrap()));
    let told = ["--prompt", "a large", "--beams", "4", "--texts", "3", "--max-tokens", "6", "--length-penalty", "-1"];
    let said = json(&[&["caption", &run, &picture][..], &told, &["--json"]].concat());
    let texts: Vec<&str> =
        said["images"][0]["captions"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(texts.len(), 3, "{said}");
    assert!(texts.iter().all(|text| text.split_whitespace().count() <= 6) && texts[0] != texts[1], "{texts:?}");
    let draw =
        |seed: &str| answer(&["caption", &run, &picture, "--top-p", "0.9", "--temperature", "2", "--seed", seed]);
    assert_eq!(draw("1"), draw("1"));
    // The checkpoint of stage 1 speaks, too, through the Q-Former itself.
    let stage1 = last_checkpoints(&shared.join("one"))[&1].display().to_string();
    assert!(answer(&["caption", &stage1, &picture]).starts_with(&picture));
    for (option, value, part) in [
        ("--prompt", "a zebra", "1 words of the prompt \"a zebra\" are not in the vocabulary"),
        ("--max-tokens", "5000", "positions"),
        ("--top-p", "2", "a probability"),
    ] {
        let wrong = Command::new(built("blip2")).args(["caption", &run, &picture, option, value]).output().unwrap();
        assert!(!wrong.status.success() && all_output(&wrong).contains(part), "{}", all_output(&wrong));
    }
}

/// The small run with the language model of a fixture, an encoder-decoder, which is given a caption's beginning.
fn with_t5(folder: &Path) -> PathBuf {
    let fixture = checkout().join("tests/fixtures/hf_blip2_t5");
    let weights = fs::read(fixture.join("weights.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&weights).unwrap();
    let kept = weights.tensors().into_iter().filter(|(name, _)| name.starts_with("language_model."));
    let file = folder.join("t5.safetensors");
    safetensors::serialize_to_file(kept.collect::<Vec<_>>(), None, &file).unwrap();
    let given: serde_json::Value = serde_json::from_slice(&fs::read(fixture.join("config.json")).unwrap()).unwrap();
    let sizes = &given["text_config"];
    let mut show = Command::new(built("blip2"));
    show.args(["config", "show"]).arg(checkout().join("configs/tiny.yaml")).arg("--json");
    for set in configs::SMALL.iter().chain(SCHEDULE) {
        show.args(["--set", set]);
    }
    let shown = show.output().unwrap();
    let mut run: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    run["model"]["language_model"] = serde_json::json!({
        "kind": "custom_t5", "weights": { "uri": file, "sha256": null }, "tokenizer": "builtin:synthetic_words", "dtype": "f32",
        "dropout": 0.1, "recompute": false, "max_text_tokens": 24, "vocab_size": sizes["vocab_size"],
        "hidden_dim": sizes["d_model"], "encoder_depth": sizes["num_layers"], "decoder_depth": sizes["num_decoder_layers"],
        "heads": sizes["num_heads"], "head_dim": sizes["d_kv"], "mlp_dim": sizes["d_ff"],
        "position_buckets": sizes["relative_attention_num_buckets"],
        "max_distance": sizes["relative_attention_max_distance"], "pretrain": null,
    });
    run["stages"][1]["text"] = "prefix_split".into();
    let path = folder.join("t5.yaml");
    fs::write(&path, serde_json::to_string_pretty(&run).unwrap()).unwrap();
    path
}

#[test]
fn one_and_two_ranks_train_the_same_bits_through_t5() {
    let folder = tempfile::tempdir().unwrap();
    let config = with_t5(folder.path());
    let run = |name: &str, ranks: usize| {
        let output = folder.path().join(name);
        let mut command = Command::new(built("blip2"));
        command.args(["launch", &config.display().to_string(), "--ranks", &ranks.to_string()]);
        let places = [
            format!("run.output={}", output.display()),
            format!("data.sources[0].uri={}", folder.path().join("shards").display()),
            format!("model.image_encoder.weights.uri={}", folder.path().join("image_encoder.safetensors").display()),
        ];
        for set in &places {
            command.args(["--set", set]);
        }
        let done = run_within(300, &command);
        assert!(done.status.success(), "{}", all_output(&done));
        (trained(&output), output)
    };
    let ((one, output), (two, _)) = (run("one", 1), run("two", 2));
    assert_same("two ranks", &two, &one);
    let picture = checkout().join("tests/fixtures/preprocess/gradient.jpg").display().to_string();
    let words = ["caption", &output.display().to_string(), &picture, "--beams", "3", "--min-tokens", "2"];
    let said = Command::new(built("blip2")).args(words).output().unwrap();
    assert!(said.status.success() && all_output(&said).contains(&picture), "{}", all_output(&said));
}

#[test]
fn the_same_command_continues_after_any_kill() {
    let (shared, expected) = undisturbed();
    for (number, victim) in [Victim::Rank, Victim::Mpirun, Victim::Launcher].into_iter().enumerate() {
        let output = shared.join(format!("killed-{number}"));
        // At different moments: in the first stage, at its end, in the second stage.
        let commits = [2, 5, 6][number];
        let mut child = launch(&output, shared, 2).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = drain(&mut child);
        wait_for_commits(&output, commits, &mut child);
        kill(victim, &child, &output);
        let _ended = child.wait().unwrap();
        drop(log);
        let resumed = run_within(300, &launch(&output, shared, 2));
        assert!(resumed.status.success(), "after the {victim:?} was killed: {}", all_output(&resumed));
        assert_same(&format!("after the {victim:?} was killed"), &trained(&output), expected);
        let segments = fs::read_dir(output.join("metrics")).unwrap().count();
        assert!(segments >= 2, "the second launch continued: {segments} metrics files");
    }
}

/// Kills somebody at drawn moments, in the making of shards and towers too, and starts the same command again.
#[test]
fn the_same_command_continues_however_often_it_is_killed() {
    let (shared, expected) = undisturbed();
    let folder = shared.join("often");
    let output = folder.join("run");
    let rounds = if std::env::var("BLIP2_TIER").is_ok_and(|tier| tier == "all") { 40 } else { 6 };
    let mut drawn: u64 = 7;
    let mut killed = 0;
    for _ in 0..rounds {
        let mut child = launch(&output, &folder, 2).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let _log = drain(&mut child);
        // Knuth's generator; a launch of the small run takes a few seconds.
        drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis((drawn >> 33) % 3000));
        if child.try_wait().unwrap().is_none() {
            let victim = [Victim::Rank, Victim::Mpirun, Victim::Launcher][(drawn >> 50) as usize % 3];
            kill(victim, &child, &output);
            killed += 1;
        }
        let _ended = child.wait().unwrap();
    }
    assert!(killed >= rounds / 3, "{killed} of {rounds} launches were killed");
    let resumed = run_within(300, &launch(&output, &folder, 2));
    assert!(resumed.status.success(), "after {killed} kills: {}", all_output(&resumed));
    assert_same(&format!("after {killed} kills"), &trained(&output), expected);
}
