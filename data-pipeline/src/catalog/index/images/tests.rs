use std::collections::BTreeMap;

use arrow::array::AsArray;
use configs::{Source, Uri};

use crate::catalog::{Catalog, READ_UNIT_BYTES, index};
use crate::error::Result;

/// A folder of files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    }
    folder
}

async fn images_at(folder: &tempfile::TempDir, images: &str) -> Result<Catalog> {
    let source = Source::CocoCaptions(configs::AnnotatedSource {
        name: "set".into(),
        uri: Uri::new(&folder.path().display().to_string()),
        annotations: "texts.json".into(),
        images: images.into(),
        catalog: None,
        weight: 1.0,
    });
    index(&source, READ_UNIT_BYTES, &|_, _| ()).await
}

async fn questions(folder: &tempfile::TempDir, answers: &str) -> Result<Catalog> {
    let source = Source::Vqa(configs::VqaSource {
        name: "set".into(),
        uri: Uri::new(&folder.path().display().to_string()),
        questions: "texts.json".into(),
        annotations: answers.into(),
        images: "images".into(),
        weight: 1.0,
    });
    index(&source, READ_UNIT_BYTES, &|_, _| ()).await
}

/// File and texts of each sample.
fn samples(catalog: &Catalog) -> Vec<(String, Vec<String>)> {
    let images = catalog.images.as_ref().unwrap();
    let texts = |sample: usize| {
        let texts = images.captions.value(sample);
        texts.as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect()
    };
    (0..images.sizes.len()).map(|sample| (images.file(sample).to_owned(), texts(sample))).collect()
}

fn row(file: &str, texts: &[&str]) -> (String, Vec<String>) {
    (file.into(), texts.iter().map(|text| (*text).into()).collect())
}

fn reasons(catalog: &Catalog) -> BTreeMap<&str, u64> {
    catalog.description.rejected.iter().map(|(reason, rows)| (reason.as_str(), *rows)).collect()
}

#[tokio::test]
async fn samples_are_left_out_with_their_reason() {
    let list = r#"[{"image": "a/1.jpg", "caption": "a 1"}, {"image": "b/1.jpg", "caption": "b 1"}, {"image": "images/b/1.jpg", "caption":
        "again"}, {"image": "empty.jpg", "caption": "x"}, {"image": "c.jpg", "caption": null}, {"caption": "y"}]"#;
    let folder =
        folder(&[("texts.json", list), ("images/b/1.jpg", "jpeg"), ("images/empty.jpg", ""), ("images/c.jpg", "c")]);
    let catalog = images_at(&folder, "./images/").await.unwrap();
    assert_eq!(samples(&catalog), [row("b/1.jpg", &["b 1", "again"])]);
    assert_eq!(reasons(&catalog), BTreeMap::from([("image_missing", 1), ("no_caption", 1), ("no_image", 1)]));
    assert_eq!((catalog.description.rows, catalog.usable()), (4, 1));
    let bad = &catalog.description.bad_entries;
    assert_eq!((bad.count, bad.first.len()), (2, 2));
    assert_eq!(bad.first[0], "texts.json: [4]: `caption` is null; expected a text");
    let kept = serde_json::to_value(&catalog.description).unwrap();
    assert_eq!(kept["bad_entries"]["count"], 2);
    assert_eq!(serde_json::from_value::<crate::catalog::Description>(kept).unwrap(), catalog.description);
}

#[tokio::test]
async fn the_folder_of_images_may_be_the_sources_own() {
    let files = [("texts.json", r#"{"file_name": "train/1.jpg", "text": "x"}"#), ("train/1.jpg", "jpeg")];
    let folder = folder(&files);
    for images in [".", "", "./", "train"] {
        let catalog = images_at(&folder, images).await.unwrap();
        assert_eq!((catalog.usable(), samples(&catalog)[0].1[0].as_str()), (1, "x"), "{images}");
        assert!(catalog.read(0).await.unwrap().captions.iter().all(|text| text == Some("x")));
        assert!(catalog.description.bad_entries.is_empty());
        assert!(serde_json::to_value(&catalog.description).unwrap().get("bad_entries").is_none());
    }
}

#[tokio::test]
async fn visual_genomes_images_may_be_ambiguous() {
    let list = r#"[{"id": 1, "regions": [{"phrase": "x"}]}, {"id": 2, "regions": [{"phrase": "y"}]}]"#;
    let images = [
        ("texts.json", list),
        ("images/VG_100K/1.jpg", "a"),
        ("images/VG_100K_2/2.jpg", "b"),
        ("images/VG_100K/2.jpg", "bb"),
    ];
    let catalog = images_at(&folder(&images), "images").await.unwrap();
    assert_eq!(samples(&catalog), [row("VG_100K/1.jpg", &["x"])]);
    assert_eq!(reasons(&catalog), BTreeMap::from([("image_ambiguous", 1)]));
}

#[tokio::test]
async fn a_folder_with_other_names_is_refused_with_an_example_and_what_to_set() {
    let list = r#"[{"image": "coco/val2014/1.jpg", "caption": "x"}]"#;
    let other = folder(&[("texts.json", list), ("images/val2014/1.jpg", "jpeg")]);
    let error = images_at(&other, "images").await.err().unwrap().to_string();
    assert!(
        error.contains("(image_missing 1): coco/val2014/1.jpg is not in this folder; it has val2014/1.jpg"),
        "{error}"
    );
    assert!(error.contains("set data.sources[].images"), "{error}");
    let none = folder(&[("texts.json", list)]);
    let error = images_at(&none, "images").await.err().unwrap().to_string();
    assert!(error.contains("it is empty or does not exist"), "{error}");
    let empty = folder(&[("texts.json", list), ("images/coco/val2014/1.jpg", "")]);
    let error = images_at(&empty, "images").await.err().unwrap().to_string();
    assert!(error.contains("(no_image 1), such as coco/val2014/1.jpg"), "{error}");
}

#[tokio::test]
async fn questions_without_text_or_answer_are_counted() {
    let list = r#"[{"question_id": 1, "image": "1.jpg", "question": "who", "answer": "he"}, {"question_id": 2, "image": "1.jpg",
        "question": "", "answer": "he"}, {"question_id": 3, "image": "1.jpg", "question": "how"}, {"question_id": 4, "image": "2.jpg",
        "question": "how", "answer": "so"}, {"question_id": 5, "image": "1.jpg", "question": "why", "answers": ["a", "b"]}]"#;
    let folder = folder(&[("texts.json", list), ("images/1.jpg", "jpeg")]);
    let catalog = questions(&folder, "./texts.json").await.unwrap();
    assert_eq!(samples(&catalog), [row("1.jpg", &["he"]), row("1.jpg", &["a", "b"])]);
    assert_eq!(reasons(&catalog), BTreeMap::from([("image_missing", 1), ("no_answer", 1), ("no_question", 1)]));
    assert_eq!(
        catalog.description.bad_entries.first,
        ["texts.json: [1]: `question` is \"\"; expected a text that is not empty"]
    );
}
