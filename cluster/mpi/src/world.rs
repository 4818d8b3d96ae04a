//! The collectives over `MPI_COMM_WORLD`, safe on top of rsmpi.
//!
//! MPI counts are C ints and rsmpi has no `MPI_IN_PLACE`, so large buffers go in chunks through a
//! second one.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mpi::collective::SystemOperation;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Equivalence, Root};
use mpi::{Count, Threading};

/// The numbers that name element types at the boundary.
pub(crate) const ELEMENT_TYPES: &str = "0 (f32), 1 (f64) or 2 (u64)";

/// Bytes per MPI call: far below 2^31 elements, and large enough that the call's own cost is nothing.
const CHUNK_BYTES: usize = 32 << 20;

/// MPI while it is up. The lock also makes calls from several threads take turns.
static UNIVERSE: Mutex<Option<Universe>> = Mutex::new(None);

fn universe() -> MutexGuard<'static, Option<Universe>> {
    UNIVERSE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `call` with the world communicator while holding the turn.
fn with_world<T>(call: impl FnOnce(&SimpleCommunicator) -> Result<T, String>) -> Result<T, String> {
    let universe = universe();
    let up = universe.as_ref().ok_or("MPI is not up: blip2_mpi_init was not called, or it has been finalized")?;
    call(&up.world())
}

/// Starts MPI and returns the granted thread level: 0 single to 3 multiple.
pub(crate) fn init() -> Result<i32, String> {
    let mut universe = universe();
    let (started, level) = mpi::initialize_with_threading(Threading::Multiple)
        .ok_or("MPI is already up in this process, or was finalized: it can be started once")?;
    *universe = Some(started);
    Ok(match level {
        Threading::Single => 0,
        Threading::Funneled => 1,
        Threading::Serialized => 2,
        Threading::Multiple => 3,
    })
}

/// This process's rank and the number of processes.
pub(crate) fn rank_and_size() -> Result<(u64, u64), String> {
    with_world(|world| {
        let number = |value: i32| u64::try_from(value).map_err(|_| format!("MPI gave the rank or size {value}"));
        Ok((number(world.rank())?, number(world.size())?))
    })
}

/// Returns when every process has called it.
pub(crate) fn barrier() -> Result<(), String> {
    with_world(|world| {
        world.barrier();
        Ok(())
    })
}

/// Replaces every element by its sum over all processes.
pub(crate) fn all_reduce_sum<T: Equivalence + Copy>(data: &mut [T]) -> Result<(), String> {
    with_world(|world| {
        let chunk = CHUNK_BYTES / size_of::<T>();
        let mut own = Vec::with_capacity(chunk.min(data.len()));
        for part in data.chunks_mut(chunk) {
            own.clear();
            own.extend_from_slice(part);
            world.all_reduce_into(&own[..], part, SystemOperation::sum());
        }
        Ok(())
    })
}

/// Copies the bytes of process `root` to every process.
pub(crate) fn broadcast(data: &mut [u8], root: u64) -> Result<(), String> {
    with_world(|world| {
        let size = world.size();
        let root = i32::try_from(root).ok().filter(|&rank| rank < size);
        let root = root.ok_or_else(|| format!("the root of a broadcast must be a rank below {size}"))?;
        for part in data.chunks_mut(CHUNK_BYTES) {
            world.process_at_rank(root).broadcast_into(part);
        }
        Ok(())
    })
}

/// Collects `mine` of every process into `all`, in rank order.
pub(crate) fn all_gather(mine: &[u8], all: &mut [u8]) -> Result<(), String> {
    with_world(|world| {
        if mine.len() <= CHUNK_BYTES {
            if !mine.is_empty() {
                world.all_gather_into(mine, all);
            }
            return Ok(());
        }
        let size = all.len() / mine.len().max(1);
        let mut gathered = vec![0; size * mine.len().min(CHUNK_BYTES)];
        for (index, part) in mine.chunks(CHUNK_BYTES).enumerate() {
            let received = &mut gathered[..size * part.len()];
            world.all_gather_into(part, received);
            for (rank, bytes) in received.chunks(part.len()).enumerate() {
                let start = rank * mine.len() + index * CHUNK_BYTES;
                all[start..start + part.len()].copy_from_slice(bytes);
            }
        }
        Ok(())
    })
}

