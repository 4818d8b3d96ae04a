//! Which rank this process is: the one place that reads the launchers' environment variables.

use std::env;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ClusterError;

/// Who started this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Launcher {
    /// Nobody in particular: a world of one.
    None,
    /// Open MPI's mpirun (also inside a SLURM allocation).
    OpenMpi,
    /// A PMI launcher such as MPICH's mpiexec.
    Pmi,
    /// SLURM's srun.
    Slurm,
    /// torchrun, or a script that sets its variables.
    Torchrun,
}

impl fmt::Display for Launcher {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::None => "none",
            Self::OpenMpi => "Open MPI",
            Self::Pmi => "PMI",
            Self::Slurm => "SLURM",
            Self::Torchrun => "torchrun",
        })
    }
}

/// This process's place among the processes of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Who set the variables.
    pub launcher: Launcher,
    /// This process, from 0.
    pub rank: usize,
    /// How many processes the job has.
    pub world_size: usize,
    /// This process among those of its host, from 0.
    pub local_rank: usize,
    /// How many processes of the job run on this host.
    pub local_size: usize,
}

/// The variables of one launcher: rank, world size, local rank, local size.
struct Names {
    launcher: Launcher,
    rank: &'static str,
    world_size: &'static str,
    local_rank: &'static str,
    local_size: &'static str,
}

/// In this order: mpirun inside a SLURM allocation sets both its own and SLURM's variables, and the
/// ranks are then mpirun's.
const LAUNCHERS: [Names; 4] = [
    Names {
        launcher: Launcher::OpenMpi,
        rank: "OMPI_COMM_WORLD_RANK",
        world_size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
    },
    // SLURM_STEP_*, not SLURM_NTASKS: a batch script carries the latter without being a rank itself.
    Names {
        launcher: Launcher::Slurm,
        rank: "SLURM_PROCID",
        world_size: "SLURM_STEP_NUM_TASKS",
        local_rank: "SLURM_LOCALID",
        local_size: "SLURM_STEP_TASKS_PER_NODE",
    },
    Names {
        launcher: Launcher::Pmi,
        rank: "PMI_RANK",
        world_size: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        local_size: "MPI_LOCALNRANKS",
    },
    Names {
        launcher: Launcher::Torchrun,
        rank: "RANK",
        world_size: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        local_size: "LOCAL_WORLD_SIZE",
    },
];

impl Topology {
    /// Reads this process's environment.
    ///
    /// # Errors
    /// [`ClusterError::Variable`] when a launcher's variables are incomplete or contradict each other.
    pub fn from_environment() -> Result<Self, ClusterError> {
        Self::from_variables(|name| env::var(name).ok())
    }

    /// Reads the variables that `variable` gives; a world of one when no launcher set its own.
    ///
    /// # Errors
    /// [`ClusterError::Variable`] when a launcher's variables are incomplete or contradict each other.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ClusterError> {
        for names in &LAUNCHERS {
            if variable(names.rank).is_some() && variable(names.world_size).is_some() {
                return read(names, &variable);
            }
        }
        if variable("PMIX_RANK").is_some() {
            // PMIx gives the rank but no size; its launchers (mpirun, prterun, srun) set their own variables beside it.
            return Err(ClusterError::Variable {
                name: "OMPI_COMM_WORLD_SIZE".to_owned(),
                found: None,
                expected: "the number of ranks beside PMIX_RANK (start the job with mpirun or srun)".to_owned(),
            });
        }
        Ok(Self { launcher: Launcher::None, rank: 0, world_size: 1, local_rank: 0, local_size: 1 })
    }
}

fn read(names: &Names, variable: &impl Fn(&str) -> Option<String>) -> Result<Topology, ClusterError> {
    let world_size = number(names.world_size, variable)?;
    let local_size = if names.launcher == Launcher::Slurm {
        tasks_on_this_node(names.local_size, variable)?
    } else {
        number(names.local_size, variable)?
    };
    let rank = number(names.rank, variable)?;
    let local_rank = number(names.local_rank, variable)?;
    let below = |name: &str, value: usize, limit: usize| {
        if value < limit {
            return Ok(());
        }
        Err(ClusterError::Variable {
            name: name.to_owned(),
            found: Some(value.to_string()),
            expected: format!("a number below {limit}"),
        })
    };
    below(names.rank, rank, world_size)?;
    below(names.local_rank, local_rank, local_size)?;
    Ok(Topology { launcher: names.launcher, rank, world_size, local_rank, local_size })
}

