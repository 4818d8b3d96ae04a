//! What any number of writers wrote, any number of readers reads, each no more than it needs.

use super::*;
use crate::storage::Patience;

/// Commits a state in so many parts, cut at these places of the flat space and of the list of tensors.
fn commit_in_parts(lease: &Lease, run: &RunPrefix, whole: &Snapshot, cuts: &[(usize, usize)]) -> Committed {
    let attempt = lease.attempt(&whole.about).unwrap();
    let mut ends = vec![(0, 0)];
    ends.extend(cuts);
    ends.push((whole.about.flat_len, whole.trainable.len()));
    let of = ends.len() - 1;
    let mut records = Vec::new();
    for index in 0..of {
        let (values, tensors) = (ends[index].0..ends[index + 1].0, ends[index].1..ends[index + 1].1);
        let moments = |all: &[f32]| all[values.clone()].to_vec();
        let (exp_avg, exp_avg_sq) = (moments(&whole.exp_avg), moments(&whole.exp_avg_sq));
        let pairs = tensors.map(|i| (&whole.about.segments[i], &whole.trainable[i].values as &dyn Floats));
        let (exp_avg, exp_avg_sq): (&dyn Floats, &dyn Floats) = (&exp_avg, &exp_avg_sq);
        let part = Part { index, of, tensors: pairs.collect(), first: values.start, exp_avg, exp_avg_sq };
        records.push(run.write_part(&attempt.folder, &part, &Patience::none()).unwrap());
    }
    // In whatever order they arrive.
    records.reverse();
    lease.commit_parts(&attempt, whole.about.clone(), records, &Patience::none()).unwrap()
}

/// A state of some tensors with gaps between them.
fn drawn(lens: &[usize], gaps: &[usize]) -> Snapshot {
    let mut about = About { stage_index: 1, stage: "representation".into(), step: 3, ..About::default() };
    let mut trainable = Vec::new();
    for (i, (len, gap)) in lens.iter().zip(gaps).enumerate() {
        let name = format!("t{i:02}");
        about.segments.push(Segment { name: name.clone(), shape: vec![*len], offset: about.flat_len });
        let values = (0..*len).map(|j| (about.flat_len + j) as f32).collect();
        trainable.push(NamedArray { name, shape: vec![*len], values });
        about.flat_len += len + gap;
    }
    let moments = |sign: f32| (0..about.flat_len).map(|i| sign * (i as f32 + 0.5)).collect();
    Snapshot { trainable, exp_avg: moments(1.0), exp_avg_sq: moments(-1.0), about }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_readers_get_what_any_writers_wrote(
        tensors in proptest::collection::vec((0usize..40, 0usize..9), 1..8),
        cuts in proptest::collection::vec((0.0f64..1.0, 0.0f64..1.0), 0..5),
        readers in 1usize..7,
        part_bytes in 1u64..200,
    ) {
        let (lens, gaps): (Vec<usize>, Vec<usize>) = tensors.into_iter().unzip();
        let whole = drawn(&lens, &gaps);
        let (folder, _) = new_run();
        let place = Location::parse(folder.path().join("run").to_str().unwrap()).unwrap();
        let run = RunPrefix { storage: Arc::new(Storage::at(place).unwrap().with_parts_of(part_bytes)) };
        let lease = run.take_over(holder("a")).unwrap();
        let at = |share: f64, len: usize| (share * (len + 1) as f64) as usize;
        let (mut first, mut second): (Vec<usize>, Vec<usize>) =
            cuts.iter().map(|cut| (at(cut.0, whole.about.flat_len), at(cut.1, lens.len()))).unzip();
        first.sort_unstable();
        second.sort_unstable();
        let cuts: Vec<(usize, usize)> = first.into_iter().zip(second).collect();
        let uri = commit_in_parts(&lease, &run, &whole, &cuts).uri;
        prop_assert_eq!(&newest(&run), &whole);

        let stored = open_stored(&uri).unwrap();
        let mut flat = FlatRange::default();
        for reader in 0..readers {
            let len = whole.about.flat_len;
            let mut piece = stored.flat(reader * len / readers..(reader + 1) * len / readers).unwrap();
            flat.weights.append(&mut piece.weights);
            flat.exp_avg.append(&mut piece.exp_avg);
            flat.exp_avg_sq.append(&mut piece.exp_avg_sq);
        }
        let mut expected = vec![0.0_f32; whole.about.flat_len];
        for (segment, array) in whole.about.segments.iter().zip(&whole.trainable) {
            expected[segment.offset..][..segment.len()].copy_from_slice(&array.values);
        }
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        prop_assert_eq!(flat.weights, bytes(&expected));
        prop_assert_eq!(flat.exp_avg, bytes(&whole.exp_avg));
        prop_assert_eq!(flat.exp_avg_sq, bytes(&whole.exp_avg_sq));
    }
}

