use std::sync::Arc;

use object_store::memory::InMemory;

use super::*;

async fn read(questions: &str, annotations: Option<&str>) -> Result<AskedQuestions> {
    let mut place = Location::parse("/sets").unwrap();
    place.store = Arc::new(InMemory::new());
    let (asked, answered) = (place.child("questions.json"), place.child("answers.json"));
    asked.write(questions.to_owned()).await.unwrap();
    answered.write(annotations.unwrap_or_default().to_owned()).await.unwrap();
    read_questions(&asked, annotations.map(|_| &answered)).await
}

/// Image, key, question and answers of each.
type Row<'a> = (&'a str, &'a str, Option<&'a str>, Vec<&'a str>);

fn rows(found: &AskedQuestions, of: impl Fn(&[(String, &Asked)])) {
    let named: Vec<(String, &Asked)> = found.questions.iter().map(|one| (one.image.to_string(), one)).collect();
    of(&named);
}

#[track_caller]
fn assert_rows(found: &AskedQuestions, expected: &[Row<'_>]) {
    rows(found, |all| {
        let all: Vec<Row<'_>> = all
            .iter()
            .map(|(name, one)| {
                let answers = one.answers.iter().map(String::as_str).collect();
                (name.as_str(), one.key.as_str(), one.text.as_deref(), answers)
            })
            .collect();
        assert_eq!(all, expected);
    });
}

#[tokio::test]
async fn vqa_takes_any_number_of_answers_and_leaves_out_bad_entries() {
    let questions = r#"{"questions": [{"question_id": 1, "image_id": 42, "question": "who"}, {"question_id": 2.0, "image_id": 42,
        "question": null}, {"question_id": 3, "image_id": 42, "question": "how"}, {"question_id": 4, "question": "why"},
        {"question_id": 5, "image_id": 42, "question": "when"}, {"question_id": 6, "image_id": 42, "question": "one"},
        {"question_id": 6, "image_id": 43, "question": "two"}], "data_subtype": "val2014"}"#;
    let answers = r#"{"data_subtype": "val2014", "annotations": [{"question_id": "1", "image_id": 42.0, "answers": [{"answer": "he"},
        {"answer": "she"}, {"answer": ""}]}, {"question_id": 2, "image_id": 42, "answers": [{"answer": "x"}]},
        {"question_id": 5, "image_id": 7, "answers": ["now"]}, {"question_id": 9, "answers": ["x"]}, {"question_id": 3},
        {"question_id": 6, "answers": ["x"]}]}"#;
    let found = read(questions, Some(answers)).await.unwrap();
    let file = "COCO_val2014_000000000042.jpg";
    let expected: [Row<'_>; 4] = [
        (file, "1", Some("who"), vec!["he", "she"]),
        (file, "2", None, vec!["x"]),
        (file, "3", Some("how"), vec![]),
        (file, "5", Some("when"), vec![]),
    ];
    assert_rows(&found, &expected);
    let twice = "question 6 stands in several places, about other things; expected one of each id";
    assert_eq!(
        found.bad[0].first(),
        [
            "questions[1]: `question` is null; expected a text",
            "questions[3]: has no `image_id` or `img_id`; expected an id",
            &format!("questions[5]: {twice}"),
            &format!("questions[6]: {twice}"),
        ]
    );
    assert_eq!(
        found.bad[1].first(),
        [
            "annotations[0].answers[2]: found {\"answer\":\"\"}; expected a text that is not empty",
            "annotations[4]: has no `answers`; expected a list, or one answer",
            "annotations[2]: is about another image than its question, questions[4]",
            "annotations[3]: annotates question 9, which is not among the questions",
        ]
    );
}

#[tokio::test]
async fn answers_stand_in_the_file_of_questions_as_well() {
    let both = r#"{"data_subtype": "train2014", "questions": [{"question_id": 1, "image_id": 9, "question": "who"}],
        "annotations": [{"question_id": 1, "image_id": 9, "answers": [{"answer": "he", "raw_answer": "him"}]}]}"#;
    let expected: [Row<'_>; 1] = [("COCO_train2014_000000000009.jpg", "1", Some("who"), vec!["he"])];
    assert_rows(&read(both, None).await.unwrap(), &expected);
}

