//! The C side: opened libraries and their function pointers. The only file of this crate with `unsafe`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::path::Path;
use std::ptr::null_mut;

use libloading::os::unix::{Library as Opened, RTLD_LOCAL, RTLD_NOW};

use crate::{DataType, NcclError, UniqueId};

/// `ncclSum` of nccl.h.
const SUM: c_int = 0;
/// `cudaMemcpyHostToDevice` and `cudaMemcpyDeviceToHost` of driver_types.h.
const TO_DEVICE: c_int = 1;
const TO_HOST: c_int = 2;
/// `cudaStreamNonBlocking` of driver_types.h: no order with the default stream.
const OWN_ORDER: u32 = 1;

/// `ncclUniqueId`, which travels by value.
#[repr(C)]
struct RawId([u8; UniqueId::BYTES]);

/// A C handle or an address in device memory: a number to this process, which never looks behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle(*mut c_void);

// SAFETY: nothing is read or written through a handle here, and NCCL and CUDA do not care which thread makes a call;
// `Communicator` sees to it that calls of one communicator are made one at a time.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// An address further on in the same allocation; only NCCL and CUDA use it.
    pub(crate) fn offset(self, bytes: usize) -> Self {
        Self(self.0.wrapping_byte_add(bytes))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:p}", self.0)
    }
}

/// Opens a shared library by path or soname. The error is the loader's reason, which begins with the path.
pub(crate) fn open(path: &Path) -> Result<Opened, String> {
    // SAFETY: the initialisers of NCCL and CUDA only set up static data, and the library is never unloaded.
    let opened = unsafe { Opened::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    // libloading keeps the loader's own words in the error's source.
    opened.map_err(|error| std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))
}

/// `F` must be the type that the library's header declares for `name`; C enums are read as `u32` (results) or `c_int`.
fn function<F: Copy>(opened: &Opened, path: &Path, name: &'static str) -> Result<F, NcclError> {
    // SAFETY: callers name the declared type, and callers keep the library open for ever.
    let found = unsafe { opened.get::<F>(name.as_bytes()) };
    found.map(|symbol| *symbol).map_err(|_| NcclError::MissingSymbol { path: path.to_path_buf(), symbol: name })
}

fn words(text: *const c_char, code: u32) -> String {
    if text.is_null() {
        return format!("unknown result {code}");
    }
    // SAFETY: not null, and the libraries' error strings are NUL-terminated literals.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The functions of NCCL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Library {
    get_version: unsafe extern "C" fn(*mut c_int) -> u32,
    get_unique_id: unsafe extern "C" fn(*mut u8) -> u32,
    get_error_string: unsafe extern "C" fn(u32) -> *const c_char,
    comm_init_rank: unsafe extern "C" fn(*mut *mut c_void, c_int, RawId, c_int) -> u32,
    comm_destroy: unsafe extern "C" fn(*mut c_void) -> u32,
    comm_abort: unsafe extern "C" fn(*mut c_void) -> u32,
    comm_get_async_error: unsafe extern "C" fn(*mut c_void, *mut u32) -> u32,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> u32,
    reduce_scatter:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> u32,
    all_gather: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, *mut c_void, *mut c_void) -> u32,
    broadcast: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> u32,
    send: unsafe extern "C" fn(*const c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> u32,
    recv: unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> u32,
    group_start: unsafe extern "C" fn() -> u32,
    group_end: unsafe extern "C" fn() -> u32,
}

/// What a call moves: from where to where, how many of which type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub from: Handle,
    pub to: Handle,
    pub count: usize,
    pub data_type: DataType,
}

/// A communicator and the stream that its calls run on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    pub communicator: Handle,
    pub stream: Handle,
}

// Every call below hands NCCL handles that it gave out itself, and addresses of device allocations that are at least as
// long as the counts say: `Communicator` checks both. NCCL validates the rest and returns a code.
impl Library {
    /// Looks every function up, so that a later call cannot find one missing.
    pub(crate) fn from_opened(opened: Opened, path: &Path) -> Result<Self, NcclError> {
        let library = Self {
            get_version: function(&opened, path, "ncclGetVersion")?,
            get_unique_id: function(&opened, path, "ncclGetUniqueId")?,
            get_error_string: function(&opened, path, "ncclGetErrorString")?,
            comm_init_rank: function(&opened, path, "ncclCommInitRank")?,
            comm_destroy: function(&opened, path, "ncclCommDestroy")?,
            comm_abort: function(&opened, path, "ncclCommAbort")?,
            comm_get_async_error: function(&opened, path, "ncclCommGetAsyncError")?,
            all_reduce: function(&opened, path, "ncclAllReduce")?,
            reduce_scatter: function(&opened, path, "ncclReduceScatter")?,
            all_gather: function(&opened, path, "ncclAllGather")?,
            broadcast: function(&opened, path, "ncclBroadcast")?,
            send: function(&opened, path, "ncclSend")?,
            recv: function(&opened, path, "ncclRecv")?,
            group_start: function(&opened, path, "ncclGroupStart")?,
            group_end: function(&opened, path, "ncclGroupEnd")?,
        };
        // Never closed: NCCL keeps threads of its own, so its code must stay mapped.
        std::mem::forget(opened);
        Ok(library)
    }

