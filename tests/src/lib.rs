//! What the whole-system tests share: the built programs, ranks under mpirun, and tests that say aloud
//! that they were skipped.

pub mod blip2;
pub mod programs;
pub mod ranks;
pub mod skip;
pub mod small_run;
