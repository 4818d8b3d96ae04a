use super::*;

/// Name, key and texts of an image.
type Row = (String, String, Vec<String>);

/// The images of a file: name, key, texts.
fn images(uri: &str, text: &str) -> Vec<Row> {
    let read = parse(uri, text.as_bytes()).unwrap();
    assert!(read.bad.is_empty(), "{}", read.bad);
    rows(read.images)
}

fn rows(images: Vec<Annotated>) -> Vec<Row> {
    images.into_iter().map(|it| (it.image.to_string(), it.key, it.captions)).collect()
}

fn row(file: &str, key: &str, captions: &[&str]) -> Row {
    (file.into(), key.into(), captions.iter().map(|text| (*text).into()).collect())
}

/// The images of a file with bad entries, and those.
fn with_bad(uri: &str, text: impl AsRef<[u8]>) -> (Vec<Row>, Vec<String>) {
    let read = parse(uri, text.as_ref()).unwrap();
    assert_eq!(read.bad.len(), read.bad.first().len());
    (rows(read.images), read.bad.first().to_vec())
}

#[test]
fn captions_of_one_image_are_one_sample() {
    let json = r#"{"info": {}, "images": [{"id": 9, "file_name": "b.jpg", "width": 3, "height": 4},
        {"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "without.jpg"}],
        "annotations": [{"id": 1, "image_id": 9, "caption": "x"}, {"id": 2, "image_id": 7, "caption": "y"},
        {"id": 3, "image_id": 9, "caption": "z"}]}"#;
    let expected = [row("a.jpg", "7", &["y"]), row("b.jpg", "9", &["x", "z"]), row("without.jpg", "8", &[])];
    assert_eq!(images("t.json", json), expected);
    let annotations_first =
        r#"{"annotations": [{"image_id": "7", "caption": "y"}], "images": [{"id": 7, "file_name": "./a.jpg"}]}"#;
    assert_eq!(images("t.json", annotations_first), [row("a.jpg", "7", &["y"])]);
}

