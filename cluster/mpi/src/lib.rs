//! The MPI piece: a C library over rsmpi that `cluster::mpi` loads at run time.
//!
//! It is the only part of the workspace that links an MPI library, so a site rebuilds this piece
//! against its own MPI and keeps every other binary. The interface is C, small and versioned:
//!
//! - every function that can fail returns 0 for done and 1 for failed; [`blip2_mpi_last_error`] then
//!   gives the reason, for the calling thread;
//! - no Rust panic crosses the boundary;
//! - element types are numbers: 0 is f32, 1 is f64, 2 is u64.
//!
//! Calls other than [`blip2_mpi_abort`] take turns inside the piece, so they may come from any thread;
//! like in MPI itself, all ranks must make them in the same order.

mod world;

use std::any::Any;
use std::cell::RefCell;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use world::ELEMENT_TYPES;

/// Changes when a function's meaning or signature does; `cluster::mpi` refuses another number.
pub const ABI_VERSION: u32 = 2;

const DONE: i32 = 0;
const FAILED: i32 = 1;

thread_local! {
    static LAST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The number of this interface.
#[unsafe(no_mangle)]
pub extern "C" fn blip2_mpi_abi_version() -> u32 {
    ABI_VERSION
}

/// Starts MPI, asking for full thread support, and writes the level that was granted: 0 single,
/// 1 funneled, 2 serialized, 3 multiple.
///
/// # Safety
/// `granted` points to one writable `i32`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blip2_mpi_init(granted: *mut i32) -> i32 {
    guarded(|| {
        let level = world::init()?;
        // SAFETY: the caller gives the address of one i32.
        unsafe { granted.write(level) };
        Ok(())
    })
}

/// Writes this process's rank and the number of processes.
///
/// # Safety
/// `rank` and `size` each point to one writable `u64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blip2_mpi_rank_and_size(rank: *mut u64, size: *mut u64) -> i32 {
    guarded(|| {
        let (own, all) = world::rank_and_size()?;
        // SAFETY: the caller gives the address of one u64.
        unsafe { rank.write(own) };
        // SAFETY: the caller gives the address of one u64.
        unsafe { size.write(all) };
        Ok(())
    })
}

/// Returns when every process has called it.
#[unsafe(no_mangle)]
pub extern "C" fn blip2_mpi_barrier() -> i32 {
    guarded(world::barrier)
}

/// Replaces `count` elements by their sums over all processes.
///
/// # Safety
/// `data` points to `count` writable elements of the type that `element_type` names.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blip2_mpi_all_reduce_sum(element_type: u32, data: *mut c_void, count: usize) -> i32 {
    guarded(|| match element_type {
        // SAFETY: the caller promises `count` writable elements of this type.
        0 => world::all_reduce_sum(unsafe { elements::<f32>(data, count) }),
        // SAFETY: the caller promises `count` writable elements of this type.
        1 => world::all_reduce_sum(unsafe { elements::<f64>(data, count) }),
        // SAFETY: the caller promises `count` writable elements of this type.
        2 => world::all_reduce_sum(unsafe { elements::<u64>(data, count) }),
        other => Err(format!("element type {other} is unknown; expected {ELEMENT_TYPES}")),
    })
}

/// Copies `size` bytes of process `root` to every process.
///
/// # Safety
/// `data` points to `size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blip2_mpi_broadcast(data: *mut c_void, size: usize, root: u64) -> i32 {
    // SAFETY: the caller promises `size` writable bytes.
    guarded(|| world::broadcast(unsafe { elements::<u8>(data, size) }, root))
}

/// Collects `size` bytes of every process, in rank order.
///
/// # Safety
/// `mine` points to `size` readable bytes and `all` to `size` times the number of processes writable
/// bytes; the two do not overlap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blip2_mpi_all_gather(mine: *const c_void, size: usize, all: *mut c_void) -> i32 {
    guarded(|| {
        let (_, world_size) = world::rank_and_size()?;
        let whole = usize::try_from(world_size)
            .ok()
            .and_then(|count| count.checked_mul(size))
            .ok_or_else(|| format!("{size} bytes from each of {world_size} processes do not fit into memory"))?;
        // SAFETY: the caller promises `size` readable bytes; the cast only drops the write permission again below.
        let own: &[u8] = unsafe { elements::<u8>(mine.cast_mut(), size) };
        // SAFETY: the caller promises this many writable bytes, apart from `mine`.
        let gathered = unsafe { elements::<u8>(all, whole) };
        world::all_gather(own, gathered)
    })
}

