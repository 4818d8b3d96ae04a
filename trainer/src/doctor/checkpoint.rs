//! A checkpoint in a folder of its own under the output: taken over, committed, refused to a second process, read
//! back, removed.

use std::time::{Duration, Instant};

use configs::Run;
use tch::Device;

use super::space::Sizes;
use super::{Finding, size};
use crate::checkpoint::{About, Claim, Holder, NamedArray, Rhythm, RunPrefix, Segment, Snapshot, Terms};
use crate::error::{Result, TrainerError};

/// Numbers of the checkpoint at most: 48 MB with their moments. A larger one takes as many times longer.
const MOST: u64 = 4 << 20;
/// Beats of the scratch run's holder, and how long the second process watches for one.
const RHYTHM: Rhythm = Rhythm { every: Duration::from_millis(200), silence: Duration::from_secs(6) };
/// How long the holder of the run itself is watched: holders beat every 5 s.
const WATCH: Rhythm = Rhythm { every: Duration::from_secs(5), silence: Duration::from_secs(8) };

pub(super) fn look(run: &Run, claim: &Claim) -> Vec<Finding> {
    let output = run.run.output.as_str().trim_end_matches('/');
    vec![live(output, claim), finding(run, output, claim)]
}

/// Whether somebody trains the run now.
fn live(output: &str, claim: &Claim) -> Finding {
    let (name, expected) = ("output.run", "nobody who trains this run now");
    let watch = Claim { holder: claim.holder.clone(), rhythm: WATCH };
    let found = RunPrefix::open(output).and_then(|run| Ok((run.commits()?.len(), run.living_holder(&watch)?)));
    match found {
        Ok((_, Some(holder))) => {
            let fix = "wait for it, end it there, or give this run another run.output: a launch would be refused; \
                 nothing of \
                       it was touched";
            Finding::warning(name, [format!("{holder} trains it"), expected.into(), fix.into()])
        }
        Ok((0, None)) => Finding::ok(name, "no checkpoint yet", expected),
        Ok((commits, None)) => {
            Finding::ok(name, format!("{commits} checkpoints; a launch goes on from the last"), expected)
        }
        Err(error) => Finding::error(name, &error, expected, "see the message"),
    }
}

fn finding(run: &Run, output: &str, claim: &Claim) -> Finding {
    let name = "checkpoint";
    let expected = "a checkpoint that is committed, refused to a second process, read back and removed";
    let trained = Sizes::of(run, Device::Cpu).map_or(MOST, |sizes| sizes.trained);
    let state = state(trained.min(MOST) as usize);
    let scratch = match scratch(output) {
        Ok(scratch) => scratch,
        Err(error) => return Finding::error(name, &error, expected, "check run.output"),
    };
    let kept = kept(&scratch, &state, claim);
    let removed = scratch.remove();
    match kept.and_then(|kept| removed.map(|()| kept)) {
        Ok((commit, read)) => {
            let bytes = 12 * state.about.flat_len as u64;
            let found = format!(
                "{} committed in {commit:.2} s, read back in {read:.2} s; a second process was refused",
                size(bytes)
            );
            Finding::ok(name, found, expected)
        }
        Err(error @ TrainerError::NoPutIfAbsent { .. }) => {
            let fix = "use a path, s3:// with conditional writes (`If-None-Match: *`), gs:// or az:// as run.output";
            Finding::error(name, &error, expected, fix)
        }
        Err(error) => {
            Finding::error(name, &error, expected, "see the message, and the rights and space under run.output")
        }
    }
}

/// A folder of its own below the output.
fn scratch(output: &str) -> Result<RunPrefix> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(TrainerError::NoRandomBytes)?;
    RunPrefix::open(&format!("{output}/doctor-{:016x}", u64::from_le_bytes(random)))
}

/// Seconds of the commit and of reading it back.
fn kept(scratch: &RunPrefix, state: &Snapshot, claim: &Claim) -> Result<(f64, f64)> {
    let own = Claim { holder: claim.holder.clone(), rhythm: RHYTHM };
    let mut say = |_: String| ();
    let lease = scratch.claim(&own, "# of blip2 doctor\n", &mut |_| Ok(Terms::GoOn), &mut say)?;
    let began = Instant::now();
    lease.commit(state)?;
    let commit = began.elapsed().as_secs_f64();

    // Nothing is known of it, so the heartbeat alone decides.
    let second = Claim { holder: Holder { host: "a second process".into(), ..Holder::default() }, rhythm: RHYTHM };
    match scratch.claim(&second, "# of blip2 doctor\n", &mut |_| Ok(Terms::GoOn), &mut say) {
        Err(TrainerError::Held { .. }) => {}
        Err(error) => return Err(error),
        Ok(_) => {
            return Err(TrainerError::Unsupported {
                found: "a second process could take the scratch run over while the first one held it".into(),
                expected: format!("a store that shows a heartbeat within {} s", RHYTHM.silence.as_secs()),
            });
        }
    }

    let began = Instant::now();
    let newest = scratch.newest(None)?.ok_or_else(|| TrainerError::NoCheckpoint { uri: scratch.uri() })?;
    let is_same = newest.stored.snapshot()? == *state;
    let read = began.elapsed().as_secs_f64();
    match is_same {
        true => Ok((commit, read)),
        false => Err(TrainerError::BadCheckpoint {
            uri: newest.stored.uri(),
            reason: "found other numbers than were written".into(),
        }),
    }
}

/// A state of so many numbers.
fn state(numbers: usize) -> Snapshot {
    let values = |first: f32| (0..numbers).map(|number| first + (number % 4096) as f32).collect::<Vec<f32>>();
    let name = || "doctor".to_owned();
    let about = About {
        stage_index: 1,
        stage: name(),
        step: 1,
        flat_len: numbers,
        segments: vec![Segment { name: name(), shape: vec![numbers], offset: 0 }],
        ..About::default()
    };
    let trainable = vec![NamedArray { name: name(), shape: vec![numbers], values: values(0.5) }];
    Snapshot { about, trainable, exp_avg: values(0.25), exp_avg_sq: values(0.125) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn a_checkpoint_is_made_refused_read_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("run").display().to_string();
        let sets = [format!("run.output={output}")];
        let sets = configs::SMALL.iter().map(|set| (*set).to_owned()).chain(sets);
        let run =
            configs::load_str("tiny.yaml", configs::preset("tiny").unwrap(), &configs::Overrides::new(sets)).unwrap();
        let claim = Claim { holder: Holder { host: "here".into(), ..Holder::this_process() }, rhythm: RHYTHM };
        let found = look(&run, &claim);
        assert!(found.iter().all(|finding| finding.state == State::Ok), "{found:?}");
        let left: Vec<_> = std::fs::read_dir(&output).into_iter().flatten().collect();
        assert!(left.is_empty(), "{left:?}");

        // A run that lives is named, and is none the worse.
        let lease =
            RunPrefix::open(&output).unwrap().claim(&claim, "run", &mut |_| Ok(Terms::GoOn), &mut |_| ()).unwrap();
        let found = look(&run, &claim);
        assert_eq!([found[0].state, found[1].state], [State::Warning, State::Ok], "{found:?}");
        assert!(found[0].found.contains("on here"), "{found:?}");
        lease.check().unwrap();
    }
}