#[test]
fn visual_genome_and_lavis_lists_are_read() {
    let regions = r#"[{"id": 1, "regions": [{"phrase": "a tree", "x": 1}, {"phrase": "a road"}]}, {"image_id": 2.0, "regions": []}]"#;
    assert_eq!(images("t.json", regions), [row("1.jpg", "1", &["a tree", "a road"]), row("2.jpg", "2", &[])]);
    assert_eq!(parse("t", regions.as_bytes()).unwrap().images[0].image, ImageName::Genome("1".into()));
    let pairs = r#"[{"image": "v/1.jpg", "caption": "a", "image_id": "coco_1"}, {"image": "v/2.jpg", "caption": ["b", "c"]},
        {"image": "./v//1.jpg", "caption": "d", "image_id": "coco_1"}]"#;
    assert_eq!(
        images("t.json", pairs),
        [row("v/1.jpg", "coco_1", &["a", "d"]), row("v/2.jpg", "v/2.jpg", &["b", "c"])]
    );
    for (file, texts) in [
        ("file_name", r#""text": "a""#),
        ("filename", r#""captions": ["a"]"#),
        ("image_path", r#""sentences": [{"raw": "a", "tokens": ["a"]}]"#),
        ("path", r#""caption": [{"caption": "a"}]"#),
        ("img", r#""caption": null, "text": "a""#),
    ] {
        assert_eq!(images("t.json", &format!(r#"[{{"{file}": "1.jpg", {texts}}}]"#)), [row("1.jpg", "1.jpg", &["a"])]);
    }
}

#[test]
fn karpathys_splits_for_training_are_taken() {
    let entry = |split: &str, n: u32| {
        format!(
            r#"{{"filepath": "val2014", "filename": "COCO_val2014_{n:012}.jpg", "split": "{split}", "cocoid": {n},
                "sentences": [{{"raw": "text {n}"}}, {{"raw": "other"}}]}}"#
        )
    };
    let file = |splits: &[&str]| {
        let entries: Vec<String> = (1..).zip(splits).map(|(n, split)| entry(split, n)).collect();
        format!(r#"{{"images": [{}], "dataset": "coco"}}"#, entries.join(","))
    };
    let name = |n: u32| format!("val2014/COCO_val2014_{n:012}.jpg");
    assert_eq!(
        images("dataset_coco.json", &file(&["train", "test", "restval", "val"])),
        [row(&name(1), "1", &["text 1", "other"]), row(&name(3), "3", &["text 3", "other"])]
    );
    let error = parse("dataset_coco.json", file(&["test", "val", "val"]).as_bytes()).unwrap_err().to_string();
    let start =
        "dataset_coco.json: no image of the splits train and restval; found are test (1 images), val (2 images)";
    assert!(error.starts_with(start), "{error}");
    let flickr = r#"{"images": [{"sentences": [{"raw": "a"}], "split": "train", "filename": "1.jpg", "imgid": 0}], "dataset": "f"}"#;
    assert_eq!(images("t.json", flickr), [row("1.jpg", "0", &["a"])]);
}

#[test]
fn a_line_of_json_lines_is_an_entry() {
    let one = r#"{"file_name": "a.jpg", "text": "x"}"#;
    assert_eq!(images("metadata.jsonl", one), [row("a.jpg", "a.jpg", &["x"])]);
    let three = format!(
        "{one}\r\n\n{{\"file_name\": \"b.jpg\", \"text\": \"y\", \"score\": NaN}}\n{{\"id\": 1, \"regions\": [{{\"phrase\": \"z\"}}]}}\n"
    );
    let expected = [row("a.jpg", "a.jpg", &["x"]), row("b.jpg", "b.jpg", &["y"]), row("1.jpg", "1", &["z"])];
    assert_eq!(images("texts", &three), expected);
    let (found, bad) =
        with_bad("m.jsonl", format!("{one}\n{{\"file_name\": \"b\n5\n{{\"text\": \"y\"}}\n{one}\n{one}"));
    assert_eq!(found, [row("a.jpg", "a.jpg", &["x", "x", "x"])]);
    assert!(bad[0].starts_with("line 2: is no whole JSON: EOF while parsing a string at column"), "{bad:?}");
    assert_eq!(bad[1], "line 3: found 5; expected an object");
    assert!(bad[2].starts_with("line 4: has no `image` or `file_name`"), "{bad:?}");
}

#[test]
fn tables_are_read_with_a_header_and_without() {
    let expected =
        [row("a/1.jpg", "a/1.jpg", &["a dog, brown", "a \"big\" dog"]), row("a/2.png", "a/2.png", &["a cat"])];
    for (uri, text) in [
        ("metadata.csv", "file_name,text\na/1.jpg,\"a dog, brown\"\na/2.png,a cat\na/1.jpg,\"a \"\"big\"\" dog\"\n"),
        ("t.csv", "\u{feff}n;Caption;IMAGE\r\n0;a dog, brown;a/1.jpg\r\n1;a cat;a/2.png\r\n2;a \"big\" dog;./a/1.jpg"),
        (
            "t.csv",
            "image_name| comment_number| comment\na/1.jpg| 0| a dog, brown\na/2.png| 0|a cat\na/1.jpg| 1| a \"big\" dog\n",
        ),
        ("t.tsv", "a/1.jpg\ta dog, brown\na/2.png\ta cat\na/1.jpg\ta \"big\" dog\n"),
        ("texts", "a/1.jpg\ta dog, brown\na/2.png\ta cat\na/1.jpg\ta \"big\" dog\n"),
        ("t.csv", "a/1.jpg,\"a dog, brown\"\na/2.png,a cat\na/1.jpg,\"a \"\"big\"\" dog\""),
    ] {
        assert_eq!(images(uri, text), expected, "{text}");
    }
    // A mark of the text at the beginning of a field does not take the next rows with it.
    let marks = "1.jpg\t\"Hello\n2.jpg\ta cat\n3.jpg\t\"x\"\n";
    let rows =
        [row("1.jpg", "1.jpg", &["\"Hello"]), row("2.jpg", "2.jpg", &["a cat"]), row("3.jpg", "3.jpg", &["\"x\""])];
    assert_eq!(images("t.tsv", marks), rows);
    let (found, bad) = with_bad("t.csv", "image,caption\n1.jpg,a, b\n2.jpg,\n3.jpg,c\n");
    assert_eq!(found, [row("2.jpg", "2.jpg", &[]), row("3.jpg", "3.jpg", &["c"])]);
    assert_eq!(bad[0], "line 2: has 3 columns; expected 2");
    assert!(bad[1].starts_with("line 3: `caption` is \"\""), "{bad:?}");
    for text in ["name,words\n1.jpg,a\n", "1.jpg,a,b\n", "1.jpg\n2.jpg\n", "not json"] {
        let error = parse("t.csv", text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("two columns without a header"), "{error}");
    }
}

#[test]
fn a_bad_entry_costs_itself_only() {
    let coco = r#"{"images": [{"id": 0, "file_name": "0.jpg"}, {"id": 1, "file_name": "1.jpg"}, {"file_name": "x.jpg"}, 7,
        {"id": NaN, "file_name": "y.jpg"}, {"id": 2, "file_name": 3}],
        "annotations": [{"image_id": 0, "caption": "a"}, {"image_id": 0, "caption": null}, {"image_id": 0, "caption": " "}, "b",
        {"image_id": 5, "caption": "c"}, {"caption": "d"}, {"image_id": 0.5, "caption": "e"}, {"image_id": 0, "caption": "f"}]}"#;
    let (found, bad) = with_bad("t.json", coco);
    assert_eq!(found, [row("0.jpg", "0", &["a", "f"]), row("1.jpg", "1", &[])]);
    assert_eq!(
        bad,
        [
            "images[2]: has no `id`; expected an id",
            "images[3]: found 7; expected an object",
            "images[4]: `id` is null; expected an id",
            "images[5]: `file_name` is 3; expected a text that is not empty",
            "annotations[1]: `caption` is null; expected a text",
            "annotations[2]: `caption` is \" \"; expected a text that is not empty, or a list of such texts",
            "annotations[3]: found \"b\"; expected an object",
            "annotations[5]: has no `image_id`; expected an id",
            "annotations[6]: `image_id` is 0.5; expected a whole number or a text",
            "annotations[4]: names the image 5, which is not in `images`",
        ]
    );
    let list = r#"[{"image": "a.jpg", "caption": ["x", "", null, "y"]}, {"image": "b.jpg", "caption": [" "]}, {"caption": "z"}]"#;
    let (found, bad) = with_bad("t.json", list);
    assert_eq!(found, [row("a.jpg", "a.jpg", &["x", "y"]), row("b.jpg", "b.jpg", &[])]);
    assert_eq!(bad[1], "[0].caption[2]: found null; expected a text that is not empty");
    assert_eq!(bad.len(), 4);
}

#[test]
fn ids_are_the_same_however_they_are_written() {
    let json = r#"{"images": [{"id": 0.0, "file_name": "0.jpg"}, {"id": "1", "file_name": "1.jpg"}, {"id": -2, "file_name": "2.jpg"},
        {"id": 1.0, "file_name": "1.jpg"}], "annotations": [{"image_id": "0", "caption": "a"}, {"image_id": 1, "caption": "b"},
        {"image_id": -2.0, "caption": "c"}, {"image_id": 0, "caption": "d"}]}"#;
    assert_eq!(
        images("t.json", json),
        [row("0.jpg", "0", &["a", "d"]), row("1.jpg", "1", &["b"]), row("2.jpg", "-2", &["c"])]
    );
    assert_eq!(serde_json::to_string(&[Id::Negative(-2), Id::Number(2)]).unwrap(), "[-2,2]");
}

#[test]
fn an_id_of_two_images_is_refused() {
    let json = r#"{"images": [{"id": 1, "file_name": "0.jpg"}, {"id": 2, "file_name": "1.jpg"}, {"id": 1.0, "file_name": "2.jpg"}],
        "annotations": [{"image_id": 2, "caption": "a"}]}"#;
    let error = parse("texts.json", json.as_bytes()).unwrap_err().to_string();
    let start = "texts.json: the id 1 stands twice in `images`, for 0.jpg and 2.jpg";
    assert!(error.starts_with(start), "{error}");
}

#[test]
fn bytes_that_are_no_utf_8_cost_their_entry() {
    let (found, bad) = with_bad(
        "t.json",
        b"[{\"image\": \"a.jpg\", \"caption\": \"caf\xe9\"}, {\"image\": \"b.jpg\", \"caption\": \"tea\"}]",
    );
    assert_eq!(found, [row("b.jpg", "b.jpg", &["tea"])]);
    assert_eq!(bad, ["[0]: has bytes that are no UTF-8; expected a text in UTF-8"]);
    let wide: Vec<u8> =
        "\u{feff}[{\"image\": \"a.jpg\", \"caption\": \"été\"}]".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(rows(parse("t.json", &wide).unwrap().images), [row("a.jpg", "a.jpg", &["été"])]);
}

#[test]
fn files_without_anything_usable_are_refused_with_what_is_expected() {
    for json in [
        "{}",
        "[]",
        "[1]",
        "3",
        "",
        "not json",
        "{\"images\": [], \"annotations\": []}",
        "{\"questions\": [{\"question\": \"who\"}]}",
        "[{\"image\": \"a.jpg\"",
        "[{\"image\": \"a.jpg\", \"caption\": null}]",
        r#"{"images": [], "annotations": [{"image_id": 4, "caption": "x"}]}"#,
        r#"{"images": [{"id": 4, "file_name": "4.jpg"}], "annotations": [{"image_id": 4, "bbox": [1, 2]}]}"#,
        "\u{1f}\u{8b}",
    ] {
        let error = parse("place.json", json.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("place.json: "), "{error}");
    }
    let error = parse("a.json.gz", b"\x1f\x8b\x08").unwrap_err().to_string();
    assert!(error.contains("gzip"), "{error}");
}

#[test]
fn damage_anywhere_never_panics() {
    for (uri, text) in [
        (
            "t.json",
            r#"{"images": [{"id": 1, "file_name": "é.jpg"}], "annotations": [{"image_id": 1.0, "caption": "\ud83d\ude00"}]}"#,
        ),
        (
            "t.json",
            r#"[{"id": NaN, "regions": [{"phrase": "a"}]}, {"image": "b.jpg", "caption": ["-Infinity", null]}]"#,
        ),
        ("t.jsonl", "{\"file_name\": \"a.jpg\", \"text\": \"x\"}\n{\"file_name\": \"b.jpg\", \"text\": \"y\"}\n"),
        ("t.tsv", "a.jpg\t\"x\nb.jpg\ty\"\nc.jpg\tz\n"),
        ("t.csv", "file_name,text\n\"a.jpg\",\"x, y\"\nb.jpg,z\n"),
    ] {
        for at in 0..text.len() {
            let _ = parse(uri, &text.as_bytes()[..at]);
            for byte in [b'"', b'\\', b'N', b'\n', b'{', b'\t', 0, 0xff, 0xef] {
                let mut damaged = text.as_bytes().to_vec();
                damaged[at] = byte;
                let _ = parse(uri, &damaged);
            }
        }
    }
}
