//! What all checks know: the run, where programs are, and what was found to be broken.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use configs::{Backend, Run};
use serde_json::Value;

use super::check::Check;
use crate::ranks::allocation::Standing;
use crate::ranks::{Plan, Programs, gpus, process};

/// What a rank's program prints when it has its findings.
const RESULT: &str = "{\"event\":\"result\"";
/// Lines of standard error that a message repeats.
const REPEATED: usize = 4;
/// Time that a rank has to end beyond the time that its look is given.
const GRACE: Duration = Duration::from_secs(3);

/// Words of errors that MPI or what starts its ranks is the cause of.
const OF_MPI: [&str; 6] = ["libblip2_mpi", "mpi:", "mpi_", "mpirun", "prte", "pmix"];

/// What all checks know.
pub struct Context {
    /// The run.
    pub run: Run,
    /// How ranks are told of its config: a path, or `preset:tiny`.
    pub config: String,
    /// Overrides.
    pub set: Vec<String>,
    /// Programs and variables.
    pub programs: Programs,
    /// Samples to decode, over all sources.
    pub samples: usize,
    /// Whether SLURM was asked for.
    pub slurm: bool,
    /// Whether progress is told.
    pub talks: bool,
    /// Checks that failed and that others build on.
    broken: Mutex<BTreeSet<String>>,
}

impl Context {
    /// Before anything was looked at.
    pub fn new(run: Run, config: String, set: Vec<String>, programs: Programs) -> Self {
        Self { run, config, set, programs, samples: 1000, slurm: false, talks: true, broken: Mutex::default() }
    }

    /// The tiny preset with some values of its own.
    #[cfg(test)]
    pub fn for_tests(set: &[&str]) -> Self {
        let text = configs::preset("tiny").unwrap();
        let run = configs::load_str("tiny.yaml", text, &configs::Overrides::new(set.iter().copied())).unwrap();
        let mut context = Self::new(run, "preset:tiny".into(), Vec::new(), Programs::default());
        context.talks = false;
        context
    }

    /// Whether this host only submits the run: SLURM is at hand, the run is meant for its GPUs, and this host has none.
    pub fn is_login_node(&self) -> bool {
        let cluster = &self.run.cluster;
        cluster.backend == Backend::Nccl
            && (cluster.nodes > 1 || cluster.slurm.partition.is_some())
            && self.programs.standing() == Standing::Outside
            && self.programs.on_path("srun").is_some()
            && matches!(gpus::here(&self.programs), Some((0, _)))
    }

    /// Says on standard error what is looked at.
    #[expect(clippy::print_stderr, reason = "progress goes to standard error")]
    pub fn say(&self, what: &str) {
        if self.talks {
            eprintln!("doctor: {what} …");
        }
    }

    /// Notes that something others build on does not work.
    pub fn note_broken(&self, what: &str) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).insert(what.to_owned());
    }

    /// Whether something was found not to work.
    pub fn is_broken(&self, what: &str) -> bool {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).contains(what)
    }

    /// The arguments of `blip2-rank doctor` for a part.
    pub fn arguments(&self, part: &str, within_s: u64) -> Vec<String> {
        let mut arguments =
            ["doctor", part, &self.config, "--within", &within_s.to_string()].map(str::to_owned).to_vec();
        arguments.extend(self.set.iter().flat_map(|set| ["--set".to_owned(), set.clone()]));
        arguments
    }

    /// What one rank finds of a part. A rank that fails or does not end is a finding of its own, named `name`.
    pub fn ask_rank(&self, name: &str, part: &str, within_s: u64) -> Vec<Check> {
        if self.is_broken(super::RANK_PROGRAM) {
            return vec![Check::skipped(name, "blip2-rank cannot be started, as said above")];
        }
        let threads = self.run.cluster.threads_per_rank;
        match Plan::local(&self.programs, 1, threads, self.arguments(part, within_s)) {
            Ok(plan) => self.answer(name, &plan, within_s),
            Err(error) => vec![Check::failure(name, format!("{error:#}"), "blip2-rank", super::INSTALL)],
        }
    }

    /// The command of a plan. A rank that is alone must not take itself for one of the step that this process may be
    /// in.
    pub fn command(&self, plan: &Plan) -> Command {
        let mut command = plan.command();
        if plan.ranks == 1 {
            let is_of_step = |name: &&String| name.starts_with("SLURM_") || name.starts_with("PMI");
            self.programs.variables.keys().filter(is_of_step).for_each(|name| _ = command.env_remove(name));
        }
        command
    }

    /// What ranks find that a plan starts.
    pub fn answer(&self, name: &str, plan: &Plan, within_s: u64) -> Vec<Check> {
        let limit = Duration::from_secs(within_s) + GRACE;
        let output = match process::output_within(&mut self.command(plan), limit) {
            Ok(Some(output)) => output,
            Ok(None) => return vec![late(name, within_s)],
            Err(error) => {
                let found = format!("{} cannot be started: {error}", plan.program.display());
                return vec![Check::failure(name, found, "a program that starts", super::INSTALL)];
            }
        };
        let said = String::from_utf8_lossy(&output.stdout);
        match findings(&said) {
            Some(checks) if output.status.success() => checks,
            _ => vec![ended(name, &output.status.to_string(), &String::from_utf8_lossy(&output.stderr))],
        }
    }
}

