//! What cannot be used of a set, a folder of images or predictions: one golden message per kind of mistake.
//!
//! A change of wording is accepted with `BLIP2_BLESS=1 cargo test --release -p data-pipeline --test benchmark_errors`.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use data_pipeline::Result;
use data_pipeline::benchmark::{read_answer_predictions, read_caption_predictions, read_captions, read_questions};
use data_pipeline::store::Location;
use object_store::memory::InMemory;

/// The file of that content at `/sets/NAME.json`.
async fn file(name: &str, json: &str) -> Location {
    let mut place = Location::parse("/sets").unwrap();
    place.store = Arc::new(InMemory::new());
    let file = place.child(&format!("{name}.json"));
    file.write(json.to_owned()).await.unwrap();
    file
}

fn message<T>(result: Result<T>) -> String {
    result.err().expect("a mistake is no success").to_string()
}

async fn of_captions(json: &str, split: Option<&str>) -> String {
    message(read_captions(&file("captions", json).await, split).await)
}

async fn of_questions(json: &str, annotations: Option<&str>) -> String {
    let asked = file("questions", json).await;
    match annotations {
        None => message(read_questions(&asked, None).await),
        Some(json) => message(read_questions(&asked, Some(&file("annotations", json).await)).await),
    }
}

fn vqa(questions: &str) -> String {
    format!(r#"{{"data_subtype": "val2014", "questions": [{questions}]}}"#)
}

fn annotated(annotations: &str) -> String {
    format!(r#"{{"data_subtype": "val2014", "annotations": [{annotations}]}}"#)
}

/// An annotation with a number of answers.
fn annotation(question: u64, image: u64, answers: usize) -> String {
    let answers = vec![r#"{"answer": "yes"}"#; answers].join(",");
    format!(r#"{{"question_id": {question}, "image_id": {image}, "answers": [{answers}]}}"#)
}

const TWO: &str =
    r#"{"question_id": 1, "image_id": 7, "question": "who"}, {"question_id": 2, "image_id": 7, "question": "how"}"#;

/// Mistakes in files of captions.
async fn caption_mistakes() -> Vec<(&'static str, String)> {
    let karpathy = r#"{"images": [{"split": "val", "filename": "1.jpg", "sentences": [{"raw": "x"}]},
        {"split": "test", "filename": "2.jpg", "sentences": [{"raw": " "}]}, {"split": "test", "sentences": [{"tokens": ["a"]}]},
        {"filename": "3.jpg"}], "dataset": "flickr30k"}"#;
    let coco = r#"{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}, {"id": 2}, {"file_name": "c.jpg"},
        {"id": 4, "file_name": "d.jpg", "domain": "far"}, 5], "annotations": [{"image_id": 1, "caption": "x"},
        {"image_id": 9, "caption": "y"}, {"image_id": 2}, {"image_id": 2, "caption": ""}, {"caption": "z"},
        {"image_id": 4, "caption": "v"}]}"#;
    let list = r#"[{"image": "a.jpg"}, {"caption": "x"}, {"image": "b.jpg", "caption": []}, {"image": "c.jpg", "caption": ["x", ""]},
        {"image": "d.jpg", "caption": 5}, {"image": "", "caption": "y"}, {"image": "e.jpg", "caption": "z", "image_id": 1.5}, [], null,
        {"image": "f.jpg", "caption": "good"}]"#;
    let twice = r#"[{"image": "v/COCO_train2014_000000000009.jpg", "caption": "x"},
        {"image": "v/COCO_train2014_000000000009.jpg", "caption": "y"}]"#;
    let many: Vec<String> = (0..30).map(|n| format!(r#"{{"image": "{n}.jpg"}}"#)).collect();
    vec![
        ("no_json", of_captions("[{\"image\": \"a.jpg\",\n", None).await),
        ("no_layout_list", of_captions(r#"[{"picture": "a.jpg", "text": "x"}]"#, None).await),
        ("no_layout_object", of_captions(r#"{"images": []}"#, None).await),
        ("empty_list", of_captions("[]", None).await),
        ("caption_list", of_captions(list, None).await),
        ("image_twice", of_captions(twice, None).await),
        ("coco", of_captions(coco, None).await),
        ("coco_without_images", of_captions(r#"{"images": [], "annotations": []}"#, None).await),
        ("karpathy", of_captions(karpathy, Some("test")).await),
        ("karpathy_without_split", of_captions(karpathy, None).await),
        ("split_of_a_list", of_captions(r#"[{"image": "a.jpg", "caption": "x"}]"#, Some("test")).await),
        ("questions_for_captions", of_captions(&vqa(TWO), None).await),
        ("more_than_twenty", of_captions(&format!("[{}]", many.join(",")), None).await),
    ]
}

/// Mistakes in files of questions and annotations.
async fn question_mistakes() -> Vec<(&'static str, String)> {
    let fields = r#"{"question_id": 1, "image_id": 7}, {"question_id": 1, "question": "who"}, {"question": "who", "image_id": 7},
        {"question_id": true, "image_id": 1.5, "question": ["who"]}, "who""#;
    let twice = format!(r#"{TWO}, {{"question_id": 2, "image_id": 8, "question": "why"}}"#);
    let other = annotated(&[annotation(1, 8, 10), annotation(3, 7, 10)].join(","));
    let doubled = annotated(&[annotation(1, 7, 10), annotation(1, 7, 10), annotation(2, 7, 10)].join(","));
    let nine = annotated(&[annotation(1, 7, 9), annotation(2, 7, 10)].join(","));
    let malformed =
        annotated(r#"{"question_id": 1, "image_id": 7, "answers": ["yes"]}, {"question_id": 2, "image_id": 7}"#);
    let of_train = annotated(&[annotation(1, 7, 10), annotation(2, 7, 10)].join(",")).replace("val2014", "train2014");
    let gqa = r#"{"1": {"question": "who", "imageId": "n1", "answer": "he"}, "2": {"imageId": "n1", "answer": "he"},
        "3": {"question": "who", "answer": "he"}, "4": {"question": "who", "imageId": "n1"}, "5": [6], "6": [],
        "1": {"question": "how", "imageId": "n1", "answer": "so"}, "7": {"question": "who", "imageId": "n1", "answer": "he",
        "types": "verify"}}"#;
    let list = r#"[{"question_id": 1, "question": "who", "image": "n1.jpg", "answer": "he"}, {"question_id": 2, "question": "who"},
        {"question_id": 3, "question": "who", "image": "n1.jpg", "answer": ["he", "she"]}, {"question_id": 1, "question": "how",
        "image": "n1.jpg", "answer": "so"}, {"question_id": 4, "question": "who", "image": "n1.jpg"}]"#;
    let captions = r#"[{"image": "a.jpg", "caption": "x"}]"#;
    vec![
        ("question_fields", of_questions(&vqa(fields), None).await),
        ("question_twice", of_questions(&vqa(&twice), None).await),
        ("no_subtype", of_questions(&format!(r#"{{"questions": [{TWO}]}}"#), None).await),
        ("no_questions", of_questions(&vqa(""), None).await),
        ("annotations_of_others", of_questions(&vqa(TWO), Some(&other)).await),
        ("annotation_twice", of_questions(&vqa(TWO), Some(&doubled)).await),
        ("nine_answers", of_questions(&vqa(TWO), Some(&nine)).await),
        ("malformed_answers", of_questions(&vqa(TWO), Some(&malformed)).await),
        ("annotations_of_another_split", of_questions(&vqa(TWO), Some(&of_train)).await),
        ("questions_for_annotations", of_questions(&vqa(TWO), Some(&vqa(TWO))).await),
        ("both_files", of_questions(&vqa(fields), Some(&nine)).await),
        ("gqa", of_questions(gqa, None).await),
        ("annotations_of_gqa", of_questions(r#"{"1": {"question": "who", "imageId": "n1"}}"#, Some(&nine)).await),
        ("question_list", of_questions(list, None).await),
        ("captions_for_questions", of_questions(captions, None).await),
    ]
}

/// Mistakes in folders of images and in predictions.
async fn other_mistakes() -> Vec<(&'static str, String)> {
    let json = r#"[{"image": "v/a_1.jpg", "caption": "x"}, {"image": "v/a_2.jpg", "caption": "y"}, {"image": "v/a_3.jpg", "caption": "z"}]"#;
    let set = read_captions(&file("captions", json).await, None).await.unwrap();
    let folder = file("unused", "").await.child("images");
    folder.child("other/a_2.jpg").write("jpeg").await.unwrap();
    let captions = r#"[{"image_id": 1, "caption": "x"}, {"image_id": "1", "caption": "x"}, {"image_id": 4, "caption": "x"},
        {"image_id": 2}, {"caption": "x"}, 7, {"image_id": 2, "caption": null}]"#;
    let caption = async |json| message(read_caption_predictions(&file("results", json).await, &set).await);
    let questions = read_questions(&file("questions", &vqa(TWO)).await, None).await.unwrap();
    let answers = r#"[{"question_id": 1, "answer": ["yes"]}, {"questionId": "3", "prediction": "no"}]"#;
    let answers = message(read_answer_predictions(&file("results", answers).await, &questions).await);
    vec![
        ("missing_images", message(set.open_images(&folder).await)),
        ("caption_predictions", caption(captions).await),
        ("predictions_object", caption(r#"{"1": "x", "list": [1]}"#).await),
        ("predictions_cut", caption(r#"[{"image_id": 1, "caption": "x"}"#).await),
        ("answer_predictions", answers),
    ]
}

#[tokio::test]
async fn every_kind_of_mistake_prints_what_is_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/benchmark");
    let bless = std::env::var_os("BLIP2_BLESS").is_some();
    let mut all = caption_mistakes().await;
    all.extend(question_mistakes().await);
    all.extend(other_mistakes().await);
    let number = all.len();
    let printed: BTreeMap<&str, String> = all.into_iter().map(|(kind, text)| (kind, text + "\n")).collect();
    assert_eq!(printed.len(), number, "a kind has two mistakes");
    let mut differing = Vec::new();
    for (kind, printed) in &printed {
        let path = folder.join(format!("{kind}.expected"));
        if bless {
            fs::write(&path, printed).unwrap();
        } else if &fs::read_to_string(&path).unwrap_or_default() != printed {
            differing.push(format!("--- {kind}.expected differs; printed was\n{printed}"));
        }
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), number, "an expectation without its mistake");
    assert!(differing.is_empty(), "{}\nif the change is wanted, run again with BLIP2_BLESS=1", differing.join("\n"));
}
