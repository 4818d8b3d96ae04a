//! Sets in the forms in which they are published or handed on, made by hand: each is read, and every image keeps its text.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, DictionaryArray, Int64Array, LargeBinaryArray, LargeStringArray,
    ListBuilder, RecordBatch, StringArray, StringBuilder, StringViewArray, StructArray,
};
use arrow::datatypes::{DataType, Field, Int32Type};
use configs::{AnnotatedSource, Columns, Filters, Nsfw, ShardSource, Source, Uri, VqaSource};
use data_pipeline::catalog::{Catalog, READ_UNIT_BYTES, index};
use data_pipeline::fetch::{Effort, FetchOptions, PictureOptions, Rules, Settings, fetch};
use data_pipeline::store::Location;
use integration_tests::sets::{image, write_tars};
use parquet::arrow::ArrowWriter;
use serde_json::json;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn write(file: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, bytes).unwrap();
}

fn write_parquet(file: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(file).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn uri(place: &Path) -> Uri {
    Uri::new(&place.display().to_string())
}

fn shards(place: &Path, columns: Option<Columns>, filters: Filters) -> ShardSource {
    let (name, catalog) = ("set".to_owned(), None);
    ShardSource { name, uri: uri(place), catalog, weight: 1.0, top_captions: None, columns, filters }
}

fn annotated(folder: &Path, annotations: &str) -> AnnotatedSource {
    let (name, annotations, images) = ("set".to_owned(), annotations.to_owned(), "images".to_owned());
    AnnotatedSource { name, uri: uri(folder), annotations, images, catalog: None, weight: 1.0 }
}

fn make(source: &Source) -> Catalog {
    block_on(index(source, READ_UNIT_BYTES, &|_, _| ())).unwrap()
}

/// Every usable row of a catalogue: the image's bytes and its texts.
fn pairs(catalog: &Catalog) -> Vec<(Vec<u8>, Vec<String>)> {
    let mut found = Vec::new();
    for group in 0..catalog.row_groups.len() {
        let rows = block_on(catalog.read(group)).unwrap();
        for n in 0..catalog.row_groups[group].usable as usize {
            let row = catalog.row_of(group, n);
            assert_eq!(rows.unusable(row), None, "what the index calls usable is usable when it is read");
            let texts = rows.texts(row).into_iter().map(str::to_owned).collect();
            found.push((rows.image(row).unwrap().to_vec(), texts));
        }
    }
    found
}

/// An image whose bytes tell its number.
fn numbered(row: usize) -> Vec<u8> {
    let mut bytes = image(0);
    // Behind the end mark of a JPEG nothing is read.
    bytes.extend(row.to_le_bytes());
    bytes
}

fn expected(texts: &[&[&str]]) -> Vec<(Vec<u8>, Vec<String>)> {
    let own = |texts: &&[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    texts.iter().enumerate().map(|(row, texts)| (numbered(row), own(texts))).collect()
}

fn images(rows: usize) -> ArrayRef {
    Arc::new(BinaryArray::from_iter_values((0..rows).map(numbered)))
}

fn struct_of_images(rows: usize) -> ArrayRef {
    let paths = StringArray::from_iter_values((0..rows).map(|row| format!("{row}.jpg")));
    let member = |name: &str, kind| Arc::new(Field::new(name, kind, true));
    Arc::new(StructArray::from(vec![
        (member("bytes", DataType::Binary), images(rows)),
        (member("path", DataType::Utf8), Arc::new(paths) as ArrayRef),
    ]))
}

fn lists(rows: &[&[Option<&str>]]) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new());
    rows.iter().for_each(|row| lists.append_value(row.iter().copied()));
    Arc::new(lists.finish())
}

