//! Inputs of every kind as files, and the rows that come of them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, DictionaryArray, Int32Array, Int64Array, ListBuilder, StringArray, StringBuilder, StructArray,
};
use arrow::datatypes::{DataType, Field, Int32Type};
use arrow::util::display::array_value_to_string;
use parquet::arrow::ArrowWriter;

use super::*;

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn whole(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn choice(url: Option<&str>, caption: Option<&str>, dropped: &[&str]) -> ColumnChoice {
    let dropped = dropped.iter().map(|name| (*name).to_owned()).collect();
    ColumnChoice { url: url.map(Into::into), caption: caption.map(Into::into), dropped }
}

/// All rows of an input as texts: carried columns, then `caption`, `url` and the reason of a bad line, by name.
fn rows(input: &Path, choice: &ColumnChoice) -> Result<Vec<(String, Vec<String>)>> {
    let out = tempfile::tempdir().unwrap();
    rows_into(input, choice, out.path())
}

fn rows_into(input: &Path, choice: &ColumnChoice, out: &Path) -> Result<Vec<(String, Vec<String>)>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let place = |path: &Path| Location::parse(path.to_str().unwrap());
        let input = Input::open(Source::find(&place(input)?).await?, &place(out)?, choice).await?;
        let given = input.cursor().read(0..input.rows()).await?;
        let text = |column: &ArrayRef| {
            let value = |row| match column.is_null(row) {
                true => "null".to_owned(),
                false => array_value_to_string(column, row).unwrap(),
            };
            (0..column.len()).map(value).collect::<Vec<_>>()
        };
        let names = input.carried().iter().map(|field| format!("{}: {}", field.name(), field.data_type()));
        let mut found: Vec<_> = names.zip(given.carried.iter().map(text)).collect();
        found.push(("caption".into(), text(&given.captions)));
        found.push(("url".into(), text(&given.urls)));
        found.extend(given.bad_lines.iter().map(|column| ("bad_line".into(), text(column))));
        Ok(found)
    })
}

fn expected(columns: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    columns.iter().map(|(name, values)| ((*name).to_owned(), owned(values))).collect()
}

fn refused(input: &Path, choice: &ColumnChoice, words: &[&str]) {
    let error = rows(input, choice).unwrap_err();
    assert!(matches!(error, DataError::Setting(_)), "{error:?}");
    for word in words {
        assert!(error.to_string().contains(word), "{word} is missing in: {error}");
    }
}

#[test]
fn a_column_may_have_two_roles() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("0.parquet");
    write(&file, vec![("id", whole(&[1, 2])), ("url", texts(&["u", "v"])), ("text", texts(&["a", "b"]))]);
    let of = |choice: ColumnChoice| rows(folder.path(), &choice).unwrap();
    let both = [("id: Int64", &["1", "2"][..]), ("caption", &["u", "v"]), ("url", &["u", "v"])];
    let text = [("text: Utf8", &["a", "b"][..])];
    assert_eq!(of(choice(None, Some("url"), &[])), expected(&[&both[..1], &text, &both[1..]].concat()));
    assert_eq!(of(choice(Some("url"), Some("URL"), &["text"])), expected(&both));
    let usual = [("id: Int64", &["1", "2"][..]), ("caption", &["a", "b"]), ("url", &["u", "v"])];
    assert_eq!(of(choice(None, None, &["text", "url"])), expected(&usual));
    assert_eq!(of(choice(None, None, &["id", "id"])), expected(&usual[1..]));
}

#[test]
fn names_of_exact_case_come_first() {
    let folder = tempfile::tempdir().unwrap();
    let columns = ["URL", "url", "TEXT", "Caption", "captions", "title"];
    write(&folder.path().join("0.parquet"), columns.iter().map(|name| (*name, texts(&[name]))).collect());
    let found = rows(folder.path(), &ColumnChoice::default()).unwrap();
    let value = |name: &str| found.iter().find(|(column, _)| column == name).map(|(_, values)| values[0].clone());
    assert_eq!((value("url").unwrap(), value("caption").unwrap()), ("url".into(), "Caption".into()));
    assert_eq!(value("URL: Utf8").unwrap(), "URL");
    let titles = tempfile::tempdir().unwrap();
    write(&titles.path().join("0.parquet"), vec![("image_url", texts(&["u"])), ("title", texts(&["t"]))]);
    refused(titles.path(), &ColumnChoice::default(), &["`alt_text`", "title", "--caption-column"]);
}

