//! Where ranks run and what starts them: this host, hosts that a person names, or a SLURM allocation.

use std::path::{Path, PathBuf};

use configs::Run;

use super::allocation::{Allocation, Standing};
use super::host_list::{self, Host};
use super::hosts::HostPolicy;
use super::programs::Programs;
use crate::exit::Unusable;

/// What a person wants ranks to be started by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Starter {
    /// srun in an allocation where a trial shows that it works, else mpirun; on one host a plain process or mpirun.
    #[default]
    Auto,
    /// This host alone, also in an allocation of more.
    Local,
    /// mpirun, also in an allocation.
    Mpirun,
    /// srun with PMIx, without a trial.
    Srun,
}

/// Where ranks run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this host.
    Here,
    /// On these hosts, through mpirun.
    Hosts(Vec<Host>),
    /// On the nodes of an allocation.
    Allocation(Allocation, Starter),
}

/// What a person asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// `--hosts`.
    pub hosts: Option<String>,
    /// `--hostfile`.
    pub hostfile: Option<PathBuf>,
    /// `--launcher`.
    pub starter: Starter,
}

impl Wanted {
    /// The place that this and the environment lead to; hosts without a number take `per_node` ranks.
    ///
    /// # Errors
    /// [`Unusable`] for what does not fit together.
    pub fn place(&self, programs: &Programs, per_node: usize) -> anyhow::Result<Place> {
        let named = match (&self.hosts, &self.hostfile) {
            (Some(list), _) => Some(host_list::parse_list(list, per_node)?),
            (None, Some(file)) => Some(host_list::read_file(Path::new(file), per_node)?),
            (None, None) => None,
        };
        if let Some(named) = named {
            return match self.starter {
                Starter::Auto | Starter::Mpirun if named.iter().all(|host| host_list::is_here(&host.name)) => Ok(Place::Here),
                Starter::Auto | Starter::Mpirun => Ok(Place::Hosts(named)),
                Starter::Local | Starter::Srun => Err(Unusable(
                    "found hosts together with --launcher local or srun; expected mpirun or auto, as only mpirun takes \
                     hosts. Leave one of the two out"
                        .to_owned(),
                )
                .into()),
            };
        }
        match (programs.standing(), self.starter) {
            (Standing::Step(tasks), _) if tasks > 1 => Err(Unusable(format!(
                "found `blip2` itself started {tasks} times by srun; expected once, as it starts the ranks. Run it without \
                 srun in the batch script, or let `blip2 submit` write that script"
            ))
            .into()),
            (Standing::Inside(_), Starter::Local) => Ok(Place::Here),
            (Standing::Inside(allocation), starter) => Ok(Place::Allocation(allocation, starter)),
            (_, Starter::Srun) => Err(Unusable(
                "found no SLURM allocation (SLURM_JOB_ID is not set, or this is a step already); --launcher srun expects \
                 one. Use `blip2 submit`, or salloc, or another --launcher"
                    .to_owned(),
            )
            .into()),
            _ => Ok(Place::Here),
        }
    }
}

impl Place {
    /// This place without the hosts that failed too often, as far as the run allows that.
    pub fn without_bad_hosts(self, policy: &HostPolicy, run: &Run, programs: &Programs) -> Self {
        let cluster = &run.cluster;
        match self {
            Self::Here => Self::Here,
            Self::Hosts(hosts) => {
                let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
                let used = policy.choose(&names, names.len(), cluster.ranks_per_node, run.max_world_size());
                Self::Hosts(hosts.into_iter().filter(|host| used.hosts.contains(&host.name)).collect())
            }
            Self::Allocation(mut allocation, starter) if policy.has_bad() => {
                let names =
                    programs.on_path("scontrol").map(|scontrol| allocation.names(&scontrol)).unwrap_or_default();
                let used = policy.choose(&names, cluster.nodes, cluster.ranks_per_node, run.max_world_size());
                if !used.excluded.is_empty() {
                    allocation.only = used.hosts;
                }
                Self::Allocation(allocation, starter)
            }
            all => all,
        }
    }

