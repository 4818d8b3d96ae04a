//! From a place and what is to be started there to the plan: which starter, with which flags.

use std::path::PathBuf;

use configs::Container;

use super::allocation::Allocation;
use super::host_list::{self, Host};
use super::mpirun::{self, Mpi};
use super::place::{Place, Starter};
use super::plan::Plan;
use super::programs::Programs;
use super::{container, handed_on, srun};
use crate::exit::Lacking;

/// What is to be started.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// Ranks over all nodes.
    pub ranks: usize,
    /// Ranks on each node.
    pub per_node: usize,
    /// Threads that each computes with.
    pub threads: usize,
    /// Whether each needs a GPU.
    pub gpus: bool,
    /// What ranks of an allocation run in.
    pub container: Option<Container<'a>>,
    /// The folder that they start in.
    pub work: PathBuf,
    /// The arguments of each rank.
    pub arguments: Vec<String>,
}

impl Plan {
    /// What starts ranks at a place.
    ///
    /// # Errors
    /// Programs that are not found; an allocation in which neither srun nor mpirun can start ranks.
    pub fn at(place: &Place, programs: &Programs, ask: &Ask<'_>) -> anyhow::Result<Self> {
        let mut plan = match place {
            Place::Here => Self::here(programs, ask)?,
            Place::Hosts(hosts) => Self::on_hosts(programs, hosts, ask)?,
            Place::Allocation(allocation, starter) => Self::in_allocation(programs, allocation, *starter, ask)?,
        };
        let per_node = match place {
            Place::Hosts(hosts) => {
                hosts.iter().find(|host| host_list::is_here(&host.name)).map_or(0, |host| host.slots)
            }
            _ => ask.per_node.min(ask.ranks),
        };
        plan.gpus = ask.gpus.then_some(per_node);
        plan.address = plan.launcher_address(programs)?;
        Ok(plan)
    }

    fn here(programs: &Programs, ask: &Ask<'_>) -> anyhow::Result<Self> {
        let mut plan = Self::alone(programs.rank()?, ask.threads, ask.arguments.clone());
        if ask.ranks > 1 {
            // A host outside a scheduler is shared with other programs; one whose GPUs are taken hardly is.
            let bound = ask.gpus.then(|| share(None, ask)).flatten().filter(|cpus| *cpus > 1);
            plan.start_here(programs, ask.ranks, bound)?;
        }
        Ok(plan)
    }

    fn on_hosts(programs: &Programs, hosts: &[Host], ask: &Ask<'_>) -> anyhow::Result<Self> {
        let mut plan = Self::alone(programs.rank()?, ask.threads, ask.arguments.clone());
        plan.program = programs.mpirun()?;
        plan.ranks = ask.ranks;
        plan.hosts = hosts.iter().filter(|host| !host_list::is_here(&host.name)).cloned().collect();
        let (mpi, shell) = (Mpi::of(&plan.program), programs.remote_shell());
        plan.starter_flags = mpirun::on_hosts(mpi, ask.ranks, hosts, Some(&shell));
        plan.variables.extend(mpirun::variables());
        if mpi == Mpi::OpenMpi {
            plan.variables.extend(mpirun::shell_variables(&shell));
        }
        plan.hands_on = Some((mpi, handed_on::of_person(&programs.variables)));
        if programs.variable("SLURM_JOB_ID").is_some() {
            plan.removed = Some("SLURM_");
            plan.variables.extend(super::plan::slurm_job(programs));
        }
        Ok(plan)
    }

