//! Why ranks could not talk.

use std::path::PathBuf;

use crate::Topology;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A launcher's variable does not hold what it should.
    #[error(
        "the environment variable {name} is {found:?}; expected {expected}. Was the process started by its launcher?"
    )]
    Variable {
        /// The variable.
        name: String,
        /// Its value, or nothing when it is not set.
        found: Option<String>,
        /// What would be right.
        expected: String,
    },
    /// No MPI piece could be loaded.
    #[error(
        "the MPI piece libblip2_mpi.so could not be loaded, and a job of several ranks needs it; tried {}. \
         Build it with `cargo build --release -p cluster-mpi`, or set BLIP2_MPI_LIBRARY to it",
        .tried.join("; ")
    )]
    MpiPieceNotFound {
        /// Each candidate with the loader's reason.
        tried: Vec<String>,
    },
    /// The file that was found is no MPI piece, or one of another version.
    #[error("{} is not the MPI piece that this program needs: {reason}. Build both from the same sources", .path.display())]
    MpiPieceMismatch {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// An MPI call failed.
    #[error("MPI: {call} failed: {reason}")]
    Mpi {
        /// What was called.
        call: &'static str,
        /// The piece's reason.
        reason: String,
    },
    /// MPI sees another world than the launcher announced.
    #[error(
        "MPI says rank {rank} of {world_size}, but the launcher ({}) announced rank {} of {}. The MPI piece was built \
         against another MPI than the one whose launcher started this job: rebuild the piece with that MPI's mpicc (MPICC)",
        .launcher.launcher, .launcher.rank, .launcher.world_size
    )]
    OtherWorld {
        /// What the launcher's variables say.
        launcher: Topology,
        /// What MPI says.
        rank: usize,
        /// What MPI says.
        world_size: usize,
    },
    /// A rank outside the world was named.
    #[error("there is no rank {rank} in a world of {world_size}")]
    NoSuchRank {
        /// The rank that was named.
        rank: usize,
        /// How many there are.
        world_size: usize,
    },
    /// Ranks did not make the same call.
    #[error(
        "ranks disagree in their collective call {call}: {one}, but {other}; every rank must make the same calls in the \
         same order"
    )]
    Mismatch {
        /// Which call of this rank, from 1.
        call: u64,
        /// What one rank did.
        one: String,
        /// What another did.
        other: String,
    },
    /// A rank sent something else than the call that it is about to make.
    #[error("a rank announced {found:?}, which names no collective call; are all ranks the same build?")]
    NoCall {
        /// Its bytes.
        found: Vec<u8>,
    },
    /// NCCL or CUDA cannot be used here, or failed.
    #[error("{0}; `cluster.backend: mpi` works without NCCL")]
    Nccl(#[from] nccl_rs::NcclError),
    /// NCCL cannot be used by another rank.
    #[error("rank {rank} cannot use NCCL, so no rank can; its own message says why")]
    NcclElsewhere {
        /// Which.
        rank: usize,
    },
    /// An all-to-all was given too few parts, or too many.
    #[error("an all-to-all was given {found} parts or sizes; it needs one for each of the {world_size} ranks")]
    Parts {
        /// How many there were.
        found: usize,
        /// How many there must be.
        world_size: usize,
    },
    /// A rank of the same process has gone, and the others cannot go on.
    #[error("the job has ended: {reason}")]
    Ended {
        /// Which rank, and why.
        reason: String,
    },
}
