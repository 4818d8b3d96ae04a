//! Runs on a SLURM of several nodes on this machine: whatever SLURM does to a job, it trains the bits of an undisturbed run.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking and says what it does")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use integration_tests::programs::{all_output, built, run_within};
use integration_tests::runs::{assert_same, launch, num_commits, overrides, trained};
use integration_tests::slurm::SlurmCluster;

/// Steps of the first stage of runs that are disturbed.
const STEPS: u64 = 240;
/// Seconds that the run lasts which meets its time limit: SLURM sends the signal about 48 s after the start.
const LONG_S: f64 = 110.0;
/// A requeued job starts after 12 s, a dead node is noticed after 30; a slow machine under load gets many times that.
const LIMIT_S: u64 = 600;

/// One cluster at a time: this machine has few cores.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all runs share: shards, towers, and what an undisturbed run of so many steps trained.
struct Reference {
    steps: u64,
    output: PathBuf,
    shared: PathBuf,
    trained: BTreeMap<String, Vec<u8>>,
}

/// The overrides that make a run as long as that.
fn length(steps: u64) -> [String; 3] {
    let (generative, every) = (steps / 6, (steps / 12).max(5));
    [
        format!("stages.representation.steps={steps}"),
        format!("stages.generative.steps={generative}"),
        format!("checkpoint.every_steps={every}"),
    ]
}

impl Reference {
    fn of(steps: u64) -> Self {
        static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
        let shared = FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path().to_path_buf();
        let output = shared.join(format!("undisturbed-{steps}"));
        let mut command = launch(&output, &shared, 1);
        for set in length(steps) {
            command.args(["--set", &set]);
        }
        let made = run_within(LIMIT_S as u32, &command);
        assert!(made.status.success(), "{}", all_output(&made));
        Self { steps, trained: trained(&output), output, shared }
    }

    /// Steps per second of its first stage.
    fn speed(&self) -> f64 {
        let segments = std::fs::read_dir(self.output.join("metrics")).unwrap().map(|entry| entry.unwrap().path());
        let segment = segments.filter(|path| path.extension().is_some_and(|ending| ending == "jsonl")).min().unwrap();
        let text = std::fs::read_to_string(segment).unwrap();
        let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let of_stage = records.filter(|record| record["stage"] == "representation");
        let points: Vec<(f64, f64)> =
            of_stage.map(|record| (record["time"].as_f64().unwrap(), record["step"].as_f64().unwrap())).collect();
        let ((began, first), (ended, last)) = (points[0], points[points.len() - 1]);
        (last - first) / (ended - began)
    }
}

fn reference() -> &'static Reference {
    static MADE: OnceLock<Reference> = OnceLock::new();
    MADE.get_or_init(|| Reference::of(STEPS))
}

/// A job of such a run.
struct Job<'a> {
    cluster: &'a SlurmCluster,
    reference: &'a Reference,
    id: String,
    output: PathBuf,
}

impl<'a> Job<'a> {
    fn submit(cluster: &'a SlurmCluster, name: &str, nodes: usize, more: &[&str]) -> Self {
        Self::submit_like(reference(), cluster, name, nodes, more)
    }

