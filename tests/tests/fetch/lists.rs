//! Text lists as they are published, from the file to shards.

use std::fs;
use std::process::Command;

use arrow::array::{Array, AsArray};
use integration_tests::programs::{all_output, built, run_within};
use integration_tests::web::Web;

use crate::site::{answer, assert_same, contents, done, fetch, read, texts};

#[test]
fn published_lists_are_fetched_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let web = Web::serve("127.0.0.2", answer);
    let [one, two] = ["/picture/1", "/gone"].map(|path| web.url(path));
    let cases = [
        ("Train_GCC-training.tsv", format!("a \"red\" bus\t{one}\n\"two\t{two}\nno address\n")),
        ("cc12m.tsv", format!("{one}\ta \"red\" bus\r\n{two}\t\"two\r\nno caption\r\n")),
        (
            "sbu-captions-all.json",
            format!(
                r#"{{"image_urls": ["{one}", "{two}", null], "captions": ["a \"red\" bus", "\"two", null], "user_ids": ["a", "b", "c"]}}"#
            ),
        ),
    ];
    for (name, text) in cases {
        let (list, out) = (folder.path().join(name), folder.path().join(format!("{name}.out")));
        fs::write(&list, text).unwrap();
        let summary = done(&run_within(60, &fetch(&list, &out, &["--allow-private-addresses"])));
        assert_eq!((summary["rows"].as_u64(), summary["successes"].as_u64()), (Some(3), Some(1)), "{name}: {summary}");
        let batches = read(&out);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(texts(&batches, "url"), [Some(one.clone()), Some(two.clone()), None], "{name}");
        assert_eq!(texts(&batches, "caption"), [some("a \"red\" bus"), some("\"two"), None], "{name}");
        let last = if name.ends_with(".tsv") { "bad_line: line 3 has 1 field, expected 2" } else { "no_url" };
        assert_eq!(texts(&batches, "error_message"), [None, some("http_404"), some(last)], "{name}");
        assert!(batches[0].column_by_name("jpg").unwrap().as_binary::<i32>().is_valid(0), "{name}");

        // Nothing is left to be asked for, and another list is refused before anything changes.
        let before = contents(&out);
        let asked = web.asked_in_all();
        assert_eq!(done(&run_within(60, &fetch(&list, &out, &["--allow-private-addresses"])))["rows_fetched"], 0);
        assert_eq!(web.asked_in_all(), asked, "{name}");
        fs::write(&list, format!("another caption\t{one}\n")).unwrap();
        let refused = run_within(60, &fetch(&list, &out, &["--allow-private-addresses"]));
        assert_eq!(refused.status.code(), Some(2), "{}", all_output(&refused));
        assert_same(name, &out, &before);
    }
}

#[test]
fn the_end_of_a_fetch_names_the_columns_and_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let web = Web::serve("127.0.0.2", answer);
    let (list, out) = (folder.path().join("list.tsv"), folder.path().join("shards"));
    fs::write(&list, format!("a bus\t{}\n", web.url("/picture/1"))).unwrap();
    let mut command = Command::new(built("blip2"));
    command.args(["data", "fetch"]).arg(&list).arg("--out").arg(&out).arg("--allow-private-addresses");
    let output = run_within(60, &command);
    assert!(output.status.success(), "{}", all_output(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("column 2 is read as URLs and column 1 as captions"), "{text}");
    let source = format!("  - {{ name: shards, kind: parquet, uri: {}, weight: 1.0 }}\n", out.display());
    assert!(text.ends_with(&source), "{text}");
}
