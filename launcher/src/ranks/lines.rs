//! Everything that reaches a launcher from its ranks, in one queue.

use std::io::{BufRead, BufReader, Read};
use std::process::Child;
use std::sync::mpsc::Sender;

use anyhow::Context;

use super::control::Told;

/// One thing that arrived.
#[derive(Debug)]
pub enum Line {
    /// A line on the child's standard output.
    Output(String),
    /// A line on its standard error.
    Error(String),
    /// A report of a rank.
    Told(Told),
    /// One of the two streams has ended.
    StreamEnd,
}

/// Reads both streams of the child, each in a thread of its own.
///
/// # Errors
/// When the system gives no thread.
pub fn read(child: &mut Child, sender: Sender<Line>) -> anyhow::Result<()> {
    let output = child.stdout.take().context("invariant: standard output is a pipe")?;
    let error = child.stderr.take().context("invariant: standard error is a pipe")?;
    spawn_reader(output, sender.clone(), Line::Output)?;
    spawn_reader(error, sender, Line::Error)
}

fn spawn_reader(
    stream: impl Read + Send + 'static,
    sender: Sender<Line>,
    wrap: fn(String) -> Line,
) -> anyhow::Result<()> {
    let read = move || {
        let mut stream = BufReader::new(stream);
        let mut bytes = Vec::new();
        while stream.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
            if sender.send(wrap(text)).is_err() {
                return;
            }
            bytes.clear();
        }
        let _nobody_listens = sender.send(Line::StreamEnd);
    };
    std::thread::Builder::new().name("rank lines".into()).spawn(read).context("cannot start a thread")?;
    Ok(())
}
