//! Who keeps a job from going on: a pure function of what ranks last said.

use std::collections::BTreeMap;
use std::time::Duration;

use super::said::Beat;

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the start of the processes until all ranks have met.
    pub start: Duration,
    /// Without any progress before the first step, or while a checkpoint is written.
    pub first_step: Duration,
    /// Without any progress afterwards.
    pub step: Duration,
    /// Without a word.
    pub silence: Duration,
}

impl Limits {
    /// What the config says.
    pub fn new(timeouts: &configs::Timeouts) -> Self {
        let seconds = Duration::from_secs;
        Self {
            start: seconds(timeouts.start),
            first_step: seconds(timeouts.first_step),
            step: seconds(timeouts.step),
            silence: seconds(timeouts.silence),
        }
    }

    fn of(&self, beat: &Beat) -> Duration {
        if beat.steps_made == 0 || !beat.can_save || beat.phase == "checkpoint" {
            return self.first_step.max(self.step);
        }
        self.step
    }
}

/// A rank as it was last seen.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its number.
    pub rank: usize,
    /// Its machine, once it has said so.
    pub host: Option<&'a str>,
    /// What it last said.
    pub beat: Option<&'a Beat>,
    /// Since it last said anything, or since the launch.
    pub quiet: Duration,
    /// Whether it said that it ends.
    pub ends: bool,
}

impl Seen<'_> {
    fn idle(&self) -> Duration {
        let said = self.beat.map_or(0.0, |beat| beat.idle_s);
        self.quiet + Duration::try_from_secs_f64(said).unwrap_or_default()
    }

    /// `rank 3 on n2`.
    pub fn name(&self) -> String {
        self.host.map_or_else(|| format!("rank {}", self.rank), |host| format!("rank {} on {host}", self.rank))
    }
}

/// Who is to blame, and in which words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The ranks.
    pub culprits: Vec<usize>,
    /// One line.
    pub line: String,
}

/// Looks at all ranks of a job; `None` while everything is in order.
pub fn examine(ranks: &[Seen<'_>], since_start: Duration, limits: &Limits) -> Option<Verdict> {
    let running: Vec<&Seen<'_>> = ranks.iter().filter(|seen| !seen.ends).collect();
    let silent = running.iter().filter(|seen| seen.host.is_some() && seen.quiet > limits.silence);
    if let Some(worst) = silent.max_by_key(|seen| seen.quiet) {
        let last = worst.beat.map_or_else(|| "starting".to_owned(), Beat::place);
        let what = format!(
            "has said nothing for {} s (its process is stopped, or its machine or network is gone); it was last in {last}",
            worst.quiet.as_secs()
        );
        return Some(blame(&[worst], &what, ranks));
    }
    let not_met: Vec<&&Seen<'_>> = running
        .iter()
        .filter(|seen| seen.beat.is_none_or(|beat| matches!(&*beat.phase, "" | "starting" | "joining")))
        .collect();
    if !not_met.is_empty() {
        if since_start <= limits.start {
            return None;
        }
        let absent: Vec<_> = not_met.iter().filter(|seen| seen.host.is_none()).copied().collect();
        let (who, what) = match absent.is_empty() {
            false => (absent, "has not reported"),
            true => (not_met, "waits for the others to join MPI"),
        };
        let what = format!("{what} {} s after the start", since_start.as_secs());
        return Some(blame(&who.iter().map(|seen| **seen).collect::<Vec<_>>(), &what, ranks));
    }
    stuck(&running, limits).map(|who| {
        let (beat, seconds) = (who[0].beat, who[0].idle().as_secs());
        let (doing, wanted) = (beat.map_or_else(String::new, Beat::doing), beat.map_or_else(String::new, Beat::wanted));
        let inside = beat.and_then(Beat::waits_in).map_or_else(String::new, |call| format!(", waiting in {call}"));
        blame(&who, &format!("has been in {doing} for {seconds} s{wanted}{inside}"), ranks)
    })
}

/// Those who make no progress and wait for nobody; where all wait, those who wait in the earliest call.
fn stuck<'a>(running: &[&'a Seen<'a>], limits: &Limits) -> Option<Vec<&'a Seen<'a>>> {
    let late = |seen: &Seen<'_>| seen.beat.is_some_and(|beat| seen.idle() > limits.of(beat));
    let is_inside = |seen: &Seen<'_>| seen.beat.is_some_and(|beat| beat.is_inside);
    let blocking: Vec<&Seen<'_>> = running.iter().filter(|seen| !is_inside(seen) && late(seen)).copied().collect();
    if !blocking.is_empty() {
        return Some(blocking);
    }
    if running.is_empty() || !running.iter().all(|seen| is_inside(seen) && late(seen)) {
        return None;
    }
    let call = |seen: &Seen<'_>| seen.beat.map_or(0, |beat| beat.call);
    let earliest = running.iter().map(|seen| call(seen)).min()?;
    Some(running.iter().filter(|seen| call(seen) == earliest).copied().collect())
}

