//! One command that starts ranks: program, arguments, variables.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::handed_on;
use super::host_list::Host;
use super::mpirun::{self, Mpi};
use super::programs::Programs;

/// What is started, before it is.
#[derive(Clone, Debug)]
pub struct Plan {
    /// mpirun, srun, or the rank itself where it is alone.
    pub program: PathBuf,
    /// Flags of mpirun or srun.
    pub(super) starter_flags: Vec<String>,
    /// Words between those and the rank's program, such as a container's.
    pub(super) before_rank: Vec<String>,
    /// The arguments of each rank.
    pub arguments: Vec<String>,
    /// Variables that are set for it.
    pub variables: Vec<(&'static str, String)>,
    /// Beginnings of variables that are taken away from it.
    pub(super) removed: Option<&'static str>,
    /// Whose mpirun hands variables on to other hosts, and which of a person's.
    pub(super) hands_on: Option<(Mpi, Vec<String>)>,
    /// The program of each rank.
    pub rank_program: PathBuf,
    /// How many ranks.
    pub ranks: usize,
    /// Hosts other than this one that are named in the plan, each with its ranks.
    pub hosts: Vec<Host>,
    /// Nodes of an allocation that the ranks are on.
    pub(super) nodes: usize,
    /// Where the ranks reach the launcher.
    pub address: IpAddr,
    /// GPUs that this host must have; on other hosts as many as they have ranks.
    pub gpus: Option<usize>,
    /// Why ranks are started this way, in words.
    pub notes: Vec<String>,
}

impl Plan {
    /// `ranks` ranks on this host, each with `threads` threads to compute with and these arguments.
    ///
    /// # Errors
    /// When blip2-rank or, for several ranks, mpirun is not found.
    pub fn local(programs: &Programs, ranks: usize, threads: usize, arguments: Vec<String>) -> anyhow::Result<Self> {
        let mut plan = Self::alone(programs.rank()?, threads, arguments);
        if ranks > 1 {
            plan.start_here(programs, ranks, None)?;
        }
        Ok(plan)
    }

    pub(super) fn alone(rank_program: PathBuf, threads: usize, arguments: Vec<String>) -> Self {
        let mut variables = ["OMP_NUM_THREADS", "MKL_NUM_THREADS"].map(|name| (name, threads.to_string())).to_vec();
        variables.extend(memory_variables());
        Self {
            program: rank_program.clone(),
            starter_flags: Vec::new(),
            before_rank: Vec::new(),
            arguments,
            variables,
            removed: None,
            hands_on: None,
            rank_program,
            ranks: 1,
            hosts: Vec::new(),
            nodes: 1,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            gpus: None,
            notes: Vec::new(),
        }
    }

    pub(super) fn start_here(&mut self, programs: &Programs, ranks: usize, bound: mpirun::Bound) -> anyhow::Result<()> {
        self.program = programs.mpirun()?;
        self.ranks = ranks;
        self.starter_flags = mpirun::here(Mpi::of(&self.program), ranks, bound);
        self.variables.extend(mpirun::variables());
        self.variables.extend(mpirun::loopback_variables());
        if programs.variable("SLURM_JOB_ID").is_some() {
            // mpirun would use the allocation's nodes.
            self.removed = Some("SLURM_");
            self.variables.extend(slurm_job(programs));
        }
        Ok(())
    }

    /// Whether ranks are on other hosts than this one.
    pub fn spans_hosts(&self) -> bool {
        self.nodes > 1 || !self.hosts.is_empty()
    }

    /// Has ranks write their process ids into this folder.
    pub fn note_pids_in(&mut self, folder: &Path) {
        self.variables.push(("BLIP2_PID_DIR", folder.display().to_string()));
    }

    /// Everything behind the program's name.
    pub fn words(&self) -> Vec<String> {
        let mut words = self.starter_flags.clone();
        if let Some((mpi, person)) = &self.hands_on {
            words.extend(mpirun::hand_on(*mpi, &handed_on::with(&self.variables, person)));
        }
        words.extend(self.before_rank.iter().skip(usize::from(self.starter_flags.is_empty())).cloned());
        if self.program != self.rank_program {
            words.push(self.rank_program.display().to_string());
        }
        words.extend(self.arguments.iter().cloned());
        words
    }

    /// The command, not started yet.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.words());
        if let Some(beginning) = self.removed {
            let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
            names.filter(|name| name.starts_with(beginning)).for_each(|name| {
                command.env_remove(name);
            });
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// What ranks that are told nothing else of SLURM need to know of their job: a job that was started again takes its run over
/// from its earlier self at once.
pub(super) fn slurm_job(programs: &Programs) -> impl Iterator<Item = (&'static str, String)> + '_ {
    let names = [("SLURM_JOB_ID", "BLIP2_SLURM_JOB_ID"), ("SLURM_RESTART_COUNT", "BLIP2_SLURM_RESTART_COUNT")];
    names.into_iter().filter_map(|(theirs, ours)| Some((ours, programs.variable(theirs)?.to_owned())))
}

/// How a rank's libraries keep memory. What a person has set stays.
///
/// glibc keeps what a step frees for the next one: by default it goes back to the system and comes again page by page. On
/// two cores the demo's first stage makes 7 to 10 % more steps so, with half the time spent in the system.
///
/// oneDNN, which multiplies in bf16 on CPUs, keeps the kernels that it has compiled, one for each shape, 1,024 by default.
/// The demo's first stage uses about 500 again and again; with room for 512 it takes as long and 2.51 GiB instead of 3.46,
/// together with loaders that keep 256 MB each instead of 512.
fn memory_variables() -> impl Iterator<Item = (&'static str, String)> {
    let wanted = [
        // No block is mapped by itself, however large.
        ("MALLOC_MMAP_MAX_", 0_u64),
        ("MALLOC_TRIM_THRESHOLD_", 4 << 30),
        ("MALLOC_TOP_PAD_", 64 << 20),
        ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", 512),
    ];
    wanted
        .into_iter()
        .filter(|(name, _)| std::env::var_os(name).is_none())
        .map(|(name, value)| (name, value.to_string()))
}

/// As it could be typed into a shell, without the variables.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(&self.program.display().to_string()))?;
        self.words().iter().try_for_each(|word| write!(f, " {}", quoted(word)))
    }
}

/// A word as a shell reads it back.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("stages[0].steps=3"), "stages[0].steps=3");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
