//! Lists of addresses and captions, as `blip2 data fetch` takes them.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use data_pipeline::fetch::{Effort, FetchOptions, PictureOptions, Rules, Settings, fetch};
use data_pipeline::store::Location;
use serde_json::json;

use crate::{lists, write, write_parquet};

/// The columns `url`, `caption` and `captions` of what a fetch makes of a list whose addresses are refused.
fn fetched(list: &Path) -> Vec<(String, String, Vec<String>)> {
    let out = list.parent().unwrap().join("out");
    let options = FetchOptions {
        settings: Settings {
            picture: PictureOptions::default(),
            rules: Rules { robots_txt: false, ..Rules::default() },
            ..Settings::default()
        },
        effort: Effort { tries: 1, ..Effort::default() },
        ..FetchOptions::default()
    };
    let place = |path: &Path| Location::parse(&path.display().to_string()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(fetch(&place(list), &place(&out), &options, |_| ())).unwrap();
    let file = std::fs::File::open(out.join("00000.parquet")).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let mut found = Vec::new();
    for batch in reader.map(Result::unwrap) {
        let text =
            |name: &str, row: usize| batch.column_by_name(name).unwrap().as_string::<i32>().value(row).to_owned();
        let lists = batch.column_by_name("captions").map(|column| column.as_list::<i32>().clone());
        let list = |row: usize| -> Vec<String> {
            let own = lists.as_ref().map(|lists| lists.value(row));
            own.iter().flat_map(|own| own.as_string::<i32>().iter().flatten().map(str::to_owned)).collect()
        };
        found.extend((0..batch.num_rows()).map(|row| (text("url", row), text("caption", row), list(row))));
    }
    found
}

#[test]
fn web_lists_as_published() {
    let folder = tempfile::tempdir().unwrap();
    let two = |first: &str, second: &str| {
        vec![(first.to_owned(), "a dog".to_owned(), vec![]), (second.to_owned(), "b \"cat\"".to_owned(), vec![])]
    };
    // Private addresses are refused before anything is asked.
    let (one, other) = ("http://127.0.0.1/1.jpg", "http://127.0.0.1/2.jpg");
    let lists = [
        ("cc3m/Train_GCC-training.tsv", format!("a dog\t{one}\nb \"cat\"\t{other}\n")),
        ("cc12m/cc12m.tsv", format!("{one}\ta dog\n{other}\tb \"cat\"\n")),
        (
            "sbu/sbu-captions-all.json",
            json!({ "image_urls": [one, other], "captions": ["a dog", "b \"cat\""] }).to_string(),
        ),
        (
            "lines/list.jsonl",
            format!(
                "{}\n{}\n",
                json!({ "url": one, "caption": "a dog" }),
                json!({ "url": other, "caption": "b \"cat\"" })
            ),
        ),
    ];
    for (name, content) in lists {
        let file = folder.path().join(name);
        write(&file, content);
        assert_eq!(fetched(&file), two(one, other), "{name}");
    }
    // LAION-400M's metadata; and lists of captions, which stay lists.
    let texts = |values: &[&str]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
    let laion = folder.path().join("laion/part-00000.parquet");
    write_parquet(
        &laion,
        vec![
            ("SAMPLE_ID", Arc::new(Int64Array::from(vec![1, 2]))),
            ("URL", texts(&[one, other])),
            ("TEXT", texts(&["a dog", "b \"cat\""])),
            ("HEIGHT", Arc::new(Int64Array::from(vec![1, 2]))),
            ("WIDTH", Arc::new(Int64Array::from(vec![1, 2]))),
            ("LICENSE", texts(&["?", "?"])),
            ("NSFW", texts(&["UNLIKELY", "NSFW"])),
            ("similarity", Arc::new(arrow::array::Float64Array::from(vec![0.3, 0.4]))),
        ],
    );
    assert_eq!(fetched(&laion), two(one, other));
    let listed = folder.path().join("listed/0.parquet");
    write_parquet(&listed, vec![("url", texts(&[one])), ("caption", lists_of_captions())]);
    assert_eq!(
        fetched(&listed),
        [(one.to_owned(), "a dog".to_owned(), vec!["a dog".to_owned(), "a brown dog".to_owned()])]
    );
}

fn lists_of_captions() -> ArrayRef {
    lists(&[&[Some("a dog"), Some("a brown dog")]])
}
