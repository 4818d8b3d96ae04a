//! Tests that cannot run here say so.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;

/// Prints that `test` was skipped and why, and adds it to the list that `make test` closes with
/// (the file that `BLIP2_SKIP_LOG` names).
pub fn skip(test: &str, reason: &str) {
    let line = format!("{test}: {reason}\n");
    let mut stderr = std::io::stderr();
    stderr.write_all(format!("SKIPPED {line}").as_bytes()).expect("a test can write to stderr");
    if let Some(path) = env::var_os("BLIP2_SKIP_LOG") {
        let mut log = OpenOptions::new().append(true).create(true).open(&path).expect("the skip log can be opened");
        // One write per line, so that tests in parallel do not mix theirs.
        log.write_all(line.as_bytes()).expect("the skip log can be written");
    }
}

/// Whether the tests that take long are wanted (`make test-all`).
pub fn tier_is_all() -> bool {
    env::var("BLIP2_TIER").is_ok_and(|tier| tier == "all")
}
