//! How mpirun is told to start ranks: on this host, on hosts that a person names, inside a SLURM allocation.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::host_list::{self, Host};

/// Whose mpirun it is; neither takes the other's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mpi {
    /// Open MPI's.
    OpenMpi,
    /// MPICH's, and those made from it.
    Mpich,
}

impl Mpi {
    /// Asks the program.
    pub fn of(mpirun: &Path) -> Self {
        let version = Command::new(mpirun).arg("--version").output();
        match version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("Open MPI")) {
            true => Self::OpenMpi,
            false => Self::Mpich,
        }
    }
}

/// Cores for each rank, where ranks are bound.
pub type Bound = Option<usize>;

/// Flags for `ranks` ranks on this host, the program to come after them.
pub fn here(mpi: Mpi, ranks: usize, bound: Bound) -> Vec<String> {
    let mut flags = words(["-n", &ranks.to_string()]);
    match (mpi, bound) {
        (Mpi::OpenMpi, Some(cores)) => {
            flags.extend(words(["--map-by", &format!("slot:PE={cores}"), "--bind-to", "core"]))
        }
        // More ranks than cores are allowed, and nobody is bound to a core: ranks have threads that read and decode.
        (Mpi::OpenMpi, None) => flags.extend(words(["--oversubscribe", "--bind-to", "none"])),
        (Mpi::Mpich, Some(cores)) => flags.extend(words(["-bind-to", &format!("core:{cores}")])),
        (Mpi::Mpich, None) => {}
    }
    flags
}

/// Flags for `ranks` ranks on these hosts, which fill up one after the other.
pub fn on_hosts(mpi: Mpi, ranks: usize, on: &[Host], shell: Option<&[String]>) -> Vec<String> {
    let (ranks, listed) = (ranks.to_string(), host_list::listed(on));
    match mpi {
        // Nobody is bound: how many cores other hosts have is not known here.
        Mpi::OpenMpi => words(["-n", &ranks, "--host", &listed, "--map-by", "slot", "--bind-to", "none"]),
        Mpi::Mpich => {
            let mut flags = words(["-n", &ranks, "-hosts", &listed]);
            if let Some(shell) = shell {
                flags.extend(words(["-launcher", "ssh", "-launcher-exec", &shell.join(" ")]));
            }
            flags
        }
    }
}

/// Flags for `ranks` ranks in the SLURM allocation that mpirun is in, `per_node` on each node.
pub fn in_allocation(mpi: Mpi, ranks: usize, per_node: usize, bound: Bound) -> Vec<String> {
    let (ranks, per_node) = (ranks.to_string(), per_node.to_string());
    match (mpi, bound) {
        (Mpi::OpenMpi, Some(cores)) => {
            let map = format!("ppr:{per_node}:node:PE={cores}");
            words(["-n", &ranks, "--map-by", &map, "--bind-to", "core", "--oversubscribe"])
        }
        (Mpi::OpenMpi, None) => {
            let map = format!("ppr:{per_node}:node");
            words(["-n", &ranks, "--map-by", &map, "--bind-to", "none", "--oversubscribe"])
        }
        (Mpi::Mpich, bound) => {
            let mut flags = words(["-n", &ranks, "-ppn", &per_node, "-bootstrap", "slurm"]);
            flags.extend(bound.iter().flat_map(|cores| words(["-bind-to", &format!("core:{cores}")])));
            flags
        }
    }
}

/// Flags that keep to some nodes of an allocation; none for all.
pub fn only_on(mpi: Mpi, nodes: &[String], per_node: usize) -> Vec<String> {
    let slots: Vec<Host> = nodes.iter().map(|name| Host { name: name.clone(), slots: per_node }).collect();
    match mpi {
        _ if nodes.is_empty() => Vec::new(),
        Mpi::OpenMpi => words(["--host", &host_list::listed(&slots)]),
        Mpi::Mpich => words(["-hosts", &host_list::listed(&slots)]),
    }
}

/// Flags that hand variables on to ranks on other hosts. Only names are given: values may be secrets.
pub fn hand_on(mpi: Mpi, names: &[String]) -> Vec<String> {
    match mpi {
        _ if names.is_empty() => Vec::new(),
        Mpi::OpenMpi => names.iter().flat_map(|name| words(["-x", name])).collect(),
        Mpi::Mpich => words(["-genvlist", &names.join(",")]),
    }
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// Variables for mpirun and its ranks wherever they are.
pub fn variables() -> Vec<(&'static str, String)> {
    [
        // Containers often run everything as root; Open MPI asks for both.
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        // A rank that waits gives its core to the threads that decode images.
        ("OMPI_MCA_mpi_yield_when_idle", "1"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

/// Variables that keep ranks of this host on its loopback interface.
///
/// Open MPI 5 hands the first one on to PMIx, and complains when PMIx is told as well.
pub fn loopback_variables() -> Vec<(&'static str, String)> {
    ["OMPI_MCA_oob_tcp_if_include", "OMPI_MCA_btl_tcp_if_include"].map(|name| (name, "lo".to_owned())).to_vec()
}

/// Variables that name the command by which Open MPI 4 and 5 reach other hosts.
pub fn shell_variables(shell: &[String]) -> Vec<(&'static str, String)> {
    ["OMPI_MCA_plm_rsh_agent", "PRTE_MCA_plm_ssh_agent"].map(|name| (name, shell.join(" "))).to_vec()
}

/// A folder for the temporary files of one mpirun, removed with it.
///
/// Open MPI names its folders after its process id and fails on one that an mpirun of the same id left when it was
/// killed, as happens in a container that is started again.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes the folder.
    ///
    /// # Errors
    /// When the system's folder for temporary files cannot be written to.
    pub fn make() -> std::io::Result<Self> {
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_nanos());
        let folder = std::env::temp_dir().join(format!("blip2-{}-{nanos}", std::process::id()));
        std::fs::create_dir(&folder)?;
        Ok(Self(folder))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed lies among other temporary files.
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}
