//! NCCL between GPUs, with another back end beside it for what GPUs cannot do: meeting, and agreeing on each call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::{bf16, f16};
use nccl_rs::{Communicator, Cuda, DataType, DeviceBuffer, Nccl as Library, NcclError, UniqueId};

use crate::buffer::sum_wide;
use crate::call::{Call, Operation, agree, agree_on_sizes, check_parts, read_calls, read_sizes, size_bytes};
use crate::{BufferMut, ClusterError, Collective};

/// A job of GPUs, one for each rank. Buffers are host memory: they travel through staging memory on the GPU.
pub struct Nccl {
    control: Arc<dyn Collective>,
    turn: Mutex<Turn>,
}

/// Held throughout a call, so that what ranks agree on is what they do next.
struct Turn {
    calls: u64,
    communicator: Communicator,
    send: DeviceBuffer,
    receive: DeviceBuffer,
}

/// What the ranks tell one another before they join: whether the libraries are there, and rank 0 the job's id.
const READY: usize = 1 + UniqueId::BYTES;

impl Nccl {
    /// Joins the ranks of `control`, each with a GPU of its own: the one with its number on this host among those that the
    /// process sees, which may be one only. Every rank calls it, whether or not it found the libraries: all of them fail where
    /// one finds no library or no GPU. A rank that fails later must end the job, as the others wait for it.
    ///
    /// # Errors
    /// [`ClusterError::Nccl`] with the own reason, [`ClusterError::NcclElsewhere`] with the rank that has one.
    pub fn join(
        control: Arc<dyn Collective>,
        libraries: Result<(Library, Cuda), NcclError>,
        local_rank: usize,
    ) -> Result<Self, ClusterError> {
        let prepared = libraries.and_then(|(nccl, cuda)| {
            let devices = cuda.device_count()?;
            let device = if devices == 1 { 0 } else { local_rank };
            if device >= devices {
                let expected = format!("one of the {devices} that this process sees");
                return Err(NcclError::Number { name: "the GPU of this rank", found: device, expected });
            }
            let id = if control.rank() == 0 { Some(nccl.unique_id()?) } else { None };
            Ok((nccl, cuda, device, id))
        });
        let mut ready = [0_u8; READY];
        if let Ok((_, _, _, id)) = &prepared {
            ready[0] = 1;
            id.iter().for_each(|id| ready[1..].copy_from_slice(id.as_bytes()));
        }
        let all = control.all_gather(&ready)?;
        let (nccl, cuda, device, _) = prepared?;
        if let Some(rank) = all.chunks_exact(READY).position(|ready| ready[0] != 1) {
            return Err(ClusterError::NcclElsewhere { rank });
        }
        let mut id = [0; UniqueId::BYTES];
        id.copy_from_slice(&all[1..READY]);
        let place = (control.rank(), control.world_size());
        let communicator = Communicator::join(&nccl, &cuda, device, place, &UniqueId::from_bytes(id))?;
        let (send, receive) = (DeviceBuffer::new(&communicator, 0)?, DeviceBuffer::new(&communicator, 0)?);
        Ok(Self { control, turn: Mutex::new(Turn { calls: 0, communicator, send, receive }) })
    }

    /// Takes the turn for a call when all ranks are about to make the same.
    fn agreed(&self, call: Call) -> Result<MutexGuard<'_, Turn>, ClusterError> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        turn.calls += 1;
        agree(turn.calls, &read_calls(&self.control.all_gather(&call.to_bytes())?)?)?;
        Ok(turn)
    }

    fn sum(&self, call: Call, data: &mut [u8], data_type: DataType) -> Result<(), ClusterError> {
        let mut turn = self.agreed(call)?;
        if data.is_empty() {
            return Ok(());
        }
        let Turn { communicator, send, .. } = &mut *turn;
        let part = grown(communicator, send, data.len())?.part(0..data.len())?;
        communicator.copy_to_device(data, &part)?;
        communicator.all_reduce_sum(&part, data_type)?;
        Ok(communicator.copy_to_host(&part, data, "an all-reduce")?)
    }

    fn sum_f32(&self, call: Call, data: &mut [f32]) -> Result<(), ClusterError> {
        self.sum(call, bytemuck::cast_slice_mut(data), DataType::F32)
    }
}

fn grown<'a>(
    communicator: &Communicator,
    buffer: &'a mut DeviceBuffer,
    len: usize,
) -> Result<&'a DeviceBuffer, ClusterError> {
    if buffer.len() < len {
        *buffer = DeviceBuffer::new(communicator, len)?;
    }
    Ok(buffer)
}

