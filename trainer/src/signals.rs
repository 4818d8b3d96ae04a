//! Signals that ask a rank to write a checkpoint and leave.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use trainer::activity::Activity;

use crate::control::Control;

/// The exit code of a rank that left in order, to be started again.
pub const PREEMPTED: u8 = 75;

/// When and how a rank leaves.
#[derive(Clone, Debug)]
pub struct Leaving {
    /// Names of signals, such as `USR1`.
    pub signals: Vec<String>,
    /// Time from a signal to the end, whether or not a checkpoint could be written.
    pub within: Duration,
}

/// Waits for the signals in a thread of its own; they do not end this process any more. To be called before MPI starts.
///
/// # Errors
/// An unknown name, or a system that gives no thread.
pub fn watch(leaving: Leaving, activity: Arc<Activity>, control: Arc<Control>, is_alone: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let mut streams = Vec::new();
    for name in &leaving.signals {
        let kind = match name.as_str() {
            "USR1" => SignalKind::user_defined1(),
            "USR2" => SignalKind::user_defined2(),
            "TERM" => SignalKind::terminate(),
            other => anyhow::bail!("found the signal {other} to leave at; expected USR1, USR2 or TERM"),
        };
        streams.push(signal(kind).with_context(|| format!("cannot wait for the signal {name}"))?);
    }
    drop(guard);
    let wait = move || {
        runtime.block_on(async {
            let waits = streams.iter_mut().map(|stream| Box::pin(stream.recv()));
            futures::future::select_all(waits).await;
        });
        activity.ask_to_leave();
        if is_alone && !activity.at().phase.can_save() {
            control.bye(PREEMPTED);
            control.end_job(PREEMPTED);
        }
        thread::sleep(leaving.within);
        control.bye(PREEMPTED);
        control.end_job(PREEMPTED);
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(wait)
        .context("cannot start the thread that waits for signals")?;
    Ok(())
}
