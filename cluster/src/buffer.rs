//! Typed raw memory for collectives.

/// A buffer of numbers that a collective changes in place.
#[derive(Debug)]
pub enum BufferMut<'a> {
    /// Single precision.
    F32(&'a mut [f32]),
    /// Double precision.
    F64(&'a mut [f64]),
    /// Counts.
    U64(&'a mut [u64]),
}