    /// `ncclGetVersion`; returns the result code.
    pub(crate) fn get_version(&self, version: &mut u32) -> u32 {
        let mut raw: c_int = 0;
        // SAFETY: ncclGetVersion writes one int to the address it is given.
        let code = unsafe { (self.get_version)(&mut raw) };
        *version = u32::try_from(raw).unwrap_or(0);
        code
    }

    /// `ncclGetUniqueId`; returns the result code.
    pub(crate) fn get_unique_id(&self, id: &mut [u8; UniqueId::BYTES]) -> u32 {
        // SAFETY: ncclGetUniqueId writes NCCL_UNIQUE_ID_BYTES = 128 bytes, the array's size, without alignment needs.
        unsafe { (self.get_unique_id)(id.as_mut_ptr()) }
    }

    /// `ncclGetErrorString`.
    pub(crate) fn error_string(&self, code: u32) -> String {
        // SAFETY: the function takes any code by value and returns a static string, or null.
        words(unsafe { (self.get_error_string)(code) }, code)
    }

    /// `ncclCommInitRank`; returns the communicator and the result code.
    pub(crate) fn comm_init_rank(&self, world_size: c_int, rank: c_int, id: &UniqueId) -> (Handle, u32) {
        let mut communicator = null_mut();
        // SAFETY: NCCL writes one pointer; the id has the layout of ncclUniqueId.
        let code = unsafe { (self.comm_init_rank)(&mut communicator, world_size, RawId(*id.as_bytes()), rank) };
        (Handle(communicator), code)
    }

    pub(crate) fn comm_destroy(&self, communicator: Handle) -> u32 {
        // SAFETY: `Communicator` destroys or aborts its communicator once, last.
        unsafe { (self.comm_destroy)(communicator.0) }
    }

    pub(crate) fn comm_abort(&self, communicator: Handle) -> u32 {
        // SAFETY: as for comm_destroy.
        unsafe { (self.comm_abort)(communicator.0) }
    }

    /// `ncclCommGetAsyncError`; returns the asynchronous error and the result code of asking for it.
    pub(crate) fn async_error(&self, communicator: Handle) -> (u32, u32) {
        let mut error = 0;
        // SAFETY: NCCL writes one enum of int's size.
        let code = unsafe { (self.comm_get_async_error)(communicator.0, &mut error) };
        (error, code)
    }

    pub(crate) fn all_reduce(&self, lane: Lane, it: Move) -> u32 {
        let (kind, Lane { communicator, stream }) = (it.data_type.code(), lane);
        // SAFETY: see above the impl.
        unsafe { (self.all_reduce)(it.from.0, it.to.0, it.count, kind, SUM, communicator.0, stream.0) }
    }

    pub(crate) fn reduce_scatter(&self, lane: Lane, it: Move) -> u32 {
        let (kind, Lane { communicator, stream }) = (it.data_type.code(), lane);
        // SAFETY: see above the impl.
        unsafe { (self.reduce_scatter)(it.from.0, it.to.0, it.count, kind, SUM, communicator.0, stream.0) }
    }

    pub(crate) fn all_gather(&self, lane: Lane, it: Move) -> u32 {
        // SAFETY: see above the impl.
        unsafe {
            (self.all_gather)(it.from.0, it.to.0, it.count, it.data_type.code(), lane.communicator.0, lane.stream.0)
        }
    }

    pub(crate) fn broadcast(&self, lane: Lane, it: Move, root: c_int) -> u32 {
        let (kind, Lane { communicator, stream }) = (it.data_type.code(), lane);
        // SAFETY: see above the impl.
        unsafe { (self.broadcast)(it.from.0, it.to.0, it.count, kind, root, communicator.0, stream.0) }
    }

    pub(crate) fn send(&self, lane: Lane, from: Handle, bytes: usize, peer: c_int) -> u32 {
        let kind = DataType::U8.code();
        // SAFETY: see above the impl.
        unsafe { (self.send)(from.0, bytes, kind, peer, lane.communicator.0, lane.stream.0) }
    }

    pub(crate) fn recv(&self, lane: Lane, to: Handle, bytes: usize, peer: c_int) -> u32 {
        let kind = DataType::U8.code();
        // SAFETY: see above the impl.
        unsafe { (self.recv)(to.0, bytes, kind, peer, lane.communicator.0, lane.stream.0) }
    }

    pub(crate) fn group_start(&self) -> u32 {
        // SAFETY: takes nothing.
        unsafe { (self.group_start)() }
    }

    pub(crate) fn group_end(&self) -> u32 {
        // SAFETY: takes nothing.
        unsafe { (self.group_end)() }
    }
}