fn blame(who: &[&Seen<'_>], what: &str, all: &[Seen<'_>]) -> Verdict {
    let culprits: Vec<usize> = who.iter().map(|seen| seen.rank).collect();
    let name = match who {
        [one] => one.name(),
        several => several.iter().map(|seen| seen.name()).take(8).collect::<Vec<_>>().join(", "),
    };
    Verdict { line: format!("{name} {what}{}", others(&culprits, all)), culprits }
}

/// Where the others wait: `; ranks 0-2 wait in all_gather #1841`.
pub fn others(culprits: &[usize], all: &[Seen<'_>]) -> String {
    let mut waiting: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for seen in all.iter().filter(|seen| !culprits.contains(&seen.rank)) {
        if let Some(call) = seen.beat.and_then(Beat::waits_in) {
            waiting.entry(call).or_default().push(seen.rank);
        }
    }
    let group = |(call, ranks): (&String, &Vec<usize>)| match ranks.as_slice() {
        [one] => format!("; rank {one} waits in {call}"),
        several => format!("; ranks {} wait in {call}", ranges(several)),
    };
    waiting.iter().map(group).collect()
}

/// `0-2,5`.
fn ranges(ranks: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for rank in ranks {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *rank => *last = *rank,
            _ => parts.push((*rank, *rank)),
        }
    }
    let part =
        |(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        start: Duration::from_secs(100),
        first_step: Duration::from_secs(300),
        step: Duration::from_secs(60),
        silence: Duration::from_secs(30),
    };

    fn beat(phase: &str, call: u64, is_inside: bool, idle_s: f64) -> Beat {
        let (phase, operation, stage) = (phase.into(), "all_gather".into(), "representation".into());
        Beat {
            phase,
            can_save: true,
            stage,
            step: 7,
            steps_made: 7,
            call,
            operation,
            is_inside,
            idle_s,
            ..Beat::default()
        }
    }

    fn seen<'a>(rank: usize, beat: &'a Beat, quiet: u64) -> Seen<'a> {
        Seen { rank, host: Some("n2"), beat: Some(beat), quiet: Duration::from_secs(quiet), ends: false }
    }

    fn line(ranks: &[Seen<'_>]) -> Option<String> {
        examine(ranks, Duration::from_secs(1000), &LIMITS).map(|verdict| verdict.line)
    }

    #[test]
    fn the_one_that_waits_for_nobody_holds_up_the_others() {
        let waits = beat("step", 1841, true, 62.0);
        let reads = Beat { reading: Some("a.parquet of coco".into()), ..beat("data wait", 1840, false, 61.0) };
        let ranks = [seen(0, &waits, 0), seen(1, &waits, 0), seen(2, &waits, 0), seen(3, &reads, 0)];
        assert_eq!(
            line(&ranks).unwrap(),
            "rank 3 on n2 has been in data wait for 61 s of step 8 of representation, shard a.parquet of coco; ranks 0-2 \
             wait in all_gather #1841"
        );
        let computes = beat("step", 1840, false, 59.0);
        assert_eq!(line(&[seen(0, &waits, 0), seen(1, &computes, 0)]), None, "a slow rank is not stuck yet");
    }

    #[test]
    fn silence_is_blamed_before_waiting() {
        let (waits, computes) = (beat("step", 9, true, 62.0), beat("step", 8, false, 0.1));
        let found = line(&[seen(0, &waits, 0), seen(1, &computes, 31)]).unwrap();
        assert!(found.starts_with("rank 1 on n2 has said nothing for 31 s"), "{found}");
        assert!(found.ends_with("it was last in step 8 of representation; rank 0 waits in all_gather #9"), "{found}");
    }

    #[test]
    fn where_all_wait_the_earliest_call_is_blamed() {
        let (early, late) = (beat("step", 8, true, 70.0), beat("step", 9, true, 65.0));
        let verdict = examine(&[seen(0, &late, 0), seen(1, &early, 0)], Duration::ZERO, &LIMITS).unwrap();
        assert_eq!(verdict.culprits, [1]);
        assert!(verdict.line.contains("waiting in all_gather #8; rank 0 waits in all_gather #9"), "{}", verdict.line);
    }

    #[test]
    fn the_first_step_and_checkpoints_have_time() {
        let first = Beat { steps_made: 0, ..beat("step", 1, false, 200.0) };
        let saves = beat("checkpoint", 1, false, 200.0);
        assert_eq!(line(&[seen(0, &first, 0), seen(1, &saves, 0)]), None);
        let stuck = beat("checkpoint", 1, false, 301.0);
        assert!(line(&[seen(0, &stuck, 0)]).is_some());
    }

    #[test]
    fn a_rank_that_never_reports_is_named() {
        let joins = Beat { phase: "joining".into(), ..Beat::default() };
        let absent = Seen { rank: 1, host: None, beat: None, quiet: Duration::from_secs(101), ends: false };
        let verdict = examine(&[seen(0, &joins, 0), absent], Duration::from_secs(101), &LIMITS).unwrap();
        assert_eq!((verdict.culprits, &*verdict.line), (vec![1], "rank 1 has not reported 101 s after the start"));
        assert_eq!(examine(&[seen(0, &joins, 0), absent], Duration::from_secs(99), &LIMITS), None);
    }

    #[test]
    fn ranks_are_counted_in_ranges() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
    }
}
