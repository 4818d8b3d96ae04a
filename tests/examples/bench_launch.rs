//! How long a launch takes to its first step, a crash to the first step after it, and what being watched costs.
//!
//! `cargo run --release -p integration-tests --example bench_launch [ROUNDS]`: the preset tiny on two ranks, towers and shards there
//! and in the page cache. Prints medians with all values.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people at a terminal")]

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use cluster::{Calls, Collective, Observed, Single};
use serde_json::Value;

/// The launch of a run into `output`, with its shards and towers below `shared`.
fn launch(output: &Path, shared: &Path) -> Command {
    let beside = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("blip2");
    let mut command = Command::new(beside);
    command.args(["launch", "tiny", "--log", "json"]);
    for set in [
        "data.sources[0].scenes=2000".to_owned(),
        "data.sources[0].test_scenes=0".to_owned(),
        "model.image_encoder.pretrain.steps=4".to_owned(),
        "model.language_model.pretrain.steps=4".to_owned(),
        "metrics.every_steps=1".to_owned(),
        "checkpoint.every_steps=5".to_owned(),
        "stages.representation.itm_start_step=0".to_owned(),
        format!("run.output={}", output.display()),
        format!("data.sources[0].uri={}", shared.join("shards").display()),
        format!("model.image_encoder.weights.uri={}", shared.join("image_encoder.safetensors").display()),
        format!("model.language_model.weights.uri={}", shared.join("language_model.safetensors").display()),
    ] {
        command.args(["--set", &set]);
    }
    command
}

/// A launch and what it prints.
struct Launch {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Launch {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next event of this kind, of the first stage.
    fn next(&mut self, kind: &str) -> Value {
        loop {
            let line = self.lines.next().expect("the launch ended before its time").unwrap();
            let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
            let event = &line["event"];
            let of_stage = event["name"] == "representation" || event["stage"] == "representation";
            if event["event"] == kind && of_stage {
                return event.clone();
            }
        }
    }

    fn end(mut self) {
        Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        self.lines.by_ref().for_each(drop);
        self.child.wait().unwrap();
    }
}

fn rank(output: &Path, rank: usize) -> u32 {
    let note: Value =
        serde_json::from_slice(&fs::read(output.join(format!("launch/rank-{rank}.pid"))).unwrap()).unwrap();
    note["pid"].as_u64().unwrap() as u32
}

/// Seconds on a processor of the threads of a process that have one of these names; of all without any.
fn on_cpu(pid: u32, names: &[&str]) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let wanted = tasks.filter(|task| {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        names.is_empty() || names.contains(&name.trim())
    });
    let nanos = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0)
    };
    wanted.map(nanos).sum::<f64>() / 1e9
}

fn report(what: &str, mut values: Vec<f64>, unit: &str) {
    values.sort_by(f64::total_cmp);
    let all: Vec<String> = values.iter().map(|value| format!("{value:.3}")).collect();
    println!("{what}: median {:.3} {unit} of {}", values[values.len() / 2], all.join(" "));
}

/// What it takes to note one call, in microseconds.
fn noting() -> f64 {
    const CALLS: u32 = 1_000_000;
    let calls = Calls::default();
    let observed = Observed::new(&Single, &calls);
    let since = Instant::now();
    for _ in 0..CALLS {
        observed.barrier().unwrap();
    }
    since.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS)
}

fn main() {
    let rounds: usize = std::env::args().nth(1).map_or(5, |rounds| rounds.parse().expect("a number of rounds"));
    let shared: PathBuf = std::env::temp_dir().join(format!("blip2-bench-launch-{}", std::process::id()));
    fs::create_dir_all(&shared).unwrap();
    let mut first = Launch::start(launch(&shared.join("first"), &shared));
    first.next("progress");
    first.end();
    let (mut to_first, mut to_next, mut steps) = (Vec::new(), Vec::new(), Vec::new());
    let (mut of_rank, mut of_launcher) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let output = shared.join(format!("run-{round}"));
        let since = Instant::now();
        let mut run = Launch::start(launch(&output, &shared));
        run.next("progress");
        to_first.push(since.elapsed().as_secs_f64());
        run.next("checkpoint");
        let watched = ["beats", "orders", "signals"];
        let before = (Instant::now(), on_cpu(rank(&output, 0), &watched), on_cpu(run.child.id(), &[]));
        let made: Vec<Instant> = (0..20).map(|_| (run.next("progress"), Instant::now()).1).collect();
        let seconds = before.0.elapsed().as_secs_f64();
        steps.extend(made.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()));
        of_rank.push(100.0 * (on_cpu(rank(&output, 0), &watched) - before.1) / seconds);
        of_launcher.push(100.0 * (on_cpu(run.child.id(), &[]) - before.2) / seconds);
        let killed = Instant::now();
        Command::new("kill").args(["-9", &rank(&output, 1).to_string()]).status().unwrap();
        run.next("phase");
        run.next("progress");
        to_next.push(killed.elapsed().as_secs_f64());
        run.end();
        std::thread::sleep(Duration::from_millis(200));
    }
    report("launch to first step", to_first, "s");
    report("crash to first new step", to_next, "s");
    report("one step", steps, "s");
    report("processor time of a rank's threads for being watched, of the time that passed", of_rank, "%");
    report("processor time of the launcher, which shows every step here, too", of_launcher, "%");
    println!("noting one call between ranks takes {:.3} us", noting());
    fs::remove_dir_all(shared).unwrap();
}