/// Sends a part of `sent` to every process and receives one from each; parts lie in rank order.
///
/// Large parts go in rounds of at most [`CHUNK_BYTES`] to and from all processes together.
pub(crate) fn all_to_all(
    sent: &[u8],
    send_sizes: &[u64],
    received: &mut [u8],
    receive_sizes: &[u64],
) -> Result<(), String> {
    with_world(|world| {
        let round_bytes = (CHUNK_BYTES / send_sizes.len().max(1)).max(1);
        let largest = send_sizes.iter().chain(receive_sizes).max().copied().unwrap_or(0);
        let (own, mut rounds) = ([largest.div_ceil(round_bytes as u64)], [0_u64]);
        world.all_reduce_into(&own[..], &mut rounds[..], SystemOperation::max());
        let (send_parts, receive_parts) = (parts(send_sizes)?, parts(receive_sizes)?);
        if rounds[0] == 1 && !sent.is_empty() && !received.is_empty() {
            // Everything at once, without a copy.
            exchange(world, sent, &counts(&send_parts)?, received, &counts(&receive_parts)?);
            return Ok(());
        }
        // Never without memory: an empty Vec<u8> points to address 1, which is Open MPI's MPI_IN_PLACE.
        let (mut out, mut back) = (Vec::with_capacity(1), Vec::with_capacity(1));
        for round in 0..usize::try_from(rounds[0]).map_err(|_| "too many rounds in an all-to-all")? {
            let of_round = |part: &Range<usize>| {
                let start = (part.start + round * round_bytes).min(part.end);
                start..(start + round_bytes).min(part.end)
            };
            let sending: Vec<Range<usize>> = send_parts.iter().map(of_round).collect();
            let receiving: Vec<Range<usize>> = receive_parts.iter().map(of_round).collect();
            out.clear();
            sending.iter().for_each(|part| out.extend_from_slice(&sent[part.clone()]));
            back.clear();
            back.resize(receiving.iter().map(Range::len).sum(), 0_u8);
            exchange(world, &out, &counts(&sending)?, &mut back, &counts(&receiving)?);
            let mut rest = &back[..];
            for part in receiving {
                let (own, others) = rest.split_at(part.len());
                received[part].copy_from_slice(own);
                rest = others;
            }
        }
        Ok(())
    })
}

fn exchange(world: &SimpleCommunicator, out: &[u8], send_counts: &[Count], back: &mut [u8], receive_counts: &[Count]) {
    let source = Partition::new(out, send_counts, starts(send_counts));
    let mut target = PartitionMut::new(back, receive_counts, starts(receive_counts));
    world.all_to_all_varcount_into(&source, &mut target);
}

/// Where parts of these sizes lie, one after the other.
fn parts(sizes: &[u64]) -> Result<Vec<Range<usize>>, String> {
    let mut end = 0;
    let part = |size: &u64| {
        let start = end;
        end += usize::try_from(*size).map_err(|_| format!("a part of {size} bytes does not fit into memory"))?;
        Ok(start..end)
    };
    sizes.iter().map(part).collect()
}

fn counts(parts: &[Range<usize>]) -> Result<Vec<Count>, String> {
    let count = |part: &Range<usize>| Count::try_from(part.len()).map_err(|_| format!("{} bytes at once", part.len()));
    parts.iter().map(count).collect()
}

fn starts(counts: &[Count]) -> Vec<Count> {
    let start = |end: &mut Count, count: &Count| {
        *end += count;
        Some(*end - count)
    };
    counts.iter().scan(0, start).collect()
}

/// Ends the whole job. Only this process when MPI is not up.
pub(crate) fn abort(code: i32) -> ! {
    if mpi::environment::is_initialized() && !mpi::environment::is_finalized() {
        SimpleCommunicator::world().abort(code)
    }
    std::process::exit(code)
}

/// Ends MPI.
pub(crate) fn finalize() -> Result<(), String> {
    let ended = universe().take().ok_or("MPI is not up: it cannot be finalized")?;
    drop(ended);
    Ok(())
}

/// The MPI library's version text.
pub(crate) fn library_version() -> String {
    mpi::environment::library_version().unwrap_or_default().trim_end_matches('\0').trim().to_owned()
}
