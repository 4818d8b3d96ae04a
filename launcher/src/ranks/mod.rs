//! Rank processes: which programs start them, what they report, and how they end.

pub mod event;
mod hold;
mod interrupts;
mod mpirun;
mod plan;
mod process;
mod programs;
mod supervise;
mod view;

pub use hold::{Held, Hold};
pub use interrupts::Interrupts;
pub use plan::{Plan, quoted};
pub use programs::Programs;
pub use supervise::{Job, Outcome, RankFailure};
