//! `blip2 verify exactness`: the same small run on different numbers of ranks, over different back ends, with and without
//! kills, must train the same bits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use safetensors::SafeTensors;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cli::VerifyExactnessArgs;
use crate::ranks::{Plan, Programs, quoted};

/// What the small run sets besides [`configs::SMALL`]: as many slices as there may be ranks, and checkpoints that do not
/// depend on the clock.
const SLICED: &[&str] = &[
    "data.lanes=16",
    "stages.representation.global_batch=32",
    "stages.representation.slices=16",
    "stages.representation.lr_schedule.warmup_steps=4",
    "stages.generative.global_batch=32",
    "stages.generative.slices=16",
    "stages.generative.lr_schedule.warmup_steps=4",
    "checkpoint.every_steps=3",
    "checkpoint.every_s=null",
    "checkpoint.keep_last=2",
    // Who was killed here is not to be started again by its launcher.
    "cluster.restarts.max=0",
];
/// How often commits are looked for.
const TICK: Duration = Duration::from_millis(5);
/// Lines of a failed run that are shown.
const SHOWN_LINES: usize = 30;

/// One run and one of its stages.
#[derive(Debug, Serialize)]
struct Row {
    stage: String,
    dtype: String,
    backend: &'static str,
    /// Of the last launch.
    world_size: usize,
    /// Of every launch.
    world_sizes: Vec<usize>,
    restarts: usize,
    steps: u64,
    /// Of the file of trained parameters.
    sha256: String,
}

/// Runs everything and compares.
///
/// # Errors
/// When a run fails, or two runs trained different bits.
pub fn exactness(args: &VerifyExactnessArgs, programs: &Programs) -> anyhow::Result<()> {
    let folder = match &args.output {
        Some(folder) => folder.clone(),
        None => std::env::temp_dir().join(format!("blip2-exactness-{}", std::process::id())),
    };
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let mut rows = Vec::new();
    for dtype in &args.dtypes {
        let series = Series { args, programs, folder: std::path::absolute(&folder)?, dtype };
        for world_size in &args.ranks {
            rows.extend(series.undisturbed(*world_size)?);
        }
        if !args.no_kills {
            rows.extend(series.killed()?);
        }
        for world_size in &args.threads {
            rows.extend(series.threads(*world_size)?);
        }
    }
    let differing = differing(&rows);
    answer(&rows, differing.is_empty(), args.json)?;
    if args.output.is_none() {
        // What cannot be removed lies among other temporary files.
        let _left_behind = fs::remove_dir_all(&folder);
    }
    ensure!(
        differing.is_empty(),
        "found different trained parameters in {}; expected one SHA-256 for each stage and number format, whatever the ranks",
        differing.join(", ")
    );
    Ok(())
}

/// Runs in one number format.
struct Series<'a> {
    args: &'a VerifyExactnessArgs,
    programs: &'a Programs,
    folder: PathBuf,
    dtype: &'a str,
}

