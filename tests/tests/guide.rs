//! The commands of docs/run-on-slurm.md, as a new user types them, on a SLURM of two nodes on this machine.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::symlink;

use integration_tests::programs::{all_output, built, checkout};
use integration_tests::slurm::SlurmCluster;

/// The blocks marked `sh`, which can be run as they stand; others need a site's modules or root.
fn commands(page: &str) -> String {
    let blocks = page.split("\n```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
    blocks.map(|block| format!("{block}\n")).collect()
}

#[test]
fn the_guide_works_literally() {
    let Some(cluster) = SlurmCluster::start("the_guide_works_literally", 2) else { return };
    let page = std::fs::read_to_string(checkout().join("docs/run-on-slurm.md")).unwrap();
    let commands = commands(&page);
    assert!(commands.lines().count() > 20, "{commands}");
    // A checkout in which runs/ is empty.
    let folder = tempfile::tempdir().unwrap();
    symlink(checkout().join("configs"), folder.path().join("configs")).unwrap();
    symlink(built("blip2").ancestors().nth(2).unwrap(), folder.path().join("target")).unwrap();
    let script = format!("set -euo pipefail\n{commands}");
    let mut typed = cluster.local(&["exec", "timeout", "900", "bash", "-c", &script]);
    let output = typed.current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", all_output(&output));
    let sums: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.ends_with(".safetensors"))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    // A file of each rank, of the first run and then of the second.
    let (first, second) = sums.split_at(sums.len() / 2);
    assert!(sums.len() == 4 && first == second, "{}", all_output(&output));
}
