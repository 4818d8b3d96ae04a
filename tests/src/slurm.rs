//! A SLURM cluster of several nodes on this machine (`slurm/slurm-local`).

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::programs::all_output;
use crate::skip::{skip, tier_is_all};

/// The cluster; it ends with this value.
pub struct SlurmCluster {
    run: tempfile::TempDir,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("slurm/slurm-local")
}

impl SlurmCluster {
    /// Starts one with so many nodes of four CPUs; none, said aloud, where this machine cannot.
    ///
    /// # Panics
    /// When it should start and does not.
    pub fn start(test: &str, nodes: usize) -> Option<Self> {
        if !tier_is_all() {
            skip(test, "takes minutes; run `make test-all`");
            return None;
        }
        let is_there = |name: &str| {
            let mut asked = Command::new("sh");
            asked.args(["-c", &format!("PATH=$PATH:/usr/sbin:/sbin command -v {name}")]);
            asked.output().is_ok_and(|output| output.status.success())
        };
        let missing: Vec<&str> = ["munged", "slurmctld", "slurmd", "sbatch", "pgrep", "ip"]
            .into_iter()
            .filter(|name| !is_there(name))
            .collect();
        if !missing.is_empty() {
            let debian = "apt-get install --no-install-recommends slurm-wlm munge procps iproute2";
            skip(test, &format!("needs {} (on Debian: {debian})", missing.join(", ")));
            return None;
        }
        let cluster = Self { run: tempfile::tempdir().expect("a temporary folder") };
        // A folder that slurm-local makes itself, whose path is short: sockets lie in it.
        let started = cluster.local(&["start"]).env("SLURM_LOCAL_NODES", nodes.to_string()).output();
        let started = started.expect("slurm-local starts");
        if !started.status.success() && all_output(&started).contains("host name does not resolve") {
            skip(test, "needs root, or a host name that resolves to loopback");
            return None;
        }
        assert!(started.status.success(), "{}", all_output(&started));
        Some(cluster)
    }

    /// `slurm-local` with these arguments.
    pub fn local(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(script());
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .args(arguments)
            .env("SLURM_LOCAL_DIR", self.run.path().join("s"))
            .env("PATH", format!("{path}:/usr/sbin:/sbin"));
        command
    }

    /// A command as a client of the cluster, to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn exec(&self, arguments: &[&str]) -> Output {
        self.local(&[&["exec"], arguments].concat()).output().expect("slurm-local starts")
    }

    /// A field of a job as `scontrol` shows it.
    pub fn job_field(&self, job: &str, name: &str) -> Option<String> {
        let output = self.exec(&["scontrol", "--oneliner", "show", "job", job]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let fields = text.split_whitespace().filter_map(|word| word.split_once('='));
        let mut found = fields.filter(|(known, _)| *known == name).map(|(_, value)| value.to_owned());
        found.next()
    }

    /// Waits until a job has ended for good, and returns its state.
    ///
    /// # Panics
    /// When it has not within so many seconds.
    pub fn wait(&self, job: &str, seconds: u64) -> String {
        let until = Instant::now() + Duration::from_secs(seconds);
        loop {
            let state = self.job_field(job, "JobState").unwrap_or_default();
            if ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"].contains(&state.as_str()) {
                return state;
            }
            assert!(Instant::now() < until, "job {job} is {state} after {seconds} s");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for SlurmCluster {
    fn drop(&mut self) {
        // What cannot be stopped lies in namespaces that end with this machine.
        let _stopped = self.local(&["stop"]).output();
    }
}
