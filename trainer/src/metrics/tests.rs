#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::storage::faulty_store::FaultyStore;

fn record(stage_index: usize, step: u64, total: f64) -> Record {
    let values = [("loss/itc", 0.5), ("loss/total", total), ("lr", 1e-4), ("grad_norm", f64::NAN)];
    let stage = ["representation", "generative"][stage_index - 1];
    Record::new(stage_index, stage, step, values.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

/// One launch that begins at a step of stage 1 and writes these records.
fn launch(output: &str, name: &str, step: u64, records: &[Record]) {
    let start = SessionStart::new(name, 1, "representation", step);
    let mut writer = MetricsWriter::create(output, start, TensorBoard::On).unwrap();
    for record in records {
        writer.write(record).unwrap();
    }
    writer.flush().unwrap();
    assert_eq!(writer.take_warning(), None);
}

#[test]
fn a_resumed_run_reads_as_one_curve() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().to_str().unwrap();
    launch(output, "000001-aa", 0, &[record(1, 0, 5.0), record(1, 10, 4.0), record(1, 20, 3.0), record(2, 0, 9.0)]);
    launch(output, "000002-bb", 10, &[record(1, 10, 4.5), record(1, 20, 3.5), record(2, 0, 8.0)]);
    launch(output, "000003-cc", 20, &[]);
    let read = read_metrics(output).unwrap();
    let totals: Vec<_> = read.iter().map(|it| (it.stage_index, it.step, it.value("loss/total").unwrap())).collect();
    assert_eq!(totals, [(1, 0, 5.0), (1, 10, 4.5)]);
    assert_eq!((read[0].stage.as_str(), read[0].value("lr")), ("representation", Some(1e-4)));
    assert!(read[0].value("grad_norm").unwrap().is_nan());
    for stage in ["representation", "generative"] {
        let files = std::fs::read_dir(folder.path().join("tb").join(stage)).unwrap().count();
        assert_eq!(files, 2, "{stage}");
    }
}

#[test]
fn a_line_has_the_losses_in_a_map_of_their_own() {
    let text = serde_json::to_string(&record(1, 3, 2.0)).unwrap();
    let rest = text.split_once(",\"stage_index\"").unwrap().1;
    assert_eq!(
        rest,
        ":1,\"stage\":\"representation\",\"step\":3,\"losses\":{\"itc\":0.5,\"total\":2.0},\"lr\":0.0001,\"grad_norm\":null}"
    );
}

#[test]
fn only_the_last_line_of_a_file_may_be_torn() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().to_str().unwrap();
    launch(output, "000001-aa", 0, &[record(1, 0, 5.0)]);
    let path = folder.path().join("metrics/000001-aa.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}{{\"schema_ver")).unwrap();
    assert_eq!(read_metrics(output).unwrap().len(), 1);
    std::fs::write(&path, format!("oops\n{text}")).unwrap();
    assert!(matches!(read_metrics(output), Err(TrainerError::BadMetrics { line: 1, .. })));
}

#[test]
fn tensorboard_that_cannot_be_written_is_given_up_with_one_warning() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().to_str().unwrap();
    std::fs::write(folder.path().join("tb"), "in the way").unwrap();
    let start = SessionStart::new("000001-aa", 1, "representation", 0);
    let mut writer = MetricsWriter::create(output, start, TensorBoard::On).unwrap();
    writer.write(&record(1, 0, 5.0)).unwrap();
    let warning = writer.take_warning().unwrap();
    assert!(warning.contains("not written any more") && warning.contains("tb/representation"), "{warning}");
    writer.write(&record(1, 1, 4.0)).unwrap();
    writer.flush().unwrap();
    assert_eq!(writer.take_warning(), None);
    assert_eq!(read_metrics(output).unwrap().len(), 2);
}

#[test]
fn an_object_store_gets_whole_segments_seldom_and_may_fail() {
    let store = FaultyStore::new();
    let start = SessionStart::new("000001-aa", 1, "representation", 0);
    let mut writer = MetricsWriter::create_at(store.location(), start, TensorBoard::On).unwrap();
    for step in 0..5 {
        writer.write(&record(1, step, 5.0)).unwrap();
        writer.flush().unwrap();
    }
    assert_eq!(store.writes(), 2, "the session start, and the first flush of TensorBoard's file");
    writer.finish().unwrap();
    assert_eq!((store.writes(), read_metrics_at(store.location()).unwrap().len()), (4, 5));

    store.die_after(0);
    writer.write(&record(1, 5, 5.0)).unwrap();
    assert!(writer.finish().is_err());
    assert!(writer.take_warning().unwrap().contains("TensorBoard"));
    store.die_after(-1);
    drop(writer);
    assert_eq!(read_metrics_at(store.location()).unwrap().len(), 6);
}
