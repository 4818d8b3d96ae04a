//! Runs a loop compiled for the widest vectors the processor has. The only other file with unsafe code is `jpeg.rs`.

/// A loop that the compiler vectorises by itself; `run` must be `#[inline(always)]` to be compiled for each target.
pub(super) trait Kernel {
    /// Does the work. The result must not depend on the vector width.
    fn run(self);
}

/// Runs `kernel`, with AVX2 where the processor has it.
pub(super) fn dispatch(kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, checked in the line above.
        unsafe { run_avx2(kernel) };
        return;
    }
    kernel.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2(kernel: impl Kernel) {
    kernel.run();
}
