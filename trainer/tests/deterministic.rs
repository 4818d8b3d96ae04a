//! The switches of libtorch and MKL, alone in their process: they may set a variable of the environment.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use trainer::shim::{be_deterministic, describe, is_deterministic};

#[test]
fn determinism_is_switched_on_and_told() {
    assert!(!is_deterministic());
    be_deterministic().unwrap();
    assert!(is_deterministic());
    let intel = std::fs::read_to_string("/proc/cpuinfo").unwrap().contains("GenuineIntel");
    assert_eq!(describe().unwrap()["mkl_reproducibility"], if intel { "AUTO" } else { "default" });
}