    /// Ranks over all nodes and on each, for a run whose ranks are `limit` at most if there is a limit.
    ///
    /// # Errors
    /// [`Unusable`] for more ranks than the run divides among, or more nodes than there are.
    pub fn ranks(&self, run: &Run, limit: Option<usize>) -> anyhow::Result<(usize, usize)> {
        let cluster = &run.cluster;
        let capped = |ranks: usize| limit.map_or(ranks, |limit| ranks.min(limit));
        let (ranks, per_node) = match self {
            Self::Here if cluster.nodes > 1 && limit.is_none() => {
                return Err(Unusable(format!(
                    "cluster.nodes is {0}, and this is one host; expected a place with {0}. Name the hosts with --hosts, submit a \
                     job with `blip2 submit`, set cluster.nodes=1, or say how many ranks to start here with --ranks",
                    cluster.nodes
                ))
                .into());
            }
            Self::Here => {
                let ranks = capped(run.world_size().min(run.max_world_size()));
                (ranks, ranks)
            }
            Self::Hosts(hosts) => {
                let slots = hosts.iter().map(|host| host.slots);
                (capped(slots.clone().sum()), slots.max().unwrap_or(1))
            }
            Self::Allocation(allocation, _) if !allocation.only.is_empty() => {
                let ranks = (allocation.only.len() * cluster.ranks_per_node).min(run.max_world_size());
                (capped(ranks), cluster.ranks_per_node)
            }
            Self::Allocation(allocation, _) if cluster.nodes > allocation.nodes && limit.is_none() => {
                return Err(Unusable(format!(
                    "cluster.nodes is {}, and SLURM job {} has {2}; expected at least as many. Ask for more nodes, or set \
                     cluster.nodes={2}: the result is the same, only slower",
                    cluster.nodes, allocation.job, allocation.nodes
                ))
                .into());
            }
            Self::Allocation(allocation, _) => {
                let nodes = cluster.nodes.min(allocation.nodes);
                (capped(nodes * cluster.ranks_per_node), cluster.ranks_per_node)
            }
        };
        let most = run.max_world_size();
        if ranks > most {
            return Err(Unusable(format!(
                "found {ranks} ranks; expected at most {most}, the smallest number of slices of a stage, as each rank takes \
                 at least one. Use fewer ranks (--ranks {most}), or raise stages.*.slices before the run starts"
            ))
            .into());
        }
        Ok((ranks, per_node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: [(&str, &str); 2] = [("SLURM_JOB_ID", "17"), ("SLURM_JOB_NUM_NODES", "2")];
    const STEP: [(&str, &str); 2] = [("SLURM_STEP_ID", "0"), ("SLURM_STEP_NUM_TASKS", "4")];

    fn place(variables: &[(&str, &str)], hosts: Option<&str>, starter: Starter) -> String {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let programs = Programs { variables, ..Programs::default() };
        let wanted = Wanted { hosts: hosts.map(str::to_owned), hostfile: None, starter };
        match wanted.place(&programs, 8) {
            Ok(Place::Here) => "here".to_owned(),
            Ok(Place::Hosts(named)) => host_list::listed(&named),
            Ok(Place::Allocation(allocation, starter)) => format!("{} nodes, {starter:?}", allocation.nodes),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn the_environment_and_flags_choose() {
        assert_eq!(place(&[], None, Starter::Auto), "here");
        assert_eq!(place(&[], Some("a:2,b"), Starter::Auto), "a:2,b:8");
        assert_eq!(place(&[], Some("localhost:2"), Starter::Auto), "here");
        assert_eq!(place(&JOB, None, Starter::Auto), "2 nodes, Auto");
        assert_eq!(place(&JOB, None, Starter::Mpirun), "2 nodes, Mpirun");
        assert_eq!(place(&JOB, None, Starter::Local), "here");
        assert!(place(&[], None, Starter::Srun).contains("no SLURM allocation"));
        assert!(place(&JOB, Some("a,b"), Starter::Srun).contains("only mpirun takes hosts"));
        let step = [JOB, STEP].concat();
        assert!(place(&step, None, Starter::Auto).contains("started 4 times by srun"));
        assert!(place(&[&JOB[..], &[("SLURM_STEP_ID", "3")]].concat(), None, Starter::Auto).contains("here"));
    }
}
