//! The set-up, against a package index on the loopback interface: fresh, repeated, interrupted, refused.
//!
//! The cases are written beside the set-up, in `.setup/test_setup.py`; each of them is one test here.

use std::fs;
use std::process::Command;

use integration_tests::programs::{all_output, checkout, run_within};
use integration_tests::skip::skip;

/// Most cases take 2 s; a busy machine gets many times that.
const LIMIT_S: u32 = 300;

fn run(case: &str) {
    let mut command = Command::new("python3");
    command.arg(checkout().join(".setup/test_setup.py")).arg(format!("SetupTest.{case}"));
    let output = run_within(LIMIT_S, &command);
    let said = all_output(&output);
    assert!(output.status.success(), "{said}");
    if let Some(reason) = said.lines().find_map(|line| line.strip_prefix("SKIPPED ")) {
        skip(case, reason);
    }
}

macro_rules! cases {
    ($($case:ident)*) => {
        const CASES: &[&str] = &[$(stringify!($case)),*];
        $(
            #[test]
            fn $case() {
                run(stringify!($case));
            }
        )*
    };
}

cases! {
    test_fresh
    test_index_in_html
    test_second_run_does_nothing_and_says_so_in_one_line
    test_a_deleted_file_is_brought_again
    test_a_cut_connection_is_resumed_within_a_run
    test_an_interrupted_download_is_resumed_by_the_next_run
    test_a_server_without_ranges_starts_over
    test_a_part_that_is_too_long_starts_over
    test_wrong_content_is_refused_and_deleted
    test_no_network
    test_an_index_without_the_file
    test_the_index_of_pip_is_used
    test_a_password_is_sent_and_not_printed
    test_a_folder_of_wheels_needs_no_network
    test_too_little_disk_space_is_told_before_the_download
    test_a_disk_that_fills_up_leaves_nothing_half_unpacked
    test_another_machine_is_refused
    test_an_old_c_library_is_refused
    test_a_new_pin_replaces_the_old_files
    test_two_at_once
    test_cuda_libraries_on_demand
    test_a_libtorch_of_the_user
    test_a_wrong_mpicc_is_refused
    test_tools_of_the_machine_are_used
    test_a_machine_without_nasm
    test_a_python_without_venv
}

#[test]
fn every_case_of_the_python_file_is_run() {
    let text = fs::read_to_string(checkout().join(".setup/test_setup.py")).unwrap();
    let written: Vec<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("def ")?.split('(').next()).collect();
    let missing: Vec<_> = written.iter().filter(|name| name.starts_with("test_") && !CASES.contains(name)).collect();
    assert!(missing.is_empty(), "add to the list above: {missing:?}");
}
