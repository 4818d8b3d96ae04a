//! Times a few steps of every stage on this machine, as many ranks side by side as the run has on one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use configs::{Backend, Flops, Run, Stage};
use serde_json::Value;

use super::shares::most_slices;
use super::speed::Measured;
use crate::exit::Unusable;
use crate::ranks::{Plan, Programs};

/// Seconds that the steps of one stage should take, with those before the timed ones.
const SECONDS_PER_STAGE: f64 = 12.0;
/// Steps before the timed ones: kernels are chosen, memory is touched.
const WARMUP: usize = 2;
/// A guess of what a thread computes in a second, for the number of steps (docs/benchmarks/step.md: 276 GFLOP by two threads).
const THREAD_FLOPS: f64 = 1.0e11;
/// The same for a GPU.
const GPU_FLOPS: f64 = 2.0e14;

/// A step of each stage of the run, measured.
///
/// # Errors
/// Programs that are not found; steps that fail, for lack of memory for instance.
pub fn measure(run: &Run, ranks: usize, programs: &Programs) -> anyhow::Result<Vec<Measured>> {
    programs
        .rank()
        .map_err(|error| Unusable(format!("--calibrate starts blip2-rank, the program that trains: {error:#}")))?;
    let file = RunFile::write(run)?;
    run.stages.iter().map(|stage| measure_stage(run, stage, ranks, programs, &file.0)).collect()
}

fn measure_stage(run: &Run, stage: &Stage, ranks: usize, programs: &Programs, file: &Path) -> anyhow::Result<Measured> {
    let bench = Bench::of(run, stage, ranks);
    let plan = Plan::local(programs, bench.ranks, run.cluster.threads_per_rank, bench.arguments(run, stage, file))?;
    let answer = answer(&mut plan.command()).with_context(|| {
        format!(
            "--calibrate could not time stage {}: {plan}. Try fewer images with --set, or name a GPU with --gpu",
            stage.name()
        )
    })?;
    read(&answer, bench.ranks).with_context(|| format!("{plan} answered otherwise than expected"))
}

/// What is timed: the ranks of one machine with as many images for each as in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bench {
    ranks: usize,
    slices: usize,
    batch: usize,
    steps: usize,
}

impl Bench {
    fn of(run: &Run, stage: &Stage, ranks: usize) -> Self {
        let on_gpu = run.cluster.backend == Backend::Nccl;
        // One GPU stands for all: a benchmark's ranks would share it.
        let side_by_side = if on_gpu { 1 } else { ranks.min(run.cluster.ranks_per_node) };
        let slices = most_slices(ranks, stage.slices()) * side_by_side;
        let batch = slices * stage.slice_size();
        let rate = if on_gpu { GPU_FLOPS } else { THREAD_FLOPS * (side_by_side * run.cluster.threads_per_rank) as f64 };
        let step_s = batch as f64 * Flops::of(&run.model, stage).total() / rate;
        let steps = ((SECONDS_PER_STAGE / step_s) as usize).saturating_sub(WARMUP).clamp(3, 20);
        Self { ranks: side_by_side, slices, batch, steps }
    }

    fn arguments(&self, run: &Run, stage: &Stage, file: &Path) -> Vec<String> {
        let number = match stage {
            Stage::Representation(_) => 1,
            Stage::Generative(_) => 2,
        };
        let mut words = vec!["bench-step".to_owned(), "--run".to_owned(), file.display().to_string()];
        for (name, value) in [
            ("--stage", number),
            ("--batch", self.batch),
            ("--slices", self.slices),
            ("--steps", self.steps),
            ("--warmup", WARMUP),
            ("--threads", run.cluster.threads_per_rank),
        ] {
            words.extend([name.to_owned(), value.to_string()]);
        }
        if run.cluster.backend == Backend::Nccl {
            words.extend(["--device".to_owned(), "cuda".to_owned()]);
        }
        words
    }
}

/// The object that the program prints; what it says else goes on to standard error.
fn answer(command: &mut Command) -> anyhow::Result<Value> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("it cannot be started")?;
    ensure!(output.status.success(), "it ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("it printed no JSON object")
}

fn read(answer: &Value, ranks: usize) -> anyhow::Result<Measured> {
    let seconds = answer.pointer("/sides/0/step_seconds").and_then(Value::as_array).context("found no step_seconds")?;
    let mut seconds: Vec<f64> = seconds.iter().filter_map(Value::as_f64).collect();
    ensure!(!seconds.is_empty(), "found no times of steps");
    seconds.sort_by(f64::total_cmp);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let peak_memory_bytes = answer["peak_memory_bytes"].as_u64();
    Ok(Measured { step_s: seconds[seconds.len() / 2], ranks, cores, peak_memory_bytes })
}

/// The resolved run in a file, while it is needed.
struct RunFile(PathBuf);

impl RunFile {
    fn write(run: &Run) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("blip2-plan-{}.yaml", std::process::id()));
        std::fs::write(&path, run.to_yaml()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        // What is left over lies among temporary files.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::preset;
    use super::*;

    #[test]
    fn ranks_of_one_machine_are_timed_with_the_slices_of_each() {
        let mid = preset("mid", &[]);
        let bench = Bench::of(&mid, &mid.stages[0], 2);
        assert_eq!((bench.ranks, bench.slices, bench.batch), (2, 2, 16));
        assert!((3..=20).contains(&bench.steps), "{}", bench.steps);
        let alone = Bench::of(&mid, &mid.stages[0], 1);
        assert_eq!((alone.ranks, alone.slices, alone.batch), (1, 2, 16));
        let large = preset("vitg_opt2.7b", &[]);
        let bench = Bench::of(&large, &large.stages[0], 8);
        assert_eq!((bench.ranks, bench.slices, bench.batch), (1, 2, 210));
        let words = bench.arguments(&large, &large.stages[1], Path::new("run.yaml")).join(" ");
        assert!(words.starts_with("bench-step --run run.yaml --stage 2 --batch 210 --slices 2"), "{words}");
        assert!(words.ends_with("--device cuda"), "{words}");
    }

    #[test]
    fn the_median_of_the_steps_counts() {
        let answer = json!({ "sides": [{ "step_seconds": [9.0, 1.0, 2.0] }], "peak_memory_bytes": 7 });
        let found = read(&answer, 2).unwrap();
        assert_eq!((found.step_s, found.ranks, found.peak_memory_bytes), (2.0, 2, Some(7)));
        assert!(read(&json!({ "sides": [] }), 1).unwrap_err().to_string().contains("step_seconds"));
    }
}
