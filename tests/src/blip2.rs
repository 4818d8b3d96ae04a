//! The `blip2` command in tests, and the Python peers that some tests need.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::programs::{built, checkout};
use crate::skip::skip;

/// Runs `blip2` with arguments to its end.
///
/// # Panics
/// When it is not built or cannot be started.
pub fn blip2(arguments: &[&str]) -> Output {
    Command::new(built("blip2")).args(arguments).output().expect("blip2 starts")
}

/// What a command printed on standard output.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command printed on standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The Python of the test peers, which `make test-all` sets up; `None`, said aloud, in other tiers.
pub fn peers_python(test: &str) -> Option<PathBuf> {
    python_of("test", test)
}

/// A Python with torch and transformers, or none and a line in the log.
pub fn transformers_python(test: &str) -> Option<PathBuf> {
    python_of("bench", test)
}

/// A Python with img2dataset, or none and a line in the log.
pub fn fetch_python(test: &str) -> Option<PathBuf> {
    python_of("fetch", test)
}

/// A Python with pycocoevalcap and a Java, or none and a line in the log.
pub fn scores_python(test: &str) -> Option<PathBuf> {
    python_of("scores", test)
}

fn python_of(kind: &str, test: &str) -> Option<PathBuf> {
    let python = checkout().join(format!(".deps/python-{kind}/bin/python"));
    if std::env::var("BLIP2_TIER").is_ok_and(|tier| tier == "all") && python.exists() {
        return Some(python);
    }
    skip(test, "needs the Python peers; run `make test-all`");
    None
}
