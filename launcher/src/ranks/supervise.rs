//! From a plan to its end: start the ranks, show what they report, end them with their launcher, say why they failed.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::Signal;
use serde_json::Value;

use super::event::Event;
use super::hold::Hold;
use super::interrupts::Interrupts;
use super::mpirun::Scratch;
use super::plan::Plan;
use super::process;
use super::view::View;
use crate::exit::Interrupted;

/// How often signals and the end of the child are looked for.
const TICK: Duration = Duration::from_millis(100);
/// Lines of standard error that are kept for the message of a failure.
const KEPT_LINES: usize = 50;
/// Time that ranks get to end by themselves after Ctrl-C.
const GRACE: Duration = Duration::from_secs(10);
/// Time for the last lines to arrive after the child ended: a process that it left behind may hold the pipes open.
const LAST_LINES: Duration = Duration::from_secs(2);

/// One start of ranks.
pub struct Job<'a> {
    /// What is started.
    pub plan: &'a Plan,
    /// Ctrl-C and SIGTERM.
    pub interrupts: &'a Interrupts,
    /// The run that is held, if it is in a local folder.
    pub hold: Option<&'a Hold>,
    /// What a person does after a failure, and what an interruption leaves behind.
    pub next: &'static str,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The answer of a command that has one.
    pub result: Option<Value>,
    /// The largest resident size that each process of this command had, summed, in bytes.
    pub peak_bytes: u64,
}

/// Ranks that ended other than well.
#[derive(Debug, thiserror::Error)]
#[error("{command}\nended with {}{}\n{next}", described(*status), last_lines(tail))]
pub struct RankFailure {
    command: String,
    status: ExitStatus,
    tail: Vec<String>,
    next: &'static str,
}

impl RankFailure {
    /// The exit code of the ranks; `None` when a signal ended them.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

fn described(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(9)) => "signal 9 (killed; the system does so when memory runs out)".to_owned(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

fn last_lines(tail: &[String]) -> String {
    if tail.is_empty() {
        return "; it wrote nothing to standard error".to_owned();
    }
    format!("; its last lines on standard error:\n  {}", tail.join("\n  "))
}

/// A line of the child.
enum Line {
    Output(String),
    Error(String),
}

impl Job<'_> {
    /// Runs the plan to its end.
    ///
    /// # Errors
    /// A program that cannot be started, [`RankFailure`], or [`Interrupted`].
    pub fn run(&self) -> anyhow::Result<Outcome> {
        if self.interrupts.count() > 0 {
            return Err(Interrupted(self.next).into());
        }
        let scratch =
            if self.plan.ranks > 1 { Some(Scratch::make().context("cannot make a temporary folder")?) } else { None };
        let mut child = self.start(scratch.as_ref())?;
        // Ranks watch their standard input: it ends with this process, however this process ends.
        let open_input = child.stdin.take();
        let lines = read_lines(&mut child)?;
        let mut watch = Watch { view: View::new(), outcome: Outcome::default(), tail: VecDeque::new() };
        let ended = self.follow(&mut child, &lines, &mut watch);
        watch.view.finish();
        drop(open_input);
        if !matches!(ended, Ok(Some(status)) if status.success()) {
            // Ranks outlive an mpirun that was killed.
            if let Some(hold) = self.hold {
                hold.end_ranks(&self.plan.rank_program)?;
            }
        }
        match ended? {
            None => Err(Interrupted(self.next).into()),
            Some(status) if status.success() => Ok(watch.outcome),
            Some(status) => {
                let (command, tail) = (self.plan.to_string(), watch.tail.into());
                Err(RankFailure { command, status, tail, next: self.next }.into())
            }
        }
    }

    fn start(&self, scratch: Option<&Scratch>) -> anyhow::Result<Child> {
        let mut command = self.plan.command();
        if let Some(scratch) = scratch {
            command.env("TMPDIR", scratch.path());
        }
        // A group of its own: Ctrl-C reaches the launcher alone, which then ends the ranks in order.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let end_with_launcher = || {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes one system call and touches no memory of the parent.
        unsafe { command.pre_exec(end_with_launcher) };
        command.spawn().with_context(|| format!("cannot start {}", self.plan.program.display()))
    }

    /// Shows what arrives until the child has ended; `None` when a person ended it.
    fn follow(
        &self,
        child: &mut Child,
        lines: &Receiver<Line>,
        watch: &mut Watch,
    ) -> anyhow::Result<Option<ExitStatus>> {
        let mut next_sample = Instant::now();
        loop {
            let closed = match lines.recv_timeout(TICK) {
                Ok(line) => {
                    watch.take(line);
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(TICK);
                    true
                }
            };
            if Instant::now() >= next_sample {
                watch.outcome.peak_bytes = watch.outcome.peak_bytes.max(process::peak_resident_of_family());
                next_sample = Instant::now() + Duration::from_secs(1);
            }
            if self.interrupts.count() > 0 {
                watch.view.finish();
                watch.view.line("ending the ranks …");
                self.end(child, lines, watch)?;
                return Ok(None);
            }
            if let Some(status) = child.try_wait()? {
                let until = Instant::now() + if closed { Duration::ZERO } else { LAST_LINES };
                while let Ok(line) = lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    watch.take(line);
                }
                return Ok(Some(status));
            }
        }
    }

    /// Asks the child to end and ends it by force after a while, or at once at a second Ctrl-C.
    fn end(&self, child: &mut Child, lines: &Receiver<Line>, watch: &mut Watch) -> anyhow::Result<()> {
        process::signal(child.id(), Signal::TERM);
        let until = Instant::now() + GRACE;
        while child.try_wait()?.is_none() {
            if Instant::now() > until || self.interrupts.count() > 1 {
                process::signal_group(child.id(), Signal::KILL);
                child.wait()?;
                break;
            }
            if let Ok(line) = lines.recv_timeout(TICK) {
                watch.take(line);
            }
        }
        while let Ok(line) = lines.recv_timeout(TICK) {
            watch.take(line);
        }
        Ok(())
    }
}

/// What was seen so far.
struct Watch {
    view: View,
    outcome: Outcome,
    tail: VecDeque<String>,
}

impl Watch {
    fn take(&mut self, line: Line) {
        match line {
            Line::Output(text) => match Event::read(&text) {
                Some(Event::Result { result }) => {
                    self.view.finish();
                    self.outcome.result = Some(result);
                }
                Some(event) => self.view.show(&event),
                None => self.view.line(&text),
            },
            Line::Error(text) => {
                self.view.line(&text);
                if self.tail.len() == KEPT_LINES {
                    self.tail.pop_front();
                }
                self.tail.push_back(text);
            }
        }
    }
}

/// Reads both streams of the child, each in a thread of its own; the channel closes when both have ended.
fn read_lines(child: &mut Child) -> anyhow::Result<Receiver<Line>> {
    let (sender, lines) = channel();
    let output = child.stdout.take().context("invariant: standard output is a pipe")?;
    let error = child.stderr.take().context("invariant: standard error is a pipe")?;
    spawn_reader(output, sender.clone(), Line::Output)?;
    spawn_reader(error, sender, Line::Error)?;
    Ok(lines)
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
    };
    std::thread::Builder::new().name("rank lines".into()).spawn(read).context("cannot start a thread")?;
    Ok(())
}
