//! The table of ranks: what each last said, and how it ended.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::control::Told;
use super::health::{Limits, Seen, Verdict, examine, others};
use super::said::{Beat, Failed, Hello, Said};
use super::stragglers::Stragglers;

/// Reports of a rank that are kept for the record of a failure.
const KEPT_BEATS: usize = 30;
/// Lines of a rank that are kept for the message of a failure.
const KEPT_LINES: usize = 30;

/// One rank.
#[derive(Debug)]
pub struct RankState {
    /// Who it is, once it has said so.
    pub hello: Option<Hello>,
    /// What it said last.
    pub beat: Option<Beat>,
    /// Its last reports, each with the seconds since the launch.
    pub beats: VecDeque<(f64, Beat)>,
    /// Its last lines on standard error.
    pub lines: VecDeque<String>,
    /// What its threads did when they were asked for.
    pub threads: Option<String>,
    /// Why it fails.
    pub failed: Option<Failed>,
    /// The code with which it said it ends.
    pub bye: Option<u8>,
    is_connected: bool,
    heard: Instant,
}

/// All ranks of a launch.
#[derive(Debug)]
pub struct Beats {
    /// By number.
    pub ranks: Vec<RankState>,
    started: Instant,
    /// The rank that failed first, by its word or by its connection, and when.
    first_end: Option<(usize, Instant)>,
    stragglers: Stragglers,
}

impl Beats {
    /// Of a launch that begins now.
    pub fn new(ranks: usize) -> Self {
        let rank = |_| RankState {
            hello: None,
            beat: None,
            beats: VecDeque::new(),
            lines: VecDeque::new(),
            threads: None,
            failed: None,
            bye: None,
            is_connected: false,
            heard: Instant::now(),
        };
        Self {
            ranks: (0..ranks).map(rank).collect(),
            started: Instant::now(),
            first_end: None,
            stragglers: Stragglers::default(),
        }
    }

    /// Notes what came over a connection.
    pub fn take(&mut self, told: Told) {
        let (Told::Said(rank, _) | Told::Closed(rank)) = told;
        let Some(state) = self.ranks.get_mut(rank) else { return };
        state.heard = Instant::now();
        let mut ended = false;
        match told {
            Told::Closed(_) => {
                state.is_connected = false;
                ended = state.bye.is_none();
            }
            Told::Said(_, Said::Hello(hello)) => (state.hello, state.is_connected) = (Some(hello), true),
            Told::Said(_, Said::Beat(beat)) => {
                if state.beats.len() == KEPT_BEATS {
                    state.beats.pop_front();
                }
                state.beats.push_back((self.started.elapsed().as_secs_f64(), beat.clone()));
                state.beat = Some(beat);
            }
            Told::Said(_, Said::Lines { lines }) => {
                state.lines.extend(lines);
                let excess = state.lines.len().saturating_sub(KEPT_LINES);
                state.lines.drain(..excess);
            }
            Told::Said(_, Said::Failed(failed)) => {
                ended = true;
                // The first reason is the reason.
                state.failed.get_or_insert(failed);
            }
            Told::Said(_, Said::Bye { code }) => state.bye = Some(code),
            Told::Said(_, Said::Threads { text }) => state.threads = Some(text),
        }
        if ended {
            self.first_end.get_or_insert((rank, Instant::now()));
        }
    }

    /// The launcher was stopped itself, and has not read what ranks said meanwhile.
    pub fn forgive_silence(&mut self) {
        self.ranks.iter_mut().for_each(|state| state.heard = Instant::now());
    }

    /// Whether any rank is connected.
    pub fn any_connected(&self) -> bool {
        self.ranks.iter().any(|state| state.is_connected)
    }

    /// Whether a rank was asked to leave, and not because another one has failed.
    pub fn any_leaving(&self) -> bool {
        self.first_end.is_none() && self.ranks.iter().any(|state| state.beat.as_ref().is_some_and(|beat| beat.leaving))
    }

    /// Whether ranks said that they left as they were asked to, and none failed.
    pub fn left_in_order(&self) -> bool {
        self.first_end.is_none() && self.code() == Some(crate::exit::PREEMPTED)
    }

    /// Whether no rank has steps that a checkpoint would keep.
    pub fn nothing_to_save(&self) -> bool {
        self.ranks.iter().all(|state| state.beat.as_ref().is_none_or(|beat| !beat.can_save))
    }

    /// The exit code that ranks told: a failure's before that of an orderly end.
    pub fn code(&self) -> Option<u8> {
        let failed = self.first_end.and_then(|(rank, _)| Some(self.ranks[rank].failed.as_ref()?.code));
        failed.or_else(|| self.ranks.iter().filter_map(|state| state.bye).max())
    }

    /// Whether a rank failed this long ago, and so should the job have ended.
    pub fn failed_since(&self, time: Duration) -> bool {
        self.first_end.is_some_and(|(_, since)| since.elapsed() >= time)
    }

    /// Who keeps the job from going on.
    pub fn verdict(&self, limits: &Limits) -> Option<Verdict> {
        examine(&self.seen(), self.started.elapsed(), limits)
    }