#[test]
fn lists_of_captions_stay_lists() {
    let folder = tempfile::tempdir().unwrap();
    let mut lists = ListBuilder::new(StringBuilder::new());
    lists.append_value([Some("a dog"), Some("a brown dog")]);
    lists.append_value([Some(" ")]);
    let columns = vec![("url", texts(&["u", "v"])), ("caption", Arc::new(lists.finish()) as ArrayRef)];
    write(&folder.path().join("0.parquet"), columns);
    write(&folder.path().join("1.parquet"), vec![("url", texts(&["w"])), ("caption", texts(&["a cat"]))]);
    let captions = ("captions: List(Utf8)", &["[a dog, a brown dog]", "[ ]", "[a cat]"][..]);
    let rest = [("caption", &["a dog", "null", "a cat"][..]), ("url", &["u", "v", "w"])];
    let found = rows(folder.path(), &ColumnChoice::default()).unwrap();
    assert_eq!(found, expected(&[&[captions][..], &rest].concat()));
}

#[test]
fn captions_and_urls_of_other_types_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("0.parquet");
    let text = Arc::new(Field::new("text", DataType::Utf8, true));
    let structs: ArrayRef = Arc::new(StructArray::from(vec![(text, texts(&["a"]))]));
    for (captions, kind) in [(whole(&[1]), "Int64"), (structs, "Struct")] {
        write(&file, vec![("url", texts(&["u"])), ("caption", captions)]);
        refused(folder.path(), &ColumnChoice::default(), &["0.parquet", "`caption`", kind, "--caption-column"]);
    }
    write(&file, vec![("url", whole(&[1])), ("caption", texts(&["a"]))]);
    refused(folder.path(), &ColumnChoice::default(), &["0.parquet", "`url`", "Int64", "--url-column"]);
}

#[test]
fn types_that_change_between_files_keep_their_values() {
    let folder = tempfile::tempdir().unwrap();
    let columns = |id: ArrayRef, label: ArrayRef| {
        vec![("url", texts(&["u", "v"])), ("caption", texts(&["a", "b"])), ("id", id), ("label", label)]
    };
    let small: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None]));
    let labels: DictionaryArray<Int32Type> = vec!["x", "y"].into_iter().collect();
    write(&folder.path().join("0.parquet"), columns(small, Arc::new(labels)));
    write(&folder.path().join("1.parquet"), columns(texts(&["x3", "4"]), texts(&["z", "x"])));
    let found = rows(folder.path(), &ColumnChoice::default()).unwrap();
    assert_eq!(
        found[..2],
        expected(&[("id: Utf8", &["1", "null", "x3", "4"]), ("label: Utf8", &["x", "y", "z", "x"])])
    );
    let flags: ArrayRef = Arc::new(arrow::array::BooleanArray::from(vec![true, false]));
    write(&folder.path().join("2.parquet"), columns(flags, texts(&["x", "x"])));
    let words = ["`id`", "1.parquet", "2.parquet", "Utf8", "Boolean", "--drop-column id"];
    refused(folder.path(), &ColumnChoice::default(), &words);
    assert_eq!(rows(folder.path(), &choice(None, None, &["id"])).unwrap()[0].1.len(), 6);
}

#[test]
fn unfinished_and_hidden_files_are_no_data() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["0.parquet", "_temporary/0/0.parquet", ".ipynb_checkpoints/0-checkpoint.parquet", "a/_1.parquet"];
    for name in names {
        write(&folder.path().join(name), vec![("url", texts(&[name])), ("caption", texts(&["a"]))]);
    }
    let found = rows(folder.path(), &ColumnChoice::default()).unwrap();
    assert_eq!(found[1], ("url".to_owned(), vec!["0.parquet".to_owned()]));
    // Named by itself, the place of a file does not matter.
    let named = rows(&folder.path().join(names[1]), &ColumnChoice::default()).unwrap();
    assert_eq!(named[1].1, [names[1]]);
}

/// Columns by name, with their values.
type Values = &'static [(&'static str, &'static [&'static str])];

