//! Every back end of `cluster` passes the same checks.
//!
//! The test over MPI starts this program again under mpirun; each of those processes is one rank.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and prints for its parent")]

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::thread;

use cluster::nccl_rs::{self, Communicator, Cuda, DataType, DeviceBuffer, NcclError};
use cluster::{BufferMut, ClusterError, Collective, Mpi, MpiPiece, Nccl, Single, Threads, Topology};
use half::{bf16, f16};
use integration_tests::programs::{all_output, built, checkout, run_within};
use integration_tests::{ranks, skip::skip};

/// What a back end must do, in a world of any size.
fn conformance(ranks: &dyn Collective) {
    let (rank, size) = (ranks.rank(), ranks.world_size());
    ranks.barrier().unwrap();
    sums(ranks);
    broadcasts(ranks);
    parts_for_every_rank(ranks);

    let gathered = ranks.all_gather(&[rank as u8, 7]).unwrap();
    let expected: Vec<u8> = (0..size).flat_map(|rank| [rank as u8, 7]).collect();
    assert_eq!(gathered, expected);
    assert!(ranks.all_gather(&[]).unwrap().is_empty());

    let error = ranks.broadcast(&mut [0], size).unwrap_err();
    assert!(matches!(error, ClusterError::NoSuchRank { .. }), "{error}");
    many_small_calls(ranks);
    if size > 1 {
        disagreements(ranks);
    }
    ranks.barrier().unwrap();
}

/// Elements that are more than the MPI piece sends at once as f32, and that no number of ranks divides.
const MANY: usize = (9 << 20) + 5;

fn sums(ranks: &dyn Collective) {
    let (rank, size) = (ranks.rank() as u64, ranks.world_size() as u64);
    let total = size * (size + 1) / 2;
    // Small whole numbers, so that every order of additions is exact.
    let many = if size > 4 { MANY / 16 } else { MANY };
    let mut singles: Vec<f32> = (0..many).map(|index| (rank + 1) as f32 * (index % 5) as f32).collect();
    ranks.all_reduce_sum(BufferMut::F32(&mut singles)).unwrap();
    assert!(singles.iter().enumerate().all(|(index, &sum)| sum == total as f32 * (index % 5) as f32));

    let mut doubles = [0.5 * (rank + 1) as f64, -1.0];
    ranks.all_reduce_sum(BufferMut::F64(&mut doubles)).unwrap();
    assert_eq!(doubles, [0.5 * total as f64, -(size as f64)]);

    // Above 2^53, where a sum through doubles would lose the last bits.
    let mut counts = [(1 << 58) + rank + 1, 0];
    ranks.all_reduce_sum(BufferMut::U64(&mut counts)).unwrap();
    assert_eq!(counts, [size * (1 << 58) + total, 0]);

    // 1 + 2^-7 is the next bf16 after 1: sums rounded at every rank would lose it, one rounding of the whole keeps it.
    let one_and_a_bit = bf16::from_f32(1.0 + 1.0 / 128.0);
    let mut brains = vec![one_and_a_bit; 7];
    ranks.all_reduce_sum(BufferMut::Bf16(&mut brains)).unwrap();
    assert!(brains.iter().all(|sum| *sum == bf16::from_f32(one_and_a_bit.to_f32() * size as f32)), "{brains:?}");
    let mut halves = vec![f16::from_f32(0.1); 3];
    ranks.all_reduce_sum(BufferMut::F16(&mut halves)).unwrap();
    let sum = (0..size).fold(0.0, |sum, _| sum + f16::from_f32(0.1).to_f32());
    assert!(halves.iter().all(|found| *found == f16::from_f32(sum)), "{halves:?}");

    ranks.all_reduce_sum(BufferMut::F32(&mut [])).unwrap();
    ranks.all_reduce_sum(BufferMut::F64(&mut [])).unwrap();
    ranks.all_reduce_sum(BufferMut::U64(&mut [])).unwrap();
    ranks.all_reduce_sum(BufferMut::Bf16(&mut [])).unwrap();
    ranks.all_reduce_sum(BufferMut::F16(&mut [])).unwrap();
}

