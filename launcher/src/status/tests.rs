use configs::Overrides;
use data_pipeline::store::Location;

use super::found::{Commit, Found, Reader};
use super::judge::{Outside, State, status};
use super::text::text;
use crate::data::block_on;
use crate::outcome::Outcome;
use crate::report::faults::Noted;
use crate::report::gather::Record;
use crate::slurm_job::JobState;

fn found() -> Found {
    let config = configs::load_str("tiny", configs::preset("tiny").unwrap(), &Overrides::none()).unwrap();
    let record = Record {
        time: Some(1000.0),
        stage: "representation".into(),
        step: 100,
        losses: [("total".to_owned(), Some(5.0)), ("itc".to_owned(), Some(3.0))].into(),
        images_per_s: Some(100.0),
        ..Record::default()
    };
    Found {
        config: Some(config),
        launches: 2,
        launched: 900.0,
        commits: vec![Commit {
            launch: 2,
            stage_index: 1,
            stage: "representation".into(),
            step: 90,
            folder: "checkpoints/1".into(),
            uri: "runs/tiny/checkpoints/1".into(),
            time: 990.0,
        }],
        records: vec![record],
        ..Found::default()
    }
}

fn job(state: &str, restarts: u64) -> Option<JobState> {
    let restarts = Some(restarts);
    Some(JobState { job: "17".into(), state: Some(state.into()), reason: None, nodes: None, restarts })
}

fn outcome(code: u8) -> Option<Outcome> {
    Some(Outcome { schema_version: 1, code, message: "the disk is full".into(), time: 1001 })
}

#[test]
fn one_word_for_every_situation() {
    let of = |job: Option<JobState>, alive: bool, ended: Option<Outcome>, now: f64| {
        let found = Found { outcome: ended, ..found() };
        status(&found, &Outside { job, launcher_alive: alive, now }, "runs/tiny").state
    };
    assert_eq!(of(job("PENDING", 0), false, None, 1010.0), State::Queued);
    assert_eq!(of(job("PENDING", 1), false, outcome(75), 1010.0), State::Preempted);
    assert_eq!(of(job("RUNNING", 1), false, outcome(75), 1010.0), State::Running);
    assert_eq!(of(job("TIMEOUT", 0), false, None, 9999.0), State::Failed);
    assert_eq!(of(None, true, None, 9999.0), State::Running);
    assert_eq!(of(None, false, None, 1010.0), State::Running);
    assert_eq!(of(None, false, None, 9999.0), State::Unknown);
    assert_eq!(of(None, false, outcome(75), 1010.0), State::Preempted);
    assert_eq!(of(None, false, outcome(1), 1010.0), State::Failed);
    // An outcome from before the last launch says nothing.
    let old = Outcome { time: 800, ..outcome(1).unwrap() };
    assert_eq!(of(None, false, Some(old), 1010.0), State::Running);
}

#[test]
fn a_run_whose_last_step_is_committed_is_done() {
    let mut found = found();
    let steps = found.config.as_ref().unwrap().stages[1].steps();
    let commit = &mut found.commits[0];
    (commit.stage_index, commit.stage, commit.step) = (2, "generative".into(), steps);
    let status = status(&found, &Outside { now: 2000.0, ..Outside::default() }, "runs/tiny");
    assert_eq!((status.state, status.step, status.eta_s), (State::Done, Some(steps), None));
}

#[test]
fn numbers_are_said_in_words_and_json() {
    let status = status(&found(), &Outside { now: 1010.0, job: job("RUNNING", 1), launcher_alive: false }, "runs/tiny");
    let shown = text(&status);
    for part in
        ["tiny: running", "step 100 of", "itc 3.000  total 5.000", "100 images/s", "step 90, 20 s ago", "17: RUNNING"]
    {
        assert!(shown.contains(part), "{part:?} is missing in:\n{shown}");
    }
    let json = serde_json::to_value(&status).unwrap();
    for key in ["state", "stage", "step", "images_per_s", "eta_s", "last_checkpoint", "restarts", "ranks"] {
        assert!(json.get(key).is_some(), "{key}");
    }
    assert_eq!(json["restarts"], 1);
}

#[test]
fn ranks_are_a_table_of_what_the_supervision_noted() {
    let row = |rank: u32| serde_json::json!({ "rank": rank, "host": "n1", "beat": { "phase": "data wait", "step": 7 }, "quiet_s": 0.42 });
    let found = Found { ranks: Some(serde_json::json!({ "ranks": [row(0), row(1)] })), ..found() };
    let shown = text(&status(&found, &Outside { launcher_alive: true, now: 1010.0, job: None }, "runs/tiny"));
    assert!(shown.contains("rank  host  does       step  quiet s"), "{shown}");
    assert!(shown.contains("1     n1    data wait  7     0.4"), "{shown}");
}

