//! What the whole-system tests share: the built programs, ranks under mpirun, a web server, and tests that
//! say aloud that they were skipped.

pub mod blip2;
pub mod programs;
pub mod ranks;
pub mod runs;
pub mod skip;
pub mod web;
