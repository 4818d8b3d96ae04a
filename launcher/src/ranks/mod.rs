//! Rank processes: which programs start them, what they report, and how they end.

mod beats;
mod control;
pub mod event;
mod failure;
mod faults;
mod guard;
mod health;
mod hold;
mod hosts;
mod interrupts;
mod lines;
mod mpirun;
mod plan;
mod process;
mod programs;
mod restarts;
mod said;
mod stragglers;
mod supervise;
mod view;
mod watch;

pub use failure::RankFailure;
pub use guard::Guard;
pub use hold::{Held, Hold};
pub use hosts::{HostPolicy, Use};
pub use interrupts::Interrupts;
pub use plan::{Plan, quoted};
pub use programs::Programs;
pub use restarts::{Next, Restarts};
pub use supervise::{Job, Outcome};
pub use view::Log;
