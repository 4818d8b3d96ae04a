//! What a run continues under and starts from: changed configurations, a fresh start in the same folder, and the three ways
//! into stage 2.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use integration_tests::programs::{self, all_output, built, run_within};
use integration_tests::runs::{
    Victim, assert_same, drain, kill, last_checkpoints, launch, log_entries, overrides, trained, undisturbed,
    wait_for_commits,
};
use safetensors::SafeTensors;
use serde_json::Value;

type Tensors = BTreeMap<String, Vec<u8>>;

fn done(command: &Command) -> Output {
    let output = run_within(300, command);
    assert!(output.status.success(), "{}", all_output(&output));
    output
}

fn refused(command: &Command, parts: &[&str]) {
    let said = programs::refused(command, parts);
    assert!(!said.contains("started again in"), "{said}");
}

fn entries(output: &Path, kind: &str) -> Vec<Value> {
    let names = log_entries(output);
    let entries = names.iter().map(|name| serde_json::from_slice::<Value>(&fs::read(name).unwrap()).unwrap());
    entries.filter(|entry| entry["kind"] == kind).collect()
}

fn of_stage(tensors: &Tensors, stage: usize) -> Tensors {
    let start = format!("stage {stage} ");
    tensors.iter().filter(|(name, _)| name.starts_with(&start)).map(|(n, b)| (n.clone(), b.clone())).collect()
}

#[test]
fn a_changed_config_needs_leave_is_recorded_and_stays_in_force() {
    let (shared, expected) = undisturbed();
    let output = shared.join("drift");
    let mut child = launch(&output, shared, 1).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let _log = drain(&mut child);
    wait_for_commits(&output, 2, &mut child);
    kill(Victim::Launcher, &child, &output);
    child.wait().unwrap();

    let changed = |more: &[&str]| {
        let mut command = launch(&output, shared, 1);
        command.args(["--set", "stages.generative.lr_schedule.peak=0.0123", "--set", "cluster.restarts.max=2"]);
        command.args(more);
        command
    };
    let diff = "stages[1].lr_schedule.peak:";
    refused(&changed(&[]), &[diff, "there, 0.0123 now", "--accept-change 'stages[1].lr_schedule.peak'", "--fresh"]);
    refused(&changed(&["--accept-change", "run.seed"]), &[diff]);
    let accept = ["--accept-change", "stages.generative.lr_schedule"];
    refused(&changed(&[&accept[..], &["--accept-change", "run.seed"]].concat()), &["run.seed: this did not change"]);
    refused(
        &changed(&[&accept[..], &["--set", "model.qformer.num_query_tokens=3", "--accept-change", "model"]].concat()),
        &["cannot change within a run"],
    );
    assert!(entries(&output, "take_over").iter().all(|entry| entry["config"].is_null()), "a refusal left a trace");

    done(&changed(&accept));
    let taken = entries(&output, "take_over");
    let newest = taken.last().unwrap();
    assert_eq!(newest["changes"][0]["key"], "stages[1].lr_schedule.peak", "{newest}");
    assert_eq!(newest["changes"][0]["is"], "0.0123", "{newest}");
    let config = fs::read_to_string(output.join(newest["config"].as_str().unwrap())).unwrap();
    assert!(config.contains("peak: 0.0123"), "{config}");
    assert!(!fs::read_to_string(output.join("config.yaml")).unwrap().contains("0.0123"));
    let found = trained(&output);
    // Stage 1 knows nothing of it, stage 2 does.
    assert_same("stage 1", &of_stage(&found, 1), &of_stage(expected, 1));
    assert!(of_stage(&found, 2) != of_stage(expected, 2), "the change changed nothing");

    // A job that is started again says the same once more; the first config is another one now.
    done(&changed(&accept));
    done(&changed(&[]));
    refused(&launch(&output, shared, 1), &["stages[1].lr_schedule.peak: 0.0123 there"]);
    // What reads the run reads what is in force.
    let mut eval = Command::new(built("blip2"));
    eval.args(["eval", "caption", &output.display().to_string(), "--stage", "generative", "--limit", "4", "--json"]);
    done(&eval);
    let mut status = Command::new(built("blip2"));
    let shown = done(status.args(["status", &output.display().to_string(), "--json"]));
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["state"], "done", "{shown}");
}

#[test]
fn a_run_begins_anew_only_when_it_is_told_to() {
    let (shared, expected) = undisturbed();
    let output = shared.join("anew");
    let other = ["--set", "run.seed=77"];
    done(launch(&output, shared, 1).args(other));
    let old = trained(&output);
    assert!(old != *expected);
    refused(&launch(&output, shared, 1), &["run.seed: 77 there, 42 now"]);
    assert!(!output.join("before-1").exists());
    done(launch(&output, shared, 2).arg("--fresh"));
    assert_same("begun anew", &trained(&output), expected);
    assert_same("set aside", &trained(&output.join("before-1")), &old);
    for name in ["config.yaml", "metrics", "tb", "log"] {
        assert!(output.join("before-1").join(name).exists(), "{name} was not set aside");
    }
    let segments = |folder: &Path| fs::read_dir(folder.join("metrics")).unwrap().count();
    assert_eq!((segments(&output), segments(&output.join("before-1"))), (1, 1));
    // And from then on it continues.
    done(&launch(&output, shared, 1));
    assert_same("continued", &trained(&output), expected);
    assert!(!output.join("before-2").exists());
}

