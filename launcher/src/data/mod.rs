//! `blip2 data …` and `blip2 bench data`.

pub mod bench;
pub mod capfilt;
pub mod fetch;
pub mod index;
pub mod inspect;
mod page;
pub mod synth;

use std::future::Future;

use anyhow::Context;

use crate::exit::Interrupted;

/// Runs asynchronous work until it is done or a person ends it.
///
/// # Errors
/// What the work says, or [`Interrupted`] with `kept`, which tells what an interruption leaves behind.
pub fn block_on<T>(work: impl Future<Output = data_pipeline::Result<T>>, kept: &'static str) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the input/output threads")?;
    let result = runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            result = work => result.map_err(anyhow::Error::from),
            _ = tokio::signal::ctrl_c() => Err(Interrupted(kept).into()),
            _ = terminate.recv() => Err(Interrupted(kept).into()),
        }
    });
    runtime.shutdown_background();
    result
}

/// Prints one JSON object on standard output.
///
/// # Errors
/// When standard output is closed.
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}
