//! What happens to which change.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::error::TrainerError;

/// What the error of a lost answer says.
pub(super) const LOST: &str = "planted: the answer was lost";
/// The variable that holds the plan.
const VARIABLE: &str = "BLIP2_TEST_STORE";
/// Longest delay of a part.
const LATE_MS: u64 = 50;
/// "No space left on device".
const ENOSPC: i32 = 28;

/// A plan and how far it is.
#[derive(Debug)]
pub(super) struct Plan {
    kind: Kind,
    changes: AtomicU64,
    began: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Cut(u64, Moment),
    Count(PathBuf),
    Lost(u64),
    Twice(u64),
    Shuffle(u64),
    Down(Duration, Duration),
    Full(Duration, Duration),
}

/// When a change is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Before,
    After,
    Half,
}

/// What happens to one change.
#[derive(Debug)]
pub(super) enum Fate {
    Done,
    KillBefore,
    KillHalf,
    KillAfter,
    Lost,
    Twice,
    Late(Duration),
    Fails(io::Error),
}

impl Plan {
    /// The plan of this process, read once.
    pub(super) fn of_process() -> Result<Option<Arc<Self>>, TrainerError> {
        static PLAN: OnceLock<Option<Arc<Plan>>> = OnceLock::new();
        if let Some(plan) = PLAN.get() {
            return Ok(plan.clone());
        }
        let plan = match std::env::var(VARIABLE) {
            Ok(text) => Some(Arc::new(Self::parse(&text)?)),
            Err(_) => None,
        };
        Ok(PLAN.get_or_init(|| plan).clone())
    }

    pub(super) fn parse(text: &str) -> Result<Self, TrainerError> {
        let kind = Self::kind(text).ok_or_else(|| TrainerError::Setting {
            found: format!("{VARIABLE} is {text}"),
            expected:
                "cut:N:before|after|half, count:FILE, lost:SEED, twice:SEED, shuffle:SEED, down:MS:MS or full:MS:MS"
                    .into(),
            advice: "It is for tests; remove it from the environment".into(),
        })?;
        Ok(Self { kind, changes: AtomicU64::new(0), began: Instant::now() })
    }

    fn kind(text: &str) -> Option<Kind> {
        let (kind, rest) = text.split_once(':')?;
        let times = || {
            let (from, to) = rest.split_once(':')?;
            Some((Duration::from_millis(from.parse().ok()?), Duration::from_millis(to.parse().ok()?)))
        };
        Some(match kind {
            "cut" => {
                let (number, moment) = rest.split_once(':')?;
                let moment = match moment {
                    "before" => Moment::Before,
                    "after" => Moment::After,
                    "half" => Moment::Half,
                    _ => return None,
                };
                Kind::Cut(number.parse().ok()?, moment)
            }
            "count" => Kind::Count(rest.into()),
            "lost" => Kind::Lost(rest.parse().ok()?),
            "twice" => Kind::Twice(rest.parse().ok()?),
            "shuffle" => Kind::Shuffle(rest.parse().ok()?),
            "down" => times().map(|(from, to)| Kind::Down(from, to))?,
            "full" => times().map(|(from, to)| Kind::Full(from, to))?,
            _ => return None,
        })
    }

    /// What happens to the next change.
    pub(super) fn next(&self, kind: &str, name: &str, is_part: bool) -> Fate {
        let number = self.changes.fetch_add(1, Ordering::SeqCst) + 1;
        let now = self.began.elapsed();
        match &self.kind {
            Kind::Cut(at, moment) if *at == number => match moment {
                Moment::Before => Fate::KillBefore,
                Moment::After => Fate::KillAfter,
                Moment::Half => Fate::KillHalf,
            },
            Kind::Count(file) => match note(file, kind, name) {
                Ok(()) => Fate::Done,
                Err(error) => Fate::Fails(error),
            },
            Kind::Lost(seed) if draw(*seed, number).is_multiple_of(3) => Fate::Lost,
            Kind::Twice(seed) if draw(*seed, number).is_multiple_of(3) => Fate::Twice,
            Kind::Shuffle(seed) if is_part => Fate::Late(Duration::from_millis(draw(*seed, number) % (LATE_MS + 1))),
            Kind::Down(from, to) if (*from..*to).contains(&now) => Fate::Fails(no_answer()),
            // What makes room works on a full disk.
            Kind::Full(from, to) if (*from..*to).contains(&now) && !makes_room(kind) => {
                Fate::Fails(io::Error::from_raw_os_error(ENOSPC))
            }
            _ => Fate::Done,
        }
    }

    /// Whether a call that changes nothing is answered.
    pub(super) fn look(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Down(from, to) if (*from..*to).contains(&self.began.elapsed()) => Err(no_answer()),
            _ => Ok(()),
        }
    }
}

fn makes_room(kind: &str) -> bool {
    matches!(kind, "delete" | "abort" | "remove_folder")
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, "planted: error sending request: connection refused")
}

/// One write per line, so that processes do not mix theirs.
fn note(file: &PathBuf, kind: &str, name: &str) -> io::Result<()> {
    let line = format!("{kind} {name}\n");
    std::fs::File::options().append(true).create(true).open(file)?.write_all(line.as_bytes())
}

/// A number that belongs to `seed` and `number`: the finaliser of SplitMix64.
fn draw(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Ends this process as the kernel ends one that is out of memory: nothing is cleaned up.
pub(super) fn kill() -> ! {
    let _cannot_fail = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}
