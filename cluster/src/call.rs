//! What a rank is about to do, told to the other ranks before it is done: ranks that disagree get an error that names
//! both sides, where MPI and NCCL would hang, crash or mix up data.

use std::fmt;

use crate::buffer::Element;
use crate::{BufferMut, ClusterError};

/// One collective call as all ranks must make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub operation: Operation,
    pub element: Element,
    /// Elements; 0 for an all-to-all, whose sizes are compared one by one.
    pub count: u64,
    /// Of a broadcast.
    pub root: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Barrier,
    AllReduce,
    Broadcast,
    AllGather,
    AllToAll,
    Finish,
}

impl Operation {
    pub const ALL: [Self; 6] =
        [Self::Barrier, Self::AllReduce, Self::Broadcast, Self::AllGather, Self::AllToAll, Self::Finish];

    /// As the functions of [`crate::Collective`] are called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Barrier => "barrier",
            Self::AllReduce => "all_reduce",
            Self::Broadcast => "broadcast",
            Self::AllGather => "all_gather",
            Self::AllToAll => "all_to_all",
            Self::Finish => "finish",
        }
    }
}

impl Call {
    /// Bytes of [`Call::to_bytes`].
    pub const BYTES: usize = 24;

    pub fn plain(operation: Operation) -> Self {
        Self::bytes(operation, 0)
    }

    pub fn all_reduce(buffer: &BufferMut<'_>) -> Self {
        Self { operation: Operation::AllReduce, element: buffer.element(), count: buffer.len() as u64, root: 0 }
    }

    pub fn broadcast(count: usize, root: usize) -> Self {
        Self { root: root as u64, ..Self::bytes(Operation::Broadcast, count) }
    }

    pub fn bytes(operation: Operation, count: usize) -> Self {
        Self { operation, element: Element::Byte, count: count as u64, root: 0 }
    }

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let place = |all: &[Operation]| all.iter().position(|one| *one == self.operation).unwrap_or_default();
        bytes[0] = place(&Operation::ALL) as u8;
        bytes[1] = Element::ALL.iter().position(|one| *one == self.element).unwrap_or_default() as u8;
        bytes[8..16].copy_from_slice(&self.count.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.root.to_le_bytes());
        bytes
    }

    /// What [`Call::to_bytes`] wrote; none for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number = |from: usize| Some(u64::from_le_bytes(bytes.get(from..from + 8)?.try_into().ok()?));
        Some(Self {
            operation: *Operation::ALL.get(usize::from(*bytes.first()?))?,
            element: *Element::ALL.get(usize::from(*bytes.get(1)?))?,
            count: number(8)?,
            root: number(16)?,
        })
    }
}

impl fmt::Display for Call {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, element, root, .. } = self;
        match self.operation {
            Operation::Barrier => out.write_str("a barrier"),
            Operation::AllReduce => write!(out, "an all-reduce of {count} {element}"),
            Operation::Broadcast => write!(out, "a broadcast of {count} {element} from rank {root}"),
            Operation::AllGather => write!(out, "an all-gather of {count} {element}"),
            Operation::AllToAll => out.write_str("an all-to-all"),
            Operation::Finish => out.write_str("the end of the job"),
        }
    }
}

/// Compares what all ranks are about to do; `number` counts the calls of this rank, from 1.
pub(crate) fn agree(number: u64, calls: &[Call]) -> Result<(), ClusterError> {
    let Some(other) = calls.iter().position(|call| *call != calls[0]) else { return Ok(()) };
    let side = |rank: usize| format!("rank {rank} made {}", calls[rank]);
    Err(ClusterError::Mismatch { call: number, one: side(0), other: side(other) })
}

/// What all ranks are about to do, from the bytes that they gathered.
pub(crate) fn read_calls(gathered: &[u8]) -> Result<Vec<Call>, ClusterError> {
    let read = |bytes: &[u8]| Call::from_bytes(bytes).ok_or_else(|| ClusterError::NoCall { found: bytes.to_vec() });
    gathered.chunks_exact(Call::BYTES).map(read).collect()
}

/// The sizes of a rank's side of an all-to-all: what it sends to each rank, then what it expects of each.
pub(crate) fn size_bytes(parts: &[&[u8]], expected: &[usize]) -> Vec<u8> {
    let sizes = parts.iter().map(|part| part.len()).chain(expected.iter().copied());
    sizes.flat_map(|size| (size as u64).to_le_bytes()).collect()
}

/// The [`size_bytes`] of every rank.
pub(crate) fn read_sizes(gathered: &[u8], world_size: usize) -> Vec<Vec<u64>> {
    let numbers = |bytes: &[u8]| {
        let numbers = bytes.chunks_exact(8).filter_map(|bytes| bytes.try_into().ok());
        numbers.map(u64::from_le_bytes).collect()
    };
    gathered.chunks_exact(16 * world_size).map(numbers).collect()
}

/// An all-to-all has one part and one size for every rank.
pub(crate) fn check_parts(parts: &[&[u8]], expected: &[usize], world_size: usize) -> Result<(), ClusterError> {
    match [parts.len(), expected.len()].into_iter().find(|len| *len != world_size) {
        None => Ok(()),
        Some(found) => Err(ClusterError::Parts { found, world_size }),
    }
}

/// Compares what every rank sends with what its receiver expects. `sizes` holds, for each rank, the bytes it sends to each
/// rank and then the bytes it expects of each.
pub(crate) fn agree_on_sizes(number: u64, sizes: &[Vec<u64>]) -> Result<(), ClusterError> {
    let world_size = sizes.len();
    for (from, of_sender) in sizes.iter().enumerate() {
        for (to, of_receiver) in sizes.iter().enumerate() {
            let (sent, expected) = (of_sender[to], of_receiver[world_size + from]);
            if sent != expected {
                return Err(ClusterError::Mismatch {
                    call: number,
                    one: format!("rank {from} sends {sent} bytes to rank {to} in an all-to-all"),
                    other: format!("rank {to} expects {expected} bytes"),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_survives_its_bytes() {
        for operation in Operation::ALL {
            for element in Element::ALL {
                let call = Call { operation, element, count: u64::MAX - 3, root: 7 };
                assert_eq!(Call::from_bytes(&call.to_bytes()), Some(call));
            }
        }
        assert_eq!(Call::from_bytes(&[250; Call::BYTES]), None);
        assert_eq!(Call::from_bytes(&[0; 3]), None);
    }

    #[test]
    fn ranks_that_disagree_are_both_named() {
        let reduce = Call { operation: Operation::AllReduce, element: Element::F32, count: 8, root: 0 };
        let calls = [reduce, reduce, Call::bytes(Operation::AllGather, 3)];
        let error = agree(17, &calls).unwrap_err().to_string();
        assert!(error.contains("rank 0 made an all-reduce of 8 f32"), "{error}");
        assert!(error.contains("rank 2 made an all-gather of 3 bytes") && error.contains("call 17"), "{error}");
        assert!(agree(1, &calls[..2]).is_ok());
    }

    #[test]
    fn sizes_that_disagree_name_sender_and_receiver() {
        // Two ranks; rank 1 sends 5 bytes to rank 0, which expects 4.
        let error = agree_on_sizes(2, &[vec![1, 2, 1, 4], vec![5, 0, 2, 0]]).unwrap_err().to_string();
        assert!(error.contains("rank 1 sends 5 bytes to rank 0") && error.contains("rank 0 expects 4"), "{error}");
        assert!(agree_on_sizes(2, &[vec![1, 2, 1, 5], vec![5, 0, 2, 0]]).is_ok());
    }
}