/// The findings in what a rank printed.
fn findings(said: &str) -> Option<Vec<Check>> {
    let line = said.lines().find(|line| line.starts_with(RESULT))?;
    let event: Value = serde_json::from_str(line).ok()?;
    serde_json::from_value(event["result"]["checks"].clone()).ok()
}

/// A look that did not end. A step on processors may rightly take longer than there is time; anything else hangs.
fn late(name: &str, within_s: u64) -> Check {
    let found = format!("not done within {within_s} s");
    match name {
        "step" => Check::warning(
            name,
            found,
            "a step of each stage",
            "a step of this size takes longer here, as on processors or a GPU that others use: time it with `blip2 \
                 bench step`, \
             or look on a node that trains",
        ),
        _ => {
            let fix = "something that the rank asks hangs: a store, a network file system, MPI or a driver; see the \
                 other checks";
            Check::failure(name, found, "an answer", fix)
        }
    }
}

/// A rank that ended without its findings.
fn ended(name: &str, status: &str, errors: &str) -> Check {
    let lines: Vec<&str> = errors.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // The first line that names an error says more than the last ones of a trace.
    let first = lines.iter().position(|line| line.contains("error") || line.contains("panicked"));
    let told = lines.iter().skip(first.unwrap_or(lines.len().saturating_sub(REPEATED))).take(REPEATED);
    let told = told.copied().collect::<Vec<_>>().join(" | ");
    let told = if told.is_empty() { "it said nothing".to_owned() } else { told };
    let lower = errors.to_ascii_lowercase();
    let fix = match () {
        () if lower.contains("out of memory")
            || lower.contains("not enough memory")
            || status.contains("signal: 9") =>
        {
            "memory did not suffice: use more slices (stages.*.slices), fewer ranks on the host, bf16, or more memory"
        }
        () if OF_MPI.iter().any(|word| lower.contains(word)) => super::MPI_FIX,
        () => "see the message; `blip2-rank self-check` says which libraries are found",
    };
    Check::failure(name, format!("{status}: {told}"), "ranks that end well", fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::State;

    #[test]
    fn findings_are_read_among_other_lines() {
        let said = "a line of \
             mpirun\n{\"event\":\"message\",\"text\":\"x\"}\n{\"event\":\"result\",\"result\":{\"checks\":\
                    [{\"name\":\"ranks\",\"state\":\"ok\",\"found\":\"2\",\"expected\":\"2\",\"fix\":\"\"}]}}\n";
        assert_eq!(findings(said).unwrap(), [Check::ok("ranks", "2", "2")]);
        assert_eq!(findings("nothing"), None);
    }

    #[test]
    fn a_login_node_has_srun_and_no_gpu() {
        let folder = std::env::temp_dir().join(format!("blip2-doctor-login-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("srun"), "").unwrap();
        let mut context = Context::for_tests(&["cluster.backend=nccl", "cluster.slurm.partition=gpu"]);
        context.programs.path = Some(folder.clone().into());
        context.programs.variables = [("CUDA_VISIBLE_DEVICES".to_owned(), String::new())].into();
        assert!(context.is_login_node());
        context.programs.variables = [("CUDA_VISIBLE_DEVICES".to_owned(), "0".to_owned())].into();
        assert!(!context.is_login_node());
        context.programs.path = None;
        assert!(!context.is_login_node());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn ranks_that_fail_say_why_and_what_to_do() {
        let check = ended("step", "exit status: 1", "a\nb\nerror: CUDA out of memory. Tried 2 GiB\n");
        assert!(check.found.contains("Tried 2 GiB") && check.fix.contains("slices"), "{check:?}");
        let check = ended("ranks", "exit status: 1", "error: the MPI piece libblip2_mpi.so could not be loaded\n");
        assert!(check.fix.contains("BLIP2_MPI_LIBRARY"), "{check:?}");
        assert_eq!((late("step", 9).state, late("ranks", 9).state), (State::Warning, State::Failure));
    }
}
