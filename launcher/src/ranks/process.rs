//! Processes of this host as /proc shows them, and signals to them.

use std::io;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// How often the end of a command is looked for.
const TICK: Duration = Duration::from_millis(20);

/// What a command printed, without standard input; `None` when it had not ended in time and was ended.
///
/// # Errors
/// When it cannot be started, or its output cannot be read.
pub fn output_within(command: &mut Command, limit: Duration) -> io::Result<Option<Output>> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (pid, began) = (child.id(), Instant::now());
    let waiting = std::thread::spawn(move || child.wait_with_output());
    while !waiting.is_finished() && began.elapsed() < limit {
        std::thread::sleep(TICK);
    }
    if !waiting.is_finished() {
        signal(pid, Signal::KILL);
        return Ok(None);
    }
    waiting.join().unwrap_or_else(|_| Err(io::Error::other("the thread that waits for it ended"))).map(Some)
}

/// What /proc says about a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// The first 15 bytes of its program's name.
    pub name: String,
    /// Its parent.
    pub parent: u32,
    /// When it started, in clock ticks since the machine did: together with the id this names one process for good.
    pub start_ticks: u64,
    /// Whether it has ended and only waits for its parent to notice.
    pub ended: bool,
}

/// The process of this id, if there is one.
pub fn stat(pid: u32) -> Option<ProcessStat> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(text: &str) -> Option<ProcessStat> {
    // The name stands in parentheses and may hold spaces and parentheses itself.
    let (before, after) = text.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = after.split_whitespace().collect();
    Some(ProcessStat {
        name,
        parent: fields.get(1)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
        ended: matches!(*fields.first()?, "Z" | "X"),
    })
}

/// The name of this host.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether the process that had this id at this start time still runs.
pub fn runs(pid: u32, start_ticks: u64) -> bool {
    stat(pid).is_some_and(|found| found.start_ticks == start_ticks && !found.ended)
}

/// This process and everything below it: the largest resident size that each has had so far, summed, in bytes. Pages
/// that processes share are counted in each.
pub fn peak_resident_of_family() -> u64 {
    let own = std::process::id();
    let everyone: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.parent)))
        .collect();
    let mut family = vec![own];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(everyone.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    family.into_iter().filter_map(peak_resident).sum()
}

fn peak_resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

/// Sends a signal to one process. One that is gone needs none.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _gone = rustix::process::kill_process(pid, signal);
    }
}

/// Sends a signal to the process group that this process leads. One that is gone needs none.
pub fn signal_group(leader: u32, signal: Signal) {
    if let Some(leader) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        let _gone = rustix::process::kill_process_group(leader, signal);
    }
}

/// Ends processes, each named by id and start time: asks, waits for at most `grace`, then ends them by force.
pub fn end(processes: &[(u32, u64)], grace: Duration) {
    let alive = || processes.iter().filter(|(pid, ticks)| runs(*pid, *ticks));
    alive().for_each(|(pid, _)| signal(*pid, Signal::TERM));
    let until = Instant::now() + grace;
    while alive().count() > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    alive().for_each(|(pid, _)| signal(*pid, Signal::KILL));
    let until = Instant::now() + Duration::from_secs(5);
    while alive().count() > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_read() {
        let text = "42 (a) b (c)) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1000 10";
        let found = parse(text).unwrap();
        assert_eq!((found.name.as_str(), found.parent, found.start_ticks, found.ended), ("a) b (c)", 7, 12345, false));
    }

    #[test]
    fn this_process_runs_and_uses_memory() {
        let own = std::process::id();
        let ticks = stat(own).unwrap().start_ticks;
        assert!(runs(own, ticks) && !runs(own, ticks + 1));
        assert!(peak_resident_of_family() > 1 << 20);
    }
}
