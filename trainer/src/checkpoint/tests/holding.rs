//! Who may take a run over, and when: holders that live, left, fell silent or were replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{holder, load, new_run, newest, state, steps};
use crate::checkpoint::heartbeat::Beat;
use crate::checkpoint::*;
use crate::storage::faulty_store::FaultyStore;

/// Beats every 20 ms; silent after 400.
fn from(host: &str) -> Claim {
    silent_after(400, host)
}

/// Longer than a busy machine keeps a living holder from its next beat.
fn patient(host: &str) -> Claim {
    silent_after(60_000, host)
}

fn silent_after(millis: u64, host: &str) -> Claim {
    let rhythm = Rhythm { every: Duration::from_millis(20), silence: Duration::from_millis(millis) };
    Claim { holder: holder(host), rhythm }
}

fn ask(run: &RunPrefix, claim: &Claim, said: &mut Vec<String>) -> Result<Lease> {
    run.claim(claim, "a: 1\n", &mut |_| Ok(Terms::GoOn), &mut |line| said.push(line))
}

fn beat(run: &RunPrefix) -> Beat {
    Beat::read(&run.storage).unwrap().unwrap()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(20), "{what}: waited in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_holder_that_lives_is_left_alone() {
    let (_folder, run) = new_run();
    let lease = ask(&run, &from("one"), &mut Vec::new()).unwrap();
    let (mut said, log) = (Vec::new(), run.storage.list("log").unwrap());
    let error = ask(&run, &patient("two"), &mut said).unwrap_err();
    assert!(matches!(&error, TrainerError::Held { holder, .. } if holder == "process 7 on one"), "{error}");
    assert!(error.to_string().contains("another run.output"), "{error}");
    assert!(said.len() == 1 && said[0].contains("watching its heartbeat"), "{said:?}");
    assert_eq!(run.storage.list("log").unwrap(), log);
    lease.commit(&state(1, 5)).unwrap();
}

#[test]
fn a_holder_that_left_is_replaced_at_once() {
    let (_folder, run) = new_run();
    drop(ask(&run, &from("one"), &mut Vec::new()).unwrap());
    assert!(beat(&run).left);
    let mut said = Vec::new();
    assert_eq!(ask(&run, &patient("two"), &mut said).unwrap().epoch(), 2);
    assert_eq!(said, Vec::<String>::new());
}

#[test]
fn a_holder_whose_process_has_ended_is_replaced_at_once() {
    let (_folder, run) = new_run();
    let here = || Holder { host: "here".into(), ..Holder::this_process() };
    let dead = Holder { start_ticks: Some(1), ..here() };
    run.take_over(dead).unwrap();
    let claim = Claim { holder: here(), rhythm: Rhythm { silence: Duration::from_secs(600), ..Rhythm::default() } };
    assert_eq!(ask(&run, &claim, &mut Vec::new()).unwrap().epoch(), 2);
}

#[test]
fn a_holder_that_ends_while_it_is_watched_is_replaced_then() {
    let (_folder, run) = new_run();
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let here = || Holder { host: "here".into(), ..Holder::this_process() };
    run.take_over(Holder { pid: child.id(), start_ticks: start_ticks(child.id()), ..here() }).unwrap();
    let rhythm = Rhythm { every: Duration::from_millis(20), silence: Duration::from_secs(600) };
    let asking = std::thread::spawn({
        let (run, claim) = (run.clone(), Claim { holder: here(), rhythm });
        move || {
            let mut said = Vec::new();
            (ask(&run, &claim, &mut said).unwrap().epoch(), said)
        }
    });
    std::thread::sleep(Duration::from_millis(100));
    assert!(!asking.is_finished());
    child.kill().unwrap();
    child.wait().unwrap();
    let (epoch, said) = asking.join().unwrap();
    assert_eq!(epoch, 2);
    assert!(said.len() == 2 && said[1].contains("its process has ended"), "{said:?}");
}

#[test]
fn a_holder_that_fell_silent_is_replaced_after_the_silence_and_not_before() {
    let (_folder, run) = new_run();
    // Without a heartbeat.
    let old = run.take_over(holder("one")).unwrap();
    let (mut said, since) = (Vec::new(), Instant::now());
    let new = ask(&run, &from("two"), &mut said).unwrap();
    assert!(since.elapsed() >= Duration::from_millis(400), "{:?}", since.elapsed());
    assert!(said.len() == 2 && said[1].contains("no sign of life"), "{said:?}");
    assert!(matches!(old.commit(&state(1, 1)), Err(TrainerError::Fenced { .. })));
    new.commit(&state(1, 2)).unwrap();
}

