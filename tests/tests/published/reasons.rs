//! A row for every reason why a row is not used.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use configs::{Filters, Nsfw, Source, VqaSource};
use data_pipeline::catalog::Catalog;
use integration_tests::sets::image;
use serde_json::json;

use crate::{annotated, images, make, numbered, shards, unchecked_texts, uri, write, write_parquet};

/// A member of a tar.
fn member(tar: &mut tar::Builder<std::fs::File>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, name, content).unwrap();
}

/// Status, caption, width, height, class and similarity of a row.
type FactsOfRow = (&'static str, &'static str, i64, i64, &'static str, f64);

/// One Parquet row for each reason that filters and shards give.
fn rows_of_every_reason(file: &Path) {
    let good: FactsOfRow = ("success", "a good caption", 300, 300, "UNLIKELY", 0.4);
    let rows = [
        good,
        ("failed_to_download", good.1, 300, 300, good.4, 0.4),
        ("filtered", good.1, 300, 300, good.4, 0.4),
        (good.0, " ...", 300, 300, good.4, 0.4),
        (good.0, "caf\u{e9}", 300, 300, good.4, 0.4),
        (good.0, "a", 300, 300, good.4, 0.4),
        (good.0, "a caption that is much longer than the filter lets pass", 300, 300, good.4, 0.4),
        (good.0, "img_12345.jpg", 300, 300, good.4, 0.4),
        (good.0, good.1, 100, 300, good.4, 0.4),
        (good.0, good.1, 300, 3000, good.4, 0.4),
        (good.0, good.1, 300, 300, "NSFW", 0.4),
        (good.0, good.1, 300, 300, "0.9", 0.4),
        (good.0, good.1, 300, 300, good.4, f64::NAN),
    ];
    // The text with the accent is cut in the middle of it: no UTF-8.
    let bytes =
        |text: &str| if text.contains('\u{e9}') { text.as_bytes()[..4].to_vec() } else { text.as_bytes().to_vec() };
    let captions = unchecked_texts(rows.iter().map(|row| bytes(row.1)));
    let texts = |text: fn(&FactsOfRow) -> &'static str| {
        Arc::new(StringArray::from_iter_values(rows.iter().map(text))) as ArrayRef
    };
    let sides =
        |side: fn(&FactsOfRow) -> i64| Arc::new(Int64Array::from_iter_values(rows.iter().map(side))) as ArrayRef;
    write_parquet(
        file,
        vec![
            ("jpg", images(rows.len())),
            ("caption", Arc::new(captions)),
            ("status", texts(|row| row.0)),
            ("width", sides(|row| row.2)),
            ("height", sides(|row| row.3)),
            ("NSFW", texts(|row| row.4)),
            ("similarity", Arc::new(arrow::array::Float64Array::from_iter_values(rows.iter().map(|row| row.5)))),
        ],
    );
}

#[test]
fn every_reason_of_a_row_has_a_row_that_gives_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut given: BTreeMap<String, u64> = BTreeMap::new();
    let mut count = |catalog: &Catalog| {
        let usable = catalog.usable();
        let rejected = &catalog.description.rejected;
        assert_eq!(usable + rejected.values().sum::<u64>(), catalog.description.rows, "{rejected:?}");
        rejected.iter().for_each(|(reason, rows)| *given.entry(reason.clone()).or_default() += rows);
    };
    rows_of_every_reason(&at("parquet/0.parquet"));
    let filters = Filters {
        min_side: Some(200),
        max_aspect: Some(4.0),
        max_nsfw: Some(Nsfw::Unlikely),
        min_similarity: Some(0.3),
        min_caption_chars: Some(3),
        max_caption_chars: Some(40),
        drop_junk_captions: true,
    };
    let catalog = make(&Source::Parquet(shards(&at("parquet"), None, filters)));
    assert_eq!(catalog.usable(), 1);
    count(&catalog);

    std::fs::create_dir_all(at("tars")).unwrap();
    let mut tar = tar::Builder::new(std::fs::File::create(at("tars/0.tar")).unwrap());
    for (name, content) in [("1.left.jpg", numbered(1)), ("1.right.jpg", numbered(2)), ("1.txt", b"a".to_vec())] {
        member(&mut tar, name, &content);
    }
    for (name, content) in
        [("2.jpg", numbered(1)), ("2.txt", b"a".to_vec()), ("2.jpg", numbered(2)), ("3.txt", b"b".to_vec())]
    {
        member(&mut tar, name, &content);
    }
    tar.finish().unwrap();
    count(&make(&Source::WebDataset(shards(&at("tars"), None, Filters::none()))));

    let genome = at("genome");
    for (name, bytes) in [("VG_100K/1.jpg", numbered(1)), ("VG_100K/2.jpg", numbered(2)), ("VG_100K_2/2.jpg", image(1))]
    {
        write(&genome.join("images").join(name), bytes);
    }
    let regions: Vec<_> = (1..4).map(|id| json!({ "id": id, "regions": [{ "phrase": "a tree" }] })).collect();
    write(&genome.join("regions.json"), json!(regions).to_string());
    count(&make(&Source::VisualGenome(annotated(&genome, "regions.json"))));

    let asked = |question: serde_json::Value, answer: serde_json::Value| json!({ "question": question, "image": "1.jpg", "answer": answer });
    let mut list =
        vec![asked("a?".into(), "yes".into()), asked(" ".into(), "yes".into()), asked("b?".into(), json!([]))];
    list.iter_mut().enumerate().for_each(|(id, entry)| entry["question_id"] = id.into());
    write(&at("vqa/list.json"), json!(list).to_string());
    write(&at("vqa/images/1.jpg"), numbered(1));
    let source = VqaSource {
        name: "vqa".into(),
        uri: uri(&at("vqa")),
        questions: "list.json".into(),
        annotations: "list.json".into(),
        images: "images".into(),
        weight: 1.0,
    };
    count(&make(&Source::Vqa(source)));

    let expected: Vec<&str> = data_pipeline::reasons::ROW_REASONS.iter().map(|(name, _)| *name).collect();
    let missing: Vec<&&str> = expected.iter().filter(|name| !given.contains_key(**name)).collect();
    assert!(missing.is_empty(), "no row gave {missing:?}; given: {given:?}");
    assert!(given.keys().all(|reason| expected.contains(&reason.as_str())), "{given:?}");
}
