//! MPI, reached through the MPI piece `libblip2_mpi.so` (`cluster/mpi`) that is loaded at run time.
//!
//! The only file of this crate with `unsafe`: the piece's C functions. They are looked up once and the
//! piece is never unloaded, as an MPI library cannot be taken out of a process again.

use std::ffi::c_void;
use std::fmt;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use serde::Serialize;

use crate::{BufferMut, ClusterError, Collective};

/// The interface of `cluster/mpi` that this file was written for.
const ABI_VERSION: u32 = 1;
const PIECE: &str = "libblip2_mpi.so";
/// More than `MPI_MAX_LIBRARY_VERSION_STRING` of any MPI seen (8192 in MPICH).
const TEXT_BYTES: usize = 16 << 10;

/// How far MPI may be used from several threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ThreadLevel {
    /// One thread in the process.
    Single,
    /// Several threads, MPI only from the first.
    Funneled,
    /// MPI from any thread, one at a time.
    Serialized,
    /// MPI from any thread at any time.
    Multiple,
}

/// Where the MPI piece may lie: `configured` alone when given, else beside the executable (its own
/// folder, and the one above for test programs in `target/*/deps`) and in `../lib` of a package.
pub fn piece_candidates(configured: Option<&Path>, executable: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = configured {
        return vec![path.to_path_buf()];
    }
    let folders = executable.into_iter().flat_map(|path| path.ancestors().skip(1).take(2));
    let mut found: Vec<PathBuf> = folders.map(|folder| folder.join(PIECE)).collect();
    if let Some(package) = executable.and_then(|path| path.ancestors().nth(2)) {
        found.push(package.join("lib").join(PIECE));
    }
    found
}

/// The piece's functions. Plain pointers: they stay valid because the piece is never unloaded.
#[derive(Debug, Clone, Copy)]
struct Functions {
    init: unsafe extern "C" fn(*mut i32) -> i32,
    rank_and_size: unsafe extern "C" fn(*mut u64, *mut u64) -> i32,
    barrier: unsafe extern "C" fn() -> i32,
    all_reduce_sum: unsafe extern "C" fn(u32, *mut c_void, usize) -> i32,
    broadcast: unsafe extern "C" fn(*mut c_void, usize, u64) -> i32,
    all_gather: unsafe extern "C" fn(*const c_void, usize, *mut c_void) -> i32,
    abort: unsafe extern "C" fn(i32),
    finalize: unsafe extern "C" fn() -> i32,
    library_version: unsafe extern "C" fn(*mut u8, usize) -> usize,
    last_error: unsafe extern "C" fn(*mut u8, usize) -> usize,
}

/// The MPI piece, loaded; MPI itself is not started yet.
#[derive(Debug)]
pub struct MpiPiece {
    functions: Functions,
    path: PathBuf,
}

