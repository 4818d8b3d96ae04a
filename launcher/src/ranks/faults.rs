//! What is kept of a failure: `launch/faults/<n>/` with the line that names the culprit, the table of ranks, the culprit's
//! last reports and lines, and what the system shows of its threads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::beats::Beats;
use super::health::Verdict;
use super::process;

/// Time for a debugger to print the stacks of one process.
const DEBUGGER: Duration = Duration::from_secs(4);
/// What is kept of a process, and of each of its threads.
const OF_THREAD: [&str; 5] = ["comm", "status", "wchan", "stack", "syscall"];

/// Writes the record and returns its folder. What cannot be read is left out.
///
/// # Errors
/// When the folder cannot be written.
pub fn save(faults: &Path, verdict: &Verdict, beats: &Beats, host: &str) -> std::io::Result<PathBuf> {
    let number = (1..).find(|n| !faults.join(n.to_string()).exists()).unwrap_or(0);
    let folder = faults.join(number.to_string());
    fs::create_dir_all(&folder)?;
    fs::write(
        folder.join("fault.json"),
        format!(
            "{:#}\n",
            json!({ "schema_version": 1, "line": verdict.line,
        "ranks": verdict.culprits, "table": beats.table() })
        ),
    )?;
    let processes = beats.processes_on(host);
    for (rank, state) in beats.ranks.iter().enumerate() {
        let of_rank = |name: &str| folder.join(format!("rank-{rank}-{name}"));
        let lines: String =
            state.beats.iter().map(|(at, beat)| format!("{}\n", json!({ "at_s": at, "beat": beat }))).collect();
        fs::write(of_rank("beats.jsonl"), lines)?;
        if !verdict.culprits.contains(&rank) {
            continue;
        }
        let log: String = state.lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(of_rank("last-lines.log"), log)?;
        if let Some(threads) = &state.threads {
            fs::write(of_rank("threads.txt"), threads)?;
        }
        let Some((pid, start_ticks)) = processes.get(&rank).filter(|(pid, ticks)| process::runs(*pid, *ticks)) else {
            continue;
        };
        fs::write(of_rank("system.txt"), of_system(*pid))?;
        // One debugger is waited for, not as many as there are ranks.
        if verdict.culprits.first() == Some(&rank) {
            write_stacks(*pid, *start_ticks, &of_rank("stacks.txt"));
        }
    }
    Ok(folder)
}

/// What /proc shows of a process and its threads.
fn of_system(pid: u32) -> String {
    let mut text = String::new();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks.map(|entry| entry.path()) {
        for name in OF_THREAD {
            // The kernel's side of a stack is for root alone.
            if let Ok(read) = fs::read_to_string(task.join(name)) {
                text.push_str(&format!("== {} {name}\n{}\n", task.display(), read.trim_end()));
            }
        }
    }
    text
}

/// Writes the stacks of all threads as gdb prints them, where it is installed and may look at the process.
fn write_stacks(pid: u32, start_ticks: u64, path: &Path) -> Option<()> {
    let mut debugger = Command::new("gdb");
    debugger.args(["-p", &pid.to_string(), "-batch", "-nx", "-ex", "thread apply all bt 40"]);
    debugger.stdin(Stdio::null()).stdout(fs::File::create(path).ok()?).stderr(Stdio::null());
    let Ok(mut child) = debugger.spawn() else {
        return fs::remove_file(path).ok();
    };
    let until = Instant::now() + DEBUGGER;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > until || !process::runs(pid, start_ticks) {
            let _ended = child.kill();
            let _reaped = child.wait();
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(())
}