#[test]
fn a_record_that_is_long_due_is_a_stall() {
    let mut found = found();
    let last = found.records[0].clone();
    found.records = (0..=4).map(|n| Record { time: Some(1000.0 + 20.0 * f64::from(n)), ..last.clone() }).collect();
    let at = |found: &Found, now: f64| {
        let alive = Outside { launcher_alive: true, now, job: None };
        status(found, &alive, "runs/tiny")
    };
    // Every 20 s; the last at 1080.
    let shown = at(&found, 1279.0);
    assert_eq!((shown.state, shown.stalled), (State::Running, None));
    let late = at(&found, 1281.0);
    assert_eq!(late.stalled.as_deref(), Some("no record for 3 min 21 s; usually one comes every 20 s"));
    assert!(text(&late).contains("stalled     no record for 3 min 21 s"), "{}", text(&late));
    // Ranks that evaluate or write a checkpoint have the time of a first step.
    let beat = serde_json::json!({ "ranks": [{ "rank": 0, "beat": { "phase": "evaluation" } }] });
    found.ranks = Some(beat);
    assert_eq!(at(&found, 1281.0).stalled, None);
    assert!(at(&found, 1e6).stalled.is_some());
    // A run that has ended does not stall.
    found.outcome = Some(Outcome { time: 1100, ..outcome(1).unwrap() });
    let ended = status(&found, &Outside { now: 1e6, ..Outside::default() }, "runs/tiny");
    assert_eq!((ended.state, ended.stalled), (State::Failed, None));
}

#[test]
fn a_folder_is_read_again_and_what_it_notes_is_told() {
    let folder = std::env::temp_dir().join(format!("blip2-found-{}", std::process::id()));
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let entry = |number: u64, rest: &str| {
        write(&format!("log/{number:08}.json"), &format!("{{\"format_version\":1,\"time\":{number},{rest}}}"));
    };
    let commit = |number: u64, folder: &str, processor: &str| {
        let rest = format!(r#""kind":"commit","stage_index":1,"stage":"a","step":{number},"folder":"{folder}""#);
        entry(number, &rest);
        write(&format!("{folder}/manifest.json"), &format!(r#"{{"facts":{{"processor":"{processor}"}}}}"#));
    };
    entry(0, r#""kind":"take_over","holder":{}"#);
    commit(1, "stage1/old", "W");
    // The run began anew: what came before is of another run.
    entry(2, r#""kind":"take_over","fresh":"before-1""#);
    commit(3, "stage1/a", "X");
    commit(4, "stage1/b", "Y");
    entry(5, r#""kind":"take_over","changes":[{"key":"data.lanes","was":"4","is":"8"}]"#);
    commit(6, "stage1/c", "Z");
    entry(7, r#""kind":"quarantine","folder":"stage1/b","reason":"torn""#);
    entry(8, r#""kind":"of another version""#);
    write("launch/faults/1/fault.json", r#"{"line":"rank 1 has ended","table":{}}"#);
    write("metrics/1.jsonl", "{\"stage\":\"a\",\"step\":3,\"losses\":{}}\n");
    let mut reader = Reader::new(&Location::parse(folder.to_str().unwrap()).unwrap());
    let mut read = || block_on(reader.read(), "nothing").unwrap();
    let found = read();
    assert_eq!((found.launches, found.launched, found.began), (2, 5.0, 2.0));
    let commits: Vec<_> = found.commits.iter().map(|commit| (commit.launch, commit.step)).collect();
    assert_eq!(commits, [(1, 3), (2, 6)]);
    let said = |noted: &[Noted]| noted.iter().map(|noted| noted.text.clone()).collect::<Vec<_>>();
    // Of each launch the first checkpoint says what it computes on.
    let moved = "launch 2 computes on something else: processor was X, is Z";
    assert_eq!(said(&found.faults.changes), ["data.lanes was 4, is 8", moved]);
    assert_eq!(said(&found.faults.failures), ["checkpoint stage1/b does not verify: torn", "rank 1 has ended"]);
    assert_eq!(found.records.len(), 1);

    write(
        "metrics/1.jsonl",
        "{\"stage\":\"a\",\"step\":3,\"losses\":{}}\n{\"stage\":\"a\",\"step\":4,\"losses\":{}}\n",
    );
    // Retention takes checkpoints away; what was read of them stays known.
    std::fs::remove_dir_all(folder.join("stage1")).unwrap();
    let again = read();
    assert_eq!((again.records.len(), again.faults.changes.len()), (2, 2));
    std::fs::remove_dir_all(folder).unwrap();
}