/// Sends a part of `send` to every process and receives a part from each: parts lie one after the other in rank order,
/// and `send_sizes` and `receive_sizes` hold their bytes.
///
/// # Safety
/// `send_sizes` and `receive_sizes` point to one readable `u64` per process; `send` and `receive` point to as many
/// readable and writable bytes as those sum up to, apart from one another.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blip2_mpi_all_to_all(
    send: *const c_void,
    send_sizes: *const u64,
    receive: *mut c_void,
    receive_sizes: *const u64,
) -> i32 {
    guarded(|| {
        let (_, world_size) = world::rank_and_size()?;
        let count = usize::try_from(world_size).map_err(|_| format!("{world_size} processes"))?;
        // SAFETY: the caller promises one readable number per process; the cast only drops the write permission below.
        let send_sizes: &[u64] = unsafe { elements::<u64>(send_sizes.cast_mut().cast(), count) };
        // SAFETY: as above.
        let receive_sizes: &[u64] = unsafe { elements::<u64>(receive_sizes.cast_mut().cast(), count) };
        let whole = |sizes: &[u64]| {
            let sum = sizes.iter().try_fold(0_u64, |sum, size| sum.checked_add(*size));
            sum.and_then(|sum| usize::try_from(sum).ok()).ok_or("the parts of an all-to-all do not fit into memory")
        };
        // SAFETY: the caller promises this many readable bytes.
        let sent: &[u8] = unsafe { elements::<u8>(send.cast_mut(), whole(send_sizes)?) };
        // SAFETY: the caller promises this many writable bytes, apart from `send`.
        let received = unsafe { elements::<u8>(receive, whole(receive_sizes)?) };
        world::all_to_all(sent, send_sizes, received, receive_sizes)
    })
}

/// Ends every process of the job with `code`. Does not return.
///
/// Takes no lock and may be called from a panic hook while another thread is inside MPI.
#[unsafe(no_mangle)]
pub extern "C" fn blip2_mpi_abort(code: i32) {
    world::abort(code)
}

/// Ends MPI; every process calls it. Nothing else may be called afterwards.
#[unsafe(no_mangle)]
pub extern "C" fn blip2_mpi_finalize() -> i32 {
    guarded(world::finalize)
}

/// Writes the MPI library's own version text (UTF-8, cut at `capacity`) and returns its whole length.
/// Works before [`blip2_mpi_init`].
///
/// # Safety
/// `text` points to `capacity` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blip2_mpi_library_version(text: *mut u8, capacity: usize) -> usize {
    let version = catch_unwind(world::library_version).unwrap_or_default();
    // SAFETY: the caller promises `capacity` writable bytes.
    unsafe { copy_out(&version, text, capacity) }
}

/// Writes why the last failed call of this thread failed (UTF-8, cut at `capacity`) and returns its
/// whole length.
///
/// # Safety
/// `text` points to `capacity` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blip2_mpi_last_error(text: *mut u8, capacity: usize) -> usize {
    let message = LAST_ERROR.with_borrow(String::clone);
    // SAFETY: the caller promises `capacity` writable bytes.
    unsafe { copy_out(&message, text, capacity) }
}

/// Runs a call, keeps its error for `blip2_mpi_last_error`, and stops a panic here.
fn guarded(call: impl FnOnce() -> Result<(), String>) -> i32 {
    let outcome = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(panic_text(panic.as_ref())));
    match outcome {
        Ok(()) => DONE,
        Err(message) => {
            LAST_ERROR.set(message);
            FAILED
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the MPI piece panicked: {}", text.unwrap_or_else(|| "no message".to_owned()))
}

/// The caller's memory as a slice; empty when `count` is 0, whatever the address.
///
/// # Safety
/// `data` points to `count` initialised elements that nothing else touches while the slice lives.
unsafe fn elements<'a, T>(data: *mut c_void, count: usize) -> &'a mut [T] {
    if count == 0 {
        return &mut [];
    }
    // SAFETY: the caller promises `count` elements of T that are ours for this call.
    unsafe { slice::from_raw_parts_mut(data.cast(), count) }
}

/// # Safety
/// `target` points to `capacity` writable bytes.
unsafe fn copy_out(text: &str, target: *mut u8, capacity: usize) -> usize {
    let count = text.len().min(capacity);
    // SAFETY: `count` is at most either side's size, and the caller's buffer is not inside our string.
    unsafe { target.copy_from_nonoverlapping(text.as_ptr(), count) };
    text.len()
}