#[test]
fn parquet_of_the_hub_pandas_and_img2dataset() {
    let folder = tempfile::tempdir().unwrap();
    let large = || Arc::new(LargeBinaryArray::from_iter_values((0..2).map(numbered))) as ArrayRef;
    let categories: DictionaryArray<Int32Type> = vec!["a", "b"].into_iter().collect();
    let cases: Vec<(&str, ArrayRef, &str, ArrayRef)> = vec![
        ("image", struct_of_images(2), "text", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("image", images(2), "caption", Arc::new(LargeStringArray::from(vec!["a", "b"]))),
        ("JPG", large(), "TEXT", Arc::new(StringViewArray::from(vec!["a", "b"]))),
        ("image_bytes", images(2), "Caption", Arc::new(categories)),
        ("png", images(2), "captions", lists(&[&[Some("a")], &[Some("b"), Some(" "), None]])),
        ("webp", struct_of_images(2), "alt_text", Arc::new(StringArray::from(vec!["a", "b"]))),
    ];
    for (number, (image, bytes, caption, texts)) in cases.into_iter().enumerate() {
        let set = folder.path().join(format!("set{number}/data/train-00000-of-00001.parquet"));
        write_parquet(&set, vec![(image, bytes), (caption, texts), ("other", Arc::new(Int64Array::from(vec![1, 2])))]);
        let catalog = make(&Source::Parquet(shards(set.parent().unwrap(), None, Filters::none())));
        assert_eq!(pairs(&catalog), expected(&[&["a"], &["b"]]), "{image} {caption}");
    }
}

#[test]
fn columns_of_any_name_by_the_config() {
    let folder = tempfile::tempdir().unwrap();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("photo", images(2)),
        ("title", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("number", Arc::new(Int64Array::from(vec![7, 8]))),
        ("caption", Arc::new(StringArray::from(vec!["no", "no"]))),
    ];
    write_parquet(&folder.path().join("0.parquet"), columns);
    let named = |name: &str| Some(name.to_owned());
    let choice = Columns { image: named("photo"), caption: named("title"), key: named("number") };
    let source = Source::Parquet(shards(folder.path(), Some(choice), Filters::none()));
    let catalog = make(&source);
    assert_eq!(pairs(&catalog), expected(&[&["a"], &["b"]]));
    let keys = block_on(catalog.read(0)).unwrap().keys.unwrap();
    assert_eq!((keys.value(0), keys.value(1)), ("7", "8"));
    // The saved catalogue knows the columns, and refuses others.
    let place = Location::parse(&folder.path().join("catalog").display().to_string()).unwrap();
    block_on(catalog.save(&place)).unwrap();
    let loaded = block_on(Catalog::load(&place, &source, READ_UNIT_BYTES)).unwrap().catalog;
    assert_eq!(pairs(&loaded), expected(&[&["a"], &["b"]]));
    let other = Source::Parquet(shards(folder.path(), None, Filters::none()));
    assert!(block_on(Catalog::load(&place, &other, READ_UNIT_BYTES)).is_err());
}

#[test]
fn one_bad_text_costs_itself_and_no_fact_of_its_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let bad = |good: &[&str]| -> ArrayRef {
        let values: Vec<&[u8]> = good.iter().map(|text| text.as_bytes()).chain([&b"caf\xe9"[..]]).collect();
        let binary = BinaryArray::from_iter_values(values);
        let data = binary.into_data().into_builder().data_type(DataType::Utf8);
        // SAFETY: not UTF-8 on purpose; the array is written and never read as text.
        Arc::new(StringArray::from(unsafe { data.build_unchecked() }))
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("jpg", images(3)),
        ("caption", bad(&["a", "b"])),
        ("NSFW", Arc::new(StringArray::from(vec!["UNLIKELY", "NSFW", "UNLIKELY"]))),
    ];
    write_parquet(&folder.path().join("0.parquet"), columns);
    let filters = Filters { max_nsfw: Some(Nsfw::Unlikely), ..Filters::none() };
    let catalog = make(&Source::Parquet(shards(folder.path(), None, filters)));
    let rejected = [("caption_not_utf8".to_owned(), 1), ("nsfw".to_owned(), 1)];
    assert_eq!(catalog.description.rejected, BTreeMap::from(rejected), "an unsafe row does not pass beside a bad text");
    assert_eq!(pairs(&catalog), expected(&[&["a"]]));

    let all = bad(&["x", "y"]);
    let item = Arc::new(Field::new_list_field(DataType::Utf8, true));
    let offsets = arrow::buffer::OffsetBuffer::from_lengths([1, 1, 1]);
    let lists = arrow::array::ListArray::new(item, offsets, all, None);
    let captions: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
    let set = folder.path().join("lists");
    write_parquet(
        &set.join("0.parquet"),
        vec![("jpg", images(3)), ("caption", captions), ("captions", Arc::new(lists))],
    );
    let catalog = make(&Source::Parquet(shards(&set, None, Filters::none())));
    assert_eq!(pairs(&catalog), expected(&[&["x"], &["y"], &["c"]]), "the other lists stay");
}

