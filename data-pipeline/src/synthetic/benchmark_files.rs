//! The JSON of a benchmark's split.

use std::collections::HashMap;

use serde::Serialize;

use super::questions::{Question, QuestionKind};
use crate::error::{DataError, Result};

/// Captions of a scene in a set, as in COCO and Flickr30k; a scene has one more.
const CAPTIONS: usize = 5;
/// Answers to a question, as in VQAv2.
const ANSWERS: u64 = 10;
/// A question's id is its image's times this, and its number: VQAv2's rule.
const QUESTIONS_OF_AN_IMAGE: u64 = 1000;

/// What the files say of a scene.
pub(super) struct SplitScene {
    /// All six.
    pub(super) captions: Vec<String>,
    pub(super) questions: Vec<Question>,
}

/// The files of a split, and what they hold.
pub(super) struct Files {
    pub(super) captions: Vec<u8>,
    pub(super) questions: Vec<u8>,
    pub(super) annotations: Vec<u8>,
    pub(super) num_captions: u64,
    /// Captions whose text stands with several scenes.
    pub(super) shared_captions: u64,
    pub(super) num_questions: u64,
}

/// An entry of LAVIS' lists.
#[derive(Serialize)]
struct ImageCaptions {
    image: String,
    caption: Vec<String>,
}

/// VQAv2's file of questions.
#[derive(Serialize)]
struct QuestionFile<'a> {
    info: Info,
    task_type: &'static str,
    data_type: &'static str,
    data_subtype: &'a str,
    questions: Vec<AskedQuestion<'a>>,
}

#[derive(Serialize)]
struct AskedQuestion<'a> {
    image_id: u64,
    question: &'a str,
    question_id: u64,
}

/// VQAv2's file of annotations.
#[derive(Serialize)]
struct AnnotationFile<'a> {
    info: Info,
    data_type: &'static str,
    data_subtype: &'a str,
    annotations: Vec<Annotation<'a>>,
}

#[derive(Serialize)]
struct Annotation<'a> {
    question_type: &'static str,
    multiple_choice_answer: &'a str,
    answers: Vec<Answer<'a>>,
    image_id: u64,
    answer_type: &'static str,
    question_id: u64,
}

#[derive(Serialize)]
struct Answer<'a> {
    answer: &'a str,
    answer_confidence: &'static str,
    answer_id: u64,
}

#[derive(Serialize)]
struct Info {
    description: &'static str,
}

const INFO: Info = Info { description: "synthetic scenes" };

/// The files of a split; scene 0 has image 0.
///
/// # Errors
/// [`DataError::Encode`].
pub(super) fn describe(split: &str, scenes: Vec<SplitScene>) -> Result<Files> {
    let mut asked = Vec::new();
    let mut annotated = Vec::new();
    for (image_id, scene) in (0..).zip(&scenes) {
        for (number, question) in (0..).zip(&scene.questions) {
            let question_id = image_id * QUESTIONS_OF_AN_IMAGE + number;
            asked.push(AskedQuestion { image_id, question: &question.question, question_id });
            annotated.push(annotation(image_id, question_id, question));
        }
    }
    let num_questions = asked.len() as u64;
    let questions = QuestionFile {
        info: INFO,
        task_type: "Open-Ended",
        data_type: "synthetic",
        data_subtype: split,
        questions: asked,
    };
    let annotations =
        AnnotationFile { info: INFO, data_type: "synthetic", data_subtype: split, annotations: annotated };
    let (questions, annotations) = (encode(&questions)?, encode(&annotations)?);
    let (chosen, shared_captions) = choose_captions(scenes.into_iter().map(|scene| scene.captions).collect());
    let num_captions = chosen.iter().map(|captions| captions.len() as u64).sum();
    let entry = |(number, caption): (u64, Vec<String>)| ImageCaptions {
        image: format!("COCO_{split}_{number:012}.jpg"),
        caption,
    };
    let list: Vec<ImageCaptions> = (0..).zip(chosen).map(entry).collect();
    Ok(Files { captions: encode(&list)?, questions, annotations, num_captions, shared_captions, num_questions })
}

/// Ten people who agree.
fn annotation(image_id: u64, question_id: u64, question: &Question) -> Annotation<'_> {
    let answer = question.answer.as_str();
    let answer_type = match (answer, question.kind) {
        ("yes" | "no", _) => "yes/no",
        (_, QuestionKind::Count) => "number",
        _ => "other",
    };
    Annotation {
        question_type: question.kind.name(),
        multiple_choice_answer: answer,
        answers: (1..=ANSWERS).map(|answer_id| Answer { answer, answer_confidence: "yes", answer_id }).collect(),
        image_id,
        answer_type,
        question_id,
    }
}

/// Five captions of each scene, and how many of them stand with several scenes. Of the six, the one that most scenes of
/// the split share is left out, the last of those where several are equal.
fn choose_captions(mut scenes: Vec<Vec<String>>) -> (Vec<Vec<String>>, u64) {
    let scenes_of_each = |scenes: &[Vec<String>]| {
        let mut scenes_with: HashMap<&str, u64> = HashMap::new();
        scenes.iter().flatten().for_each(|text| *scenes_with.entry(text).or_default() += 1);
        let counts = |texts: &Vec<String>| texts.iter().map(|text| scenes_with[text.as_str()]).collect();
        scenes.iter().map(counts).collect::<Vec<Vec<u64>>>()
    };
    let counts = scenes_of_each(&scenes);
    for (captions, mut counts) in scenes.iter_mut().zip(counts) {
        while captions.len() > CAPTIONS {
            let most = (0..counts.len()).max_by_key(|number| counts[*number]).unwrap_or_default();
            captions.remove(most);
            counts.remove(most);
        }
    }
    let shared = scenes_of_each(&scenes).into_iter().flatten().filter(|count| *count > 1).count();
    (scenes, shared as u64)
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(value).map_err(|error| DataError::Encode(error.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::choose_captions;

    fn scene(texts: [&str; 6]) -> Vec<String> {
        texts.map(str::to_owned).to_vec()
    }

    #[test]
    fn the_caption_that_most_scenes_share_is_left_out() {
        let scenes = vec![
            scene(["a", "same", "b", "twice", "c", "d"]),
            scene(["e", "f", "same", "twice", "g", "h"]),
            scene(["i", "j", "k", "l", "m", "same"]),
            scene(["n", "o", "p", "q", "r", "s"]),
        ];
        let (chosen, shared) = choose_captions(scenes);
        assert_eq!(chosen[0], ["a", "b", "twice", "c", "d"]);
        assert_eq!(chosen[1], ["e", "f", "twice", "g", "h"]);
        assert_eq!(chosen[2], ["i", "j", "k", "l", "m"]);
        assert_eq!(chosen[3], ["n", "o", "p", "q", "r"]);
        assert_eq!(shared, 2);
    }
}
