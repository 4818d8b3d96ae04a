//! One `blip2-rank` starts with and without CUDA and MPI; `blip2` links none of libtorch, MPI and CUDA;
//! nothing needs LD_LIBRARY_PATH.
//!
//! That unit, integration and documentation tests find libtorch by themselves is shown by those of the
//! crate `trainer`, which use it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and prints for its parent")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use integration_tests::programs::{all_output, built, needed_libraries, run_within};
use integration_tests::{ranks, skip::skip};
use serde_json::Value;

/// Start and end of two ranks take about 2 s; a slow machine under load gets many times that.
const LIMIT_S: u32 = 120;

fn self_check(mut command: Command) -> Output {
    command.args(["self-check", "--json"]).env_remove("LD_LIBRARY_PATH");
    run_within(LIMIT_S, &command)
}

/// The report of a self-check that must succeed.
fn report(command: Command) -> Value {
    let output = self_check(command);
    assert!(output.status.success(), "self-check failed:\n{}", all_output(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}:\n{}", all_output(&output)))
}

fn blip2_rank() -> Command {
    Command::new(built("blip2-rank"))
}

fn assert_sums(report: &Value, world_size: u64, backend: &str) {
    let all = report["ranks"].as_array().unwrap();
    assert_eq!(all.len() as u64, world_size);
    for (rank, entry) in all.iter().enumerate() {
        assert_eq!(entry["rank"], rank);
        assert_eq!(entry["world_size"], world_size);
        assert_eq!(entry["backend"], backend);
        assert_eq!(entry["tensor_result"], 83.0);
        assert_eq!(entry["all_reduce_result"], (world_size * (world_size + 1) / 2) as f64);
        assert_eq!(entry["libtorch"]["version"].as_str().unwrap().split('+').next(), Some("2.11.0"));
    }
}

/// The folder of the libtorch that blip2-rank uses.
fn torch_folder() -> PathBuf {
    let report = report(blip2_rank());
    PathBuf::from(report["ranks"][0]["libtorch"]["path"].as_str().unwrap())
}

#[test]
fn one_rank_starts_alone_and_finds_its_libraries() {
    let report = report(blip2_rank());
    assert_eq!(report["schema_version"], 1);
    assert_sums(&report, 1, "single");
    assert_eq!(report["ranks"][0]["mpi"]["state"], "found", "{report}");
}

#[test]
fn one_rank_starts_with_an_empty_environment() {
    let mut command = Command::new("env");
    command.arg("-i").arg(built("blip2-rank"));
    assert_sums(&report(command), 1, "single");
}

#[test]
fn cuda_is_loaded_when_installed_and_reported_when_not() {
    let torch = torch_folder();
    let report = report(blip2_rank());
    let cuda = &report["ranks"][0]["cuda_library"];
    if torch.join("lib/libtorch_cuda.so").exists() {
        assert_eq!(cuda["state"], "loaded", "{cuda}");
    } else {
        assert_eq!(cuda["state"], "absent", "{cuda}");
        assert!(cuda["reason"].as_str().unwrap().contains("make setup"), "{cuda}");
        let why = "libtorch's CUDA part is not installed (TORCH_CUDA=1 make setup)";
        skip("cuda_is_loaded_when_installed", why);
    }
}

/// A libtorch folder of its own, made of hard links, whose CUDA part is no library.
fn torch_with_broken_cuda(torch: &Path, folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder.join("torch/lib"))?;
    for entry in fs::read_dir(torch.join("lib"))? {
        let entry = entry?;
        if entry.file_type()?.is_file() && !entry.file_name().to_string_lossy().contains("cuda") {
            fs::hard_link(entry.path(), folder.join("torch/lib").join(entry.file_name()))?;
        }
    }
    fs::write(folder.join("torch/build-version"), "2.11.0\n")?;
    fs::write(folder.join("torch/lib/libtorch_cuda.so"), "no library")?;
    std::os::unix::fs::symlink(torch.with_file_name("nvidia"), folder.join("nvidia"))
}