#[test]
fn a_reader_of_a_range_does_not_see_damage_elsewhere_and_names_its_own() {
    let (folder, _) = new_run();
    let place = Location::parse(folder.path().join("run").to_str().unwrap()).unwrap();
    let run = RunPrefix { storage: Arc::new(Storage::at(place).unwrap().with_parts_of(64)) };
    let lease = run.take_over(holder("a")).unwrap();
    let whole = drawn(&[100], &[0]);
    let uri = commit_in_parts(&lease, &run, &whole, &[]).uri;
    let path = Path::new(&uri).join(MOMENTS);
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let stored = open_stored(&uri).unwrap();
    stored.flat(0..50).unwrap();
    let error = stored.flat(50..100).unwrap_err().to_string();
    let (start, end) = (last / 64 * 64, bytes.len());
    assert!(error.contains(MOMENTS) && error.contains(&format!("bytes {start}..{end}")), "{error}");
    assert_eq!(stored.verify().unwrap().len(), 1);
}

#[test]
fn a_damaged_checkpoint_in_quarantine_is_not_tried_again_and_stays() {
    let (folder, run) = new_run();
    let lease = run.take_over(holder("a")).unwrap();
    for step in [10, 20] {
        lease.commit(&state(1, step)).unwrap();
    }
    let damaged = run.commits().unwrap()[1].record.folder.clone();
    lease.quarantine(&damaged, "it is torn").unwrap();
    assert_eq!(newest(&run), state(1, 10));
    assert_eq!(run.quarantined().unwrap(), [Quarantined { folder: damaged.clone(), reason: "it is torn".into() }]);
    let next = run.take_over(holder("b")).unwrap();
    assert!(next.collected().unwrap().is_empty());
    next.commit(&state(1, 30)).unwrap();
    next.retain(&keep(1, None)).unwrap();
    assert!(folder.path().join("run").join(&damaged).join(MANIFEST).exists());

    // None but damaged ones is no empty run.
    let (_folder, run) = new_run();
    let lease = run.take_over(holder("a")).unwrap();
    lease.commit(&state(1, 10)).unwrap();
    let damaged = run.commits().unwrap()[0].record.folder.clone();
    lease.quarantine(&damaged, "it is torn").unwrap();
    let error = run.candidates(None).unwrap_err().to_string();
    assert!(error.contains("it is torn"), "{error}");
}

#[test]
fn a_manifest_that_contradicts_itself_is_named() {
    let (_folder, run) = new_run();
    let lease = run.take_over(holder("a")).unwrap();
    let uri = lease.commit(&state(1, 10)).unwrap().uri;
    let path = Path::new(&uri).join(MANIFEST);
    let text = std::fs::read_to_string(&path).unwrap();
    let whole: serde_json::Value = serde_json::from_str(&text).unwrap();
    let refused = |change: &dyn Fn(&mut serde_json::Value), words: &str| {
        let mut wrong = whole.clone();
        change(&mut wrong);
        std::fs::write(&path, wrong.to_string()).unwrap();
        let error = open_stored(&uri).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(&|it| it["trainable"][0]["at"] = 1_000_000.into(), "expected a place in its");
    refused(&|it| it["trainable"][0]["at"] = u64::MAX.into(), "expected a place in its");
    refused(&|it| it["trainable"][0]["shape"] = serde_json::json!([3]), "expected shape [2]");
    refused(&|it| it["moments"][0]["len"] = 23.into(), "found moments of 23 values, expected 24");
    refused(&|it| it["moments"][0]["len"] = u64::MAX.into(), "found moments of");
    refused(&|it| it["moments"][0]["first"] = 3.into(), "expected them from 0 on");
    refused(&|it| it["files"][MOMENTS]["part_bytes"] = 0.into(), "parts of 0 bytes");
    refused(&|it| it["files"][MOMENTS]["parts"] = serde_json::json!([]), "sums of 0 parts");
    refused(&|it| it["segments"][0]["offset"] = 1000.into(), "behind the flat space");
    refused(&|it| it["flat_len"] = 48.into(), "found moments of 24 values, expected 48");
    refused(&|it| it["format_version"] = "two".into(), "not a manifest");
}
