//! Which rank am I, and how do ranks talk: topology and raw-buffer collectives.
//!
//! Knows nothing of tensors, configs or models. Back ends: [`Single`] for a world of one, [`Mpi`] for processes
//! that an MPI launcher started, [`Nccl`] for their GPUs, and [`Threads`] for checks inside one process; [`connect`] picks
//! by [`Topology`].

mod buffer;
mod call;
mod collective;
mod error;
mod mpi;
mod nccl;
mod observed;
mod single;
mod texts;
mod threads;
mod topology;

use std::path::PathBuf;
use std::sync::Arc;

pub use buffer::BufferMut;
pub use collective::Collective;
pub use error::ClusterError;
pub use mpi::{Mpi, MpiPiece, ThreadLevel, piece_candidates};
pub use nccl::Nccl;
pub use nccl_rs;
pub use observed::{Calls, Observed, Standing};
pub use single::Single;
pub use texts::{broadcast_text, gather_texts};
pub use threads::Threads;
pub use topology::{Launcher, Topology};

/// Joins the job that `topology` describes: [`Single`] for a world of one, else [`Mpi`] through the
/// first MPI piece of `mpi_pieces` that loads.
///
/// # Errors
/// When the world has several ranks and MPI cannot be loaded or started, or sees another world than
/// the launcher announced.
pub fn connect(topology: &Topology, mpi_pieces: &[PathBuf]) -> Result<Arc<dyn Collective>, ClusterError> {
    if topology.world_size == 1 {
        return Ok(Arc::new(Single));
    }
    let joined = Mpi::init(MpiPiece::load(mpi_pieces)?)?;
    if joined.thread_level() < ThreadLevel::Serialized {
        let reason = format!(
            "it allows calls from one thread only ({:?}); use an MPI with thread support",
            joined.thread_level()
        );
        return Err(ClusterError::Mpi { call: "init", reason });
    }
    let (rank, world_size) = (joined.rank(), joined.world_size());
    if (rank, world_size) != (topology.rank, topology.world_size) {
        return Err(ClusterError::OtherWorld { launcher: *topology, rank, world_size });
    }
    Ok(Arc::new(joined))
}