fn parts_for_every_rank(ranks: &dyn Collective) {
    let (rank, size) = (ranks.rank(), ranks.world_size());
    // From rank a to rank b: nothing where the numbers say so, and more than the MPI piece sends at once from 0 to the last.
    let len = |from: usize, to: usize| match (from, to) {
        (0, to) if to == size - 1 => {
            if size > 4 {
                100_000
            } else {
                40 << 20
            }
        }
        _ => (from * 7 + to * 3) % 5 * (to + 1),
    };
    let fill =
        |from: usize, to: usize| -> Vec<u8> { (0..len(from, to)).map(|i| (i * 31 + from * 5 + to) as u8).collect() };
    let parts: Vec<Vec<u8>> = (0..size).map(|to| fill(rank, to)).collect();
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let expected: Vec<usize> = (0..size).map(|from| len(from, rank)).collect();
    let received = ranks.all_to_all(&parts, &expected).unwrap();
    assert_eq!(received.len(), size);
    for (from, part) in received.iter().enumerate() {
        assert!(*part == fill(from, rank), "from rank {from} to rank {rank}");
    }
    let nothing: Vec<&[u8]> = vec![&[]; size];
    assert!(ranks.all_to_all(&nothing, &vec![0; size]).unwrap().iter().all(Vec::is_empty));
    // Rank 0 has nothing to send, then nothing to receive.
    let one: Vec<&[u8]> = vec![&[7]; size];
    let from_others: Vec<usize> = (0..size).map(|from| usize::from(from > 0)).collect();
    let received = ranks.all_to_all(if rank == 0 { &nothing } else { &one }, &from_others).unwrap();
    assert!(received.iter().enumerate().all(|(from, part)| part.len() == usize::from(from > 0)));
    let to_others: Vec<&[u8]> = (0..size).map(|to| if to > 0 { &[7][..] } else { &[] }).collect();
    let received = ranks.all_to_all(&to_others, &vec![usize::from(rank > 0); size]).unwrap();
    assert!(received.iter().all(|part| part.len() == usize::from(rank > 0)));
    let error = ranks.all_to_all(&nothing, &vec![0; size + 1]).unwrap_err();
    assert!(matches!(error, ClusterError::Parts { found, .. } if found == size + 1), "{error}");
}

fn many_small_calls(ranks: &dyn Collective) {
    // Ranks that share two cores wait for one another at every call.
    let calls = if ranks.world_size() > 4 { 1_000 } else { 10_000 };
    let size = ranks.world_size() as u64;
    for call in 0..calls {
        let mut sum = [call, ranks.rank() as u64];
        ranks.all_reduce_sum(BufferMut::U64(&mut sum)).unwrap();
        assert_eq!(sum, [size * call, size * (size - 1) / 2]);
    }
}

