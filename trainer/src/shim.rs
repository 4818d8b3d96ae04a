//! What libtorch can do and tch does not reach, through a few C functions (`trainer/shim/shim.cpp`).
//!
//! With [`crate::libraries`] the only file of this crate with `unsafe`: calls of those functions.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tch::Tensor;

use crate::TrainerError;

const TEXT_BYTES: usize = 4096;

unsafe extern "C" {
    fn blip2_be_deterministic(error: *mut c_char, capacity: usize) -> c_int;
    fn blip2_is_deterministic() -> c_int;
    fn blip2_return_free_memory();
    fn blip2_memory_in_use() -> u64;
    fn blip2_begin_trace(error: *mut c_char, capacity: usize) -> c_int;
    fn blip2_end_trace(path: *const c_char, error: *mut c_char, capacity: usize) -> c_int;
    fn blip2_gpu_memory(
        device: c_int,
        restart: c_int,
        now: *mut u64,
        peak: *mut u64,
        error: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn blip2_describe(text: *mut c_char, capacity: usize) -> c_int;
    fn blip2_dropout(
        x: *mut c_void,
        p: f64,
        key: u64,
        out: *mut *mut c_void,
        error: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn blip2_cudnn_attention(
        query: *mut c_void,
        key: *mut c_void,
        value: *mut c_void,
        out: *mut *mut c_void,
        error: *mut c_char,
        capacity: usize,
    ) -> c_int;
    fn blip2_moved_rows(
        tensors: *const *mut c_void,
        moved: *mut *mut c_void,
        error: *mut c_char,
        capacity: usize,
    ) -> c_int;
    #[allow(clippy::too_many_arguments, reason = "AdamW's own arguments")]
    fn blip2_fused_adamw(
        weights: *const *mut c_void,
        gradients: *const *mut c_void,
        means: *const *mut c_void,
        squares: *const *mut c_void,
        count: usize,
        step: f64,
        learning_rate: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        error: *mut c_char,
        capacity: usize,
    ) -> c_int;
}

/// Has libtorch compute the same bits for the same input, always, on every device. Call it before the first operation and
/// the first thread: it may set a variable of the environment.
///
/// # Errors
/// libtorch's own.
pub fn be_deterministic() -> Result<(), TrainerError> {
    checked("choosing deterministic algorithms", |error, capacity| {
        // SAFETY: `error` points to `capacity` writable bytes.
        unsafe { blip2_be_deterministic(error, capacity) }
    })
}

/// Whether [`be_deterministic`] was called.
pub fn is_deterministic() -> bool {
    // SAFETY: takes nothing and returns a number.
    unsafe { blip2_is_deterministic() == 1 }
}

/// Gives memory that was freed and kept for later back to the system. The heap is set up to keep all of it
/// (`launcher/src/ranks/plan.rs`), and blocks of many sizes break it up: within hours a rank would take what it never needs
/// at once. Done now and then, it costs some hundredths of a second.
pub fn return_free_memory() {
    // SAFETY: takes nothing, and changes nothing that is in use.
    unsafe { blip2_return_free_memory() }
}

/// Bytes that the program holds of its heap, without what was freed and is kept for later; 0 where that cannot be told.
pub fn memory_in_use() -> u64 {
    // SAFETY: takes nothing and returns a number.
    unsafe { blip2_memory_in_use() }
}

/// Notes every operation that `work` makes on this thread and in backward passes, with a GPU's kernels, and writes them to a
/// file that Perfetto and chrome://tracing read.
///
/// # Errors
/// Those of `work`, and libtorch's own, as when the file cannot be written.
pub fn traced<T>(path: &Path, work: impl FnOnce() -> Result<T, TrainerError>) -> Result<T, TrainerError> {
    let file = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| TrainerError::Unsupported {
        found: format!("--trace {}", path.display()),
        expected: "a path without a byte 0".into(),
    })?;
    // SAFETY: `error` points to `capacity` writable bytes.
    checked("beginning a trace", |error, capacity| unsafe { blip2_begin_trace(error, capacity) })?;
    let outcome = work();
    // SAFETY: `file` ends with 0 and lives during the call; `error` points to `capacity` writable bytes.
    checked("writing a trace", |error, capacity| unsafe { blip2_end_trace(file.as_ptr(), error, capacity) })?;
    outcome
}

/// Bytes that tensors hold of a GPU's memory.
#[derive(Clone, Copy, Debug)]
pub struct GpuMemory {
    /// Now.
    pub now: u64,
    /// At most, since the peak was last restarted.
    pub peak: u64,
}

/// What tensors hold of the memory of GPU `number`; `restart` lets the peak begin anew after that.
///
/// # Errors
/// libtorch's own, as where its CUDA part is not loaded.
pub fn gpu_memory(number: usize, restart: bool) -> Result<GpuMemory, TrainerError> {
    let (mut now, mut peak) = (0, 0);
    let number = c_int::try_from(number).unwrap_or(c_int::MAX);
    checked("asking for the memory of a GPU", |error, capacity| {
        // SAFETY: `now` and `peak` are written to during the call only; `error` points to `capacity` writable bytes.
        unsafe { blip2_gpu_memory(number, c_int::from(restart), &raw mut now, &raw mut peak, error, capacity) }
    })?;
    Ok(GpuMemory { now, peak })
}

/// What results depend on besides the inputs, as libtorch tells it: names with values.
///
/// # Errors
/// libtorch's own.
pub fn describe() -> Result<BTreeMap<String, String>, TrainerError> {
    let text = text_of("asking libtorch about itself", |text, capacity| {
        // SAFETY: `text` points to `capacity` writable bytes, and the function ends what it writes with 0.
        unsafe { blip2_describe(text, capacity) }
    })?;
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// Rows that are taken from a matrix; some of them are left empty.
#[derive(Debug)]
pub struct Rows {
    /// `[n]`: the row of the matrix that each row comes from.
    pub from: Tensor,
    /// `[h]`: those of the `n` rows that are 0 instead.
    pub hollow: Tensor,
}

/// Moves rows `there`, and their gradients `back`: the one must undo the other.
///
/// # Shapes
/// `x`: `[m, D]`; result: `[n, D]`, where `there` has `n` rows and `back` has `m`.
///
/// # Panics
/// As operations of `tch` do, when a row does not exist.
pub fn moved(x: &Tensor, there: &Rows, back: &Rows) -> Tensor {
    let tensors = [x, &there.from, &there.hollow, &back.from, &back.hollow].map(|it| it.as_ptr().cast_mut().cast());
    // SAFETY: `tensors` are five pointers to tensors that live during the call; the rest is as `new_tensor` promises.
    new_tensor("moving rows", |out, error, capacity| unsafe {
        blip2_moved_rows(tensors.as_ptr(), out, error, capacity)
    })
}

/// Dropout on a CPU: which numbers become 0 is a function of `key` and of their place, whatever the number of threads;
/// the others are divided by `1 - p`.
///
/// # Panics
/// As operations of `tch` do, when `x` is on another device.
pub fn dropout(x: &Tensor, p: f64, key: u64) -> Tensor {
    // SAFETY: `x` lives during the call; the rest is as `new_tensor` promises.
    new_tensor("dropout", |out, error, capacity| unsafe {
        blip2_dropout(x.as_ptr().cast_mut().cast(), p, key, out, error, capacity)
    })
}

/// Attention without mask, dropout and gradient by cuDNN; nothing where cuDNN is not there or has no kernel for it.
///
/// # Shapes
/// `query`, `key`, `value`, result: `[B, heads, S, d]`.
pub fn cudnn_attention(query: &Tensor, key: &Tensor, value: &Tensor) -> Option<Tensor> {
    // Once refused, always: bits do not depend on when.
    static REFUSED: AtomicBool = AtomicBool::new(false);
    if REFUSED.load(Ordering::Relaxed) {
        return None;
    }
    let [query, key, value] = [query, key, value].map(|it| it.as_ptr().cast_mut().cast());
    let mut out = std::ptr::null_mut();
    checked("attention by cuDNN", |error, capacity| {
        // SAFETY: the tensors live during the call; `out` is written to during it only; `error` points to `capacity` writable bytes.
        unsafe { blip2_cudnn_attention(query, key, value, &raw mut out, error, capacity) }
    })
    .inspect_err(|_| REFUSED.store(true, Ordering::Relaxed))
    .ok()?;
    // SAFETY: the call succeeded, so `out` is a new tensor of libtorch that nobody else owns.
    Some(unsafe { Tensor::from_ptr(out.cast()) })
}

/// What a function makes that puts a new tensor into its first argument, or an error text into the second, which points to
/// as many writable bytes as the third says.
fn new_tensor(doing: &'static str, call: impl FnOnce(*mut *mut c_void, *mut c_char, usize) -> c_int) -> Tensor {
    let mut out = std::ptr::null_mut();
    let done = checked(doing, |error, capacity| call(&raw mut out, error, capacity));
    done.expect("invariant: tensors fit the operation");
    // SAFETY: the call succeeded, so `out` is a new tensor of libtorch that nobody else owns.
    unsafe { Tensor::from_ptr(out.cast()) }
}

/// A flat tensor with what AdamW keeps of it; all four are equally long, f32, and updated in place.
pub struct Adam {
    /// The weights.
    pub weights: Tensor,
    /// Their gradient.
    pub gradient: Tensor,
    /// Running mean of gradients.
    pub exp_avg: Tensor,
    /// Running mean of squared gradients.
    pub exp_avg_sq: Tensor,
}

/// The numbers of one update.
pub struct AdamNumbers {
    /// Counted from 1.
    pub update: u64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Decay rates of the two means.
    pub betas: [f64; 2],
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Added to the root of the second mean.
    pub eps: f64,
}

/// One update by AdamW, in one pass over memory (`at::_fused_adamw_`).
///
/// # Errors
/// libtorch's own, as for tensors of different lengths.
pub fn fused_adamw(tensors: &[Adam], numbers: &AdamNumbers) -> Result<(), TrainerError> {
    let pointers = |one: fn(&Adam) -> &Tensor| -> Vec<*mut c_void> {
        tensors.iter().map(|tensor| one(tensor).as_ptr().cast_mut().cast()).collect()
    };
    let (weights, gradients) = (pointers(|it| &it.weights), pointers(|it| &it.gradient));
    let (means, squares) = (pointers(|it| &it.exp_avg), pointers(|it| &it.exp_avg_sq));
    checked("updating the weights", |error, capacity| {
        // SAFETY: each array holds `tensors.len()` pointers to tensors that live in `tensors` during the call; `error`
        // points to `capacity` writable bytes.
        unsafe {
            blip2_fused_adamw(
                weights.as_ptr(),
                gradients.as_ptr(),
                means.as_ptr(),
                squares.as_ptr(),
                tensors.len(),
                numbers.update as f64,
                numbers.learning_rate,
                numbers.betas[0],
                numbers.betas[1],
                numbers.weight_decay,
                numbers.eps,
                error,
                capacity,
            )
        }
    })
}

/// Runs a function that fills in an error text when it fails.
fn checked(doing: &'static str, call: impl FnOnce(*mut c_char, usize) -> c_int) -> Result<(), TrainerError> {
    text_of(doing, call).map(drop)
}

/// Runs a function that writes a text: its answer, or its error when it does not return 0.
fn text_of(doing: &'static str, call: impl FnOnce(*mut c_char, usize) -> c_int) -> Result<String, TrainerError> {
    let mut text = [0_u8; TEXT_BYTES];
    let code = call(text.as_mut_ptr().cast(), text.len());
    let words = CStr::from_bytes_until_nul(&text).map(CStr::to_string_lossy).unwrap_or_default().into_owned();
    match code {
        0 => Ok(words),
        _ => Err(TrainerError::Torch { doing, source: tch::TchError::Torch(words) }),
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn adam(values: [f32; 4]) -> Adam {
        let [weight, gradient, exp_avg, exp_avg_sq] = values.map(|value| Tensor::from_slice(&[value; 37]));
        Adam { weights: weight, gradient, exp_avg, exp_avg_sq }
    }

    #[test]
    fn an_update_has_the_formula_of_adamw() {
        let tensors = [adam([1.0, 0.5, 0.1, 0.2]), adam([-2.0, 0.0, 0.0, 0.0])];
        let numbers = AdamNumbers { update: 3, learning_rate: 0.01, betas: [0.9, 0.98], weight_decay: 0.05, eps: 1e-8 };
        fused_adamw(&tensors, &numbers).unwrap();
        let (mean, square) = (0.9 * 0.1 + 0.1 * 0.5, 0.98 * 0.2 + 0.02 * 0.25);
        let root = (square / (1.0 - 0.98_f64.powi(3))).sqrt();
        let expected = 1.0 * (1.0 - 0.01 * 0.05) - 0.01 * (mean / (1.0 - 0.9_f64.powi(3))) / (root + 1e-8);
        for i in 0..37 {
            assert!((tensors[0].weights.double_value(&[i]) - expected).abs() < 1e-6);
            assert!((tensors[0].exp_avg.double_value(&[i]) - mean).abs() < 1e-6);
            assert!((tensors[0].exp_avg_sq.double_value(&[i]) - square).abs() < 1e-6);
            assert!((tensors[1].weights.double_value(&[i]) + 2.0 * (1.0 - 0.01 * 0.05)).abs() < 1e-6);
        }
    }

    #[test]
    fn moved_rows_and_their_gradients_return() {
        let numbers = |values: &[i64]| Tensor::from_slice(values);
        // Rows 2 and 0 move into the second and the fourth of five; row 1 stays behind.
        let there = Rows { from: numbers(&[0, 2, 0, 0, 0]), hollow: numbers(&[0, 2, 4]) };
        let back = Rows { from: numbers(&[3, 0, 1]), hollow: numbers(&[1]) };
        let x = Tensor::from_slice(&[1.0_f32, 2.0, 3.0]).view([3, 1]).set_requires_grad(true);
        let y = moved(&x, &there, &back);
        assert_eq!(Vec::<f32>::try_from(y.view([-1])).unwrap(), [0.0, 3.0, 0.0, 1.0, 0.0]);
        (y * Tensor::from_slice(&[1.0_f32, 10.0, 100.0, 1000.0, 10000.0]).view([5, 1])).sum(Kind::Float).backward();
        assert_eq!(Vec::<f32>::try_from(x.grad().view([-1])).unwrap(), [1000.0, 0.0, 10.0]);
    }

    #[test]
    fn dropout_depends_on_its_key_and_on_places() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let x = Tensor::ones([301, 333], (kind, Device::Cpu)).set_requires_grad(true);
            let dropped = dropout(&x, 0.25, 7);
            dropped.sum(Kind::Float).backward();
            assert_eq!(x.grad(), dropped, "the gradient is dropped alike");
            let stays = dropped.ne(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
            assert!((stays - 0.75).abs() < 0.006, "{stays}: four deviations are 0.0055");
            let scale = dropped.max().double_value(&[]);
            assert!((scale - 4.0 / 3.0).abs() < 0.004, "{scale}");
            assert_eq!(dropout(&x, 0.25, 7), dropped);
            assert_ne!(dropout(&x, 0.25, 8), dropped);
            let threads = tch::get_num_threads();
            tch::set_num_threads(1);
            assert_eq!(dropout(&x, 0.25, 7), dropped);
            tch::set_num_threads(threads);
            // Places count, not memory.
            let turned = dropout(&x.tr().contiguous().tr(), 0.25, 7);
            assert_eq!(turned, dropped);
        }
    }

    /// Neighbours and neighbouring keys agree as often as chance has it.
    #[test]
    fn dropout_has_no_pattern() {
        let mask = |key| dropout(&Tensor::ones([100_000], (Kind::Float, Device::Cpu)), 0.5, key).gt(0.0);
        let agree = |a: &Tensor, b: &Tensor| a.eq_tensor(b).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        let first = mask(1);
        let shifted = |by: i64| agree(&first.narrow(0, 0, 100_000 - by), &first.narrow(0, by, 100_000 - by));
        let chances = [shifted(1), shifted(2), shifted(64), agree(&first, &mask(2)), agree(&first, &mask(1 << 32))];
        assert!(chances.iter().all(|chance| (chance - 0.5).abs() < 0.0064), "{chances:?}: four deviations are 0.0063");
    }

    #[test]
    fn an_error_of_libtorch_is_an_error_here() {
        let mut wrong = adam([1.0; 4]);
        wrong.gradient = Tensor::zeros([3], (Kind::Double, Device::Cpu));
        let numbers = AdamNumbers { update: 1, learning_rate: 0.1, betas: [0.9, 0.9], weight_decay: 0.0, eps: 1e-8 };
        assert!(fused_adamw(&[wrong], &numbers).unwrap_err().to_string().contains("updating the weights"));
    }
}
