//! Runs a target in a process of its own, with a limit on memory, so that even an abort is told with its case.

use std::alloc::System;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::{Duration, Instant};

use cap::Cap;

use crate::mutate::{Draws, mutate};

/// What a target may use.
#[derive(Clone, Copy)]
pub struct Memory {
    /// Bytes of the largest heap; an allocation beyond it ends the process.
    heap: usize,
    /// KiB that are really written to.
    resident: u64,
}

/// Seeds are below 100 KB and images below 1 megapixel: a reader that wants more believes what a header says.
pub const BOUNDED: Memory = Memory { heap: 256 << 20, resident: 512 << 10 };
/// The Parquet crate (60.1) believes the headers of pages: it reserves four bytes for each value that a dictionary page
/// promises (`ByteArrayDecoderPlain::read`; 8 GiB at most, not written to), and fills the size that a compressed page
/// promises with zeros (`SnappyCodec::decompress`; 4 GiB at most). It gives it all back when the page turns out wrong.
pub const PROMISED: Memory = Memory { heap: 12 << 30, resident: 5 << 20 };
/// A case that takes longer found a loop, also on a busy machine; most take less than a millisecond.
const SLOW: Duration = Duration::from_secs(10);
const DEFAULT_SECONDS: u64 = 5;

/// An allocation above the limit that a target sets fails, which ends the process.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is {value}; expected a number")))
}

/// Checks mutated seeds for `BLIP2_FUZZ_SECONDS`. `BLIP2_FUZZ_SEED` (default 1) chooses the mutations; with
/// `BLIP2_FUZZ_CASE` only that one is checked, and its bytes are left in a file.
pub fn fuzz(target: &str, seeds: &[Vec<u8>], memory: Memory, check: impl Fn(&[u8]) -> Result<(), String>) {
    let seed = number("BLIP2_FUZZ_SEED").unwrap_or(1);
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    if let Ok(progress) = std::env::var("BLIP2_FUZZ_CHILD") {
        HEAP.set_limit(memory.heap).unwrap();
        return child(target, seeds, memory, check, seed, &std::fs::File::create(progress).unwrap());
    }
    if let Some(case) = number("BLIP2_FUZZ_CASE") {
        let bytes = mutate(seeds, &mut Draws::new(seed, case));
        let file = folder.join(format!("{target}-{seed}-{case}"));
        std::fs::write(&file, &bytes).unwrap();
        eprintln!("case {case} lies in {}", file.display());
        return check(&bytes).unwrap();
    }
    // The process's number keeps two runs of the same tests apart.
    let progress = folder.join(format!("{target}-{}.case", std::process::id()));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", target, "--nocapture", "--test-threads=1"])
        .env("BLIP2_FUZZ_CHILD", &progress)
        .output()
        .unwrap();
    let last = std::fs::read(&progress).unwrap_or_default();
    std::fs::remove_file(&progress).unwrap();
    let case = last.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().collect();
    assert!(
        output.status.success(),
        "{} in case {case} of {target} (an abort is an allocation above {} MiB). Repeat it with\n  BLIP2_FUZZ_SEED={seed} \
         BLIP2_FUZZ_CASE={case} cargo test --release --workspace --test fuzz -- --exact {target} --nocapture\n{}",
        output.status,
        memory.heap >> 20,
        said[said.len().saturating_sub(30)..].join("\n")
    );
    eprintln!("{target}: {} cases from seed {seed}", case + 1);
}

fn child(
    target: &str,
    seeds: &[Vec<u8>],
    memory: Memory,
    check: impl Fn(&[u8]) -> Result<(), String>,
    seed: u64,
    progress: &std::fs::File,
) {
    // Panics that the library contains are part of its work; others are told below.
    std::panic::set_hook(Box::new(|_| ()));
    let limit = Duration::from_secs(number("BLIP2_FUZZ_SECONDS").unwrap_or(DEFAULT_SECONDS));
    let began = Instant::now();
    let mut failure = None;
    for case in 0.. {
        progress.write_all_at(&u64::to_le_bytes(case), 0).unwrap();
        let bytes = mutate(seeds, &mut Draws::new(seed, case));
        let started = Instant::now();
        let answer = catch_unwind(AssertUnwindSafe(|| check(&bytes)));
        failure = match answer {
            Ok(Ok(())) if started.elapsed() > SLOW => Some(format!("it took {:?}", started.elapsed())),
            // Writing to so much memory takes longer than this; asking after every case would take longer than the cases.
            Ok(Ok(())) if started.elapsed() > Duration::from_millis(5) && peak_kib() > memory.resident => {
                Some(format!("{} KiB of memory were used", peak_kib()))
            }
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(problem),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                Some(format!("panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without words")))
            }
        };
        if failure.is_some() || began.elapsed() > limit {
            break;
        }
    }
    let _hook = std::panic::take_hook();
    assert!(failure.is_none(), "{target}: {}", failure.unwrap());
}

/// The most memory that this process has used.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}