impl Collective for Nccl {
    fn name(&self) -> &'static str {
        "nccl"
    }

    fn rank(&self) -> usize {
        self.control.rank()
    }

    fn world_size(&self) -> usize {
        self.control.world_size()
    }

    fn barrier(&self) -> Result<(), ClusterError> {
        self.agreed(Call::plain(Operation::Barrier)).map(|_| ())
    }

    fn all_reduce_sum(&self, buffer: BufferMut<'_>) -> Result<(), ClusterError> {
        let call = Call::all_reduce(&buffer);
        match buffer {
            BufferMut::F32(data) => self.sum_f32(call, data),
            BufferMut::F64(data) => self.sum(call, bytemuck::cast_slice_mut(data), DataType::F64),
            BufferMut::U64(data) => self.sum(call, bytemuck::cast_slice_mut(data), DataType::U64),
            // NCCL rounds half types at every addition.
            BufferMut::Bf16(data) => sum_wide(data, bf16::to_f32, bf16::from_f32, |wide| self.sum_f32(call, wide)),
            BufferMut::F16(data) => sum_wide(data, f16::to_f32, f16::from_f32, |wide| self.sum_f32(call, wide)),
        }
    }

    fn broadcast(&self, bytes: &mut [u8], root: usize) -> Result<(), ClusterError> {
        if root >= self.world_size() {
            return Err(ClusterError::NoSuchRank { rank: root, world_size: self.world_size() });
        }
        let mut turn = self.agreed(Call::broadcast(bytes.len(), root))?;
        if bytes.is_empty() {
            return Ok(());
        }
        let Turn { communicator, send, .. } = &mut *turn;
        let part = grown(communicator, send, bytes.len())?.part(0..bytes.len())?;
        if self.rank() == root {
            communicator.copy_to_device(bytes, &part)?;
        }
        communicator.broadcast(&part, root)?;
        Ok(communicator.copy_to_host(&part, bytes, "a broadcast")?)
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<u8>, ClusterError> {
        let mut turn = self.agreed(Call::bytes(Operation::AllGather, mine.len()))?;
        let mut all = vec![0; mine.len() * self.world_size()];
        if mine.is_empty() {
            return Ok(all);
        }
        let Turn { communicator, send, receive, .. } = &mut *turn;
        let own = grown(communicator, send, mine.len())?.part(0..mine.len())?;
        let gathered = grown(communicator, receive, all.len())?.part(0..all.len())?;
        communicator.copy_to_device(mine, &own)?;
        communicator.all_gather(&own, &gathered)?;
        communicator.copy_to_host(&gathered, &mut all, "an all-gather")?;
        Ok(all)
    }

    fn all_to_all(&self, parts: &[&[u8]], expected: &[usize]) -> Result<Vec<Vec<u8>>, ClusterError> {
        check_parts(parts, expected, self.world_size())?;
        let mut turn = self.agreed(Call::plain(Operation::AllToAll))?;
        let sizes = read_sizes(&self.control.all_gather(&size_bytes(parts, expected))?, self.world_size());
        agree_on_sizes(turn.calls, &sizes)?;
        let Turn { communicator, send, receive, .. } = &mut *turn;
        let (sent, received) = (parts.concat(), expected.iter().sum::<usize>());
        let send = grown(communicator, send, sent.len())?;
        let receive = grown(communicator, receive, received)?;
        communicator.copy_to_device(&sent, &send.part(0..sent.len())?)?;
        let group = communicator.group()?;
        let (mut from, mut to) = (0, 0);
        for (rank, (part, size)) in parts.iter().zip(expected).enumerate() {
            if !part.is_empty() {
                group.send(&send.part(from..from + part.len())?, rank)?;
            }
            if *size > 0 {
                group.receive(&receive.part(to..to + size)?, rank)?;
            }
            (from, to) = (from + part.len(), to + size);
        }
        group.end()?;
        let mut bytes = vec![0; received];
        communicator.copy_to_host(&receive.part(0..received)?, &mut bytes, "an all-to-all")?;
        let mut rest = &bytes[..];
        let part = |size: &usize| rest.split_off(..*size).map(<[u8]>::to_vec).unwrap_or_default();
        Ok(expected.iter().map(part).collect())
    }

    fn abort(&self, code: i32) -> ! {
        self.control.abort(code)
    }

    fn finish(&self) -> Result<(), ClusterError> {
        self.control.finish()
    }
}
