//! What `make dist` packs runs in a folder of its own, with this checkout, its libraries and the network out of sight.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use integration_tests::blip2::stderr;
use integration_tests::programs::{all_output, checkout, run_within};
use integration_tests::runs::{SCHEDULE, last_checkpoints};
use integration_tests::skip::{skip, tier_is_all};

/// Packing takes half a minute, a rebuild of the MPI piece one; a slow machine under load gets many times that.
const LIMIT_S: u32 = 900;

/// Hides the checkout and the folder of its libraries behind empty ones, leaves the loopback interface alone of all networks,
/// and runs the rest of the words.
const HIDDEN: &str = r#"
mount --make-rprivate / || exit 99
for folder in "$1" "$2"; do [ ! -d "$folder" ] || mount -t tmpfs none "$folder" || exit 99; done
ip link set lo up || exit 99
shift 2
exec env -i PATH=/usr/bin:/bin HOME=/nowhere "$@"
"#;

/// A command with the checkout out of sight.
fn hidden(program: &Path) -> Command {
    let deps = checkout().join(".deps").canonicalize().unwrap_or_else(|_| checkout());
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", HIDDEN, "sh"]);
    command.arg(deps).arg(checkout()).arg(program).env_remove("LD_LIBRARY_PATH").current_dir("/");
    command
}

/// The package, made once.
fn archive() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let packed = run_within(LIMIT_S, Command::new(checkout().join(".ci/dist")).env_remove("TORCH_CUDA"));
        assert!(packed.status.success(), "{}", all_output(&packed));
        let archives = std::fs::read_dir(checkout().join("dist")).unwrap().map(|entry| entry.unwrap().path());
        archives.max_by_key(|path| path.metadata().unwrap().modified().unwrap()).unwrap()
    })
}

fn unpacked(folder: &Path) -> PathBuf {
    let status = Command::new("tar").arg("-xf").arg(archive()).arg("-C").arg(folder).status().unwrap();
    assert!(status.success(), "{} cannot be unpacked", archive().display());
    let mut entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.next().unwrap()
}

#[test]
fn the_package_runs_where_nothing_else_is() {
    let test = "the_package_runs_where_nothing_else_is";
    if !tier_is_all() {
        return skip(test, "takes minutes; run `make test-all`");
    }
    let tried = hidden(Path::new("/bin/true")).output();
    if !tried.as_ref().is_ok_and(|output| output.status.success()) {
        return skip(test, "needs root, unshare and ip (iproute2)");
    }
    let folder = tempfile::tempdir().unwrap();
    let package = unpacked(folder.path());

    let alone = run_within(LIMIT_S, hidden(&package.join("bin/blip2-rank")).args(["self-check", "--json"]));
    assert!(alone.status.success(), "{}", all_output(&alone));
    let report: serde_json::Value = serde_json::from_slice(&alone.stdout).unwrap();
    let libtorch = report["ranks"][0]["libtorch"]["path"].as_str().unwrap();
    assert_eq!(Path::new(libtorch), package.canonicalize().unwrap().join("lib/torch"));

    // Two ranks, where the package has an MPI; it has none when set-up found one on the system.
    let ranks = if package.join("lib/openmpi/bin/mpirun").exists() { "2" } else { "1" };
    let mut train = hidden(&package.join("bin/blip2"));
    let runs = folder.path().join("runs");
    let places = [
        ("run.output", "run"),
        ("data.sources[0].uri", "shards"),
        ("model.image_encoder.weights.uri", "image_encoder.safetensors"),
        ("model.language_model.weights.uri", "language_model.safetensors"),
    ];
    train.args(["launch", "tiny", "--ranks", ranks]);
    for set in configs::SMALL.iter().chain(SCHEDULE) {
        train.args(["--set", set]);
    }
    for (key, name) in places {
        train.arg("--set").arg(format!("{key}={}", runs.join(name).display()));
    }
    let trained = run_within(LIMIT_S, &train);
    assert!(trained.status.success(), "{}", all_output(&trained));
    assert_eq!(last_checkpoints(&runs.join("run")).len(), 2);

    let status = run_within(60, hidden(&package.join("bin/blip2")).args(["status", "--json"]).arg(runs.join("run")));
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["state"], "done");
}

#[test]
fn the_mpi_piece_is_rebuilt_by_one_command() {
    let test = "the_mpi_piece_is_rebuilt_by_one_command";
    if !tier_is_all() {
        return skip(test, "takes minutes; run `make test-all`");
    }
    let mpicc = checkout().join(".deps/bin/mpicc");
    if !mpicc.exists() {
        return skip(test, "no mpicc; run `make setup`");
    }
    let folder = tempfile::tempdir().unwrap();
    let package = unpacked(folder.path());
    let before = std::fs::read(package.join("lib/libblip2_mpi.so")).unwrap();
    let mut rebuild = Command::new(package.join("mpi-piece/rebuild-mpi"));
    rebuild.env("MPICC", &mpicc).env("LIBCLANG_PATH", checkout().join(".deps/libclang"));
    let rebuilt = run_within(LIMIT_S, &rebuild);
    assert!(rebuilt.status.success(), "{}", all_output(&rebuilt));
    assert_eq!(std::fs::read(package.join("lib/libblip2_mpi.so.old")).unwrap(), before);
    let check = run_within(60, Command::new(package.join("bin/blip2-rank")).args(["self-check", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!(report["ranks"][0]["mpi"]["state"], "found", "{report}");
    let without = run_within(60, Command::new(package.join("mpi-piece/rebuild-mpi")).env("MPICC", "no-such-mpicc"));
    assert!(
        !without.status.success() && stderr(&without).contains("found no no-such-mpicc"),
        "{}",
        all_output(&without)
    );
}
