//! MPI, reached through the MPI piece `libblip2_mpi.so` (`cluster/mpi`) that is loaded at run time.
//!
//! The only file of this crate with `unsafe`: the piece's C functions. They are looked up once and the
//! piece is never unloaded, as an MPI library cannot be taken out of a process again.

use std::ffi::c_void;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use half::{bf16, f16};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use serde::Serialize;

use crate::buffer::sum_wide;
use crate::call::{Call, Operation, agree, agree_on_sizes, check_parts, read_calls, read_sizes, size_bytes};
use crate::{BufferMut, ClusterError, Collective};

/// The interface of `cluster/mpi` that this file was written for.
const ABI_VERSION: u32 = 2;
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
    all_to_all: unsafe extern "C" fn(*const c_void, *const u64, *mut c_void, *const u64) -> i32,
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
            all_to_all: function(&library, path, "blip2_mpi_all_to_all")?,
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
    /// Calls so far. Held throughout a call, so that what ranks agree on is what they do next.
    calls: Mutex<u64>,
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
        Ok(Self { functions, thread_level, rank: number(rank)?, world_size: number(size)?, calls: Mutex::new(0) })
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
        let _turn = self.agreed(Call::plain(Operation::Barrier))?;
        // SAFETY: takes nothing; the piece checks that MPI is up.
        check(&self.functions, "barrier", unsafe { (self.functions.barrier)() })
    }

    fn all_reduce_sum(&self, buffer: BufferMut<'_>) -> Result<(), ClusterError> {
        let _turn = self.agreed(Call::all_reduce(&buffer))?;
        match buffer {
            BufferMut::F32(data) => self.sum(0, data),
            BufferMut::F64(data) => self.sum(1, data),
            BufferMut::U64(data) => self.sum(2, data),
            // MPI has no half types: sums are made in f32.
            BufferMut::Bf16(data) => sum_wide(data, bf16::to_f32, bf16::from_f32, |wide| self.sum(0, wide)),
            BufferMut::F16(data) => sum_wide(data, f16::to_f32, f16::from_f32, |wide| self.sum(0, wide)),
        }
    }

    fn broadcast(&self, bytes: &mut [u8], root: usize) -> Result<(), ClusterError> {
        if root >= self.world_size {
            return Err(ClusterError::NoSuchRank { rank: root, world_size: self.world_size });
        }
        let _turn = self.agreed(Call::broadcast(bytes.len(), root))?;
        // SAFETY: address and size are those of one exclusively borrowed slice.
        let code = unsafe { (self.functions.broadcast)(bytes.as_mut_ptr().cast(), bytes.len(), root as u64) };
        check(&self.functions, "broadcast", code)
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<u8>, ClusterError> {
        let _turn = self.agreed(Call::bytes(Operation::AllGather, mine.len()))?;
        self.gather(mine)
    }

    fn all_to_all(&self, parts: &[&[u8]], expected: &[usize]) -> Result<Vec<Vec<u8>>, ClusterError> {
        check_parts(parts, expected, self.world_size)?;
        let turn = self.agreed(Call::plain(Operation::AllToAll))?;
        agree_on_sizes(*turn, &read_sizes(&self.gather(&size_bytes(parts, expected))?, self.world_size))?;
        let send_sizes: Vec<u64> = parts.iter().map(|part| part.len() as u64).collect();
        let receive_sizes: Vec<u64> = expected.iter().map(|size| *size as u64).collect();
        let sent = parts.concat();
        let mut received = vec![0_u8; expected.iter().sum()];
        // SAFETY: one size per rank on either side, and buffers as long as the sizes' sums; all of them are apart.
        let code = unsafe {
            (self.functions.all_to_all)(
                sent.as_ptr().cast(),
                send_sizes.as_ptr(),
                received.as_mut_ptr().cast(),
                receive_sizes.as_ptr(),
            )
        };
        check(&self.functions, "all-to-all", code)?;
        let mut rest = &received[..];
        let part = |size: &usize| {
            let (own, others) = rest.split_at(*size);
            rest = others;
            own.to_vec()
        };
        Ok(expected.iter().map(part).collect())
    }

    fn abort(&self, code: i32) -> ! {
        // SAFETY: may be called at any time from any thread; it does not return.
        unsafe { (self.functions.abort)(code) };
        std::process::abort()
    }

    fn finish(&self) -> Result<(), ClusterError> {
        let _turn = self.agreed(Call::plain(Operation::Finish))?;
        // SAFETY: takes nothing; the piece refuses a second call.
        check(&self.functions, "finalize", unsafe { (self.functions.finalize)() })
    }
}

impl Mpi {
    /// Tells the other ranks what this one is about to do, and takes the turn for it when all are about to do the same.
    fn agreed(&self, call: Call) -> Result<MutexGuard<'_, u64>, ClusterError> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls += 1;
        agree(*calls, &read_calls(&self.gather(&call.to_bytes())?)?)?;
        Ok(calls)
    }

    fn gather(&self, mine: &[u8]) -> Result<Vec<u8>, ClusterError> {
        let mut all = vec![0; mine.len() * self.world_size];
        // SAFETY: `mine` is a slice, `all` has that size times the number of ranks, and they are apart.
        let code = unsafe { (self.functions.all_gather)(mine.as_ptr().cast(), mine.len(), all.as_mut_ptr().cast()) };
        check(&self.functions, "all-gather", code)?;
        Ok(all)
    }

    /// `element_type` must be the piece's number for `T`.
    fn sum<T>(&self, element_type: u32, data: &mut [T]) -> Result<(), ClusterError> {
        // SAFETY: address and count are those of one exclusively borrowed slice, whose type the caller names.
        let code = unsafe { (self.functions.all_reduce_sum)(element_type, data.as_mut_ptr().cast(), data.len()) };
        check(&self.functions, "all-reduce", code)
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
