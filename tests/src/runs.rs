//! Runs that are compared and killed.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise and says what it saw")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use safetensors::SafeTensors;

use crate::programs::{all_output, built, run_within};

/// What the runs of these tests set besides [`configs::SMALL`].
pub const SCHEDULE: &[&str] = &[
    "data.lanes=4",
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
    // A kill is to end the launch; tests/tests/supervise.rs has the others.
    "cluster.restarts.max=0",
];

/// The overrides that make the demo such a run, with its output, and the shards and towers below `shared`.
pub fn overrides(output: &Path, shared: &Path) -> Vec<String> {
    let places = [
        format!("run.output={}", output.display()),
        format!("data.sources[0].uri={}", shared.join("shards").display()),
        format!("model.image_encoder.weights.uri={}", shared.join("image_encoder.safetensors").display()),
        format!("model.language_model.weights.uri={}", shared.join("language_model.safetensors").display()),
    ];
    configs::SMALL.iter().chain(SCHEDULE).map(|set| (*set).to_owned()).chain(places).collect()
}

/// `blip2 launch` of such a run into `output`, with the shards and towers below `shared`.
pub fn launch(output: &Path, shared: &Path, ranks: usize) -> Command {
    let mut command = Command::new(built("blip2"));
    command.args(["launch", "tiny", "--ranks", &ranks.to_string()]);
    for set in overrides(output, shared) {
        command.args(["--set", &set]);
    }
    command
}

/// The entries of a run's log, oldest first. What a process that was killed had not put there yet, `<number>.json#1`, is none.
pub fn log_entries(output: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(output.join("log")).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut entries: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|it| it == "json")).collect();
    entries.sort();
    entries
}

/// The files of the last committed checkpoint of each stage that the log names.
pub fn last_checkpoints(output: &Path) -> BTreeMap<u64, PathBuf> {
    let mut last = BTreeMap::new();
    for name in log_entries(output) {
        let entry: serde_json::Value = serde_json::from_slice(&fs::read(name).unwrap()).unwrap();
        if let (Some(stage), Some(folder)) = (entry["stage_index"].as_u64(), entry["folder"].as_str()) {
            last.insert(stage, output.join(folder));
        }
    }
    last
}

/// Every trained tensor and moment of the last checkpoint of both stages, as bytes by name.
pub fn trained(output: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let checkpoints = last_checkpoints(output);
    assert_eq!(checkpoints.keys().copied().collect::<Vec<_>>(), [1, 2], "checkpoints of both stages");
    for (stage, folder) in checkpoints {
        let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        // Each rank has written some tensors, and the moments of one range: in the order of the ranks they are whole.
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|it| it == "safetensors")) {
            let bytes = fs::read(file).unwrap();
            for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                let whole: &mut Vec<u8> = all.entry(format!("stage {stage} {name}")).or_default();
                whole.extend_from_slice(tensor.data());
            }
        }
    }
    all
}

/// A run on one rank that nothing disturbed, and the folder with its shards and towers; one for each test program.
///
/// # Panics
/// When it fails.
pub fn undisturbed() -> &'static (PathBuf, BTreeMap<String, Vec<u8>>) {
    static RUN: OnceLock<(PathBuf, BTreeMap<String, Vec<u8>>)> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder").keep();
        let output = run_within(300, &launch(&folder.join("one"), &folder, 1));
        assert!(output.status.success(), "{}", all_output(&output));
        let trained = trained(&folder.join("one"));
        (folder, trained)
    })
}

/// Stops where two runs differ.
pub fn assert_same(what: &str, found: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    let differing: Vec<&String> =
        found.iter().filter(|(name, bytes)| expected[*name] != **bytes).map(|(n, _)| n).collect();
    assert!(differing.is_empty(), "{what}: {} of {} tensors differ: {differing:?}", differing.len(), found.len());
}

/// Who is killed.
#[derive(Clone, Copy, Debug)]
pub enum Victim {
    /// A rank.
    Rank,
    /// What started the ranks.
    Mpirun,
    /// `blip2`.
    Launcher,
}

/// Reads the child's messages, so that a full pipe never stops it.
pub fn drain(child: &mut Child) -> std::thread::JoinHandle<()> {
    let stderr = child.stderr.take().unwrap();
    std::thread::spawn(move || BufReader::new(stderr).lines().for_each(drop))
}

/// How many entries of a run's log name a checkpoint.
pub fn num_commits(output: &Path) -> usize {
    let is_commit = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains("\"folder\""));
    log_entries(output).iter().filter(|path| is_commit(path)).count()
}

/// Waits until a run has committed so many checkpoints.
pub fn wait_for_commits(output: &Path, commits: usize, child: &mut Child) {
    let since = Instant::now();
    let committed = || num_commits(output);
    while committed() < commits {
        assert!(child.try_wait().unwrap().is_none(), "the launch ended before it was killed");
        assert!(since.elapsed() < Duration::from_secs(200), "{} commits after 200 s", committed());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ends one process with SIGKILL, found among the launcher's descendants; the launcher itself where it has none yet.
pub fn kill(victim: Victim, launcher: &Child, output: &Path) {
    let below = descendants(launcher.id()).into_iter();
    let found = match victim {
        Victim::Launcher => None,
        Victim::Mpirun => below.map(|(pid, name)| (pid, name != "blip2-rank")).find(|(_, wanted)| *wanted),
        Victim::Rank => below.map(|(pid, name)| (pid, name == "blip2-rank")).rfind(|(_, wanted)| *wanted),
    };
    let pid = found.map_or(launcher.id(), |(pid, _)| pid);
    eprintln!("killing {victim:?}, process {pid}, of {}", output.display());
    // It may have ended by itself since it was found.
    let _killed = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status().unwrap();
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