#[tokio::test]
async fn every_published_form_is_read() {
    let cases: [(&str, Row<'_>); 10] = [
        (
            r#"{"dataset_type": "train", "data": [{"question": "what brand", "image_id": "0054c9", "question_id": 0, "answers":
                ["nokia", "nokia"]}]}"#,
            ("0054c9.jpg", "0", Some("what brand"), vec!["nokia", "nokia"]),
        ),
        (
            r#"{"data": {"questions": [{"question": "who", "image": "a.jpg", "question_id": 0, "answers": ["he"]}]}}"#,
            ("a.jpg", "0", Some("who"), vec!["he"]),
        ),
        (
            r#"{"201307251": {"question": "Is it overcast?", "imageId": "n161313", "answer": "no", "types": {}}}"#,
            ("n161313.jpg", "201307251", Some("Is it overcast?"), vec!["no"]),
        ),
        (
            r#"[{"id": 1, "qas": [{"qa_id": 986769, "question": "What color?", "answer": "Green.", "a_objects": []}]}]"#,
            ("1.jpg", "986769", Some("What color?"), vec!["Green."]),
        ),
        (
            r#"[{"question_id": 3, "question": "What is it?", "image": "val2014/COCO_val2014_000000393225.jpg", "answer":
                ["net", "nets"], "dataset": "vqa"}]"#,
            ("val2014/COCO_val2014_000000393225.jpg", "3", Some("What is it?"), vec!["net", "nets"]),
        ),
        (
            r#"[{"question_id": "20602949", "question": "Who?", "image": "n119536.jpg", "answer": "woman"}]"#,
            ("n119536.jpg", "20602949", Some("Who?"), vec!["woman"]),
        ),
        (
            r#"[{"image": "VizWiz_train_00000000.jpg", "question": "What's the name?", "answers": [{"answer_confidence": "yes",
                "answer": "basil leaves"}], "answer_type": "other", "answerable": 1}]"#,
            ("VizWiz_train_00000000.jpg", "VizWiz_train_00000000.jpg", Some("What's the name?"), vec!["basil leaves"]),
        ),
        (
            r#"[{"split": "train", "image_id": 299207, "question_id": "22MexN", "question": "What is he by?", "choices": ["foot",
                "car"], "correct_choice_idx": 1, "direct_answers": ["ramp", "ramp"]}]"#,
            ("train2017/000000299207.jpg", "22MexN", Some("What is he by?"), vec!["ramp", "ramp"]),
        ),
        (
            r#"[{"split": "val", "image_id": 9, "question_id": "x", "question": "Who?", "direct_answers": "['he', \"it's\"]"}]"#,
            ("val2017/000000000009.jpg", "x", Some("Who?"), vec!["he", "it's"]),
        ),
        (
            "{\"image\": \"a.jpg\", \"question\": \"who\", \"answer\": \"he\", \"question_id\": 5}\n",
            ("a.jpg", "5", Some("who"), vec!["he"]),
        ),
    ];
    for (json, expected) in cases {
        let found = read(json, None).await.unwrap();
        assert!(found.bad[0].is_empty(), "{}", found.bad[0]);
        assert_rows(&found, &[expected]);
    }
    let genome = r#"[{"id": 1, "qas": [{"qa_id": 1, "question": "Who?", "answer": "He."}]}]"#;
    assert_eq!(read(genome, None).await.unwrap().questions[0].image, ImageName::Genome("1".into()));
}

#[tokio::test]
async fn files_without_a_usable_question_are_refused() {
    let questions =
        r#"{"data_subtype": "val2014", "questions": [{"question_id": 1, "image_id": 9, "question": "who"}]}"#;
    let other_split = r#"{"data_subtype": "train2014", "annotations": [{"question_id": 1, "answers": ["he"]}]}"#;
    for (questions, answers, expected) in [
        (questions, None, "/sets/questions.json: none of the 1 questions has a text and an answer"),
        (questions, Some(other_split), "/sets/answers.json: its `data_subtype` is train2014; expected val2014"),
        (questions, Some("{}"), "/sets/answers.json: none of the 1 questions has a text and an answer"),
        (questions, Some("{"), "/sets/answers.json: no whole JSON"),
        (
            "[{\"question\": \"who\"}]",
            None,
            "/sets/questions.json: no question that can be used; 1 problem\n  [0]: has no",
        ),
        ("{\"images\": []}", None, "/sets/questions.json: no question that can be used"),
    ] {
        let error = read(questions, answers).await.unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
