//! The same look on every node of an allocation, through srun, and one table of it.

use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use super::check::{Check, State};
use super::context::Context;
use crate::cli::DoctorArgs;
use crate::ranks::allocation::Standing;
use crate::ranks::{process, srun};

/// Time for all nodes.
const NODES: Duration = Duration::from_secs(130);

/// What a node prints, on one line.
#[derive(Debug, Deserialize)]
struct Node {
    host: String,
    checks: Vec<Check>,
}

/// What SLURM calls this node; its own name where SLURM has not started this process.
pub fn node_name() -> String {
    std::env::var("SLURMD_NODENAME").ok().filter(|name| !name.is_empty()).unwrap_or_else(process::host)
}

/// Looks at all nodes of the allocation that this process is in.
pub fn nodes(context: &Context, args: &DoctorArgs) -> Vec<Check> {
    let (name, expected) = ("nodes", "an answer of every node of the allocation");
    let Standing::Inside(allocation) = context.programs.standing() else {
        let fix = "get an allocation first: `salloc --nodes=N …`, and run this in its shell or in a batch script, \
             without srun";
        return vec![Check::failure(name, "--slurm outside of an allocation", expected, fix)];
    };
    let fix = "see what srun says, whether the nodes see this program at the same path, and `sinfo` for their state";
    let srun = match context.programs.of_slurm("srun") {
        Ok(srun) => srun,
        Err(error) => return vec![Check::failure(name, error.to_string(), expected, fix)],
    };
    context.say(&format!("{} nodes of job {}", allocation.nodes, allocation.job));
    let mut command = Command::new(srun);
    let tasks = srun::Tasks { count: allocation.nodes, per_node: 1, nodes: allocation.nodes, cpus: None };
    // Each node looks at MPI by itself where it does, so srun need not offer any.
    command
        .args(srun::flags(tasks).into_iter().filter(|flag| !flag.starts_with("--mpi") && !flag.starts_with("--kill")));
    command.args(["--mpi=none", "--overlap", "--quiet"]).arg(&context.programs.executable);
    command.args(["doctor", &args.run, "--node", "--json"]);
    args.set.iter().for_each(|set| _ = command.args(["--set", set]));
    if !args.only.is_empty() {
        command.args(["--only", &args.only.join(",")]);
    }
    let output = match process::output_within(&mut command, NODES) {
        Ok(Some(output)) => output,
        Ok(None) => {
            let found = format!("srun did not end within {} s", NODES.as_secs());
            return vec![Check::failure(name, found, expected, fix)];
        }
        Err(error) => return vec![Check::failure(name, format!("srun cannot be started: {error}"), expected, fix)],
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let found: Vec<Node> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    let mut checks = vec![match found.len() {
        all if all == allocation.nodes => Check::ok(name, format!("{all} nodes answered"), expected),
        some => {
            let told = errors.lines().rfind(|line| line.contains("error")).unwrap_or("srun said nothing of it");
            Check::failure(name, format!("{some} of {} nodes answered: {told}", allocation.nodes), expected, fix)
        }
    }];
    checks.extend(merged(found));
    checks
}

/// One check for what came out alike and well on all nodes, and one for each node where it did not.
fn merged(nodes: Vec<Node>) -> Vec<Check> {
    let mut names: Vec<String> = Vec::new();
    for check in nodes.iter().flat_map(|node| &node.checks) {
        if !names.contains(&check.name) {
            names.push(check.name.clone());
        }
    }
    let mut merged = Vec::new();
    for name in names {
        let all: Vec<(&Node, &Check)> = nodes
            .iter()
            .flat_map(|node| node.checks.iter().filter(|check| check.name == name).map(move |check| (node, check)))
            .collect();
        let (bad, well): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, check)| check.state >= State::Warning);
        // What one node looked at counts more than what another skipped.
        if let Some((node, check)) = well.iter().min_by_key(|(_, check)| check.state) {
            let found = format!("{} ({} of {} nodes; {})", check.found, well.len(), nodes.len(), node.host);
            merged.push(Check { found, ..(*check).clone() });
        }
        // What is wrong alike on several nodes is one thing to mend.
        let mut alike: Vec<(&Check, Vec<&str>)> = Vec::new();
        for (node, check) in bad {
            match alike.iter_mut().find(|(known, _)| *known == check) {
                Some((_, hosts)) => hosts.push(&node.host),
                None => alike.push((check, vec![&node.host])),
            }
        }
        merged.extend(alike.into_iter().map(|(check, hosts)| match hosts[..] {
            [one] => Check { name: format!("{name}@{one}"), ..check.clone() },
            _ => {
                let found = format!("{} ({} of {} nodes: {})", check.found, hosts.len(), nodes.len(), hosts.join(", "));
                Check { found, ..check.clone() }
            }
        }));
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alike_on_all_nodes_is_said_once_and_what_is_not_by_node() {
        let node = |host: &str, checks: &[Check]| Node { host: host.into(), checks: checks.to_vec() };
        let nodes = vec![
            node("n1", &[Check::ok("gpus", "8 GPUs", "8"), Check::ok("driver", "570", "a driver")]),
            node("n2", &[Check::failure("gpus", "7 GPUs", "8", "drain it"), Check::ok("driver", "570", "a driver")]),
        ];
        let found = merged(nodes);
        let names: Vec<(&str, State)> = found.iter().map(|check| (check.name.as_str(), check.state)).collect();
        assert_eq!(names, [("gpus", State::Ok), ("gpus@n2", State::Failure), ("driver", State::Ok)]);
        assert!(found[0].found.contains("1 of 2 nodes") && found[2].found.contains("2 of 2 nodes"), "{found:?}");
        let low = || [Check::warning("limits", "8 MiB", "64 MiB", "raise it")];
        let found = merged(vec![node("n1", &low()), node("n2", &low())]);
        assert!(found.len() == 1 && found[0].name == "limits" && found[0].found.contains("n1, n2"), "{found:?}");
    }

    #[test]
    fn outside_of_an_allocation_it_says_how_to_get_one() {
        let args = DoctorArgs {
            run: "tiny".into(),
            set: Vec::new(),
            slurm: true,
            samples: 1,
            only: Vec::new(),
            json: false,
            node: false,
        };
        let found = nodes(&Context::for_tests(&[]), &args);
        assert!(found[0].state == State::Failure && found[0].fix.contains("salloc"), "{found:?}");
    }
}