/// Every rank learns that ranks disagree, and who; the job can go on.
fn disagreements(ranks: &dyn Collective) {
    let (rank, size) = (ranks.rank(), ranks.world_size());
    let last = rank == size - 1;
    let sides = |error: ClusterError, parts: [&str; 2]| {
        let text = error.to_string();
        assert!(matches!(error, ClusterError::Mismatch { .. }), "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    let lengths = ranks.all_reduce_sum(BufferMut::F32(&mut vec![1.0; if last { 3 } else { 2 }])).unwrap_err();
    sides(lengths, ["rank 0 made an all-reduce of 2 f32", &format!("rank {} made an all-reduce of 3 f32", size - 1)]);
    let types = match last {
        true => ranks.all_reduce_sum(BufferMut::F64(&mut [1.0, 2.0])),
        false => ranks.all_reduce_sum(BufferMut::U64(&mut [1, 2])),
    };
    sides(types.unwrap_err(), ["2 u64", "2 f64"]);
    let operations = if last { ranks.barrier() } else { ranks.all_gather(&[1]).map(|_| ()) };
    sides(operations.unwrap_err(), ["an all-gather of 1 bytes", "a barrier"]);
    let roots = ranks.broadcast(&mut [0], usize::from(last)).unwrap_err();
    sides(roots, ["from rank 0", "from rank 1"]);
    let expected: Vec<usize> = (0..size).map(|from| if last && from == 0 { 2 } else { 1 }).collect();
    let sizes = ranks.all_to_all(&vec![&[1_u8][..]; size], &expected).unwrap_err();
    let receiver = format!("rank {} expects 2 bytes", size - 1);
    sides(sizes, [&format!("rank 0 sends 1 bytes to rank {}", size - 1), &receiver]);
}

fn broadcasts(ranks: &dyn Collective) {
    let root = ranks.world_size() - 1;
    let pattern = |index: usize| (index % 251) as u8;
    // 33 MiB: more than the MPI piece sends at once.
    let mut bytes: Vec<u8> = vec![0; if ranks.world_size() > 4 { 1 << 20 } else { 33 << 20 }];
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
fn threads_conform_on_1_to_16_ranks() {
    for size in [1, 2, 3, 5, 16] {
        on_threads(size, |rank| {
            conformance(&rank);
            rank.finish().unwrap();
        });
    }
}

/// Runs every rank of a world of threads.
fn on_threads(size: usize, rank: impl Fn(Threads) + Sync) {
    let rank = &rank;
    thread::scope(|scope| {
        let ranks = Threads::world(size).into_iter().map(|one| scope.spawn(move || rank(one)));
        ranks.collect::<Vec<_>>().into_iter().for_each(|rank| rank.join().unwrap());
    });
}

#[test]
fn mpi_conforms_on_1_2_3_and_4_ranks() {
    const TEST: &str = "mpi_conforms_on_1_2_3_and_4_ranks";
    if env::var_os("BLIP2_TEST_RANK").is_some() {
        return rank_of_the_mpi_test();
    }
    for size in [1, 2, 3, 4] {
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
    let library = match nccl_rs::Nccl::load(&nccl_rs::candidates(None, Some(&torch()))) {
        Ok(library) => library,
        Err(error) => return skip(TEST, &format!("{error} (TORCH_CUDA=1 make setup brings it)")),
    };
    assert!(library.version().unwrap() >= nccl_rs::Version { major: 2, minor: 18, patch: 0 });
    let id = library.unique_id().unwrap();
    assert_ne!(id, library.unique_id().unwrap());
    assert_eq!(nccl_rs::UniqueId::from_bytes(*id.as_bytes()), id);
    assert!(library.error_string(4).contains("invalid argument"), "{}", library.error_string(4));
    assert!(!library.error_string(12345).is_empty());
}

fn torch() -> PathBuf {
    env::var_os("LIBTORCH").map_or_else(|| checkout().join(".deps/site/torch"), PathBuf::from)
}

/// Several GPUs that are threads of this process and host memory (`tests/doubles/nccl.cpp`): a mock, as no test machine has
/// several GPUs.
fn stand_in() -> &'static (nccl_rs::Nccl, Cuda) {
    static LIBRARIES: OnceLock<(nccl_rs::Nccl, Cuda)> = OnceLock::new();
    LIBRARIES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libnccl_double.so");
        let mut compiler = Command::new(env::var_os("CXX").unwrap_or_else(|| "c++".into()));
        compiler.args(["-std=c++17", "-shared", "-fPIC", "-O1", "-pthread", "-o"]).arg(&library);
        let output = run_within(120, compiler.arg(checkout().join("tests/doubles/nccl.cpp")));
        assert!(output.status.success(), "{}", all_output(&output));
        let paths = [library];
        (nccl_rs::Nccl::load(&paths).unwrap(), Cuda::load(&paths).unwrap())
    })
}

#[test]
fn nccl_conforms_on_a_stand_in_for_1_to_16_gpus() {
    for size in [1, 2, 3, 5, 16] {
        on_threads(size, |rank| {
            let local_rank = rank.rank();
            let ranks = Nccl::join(Arc::new(rank), Ok(stand_in().clone()), local_rank).unwrap();
            conformance(&ranks);
            ranks.finish().unwrap();
        });
    }
}

#[test]
fn nccl_conforms_on_the_gpus_of_this_machine() {
    const TEST: &str = "nccl_conforms_on_the_gpus_of_this_machine";
    let cuda = Cuda::load(&nccl_rs::cuda_candidates(None, Some(&torch())));
    let nccl = nccl_rs::Nccl::load(&nccl_rs::candidates(None, Some(&torch())));
    let (cuda, nccl) = match (cuda, nccl) {
        (Ok(cuda), Ok(nccl)) => (cuda, nccl),
        (Err(error), _) | (_, Err(error)) => return skip(TEST, &error.to_string()),
    };
    let devices = match cuda.device_count() {
        Ok(devices) => devices,
        Err(error) => return skip(TEST, &error.to_string()),
    };
    on_threads(devices, |rank| {
        let local_rank = rank.rank();
        let ranks = Nccl::join(Arc::new(rank), Ok((nccl.clone(), cuda.clone())), local_rank).unwrap();
        conformance(&ranks);
        ranks.finish().unwrap();
    });
}

#[test]
fn a_rank_without_nccl_is_an_error_for_all_of_them() {
    on_threads(3, |rank| {
        let number = rank.rank();
        let libraries = match number {
            1 => nccl_rs::Nccl::load(&[PathBuf::from("/nonexistent/libnccl.so.2")]).map(|_| unreachable!()),
            _ => Ok(stand_in().clone()),
        };
        let error = Nccl::join(Arc::new(rank), libraries, number).map(|_| ()).unwrap_err();
        match (number, &error) {
            (1, ClusterError::Nccl(NcclError::NotFound { .. })) => {
                assert!(error.to_string().contains("/nonexistent/libnccl.so.2"), "{error}");
            }
            (_, ClusterError::NcclElsewhere { rank }) => assert_eq!(*rank, 1),
            _ => panic!("{error}"),
        }
    });
}

/// Every rank of a world of communicators over the stand-in.
fn on_communicators(size: usize, rank: impl Fn(&mut Communicator) + Sync) {
    let id = stand_in().0.unique_id().unwrap();
    on_threads(size, |ranks| {
        let (nccl, cuda) = stand_in();
        let place = (ranks.rank(), ranks.world_size());
        let mut communicator = Communicator::join(nccl, cuda, ranks.rank(), place, &id).unwrap();
        rank(&mut communicator);
        // All ranks are done before one of them goes.
        ranks.finish().unwrap();
    });
}

#[test]
fn a_communicator_adds_every_type_and_scatters_sums() {
    on_communicators(3, |communicator| {
        let types: [(DataType, Vec<u8>, Vec<u8>); 6] = [
            (DataType::U8, vec![2, 3], vec![6, 9]),
            (DataType::U64, (1_u64 << 40).to_le_bytes().to_vec(), (3_u64 << 40).to_le_bytes().to_vec()),
            (DataType::F16, f16::from_f32(0.5).to_le_bytes().to_vec(), f16::from_f32(1.5).to_le_bytes().to_vec()),
            (DataType::Bf16, bf16::from_f32(-2.0).to_le_bytes().to_vec(), bf16::from_f32(-6.0).to_le_bytes().to_vec()),
            (DataType::F32, 0.25_f32.to_le_bytes().to_vec(), 0.75_f32.to_le_bytes().to_vec()),
            (DataType::F64, 1e300_f64.to_le_bytes().to_vec(), 3e300_f64.to_le_bytes().to_vec()),
        ];
        for (data_type, own, expected) in types {
            let buffer = DeviceBuffer::new(communicator, own.len()).unwrap();
            communicator.copy_to_device(&own, &buffer.whole()).unwrap();
            communicator.all_reduce_sum(&buffer.whole(), data_type).unwrap();
            let mut sum = vec![0; own.len()];
            communicator.copy_to_host(&buffer.whole(), &mut sum, "the test's sum").unwrap();
            assert_eq!(sum, expected, "{data_type:?}");
        }
        let own: Vec<u8> = (0..6).flat_map(|index| (index as f32).to_le_bytes()).collect();
        let (whole, mine) =
            (DeviceBuffer::new(communicator, own.len()).unwrap(), DeviceBuffer::new(communicator, 8).unwrap());
        communicator.copy_to_device(&own, &whole.whole()).unwrap();
        communicator.reduce_scatter_sum(&whole.whole(), &mine.whole(), DataType::F32).unwrap();
        let mut sum = [0; 8];
        communicator.copy_to_host(&mine.whole(), &mut sum, "the test's sum").unwrap();
        let first = 3.0 * 2.0 * communicator.rank() as f32;
        assert_eq!(sum[..4], first.to_le_bytes());
        assert_eq!(sum[4..], (first + 3.0).to_le_bytes());
    });
}

#[test]
fn lengths_and_numbers_that_cannot_be_are_errors() {
    let (nccl, cuda) = stand_in();
    let id = nccl.unique_id().unwrap();
    let join = |device: usize, place: (usize, usize)| Communicator::join(nccl, cuda, device, place, &id);
    assert!(matches!(join(0, (2, 2)), Err(NcclError::Number { name: "the rank", found: 2, .. })));
    assert!(matches!(join(99, (0, 1)), Err(NcclError::Number { name: "the device", found: 99, .. })));
    let mut alone = join(0, (0, 1)).unwrap();
    let buffer = DeviceBuffer::new(&alone, 10).unwrap();
    let length = |outcome: Result<(), NcclError>| matches!(outcome, Err(NcclError::Length { .. }));
    assert!(length(buffer.part(4..11).map(|_| ())));
    assert!(length(alone.all_reduce_sum(&buffer.whole(), DataType::F32)));
    assert!(length(alone.copy_to_device(&[0; 9], &buffer.whole())));
    assert!(length(alone.copy_to_host(&buffer.whole(), &mut [0; 11], "nothing")));
    assert!(length(alone.all_gather(&buffer.part(0..4).unwrap(), &buffer.part(0..8).unwrap())));
    assert!(matches!(alone.broadcast(&buffer.whole(), 1), Err(NcclError::Number { .. })));
    assert!(matches!(alone.group().unwrap().send(&buffer.whole(), 1), Err(NcclError::Number { .. })));
}

#[test]
fn a_communicator_that_fails_says_during_what_on_the_stand_in() {
    on_communicators(2, |communicator| {
        let len = 4 * (1 + communicator.rank());
        let buffer = DeviceBuffer::new(communicator, len).unwrap();
        communicator.all_reduce_sum(&buffer.whole(), DataType::F32).unwrap();
        let error = communicator.copy_to_host(&buffer.whole(), &mut vec![0; len], "the sum of the test").unwrap_err();
        assert!(matches!(error, NcclError::Async { .. }), "{error}");
        assert!(error.to_string().contains("the sum of the test") && error.to_string().contains("invalid usage"));
        assert!(matches!(communicator.wait("nothing"), Err(NcclError::Failed)));
        assert!(matches!(communicator.look("nothing"), Err(NcclError::Failed)));
    });
}

#[test]
fn an_aborted_rank_ends_the_wait_of_others_on_the_stand_in() {
    let (nccl, cuda) = stand_in();
    let id = nccl.unique_id().unwrap();
    on_threads(2, |ranks| {
        let mut communicator = Communicator::join(nccl, cuda, 0, (ranks.rank(), 2), &id).unwrap();
        if ranks.rank() == 0 {
            let buffer = DeviceBuffer::new(&communicator, 4).unwrap();
            communicator.all_reduce_sum(&buffer.whole(), DataType::F32).unwrap();
            let error = communicator.wait("a sum without the other rank").unwrap_err().to_string();
            assert!(error.contains("a sum without the other rank") && error.contains("remote process"), "{error}");
        } else {
            communicator.abort();
        }
        ranks.finish().unwrap();
    });
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
