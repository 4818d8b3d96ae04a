//! The libraries that are loaded at run time, so that one binary starts with and without them.
//!
//! With [`crate::shim`] the only file of this crate with `unsafe`: opening libtorch's CUDA part, and asking the driver for a GPU's name.

use std::ffi::{CStr, c_char, c_int};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cluster::{ClusterError, Collective, Nccl, nccl_rs};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use serde::{Deserialize, Serialize};
use tch::Device;

const CUDA_LIBRARY: &str = "libtorch_cuda.so";

/// Whether libtorch's CUDA part is in this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum CudaLibrary {
    /// It is, and libtorch sees the GPUs that the driver offers.
    Loaded {
        /// Where it was found.
        path: PathBuf,
    },
    /// It is not; everything runs on the CPU.
    Absent {
        /// Why not, in the loader's words.
        reason: String,
    },
}

/// Loads libtorch's CUDA part when it is installed beside the libtorch of this process.
///
/// Call it first in `main`, before anything of `tch`: libtorch looks for its CUDA part once, at the
/// first question about CUDA, and remembers "none" for the rest of the process.
pub fn load_cuda() -> CudaLibrary {
    let Some(torch) = torch_folder() else {
        return CudaLibrary::Absent { reason: "libtorch_cpu.so is not mapped into this process".to_owned() };
    };
    let path = torch.join("lib").join(CUDA_LIBRARY);
    if !path.exists() {
        let reason = format!("{} does not exist; `TORCH_CUDA=1 make setup` brings it", path.display());
        return CudaLibrary::Absent { reason };
    }
    // SAFETY: libtorch_cuda's initialisers register its operators with the libtorch that is already in this process
    // (same folder, same build); no thread of ours uses libtorch yet.
    match unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => {
            // Never unloaded: libtorch keeps pointers into it.
            std::mem::forget(library);
            CudaLibrary::Loaded { path }
        }
        Err(error) => {
            let source = std::error::Error::source(&error);
            CudaLibrary::Absent { reason: source.map_or_else(|| error.to_string(), ToString::to_string) }
        }
    }
}

/// Joins the GPUs of ranks that have met already; every rank of `ranks` calls it.
///
/// # Errors
/// When NCCL, CUDA or a GPU is missing, here or at another rank.
pub fn connect_gpus(ranks: Arc<dyn Collective>, local_rank: usize) -> Result<Arc<dyn Collective>, ClusterError> {
    let torch = torch_folder();
    let nccl = nccl_rs::Nccl::load(&nccl_rs::candidates(None, torch.as_deref()));
    let libraries =
        nccl.and_then(|nccl| Ok((nccl, nccl_rs::Cuda::load(&nccl_rs::cuda_candidates(None, torch.as_deref()))?)));
    Ok(Arc::new(Nccl::join(ranks, libraries, local_rank)?))
}

/// What a device is, such as `NVIDIA H100 80GB HBM3`; `cpu` for the processor, whose name is a fact of its own.
pub fn device_model(device: Device) -> String {
    match device {
        Device::Cuda(number) => gpu_name(number).unwrap_or_else(|| "a GPU of an unknown name".to_owned()),
        _ => "cpu".to_owned(),
    }
}

/// The driver's name for a GPU that this process sees.
fn gpu_name(number: usize) -> Option<String> {
    const BYTES: usize = 128;
    let mut name = [0_u8; BYTES];
    // SAFETY: libtorch's CUDA part has loaded and started this library already, where there is a GPU; the function has this
    // type in every version of the driver and ends what it writes, within the given size, with 0.
    let code = unsafe {
        let driver = Library::open(Some("libcuda.so.1"), RTLD_NOW).ok()?;
        let get_name: libloading::os::unix::Symbol<unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int> =
            driver.get(b"cuDeviceGetName\0").ok()?;
        let code = get_name(name.as_mut_ptr().cast(), BYTES as c_int, c_int::try_from(number).ok()?);
        std::mem::forget(driver);
        code
    };
    let text = CStr::from_bytes_until_nul(&name).ok()?.to_string_lossy().into_owned();
    (code == 0 && !text.is_empty()).then_some(text)
}

/// The folder whose `lib` holds the libtorch_cpu.so of this process.
pub fn torch_folder() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let library = mapped_file(&maps, "libtorch_cpu.so")?;
    library.ancestors().nth(2).map(Path::to_path_buf)
}

/// The version that libtorch's folder states, such as 2.11.0; `unknown` when the file is not there.
pub fn torch_version(torch: &Path) -> String {
    fs::read_to_string(torch.join("build-version")).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The path in a line of /proc/self/maps whose file name is `name`.
fn mapped_file(maps: &str, name: &str) -> Option<PathBuf> {
    let paths = maps.lines().filter_map(|line| line.find('/').map(|start| Path::new(&line[start..])));
    paths.into_iter().find(|path| path.file_name().is_some_and(|file| file == name)).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_library_is_found_by_name() {
        let maps = "00400000-00452000 r-xp 00000000 08:02 173521 /opt/a b/torch/lib/libtorch_cpu.so\n\
                    7ffd0000-7ffd1000 rw-p 00000000 00:00 0 [stack]\n";
        assert_eq!(mapped_file(maps, "libtorch_cpu.so"), Some(PathBuf::from("/opt/a b/torch/lib/libtorch_cpu.so")));
        assert_eq!(mapped_file(maps, "libtorch_cuda.so"), None);
    }

    #[test]
    fn this_test_runs_with_a_libtorch_of_the_right_version() {
        assert_eq!(tch::Tensor::from_slice(&[1_i64, 2]).sum(tch::Kind::Int64).int64_value(&[]), 3);
        let torch = torch_folder().expect("tests of this crate link libtorch");
        assert_eq!(torch_version(&torch).split('+').next(), Some("2.11.0"));
    }
}
