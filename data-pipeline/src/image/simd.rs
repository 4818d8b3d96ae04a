//! Loops compiled for the widest vectors the processor has. The only other file with unsafe code is `jpeg.rs`.

#[cfg(test)]
thread_local! {
    /// Lanes of the widest vectors that may be used, so that tests see every one.
    pub(super) static WIDEST: std::cell::Cell<usize> = const { std::cell::Cell::new(4) };
}

#[cfg(all(test, target_arch = "x86_64"))]
fn widest() -> usize {
    WIDEST.get()
}

#[cfg(all(not(test), target_arch = "x86_64"))]
#[inline(always)]
fn widest() -> usize {
    4
}

/// A loop that the compiler vectorises by itself; `run` must be `#[inline(always)]` to be compiled for each target.
pub(super) trait Kernel {
    /// Does the work. The result must not depend on the vector width.
    ///
    /// `fused`: whether `mul_add` is an instruction here; elsewhere it is a slow function.
    fn run(self, fused: bool);
}

/// Runs `kernel`, with AVX-512 or AVX2 where the processor has it.
pub(super) fn dispatch(kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected;
        if widest() >= 4 && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has both, checked just above.
            return unsafe { run_avx512(kernel) };
        }
        if widest() >= 2 && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has both, checked just above.
            return unsafe { run_avx2(kernel) };
        }
    }
    kernel.run(false);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512bw,fma")]
fn run_avx512(kernel: impl Kernel) {
    kernel.run(true);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(kernel: impl Kernel) {
    kernel.run(true);
}

/// A loop written with [`Vector`] operations, and the same without; `run` must be `#[inline(always)]`.
pub(super) trait VectorKernel {
    /// Does the work with vectors.
    fn run<V: Vector>(self, vectors: V);
    /// Does the same work, on processors without.
    fn run_scalar(self);
}

/// Runs `kernel` with the widest vectors the processor has.
pub(super) fn dispatch_vector(kernel: impl VectorKernel) {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(vectors) = x86::Avx512::detect().filter(|_| widest() >= 4) {
            return vectors.run(kernel);
        }
        if let Some(vectors) = x86::Avx2::detect().filter(|_| widest() >= 2) {
            return vectors.run(kernel);
        }
    }
    kernel.run_scalar();
}

/// 16 bytes, a lane: shuffles move bytes inside their lane only.
pub(super) type Lane = [u8; 16];

/// Operations on vectors of several [`Lane`]s. A value of the type shows that the processor has them.
pub(super) trait Vector: Copy {
    /// The vector.
    type Bytes: Copy;
    /// Lanes of a vector.
    const LANES: usize;

