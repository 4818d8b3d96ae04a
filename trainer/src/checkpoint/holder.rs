//! Who holds a run, in facts that find the process again.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};

/// Who takes over a run. Facts that are not known are empty; nothing is concluded from them then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The machine's name.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// When the process started, in clock ticks since the machine did: the same number may be another process later.
    #[serde(default)]
    pub start_ticks: Option<u64>,
    /// The machine's id since it was started last.
    #[serde(default)]
    pub boot_id: String,
    /// In which numbering of processes `pid` counts, as `/proc/self/ns/pid` says: containers have their own.
    #[serde(default)]
    pub pid_namespace: String,
    /// The SLURM job, where there is one.
    #[serde(default)]
    pub slurm_job: Option<String>,
    /// How often SLURM restarted the job.
    #[serde(default)]
    pub restart_count: u64,
    /// Versions and anything else worth noting.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)?;
        match &self.slurm_job {
            Some(job) => write!(f, " (SLURM job {job}, restart {})", self.restart_count),
            None => Ok(()),
        }
    }
}

impl Holder {
    /// This process. `host` and what the environment says of a SLURM job are the caller's to add.
    pub fn this_process() -> Self {
        let pid = std::process::id();
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let pid_namespace = namespace.to_string_lossy().into_owned();
        Self { pid, start_ticks: start_ticks(pid), boot_id, pid_namespace, ..Self::default() }
    }

    /// Why this holder cannot write any more, as far as `observer` can know that without waiting.
    pub(super) fn gone(&self, observer: &Self) -> Option<&'static str> {
        let same_job = self.slurm_job.is_some() && self.slurm_job == observer.slurm_job;
        if same_job && self.restart_count < observer.restart_count {
            return Some("SLURM has started its job again");
        }
        let known = |text: &str| !text.is_empty();
        let same_host = self.host == observer.host && self.boot_id == observer.boot_id && known(&self.boot_id);
        let same_numbers = self.pid_namespace == observer.pid_namespace && known(&self.pid_namespace);
        let started = self.start_ticks.filter(|_| same_host && same_numbers)?;
        (start_ticks(self.pid) != Some(started)).then_some("its process has ended")
    }
}

/// When a process of this machine started, in clock ticks since the machine did; `None` when there is none, or only the
/// rest of one that has ended.
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold spaces; the third is the state, the 22nd the time.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn here() -> Holder {
        Holder { host: "here".into(), ..Holder::this_process() }
    }

    #[test]
    fn a_process_that_lives_is_not_gone_and_one_that_ended_is() {
        assert_eq!(here().gone(&here()), None);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let held = Holder { pid: child.id(), start_ticks: start_ticks(child.id()), ..here() };
        assert!(held.start_ticks.is_some());
        assert_eq!(held.gone(&here()), None);
        child.kill().unwrap();
        // Not waited for yet: what is left of it must not count as alive.
        while start_ticks(held.pid).is_some() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(held.gone(&here()), Some("its process has ended"));
        child.wait().unwrap();
        assert_eq!(held.gone(&here()), Some("its process has ended"));
    }

    #[test]
    fn another_process_of_the_same_number_is_not_the_holder() {
        let later = Holder { start_ticks: here().start_ticks.map(|ticks| ticks + 1), ..here() };
        assert_eq!(later.gone(&here()), Some("its process has ended"));
    }

    #[test]
    fn nothing_is_concluded_from_another_host_boot_or_numbering_of_processes_or_from_facts_that_lack() {
        let dead = Holder { start_ticks: Some(1), ..here() };
        assert!(dead.gone(&here()).is_some());
        for unknown in [
            Holder { host: "there".into(), ..dead.clone() },
            Holder { boot_id: "another".into(), ..dead.clone() },
            Holder { pid_namespace: "pid:[1]".into(), ..dead.clone() },
            Holder { start_ticks: None, ..dead.clone() },
        ] {
            assert_eq!(unknown.gone(&here()), None, "{unknown:?}");
        }
        let unknown = Holder { boot_id: String::new(), ..dead };
        assert_eq!(unknown.gone(&Holder { boot_id: String::new(), ..here() }), None);
    }

    #[test]
    fn a_slurm_job_that_was_started_again_replaces_its_earlier_self_alone() {
        let job = |job: &str, restart_count| Holder {
            host: "elsewhere".into(),
            slurm_job: Some(job.into()),
            restart_count,
            ..Holder::default()
        };
        assert!(job("7", 0).gone(&job("7", 1)).is_some());
        assert_eq!(job("7", 1).gone(&job("7", 1)), None);
        assert_eq!(job("7", 2).gone(&job("7", 1)), None);
        assert_eq!(job("7", 0).gone(&job("8", 1)), None);
        assert_eq!(Holder::default().gone(&Holder { restart_count: 1, ..Holder::default() }), None);
    }
}
