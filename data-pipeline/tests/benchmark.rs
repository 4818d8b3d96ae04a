//! Sets for evaluation in every published layout, and predictions about them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use data_pipeline::benchmark::{
    CaptionSet, Id, Question, QuestionSet, read_answer_predictions, read_caption_predictions, read_captions,
    read_questions,
};
use data_pipeline::store::Location;
use object_store::memory::InMemory;
use sha2::{Digest, Sha256};

/// A fresh store in memory.
fn memory() -> Location {
    let mut place = Location::parse("/sets").unwrap();
    place.store = Arc::new(InMemory::new());
    place
}

async fn captions(name: &str, json: &str, split: Option<&str>) -> CaptionSet {
    let file = memory().child(name);
    file.write(json.to_owned()).await.unwrap();
    read_captions(&file, split).await.unwrap()
}

async fn questions(json: &str, annotations: Option<&str>) -> QuestionSet {
    let place = memory();
    let (asked, answered) = (place.child("questions.json"), place.child("annotations.json"));
    asked.write(json.to_owned()).await.unwrap();
    answered.write(annotations.unwrap_or_default().to_owned()).await.unwrap();
    read_questions(&asked, annotations.map(|_| &answered)).await.unwrap()
}

/// Id, file and captions of every image.
fn images(set: &CaptionSet) -> Vec<(String, &str, Vec<&str>)> {
    set.images
        .iter()
        .map(|i| (i.id.to_string(), i.file.as_str(), i.captions.iter().map(String::as_str).collect()))
        .collect()
}

fn ten(answer: &str) -> String {
    let one = |id| format!(r#"{{"answer": "{answer}", "answer_confidence": "yes", "answer_id": {id}}}"#);
    (1..=10).map(one).collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn lavis_lists_of_captions_are_read() {
    let json = r#"[{"image": "val2014/COCO_val2014_000000391895.jpg", "caption": ["a man", "a bike"]},
        {"image": "flickr30k-images/1007129816.jpg", "caption": ["a hat"]}, {"image": "a/odd-name.png", "caption": "x"}]"#;
    let set = captions("coco_karpathy_test.json", json, None).await;
    assert_eq!(set.name, "coco_karpathy_test");
    let hash: String = Sha256::digest(json).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(set.sha256, hash);
    assert_eq!(
        images(&set),
        [
            ("391895".into(), "val2014/COCO_val2014_000000391895.jpg", vec!["a man", "a bike"]),
            ("1007129816".into(), "flickr30k-images/1007129816.jpg", vec!["a hat"]),
            ("odd-name".into(), "a/odd-name.png", vec!["x"]),
        ]
    );
    assert_eq!(set.images[0].id, Id::Number(391_895), "results files hold it as a number");
    assert_eq!(set.images[0].domain, None);

    let nocaps = r#"[{"image": "val/0013ea2087020901.jpg", "img_id": 0, "caption": ["a baby"]},
        {"image": "val/0051a9e8d6a1ff85.jpg", "img_id": 1, "caption": ["a bed"], "domain": "in-domain"}]"#;
    let set = captions("nocaps_val.json", nocaps, None).await;
    assert_eq!(images(&set)[1], ("1".into(), "val/0051a9e8d6a1ff85.jpg", vec!["a bed"]));
    assert_eq!(set.images[1].domain.as_deref(), Some("in-domain"));
}

#[tokio::test]
async fn cocos_own_captions_are_read_with_and_without_names() {
    let coco = r#"{"info": {"year": 2014}, "images": [{"license": 5, "file_name": "COCO_val2014_000000000042.jpg", "id": 42,
        "height": 478, "width": 640}, {"file_name": "COCO_val2014_000000000073.jpg", "id": 73}], "licenses": [{"id": 1}],
        "annotations": [{"image_id": 73, "id": 1, "caption": "a bike"}, {"image_id": 42, "id": 2, "caption": "shoes"},
        {"image_id": 73, "id": 3, "caption": "a motor bike"}]}"#;
    let set = captions("captions_val2014.json", coco, None).await;
    let expected = [
        ("42".to_owned(), "COCO_val2014_000000000042.jpg", vec!["shoes"]),
        ("73".to_owned(), "COCO_val2014_000000000073.jpg", vec!["a bike", "a motor bike"]),
    ];
    assert_eq!(images(&set), expected);
    // LAVIS' ground truth: the annotations first, and images by their ids alone.
    let truth = r#"{"annotations": [{"image_id": 42, "caption": "shoes", "id": 0}, {"image_id": 73, "caption": "a bike", "id": 1},
        {"image_id": 73, "caption": "a motor bike", "id": 2}], "images": [{"id": 42}, {"id": 73}]}"#;
    assert_eq!(images(&captions("coco_karpathy_test_gt.json", truth, None).await), expected);

    let nocaps = r#"{"images": [{"id": 7, "file_name": "0013ea2087020901.jpg", "open_images_id": "0013ea2087020901",
        "domain": "near-domain"}], "annotations": [{"id": 0, "image_id": 7, "caption": "a baby"}]}"#;
    let set = captions("nocaps_val_4500_captions.json", nocaps, None).await;
    assert_eq!(set.images[0].domain.as_deref(), Some("near-domain"));
}

