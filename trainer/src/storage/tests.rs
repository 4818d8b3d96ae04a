//! Objects in parts: what is written is right, or not there, whatever the store does meanwhile.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod full_disk;
mod probing;
mod reading;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::disturbed::Disturbance;
use super::faulty_store::FaultyStore;
use super::parts::hex;
use super::*;

/// Bytes of a part here.
const PART_BYTES: u64 = 1000;

/// Bytes in which every part differs.
fn bytes(len: u64) -> Bytes {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect::<Vec<u8>>().into()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn in_memory(store: &FaultyStore) -> Storage {
    Storage::at(store.location()).unwrap().with_parts_of(PART_BYTES)
}

fn on_disk(folder: &Path) -> Storage {
    let place = Location::parse(folder.join("run").to_str().unwrap()).unwrap();
    Storage::at(place).unwrap().with_parts_of(PART_BYTES)
}

/// A storage whose calls are disturbed.
fn disturbed(place: Location, plan: &str) -> Storage {
    let mut storage = Storage::at(place.clone()).unwrap().with_parts_of(PART_BYTES);
    let disturbance = Disturbance::new(plan);
    storage.root = disturbance.around(place);
    storage.disturbance = Some(disturbance);
    storage
}

/// A patience that waits some milliseconds, when it stops, and what it says.
fn patience() -> (Patience, Arc<AtomicBool>, Arc<Mutex<Vec<String>>>) {
    let (stop, said): (Arc<AtomicBool>, Arc<Mutex<Vec<String>>>) = Default::default();
    let told = said.clone();
    let patience = Patience::until(stop.clone(), move |line| told.lock().unwrap().push(line));
    (patience.with_waits(Duration::from_millis(5), Duration::from_millis(20)), stop, said)
}

/// Every file below a folder, staged ones too.
fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<String> = Vec::new();
    for entry in entries.map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => found.extend(files(&entry)),
            false => found.push(entry.file_name().unwrap().to_string_lossy().into_owned()),
        }
    }
    found.sort();
    found
}

#[test]
fn objects_of_every_size_are_written_whole_with_their_sums() {
    let (store, folder) = (FaultyStore::new(), tempfile::tempdir().unwrap());
    for storage in [in_memory(&store), on_disk(folder.path())] {
        for size in [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 25 * PART_BYTES, 25 * PART_BYTES + 7] {
            let content = bytes(size);
            let hashed = storage.write_hashed("a/file", &content, &Patience::none()).unwrap();
            assert_eq!(storage.read("a/file").unwrap().unwrap(), content, "{size} bytes");
            let parts: Vec<String> = content.chunks(PART_BYTES as usize).map(sha256).collect();
            assert_eq!(hashed, Hashed { size, sha256: sha256(&content), part_bytes: PART_BYTES, parts });
        }
    }
    assert_eq!(files(folder.path()), ["file"]);
    assert_eq!(store.uploads(), 3, "small objects are one write");
}

#[test]
fn an_outage_costs_only_the_parts_that_failed() {
    let store = FaultyStore::new();
    let storage = in_memory(&store);
    let (patience, _, said) = patience();
    let content = bytes(30 * PART_BYTES);
    // The upload's begin and seven parts.
    store.die_after(8);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(150));
            assert_eq!(store.parts(), 7);
            store.die_after(-1);
        });
        let hashed = storage.write_hashed("file", &content, &patience).unwrap();
        assert_eq!(hashed.sha256, sha256(&content));
    });
    assert_eq!(storage.read("file").unwrap().unwrap(), content);
    assert_eq!((store.parts(), store.uploads()), (30, 1), "parts taken and uploads");
    let said = said.lock().unwrap();
    assert!(said.len() == 2 && said[0].contains("no answer") && said[1].contains("works again"), "{said:?}");
}

#[test]
fn an_upload_that_the_store_forgot_is_begun_anew() {
    let store = FaultyStore::new();
    let storage = in_memory(&store);
    store.forget_uploads(1);
    let content = bytes(20 * PART_BYTES);
    let hashed = storage.write_hashed("file", &content, &Patience::none()).unwrap();
    assert_eq!(hashed.sha256, sha256(&content));
    assert_eq!(storage.read("file").unwrap().unwrap(), content);
    assert_eq!(store.uploads(), 2);
    // A store that forgets every upload is an error, not an endless loop.
    store.forget_uploads(usize::MAX);
    storage.write_hashed("other", &content, &Patience::none()).unwrap_err();
    assert_eq!(storage.read("other").unwrap(), None);
}

#[test]
fn a_lost_answer_to_the_end_of_an_upload_is_seen_to_have_been_a_yes() {
    let store = FaultyStore::new();
    let storage = in_memory(&store);
    for content in [bytes(5 * PART_BYTES), bytes(5 * PART_BYTES + 1).slice(1..)] {
        // Of the same size as what stood there before.
        store.lose_answers(1);
        let before = store.parts();
        storage.write_hashed("file", &content, &Patience::none()).unwrap();
        assert_eq!(storage.read("file").unwrap().unwrap(), content);
        assert_eq!(store.parts() - before, 5, "parts sent");
    }
}

#[test]
fn an_end_that_failed_is_not_taken_for_done_where_an_object_of_the_size_stands() {
    let store = FaultyStore::new();
    let storage = in_memory(&store);
    let (old, new) = (bytes(3 * PART_BYTES), bytes(3 * PART_BYTES + 1).slice(1..));
    storage.write_hashed("file", &old, &Patience::none()).unwrap();
    // Begin and three parts, then the end fails without having been done.
    store.die_after(4);
    let (patience, stop, _) = patience();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(60));
            stop.store(true, Ordering::SeqCst);
        });
        storage.write_hashed("file", &new, &patience).unwrap_err();
    });
    store.die_after(-1);
    assert_eq!(storage.read("file").unwrap().unwrap(), old);
}