/// The functions of the CUDA runtime that a communicator needs: device memory, copies, one stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CudaLibrary {
    get_error_string: unsafe extern "C" fn(u32) -> *const c_char,
    get_device_count: unsafe extern "C" fn(*mut c_int) -> u32,
    set_device: unsafe extern "C" fn(c_int) -> u32,
    malloc: unsafe extern "C" fn(*mut *mut c_void, usize) -> u32,
    free: unsafe extern "C" fn(*mut c_void) -> u32,
    memcpy_async: unsafe extern "C" fn(*mut c_void, *const c_void, usize, c_int, *mut c_void) -> u32,
    stream_create: unsafe extern "C" fn(*mut *mut c_void, u32) -> u32,
    stream_query: unsafe extern "C" fn(*mut c_void) -> u32,
    stream_synchronize: unsafe extern "C" fn(*mut c_void) -> u32,
    stream_destroy: unsafe extern "C" fn(*mut c_void) -> u32,
}

impl CudaLibrary {
    pub(crate) fn from_opened(opened: Opened, path: &Path) -> Result<Self, NcclError> {
        let library = Self {
            get_error_string: function(&opened, path, "cudaGetErrorString")?,
            get_device_count: function(&opened, path, "cudaGetDeviceCount")?,
            set_device: function(&opened, path, "cudaSetDevice")?,
            malloc: function(&opened, path, "cudaMalloc")?,
            free: function(&opened, path, "cudaFree")?,
            memcpy_async: function(&opened, path, "cudaMemcpyAsync")?,
            stream_create: function(&opened, path, "cudaStreamCreateWithFlags")?,
            stream_query: function(&opened, path, "cudaStreamQuery")?,
            stream_synchronize: function(&opened, path, "cudaStreamSynchronize")?,
            stream_destroy: function(&opened, path, "cudaStreamDestroy")?,
        };
        // Never closed: the runtime registers handlers that run when the process ends.
        std::mem::forget(opened);
        Ok(library)
    }

    pub(crate) fn error_string(&self, code: u32) -> String {
        // SAFETY: the function takes any code by value and returns a static string, or null.
        words(unsafe { (self.get_error_string)(code) }, code)
    }

    pub(crate) fn device_count(&self) -> (c_int, u32) {
        let mut count = 0;
        // SAFETY: CUDA writes one int.
        let code = unsafe { (self.get_device_count)(&mut count) };
        (count, code)
    }

    pub(crate) fn set_device(&self, device: c_int) -> u32 {
        // SAFETY: takes a number and checks it.
        unsafe { (self.set_device)(device) }
    }

    pub(crate) fn malloc(&self, bytes: usize) -> (Handle, u32) {
        let mut address = null_mut();
        // SAFETY: CUDA writes one pointer.
        let code = unsafe { (self.malloc)(&mut address, bytes) };
        (Handle(address), code)
    }

    pub(crate) fn free(&self, address: Handle) -> u32 {
        // SAFETY: `DeviceBuffer` frees what it was given, once; CUDA waits for work that still uses it.
        unsafe { (self.free)(address.0) }
    }

    /// Copies all of `from` to an allocation that is as long; the caller checks that, and waits for the stream before it lets
    /// go of `from`.
    pub(crate) fn upload(&self, to: Handle, from: &[u8], stream: Handle) -> u32 {
        // SAFETY: `from` is a slice, the caller checked `to` and waits.
        unsafe { (self.memcpy_async)(to.0, from.as_ptr().cast(), from.len(), TO_DEVICE, stream.0) }
    }

    /// Fills all of `to` from an allocation that is as long; the caller checks that, and waits for the stream before it
    /// lets go of `to`.
    pub(crate) fn download(&self, to: &mut [u8], from: Handle, stream: Handle) -> u32 {
        // SAFETY: `to` is an exclusive slice, the caller checked `from` and waits.
        unsafe { (self.memcpy_async)(to.as_mut_ptr().cast(), from.0, to.len(), TO_HOST, stream.0) }
    }

    pub(crate) fn stream_create(&self) -> (Handle, u32) {
        let mut stream = null_mut();
        // SAFETY: CUDA writes one pointer.
        let code = unsafe { (self.stream_create)(&mut stream, OWN_ORDER) };
        (Handle(stream), code)
    }

    pub(crate) fn stream_query(&self, stream: Handle) -> u32 {
        // SAFETY: a stream of stream_create that is not destroyed yet.
        unsafe { (self.stream_query)(stream.0) }
    }

    pub(crate) fn stream_synchronize(&self, stream: Handle) -> u32 {
        // SAFETY: as above.
        unsafe { (self.stream_synchronize)(stream.0) }
    }

    pub(crate) fn stream_destroy(&self, stream: Handle) -> u32 {
        // SAFETY: as above, once.
        unsafe { (self.stream_destroy)(stream.0) }
    }
}
