//! What ranks can do together.

use crate::{BufferMut, ClusterError};

/// The ranks of one job, seen from one of them.
///
/// Every rank makes the same calls in the same order, with the same types and lengths; ranks that do not all get
/// [`ClusterError::Mismatch`], which names both sides. Implementations take turns inside, so a call may come from any
/// thread.
pub trait Collective: Send + Sync {
    /// The back end's name, for reports: `single`, `threads`, `mpi` or `nccl`.
    fn name(&self) -> &'static str;

    /// This process, from 0.
    fn rank(&self) -> usize;

    /// How many processes there are, at least 1.
    fn world_size(&self) -> usize;

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// When the back end fails.
    fn barrier(&self) -> Result<(), ClusterError>;

    /// Replaces every element by its sum over all ranks; all ranks pass the same type and length.
    ///
    /// The order of the additions belongs to the back end: for sums that must not depend on the number
    /// of ranks, gather and add in a fixed order.
    ///
    /// # Errors
    /// When the back end fails.
    fn all_reduce_sum(&self, buffer: BufferMut<'_>) -> Result<(), ClusterError>;

    /// Copies the bytes of rank `root` to every rank; all ranks pass the same length.
    ///
    /// # Errors
    /// When `root` is no rank, or the back end fails.
    fn broadcast(&self, bytes: &mut [u8], root: usize) -> Result<(), ClusterError>;

    /// Returns the bytes of every rank one after the other, in rank order; all ranks pass the same length.
    ///
    /// # Errors
    /// When the back end fails.
    fn all_gather(&self, mine: &[u8]) -> Result<Vec<u8>, ClusterError>;

    /// Sends `parts[r]` to every rank `r` and returns what each rank sent here, in rank order. `expected[r]` is the size of
    /// what rank `r` sends here; sizes may all differ and may be 0.
    ///
    /// # Errors
    /// When a rank expects another size than is sent, there is not one part per rank, or the back end fails.
    fn all_to_all(&self, parts: &[&[u8]], expected: &[usize]) -> Result<Vec<Vec<u8>>, ClusterError>;

    /// Ends every process of the job with `code`. Takes no lock: a panic hook may call it while another
    /// thread is inside a collective.
    fn abort(&self, code: i32) -> !;

    /// Leaves the job in order; every rank calls it once, last.
    ///
    /// # Errors
    /// When the back end fails.
    fn finish(&self) -> Result<(), ClusterError>;
}
