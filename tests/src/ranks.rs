//! Several ranks on this machine.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::programs::checkout;

/// A private network of loopback only, and a process tree that ends with its first process.
const NAMESPACE: [&str; 6] = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];
/// Brings the loopback of the new network up and runs the command with a folder of its own for temporary files: Open
/// MPI names its folders after process ids, which repeat from one namespace to the next.
const INSIDE: &str = "ip link set lo up || exit 1
TMPDIR=$(mktemp -d) || exit 1
export TMPDIR
\"$@\"
code=$?
rm -rf \"$TMPDIR\"
exit $code";

/// `mpirun -n ranks`, to which the caller adds the program; none when this machine has no mpirun.
///
/// Open MPI listens on all interfaces whatever it is told about traffic, so the ranks get a network of
/// their own where the machine allows that, and pins to the loopback interface in any case.
pub fn mpirun(ranks: usize) -> Option<Command> {
    let launcher = launcher()?;
    let mut command = match namespace() {
        Some(words) => {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).args(["sh", "-c", INSIDE, "sh"]).arg(launcher);
            command
        }
        None => Command::new(launcher),
    };
    command.args(["-n", &ranks.to_string()]);
    if is_open_mpi() {
        command.arg("--oversubscribe");
    }
    // Open MPI 5 hands the first one on to PMIx, and complains when PMIx is told as well.
    for pin in ["OMPI_MCA_oob_tcp_if_include", "OMPI_MCA_btl_tcp_if_include"] {
        command.env(pin, "lo");
    }
    for (name, value) in [
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        // More ranks than cores: give the core away while waiting, and bind nobody to one.
        ("OMPI_MCA_mpi_yield_when_idle", "1"),
        ("OMPI_MCA_hwloc_base_binding_policy", "none"),
        ("PRTE_MCA_hwloc_default_binding_policy", "none"),
    ] {
        command.env(name, value);
    }
    Some(command)
}

/// The mpirun that belongs to the mpicc that set-up chose.
fn launcher() -> Option<PathBuf> {
    let chosen = checkout().join(".deps/bin/mpirun");
    let beside_mpicc = env::var_os("MPICC").and_then(|mpicc| Some(Path::new(&mpicc).parent()?.join("mpirun")));
    [Some(chosen), beside_mpicc].into_iter().flatten().find(|path| path.exists())
}

fn is_open_mpi() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let version = launcher().and_then(|path| Command::new(path).arg("--version").output().ok());
        version.is_some_and(|output| String::from_utf8_lossy(&output.stdout).contains("Open MPI"))
    })
}

/// The words that start a command in namespaces of its own; none where the machine does not allow them.
fn namespace() -> Option<&'static [&'static str]> {
    static ANSWER: OnceLock<Option<Vec<&'static str>>> = OnceLock::new();
    let answer = ANSWER.get_or_init(|| {
        // With root as is; without, inside a user namespace.
        [&["unshare"][..], &["unshare", "--map-root-user"][..]].into_iter().find_map(|start| {
            let words: Vec<&str> = start.iter().chain(&NAMESPACE).copied().collect();
            let tried = Command::new(words[0]).args(&words[1..]).args(["sh", "-c", INSIDE, "sh", "true"]).output();
            tried.is_ok_and(|output| output.status.success()).then_some(words)
        })
    });
    answer.as_deref()
}