impl MpiPiece {
    /// Loads the first of `candidates` that can be opened.
    ///
    /// # Errors
    /// [`ClusterError::MpiPieceNotFound`] with every reason, or [`ClusterError::MpiPieceMismatch`] when
    /// the file that opens has another interface.
    pub fn load(candidates: &[PathBuf]) -> Result<Self, ClusterError> {
        let mut tried = Vec::new();
        for path in candidates {
            // Global, because some MPIs load plug-ins that expect MPI's own symbols to be visible.
            // SAFETY: the piece and libmpi only set up static data when they are loaded.
            match unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) } {
                Ok(library) => return Self::from_library(library, path),
                Err(error) => tried.push(reason(&error)),
            }
        }
        Err(ClusterError::MpiPieceNotFound { tried })
    }

    fn from_library(library: Library, path: &Path) -> Result<Self, ClusterError> {
        let abi_version: unsafe extern "C" fn() -> u32 = function(&library, path, "blip2_mpi_abi_version")?;
        // SAFETY: the function takes nothing and returns a number in every version of the interface.
        let found = unsafe { abi_version() };
        if found != ABI_VERSION {
            let reason = format!("its interface has version {found}, expected {ABI_VERSION}");
            return Err(ClusterError::MpiPieceMismatch { path: path.to_path_buf(), reason });
        }
        let functions = Functions {
            init: function(&library, path, "blip2_mpi_init")?,
            rank_and_size: function(&library, path, "blip2_mpi_rank_and_size")?,
            barrier: function(&library, path, "blip2_mpi_barrier")?,
            all_reduce_sum: function(&library, path, "blip2_mpi_all_reduce_sum")?,
            broadcast: function(&library, path, "blip2_mpi_broadcast")?,
            all_gather: function(&library, path, "blip2_mpi_all_gather")?,
            abort: function(&library, path, "blip2_mpi_abort")?,
            finalize: function(&library, path, "blip2_mpi_finalize")?,
            library_version: function(&library, path, "blip2_mpi_library_version")?,
            last_error: function(&library, path, "blip2_mpi_last_error")?,
        };
        std::mem::forget(library);
        Ok(Self { functions, path: path.to_path_buf() })
    }

    /// The file that was loaded.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The MPI library's own version text. MPI need not be started.
    pub fn library_version(&self) -> String {
        text(self.functions.library_version)
    }
}

/// A job of MPI ranks.
pub struct Mpi {
    functions: Functions,
    thread_level: ThreadLevel,
    rank: usize,
    world_size: usize,
}

impl fmt::Debug for Mpi {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Mpi({} of {}, {:?})", self.rank, self.world_size, self.thread_level)
    }
}

impl Mpi {
    /// Starts MPI; every rank of the job calls it.
    ///
    /// # Errors
    /// [`ClusterError::Mpi`] when MPI was started before in this process. Most failures inside MPI's own
    /// start end the process instead, as the MPI standard has it.
    pub fn init(piece: MpiPiece) -> Result<Self, ClusterError> {
        let functions = piece.functions;
        let mut level = 0;
        // SAFETY: `level` is one i32.
        check(&functions, "init", unsafe { (functions.init)(&mut level) })?;
        let thread_level = match level {
            0 => ThreadLevel::Single,
            1 => ThreadLevel::Funneled,
            2 => ThreadLevel::Serialized,
            _ => ThreadLevel::Multiple,
        };
        let (mut rank, mut size) = (0, 0);
        // SAFETY: both are one u64.
        check(&functions, "rank and size", unsafe { (functions.rank_and_size)(&mut rank, &mut size) })?;
        let number = |value: u64| {
            usize::try_from(value).map_err(|_| failure("rank and size", format!("{value} does not fit this machine")))
        };
        Ok(Self { functions, thread_level, rank: number(rank)?, world_size: number(size)? })
    }

    /// How far MPI may be used from several threads.
    pub fn thread_level(&self) -> ThreadLevel {
        self.thread_level
    }
}