#[test]
fn rows_without_an_image_are_not_called_usable() {
    let folder = tempfile::tempdir().unwrap();
    let some = BinaryArray::from_iter((0..4).map(|row| (row != 2).then(|| numbered(row))));
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", " ... "]));
    write_parquet(&folder.path().join("0.parquet"), vec![("image", Arc::new(some)), ("text", texts.clone())]);
    let none = BinaryArray::new_null(4);
    write_parquet(&folder.path().join("1.parquet"), vec![("image", Arc::new(none)), ("text", texts)]);
    let catalog = make(&Source::Parquet(shards(folder.path(), None, Filters::none())));
    let rejected = [("no_caption".to_owned(), 1), ("no_image".to_owned(), 5)];
    assert_eq!(catalog.description.rejected, BTreeMap::from(rejected));
    assert_eq!(pairs(&catalog), expected(&[&["a"], &["b"]]));
    // Images that stand in two columns are taken from the one that has them.
    let first = BinaryArray::from_iter([None, Some(numbered(1))]);
    let second = BinaryArray::from_iter([Some(numbered(0)), Some(numbered(9))]);
    let set = folder.path().join("two");
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    write_parquet(&set.join("0.parquet"), vec![("png", Arc::new(second)), ("jpg", Arc::new(first)), ("text", texts)]);
    let catalog = make(&Source::Parquet(shards(&set, None, Filters::none())));
    assert_eq!(pairs(&catalog), expected(&[&["a"], &["b"]]));
}

#[test]
fn patterns_and_names_of_any_characters() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["été", "图像", "part#2", "100%", "set[0]", "a~1", "{x}", "a*b", "a|b^c", "\"q\" <x>", "a?b&c", "a b"]
    {
        let set = folder.path().join(format!("names/{name}"));
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
        write_parquet(&set.join(format!("{name}.parquet")), vec![("jpg", images(1)), ("caption", texts)]);
        for place in [&set, set.parent().unwrap()] {
            let catalog = make(&Source::Parquet(shards(place, None, Filters::none())));
            assert!(pairs(&catalog).iter().all(|pair| *pair == expected(&[&["a"]])[0]), "{name}");
        }
    }
    let tars = folder.path().join("tars");
    write_tars(&tars, 6, 2);
    let pattern = tars.join("{00001..00003}.tar");
    let source = Source::WebDataset(shards(&pattern, None, Filters::none()));
    let catalog = make(&source);
    assert_eq!((catalog.shards.len(), catalog.usable()), (2, 4));
    let [missing] = catalog.description.bad_shards.as_slice() else { panic!("{:?}", catalog.description) };
    assert!(missing.uri.ends_with("00003.tar") && !missing.used_in_part);
    let place = Location::parse(&folder.path().join("catalog").display().to_string()).unwrap();
    block_on(catalog.save(&place)).unwrap();
    let loaded = block_on(Catalog::load(&place, &source, READ_UNIT_BYTES)).unwrap().catalog;
    assert_eq!(pairs(&loaded).len(), 4, "paths are below the folder in front of the pattern");
}

fn coco_name(number: usize) -> String {
    format!("COCO_val2014_{number:012}.jpg")
}

