//! The little of CUDA's runtime that a communicator needs: a device, its memory, and copies.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::communicator::Communicator;
use crate::library::{CudaLibrary, Handle};
use crate::{NcclError, open_first};

/// `cudaErrorNotReady` of driver_types.h: the stream has work left.
const NOT_READY: u32 = 600;

/// Where the CUDA runtime may lie: the configured path, the copy beside libtorch, the sonames.
///
/// `torch` is the folder that holds libtorch's `lib`.
pub fn cuda_candidates(configured: Option<&Path>, torch: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = configured {
        return vec![path.to_path_buf()];
    }
    let beside = torch.and_then(Path::parent).map(|site| site.join("nvidia/cu13/lib/libcudart.so.13"));
    beside.into_iter().chain(["libcudart.so.13", "libcudart.so.12"].map(PathBuf::from)).collect()
}

/// The CUDA runtime, loaded. It stays loaded until the process ends.
#[derive(Debug, Clone)]
pub struct Cuda {
    pub(crate) library: CudaLibrary,
}

impl Cuda {
    /// Opens the first of `candidates` that can be opened.
    ///
    /// # Errors
    /// [`NcclError::NotFound`] with every reason when none opens, [`NcclError::MissingSymbol`] when the one that opens is
    /// not the CUDA runtime.
    pub fn load(candidates: &[PathBuf]) -> Result<Self, NcclError> {
        let (opened, path) = open_first("CUDA runtime", candidates)?;
        Ok(Self { library: CudaLibrary::from_opened(opened, &path)? })
    }

    /// The GPUs that this process sees.
    ///
    /// # Errors
    /// [`NcclError::Call`] when there is no driver, or no GPU.
    pub fn device_count(&self) -> Result<usize, NcclError> {
        let (count, code) = self.library.device_count();
        self.check("cudaGetDeviceCount", code)?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Makes this thread's calls go to the device.
    pub(crate) fn choose(&self, device: usize) -> Result<(), NcclError> {
        self.check("cudaSetDevice", self.library.set_device(i32::try_from(device).unwrap_or(i32::MAX)))
    }

    /// Whether everything that was put on the stream is done.
    pub(crate) fn is_done(&self, stream: Handle) -> Result<bool, NcclError> {
        match self.library.stream_query(stream) {
            NOT_READY => Ok(false),
            code => self.check("cudaStreamQuery", code).map(|()| true),
        }
    }

    pub(crate) fn check(&self, call: &'static str, code: u32) -> Result<(), NcclError> {
        match code {
            0 => Ok(()),
            _ => Err(NcclError::Call { call, code, message: self.library.error_string(code) }),
        }
    }
}

/// Memory of a communicator's device.
#[derive(Debug)]
pub struct DeviceBuffer {
    cuda: Cuda,
    address: Handle,
    len: usize,
}

impl DeviceBuffer {
    /// Allocates on the device of `communicator`, and is for its calls alone.
    ///
    /// # Errors
    /// [`NcclError::Call`] when the device has too little memory left.
    pub fn new(communicator: &Communicator, len: usize) -> Result<Self, NcclError> {
        let cuda = communicator.cuda();
        cuda.choose(communicator.device())?;
        let (address, code) = cuda.library.malloc(len.max(1));
        cuda.check("cudaMalloc", code)?;
        Ok(Self { cuda: cuda.clone(), address, len })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Some of its bytes.
    ///
    /// # Errors
    /// [`NcclError::Length`] when they do not all lie in it.
    pub fn part(&self, range: Range<usize>) -> Result<Part<'_>, NcclError> {
        if range.start > range.end || range.end > self.len {
            let expected = format!("a range within {}", self.len);
            return Err(NcclError::Length { call: "a part of a device buffer", found: range.end, expected });
        }
        Ok(Part { buffer: self, range })
    }

    /// All of it.
    pub fn whole(&self) -> Part<'_> {
        Part { buffer: self, range: 0..self.len }
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // Nobody is left to tell; the device's own errors come up in the next call.
        let _freed = self.cuda.library.free(self.address);
    }
}

/// A range of a [`DeviceBuffer`].
#[derive(Debug, Clone)]
pub struct Part<'a> {
    buffer: &'a DeviceBuffer,
    range: Range<usize>,
}

impl Part<'_> {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    pub(crate) fn address(&self) -> Handle {
        self.buffer.address.offset(self.range.start)
    }
}