#[tokio::test]
async fn karpathys_splits_are_read_one_at_a_time() {
    let coco = r#"{"images": [
        {"filepath": "val2014", "sentids": [1, 2], "filename": "COCO_val2014_000000391895.jpg", "imgid": 0, "split": "test",
         "sentences": [{"tokens": ["a"], "raw": "A man.", "imgid": 0, "sentid": 1}, {"raw": "A bike."}], "cocoid": 391895},
        {"filepath": "val2014", "filename": "COCO_val2014_000000060623.jpg", "split": "val", "sentences": [{"raw": "A girl."}],
         "cocoid": 60623}], "dataset": "coco"}"#;
    let set = captions("dataset_coco.json", coco, Some("test")).await;
    assert_eq!(set.name, "dataset_coco.test");
    let file = "val2014/COCO_val2014_000000391895.jpg";
    assert_eq!(images(&set), [("391895".into(), file, vec!["A man.", "A bike."])]);
    let flickr = r#"{"images": [{"sentids": [0], "imgid": 0, "sentences": [{"raw": "Two men."}], "split": "train",
        "filename": "1000092795.jpg"}], "dataset": "flickr30k"}"#;
    let set = captions("dataset_flickr30k.json", flickr, Some("train")).await;
    assert_eq!(images(&set), [("1000092795".into(), "1000092795.jpg", vec!["Two men."])]);
}

const VQA: &str = r#"{"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {"url": "x"},
    "data_subtype": "val2014", "questions": [{"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
    {"image_id": 262148, "question": "How many?", "question_id": 262148001}]}"#;

#[tokio::test]
async fn vqa_questions_are_read_with_and_without_annotations() {
    let annotations = format!(
        r#"{{"data_subtype": "val2014", "annotations": [
            {{"question_type": "how many", "multiple_choice_answer": "2", "answers": [{}], "image_id": 262148,
              "answer_type": "number", "question_id": 262148001}},
            {{"question_type": "none of the above", "answers": [{}], "image_id": 262148, "answer_type": "other",
              "question_id": 262148000}}]}}"#,
        ten("2"),
        ten("down")
    );
    let set = questions(VQA, Some(&annotations)).await;
    let hash = Sha256::new().chain_update(VQA).chain_update(&annotations).finalize();
    assert_eq!(set.sha256, hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let first = Question {
        id: Id::Number(262_148_000),
        image_id: Id::Number(262_148),
        file: "COCO_val2014_000000262148.jpg".into(),
        text: "Where is he looking?".into(),
        answers: vec!["down".into(); 10],
        answer_type: Some("other".into()),
        question_type: Some("none of the above".into()),
        detailed_type: None,
    };
    assert_eq!(set.questions[0], first);
    assert_eq!(set.questions[1].question_type.as_deref(), Some("how many"));

    let bare = questions(VQA, None).await;
    assert!(bare.questions.iter().all(|question| question.answers.is_empty() && question.answer_type.is_none()));
    let dev = questions(&VQA.replace("val2014", "test-dev2015"), None).await;
    assert_eq!(dev.questions[0].file, "COCO_test2015_000000262148.jpg", "they are about some of the test images");
}

#[tokio::test]
async fn gqa_questions_are_read() {
    let gqa = r#"{"201307251": {"semantic": [{"operation": "select"}], "question": "Is it overcast?", "imageId": "n161313",
        "isBalanced": true, "groups": {"global": null}, "answer": "no", "fullAnswer": "No.",
        "types": {"detailed": "weatherVerifyC", "semantic": "global", "structural": "verify"}},
        "201640614": {"question": "Who?", "imageId": "n235859", "answer": "woman"}}"#;
    let set = questions(gqa, None).await;
    let first = Question {
        id: Id::Text("201307251".into()),
        image_id: Id::Text("n161313".into()),
        file: "n161313.jpg".into(),
        text: "Is it overcast?".into(),
        answers: vec!["no".into()],
        answer_type: Some("global".into()),
        question_type: Some("verify".into()),
        detailed_type: Some("weatherVerifyC".into()),
    };
    assert_eq!(set.questions[0], first);
    assert_eq!(set.questions[1].question_type, None);
    let test = r#"{"1": {"question": "Who?", "imageId": "n235859", "isBalanced": true}}"#;
    assert_eq!(questions(test, None).await.questions[0].answers, Vec::<String>::new());
}