#[test]
fn a_replaced_holder_stops_to_beat_and_its_beats_count_for_nobody() {
    let (_folder, run) = new_run();
    let old = ask(&run, &from("one"), &mut Vec::new()).unwrap();
    until("the first beat", || Beat::read(&run.storage).unwrap().is_some());
    // Somebody takes the run by force: a living heart of an older take-over is none of the newest one's.
    run.take_over(holder("two")).unwrap();
    let before = beat(&run).beat;
    until("the older heart beats on", || beat(&run).beat > before + 2);
    let new = ask(&run, &from("three"), &mut Vec::new()).unwrap();
    assert_eq!(new.epoch(), 3);
    until("the newest heart", || beat(&run).epoch == 3);
    let before = beat(&run).beat;
    until("beats", || beat(&run).beat > before + 2);
    assert_eq!(beat(&run).epoch, 3);
    drop(old);
    assert_eq!((beat(&run).epoch, beat(&run).left), (3, false));
}

#[test]
fn of_many_that_come_at_once_one_gets_the_run() {
    for _ in 0..10 {
        let (_folder, run) = new_run();
        let uri = run.uri();
        let barrier = Arc::new(std::sync::Barrier::new(6));
        let asking: Vec<_> = (0..6)
            .map(|number: u32| {
                let (uri, barrier) = (uri.clone(), barrier.clone());
                std::thread::spawn(move || {
                    let run = RunPrefix::open(&uri).unwrap();
                    barrier.wait();
                    ask(&run, &patient(&number.to_string()), &mut Vec::new())
                })
            })
            .collect();
        // All leases live until the last has asked.
        let outcomes: Vec<_> = asking.into_iter().map(|thread| thread.join().unwrap()).collect();
        let (got, held): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!(got.len(), 1);
        assert!(held.iter().all(|outcome| matches!(outcome, Err(TrainerError::Held { .. }))), "{held:?}");
        got.into_iter().next().unwrap().unwrap().commit(&state(1, 1)).unwrap();
    }
}

#[test]
fn a_store_without_answers_for_heartbeats_harms_no_holder() {
    let store = FaultyStore::new();
    let run = RunPrefix::at(store.location()).unwrap();
    let lease = ask(&run, &from("one"), &mut Vec::new()).unwrap();
    until("the first beat", || Beat::read(&run.storage).unwrap().is_some());
    store.die_after(0);
    std::thread::sleep(Duration::from_millis(100));
    store.die_after(-1);
    let before = beat(&run).beat;
    until("it beats again", || beat(&run).beat > before);
    lease.commit(&state(1, 1)).unwrap();
}

/// As the first version wrote them.
const OLD: [&str; 2] = [
    r#"{"format_version":1,"epoch":1,"nonce":"00","time":1.5,"kind":"take_over","holder":{"host":"n1","pid":9,"slurm_job":null,"restart_count":0,"facts":{}}}"#,
    r#"{"format_version":1,"epoch":1,"nonce":"01","time":2.5,"kind":"commit","stage_index":1,"stage":"representation","step":10,"folder":"stage1/step-00000010/1-01","manifest_sha256":"00"}"#,
];

#[test]
fn entries_of_the_first_version_are_read() {
    let (folder, run) = new_run();
    std::fs::create_dir_all(folder.path().join("run/log")).unwrap();
    for (number, text) in OLD.iter().enumerate() {
        std::fs::write(folder.path().join("run").join(log::entry_name(number as u64)), text).unwrap();
    }
    assert_eq!(steps(&run), [(1, 10)]);
    let mut said = Vec::new();
    // Nothing shows that it has gone, so it is watched.
    assert_eq!(ask(&run, &from("two"), &mut said).unwrap().epoch(), 2);
    assert_eq!(said.len(), 2, "{said:?}");
}

fn changed() -> Vec<Change> {
    vec![Change { key: "run.seed".into(), was: "1".into(), is: "2".into() }]
}

#[test]
fn a_changed_config_is_in_force_with_its_take_over_and_never_before() {
    let mut cuts = 0;
    for changes in 0.. {
        let store = FaultyStore::new();
        let run = RunPrefix::at(store.location()).unwrap();
        drop(ask(&run, &from("one"), &mut Vec::new()).unwrap());
        store.die_after(changes);
        let change = &mut |found: Option<&Standing>| {
            assert_eq!(found.map(|run| run.config.as_str()), Some("a: 1\n"));
            Ok(Terms::Change(changed()))
        };
        let outcome = run.claim(&from("two"), "a: 2\n", change, &mut |_| {});
        store.die_after(-1);
        let is_recorded = run.accepted_changes().unwrap() == changed();
        let config = run.config().unwrap().unwrap();
        assert_eq!(config, if is_recorded { "a: 2\n" } else { "a: 1\n" }, "after {changes} changes");
        if outcome.is_ok() {
            assert!(is_recorded);
            break;
        }
        cuts += 1;
        // The next launch finds what is in force.
        let next = run.claim(
            &from("three"),
            "a: 2\n",
            &mut |found| {
                assert_eq!(found.unwrap().config, config);
                Ok(Terms::GoOn)
            },
            &mut |_| {},
        );
        next.unwrap();
    }
    println!("{cuts} cut points");
    assert!(cuts >= 2);
}