/// Bytes that count how often they are asked for.
struct Counted(Bytes, AtomicUsize);

impl Content for Counted {
    fn len(&self) -> u64 {
        Content::len(&self.0)
    }

    fn fill(&self, at: u64, into: &mut [u8]) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.fill(at, into);
    }
}

#[test]
fn a_store_that_takes_nothing_holds_ten_parts_in_memory_at_most_and_waiting_can_be_ended() {
    let store = FaultyStore::new();
    let storage = in_memory(&store);
    let content = Counted(bytes(100 * PART_BYTES), AtomicUsize::new(0));
    let (patience, stop, _) = patience();
    store.die_after(1);
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(150));
            let filled = content.1.load(Ordering::SeqCst);
            assert!((AT_ONCE..=AT_ONCE + 2).contains(&filled), "{filled} parts were made");
            stop.store(true, Ordering::SeqCst);
        });
        storage.write_hashed("file", &content, &patience).unwrap_err();
    });
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    store.die_after(-1);
    assert_eq!(storage.read("file").unwrap(), None);
}

#[test]
fn lost_and_doubled_and_reordered_answers_change_nothing_of_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let content = bytes(40 * PART_BYTES + 3);
    for seed in 0..6 {
        for kind in ["lost", "twice", "shuffle"] {
            let local = Location::parse(folder.path().join(kind).to_str().unwrap()).unwrap();
            for place in [FaultyStore::new().location(), local] {
                let storage = disturbed(place, &format!("{kind}:{seed}"));
                let (patience, _, _) = patience();
                let hashed = storage.write_hashed("a/file", &content, &patience).unwrap();
                assert_eq!(hashed.sha256, sha256(&content), "{kind}:{seed}");
                assert_eq!(storage.read("a/file").unwrap().unwrap(), content, "{kind}:{seed}");
            }
        }
    }
}

#[test]
fn a_store_that_is_down_is_waited_for_and_one_that_is_full_too() {
    let folder = tempfile::tempdir().unwrap();
    for plan in ["down:0:200", "full:0:200"] {
        let local = Location::parse(folder.path().join(&plan[..4]).to_str().unwrap()).unwrap();
        for place in [FaultyStore::new().location(), local] {
            let storage = disturbed(place, plan);
            let (patience, _, said) = patience();
            let content = bytes(12 * PART_BYTES);
            let began = Instant::now();
            storage.write_patiently("small", &content, &patience).unwrap();
            assert!(began.elapsed() > Duration::from_millis(100), "{plan} did not happen");
            storage.write_hashed("large", &content, &patience).unwrap();
            assert_eq!(storage.create_patiently("new", &content, &patience).unwrap(), Created::Written);
            assert_eq!(storage.create_patiently("new", &content, &patience).unwrap(), Created::Taken);
            for name in ["small", "large", "new"] {
                assert_eq!(storage.read(name).unwrap().unwrap(), content, "{plan}: {name}");
            }
            let said = said.lock().unwrap();
            assert_eq!(said.len(), 2, "{said:?}");
            let word = if plan.starts_with("full") { "No space left" } else { "connection refused" };
            assert!(said[0].contains(word), "{said:?}");
        }
    }
}

#[test]
fn changes_are_counted_with_their_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let (notes, run) = (folder.path().join("notes"), folder.path().join("run"));
    let place = Location::parse(run.to_str().unwrap()).unwrap();
    let storage = disturbed(place, &format!("count:{}", notes.display()));
    storage.write_hashed("a/file", &bytes(2 * PART_BYTES), &Patience::none()).unwrap();
    storage.write("b", bytes(3)).unwrap();
    storage.create("c", bytes(3)).unwrap();
    storage.delete_folder("a", "file").unwrap();
    let text = std::fs::read_to_string(notes).unwrap();
    let kinds: Vec<&str> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(kinds, ["begin", "part", "part", "complete", "put", "create", "delete", "remove_folder"]);
    assert!(text.lines().nth(3).unwrap().ends_with("/run/a/file"), "{text}");
}

#[test]
fn a_write_that_fails_leaves_nothing_under_the_name_or_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = Location::parse(folder.path().join("run").to_str().unwrap()).unwrap();
    let storage = on_disk(folder.path());
    let old = bytes(2 * PART_BYTES);
    storage.write_hashed("file", &old, &Patience::none()).unwrap();
    // No space from the start, and no patience.
    let full = disturbed(place, "full:0:3600000");
    let error = full.write_hashed("file", &bytes(5 * PART_BYTES), &Patience::none()).unwrap_err();
    assert!(error.to_string().contains("The disk is full"), "{error}");
    assert_eq!(storage.read("file").unwrap().unwrap(), old);
    assert_eq!(files(folder.path()), ["file"]);
}

#[test]
fn what_a_killed_writer_left_is_no_object_and_is_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    let storage = on_disk(folder.path());
    std::fs::create_dir_all(folder.path().join("run/step")).unwrap();
    std::fs::write(folder.path().join("run/step/file#1"), b"half").unwrap();
    assert_eq!(storage.list("step").unwrap(), Vec::<String>::new());
    let content = bytes(5 * PART_BYTES);
    storage.write_hashed("step/file", &content, &Patience::none()).unwrap();
    assert_eq!(storage.read("step/file").unwrap().unwrap(), content);
    storage.delete_folder("step", "file").unwrap();
    assert_eq!(files(folder.path()), Vec::<String>::new());
}
