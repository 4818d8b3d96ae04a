//! The SLURM allocation that this process is in, as SLURM's variables tell.

use std::path::Path;
use std::process::Command;

/// Steps from this id on are SLURM's own, such as the shell of an interactive `salloc`: one may start ranks from them.
const OWN_STEPS: u64 = 0xffff_fff0;

/// An allocation of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The job's id.
    pub job: String,
    /// How many nodes it has.
    pub nodes: usize,
    /// CPUs on the node that has fewest; `None` when SLURM does not say.
    pub cpus_per_node: Option<usize>,
    /// GPUs on this node; `None` when SLURM does not say.
    pub gpus_per_node: Option<usize>,
    /// Whether this process is on one of its nodes; the shell of an salloc may be on a login node.
    pub is_here: bool,
    /// Its nodes, as SLURM lists them.
    pub list: String,
    /// The nodes to use; empty for all.
    pub only: Vec<String>,
}

/// How this process stands to SLURM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In no allocation.
    Outside,
    /// In an allocation, free to start ranks on its nodes: a batch script, or the shell of `salloc`.
    Inside(Allocation),
    /// In a step of an allocation, that is under srun, with so many tasks.
    Step(usize),
}

impl Standing {
    /// From variables.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let number = |name: &str| variable(name).and_then(|text| text.trim().parse::<usize>().ok());
        let Some(job) = variable("SLURM_JOB_ID").filter(|job| !job.is_empty()) else { return Self::Outside };
        let step = variable("SLURM_STEP_ID").and_then(|text| text.trim().parse::<u64>().ok());
        if step.is_some_and(|step| step < OWN_STEPS) {
            return Self::Step(number("SLURM_STEP_NUM_TASKS").unwrap_or(1));
        }
        Self::Inside(Allocation {
            job,
            nodes: number("SLURM_JOB_NUM_NODES").or_else(|| number("SLURM_NNODES")).unwrap_or(1),
            cpus_per_node: variable("SLURM_JOB_CPUS_PER_NODE").as_deref().and_then(smallest_of_repeated),
            gpus_per_node: number("SLURM_GPUS_ON_NODE"),
            is_here: variable("SLURMD_NODENAME").is_some(),
            list: variable("SLURM_JOB_NODELIST").unwrap_or_default(),
            only: Vec::new(),
        })
    }
}

impl Allocation {
    /// The names of its nodes, as scontrol spells the list out; none where it does not.
    pub fn names(&self, scontrol: &Path) -> Vec<String> {
        let output = Command::new(scontrol).args(["show", "hostnames", &self.list]).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }
}

/// The smallest number of a list such as `8(x3),4`.
fn smallest_of_repeated(list: &str) -> Option<usize> {
    let value = |entry: &str| entry.split('(').next()?.trim().parse().ok();
    list.split(',').map(value).collect::<Option<Vec<usize>>>()?.into_iter().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Standing {
        Standing::of(|name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    const BATCH: [(&str, &str); 4] = [
        ("SLURM_JOB_ID", "17"),
        ("SLURM_JOB_NUM_NODES", "4"),
        ("SLURM_JOB_CPUS_PER_NODE", "8(x3),4"),
        ("SLURM_GPUS_ON_NODE", "2"),
    ];

    fn none() -> Allocation {
        Allocation {
            job: String::new(),
            nodes: 0,
            cpus_per_node: None,
            gpus_per_node: None,
            is_here: false,
            list: String::new(),
            only: vec![],
        }
    }

    #[test]
    fn a_batch_script_may_start_ranks_and_a_step_may_not() {
        let allocation =
            Allocation { job: "17".into(), nodes: 4, cpus_per_node: Some(4), gpus_per_node: Some(2), ..none() };
        assert_eq!(of(&BATCH), Standing::Inside(allocation.clone()));
        let with =
            |step: &'static str| [&BATCH[..], &[("SLURM_STEP_ID", step), ("SLURM_STEP_NUM_TASKS", "3")]].concat();
        assert_eq!(of(&with("0")), Standing::Step(3));
        // The shell of an interactive salloc.
        assert_eq!(of(&with("4294967290")), Standing::Inside(allocation));
        assert_eq!(of(&BATCH[1..]), Standing::Outside);
    }
}