    fn in_allocation(
        programs: &Programs,
        allocation: &Allocation,
        starter: Starter,
        ask: &Ask<'_>,
    ) -> anyhow::Result<Self> {
        let rank = if ask.container.is_some() { programs.rank_in_container()? } else { programs.rank()? };
        let (before_rank, options) = container::words(ask.container, ask.gpus, &rank, &ask.work);
        let mut plan = Self::alone(rank, ask.threads, ask.arguments.clone());
        plan.before_rank = before_rank;
        let only_srun = matches!(ask.container, Some(Container::Pyxis(_)));
        if ask.ranks == 1 && !only_srun {
            if let Some(first) = plan.before_rank.first() {
                plan.program = PathBuf::from(first);
            }
            return Ok(plan);
        }
        plan.ranks = ask.ranks;
        let nodes = ask.ranks.div_ceil(ask.per_node);
        plan.nodes = nodes;
        let cpus = share(Some(allocation), ask);
        let refusal = match starter {
            Starter::Mpirun => Some("--launcher mpirun".to_owned()),
            _ => plan.refusal_of_srun(programs, nodes, &options, starter).err(),
        };
        match refusal {
            None => {
                plan.program = programs.of_slurm("srun")?;
                let per_node = ask.per_node.min(ask.ranks);
                plan.starter_flags = srun::flags(srun::Tasks { count: ask.ranks, per_node, nodes, cpus });
                if !allocation.only.is_empty() {
                    plan.starter_flags.push(format!("--nodelist={}", allocation.only.join(",")));
                }
                plan.starter_flags.extend(options);
            }
            Some(why) if only_srun || starter == Starter::Srun => {
                return Err(Lacking(format!(
                    "srun cannot start ranks: {why}; expected SLURM with PMIx, for which the MPI piece is built. Ask the site \
                     for it, rebuild the piece against the site's MPI, or use --launcher mpirun (with no pyxis container)"
                ))
                .into());
            }
            Some(why) => plan.start_by_mpirun(programs, &why, (cpus, &allocation.only), ask)?,
        }
        Ok(plan)
    }

    fn start_by_mpirun(
        &mut self,
        programs: &Programs,
        why: &str,
        (cpus, only): (mpirun::Bound, &[String]),
        ask: &Ask<'_>,
    ) -> anyhow::Result<()> {
        self.program = programs.mpirun().map_err(|error| Lacking(format!("srun is not used ({why}), and {error}")))?;
        self.notes.push(format!("mpirun starts the ranks, not srun: {why}"));
        let mpi = Mpi::of(&self.program);
        let per_node = ask.per_node.min(ask.ranks);
        self.starter_flags = mpirun::in_allocation(mpi, ask.ranks, per_node, cpus.filter(|cpus| *cpus > 1));
        self.starter_flags.extend(mpirun::only_on(mpi, only, per_node));
        self.variables.extend(mpirun::variables());
        self.hands_on = Some((mpi, handed_on::of_person(&programs.variables)));
        Ok(())
    }

    /// Why srun cannot start these ranks, if it cannot.
    fn refusal_of_srun(
        &self,
        programs: &Programs,
        nodes: usize,
        options: &[String],
        starter: Starter,
    ) -> Result<(), String> {
        let srun = programs.of_slurm("srun").map_err(|error| error.to_string())?;
        srun::has_pmix(&srun)?;
        if starter == Starter::Srun || self.ranks == 1 {
            return Ok(());
        }
        let mut rank = self.before_rank.clone();
        rank.push(self.rank_program.display().to_string());
        // Once: a start after a failure does not wait for a second one.
        programs.trial.get_or_init(|| srun::trial(&srun, nodes, options, &rank)).clone()
    }
}

/// CPUs that each rank of a node is given, where there are at least as many as it computes with.
fn share(allocation: Option<&Allocation>, ask: &Ask<'_>) -> Option<usize> {
    let here = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus = match allocation {
        None => here,
        // What this process may run on bounds what any process of its node is given.
        Some(allocation) if allocation.is_here => allocation.cpus_per_node.map_or(here, |cpus| cpus.min(here)),
        Some(allocation) => allocation.cpus_per_node?,
    };
    let cpus = cpus / ask.per_node.max(1);
    (cpus >= ask.threads.max(1)).then_some(cpus)
}
