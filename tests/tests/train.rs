//! Both stages from shards to checkpoints over real ranks: the same bits on one and two ranks, and after any kill.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise and says what it saw")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use integration_tests::programs::{all_output, built, run_within};
use safetensors::SafeTensors;

/// Sizes at which a whole run takes seconds; every part of it is the real one.
const SMALL: &[&str] = &[
    "data.sources[0].scenes=400",
    "data.sources[0].test_scenes=40",
    "data.sources[0].shard_rows=200",
    "data.lanes=4",
    "data.shuffle_window_row_groups=1",
    "model.image_encoder.width=32",
    "model.image_encoder.depth=2",
    "model.image_encoder.mlp_dim=64",
    "model.image_encoder.pretrain.steps=4",
    "model.image_encoder.pretrain.batch=4",
    "model.language_model.hidden_dim=32",
    "model.language_model.depth=1",
    "model.language_model.mlp_dim=64",
    "model.language_model.pretrain.steps=4",
    "model.language_model.pretrain.batch=4",
    "model.qformer.hidden_dim=32",
    "model.qformer.depth=2",
    "model.qformer.mlp_dim=64",
    "model.qformer.projection_dim=16",
    "model.qformer.dropout=0.1",
    "stages.representation.steps=24",
    "stages.representation.global_batch=8",
    "stages.representation.slices=4",
    "stages.representation.itm_start_step=6",
    "stages.representation.hard_negatives_start_step=12",
    "stages.representation.lr_schedule.warmup_steps=4",
    "stages.generative.steps=12",
    "stages.generative.global_batch=8",
    "stages.generative.slices=4",
    "stages.generative.lr_schedule.warmup_steps=2",
    "checkpoint.every_steps=5",
    "metrics.every_steps=4",
];

/// `blip2 launch` of the small run into `output`, with the shards and towers below `shared`.
fn launch(output: &Path, shared: &Path, ranks: usize) -> Command {
    let mut command = Command::new(built("blip2"));
    command.args(["launch", "tiny", "--ranks", &ranks.to_string()]);
    let places = [
        format!("run.output={}", output.display()),
        format!("data.sources[0].uri={}", shared.join("shards").display()),
        format!("model.image_encoder.weights.uri={}", shared.join("image_encoder.safetensors").display()),
        format!("model.language_model.weights.uri={}", shared.join("language_model.safetensors").display()),
    ];
    for set in SMALL.iter().map(|set| (*set).to_owned()).chain(places) {
        command.args(["--set", &set]);
    }
    command
}

/// The files of the last committed checkpoint of each stage that the log names.
fn last_checkpoints(output: &Path) -> BTreeMap<u64, PathBuf> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(output.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut last = BTreeMap::new();
    for name in names {
        let entry: serde_json::Value = serde_json::from_slice(&fs::read(name).unwrap()).unwrap();
        if let (Some(stage), Some(folder)) = (entry["stage_index"].as_u64(), entry["folder"].as_str()) {
            last.insert(stage, output.join(folder));
        }
    }
    last
}

/// Every trained tensor and moment of the last checkpoint of both stages, as bytes by name.
fn trained(output: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let checkpoints = last_checkpoints(output);
    assert_eq!(checkpoints.keys().copied().collect::<Vec<_>>(), [1, 2], "checkpoints of both stages");
    for (stage, folder) in checkpoints {
        for file in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "safetensors") {
                let bytes = fs::read(&file).unwrap();
                for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                    all.insert(format!("stage {stage} {name}"), tensor.data().to_vec());
                }
            }
        }
    }
    all
}

fn assert_same(what: &str, found: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    let differing: Vec<&String> =
        found.iter().filter(|(name, bytes)| expected[*name] != **bytes).map(|(n, _)| n).collect();
    assert!(differing.is_empty(), "{what}: {} of {} tensors differ: {differing:?}", differing.len(), found.len());
}

/// A run on one rank that nothing disturbed, and the folder with its shards and towers.
fn undisturbed() -> &'static (PathBuf, BTreeMap<String, Vec<u8>>) {
    static RUN: OnceLock<(PathBuf, BTreeMap<String, Vec<u8>>)> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap().keep();
        let output = run_within(300, &launch(&folder.join("one"), &folder, 1));
        assert!(output.status.success(), "{}", all_output(&output));
        let trained = trained(&folder.join("one"));
        (folder, trained)
    })
}

#[test]
fn one_and_two_ranks_train_the_same_bits() {
    let (shared, expected) = undisturbed();
    let two = shared.join("two");
    let output = run_within(300, &launch(&two, shared, 2));
    assert!(output.status.success(), "{}", all_output(&output));
    assert_same("two ranks", &trained(&two), expected);
}

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Rank,
    Mpirun,
    Launcher,
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

/// Reads the child's messages, so that a full pipe never stops it.
fn drain(child: &mut Child) -> std::thread::JoinHandle<()> {
    let stderr = child.stderr.take().unwrap();
    std::thread::spawn(move || BufReader::new(stderr).lines().for_each(drop))
}

fn wait_for_commits(output: &Path, commits: usize, child: &mut Child) {
    let since = Instant::now();
    let committed = || {
        let entries = fs::read_dir(output.join("log")).into_iter().flatten().flatten();
        entries.filter(|entry| fs::read_to_string(entry.path()).is_ok_and(|text| text.contains("\"folder\""))).count()
    };
    while committed() < commits {
        assert!(child.try_wait().unwrap().is_none(), "the launch ended before it was killed");
        assert!(since.elapsed() < Duration::from_secs(200), "{} commits after 200 s", committed());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ends one process with SIGKILL, found among the launcher's descendants.
fn kill(victim: Victim, launcher: &Child, output: &Path) {
    let pid = match victim {
        Victim::Launcher => launcher.id(),
        Victim::Mpirun => descendants(launcher.id()).into_iter().find(|(_, name)| name != "blip2-rank").unwrap().0,
        Victim::Rank => descendants(launcher.id()).into_iter().rfind(|(_, name)| name == "blip2-rank").unwrap().0,
    };
    eprintln!("killing {victim:?}, process {pid}, of {}", output.display());
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(killed.success());
}

/// Process ids and names of everything below a process.
fn descendants(root: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for (pid, name, of) in processes() {
            if of == parent {
                parents.push(pid);
                found.push((pid, name));
            }
        }
    }
    found
}

/// Process id, name and parent of every process.
fn processes() -> Vec<(u32, String, u32)> {
    let stat = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (start, rest) = text.rsplit_once(')')?;
        let parent = rest.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, start.split_once('(')?.1.to_owned(), parent))
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(stat).collect()
}