#[tokio::test]
async fn lavis_lists_of_questions_are_read() {
    let answers = ["net"; 10].map(|answer| format!("\"{answer}\"")).join(", ");
    let vqa = format!(
        r#"[{{"question_id": 393225000, "question": "What is it?", "image": "val2014/COCO_val2014_000000393225.jpg",
            "dataset": "vqa", "answer": [{answers}]}}]"#
    );
    let set = questions(&vqa, None).await;
    assert_eq!(set.questions[0].image_id, Id::Number(393_225));
    assert_eq!(set.questions[0].answers, vec!["net"; 10]);
    let gqa = r#"[{"question_id": "20602949", "question": "Who?", "image": "n119536.jpg", "answer": "woman"}]"#;
    let set = questions(gqa, None).await;
    assert_eq!((set.questions[0].image_id.clone(), set.questions[0].answers.len()), (Id::Text("n119536".into()), 1));
    let test = r#"[{"question_id": 1, "question": "Who?", "image": "test2015/COCO_test2015_000000000014.jpg"}]"#;
    assert!(questions(test, None).await.questions[0].answers.is_empty());
}

#[tokio::test]
async fn predictions_come_in_the_order_of_the_set() {
    let json = r#"[{"image": "a_7.jpg", "caption": "x"}, {"image": "a_8.jpg", "caption": "y"}]"#;
    let set = captions("list.json", json, None).await;
    let file = memory().child("results.json");
    file.write(r#"[{"image_id": 8, "caption": "second"}, {"image_id": "7", "caption": "", "score": 1}]"#)
        .await
        .unwrap();
    assert_eq!(read_caption_predictions(&file, &set).await.unwrap(), ["", "second"]);

    let set = questions(VQA, None).await;
    let vqa = r#"[{"question_id": 262148001, "answer": "2"}, {"question_id": 262148000, "answer": "down"}]"#;
    let gqa = r#"[{"questionId": "262148001", "prediction": "2"}, {"questionId": "262148000", "prediction": "down"}]"#;
    for json in [vqa, gqa] {
        file.write(json).await.unwrap();
        assert_eq!(read_answer_predictions(&file, &set).await.unwrap(), ["down", "2"]);
    }
}

#[tokio::test]
async fn images_are_read_by_their_full_name_from_a_store_with_a_url() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("images/val2014")).unwrap();
    std::fs::write(folder.path().join("images/val2014/COCO_val2014_000000000042.jpg"), b"forty-two").unwrap();
    std::fs::write(folder.path().join("images/73.jpg"), b"seventy-three").unwrap();
    let json = r#"[{"image": "val2014/COCO_val2014_000000000042.jpg", "caption": ["x"]}, {"image": "images/73.jpg", "caption": ["y"]},
        {"image": "COCO_val2014_000000000043.jpg", "caption": ["z"]}]"#;
    // COCO's names state their folder; the folder's own name may stand in front.
    std::fs::write(folder.path().join("images/val2014/COCO_val2014_000000000043.jpg"), b"forty-three").unwrap();
    std::fs::write(folder.path().join("list.json"), json).unwrap();
    let place = Location::parse(&format!("file://{}", folder.path().display())).unwrap();
    let set = read_captions(&place.child("list.json"), None).await.unwrap();
    let images = set.open_images(&place.child("images")).await.unwrap();
    assert_eq!(&images.read(&set.images[0].file).await.unwrap()[..], b"forty-two");
    assert_eq!(&images.read(&set.images[1].file).await.unwrap()[..], b"seventy-three");
    assert_eq!(&images.read(&set.images[2].file).await.unwrap()[..], b"forty-three");
}

#[tokio::test]
async fn pythons_json_is_read() {
    let list = "\u{feff}[{\"image\": \"a.jpg\", \"caption\": \"NaN\", \"image_id\": 7.0, \"score\": NaN},
        {\"image\": \"b.jpg\", \"caption\": [\"x\"], \"image_id\": -1}]";
    let set = captions("list.json", list, None).await;
    let expected = [("7".to_owned(), "a.jpg", vec!["NaN"]), ("-1".to_owned(), "b.jpg", vec!["x"])];
    assert_eq!(images(&set), expected);
    assert_eq!(set.images[0].id, Id::Number(7));
    let vqa =
        VQA.replace("262148000", "262148000.0").replace("\"license\": {\"url\": \"x\"}", "\"license\": -Infinity");
    assert_eq!(questions(&vqa, None).await.questions[0].id, Id::Number(262_148_000));
}
