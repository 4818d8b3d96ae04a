//! The cluster: how many ranks, how they talk, how long they wait. Nothing here changes the mathematics of a run.

use crate::decode::Place;
use crate::problem::Problems;
use crate::rule::{Rule, time_limit_s};
use crate::section::{all_defaults, choice, section};

section! {
    /// The ranks that compute the run.
    pub struct Cluster check check_cluster {
        /// What ranks talk over.
        pub backend: Backend = Backend::Single,
        /// How gradients are summed.
        pub reduction: Reduction = Reduction::Exact,
        /// Machines.
        pub nodes: usize = 1 => Rule::within(1.0, 65536.0),
        /// Ranks on each machine; with `nccl` one per GPU.
        pub ranks_per_node: usize = 1 => Rule::within(1.0, 4096.0),
        /// Threads that each rank computes with on the CPU.
        pub threads_per_rank: usize = 8 => Rule::within(1.0, 4096.0),
        /// How long the launcher waits before it calls a run hung.
        pub timeouts_s: Timeouts = all_defaults(),
        /// What follows when ranks fail.
        pub restarts: Restarts = all_defaults(),
        /// Signals at which the launcher, or a rank, has a checkpoint written and leaves with exit code 75.
        pub preempt_signals: Vec<PreemptSignal> = vec![PreemptSignal::Usr1, PreemptSignal::Term],
        /// What the ranks write to standard error.
        pub logs: Logs = all_defaults(),
        /// The batch job that `blip2 submit` writes.
        pub slurm: Slurm = all_defaults(),
    }
}

choice! {
    /// What ranks talk over.
    pub enum Backend {
        /// NCCL between GPUs, started over MPI.
        "nccl" => Nccl,
        /// MPI between CPUs.
        "mpi" => Mpi,
        /// One rank, which talks to nobody.
        "single" => Single,
    }
}

choice! {
    /// How gradients are summed.
    pub enum Reduction {
        /// Along one fixed tree over slices: the same bits on any number of ranks; the optimiser is sharded.
        "exact" => Exact,
        /// The library's all-reduce: bits depend on the ranks; the optimiser is replicated.
        "all_reduce" => AllReduce,
    }
}

section! {
    /// Seconds that the launcher waits before it calls a run hung.
    pub struct Timeouts {
        /// From the start of the processes until all ranks have met.
        pub start: u64 = 600 => Rule::at_least(1.0),
        /// From then until the first step is done (weights are read, kernels are chosen).
        pub first_step: u64 = 1800 => Rule::at_least(1.0),
        /// From one step to the next.
        pub step: u64 = 120 => Rule::at_least(1.0),
        /// Without a word of a rank: it is stopped, or its machine or network is gone.
        pub silence: u64 = 30 => Rule::at_least(2.0),
    }
}

section! {
    /// What follows when ranks fail.
    pub struct Restarts {
        /// Launches after the first; a launch that commits a checkpoint begins the count anew.
        pub max: u64 = 10 => Rule::within(0.0, 1_000_000.0),
        /// Seconds before the first of them; twice as long before each further one, at most five minutes.
        pub backoff_s: u64 = 2 => Rule::within(0.0, 300.0),
        /// Whether a run may go on with fewer ranks than configured, when a machine is left out.
        pub fewer_ranks: bool = true,
        /// Failures after which a machine is left out, where others are left; null for never.
        pub exclude_host_after: Option<u64> = Some(3) => Rule::at_least(1.0),
    }
}

choice! {
    /// A signal that asks a run to leave.
    pub enum PreemptSignal {
        /// SIGUSR1.
        "USR1" => Usr1,
        /// SIGUSR2.
        "USR2" => Usr2,
        /// SIGTERM.
        "TERM" => Term,
    }
}

section! {
    /// What the ranks write to standard error, a file for each.
    pub struct Logs {
        /// The folder, on each machine; null for `launch/logs` in an output that is a folder, else one among temporary files.
        pub folder: Option<String> = None => Rule::NotEmpty,
        /// A longer file makes room for a new one; two old ones are kept.
        pub max_mb: u64 = 64 => Rule::within(1.0, 1_000_000.0),
    }
}

section! {
    /// The batch job that `blip2 submit` writes.
    pub struct Slurm check check_slurm {
        /// Partition; null for the site's default.
        pub partition: Option<String> = None => Rule::NotEmpty,
        /// Time limit of one job; the run goes on in the next.
        pub time_limit: String = "1-00:00:00".to_owned() => Rule::TimeLimit,
        /// Seconds before the time limit at which the job is told to write a checkpoint.
        pub signal_before_end_s: u64 = 300 => Rule::within(1.0, 65535.0),
        /// Further `#SBATCH` options, one per item, e.g. `--account=vision`.
        pub extra: Vec<String> = Vec::new() => Rule::SbatchOption,
        /// Shell lines that run before the ranks start, e.g. `module load openmpi`.
        pub setup: String = String::new(),
        /// Container image that the ranks run in, `apptainer:IMAGE` or `pyxis:IMAGE`; null for none.
        pub container: Option<String> = None => Rule::NotEmpty,
    }
}

impl Cluster {
    /// Ranks over all machines.
    pub fn world_size(&self) -> usize {
        self.nodes * self.ranks_per_node
    }
}

/// Notes settings of the ranks that do not fit together.
fn check_cluster(cluster: &Cluster, place: Place<'_>, problems: &mut Problems) {
    let world_size = cluster.world_size();
    if cluster.backend == Backend::Single && world_size > 1 {
        let message = format!(
            "found backend single with {world_size} ranks (nodes {} x ranks_per_node {}); expected one rank",
            cluster.nodes, cluster.ranks_per_node
        );
        let advice = "write `backend: nccl` (GPUs) or `backend: mpi` (CPUs)".to_owned();
        place.refuse_at("backend", message, advice, problems);
    }
}

/// A container image, by what runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container<'a> {
    /// `apptainer exec`, before the rank's program.
    Apptainer(&'a str),
    /// Pyxis, a plugin of SLURM: an option of srun.
    Pyxis(&'a str),
}

impl<'a> Container<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (kind, image) = text.split_once(':').filter(|(_, image)| !image.is_empty())?;
        match kind {
            "apptainer" => Some(Self::Apptainer(image)),
            "pyxis" => Some(Self::Pyxis(image)),
            _ => None,
        }
    }
}

impl Slurm {
    /// The container that ranks run in.
    pub fn container(&self) -> Option<Container<'_>> {
        self.container.as_deref().and_then(Container::read)
    }

    /// The time limit in seconds.
    pub fn time_limit_s(&self) -> u64 {
        time_limit_s(&self.time_limit).unwrap_or(0)
    }
}

/// Notes a signal that would come before the job, and a container that nothing runs.
fn check_slurm(slurm: &Slurm, place: Place<'_>, problems: &mut Problems) {
    if let Some(container) = slurm.container.as_deref().filter(|text| Container::read(text).is_none()) {
        let message = format!("found `{container}`; expected `apptainer:IMAGE` or `pyxis:IMAGE`");
        let advice = "for example apptainer:/images/blip2.sif, or pyxis:nvcr.io#nvidia/pytorch:25.10-py3".to_owned();
        place.refuse_at("container", message, advice, problems);
    }
    let (signal, limit) = (slurm.signal_before_end_s, slurm.time_limit_s());
    if signal >= limit {
        let message = format!("found {signal} with a time limit of {limit} s; expected less than the limit");
        place.refuse_at("signal_before_end_s", message, format!("for example {}", (limit / 10).max(1)), problems);
    }
}