#[test]
fn coco_and_visual_genome_as_published() {
    let folder = tempfile::tempdir().unwrap();
    let coco = folder.path().join("coco");
    for row in 0..2 {
        write(&coco.join("images/val2014").join(coco_name(row)), numbered(row));
    }
    // LAVIS' list of Karpathy's training split.
    let list = json!([
        { "image": format!("val2014/{}", coco_name(0)), "caption": "a", "image_id": "coco_0" },
        { "image": format!("val2014/{}", coco_name(1)), "caption": "b", "image_id": "coco_1" },
        { "image": format!("val2014/{}", coco_name(0)), "caption": "c", "image_id": "coco_0" },
        { "image": format!("train2014/{}", coco_name(1)), "caption": "of another file of that name", "image_id": "x" },
    ]);
    write(&coco.join("annotations/coco_karpathy_train.json"), list.to_string());
    let catalog = make(&Source::CocoCaptions(annotated(&coco, "annotations/coco_karpathy_train.json")));
    assert_eq!(pairs(&catalog), expected(&[&["a", "c"], &["b"]]));
    assert_eq!(catalog.description.rejected, BTreeMap::from([("image_missing".to_owned(), 1)]));

    // COCO's own file, whose names have no folder.
    let own = json!({
        "info": {}, "licenses": [],
        "images": [{ "id": 1, "file_name": coco_name(1), "width": 3, "height": 4 }, { "id": 0, "file_name": coco_name(0) }],
        "annotations": [{ "id": 9, "image_id": 0, "caption": "a" }, { "id": 8, "image_id": 1, "caption": "b" }],
    });
    write(&coco.join("annotations/captions_val2014.json"), own.to_string());
    let catalog = make(&Source::CocoCaptions(annotated(&coco, "annotations/captions_val2014.json")));
    assert_eq!(pairs(&catalog), expected(&[&["a"], &["b"]]));

    let genome = folder.path().join("genome");
    write(&genome.join("images/VG_100K/1.jpg"), numbered(0));
    write(&genome.join("images/VG_100K_2/2.jpg"), numbered(1));
    let regions = json!([
        { "id": 1, "regions": [{ "region_id": 5, "x": 1, "phrase": "a tree" }, { "region_id": 6, "phrase": "a road" }] },
        { "id": 2, "regions": [{ "region_id": 7, "phrase": "a dog" }] },
    ]);
    write(&genome.join("region_descriptions.json"), regions.to_string());
    let catalog = make(&Source::VisualGenome(annotated(&genome, "region_descriptions.json")));
    assert_eq!(pairs(&catalog), expected(&[&["a tree", "a road"], &["a dog"]]));
}

#[test]
fn lists_of_files_and_captions() {
    let folder = tempfile::tempdir().unwrap();
    for row in 0..2 {
        write(&folder.path().join(format!("images/{row}.jpg")), numbered(row));
    }
    let files = [
        (
            "metadata.jsonl",
            "{\"file_name\": \"0.jpg\", \"text\": \"a\"}\n{\"file_name\": \"1.jpg\", \"text\": \"b, c\"}\n",
        ),
        ("metadata.csv", "file_name,text\n0.jpg,a\n1.jpg,\"b, c\"\n"),
        ("list.tsv", "0.jpg\ta\n1.jpg\tb, c\n"),
        ("list.json", r#"[{"path": "images/0.jpg", "text": "a"}, {"path": "./1.jpg", "captions": ["b, c"]}]"#),
    ];
    for (name, content) in files {
        write(&folder.path().join(name), content);
        let catalog = make(&Source::CocoCaptions(annotated(folder.path(), name)));
        assert_eq!(pairs(&catalog), expected(&[&["a"], &["b, c"]]), "{name}");
    }
}

#[test]
fn questions_as_published() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("images/val2014").join(coco_name(0)), numbered(0));
    let answers: Vec<_> =
        (0..10).map(|n| json!({ "answer": if n < 7 { "yes" } else { "no" }, "answer_id": n })).collect();
    let questions = json!({ "data_subtype": "val2014", "questions": [{ "question_id": 1, "image_id": 0.0, "question": "Is it?" }] });
    let annotations =
        json!({ "data_subtype": "val2014", "annotations": [{ "question_id": 1, "image_id": 0, "answers": answers }] });
    write(&folder.path().join("questions.json"), questions.to_string());
    write(&folder.path().join("annotations.json"), annotations.to_string());
    let list = json!([{ "question_id": 1, "question": "Is it?", "image": format!("val2014/{}", coco_name(0)), "answer": ["yes", "no"] }]);
    write(&folder.path().join("list.json"), list.to_string());
    for (questions, annotations, count) in [("questions.json", "annotations.json", 10), ("list.json", "list.json", 2)] {
        let source = VqaSource {
            name: "vqa".into(),
            uri: uri(folder.path()),
            questions: questions.into(),
            annotations: annotations.into(),
            images: "images".into(),
            weight: 1.0,
        };
        let catalog = make(&Source::Vqa(source));
        let found = pairs(&catalog);
        assert_eq!((found.len(), found[0].1.len()), (1, count), "{questions}");
        assert_eq!(found[0].1[0], "yes");
    }
}

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
    let captions = BinaryArray::from_iter_values(rows.iter().map(|row| bytes(row.1)));
    let captions = captions.into_data().into_builder().data_type(DataType::Utf8);
    // SAFETY: one text is not UTF-8 on purpose; the array is written and never read as text.
    let captions = StringArray::from(unsafe { captions.build_unchecked() });
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
