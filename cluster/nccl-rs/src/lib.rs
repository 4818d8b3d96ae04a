//! A small safe wrapper over NCCL, loaded at run time.
//!
//! Nothing here links against NCCL: [`Nccl::load`] opens the library when a GPU run asks for it, so one
//! binary starts on machines with and without CUDA. A missing library or symbol is an [`NcclError`],
//! never a panic. Results stay `u32`, as an enum filled from C would be undefined for codes of later
//! versions.
//!
//! A [`Communicator`] owns one stream, and its calls and copies run there one after the other; [`DeviceBuffer`]s belong
//! to it. So every call is safe: lengths are checked, one thread at a time makes calls, and nothing is read or given back
//! before the calls before it are done.

mod communicator;
mod cuda;
mod library;

use std::ffi::c_int;
use std::fmt;
use std::path::{Path, PathBuf};

use library::Library;

pub use communicator::{Communicator, Group};
pub use cuda::{Cuda, DeviceBuffer, Part, cuda_candidates};

/// Why NCCL could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NcclError {
    /// None of the candidates could be opened.
    #[error("no {library} library could be loaded; tried {}", .tried.join("; "))]
    NotFound {
        /// NCCL or CUDA runtime.
        library: &'static str,
        /// Each candidate with the loader's reason.
        tried: Vec<String>,
    },
    /// The library was opened and lacks a function that is needed.
    #[error("{} is not the library that is needed: no symbol {symbol}", .path.display())]
    MissingSymbol {
        /// The library that was opened.
        path: PathBuf,
        /// The function that it lacks.
        symbol: &'static str,
    },
    /// A function of NCCL or of the CUDA runtime returned an error code.
    #[error("{call} failed: {message} (result {code})")]
    Call {
        /// The function.
        call: &'static str,
        /// `ncclResult_t` or `cudaError_t`.
        code: u32,
        /// The library's own words for the code.
        message: String,
    },
    /// A communicator failed before this call.
    #[error("this communicator failed in an earlier call and can do nothing more")]
    Failed,
    /// A communicator failed while a call was under way.
    #[error("NCCL failed during {during}: {message} (result {code})")]
    Async {
        /// The call.
        during: &'static str,
        /// `ncclResult_t`.
        code: u32,
        /// NCCL's own words for the code.
        message: String,
    },
    /// A part of device memory that does not lie in its allocation, or does not fit the call.
    #[error("{call}: {found} bytes, expected {expected}")]
    Length {
        /// What the part was for.
        call: &'static str,
        /// Bytes of the part, or its end.
        found: usize,
        /// What would fit.
        expected: String,
    },
    /// A device, rank or world that cannot be.
    #[error("{name} is {found}; expected {expected}")]
    Number {
        /// What the number is.
        name: &'static str,
        /// The number.
        found: usize,
        /// What would be right.
        expected: String,
    },
}

/// The type of the numbers that a call adds or moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// Bytes.
    U8,
    /// Counts.
    U64,
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

impl DataType {
    /// `ncclDataType_t` of nccl.h.
    fn code(self) -> c_int {
        match self {
            Self::U8 => 1,
            Self::U64 => 5,
            Self::F16 => 6,
            Self::F32 => 7,
            Self::F64 => 8,
            Self::Bf16 => 9,
        }
    }

    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::U64 | Self::F64 => 8,
        }
    }
}

/// NCCL's version, ordered as numbers: 2.28.9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 2 in 2.28.9.
    pub major: u32,
    /// 28 in 2.28.9.
    pub minor: u32,
    /// 9 in 2.28.9.
    pub patch: u32,
}