impl Series<'_> {
    /// The settings of one run, whose shards and towers are shared with the others.
    fn settings(&self, output: &Path) -> Vec<String> {
        let shared = |name: &str| self.folder.join(self.dtype).join(name).display().to_string();
        let mut set: Vec<String> = configs::SMALL.iter().chain(SLICED).map(|set| (*set).to_owned()).collect();
        set.extend([
            format!("run.output={}", output.display()),
            // So that there are as many commits as the kills are spread over.
            "checkpoint.background=false".to_owned(),
            format!("data.sources[0].uri={}", self.folder.join("shards").display()),
            format!("model.image_encoder.weights.uri={}", shared("image_encoder.safetensors")),
            format!("model.language_model.weights.uri={}", shared("language_model.safetensors")),
            format!("stages.representation.steps={}", self.args.steps),
            format!("stages.generative.steps={}", self.args.steps),
        ]);
        set.extend(
            ["image_encoder", "qformer", "language_model"].map(|part| format!("model.{part}.dtype={}", self.dtype)),
        );
        set.extend(self.args.set.iter().cloned());
        set.into_iter().flat_map(|set| ["--set".to_owned(), set]).collect()
    }

    fn output(&self, name: &str) -> PathBuf {
        self.folder.join(self.dtype).join(name)
    }

    /// `blip2 launch`, not started yet.
    fn launch(&self, output: &Path, world_size: usize) -> Command {
        let mut command = Command::new(&self.programs.executable);
        command.args(["launch", "tiny"]).args(self.settings(output));
        command.args(["--set", &format!("cluster.ranks_per_node={world_size}")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn undisturbed(&self, world_size: usize) -> anyhow::Result<Vec<Row>> {
        let output = self.output(&format!("mpi-{world_size}"));
        tell(&format!("{}, {world_size} ranks over MPI", self.dtype));
        finish(self.launch(&output, world_size))?;
        self.rows(&output, if world_size == 1 { "single" } else { "mpi" }, &[world_size])
    }

    /// A run that is killed and goes on with another number of ranks, until it is done.
    fn killed(&self) -> anyhow::Result<Vec<Row>> {
        let output = self.output("killed");
        let commits_of_all = 2 * self.args.steps.div_ceil(3) as usize;
        let killed = &self.args.killed_ranks;
        let (last, before) =
            killed.split_last().context("--killed-ranks is empty; expected a number of ranks for each launch")?;
        for (place, world_size) in before.iter().enumerate() {
            tell(&format!("{}, {world_size} ranks over MPI, to be killed", self.dtype));
            // At moments that are spread over both stages.
            let commits = (place + 1) * commits_of_all / killed.len();
            let mut child = self.launch(&output, *world_size).spawn().context("cannot start blip2")?;
            let errors = child.stderr.take().map(|mut errors| {
                // Read, so that a full pipe never stops the run.
                std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()))
            });
            wait_for_commits(&mut child, &output, commits)?;
            kill(&mut child, &output, place, *world_size)?;
            drop(errors);
        }
        tell(&format!("{}, {last} ranks over MPI, to its end", self.dtype));
        finish(self.launch(&output, *last))?;
        self.rows(&output, "mpi", killed)
    }

    fn threads(&self, world_size: usize) -> anyhow::Result<Vec<Row>> {
        let output = self.output(&format!("threads-{world_size}"));
        tell(&format!("{}, {world_size} ranks as threads of one process", self.dtype));
        let mut arguments = vec!["train".to_owned(), "preset:tiny".to_owned()];
        arguments.extend(self.settings(&output));
        arguments.extend(["--threads".to_owned(), world_size.to_string()]);
        let mut command = Plan::local(self.programs, 1, 1, arguments)?.command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        finish(command)?;
        self.rows(&output, "threads", &[world_size])
    }

    /// What a finished run trained.
    fn rows(&self, output: &Path, backend: &'static str, world_sizes: &[usize]) -> anyhow::Result<Vec<Row>> {
        let row = |(stage, checkpoint): (u64, PathBuf)| {
            let manifest: Value = serde_json::from_slice(&read(&checkpoint.join("manifest.json"))?)?;
            let steps = manifest["step"].as_u64().unwrap_or(0);
            ensure!(
                steps == self.args.steps,
                "found step {steps} of stage {stage} in {}; expected {}",
                checkpoint.display(),
                self.args.steps
            );
            Ok(Row {
                stage: manifest["stage"].as_str().unwrap_or_default().to_owned(),
                dtype: self.dtype.to_owned(),
                backend,
                world_size: *world_sizes.last().unwrap_or(&1),
                world_sizes: world_sizes.to_vec(),
                restarts: world_sizes.len() - 1,
                steps,
                sha256: sha256_of_parameters(&checkpoint)?,
            })
        };
        last_checkpoints(output)?.into_iter().map(row).collect()
    }
}

/// Runs a command to its end.
fn finish(mut command: Command) -> anyhow::Result<()> {
    let output =
        command.output().with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    if output.status.success() {
        return Ok(());
    }
    let words: Vec<String> = command.get_args().map(|word| quoted(&word.to_string_lossy())).collect();
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().collect();
    bail!(
        "{} {}\nended with {}; its last lines on standard error:\n{}",
        command.get_program().to_string_lossy(),
        words.join(" "),
        output.status,
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    )
}

/// Entries of the run's log, in order; none while there is no log.
fn log_entries(output: &Path) -> Vec<Value> {
    let entries = fs::read_dir(output.join("log")).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).collect()
}

/// The folder of the last checkpoint of each stage.
fn last_checkpoints(output: &Path) -> anyhow::Result<BTreeMap<u64, PathBuf>> {
    let commit = |entry: &Value| Some((entry["stage_index"].as_u64()?, output.join(entry["folder"].as_str()?)));
    let last: BTreeMap<u64, PathBuf> = log_entries(output).iter().filter_map(commit).collect();
    ensure!(last.len() == 2, "found checkpoints of {} stages in {}; expected 2", last.len(), output.display());
    Ok(last)
}

