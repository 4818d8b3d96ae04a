//! How srun is told to start ranks, and the trial that shows whether it can.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::process;

/// How long the trial may take: two ranks start, add and end in 2 s here.
/// Time for srun to list what it knows.
const LISTED: Duration = Duration::from_secs(20);
const TRIAL: Duration = Duration::from_secs(90);

/// Tasks of one step.
#[derive(Clone, Copy, Debug)]
pub struct Tasks {
    /// All of them.
    pub count: usize,
    /// On each node.
    pub per_node: usize,
    /// Nodes.
    pub nodes: usize,
    /// CPUs of each, where the nodes have enough.
    pub cpus: Option<usize>,
}

/// Flags for these tasks, the program to come after them.
pub fn flags(tasks: Tasks) -> Vec<String> {
    let mut flags = vec![
        "--mpi=pmix".to_owned(),
        format!("--nodes={}", tasks.nodes),
        format!("--ntasks={}", tasks.count),
        format!("--ntasks-per-node={}", tasks.per_node),
    ];
    match tasks.cpus {
        Some(cpus) => flags.push(format!("--cpus-per-task={cpus}")),
        // More ranks or threads than CPUs are allowed.
        None => flags.push("--overcommit".to_owned()),
    }
    // One rank that ends badly ends all: the others would wait for it. Sites may have jobs export nothing unless told to.
    flags.extend(["--kill-on-bad-exit=1", "--export=ALL", "--unbuffered", "--input=0"].map(str::to_owned));
    flags
}

/// Whether srun knows PMIx at all; `Err` says in words that it does not.
pub fn has_pmix(srun: &Path) -> Result<(), String> {
    let listed =
        process::output_within(Command::new(srun).arg("--mpi=list"), LISTED).map_err(|error| error.to_string())?;
    let listed = listed.ok_or_else(|| format!("`srun --mpi=list` did not end within {} s", LISTED.as_secs()))?;
    let kinds = [listed.stdout, listed.stderr].concat();
    match String::from_utf8_lossy(&kinds).contains("pmix") {
        true => Ok(()),
        false => Err("this SLURM has no PMIx (`srun --mpi=list` does not name it)".to_owned()),
    }
}

/// Runs `blip2-rank self-check` as two tasks. `Err` says in words why srun cannot start our ranks.
pub fn trial(srun: &Path, nodes: usize, options: &[String], rank: &[String]) -> Result<(), String> {
    let nodes = nodes.min(2);
    let tasks = Tasks { count: 2, per_node: 2 / nodes, nodes, cpus: None };
    let mut command = Command::new(srun);
    command
        .args(flags(tasks))
        .args(["--time=2", "--overlap", "--quiet"])
        .args(options)
        .args(rank)
        .args(["self-check", "--json"]);
    let failed = |error| format!("{} failed: {error}", srun.display());
    let output = process::output_within(&mut command, TRIAL).map_err(failed)?;
    let output = output.ok_or_else(|| format!("a trial of two ranks did not end within {} s", TRIAL.as_secs()))?;
    let answer: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
    let met = answer.and_then(|report| report["ranks"].as_array().map(Vec::len));
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = errors.lines().map(|line| line.trim_start_matches("srun: error:").trim());
    let first = said.filter(|line| !line.is_empty() && !line.starts_with('-')).take(2);
    match met {
        Some(2) if output.status.success() => Ok(()),
        Some(found) => Err(format!("a trial of two ranks gave {found} that met")),
        None => Err(format!("a trial of two ranks failed: {}", first.collect::<Vec<_>>().join("; "))),
    }
}
