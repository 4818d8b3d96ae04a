//! Every back end of `cluster` passes the same checks.
//!
//! The test over MPI starts this program again under mpirun; each of those processes is one rank.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and prints for its parent")]

use std::env;
use std::path::PathBuf;
use std::process::Command;

use cluster::nccl::{self, Nccl};
use cluster::{BufferMut, ClusterError, Collective, Mpi, MpiPiece, Single, Topology};
use integration_tests::programs::{all_output, built, checkout, run_within};
use integration_tests::{ranks, skip::skip};

/// What a back end must do, in a world of any size.
fn conformance(ranks: &dyn Collective) {
    let (rank, size) = (ranks.rank(), ranks.world_size());
    ranks.barrier().unwrap();
    sums(ranks);
    broadcasts(ranks);

    let gathered = ranks.all_gather(&[rank as u8, 7]).unwrap();
    let expected: Vec<u8> = (0..size).flat_map(|rank| [rank as u8, 7]).collect();
    assert_eq!(gathered, expected);
    assert!(ranks.all_gather(&[]).unwrap().is_empty());

    let error = ranks.broadcast(&mut [0], size).unwrap_err();
    assert!(matches!(error, ClusterError::NoSuchRank { .. }), "{error}");
    ranks.barrier().unwrap();
}

fn sums(ranks: &dyn Collective) {
    let (rank, size) = (ranks.rank() as u64, ranks.world_size() as u64);
    let total = size * (size + 1) / 2;
    // 36 MiB: more than the MPI piece sends at once. Small whole numbers, so that every order of additions is exact.
    let count = 9 << 20;
    let mut singles: Vec<f32> = (0..count).map(|index| (rank + 1) as f32 * (index % 5) as f32).collect();
    ranks.all_reduce_sum(BufferMut::F32(&mut singles)).unwrap();
    assert!(singles.iter().enumerate().all(|(index, &sum)| sum == total as f32 * (index % 5) as f32));

    let mut doubles = [0.5 * (rank + 1) as f64, -1.0];
    ranks.all_reduce_sum(BufferMut::F64(&mut doubles)).unwrap();
    assert_eq!(doubles, [0.5 * total as f64, -(size as f64)]);

    // Above 2^53, where a sum through doubles would lose the last bits.
    let mut counts = [(1 << 60) + rank + 1, 0];
    ranks.all_reduce_sum(BufferMut::U64(&mut counts)).unwrap();
    assert_eq!(counts, [size * (1 << 60) + total, 0]);
    ranks.all_reduce_sum(BufferMut::F32(&mut [])).unwrap();
}

fn broadcasts(ranks: &dyn Collective) {
    let root = ranks.world_size() - 1;
    let pattern = |index: usize| (index % 251) as u8;
    // 33 MiB: more than the MPI piece sends at once.
    let mut bytes: Vec<u8> = vec![0; 33 << 20];
    if ranks.rank() == root {
        bytes = (0..bytes.len()).map(pattern).collect();
    }
    ranks.broadcast(&mut bytes, root).unwrap();
    assert!(bytes.iter().enumerate().all(|(index, &byte)| byte == pattern(index)));

    let gathered = ranks.all_gather(&bytes).unwrap();
    assert_eq!(gathered.len(), bytes.len() * ranks.world_size());
    assert!(gathered.chunks(bytes.len()).all(|part| part == bytes));
}

#[test]
fn single_conforms() {
    conformance(&Single);
    Single.finish().unwrap();
}

#[test]
fn mpi_conforms_on_1_2_and_3_ranks() {
    const TEST: &str = "mpi_conforms_on_1_2_and_3_ranks";
    if env::var_os("BLIP2_TEST_RANK").is_some() {
        return rank_of_the_mpi_test();
    }
    for size in [1, 2, 3] {
        let Some(mut command) = ranks::mpirun(size) else { return skip(TEST, "no mpirun") };
        command.arg(env::current_exe().unwrap()).args(["--exact", TEST, "--nocapture", "--test-threads=1"]);
        command.env("BLIP2_TEST_RANK", "1");
        let output = run_within(180, &command);
        assert!(output.status.success(), "{size} ranks:\n{}", all_output(&output));
        let done = all_output(&output).matches("this rank conforms").count();
        assert_eq!(done, size, "{}", all_output(&output));
    }
}

fn rank_of_the_mpi_test() {
    let piece = MpiPiece::load(&[built("libblip2_mpi.so")]).unwrap();
    let ranks = Mpi::init(piece).unwrap();
    let topology = Topology::from_environment().unwrap();
    assert_eq!((ranks.rank(), ranks.world_size()), (topology.rank, topology.world_size));
    conformance(&ranks);
    ranks.finish().unwrap();
    let after = ranks.barrier().unwrap_err().to_string();
    assert!(after.contains("MPI is not up"), "{after}");
    println!("this rank conforms");
}

#[test]
fn nccl_gives_its_version_and_unique_ids_without_a_gpu() {
    const TEST: &str = "nccl_gives_its_version_and_unique_ids_without_a_gpu";
    if env::var_os("NCCL_SOCKET_IFNAME").is_none() {
        // NCCL listens while it makes an id: on the loopback interface only, which it reads from the environment.
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", TEST, "--nocapture"]).env("NCCL_SOCKET_IFNAME", "lo");
        let output = run_within(60, &command);
        assert!(output.status.success(), "{}", all_output(&output));
        return;
    }
    let torch = env::var_os("LIBTORCH").map_or_else(|| checkout().join(".deps/site/torch"), PathBuf::from);
    let library = match Nccl::load(&nccl::candidates(None, Some(&torch))) {
        Ok(library) => library,
        Err(error) => return skip(TEST, &format!("{error} (TORCH_CUDA=1 make setup brings it)")),
    };
    assert!(library.version().unwrap() >= nccl::Version { major: 2, minor: 18, patch: 0 });
    let id = library.unique_id().unwrap();
    assert_ne!(id, library.unique_id().unwrap());
    assert_eq!(nccl::UniqueId::from_bytes(*id.as_bytes()), id);
    assert!(library.error_string(4).contains("invalid argument"), "{}", library.error_string(4));
    assert!(!library.error_string(12345).is_empty());
}

#[test]
fn a_world_that_mpi_sees_otherwise_is_refused() {
    // Two ranks are announced by a launcher that does not speak MPI: MPI sees one, and `connect` says why.
    let Some(mut command) = ranks::mpirun(1) else {
        return skip("a_world_that_mpi_sees_otherwise_is_refused", "no mpirun");
    };
    command.arg(built("blip2-rank")).arg("self-check");
    command = as_torchrun(command);
    let output = run_within(120, &command);
    assert!(!output.status.success());
    assert!(all_output(&output).contains("built against another MPI"), "{}", all_output(&output));
}

/// The same command with variables that announce rank 0 of 2.
fn as_torchrun(command: Command) -> Command {
    let mut outer = Command::new(command.get_program());
    let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let program = words.iter().position(|word| word.to_string_lossy().ends_with("blip2-rank")).unwrap();
    outer.args(&words[..program]);
    outer.args(["env", "-u", "OMPI_COMM_WORLD_RANK"]);
    outer.args(["RANK=0", "WORLD_SIZE=2", "LOCAL_RANK=0", "LOCAL_WORLD_SIZE=2"]).args(&words[program..]);
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            outer.env(name, value);
        }
    }
    outer
}