impl Version {
    /// Reads NCCL's version code. Since 2.9 it is `major * 10000 + minor * 100 + patch`; before, the
    /// major part was multiplied by 1000 (`NCCL_VERSION` in nccl.h).
    pub fn from_code(code: u32) -> Self {
        let major_unit = if code < 10_000 { 1_000 } else { 10_000 };
        Self { major: code / major_unit, minor: code % major_unit / 100, patch: code % 100 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Names one communicator; rank 0 makes it and sends it to the others.
#[derive(Clone, PartialEq, Eq)]
pub struct UniqueId([u8; UniqueId::BYTES]);

impl UniqueId {
    /// Its size: `NCCL_UNIQUE_ID_BYTES` in nccl.h.
    pub const BYTES: usize = 128;

    /// The bytes to send to the other ranks.
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The id that another rank sent.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("UniqueId(..)")
    }
}

/// Where NCCL may lie, in the order to try: the configured path, the copy beside libtorch, the soname.
///
/// `torch` is the folder that holds libtorch's `lib`. libtorch_cuda needs the same soname, so once it
/// is loaded the last candidate gives the very copy that it uses.
pub fn candidates(configured: Option<&Path>, torch: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = configured {
        return vec![path.to_path_buf()];
    }
    let beside = torch.and_then(Path::parent).map(|site| site.join("nvidia/nccl/lib/libnccl.so.2"));
    beside.into_iter().chain([PathBuf::from("libnccl.so.2")]).collect()
}

/// Opens the first library that can be opened.
fn open_first(
    library: &'static str,
    candidates: &[PathBuf],
) -> Result<(libloading::os::unix::Library, PathBuf), NcclError> {
    let mut tried = Vec::new();
    for path in candidates {
        match library::open(path) {
            Ok(opened) => return Ok((opened, path.clone())),
            Err(reason) => tried.push(reason),
        }
    }
    Err(NcclError::NotFound { library, tried })
}

/// NCCL, loaded. The library stays loaded until the process ends.
#[derive(Debug, Clone)]
pub struct Nccl {
    library: Library,
    path: PathBuf,
}

impl Nccl {
    /// Opens the first of `candidates` that can be opened.
    ///
    /// # Errors
    /// [`NcclError::NotFound`] with every reason when none opens, [`NcclError::MissingSymbol`] when the
    /// one that opens is not NCCL.
    pub fn load(candidates: &[PathBuf]) -> Result<Self, NcclError> {
        let (opened, path) = open_first("NCCL", candidates)?;
        Ok(Self { library: Library::from_opened(opened, &path)?, path })
    }

    /// The path or soname that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The library's version.
    ///
    /// # Errors
    /// [`NcclError::Call`] when NCCL reports one.
    pub fn version(&self) -> Result<Version, NcclError> {
        let mut code = 0;
        self.check("ncclGetVersion", self.library.get_version(&mut code))?;
        Ok(Version::from_code(code))
    }

    /// A fresh id for a new communicator. Needs no GPU; opens a listening socket on this host.
    ///
    /// # Errors
    /// [`NcclError::Call`] when NCCL finds no usable network interface.
    pub fn unique_id(&self) -> Result<UniqueId, NcclError> {
        let mut bytes = [0; UniqueId::BYTES];
        self.check("ncclGetUniqueId", self.library.get_unique_id(&mut bytes))?;
        Ok(UniqueId(bytes))
    }

    /// NCCL's words for a result code, also for codes that this crate does not know.
    pub fn error_string(&self, code: u32) -> String {
        self.library.error_string(code)
    }

    fn check(&self, call: &'static str, code: u32) -> Result<(), NcclError> {
        match code {
            0 => Ok(()),
            _ => Err(NcclError::Call { call, code, message: self.error_string(code) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_codes_of_both_schemes() {
        assert_eq!(Version::from_code(22809).to_string(), "2.28.9");
        assert_eq!(Version::from_code(2804).to_string(), "2.8.4");
        assert!(Version::from_code(22809) > Version::from_code(2804));
    }

    #[test]
    fn a_configured_path_is_the_only_candidate() {
        let only = candidates(Some(Path::new("/site/libnccl.so.2")), Some(Path::new("/site/torch")));
        assert_eq!(only, [PathBuf::from("/site/libnccl.so.2")]);
    }

    #[test]
    fn the_copy_beside_libtorch_comes_before_the_soname() {
        let found = candidates(None, Some(Path::new("/site/torch")));
        assert_eq!(found, [PathBuf::from("/site/nvidia/nccl/lib/libnccl.so.2"), PathBuf::from("libnccl.so.2")]);
    }

    #[test]
    fn an_absent_library_is_an_error_that_names_what_was_tried() {
        let error = Nccl::load(&[PathBuf::from("/nonexistent/libnccl.so.2")]).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/libnccl.so.2"), "{error}");
    }

    #[test]
    fn a_library_that_is_not_nccl_is_an_error() {
        let error = Nccl::load(&[PathBuf::from("libc.so.6")]).unwrap_err();
        assert!(matches!(error, NcclError::MissingSymbol { symbol: "ncclGetVersion", .. }), "{error}");
    }
}
