//! The libraries that a rank loads, PMIx, and all ranks together.

use std::net::TcpListener;
use std::time::Duration;

use configs::Backend;
use serde_json::Value;

use super::check::Check;
use super::context::Context;
use super::machine::ranks_here;
use super::{INSTALL, MPI_FIX, RANK_PROGRAM};
use crate::ranks::allocation::Standing;
use crate::ranks::{Ask, Plan, Wanted, process, srun};

/// NCCL, as what builds on it knows it.
const NCCL: &str = "nccl";
/// Time for a rank to start and say what it found: libtorch with CUDA takes some seconds from a cold disk.
const SELF_CHECK: Duration = Duration::from_secs(25);
/// Seconds for all ranks to meet and measure.
pub const MEETING_S: u64 = 35;

/// What a rank that starts alone finds of libtorch, CUDA, NCCL and MPI.
pub fn libraries(context: &Context) -> Vec<Check> {
    let report = match self_check(context) {
        Ok(report) => report,
        Err(why) => {
            context.note_broken(RANK_PROGRAM);
            return vec![Check::failure(RANK_PROGRAM, why, "blip2-rank that starts and adds right", INSTALL)];
        }
    };
    let rank = &report["ranks"][0];
    let version = rank["libtorch"]["version"].as_str().unwrap_or("unknown");
    let mut checks =
        vec![Check::ok(RANK_PROGRAM, format!("starts, libtorch {version}"), "blip2-rank that starts and adds right")];
    let (on_gpus, alone) = (context.run.cluster.backend == Backend::Nccl, context.run.world_size() == 1);
    checks.extend(match on_gpus {
        false => vec![Check::skipped("cuda", "the run computes on processors")],
        true if context.is_login_node() => vec![Check::skipped("cuda", super::LOGIN_NODE)],
        true => cuda(context, rank),
    });
    checks.push(match (alone, optional(&rank["mpi"])) {
        (true, _) => Check::skipped("mpi", "one rank needs none"),
        (false, Ok(found)) => Check::ok("mpi", found, "an MPI library"),
        (false, Err(why)) => {
            context.note_broken("mpi");
            Check::failure("mpi", why, "an MPI library, which several ranks need", MPI_FIX)
        }
    });
    checks
}

fn cuda(context: &Context, rank: &Value) -> Vec<Check> {
    let ranks = ranks_here(&context.run) as u64;
    let devices = rank["cuda_devices"].as_u64().unwrap_or(0);
    let expected = format!("libtorch's CUDA part, which sees {ranks} GPUs");
    let fix = "install the libtorch for CUDA and a driver at least as new as it wants, and see CUDA_VISIBLE_DEVICES \
         and the \
               container's `--gpus`; `blip2-rank self-check` says more";
    let cuda = match rank["cuda_library"]["reason"].as_str() {
        Some(reason) => Check::failure("cuda", reason, &expected, fix),
        None if devices < ranks => Check::failure("cuda", format!("loaded; {devices} GPUs"), &expected, fix),
        None => Check::ok("cuda", format!("loaded; {devices} GPUs"), expected),
    };
    let nccl = match optional(&rank["nccl"]) {
        Ok(found) => Check::ok("nccl", found, "NCCL that can be loaded"),
        Err(why) => {
            context.note_broken(NCCL);
            let fix = "put libnccl.so.2 beside libtorch or where the loader looks (LD_LIBRARY_PATH); packages of \
                 CUDA bring it";
            Check::failure(NCCL, why, "NCCL that can be loaded", fix)
        }
    };
    vec![cuda, nccl]
}

/// Version and path of a library, or why it is absent.
fn optional(found: &Value) -> Result<String, String> {
    match (found["version"].as_str(), found["path"].as_str()) {
        (Some(version), path) => Ok(format!("{version} through {}", path.unwrap_or("?"))),
        _ => Err(found["reason"].as_str().unwrap_or("it was not found").to_owned()),
    }
}

