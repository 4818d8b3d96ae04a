//! Parts that are read: the right bytes, or a reason that names the wrong ones.

use super::*;

/// All that is read, and the offsets in the order in which they came.
fn read(storage: &Storage, expected: &Hashed, parts: Range<usize>) -> Result<(Vec<u8>, Vec<u64>)> {
    let (mut bytes, mut offsets) = (Vec::new(), Vec::new());
    storage.read_parts("file", expected, parts, &mut |offset, part| {
        bytes.extend_from_slice(part);
        offsets.push(offset);
    })?;
    Ok((bytes, offsets))
}

fn reason(error: TrainerError) -> String {
    match error {
        TrainerError::BadCheckpoint { uri, reason } => format!("{uri}: {reason}"),
        other => panic!("not about the file: {other}"),
    }
}

#[test]
fn parts_come_in_order_with_their_offsets() {
    let (store, folder) = (FaultyStore::new(), tempfile::tempdir().unwrap());
    for storage in [in_memory(&store), on_disk(folder.path())] {
        let content = bytes(30 * PART_BYTES + 5);
        let hashed = storage.write_hashed("file", &content, &Patience::none()).unwrap();
        let (whole, _) = read(&storage, &hashed, 0..hashed.parts.len()).unwrap();
        assert_eq!(whole, content);
        let (some, offsets) = read(&storage, &hashed, 28..31).unwrap();
        assert_eq!(some, content.slice(28 * PART_BYTES as usize..));
        assert_eq!(offsets, [28 * PART_BYTES, 29 * PART_BYTES, 30 * PART_BYTES]);
        assert!(read(&storage, &hashed, 30..32).is_err());
        let empty = storage.write_hashed("file", &bytes(0), &Patience::none()).unwrap();
        assert_eq!(read(&storage, &empty, 0..0).unwrap().0, Vec::<u8>::new());
    }
}

#[test]
fn one_wrong_byte_anywhere_is_found_and_its_place_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let storage = on_disk(folder.path());
    let content = bytes(4 * PART_BYTES + 5);
    let hashed = storage.write_hashed("file", &content, &Patience::none()).unwrap();
    let path = folder.path().join("run/file");
    for at in (0..content.len()).step_by(61).chain([content.len() - 1]) {
        let mut damaged = content.to_vec();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let found = reason(read(&storage, &hashed, 0..5).unwrap_err());
        let range = hashed.range(at / PART_BYTES as usize);
        assert!(found.contains(&format!("run/file: bytes {}..{}: found sha256", range.start, range.end)), "{found}");
        assert!(found.contains(&hashed.parts[at / PART_BYTES as usize]), "{found}");
    }
}

#[test]
fn another_size_and_a_missing_file_are_reasons_and_a_silent_store_is_none() {
    let store = FaultyStore::new();
    let storage = in_memory(&store);
    let hashed = storage.write_hashed("file", &bytes(3 * PART_BYTES), &Patience::none()).unwrap();
    storage.write("file", bytes(3 * PART_BYTES - 1)).unwrap();
    let found = reason(read(&storage, &hashed, 0..3).unwrap_err());
    assert!(found.contains("found 2999 bytes, expected 3000"), "{found}");
    let missing = storage.read_parts("other", &hashed, 0..3, &mut |_, _| ()).unwrap_err();
    assert!(reason(missing).contains("the file is missing"));
    store.die_after(0);
    assert!(matches!(read(&storage, &hashed, 0..3), Err(TrainerError::Store(_))));
}

#[test]
fn sums_that_do_not_fit_the_size_are_refused() {
    let storage = in_memory(&FaultyStore::new());
    let mut hashed = storage.write_hashed("file", &bytes(3 * PART_BYTES), &Patience::none()).unwrap();
    hashed.parts.pop();
    assert!(reason(read(&storage, &hashed, 0..2).unwrap_err()).contains("expected 3"));
    hashed.part_bytes = 0;
    assert!(read(&storage, &hashed, 0..2).is_err());
}

#[test]
fn bytes_damaged_on_the_way_are_fetched_again_once() {
    let store = FaultyStore::new();
    let storage = in_memory(&store);
    let content = bytes(20 * PART_BYTES);
    let hashed = storage.write_hashed("file", &content, &Patience::none()).unwrap();
    // Damaged the first time and right the second time.
    for part in 5..7 {
        store.damage_reads(1);
        let range = hashed.range(part);
        let expected = content.slice(range.start as usize..range.end as usize);
        assert_eq!(read(&storage, &hashed, part..part + 1).unwrap().0, expected);
    }
    store.damage_reads(usize::MAX);
    assert!(reason(read(&storage, &hashed, 5..7).unwrap_err()).contains("bytes 5000..6000"));
}