    fn submit_like(
        reference: &'a Reference,
        cluster: &'a SlurmCluster,
        name: &str,
        nodes: usize,
        more: &[&str],
    ) -> Self {
        let output = reference.shared.join(name);
        let (blip2, nodes) = (built("blip2").display().to_string(), nodes.to_string());
        let mut words = vec![blip2, "submit".into(), "tiny".into(), "--json".into(), "--nodes".into(), nodes];
        for set in overrides(&output, &reference.shared).into_iter().chain(length(reference.steps)) {
            words.extend(["--set".to_owned(), set]);
        }
        words.extend(["--set", "cluster.ranks_per_node=1"].map(str::to_owned));
        words.extend(more.iter().map(|word| (*word).to_owned()));
        let submitted = cluster.exec(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(submitted.status.success(), "{}", all_output(&submitted));
        let note: serde_json::Value = serde_json::from_slice(&submitted.stdout).unwrap();
        Self { cluster, reference, id: note["job"].as_str().unwrap().to_owned(), output }
    }

    /// Waits until so many checkpoints are committed.
    fn wait_for_commits(&self, commits: usize) {
        let until = Instant::now() + Duration::from_secs(LIMIT_S);
        while num_commits(&self.output) < commits {
            assert!(Instant::now() < until, "{} commits; the job wrote:\n{}", num_commits(&self.output), self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn status(&self) -> serde_json::Value {
        let output =
            self.cluster.exec(&[built("blip2").to_str().unwrap(), "status", "--json", self.output.to_str().unwrap()]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", all_output(&output)))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.output.join(format!("launch/slurm-{}.out", self.id))).unwrap_or_default()
    }

    /// The job ends well, after so many starts by SLURM, with the bits of the undisturbed run.
    fn ends_as_undisturbed(&self, restarts: u64) {
        let state = self.cluster.wait(&self.id, LIMIT_S);
        assert_eq!(state, "COMPLETED", "the job wrote:\n{}", self.log());
        let found = self.cluster.job_field(&self.id, "Restarts").and_then(|count| count.parse::<u64>().ok());
        assert!(
            found >= Some(restarts),
            "found {found:?} restarts by SLURM, expected {restarts}; the job wrote:\n{}",
            self.log()
        );
        assert_same(&self.output.display().to_string(), &trained(&self.output), &self.reference.trained);
        assert_eq!(self.status()["state"], "done");
    }
}

#[test]
fn two_and_four_nodes_by_srun_and_by_mpirun() {
    let _turn = alone();
    let Some(cluster) = SlurmCluster::start("two_and_four_nodes_by_srun_and_by_mpirun", 4) else { return };
    for (name, nodes, starter) in [("auto-2", 2, "auto"), ("mpirun-4", 4, "mpirun")] {
        let job = Job::submit(&cluster, name, nodes, &["--launcher", starter]);
        let state = job.status()["state"].clone();
        assert!(state == "queued" || state == "running", "{state}");
        job.wait_for_commits(1);
        let status = job.status();
        assert_eq!(
            (status["state"].as_str(), status["job"]["state"].as_str()),
            (Some("running"), Some("RUNNING")),
            "{status}"
        );
        job.ends_as_undisturbed(0);
    }
}

#[test]
fn a_job_that_meets_its_time_limit_goes_on_in_the_next() {
    let _turn = alone();
    let test = "a_job_that_meets_its_time_limit_goes_on_in_the_next";
    let Some(cluster) = SlurmCluster::start(test, 2) else { return };
    let long = Reference::of(((reference().speed() * LONG_S) as u64).max(STEPS));
    let limits = ["--time", "1", "--set", "cluster.slurm.signal_before_end_s=10"];
    Job::submit_like(&long, &cluster, "limited", 2, &limits).ends_as_undisturbed(1);
}

#[test]
fn the_signal_before_the_time_limit_requeues_the_job() {
    let _turn = alone();
    let Some(cluster) = SlurmCluster::start("the_signal_before_the_time_limit_requeues_the_job", 2) else { return };
    // What SLURM sends before the time limit, at a moment that does not depend on this machine's speed.
    let job = Job::submit(&cluster, "signal", 2, &["--time", "30"]);
    job.wait_for_commits(2);
    let sent = cluster.exec(&["scancel", "--batch", "--signal=USR1", &job.id]);
    assert!(sent.status.success(), "{}", all_output(&sent));
    job.ends_as_undisturbed(1);
}

#[test]
fn a_requeue_by_an_administrator_goes_on() {
    let _turn = alone();
    let Some(cluster) = SlurmCluster::start("a_requeue_by_an_administrator_goes_on", 2) else { return };
    let job = Job::submit(&cluster, "requeue", 2, &[]);
    job.wait_for_commits(2);
    let asked = cluster.exec(&["scontrol", "requeue", &job.id]);
    assert!(asked.status.success(), "{}", all_output(&asked));
    job.ends_as_undisturbed(1);
}

#[test]
fn a_job_that_is_preempted_comes_back() {
    let _turn = alone();
    let Some(cluster) = SlurmCluster::start("a_job_that_is_preempted_comes_back", 2) else { return };
    let job = Job::submit(&cluster, "preempted", 2, &[]);
    job.wait_for_commits(2);
    let urgent = cluster.exec(&[
        "sbatch",
        "--parsable",
        "--partition=urgent",
        "--exclusive",
        "--nodes=2",
        "--output=/dev/null",
        "--wrap=sleep 3",
    ]);
    assert!(urgent.status.success(), "{}", all_output(&urgent));
    job.ends_as_undisturbed(1);
}

#[test]
fn a_job_that_loses_a_node_goes_on_on_another() {
    let _turn = alone();
    let Some(cluster) = SlurmCluster::start("a_job_that_loses_a_node_goes_on_on_another", 3) else { return };
    // The launcher's own tries, on a node that is gone, last until SLURM notices and puts the job back into the queue.
    let job = Job::submit(&cluster, "node-lost", 2, &["--set", "cluster.restarts.max=10"]);
    job.wait_for_commits(2);
    // Not the one on which the batch script runs.
    let nodes = cluster.job_field(&job.id, "BatchHost").unwrap();
    let other = ["n1", "n2"].into_iter().find(|node| *node != nodes).unwrap();
    let killed = cluster.local(&["node-kill", other]).output().unwrap();
    assert!(killed.status.success(), "{}", all_output(&killed));
    job.ends_as_undisturbed(1);
}