impl Collective for Mpi {
    fn name(&self) -> &'static str {
        "mpi"
    }

    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn barrier(&self) -> Result<(), ClusterError> {
        // SAFETY: takes nothing; the piece checks that MPI is up.
        check(&self.functions, "barrier", unsafe { (self.functions.barrier)() })
    }

    fn all_reduce_sum(&self, buffer: BufferMut<'_>) -> Result<(), ClusterError> {
        let (element_type, data, count): (u32, *mut c_void, usize) = match buffer {
            BufferMut::F32(data) => (0, data.as_mut_ptr().cast(), data.len()),
            BufferMut::F64(data) => (1, data.as_mut_ptr().cast(), data.len()),
            BufferMut::U64(data) => (2, data.as_mut_ptr().cast(), data.len()),
        };
        // SAFETY: address, count and element type are those of one exclusively borrowed slice.
        let code = unsafe { (self.functions.all_reduce_sum)(element_type, data, count) };
        check(&self.functions, "all-reduce", code)
    }

    fn broadcast(&self, bytes: &mut [u8], root: usize) -> Result<(), ClusterError> {
        if root >= self.world_size {
            return Err(ClusterError::NoSuchRank { rank: root, world_size: self.world_size });
        }
        // SAFETY: address and size are those of one exclusively borrowed slice.
        let code = unsafe { (self.functions.broadcast)(bytes.as_mut_ptr().cast(), bytes.len(), root as u64) };
        check(&self.functions, "broadcast", code)
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<u8>, ClusterError> {
        let mut all = vec![0; mine.len() * self.world_size];
        // SAFETY: `mine` is a slice, `all` has that size times the number of ranks, and they are apart.
        let code = unsafe { (self.functions.all_gather)(mine.as_ptr().cast(), mine.len(), all.as_mut_ptr().cast()) };
        check(&self.functions, "all-gather", code)?;
        Ok(all)
    }

    fn abort(&self, code: i32) -> ! {
        // SAFETY: may be called at any time from any thread; it does not return.
        unsafe { (self.functions.abort)(code) };
        std::process::abort()
    }

    fn finish(&self) -> Result<(), ClusterError> {
        // SAFETY: takes nothing; the piece refuses a second call.
        check(&self.functions, "finalize", unsafe { (self.functions.finalize)() })
    }
}

/// Looks up a C function of the piece. `F` must be the type of that function in `cluster/mpi`.
fn function<F: Copy>(library: &Library, path: &Path, name: &str) -> Result<F, ClusterError> {
    // SAFETY: callers name the function's own type; the version number of the interface guards against others.
    let symbol = unsafe { library.get::<F>(name.as_bytes()) };
    symbol.map(|symbol| *symbol).map_err(|_| ClusterError::MpiPieceMismatch {
        path: path.to_path_buf(),
        reason: format!("it has no function {name}"),
    })
}

fn check(functions: &Functions, call: &'static str, code: i32) -> Result<(), ClusterError> {
    match code {
        0 => Ok(()),
        _ => Err(failure(call, text(functions.last_error))),
    }
}

/// The loader's own words, which begin with the path; libloading keeps them in the error's source.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn failure(call: &'static str, reason: String) -> ClusterError {
    ClusterError::Mpi { call, reason }
}

/// Calls one of the piece's functions that write a text.
fn text(write: unsafe extern "C" fn(*mut u8, usize) -> usize) -> String {
    let mut bytes = vec![0; TEXT_BYTES];
    // SAFETY: address and capacity are those of the vector.
    let whole = unsafe { write(bytes.as_mut_ptr(), bytes.len()) };
    bytes.truncate(whole);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_piece_is_the_only_candidate() {
        let configured = Path::new("/site/libblip2_mpi.so");
        assert_eq!(piece_candidates(Some(configured), Some(Path::new("/x/bin/blip2-rank"))), [configured]);
    }

    #[test]
    fn the_piece_is_sought_beside_the_executable_and_in_a_package() {
        let found = piece_candidates(None, Some(Path::new("/opt/blip2/bin/blip2-rank")));
        let expected =
            ["/opt/blip2/bin/libblip2_mpi.so", "/opt/blip2/libblip2_mpi.so", "/opt/blip2/lib/libblip2_mpi.so"];
        assert_eq!(found, expected.map(PathBuf::from));
    }

    #[test]
    fn an_absent_piece_is_an_error_that_says_how_to_build_it() {
        let error = MpiPiece::load(&[PathBuf::from("/nonexistent/libblip2_mpi.so")]).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/libblip2_mpi.so") && error.contains("cluster-mpi"), "{error}");
    }

    #[test]
    fn another_library_is_refused() {
        let error = MpiPiece::load(&[PathBuf::from("libc.so.6")]).unwrap_err();
        assert!(matches!(error, ClusterError::MpiPieceMismatch { .. }), "{error}");
    }
}
