//! Ranks that talk: one communicator, its device and its stream.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::thread;
use std::time::Duration;

use crate::cuda::{Cuda, Part};
use crate::library::{Lane, Move};
use crate::{DataType, Nccl, NcclError, UniqueId};

/// How often a waiting thread looks whether the communicator has failed.
const LOOK_EVERY: Duration = Duration::from_micros(50);

/// One rank of a job of GPUs.
///
/// Calls return when they are put on the stream; [`Communicator::wait`] and the copies return when everything before them is
/// done. A communicator that has failed says so in every later call, and is aborted when it is dropped.
///
/// A communicator that is dropped without having failed waits for all ranks of its host to drop theirs: so NCCL has it. A
/// rank that ends its job by itself calls [`Communicator::abort`], or leaves the communicator to the end of the process.
#[derive(Debug)]
pub struct Communicator {
    nccl: Nccl,
    cuda: Cuda,
    device: usize,
    rank: usize,
    world_size: usize,
    lane: Lane,
    failed: bool,
}

impl Communicator {
    /// Joins the job that `id` names; returns when all of its ranks have.
    ///
    /// # Errors
    /// [`NcclError::Number`] for a rank outside the world or a device that is not there, [`NcclError::Call`] for NCCL's own.
    pub fn join(
        nccl: &Nccl,
        cuda: &Cuda,
        device: usize,
        (rank, world_size): (usize, usize),
        id: &UniqueId,
    ) -> Result<Self, NcclError> {
        let number = |name, value: usize, limit: usize| match c_int::try_from(value) {
            Ok(number) if value < limit => Ok(number),
            _ => Err(NcclError::Number { name, found: value, expected: format!("less than {limit}") }),
        };
        let size = number("the number of ranks", world_size, c_int::MAX as usize)?;
        let place = number("the rank", rank, world_size)?;
        number("the device", device, cuda.device_count()?)?;
        cuda.choose(device)?;
        let (stream, code) = cuda.library.stream_create();
        cuda.check("cudaStreamCreateWithFlags", code)?;
        let (communicator, code) = nccl.library.comm_init_rank(size, place, id);
        if let Err(error) = nccl.check("ncclCommInitRank", code) {
            let _destroyed = cuda.library.stream_destroy(stream);
            return Err(error);
        }
        let (nccl, cuda, lane) = (nccl.clone(), cuda.clone(), Lane { communicator, stream });
        Ok(Self { nccl, cuda, device, rank, world_size, lane, failed: false })
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// This rank's device, as CUDA numbers those that the process sees.
    pub fn device(&self) -> usize {
        self.device
    }

    pub(crate) fn cuda(&self) -> &Cuda {
        &self.cuda
    }

    /// Replaces every number by its sum over all ranks, in an order that is NCCL's own.
    ///
    /// # Errors
    /// When the length is no whole number of elements, or NCCL fails.
    pub fn all_reduce_sum(&mut self, data: &Part<'_>, data_type: DataType) -> Result<(), NcclError> {
        let it = movement("an all-reduce", data, data, data.len(), data_type)?;
        self.begin()?;
        self.nccl.check("ncclAllReduce", self.nccl.library.all_reduce(self.lane, it))
    }

    /// Adds `own` over all ranks and gives each rank its part, in rank order.
    ///
    /// # Errors
    /// When `own` is not as long as all parts together, or NCCL fails.
    pub fn reduce_scatter_sum(
        &mut self,
        own: &Part<'_>,
        mine: &Part<'_>,
        data_type: DataType,
    ) -> Result<(), NcclError> {
        expect_len("the whole of a reduce-scatter", own.len(), mine.len() * self.world_size)?;
        let it = movement("a reduce-scatter", own, mine, mine.len(), data_type)?;
        self.begin()?;
        self.nccl.check("ncclReduceScatter", self.nccl.library.reduce_scatter(self.lane, it))
    }

    /// Puts the bytes of every rank one after the other, in rank order.
    ///
    /// # Errors
    /// When `all` is not as long as all parts together, or NCCL fails.
    pub fn all_gather(&mut self, own: &Part<'_>, all: &Part<'_>) -> Result<(), NcclError> {
        expect_len("the result of an all-gather", all.len(), own.len() * self.world_size)?;
        let it = movement("an all-gather", own, all, own.len(), DataType::U8)?;
        self.begin()?;
        self.nccl.check("ncclAllGather", self.nccl.library.all_gather(self.lane, it))
    }

    /// Copies the bytes of rank `root` to every rank.
    ///
    /// # Errors
    /// When `root` is no rank, or NCCL fails.
    pub fn broadcast(&mut self, data: &Part<'_>, root: usize) -> Result<(), NcclError> {
        let root = self.peer(root)?;
        let it = movement("a broadcast", data, data, data.len(), DataType::U8)?;
        self.begin()?;
        self.nccl.check("ncclBroadcast", self.nccl.library.broadcast(self.lane, it, root))
    }

    /// Begins sends and receives that go on at the same time; they are put on the stream by [`Group::end`].
    ///
    /// # Errors
    /// When NCCL fails.
    pub fn group(&mut self) -> Result<Group<'_>, NcclError> {
        self.begin()?;
        self.nccl.check("ncclGroupStart", self.nccl.library.group_start())?;
        Ok(Group { of: self, open: true, here: PhantomData })
    }

    /// Copies bytes to the device when everything before is done.
    ///
    /// # Errors
    /// When the lengths differ, CUDA fails, or NCCL has failed since.
    pub fn copy_to_device(&mut self, from: &[u8], to: &Part<'_>) -> Result<(), NcclError> {
        expect_len("a copy to the device", to.len(), from.len())?;
        self.wait("what came before a copy to the device")?;
        if from.is_empty() {
            return Ok(());
        }
        self.end_copy(self.cuda.library.upload(to.address(), from, self.lane.stream))
    }