/// Names of lists, texts in their published form, and the values that they hold.
const PUBLISHED: [(&str, &str, Values); 6] = [
    (
        "Train_GCC-training.tsv",
        "a very typical bus station\thttp://lh6.ggpht.com/-Iv/0210.jpg\n\
         sierra looked \"stunning\" , # in this top\thttp://78.media.tumblr.com/3b/o1.jpg?x=1&y=2\n",
        &[
            ("caption", &["a very typical bus station", "sierra looked \"stunning\" , # in this top"]),
            ("url", &["http://lh6.ggpht.com/-Iv/0210.jpg", "http://78.media.tumblr.com/3b/o1.jpg?x=1&y=2"]),
            ("bad_line", &["null", "null"]),
        ],
    ),
    (
        "cc12m.tsv",
        "https://chart-studio.plot.ly/2.png\t<PERSON> was the first US president\n\
         https://i.a.com/3\nhttp://x.y/z\tcaf\u{e9}, \"red\n",
        &[
            ("caption", &["<PERSON> was the first US president", "null", "caf\u{e9}, \"red"]),
            ("url", &["https://chart-studio.plot.ly/2.png", "null", "http://x.y/z"]),
            ("bad_line", &["null", "line 2 has 1 field, expected 2", "null"]),
        ],
    ),
    (
        "sbu-captions-all.json",
        "{\"image_urls\": [\"http://static.flickr.com/2723/4385058960_b0f291553e.jpg\"], \
         \"user_ids\": [\"47889917@N08\"], \"captions\": [\"A wooden chair in the living room\"]}",
        &[
            ("user_ids: Utf8", &["47889917@N08"]),
            ("caption", &["A wooden chair in the living room"]),
            ("url", &["http://static.flickr.com/2723/4385058960_b0f291553e.jpg"]),
            ("bad_line", &["null"]),
        ],
    ),
    (
        "list.csv",
        "\u{feff}id,caption,url\r\n7,\"one, \"\"two\"\"\nthree\",http://a.b/1\r\n",
        &[
            ("id: Utf8", &["7"]),
            ("caption", &["one, \"two\"\nthree"]),
            ("url", &["http://a.b/1"]),
            ("bad_line", &["null"]),
        ],
    ),
    (
        "list.jsonl",
        "{\"url\": \"http://a.b/1\", \"caption\": [\"a\", \"b\"], \"score\": 0.5}\n\
         {\"url\": \"http://a.b/2\", \"caption\": \"c\", \"score\": 1}\n",
        &[
            ("score: Float64", &["0.5", "1.0"]),
            ("captions: List(Utf8)", &["[a, b]", "[c]"]),
            ("caption", &["a", "c"]),
            ("url", &["http://a.b/1", "http://a.b/2"]),
            ("bad_line", &["null", "null"]),
        ],
    ),
    (
        "ccs_filtered.json",
        "[{\"caption\": \"a\", \"url\": \"http://a.b/1\"},\n {\"caption\": \"b\", \"url\": \"http://a.b/2\"}]",
        &[("caption", &["a", "b"]), ("url", &["http://a.b/1", "http://a.b/2"]), ("bad_line", &["null", "null"])],
    ),
];

#[test]
fn published_lists_are_read_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text, columns) in PUBLISHED {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        assert_eq!(rows(&file, &ColumnChoice::default()).unwrap(), expected(columns), "{name}");
    }
}

#[test]
fn a_list_is_converted_once_and_again_when_it_has_changed() {
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let list = folder.path().join("list.tsv");
    let converted = out.path().join("_input/rows.part");
    let urls = |count: usize| (0..count).map(|row| format!("a\thttp://a.b/{row}\n")).collect::<String>();
    fs::write(&list, urls(250_000)).unwrap();
    let open = || rows_into(&list, &ColumnChoice::default(), out.path()).unwrap();
    let found = open();
    assert!(found[1].1.iter().enumerate().all(|(row, url)| *url == format!("http://a.b/{row}")));
    assert_eq!(found[1].1.len(), 250_000);
    let made = fs::metadata(&converted).unwrap().modified().unwrap();
    open();
    assert_eq!(fs::metadata(&converted).unwrap().modified().unwrap(), made, "it was made again");
    fs::write(&list, urls(3)).unwrap();
    assert_eq!(open()[1].1.len(), 3);
    fs::write(&converted, "damage").unwrap();
    assert_eq!(open()[1].1.len(), 3);
}

#[test]
fn what_is_no_list_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        fs::write(folder.path().join(name), bytes).unwrap();
        folder.path().join(name)
    };
    let usual = ColumnChoice::default();
    refused(&write("list.tsv", b"a\thttp://a.b/1\n"), &choice(Some("3"), None, &[]), &["list.tsv", "1 to 2"]);
    refused(folder.path(), &usual, &["list.tsv", "Parquet", "named"]);
    refused(&write("list.tsv.gz", b"\x1f\x8b"), &usual, &["list.tsv.gz", "gzip"]);
    refused(&write("packed.csv", b"\x1f\x8bxyz"), &usual, &["packed.csv", "gzip"]);
    refused(&write("wide.tsv", b"\xff\xfea\0"), &usual, &["UTF-16"]);
    refused(&write("empty.tsv", b""), &usual, &["0 bytes"]);
    refused(&write("list.txt", b"http://a.b/1\n"), &usual, &["list.txt", "*.tsv"]);
    refused(&write("cut.json", b"[{\"url\": \"a\", \"caption\": \"b\"},"), &usual, &["cut.json", "entry 2"]);
    refused(&folder.path().join("none"), &usual, &["no *.parquet"]);
}

#[test]
fn the_identity_of_parquet_files_is_written_as_before() {
    let identity = FileIdentity { name: "a.parquet".into(), bytes: 5, rows: Some(7), end_sha256: "00".into() };
    let text = r#"{"name":"a.parquet","bytes":5,"rows":7,"end_sha256":"00"}"#;
    assert_eq!(serde_json::to_string(&identity).unwrap(), text);
    assert_eq!(serde_json::from_str::<FileIdentity>(text).unwrap(), identity);
}