fn number(name: &str, variable: &impl Fn(&str) -> Option<String>) -> Result<usize, ClusterError> {
    let found = variable(name);
    let parsed = found.as_deref().and_then(|text| text.trim().parse().ok());
    parsed.ok_or_else(|| ClusterError::Variable {
        name: name.to_owned(),
        found,
        expected: "a number from 0".to_owned(),
    })
}

/// SLURM lists the tasks of all nodes, `2(x3),1` for 2, 2, 2, 1; SLURM_NODEID says which node is ours.
fn tasks_on_this_node(name: &str, variable: &impl Fn(&str) -> Option<String>) -> Result<usize, ClusterError> {
    let node = number("SLURM_NODEID", variable)?;
    let list = variable(name);
    let found = list.as_deref().and_then(|text| nth_of_repeated(text, node));
    found.ok_or_else(|| ClusterError::Variable {
        name: name.to_owned(),
        found: list,
        expected: format!("a list such as 2(x3),1 with an entry for node {node}"),
    })
}

fn nth_of_repeated(list: &str, index: usize) -> Option<usize> {
    let mut end = 0_usize;
    for entry in list.split(',') {
        let (value, repeats) = match entry.trim().strip_suffix(')').and_then(|entry| entry.split_once("(x")) {
            Some((value, repeats)) => (value, repeats.parse().ok()?),
            None => (entry.trim(), 1),
        };
        end = end.checked_add(repeats)?;
        if index < end {
            return value.parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Topology, ClusterError> {
        let pairs: Vec<_> = pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Topology::from_variables(move |name| {
            pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        })
    }

    const MPIRUN: [(&str, &str); 4] = [
        ("OMPI_COMM_WORLD_RANK", "3"),
        ("OMPI_COMM_WORLD_SIZE", "4"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
    ];
    const SRUN: [(&str, &str); 5] = [
        ("SLURM_PROCID", "6"),
        ("SLURM_STEP_NUM_TASKS", "7"),
        ("SLURM_LOCALID", "0"),
        ("SLURM_NODEID", "3"),
        ("SLURM_STEP_TASKS_PER_NODE", "2(x3),1"),
    ];

    #[test]
    fn without_a_launcher_the_world_is_one() {
        let alone = of(&[]).unwrap();
        assert_eq!((alone.launcher, alone.rank, alone.world_size), (Launcher::None, 0, 1));
    }

    #[test]
    fn a_batch_script_is_not_a_rank() {
        let script = of(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8"), ("SLURM_LOCALID", "0")]).unwrap();
        assert_eq!(script.world_size, 1);
    }

    #[test]
    fn every_launcher_is_read() {
        let expected = Topology { launcher: Launcher::OpenMpi, rank: 3, world_size: 4, local_rank: 1, local_size: 2 };
        assert_eq!(of(&MPIRUN).unwrap(), expected);
        let expected = Topology { launcher: Launcher::Slurm, rank: 6, world_size: 7, local_rank: 0, local_size: 1 };
        assert_eq!(of(&SRUN).unwrap(), expected);
        let pmi = [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "1"), ("MPI_LOCALNRANKS", "2")];
        let expected = Topology { launcher: Launcher::Pmi, rank: 1, world_size: 2, local_rank: 1, local_size: 2 };
        assert_eq!(of(&pmi).unwrap(), expected);
        let torchrun = [("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")];
        let expected = Topology { launcher: Launcher::Torchrun, rank: 1, world_size: 2, local_rank: 0, local_size: 1 };
        assert_eq!(of(&torchrun).unwrap(), expected);
    }

    #[test]
    fn mpirun_inside_an_allocation_wins() {
        let both: Vec<_> = SRUN.iter().chain(&MPIRUN).copied().collect();
        assert_eq!(of(&both).unwrap().launcher, Launcher::OpenMpi);
    }

    #[test]
    fn a_rank_outside_the_world_names_the_variable() {
        let mut wrong = MPIRUN;
        wrong[0].1 = "4";
        let error = of(&wrong).unwrap_err().to_string();
        assert!(error.contains("OMPI_COMM_WORLD_RANK") && error.contains("below 4"), "{error}");
    }

    #[test]
    fn incomplete_variables_are_an_error() {
        assert!(of(&MPIRUN[..3]).unwrap_err().to_string().contains("OMPI_COMM_WORLD_LOCAL_SIZE"));
        assert!(of(&[("PMIX_RANK", "0")]).is_err());
    }

    #[test]
    fn lists_of_tasks_per_node() {
        assert_eq!(nth_of_repeated("2(x3),1", 2), Some(2));
        assert_eq!(nth_of_repeated("2(x3),1", 3), Some(1));
        assert_eq!(nth_of_repeated("2(x3),1", 4), None);
        assert_eq!(nth_of_repeated("two", 0), None);
    }
}