fn self_check(context: &Context) -> Result<Value, String> {
    let words = ["self-check", "--json"].map(str::to_owned).to_vec();
    let plan = Plan::local(&context.programs, 1, 1, words).map_err(|error| format!("{error:#}"))?;
    let output = process::output_within(&mut context.command(&plan), SELF_CHECK);
    let output = output.map_err(|error| format!("{} cannot be started: {error}", plan.program.display()))?;
    let output = output.ok_or_else(|| format!("`{plan}` did not end within {} s", SELF_CHECK.as_secs()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    serde_json::from_slice(&output.stdout).map_err(|_| format!("`{plan}` ended with {}: {last}", output.status))
}

/// Whether srun can start MPI ranks, where SLURM is meant.
pub fn pmix(context: &Context) -> Vec<Check> {
    let (name, expected) = ("pmix", "an srun that knows PMIx (`srun --mpi=list`)");
    let in_job = matches!(context.programs.standing(), Standing::Inside(_) | Standing::Step(_));
    let is_meant =
        context.slurm || in_job || context.run.cluster.slurm.partition.is_some() || context.run.cluster.nodes > 1;
    if !is_meant {
        return vec![Check::skipped(name, "the run is not meant for SLURM")];
    }
    let fix = "ask the site for SLURM with PMIx (`--mpi=pmix`), or rebuild the MPI piece against the site's MPI; \
         until then mpirun \
               starts ranks (--launcher mpirun)";
    let problem = match context.programs.of_slurm("srun") {
        Err(_) if !context.slurm && !in_job => {
            return vec![Check::skipped(name, "no srun on PATH: this is no machine of a cluster")];
        }
        Err(error) => error.to_string(),
        Ok(srun) => match srun::has_pmix(&srun) {
            Ok(()) => return vec![Check::ok(name, "srun knows pmix", expected)],
            Err(why) => why,
        },
    };
    let needs_srun = matches!(context.run.cluster.slurm.container(), Some(configs::Container::Pyxis(_)));
    match context.programs.mpirun() {
        Ok(_) if !needs_srun => vec![Check::warning(name, problem, expected, fix)],
        _ => vec![Check::failure(name, format!("{problem}, and no mpirun can take its place"), expected, fix)],
    }
}

/// All ranks, started as `blip2 launch` starts them.
pub fn meeting(context: &Context) -> Vec<Check> {
    let name = "ranks";
    if context.run.world_size() == 1 {
        return vec![Check::skipped(name, "the run has one rank")];
    }
    if let Some(broken) = [RANK_PROGRAM, "mpi"].into_iter().find(|what| context.is_broken(what)) {
        return vec![Check::skipped(name, format!("{broken} does not work, as said"))];
    }
    if context.is_login_node() {
        return vec![Check::skipped(name, super::LOGIN_NODE)];
    }
    let mut plan = match plan(context) {
        Ok(plan) => plan,
        Err(error) => return vec![Check::failure(name, format!("{error:#}"), "what starts several ranks", MPI_FIX)],
    };
    // Without a port the meeting goes on: `ports` says what is wrong.
    let listener =
        plan.launcher_address(&context.programs).ok().and_then(|address| TcpListener::bind((address, 0)).ok());
    if let Some((listener, port)) =
        listener.and_then(|listener| Some((listener.try_clone().ok()?, listener.local_addr().ok()?)))
    {
        // It ends with the process.
        std::thread::spawn(move || listener.incoming().for_each(drop));
        plan.arguments.extend(["--meet".to_owned(), port.to_string()]);
    }
    let mut found = context.answer(name, &plan, MEETING_S);
    if let Some(broken) = [NCCL, super::GPUS].into_iter().find(|what| context.is_broken(what)) {
        let bandwidth = found.iter_mut().filter(|check| check.name == "bandwidth");
        bandwidth.for_each(|check| *check = Check::skipped("bandwidth", format!("{broken}: as said")));
    }
    found
}

/// What starts the run's ranks: where `blip2 launch` would, or on this host as one of the nodes.
fn plan(context: &Context) -> anyhow::Result<Plan> {
    let (run, programs) = (&context.run, &context.programs);
    let (threads, arguments) = (run.cluster.threads_per_rank, context.arguments("ranks", MEETING_S));
    let place = Wanted::default().place(programs, run.cluster.ranks_per_node)?;
    let (ranks, per_node) = match place.ranks(run, None) {
        Ok(found) => found,
        // Looked at as one of the run's nodes.
        Err(_) if programs.standing() == Standing::Outside => {
            return Plan::local(programs, ranks_here(run), threads, arguments);
        }
        Err(error) => return Err(error),
    };
    let ask = Ask {
        ranks,
        per_node,
        threads,
        gpus: run.cluster.backend == Backend::Nccl,
        container: run.cluster.slurm.container(),
        work: std::env::current_dir()?,
        arguments,
    };
    Plan::at(&place, programs, &ask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::State;

    #[test]
    fn pmix_is_looked_at_where_slurm_is_meant() {
        assert_eq!(pmix(&Context::for_tests(&[]))[0].state, State::Skipped);
        let mut context = Context::for_tests(&[]);
        context.slurm = true;
        let found = pmix(&context);
        assert!(found[0].state >= State::Warning && found[0].fix.contains("PMIx"), "{found:?}");
    }

    #[test]
    fn a_rank_program_that_is_not_there_is_said_once() {
        let context = Context::for_tests(&[]);
        let found = libraries(&context);
        assert_eq!((found[0].name.as_str(), found[0].state), (RANK_PROGRAM, State::Failure));
        assert_eq!(meeting(&context)[0].state, State::Skipped);
        assert_eq!(context.ask_rank("step", "step", 1)[0].state, State::Skipped);
    }

    #[test]
    fn gpus_that_libtorch_does_not_see_are_a_failure() {
        let context = Context::for_tests(&["cluster.backend=nccl"]);
        let rank = serde_json::json!({
            "cuda_devices": 1, "cuda_library": { "state": "loaded", "path": "x" },
            "nccl": { "state": "absent", "reason": "no libnccl.so.2" },
        });
        let found = cuda(&context, &rank);
        assert!(found.iter().all(|check| check.state == State::Failure), "{found:?}");
        assert!(found[0].found.contains("1 GPUs") && found[1].found.contains("libnccl"), "{found:?}");
    }
}