/// A run with two checkpoints, metrics and a changed config.
fn with_everything(run: &RunPrefix) -> Lease {
    drop(ask(run, &from("one"), &mut Vec::new()).unwrap());
    let change = &mut |_: Option<&Standing>| Ok(Terms::Change(changed()));
    let lease = run.claim(&from("one"), "a: 2\n", change, &mut |_| {}).unwrap();
    lease.commit(&state(1, 10)).unwrap();
    lease.commit(&state(1, 20)).unwrap();
    for name in ["metrics/000001-x.jsonl", "tb/000001-x/events", "report.html", "shards/0.parquet"] {
        run.storage.write(name, "old".into()).unwrap();
    }
    lease
}

fn begin_anew(run: &RunPrefix) -> Result<Lease> {
    run.claim(&silent_after(40, "new"), "a: 3\n", &mut |_| Ok(Terms::Fresh), &mut |_| {})
}

/// What must hold once a run has begun anew and the rest was set aside.
fn assert_is_fresh(run: &RunPrefix, lease: &Lease, old: &Lease) {
    assert!(load(run, None).is_none());
    assert_eq!(run.config().unwrap().as_deref(), Some("a: 3\n"));
    assert!(run.accepted_changes().unwrap().is_empty());
    let left = |folder: &str| run.storage.list(folder).unwrap().len();
    assert_eq!([left("stage1"), left("metrics"), left("tb"), left("shards")], [0, 0, 0, 1]);
    assert!(run.storage.read("report.html").unwrap().is_none());
    assert_eq!(run.storage.read("config.yaml").unwrap().unwrap(), "a: 3\n");

    let before = RunPrefix::at(run.storage.place("before-1")).unwrap();
    assert_eq!(newest(&before), state(1, 20));
    assert_eq!(before.config().unwrap().as_deref(), Some("a: 2\n"));
    assert_eq!(before.storage.read("report.html").unwrap().unwrap(), "old");
    assert_eq!(before.storage.read("config.yaml").unwrap().unwrap(), "a: 1\n");

    assert!(matches!(old.commit(&state(1, 30)), Err(TrainerError::Fenced { .. })));
    lease.commit(&state(1, 1)).unwrap();
    assert_eq!(newest(run), state(1, 1));
    assert_eq!(steps(run), [(1, 1)]);
}

#[test]
fn a_run_begins_anew_on_a_path() {
    let (folder, run) = new_run();
    let old = with_everything(&run);
    drop(run.take_over(holder("silent")));
    let lease = begin_anew(&run).unwrap();
    assert_is_fresh(&run, &lease, &old);
    assert!(!folder.path().join("run/metrics").exists());
    drop(lease);
    // And once more, beside the first.
    let again = begin_anew(&run).unwrap();
    assert!(load(&run, None).is_none());
    assert!(folder.path().join("run/before-2/stage1").exists() && !folder.path().join("run/stage1").exists());
    again.commit(&state(1, 2)).unwrap();
}

#[test]
fn a_fresh_start_that_is_killed_anywhere_is_completed_by_the_next_launch() {
    let mut cuts = 0;
    for changes in 0.. {
        let store = FaultyStore::new();
        let run = RunPrefix::at(store.location()).unwrap();
        let old = with_everything(&run);
        drop(run.take_over(holder("silent")));
        store.die_after(changes);
        let outcome = begin_anew(&run);
        store.die_after(-1);
        // Either the run is as it was, or it is empty; no part of the old one counts.
        let found = load(&run, None);
        let begun = run.commits().unwrap().is_empty();
        assert_eq!(found.map(|(found, _)| found), (!begun).then(|| state(1, 20)), "after {changes} changes");
        assert_eq!(run.config().unwrap().unwrap(), if begun { "a: 3\n" } else { "a: 2\n" }, "after {changes} changes");
        let lease = match outcome {
            Ok(lease) => lease,
            Err(_) if begun => ask(&run, &silent_after(40, "next"), &mut Vec::new()).unwrap(),
            Err(_) => begin_anew(&run).unwrap(),
        };
        let whole = run.storage.size("before-1/moved.json").unwrap().is_some();
        assert!(whole, "after {changes} changes");
        assert_is_fresh(&run, &lease, &old);
        if lease.epoch() == 4 && begun {
            break;
        }
        cuts += 1;
    }
    println!("{cuts} cut points");
    assert!(cuts > 20, "{cuts}");
}