    /// The first bytes of a slice. Panics when it is shorter than a vector.
    fn load(self, bytes: &[u8]) -> Self::Bytes;
    /// Writes the first bytes of a slice. Panics when it is shorter than a vector.
    fn store(self, vector: Self::Bytes, bytes: &mut [u8]);
    /// A vector of as many lanes as it has.
    fn join(self, lanes: &[Lane; 4]) -> Self::Bytes;
    /// A lane in every lane.
    fn repeat(self, lane: Lane) -> Self::Bytes;
    /// A 32-bit number everywhere.
    fn splat(self, value: i32) -> Self::Bytes;
    /// In every lane, byte `i` of the result is byte `pattern[i]`, or 0 where that is 0x80.
    fn shuffle(self, vector: Self::Bytes, pattern: Self::Bytes) -> Self::Bytes;
    /// Bytes of `a` and `b` in turn, from the first (`low`) or second half of each lane.
    fn interleave(self, a: Self::Bytes, b: Self::Bytes) -> [Self::Bytes; 2];
    /// 32-bit sums of the products of pairs of 16-bit numbers.
    fn multiply_pairs(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// 32-bit sums, wrapping.
    fn add(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// 32-bit numbers times 2^15.
    fn shift_up(self, vector: Self::Bytes) -> Self::Bytes;
    /// 32-bit numbers by 2^`bits`, rounded down.
    fn shift_down(self, vector: Self::Bytes, bits: u32) -> Self::Bytes;
    /// The 32-bit numbers of four vectors, clipped to 0..=255, lane by lane.
    fn to_levels(self, vectors: [Self::Bytes; 4]) -> Self::Bytes;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Lane, Vector, VectorKernel};

    /// Implements [`Vector`] for a type that exists only where `$feature` was detected.
    macro_rules! vector {
        ($name:ident, $doc:literal, $feature:tt, $type:ty, $lanes:literal, $load:ident, $store:ident, $join:ident,
         $splat:ident, $shuffle:ident, $low:ident, $high:ident, $madd:ident, $add:ident, $up:ident, $down:ident,
         $pack32:ident, $pack16:ident) => {
            #[doc = $doc]
            #[derive(Clone, Copy)]
            pub(super) struct $name(());

            impl $name {
                pub(super) fn detect() -> Option<Self> {
                    std::arch::is_x86_feature_detected!($feature).then_some(Self(()))
                }

                pub(super) fn run(self, kernel: impl VectorKernel) {
                    #[target_feature(enable = $feature)]
                    fn run<V: Vector>(kernel: impl VectorKernel, vectors: V) {
                        kernel.run(vectors);
                    }
                    // SAFETY: a value of this type exists only where the feature was detected.
                    unsafe { run(kernel, self) }
                }
            }

            impl Vector for $name {
                type Bytes = $type;
                const LANES: usize = $lanes;

                #[inline(always)]
                fn load(self, bytes: &[u8]) -> $type {
                    let bytes = &bytes[..$lanes * 16];
                    // SAFETY: the feature was detected; the slice has as many bytes as are read, at any alignment.
                    unsafe { $load(bytes.as_ptr().cast()) }
                }

                #[inline(always)]
                fn store(self, vector: $type, bytes: &mut [u8]) {
                    let bytes = &mut bytes[..$lanes * 16];
                    // SAFETY: the feature was detected; the slice has as many bytes as are written, at any alignment.
                    unsafe { $store(bytes.as_mut_ptr().cast(), vector) }
                }

                #[inline(always)]
                fn join(self, lanes: &[Lane; 4]) -> $type {
                    // SAFETY: the feature was detected.
                    unsafe { $join(lanes) }
                }

                #[inline(always)]
                fn repeat(self, lane: Lane) -> $type {
                    self.join(&[lane; 4])
                }

                #[inline(always)]
                fn splat(self, value: i32) -> $type {
                    // SAFETY: the feature was detected.
                    unsafe { $splat(value) }
                }

                #[inline(always)]
                fn shuffle(self, vector: $type, pattern: $type) -> $type {
                    // SAFETY: the feature was detected.
                    unsafe { $shuffle(vector, pattern) }
                }

                #[inline(always)]
                fn interleave(self, a: $type, b: $type) -> [$type; 2] {
                    // SAFETY: the feature was detected.
                    let low = unsafe { $low(a, b) };
                    // SAFETY: the feature was detected.
                    let high = unsafe { $high(a, b) };
                    [low, high]
                }

                #[inline(always)]
                fn multiply_pairs(self, a: $type, b: $type) -> $type {
                    // SAFETY: the feature was detected.
                    unsafe { $madd(a, b) }
                }

                #[inline(always)]
                fn add(self, a: $type, b: $type) -> $type {
                    // SAFETY: the feature was detected.
                    unsafe { $add(a, b) }
                }

                #[inline(always)]
                fn shift_up(self, vector: $type) -> $type {
                    // SAFETY: the feature was detected.
                    unsafe { $up::<15>(vector) }
                }

                #[inline(always)]
                fn shift_down(self, vector: $type, bits: u32) -> $type {
                    // SAFETY: SSE2 is part of x86-64.
                    let count = unsafe { _mm_cvtsi32_si128(bits as i32) };
                    // SAFETY: the feature was detected.
                    unsafe { $down(vector, count) }
                }

                #[inline(always)]
                fn to_levels(self, [a, b, c, d]: [$type; 4]) -> $type {
                    // SAFETY: the feature was detected.
                    let first = unsafe { $pack32(a, b) };
                    // SAFETY: the feature was detected.
                    let second = unsafe { $pack32(c, d) };
                    // SAFETY: the feature was detected.
                    unsafe { $pack16(first, second) }
                }
            }
        };
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn join256(lanes: &[Lane; 4]) -> __m256i {
        _mm256_set_m128i(load_lane(&lanes[1]), load_lane(&lanes[0]))
    }

    #[inline]
    #[target_feature(enable = "avx512bw")]
    fn join512(lanes: &[Lane; 4]) -> __m512i {
        let first = _mm512_castsi128_si512(load_lane(&lanes[0]));
        let second = _mm512_inserti32x4::<1>(first, load_lane(&lanes[1]));
        let third = _mm512_inserti32x4::<2>(second, load_lane(&lanes[2]));
        _mm512_inserti32x4::<3>(third, load_lane(&lanes[3]))
    }

    #[inline(always)]
    fn load_lane(lane: &Lane) -> __m128i {
        // SAFETY: the array has as many bytes as are read, at any alignment; SSE2 is part of x86-64.
        unsafe { _mm_loadu_si128(lane.as_ptr().cast()) }
    }

    vector!(
        Avx512,
        "Vectors of 64 bytes.",
        "avx512bw",
        __m512i,
        4,
        _mm512_loadu_epi8,
        _mm512_storeu_epi8,
        join512,
        _mm512_set1_epi32,
        _mm512_shuffle_epi8,
        _mm512_unpacklo_epi8,
        _mm512_unpackhi_epi8,
        _mm512_madd_epi16,
        _mm512_add_epi32,
        _mm512_slli_epi32,
        _mm512_sra_epi32,
        _mm512_packs_epi32,
        _mm512_packus_epi16
    );
    vector!(
        Avx2,
        "Vectors of 32 bytes.",
        "avx2",
        __m256i,
        2,
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        join256,
        _mm256_set1_epi32,
        _mm256_shuffle_epi8,
        _mm256_unpacklo_epi8,
        _mm256_unpackhi_epi8,
        _mm256_madd_epi16,
        _mm256_add_epi32,
        _mm256_slli_epi32,
        _mm256_sra_epi32,
        _mm256_packs_epi32,
        _mm256_packus_epi16
    );
}