    /// Copies bytes from the device when everything before is done. `during` names what that was, for the error.
    ///
    /// # Errors
    /// When the lengths differ, CUDA fails, or NCCL has failed since.
    pub fn copy_to_host(&mut self, from: &Part<'_>, to: &mut [u8], during: &'static str) -> Result<(), NcclError> {
        expect_len("a copy from the device", from.len(), to.len())?;
        self.wait(during)?;
        if to.is_empty() {
            return Ok(());
        }
        self.end_copy(self.cuda.library.download(to, from.address(), self.lane.stream))
    }

    /// Waits for a copy whatever its code says: the caller's memory is borrowed until the stream is done, and CUDA promises no
    /// less for an asynchronous copy.
    fn end_copy(&self, code: u32) -> Result<(), NcclError> {
        let done = self.cuda.library.stream_synchronize(self.lane.stream);
        self.cuda.check("cudaMemcpyAsync", code)?;
        self.cuda.check("cudaStreamSynchronize", done)
    }

    /// Returns when everything on the stream is done. `during` names it, for the error.
    ///
    /// # Errors
    /// [`NcclError::Async`] when NCCL has failed meanwhile.
    pub fn wait(&mut self, during: &'static str) -> Result<(), NcclError> {
        self.begin()?;
        while !self.cuda.is_done(self.lane.stream)? {
            self.look(during)?;
            thread::sleep(LOOK_EVERY);
        }
        self.look(during)
    }

    /// Whether NCCL has failed since the last call.
    ///
    /// # Errors
    /// [`NcclError::Async`] with the reason.
    pub fn look(&mut self, during: &'static str) -> Result<(), NcclError> {
        self.begin()?;
        let (code, asked) = self.nccl.library.async_error(self.lane.communicator);
        self.nccl.check("ncclCommGetAsyncError", asked)?;
        match code {
            0 => Ok(()),
            _ => {
                self.failed = true;
                Err(NcclError::Async { during, code, message: self.nccl.error_string(code) })
            }
        }
    }

    /// Ends what is under way here. Every other rank must abort, too: NCCL does not tell them.
    pub fn abort(mut self) {
        self.failed = true;
    }

    fn begin(&self) -> Result<(), NcclError> {
        match self.failed {
            true => Err(NcclError::Failed),
            false => self.cuda.choose(self.device),
        }
    }

    fn peer(&self, rank: usize) -> Result<c_int, NcclError> {
        let wrong = || NcclError::Number {
            name: "the other rank",
            found: rank,
            expected: format!("less than {}", self.world_size),
        };
        if rank < self.world_size { c_int::try_from(rank).map_err(|_| wrong()) } else { Err(wrong()) }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        let Lane { communicator, stream } = self.lane;
        let library = &self.nccl.library;
        // Nobody is left to tell.
        let _code = if self.failed { library.comm_abort(communicator) } else { library.comm_destroy(communicator) };
        let _code = self.cuda.library.stream_destroy(stream);
    }
}

/// Sends and receives that go on at the same time. Every rank's send has a receive of the same length at the other rank.
#[derive(Debug)]
pub struct Group<'a> {
    of: &'a mut Communicator,
    open: bool,
    /// NCCL counts open groups per thread, so a group stays on its own.
    here: PhantomData<*const ()>,
}

impl Group<'_> {
    /// Sends bytes to a rank.
    ///
    /// # Errors
    /// When it is no rank, or NCCL fails.
    pub fn send(&self, data: &Part<'_>, to: usize) -> Result<(), NcclError> {
        let peer = self.of.peer(to)?;
        let library = &self.of.nccl.library;
        self.of.nccl.check("ncclSend", library.send(self.of.lane, data.address(), data.len(), peer))
    }

    /// Receives bytes from a rank.
    ///
    /// # Errors
    /// When it is no rank, or NCCL fails.
    pub fn receive(&self, data: &Part<'_>, from: usize) -> Result<(), NcclError> {
        let peer = self.of.peer(from)?;
        let library = &self.of.nccl.library;
        self.of.nccl.check("ncclRecv", library.recv(self.of.lane, data.address(), data.len(), peer))
    }

    /// Puts them all on the stream.
    ///
    /// # Errors
    /// When NCCL fails.
    pub fn end(mut self) -> Result<(), NcclError> {
        self.open = false;
        self.of.nccl.check("ncclGroupEnd", self.of.nccl.library.group_end())
    }
}

impl Drop for Group<'_> {
    /// A group that an error cut short is closed all the same.
    fn drop(&mut self) {
        if self.open {
            let _code = self.of.nccl.library.group_end();
        }
    }
}

fn expect_len(call: &'static str, found: usize, expected: usize) -> Result<(), NcclError> {
    match found == expected {
        true => Ok(()),
        false => Err(NcclError::Length { call, found, expected: expected.to_string() }),
    }
}

fn movement(
    call: &'static str,
    from: &Part<'_>,
    to: &Part<'_>,
    len: usize,
    data_type: DataType,
) -> Result<Move, NcclError> {
    if !len.is_multiple_of(data_type.bytes()) {
        let expected = format!("a multiple of {}, the size of {data_type:?}", data_type.bytes());
        return Err(NcclError::Length { call, found: len, expected });
    }
    Ok(Move { from: from.address(), to: to.address(), count: len / data_type.bytes(), data_type })
}