/// The sets that leave stage 2 one update of a learning rate of nothing: its checkpoint is what it started from.
const STILL: [&str; 3] = [
    "stages.generative.steps=1",
    "stages.generative.lr_schedule.start=0.0",
    "stages.generative.lr_schedule.warmup_steps=1",
];

/// What stage `stage` of a run has trained, by public name.
fn weights(output: &Path, stage: u64) -> Tensors {
    let folder = &last_checkpoints(output)[&stage];
    let mut all = Tensors::new();
    for file in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("trainable") && name.ends_with(".safetensors") {
            let bytes = fs::read(&file).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            all.extend(tensors.tensors().into_iter().map(|(name, tensor)| (name, tensor.data().to_vec())));
        }
    }
    all
}

/// A config with stage 2 alone, which starts from `uri`.
fn stage_2_alone(folder: &Path, name: &str, shared: &Path, uri: &str) -> Command {
    let output = folder.join(name);
    let mut show = Command::new(built("blip2"));
    show.args(["config", "show"]).arg(integration_tests::programs::checkout().join("configs/tiny.yaml")).arg("--json");
    for set in overrides(&output, shared).iter().map(String::as_str).chain(STILL) {
        show.args(["--set", set]);
    }
    let mut run: Value = serde_json::from_slice(&done(&show).stdout).unwrap();
    run["stages"].as_array_mut().unwrap().remove(0);
    run["model"]["start_from"] = serde_json::json!({ "uri": uri, "sha256": null });
    let path = folder.join(format!("{name}.yaml"));
    fs::write(&path, serde_json::to_string_pretty(&run).unwrap()).unwrap();
    let mut command = Command::new(built("blip2"));
    command.args(["launch", &path.display().to_string()]);
    command
}

#[test]
fn stage_2_starts_from_the_same_tensors_whichever_way_they_come() {
    let (shared, _) = undisturbed();
    let folder = tempfile::tempdir().unwrap();
    let source = shared.join("one");
    let first = weights(&source, 1);

    // Of the same run.
    let same = folder.path().join("same");
    let mut command = launch(&same, shared, 1);
    for set in STILL {
        command.args(["--set", set]);
    }
    done(&command);
    let here = weights(&same, 2);
    let common: Vec<&String> = here.keys().filter(|name| first.contains_key(*name)).collect();
    assert!(common.len() > 10, "{} tensors are common to the stages", common.len());
    for name in &common {
        assert!(here[*name] == first[*name], "{name} of the same run");
    }

    // Of another run: a checkpoint, the whole run; and weights by themselves, in a folder and in a file.
    let checkpoint = last_checkpoints(&source)[&1].display().to_string();
    let exported = |format: &str| {
        let to = folder.path().join(format).display().to_string();
        let mut export = Command::new(built("blip2"));
        done(export.args(["weights", "export", &checkpoint, "--format", format, "--output", &to]));
        to
    };
    let (hugging_face, lavis) = (exported("hugging_face"), exported("lavis"));
    let half = folder.path().join("half");
    let mut child = launch(&half, shared, 1).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let _log = drain(&mut child);
    wait_for_commits(&half, 3, &mut child);
    kill(Victim::Rank, &child, &half);
    child.wait().unwrap();
    // Where it was ended is left to chance, behind its third checkpoint: it may have reached stage 2.
    let reached = last_checkpoints(&half).into_keys().max().unwrap();
    let of_half = weights(&half, reached);
    let ways = [
        ("checkpoint", checkpoint.clone(), &first),
        ("run", half.display().to_string(), &of_half),
        ("folder", hugging_face.clone(), &first),
        ("lavis_folder", lavis, &first),
        ("file", format!("{hugging_face}/model.safetensors"), &first),
    ];
    for (name, uri, expected) in ways {
        let start = |ranks: usize| {
            let name = format!("{name}-{ranks}");
            let mut command = stage_2_alone(folder.path(), &name, shared, &uri);
            let output = done(command.args(["--ranks", &ranks.to_string()]));
            assert!(all_output(&output).contains(" tensors start from "), "{name}: {}", all_output(&output));
            weights(&folder.path().join(name), 1)
        };
        let one = start(1);
        // Files are read by the same code as folders.
        if ["checkpoint", "run", "folder"].contains(&name) {
            assert_same(&format!("{name} on two ranks"), &start(2), &one);
        }
        for tensor in &common {
            assert!(one[*tensor] == expected[*tensor], "{tensor} from {name}");
        }
    }
    let nothing = folder.path().join("nothing").display().to_string();
    refused(stage_2_alone(folder.path(), "none", shared, &nothing).args(["--ranks", "1"]), &["nothing"]);
    // Of another size: an error that names the tensor, and no crash.
    let mut other = stage_2_alone(folder.path(), "other", shared, &checkpoint);
    other.args(["--ranks", "1", "--set", "model.qformer.num_query_tokens=3"]);
    refused(&other, &["query_tokens", "has shape"]);
}
