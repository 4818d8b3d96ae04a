//! This process as the system shows it.

use std::fmt::Write as _;
use std::fs;

use rustix::process::{Signal, getpid, kill_process};

/// The name of this host.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Bytes of memory in use now.
pub fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// What every thread of this process is doing, one per line: name, state, and where it waits in the system.
pub fn threads() -> String {
    let mut text = String::new();
    for thread in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |name: &str| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let stat = read("stat");
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| &rest[..rest.len().min(1)]);
        let _never_fails = writeln!(
            text,
            "{} {} {state} waits in {}, call {}",
            thread.file_name().to_string_lossy(),
            read("comm").trim(),
            read("wchan").trim(),
            read("syscall").trim()
        );
    }
    text
}

/// Ends this process at once, whatever its threads are in.
pub fn kill_this() -> ! {
    let _unfailing = kill_process(getpid(), Signal::KILL);
    std::process::abort()
}