fn wait_for_commits(child: &mut Child, output: &Path, commits: usize) -> anyhow::Result<()> {
    while log_entries(output).iter().filter(|entry| entry["folder"].is_string()).count() < commits {
        if let Some(status) = child.try_wait()? {
            bail!("a run in {} ended with {status} before it could be killed at commit {commits}", output.display());
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// Ends the launcher or a rank with SIGKILL, in turns, and waits for the launcher.
fn kill(child: &mut Child, output: &Path, turn: usize, world_size: usize) -> anyhow::Result<()> {
    let rank = || {
        let note = fs::read(output.join(format!("launch/rank-{}.pid", world_size - 1))).ok()?;
        let note: Value = serde_json::from_slice(&note).ok()?;
        Pid::from_raw(i32::try_from(note["pid"].as_i64()?).ok()?)
    };
    match (turn % 2, rank()) {
        (0, Some(rank)) => kill_process(rank, Signal::KILL).context("cannot kill a rank")?,
        _ => child.kill().context("cannot kill the launcher")?,
    }
    child.wait()?;
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Of one file with all trained parameters, however many ranks have written them.
fn sha256_of_parameters(checkpoint: &Path) -> anyhow::Result<String> {
    let entries = fs::read_dir(checkpoint).with_context(|| format!("cannot list {}", checkpoint.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    let of_parameters = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("trainable-") && name.ends_with(".safetensors")
    };
    files.retain(|path| of_parameters(path));
    ensure!(!files.is_empty(), "found no trainable-*.safetensors in {}", checkpoint.display());
    let contents = files.iter().map(|file| read(file)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut tensors = Vec::new();
    for (file, bytes) in files.iter().zip(&contents) {
        let parsed = SafeTensors::deserialize(bytes).with_context(|| format!("cannot read {}", file.display()))?;
        tensors.extend(parsed.tensors());
    }
    let about = [("format".to_owned(), "pt".to_owned())].into();
    let whole = safetensors::serialize(tensors, Some(about)).context("the parameters make no file")?;
    Ok(Sha256::digest(whole).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Stages and number formats in which not all rows have the same hash.
fn differing(rows: &[Row]) -> Vec<String> {
    let mut hashes: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for row in rows {
        let known = hashes.entry((&row.stage, &row.dtype)).or_default();
        if !known.contains(&row.sha256.as_str()) {
            known.push(&row.sha256);
        }
    }
    let several = hashes.into_iter().filter(|(_, hashes)| hashes.len() > 1);
    several.map(|((stage, dtype), hashes)| format!("{stage} in {dtype} ({} hashes)", hashes.len())).collect()
}

#[expect(clippy::print_stderr, reason = "progress goes to standard error")]
fn tell(what: &str) {
    eprintln!("verify exactness: {what}");
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn answer(rows: &[Row], equal: bool, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        println!("{}", serde_json::to_string(&json!({ "schema_version": 1, "rows": rows, "equal": equal }))?);
        return Ok(());
    }
    println!("{:<15} {:<5} {:<8} {:<8} {:>8} {:>6}  sha256", "stage", "dtype", "backend", "ranks", "restarts", "steps");
    for row in rows {
        let Row { stage, dtype, backend, world_sizes, restarts, steps, sha256, .. } = row;
        let ranks = world_sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        println!("{stage:<15} {dtype:<5} {backend:<8} {ranks:<8} {restarts:>8} {steps:>6}  {sha256}");
    }
    println!("{}", if equal { "equal: one hash for each stage and number format" } else { "NOT equal" });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(stage: &str, dtype: &str, sha256: &str) -> Row {
        Row {
            stage: stage.into(),
            dtype: dtype.into(),
            backend: "mpi",
            world_size: 2,
            world_sizes: vec![2],
            restarts: 0,
            steps: 20,
            sha256: sha256.into(),
        }
    }

    #[test]
    fn one_hash_for_each_stage_and_format_is_equal() {
        let mut rows = vec![row("a", "bf16", "1"), row("a", "f32", "2"), row("b", "bf16", "3"), row("a", "bf16", "1")];
        assert!(differing(&rows).is_empty());
        rows.push(row("b", "bf16", "4"));
        assert_eq!(differing(&rows), ["b in bf16 (2 hashes)"]);
    }
}