#[test]
fn a_cuda_library_that_cannot_be_loaded_is_reported_and_not_fatal() {
    let target = built("blip2-rank").parent().unwrap().to_path_buf();
    let folder = tempfile::tempdir_in(target).unwrap();
    if let Err(error) = torch_with_broken_cuda(&torch_folder(), folder.path()) {
        return skip(
            "a_cuda_library_that_cannot_be_loaded",
            &format!("libtorch cannot be linked into target: {error}"),
        );
    }
    let mut command = blip2_rank();
    command.arg("self-check").arg("--json").env("LD_LIBRARY_PATH", folder.path().join("torch/lib"));
    let output = run_within(LIMIT_S, &command);
    assert!(output.status.success(), "{}", all_output(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_sums(&report, 1, "single");
    let cuda = &report["ranks"][0]["cuda_library"];
    assert!(cuda["state"] == "absent" && cuda["reason"].as_str().unwrap().contains("libtorch_cuda.so"), "{cuda}");
}

#[test]
fn two_ranks_under_mpirun_sum_over_mpi() {
    let Some(mut command) = ranks::mpirun(2) else {
        return skip("two_ranks_under_mpirun_sum_over_mpi", "no mpirun");
    };
    command.arg(built("blip2-rank"));
    assert_sums(&report(command), 2, "mpi");
}

/// blip2-rank in a folder of its own, without the MPI piece beside it.
fn rank_without_mpi_piece(folder: &Path) -> PathBuf {
    let alone = folder.join("a/b/blip2-rank");
    fs::create_dir_all(alone.parent().unwrap()).unwrap();
    fs::copy(built("blip2-rank"), &alone).unwrap();
    alone
}

#[test]
fn one_rank_starts_without_the_mpi_piece() {
    let folder = tempfile::tempdir().unwrap();
    let report = report(Command::new(rank_without_mpi_piece(folder.path())));
    assert_sums(&report, 1, "single");
    let mpi = &report["ranks"][0]["mpi"];
    assert!(mpi["state"] == "absent" && mpi["reason"].as_str().unwrap().contains("libblip2_mpi.so"), "{mpi}");
}

#[test]
fn two_ranks_without_the_mpi_piece_fail_and_say_what_to_do() {
    let Some(mut command) = ranks::mpirun(2) else {
        return skip("two_ranks_without_the_mpi_piece_fail_and_say_what_to_do", "no mpirun");
    };
    let folder = tempfile::tempdir().unwrap();
    command.arg(rank_without_mpi_piece(folder.path()));
    let output = self_check(command);
    assert!(!output.status.success());
    assert!(all_output(&output).contains("cargo build --release -p cluster-mpi"), "{}", all_output(&output));
}

#[test]
fn a_rank_that_panics_ends_the_job() {
    let Some(mut command) = ranks::mpirun(2) else { return skip("a_rank_that_panics_ends_the_job", "no mpirun") };
    command.arg(built("blip2-rank")).args(["self-check", "--panic-on-rank", "1"]);
    let began = Instant::now();
    let output = run_within(LIMIT_S, &command);
    assert!(!output.status.success());
    assert!(all_output(&output).contains("--panic-on-rank names this rank"), "{}", all_output(&output));
    assert!(began.elapsed() < Duration::from_secs(60), "the job ended after {:?}", began.elapsed());
}

#[test]
fn a_panic_of_a_single_rank_is_an_error_with_exit_code_1() {
    let mut command = blip2_rank();
    command.args(["self-check", "--panic-on-rank", "0"]);
    assert_eq!(run_within(LIMIT_S, &command).status.code(), Some(1));
}

fn assert_links_none_of(file: &str, words: &[&str]) {
    let needed = needed_libraries(&built(file));
    assert!(!needed.is_empty(), "{file} names no library at all");
    for library in &needed {
        assert!(!words.iter().any(|word| library.contains(word)), "{file} is linked against {library}");
    }
}

#[test]
fn blip2_links_no_libtorch_no_mpi_and_no_cuda() {
    assert_links_none_of("blip2", &["torch", "libc10", "libmpi", "libopen-", "cuda", "cudart", "cupti", "nccl"]);
}

#[test]
fn blip2_rank_links_libtorch_and_neither_mpi_nor_cuda() {
    assert_links_none_of(
        "blip2-rank",
        &["torch_cuda", "c10_cuda", "libmpi", "libopen-", "libcuda", "cudart", "cupti", "nccl"],
    );
    assert!(needed_libraries(&built("blip2-rank")).contains(&"libtorch_cpu.so".to_owned()));
}

#[test]
fn the_mpi_piece_links_mpi_and_no_libtorch() {
    assert_links_none_of("libblip2_mpi.so", &["torch", "libc10", "cuda", "nccl"]);
    let needed = needed_libraries(&built("libblip2_mpi.so"));
    assert!(needed.iter().any(|library| library.starts_with("libmpi")), "{needed:?}");
}
