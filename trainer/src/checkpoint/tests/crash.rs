//! Ends a holder after each change that it makes to the store, and lets another go on.

use super::{holder, keep, newest, state};
use crate::checkpoint::*;
use crate::storage::faulty_store::FaultyStore;

/// Changes of a commit: three data files, the manifest, the log entry.
const COMMIT: i64 = 5;

#[test]
fn a_commit_that_is_killed_anywhere_leaves_the_one_before_it() {
    for changes in 0..=COMMIT {
        let store = FaultyStore::new();
        let run = RunPrefix::at(store.location()).unwrap();
        let lease = run.take_over(holder("first")).unwrap();
        lease.commit(&state(1, 10)).unwrap();

        store.die_after(changes);
        let result = lease.commit(&state(1, 20));
        store.die_after(-1);
        let whole = changes == COMMIT;
        assert_eq!(result.is_ok(), whole, "after {changes} changes");
        assert_eq!(newest(&run), state(1, if whole { 20 } else { 10 }));

        let next = run.take_over(holder("second")).unwrap();
        assert_eq!(next.collected().unwrap().len(), usize::from(!whole && changes > 0), "after {changes} changes");
        assert!(matches!(lease.commit(&state(1, 30)), Err(TrainerError::Fenced { .. })));
        next.commit(&state(1, 40)).unwrap();
        assert_eq!(newest(&run), state(1, 40));
    }
}

#[test]
fn a_deletion_that_is_killed_anywhere_harms_no_checkpoint_that_stays() {
    // Two checkpoints of four files go.
    for changes in 0..=8 {
        let store = FaultyStore::new();
        let run = RunPrefix::at(store.location()).unwrap();
        let lease = run.take_over(holder("first")).unwrap();
        for step in [10, 20, 30] {
            lease.commit(&state(1, step)).unwrap();
        }
        store.die_after(changes);
        assert_eq!(lease.retain(&keep(1, None)).is_ok(), changes == 8, "after {changes} changes");
        store.die_after(-1);
        assert_eq!(newest(&run), state(1, 30));

        let next = run.take_over(holder("second")).unwrap();
        next.retain(&keep(1, None)).unwrap();
        assert!(next.retain(&keep(1, None)).unwrap().is_empty());
        assert_eq!(run.storage.list("stage1").unwrap().len(), 4);
        assert_eq!(newest(&run), state(1, 30));
    }
}

fn taken_over() -> log::Event {
    log::Event::TakeOver(Box::new(log::TakeOver { holder: holder("a"), ..log::TakeOver::default() }))
}

#[test]
fn a_lost_answer_is_recognised_as_ones_own_write() {
    let store = FaultyStore::new();
    let run = RunPrefix::at(store.location()).unwrap();
    store.lose_answers(1);
    let lease = run.take_over(holder("a")).unwrap();
    assert_eq!(lease.epoch(), 1);
    lease.commit(&state(1, 10)).unwrap();

    // A retry inside the store's client sees AlreadyExists of its own first try.
    let entry = log::Entry::new(1, "0123".into(), taken_over());
    assert!(matches!(log::append(&run.storage, 2, &entry).unwrap(), log::Appended::Done));
    assert!(matches!(log::append(&run.storage, 2, &entry).unwrap(), log::Appended::Done));
    let other = log::Entry::new(1, "4567".into(), taken_over());
    // By the nonce: an entry's time may come back from JSON with another last bit.
    let taken = log::append(&run.storage, 2, &other).unwrap();
    assert!(matches!(taken, log::Appended::Taken(Ok(found)) if found.nonce == entry.nonce));
    assert_eq!(run.commits().unwrap().len(), 1);
}

#[test]
fn a_config_whose_answer_was_lost_counts_as_written() {
    let store = FaultyStore::new();
    let run = RunPrefix::at(store.location()).unwrap();
    store.lose_answers(1);
    assert_eq!(run.write_config("a: 1").unwrap(), ConfigWritten::Same);
}

#[test]
fn a_store_that_does_not_answer_is_no_reason_to_go_back() {
    let store = FaultyStore::new();
    let run = RunPrefix::at(store.location()).unwrap();
    run.take_over(holder("a")).unwrap().commit(&state(1, 10)).unwrap();
    store.die_after(0);
    assert!(matches!(run.latest(None), Err(TrainerError::Store(_))));
}

#[test]
fn holders_that_race_get_epochs_of_their_own() {
    let store = FaultyStore::new();
    let take = |index: usize| {
        let place = store.location();
        std::thread::spawn(move || {
            let run = RunPrefix::at(place).unwrap();
            run.take_over(holder(&index.to_string())).unwrap().epoch()
        })
    };
    let threads: Vec<_> = (0..8).map(take).collect();
    let mut epochs: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    epochs.sort_unstable();
    assert_eq!(epochs, (1..=8).collect::<Vec<u64>>());
}
