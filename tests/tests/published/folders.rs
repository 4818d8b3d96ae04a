//! Folders of images with files of captions, or of questions.

use std::collections::BTreeMap;

use configs::{Source, VqaSource};
use serde_json::json;

use crate::{annotated, expected, make, numbered, pairs, uri, write};

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