    /// Who ended first, other than in order, and how.
    pub fn first_failure(&self) -> Option<Verdict> {
        let (rank, _) = self.first_end?;
        let (state, seen) = (&self.ranks[rank], self.seen());
        let place = state.beat.as_ref().map_or_else(|| "starting".to_owned(), Beat::place);
        let what = match &state.failed {
            Some(Failed { panic: true, message, .. }) => format!("{message}; it was in {place}"),
            Some(Failed { message, .. }) => format!("failed in {place}: {message}"),
            None => format!("has ended without a word in {place} (killed, out of memory, or crashed; see its log)"),
        };
        let line = format!("{} {what}{}", seen[rank].name(), others(&[rank], &seen));
        Some(Verdict { culprits: vec![rank], line })
    }

    /// A line on a rank that was found slow.
    pub fn straggler(&mut self) -> Option<String> {
        let ranks: Vec<(usize, &Beat)> =
            self.ranks.iter().enumerate().filter_map(|(rank, state)| Some((rank, state.beat.as_ref()?))).collect();
        self.stragglers.look(&ranks)
    }

    /// Processes of this host among ranks, named by id and start time.
    pub fn processes_on(&self, host: &str) -> BTreeMap<usize, (u32, u64)> {
        let process = |(rank, state): (usize, &RankState)| {
            let hello = state.hello.as_ref().filter(|hello| hello.host == host)?;
            Some((rank, (hello.pid, hello.start_ticks?)))
        };
        self.ranks.iter().enumerate().filter_map(process).collect()
    }

    /// The table for people and programs.
    pub fn table(&self) -> Value {
        let row = |(rank, state): (usize, &RankState)| {
            json!({ "rank": rank, "host": state.hello.as_ref().map(|hello| &hello.host), "beat": state.beat,
                "quiet_s": state.heard.elapsed().as_secs_f64(), "connected": state.is_connected, "bye": state.bye,
                "own_s_per_step": self.stragglers.own_s(rank), "slow_factor": self.stragglers.factor(rank),
                "failed": state.failed.as_ref().map(|failed| &failed.message) })
        };
        let rows: Vec<Value> = self.ranks.iter().enumerate().map(row).collect();
        json!({ "schema_version": 1, "seconds": self.started.elapsed().as_secs_f64(), "ranks": rows })
    }

    fn seen(&self) -> Vec<Seen<'_>> {
        let seen = |(rank, state): (usize, &'_ RankState)| Seen {
            rank,
            host: None,
            beat: None,
            quiet: state.heard.elapsed(),
            ends: state.bye.is_some() || state.failed.is_some() || (state.hello.is_some() && !state.is_connected),
        };
        let mut all: Vec<Seen<'_>> = self.ranks.iter().enumerate().map(seen).collect();
        for (seen, state) in all.iter_mut().zip(&self.ranks) {
            seen.host = state.hello.as_ref().map(|hello| hello.host.as_str());
            seen.beat = state.beat.as_ref();
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(rank: usize) -> Told {
        let host = "n2".to_owned();
        Told::Said(rank, Said::Hello(Hello { token: String::new(), rank, host, pid: 7, start_ticks: Some(9) }))
    }

    #[test]
    fn the_first_failure_is_the_reason() {
        let mut beats = Beats::new(2);
        beats.take(hello(0));
        beats.take(hello(1));
        assert!(beats.any_connected() && beats.first_failure().is_none() && beats.code().is_none());
        let failed =
            |message: &str, code| Said::Failed(Failed { message: message.into(), code, panic: false, again: true });
        beats.take(Told::Said(1, failed("the disk is full", 77)));
        beats.take(Told::Said(0, failed("rank 1 has gone", 1)));
        beats.take(Told::Closed(1));
        let verdict = beats.first_failure().unwrap();
        assert_eq!((verdict.culprits, &*verdict.line), (vec![1], "rank 1 on n2 failed in starting: the disk is full"));
        assert_eq!(beats.code(), Some(77));
        assert_eq!(beats.processes_on("n2"), [(0, (7, 9)), (1, (7, 9))].into());
        assert!(beats.processes_on("n3").is_empty());
    }

    #[test]
    fn an_end_in_order_is_no_failure() {
        let mut beats = Beats::new(1);
        beats.take(hello(0));
        beats.take(Told::Said(0, Said::Bye { code: 75 }));
        beats.take(Told::Closed(0));
        assert!(beats.first_failure().is_none() && beats.nothing_to_save());
        assert_eq!(beats.code(), Some(75));
        beats.take(Told::Closed(5));
    }

    #[test]
    fn a_rank_that_goes_without_a_word_is_named() {
        let mut beats = Beats::new(2);
        beats.take(hello(1));
        beats.take(Told::Closed(1));
        let line = beats.first_failure().unwrap().line;
        assert!(line.starts_with("rank 1 on n2 has ended without a word"), "{line}");
        assert!(beats.failed_since(Duration::ZERO) && !beats.failed_since(Duration::from_secs(60)));
    }
}
