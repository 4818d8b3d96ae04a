//! The programs under test.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The root of the checkout.
pub fn checkout() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}

/// A built file such as `blip2`, `blip2-rank` or `libblip2_mpi.so`, beside the `deps` folder of this test program.
///
/// # Panics
/// When it was not built.
pub fn built(name: &str) -> PathBuf {
    let test = env::current_exe().expect("a test program knows its own path");
    let folder = test.ancestors().nth(2).expect("invariant: a test program lies in target/*/deps");
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built; run `make test` or `make build`", path.display());
    path
}

/// Runs a command to its end and returns what it printed; kills it after `seconds`.
///
/// # Panics
/// When it cannot be started or does not end in time.
pub fn run_within(seconds: u32, command: &Command) -> Output {
    let mut limited = Command::new("timeout");
    limited.arg("--kill-after=5").arg(seconds.to_string()).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        limited.current_dir(folder);
    }
    let output = limited.output().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    // `timeout` exits with 124, or 137 when it had to kill.
    let late = matches!(output.status.code(), Some(124 | 137) | None);
    assert!(!late, "{command:?} did not end within {seconds} s; it printed:\n{}", all_output(&output));
    output
}

/// Runs a command that is to fail with these parts in what it says; gives back all of that.
///
/// # Panics
/// When it succeeds, or a part is missing.
pub fn refused(command: &Command, parts: &[&str]) -> String {
    let output = run_within(300, command);
    let said = all_output(&output);
    assert!(!output.status.success(), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
    said
}

/// Both streams of a finished command, for messages.
pub fn all_output(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The libraries that a program or library is linked against, as its dynamic section names them.
///
/// # Panics
/// When `readelf` (part of binutils, which gcc needs) cannot read it.
pub fn needed_libraries(file: &Path) -> Vec<String> {
    let output = Command::new("readelf").arg("--dynamic").arg(file).output().expect("readelf, of binutils, runs");
    assert!(output.status.success(), "readelf {}: {}", file.display(), all_output(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    let needed = text.lines().filter(|line| line.contains("(NEEDED)"));
    needed.filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned())).collect()
}

/// Options of `blip2 launch` for a run that is about its launch: few scenes, and no restart.
pub const FEW_SCENES: [&str; 6] = [
    "--set",
    "data.sources[0].scenes=200",
    "--set",
    "data.sources[0].test_scenes=0",
    "--set",
    "cluster.restarts.max=0",
];
