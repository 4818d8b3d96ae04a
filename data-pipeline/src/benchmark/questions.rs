//! Questions, in three layouts, and the answers that VQA keeps in a file of their own.

use std::collections::BTreeMap;

use super::captions::{coco_file, id_of};
use super::entry::{Entry, Places, shown};
use super::outline::{Spot, entries};
use super::{Id, Layout, Problems, Question};

/// Answers to every question of VQAv2 and OK-VQA: of ten people, or of five counted twice.
const ANSWERS: usize = 10;

/// Questions in the order of a file, with the place of each.
#[derive(Default)]
pub(super) struct Questions {
    pub(super) all: Vec<Question>,
    places: Vec<String>,
    ids: Places,
    /// What `data_subtype` says.
    subtype: Option<String>,
}

impl Questions {
    fn add(&mut self, question: Question, entry: &mut Entry<'_>) {
        match self.ids.add(&question.id, &entry.place) {
            None => {
                self.all.push(question);
                self.places.push(entry.place.clone());
            }
            Some(first) => {
                let what = format!("question {} stands in {first} already; expected it once", question.id);
                entry.note(what);
            }
        }
    }

    /// Notes questions that have another number of answers than the first one has.
    fn compare_answers(&self, problems: &mut Problems) {
        let Some(expected) = self.all.first().map(|question| question.answers.len()) else { return };
        for (question, place) in self.all.iter().zip(&self.places) {
            let found = question.answers.len();
            if found != expected {
                let what = format!("found {found} answers; expected {expected}, as the first question has");
                problems.note(place, what);
            }
        }
    }
}

/// The questions of a file.
///
/// # Errors
/// What is wrong with the JSON.
pub(super) fn parse(layout: Layout, json: &[u8], problems: &mut Problems) -> Result<Questions, String> {
    match layout {
        Layout::VqaQuestions => vqa(json, problems),
        Layout::Gqa => gqa(json, problems),
        Layout::QuestionList => list(json, problems),
        _ => {
            problems.note("the file", format!("is {}; expected questions", layout.name()));
            Ok(Questions::default())
        }
    }
}

/// VQAv2 and OK-VQA, without answers.
fn vqa(json: &[u8], problems: &mut Problems) -> Result<Questions, String> {
    let mut questions = Questions::default();
    entries(json, |Spot { key, index }, value| match (key, index) {
        (Some("data_subtype"), None) => questions.subtype = value.as_str().map(str::to_owned),
        (Some("questions"), Some(index)) => {
            let Some(mut entry) = Entry::of(format!("questions[{index}]"), value, problems) else { return };
            let (id, image_id) = (entry.id(&["question_id"]), entry.id(&["image_id"]));
            if let (Some(id), Some(image_id), Some(text)) = (id, image_id, entry.text("question")) {
                questions.add(unanswered(id, image_id, String::new(), text), &mut entry);
            }
        }
        _ => {}
    })?;
    match &questions.subtype {
        None => problems.note("data_subtype", "found none; expected a text such as val2014, which names images".into()),
        // The key may stand behind the questions.
        Some(subtype) => questions.all.iter_mut().for_each(|q| q.file = coco_file(subtype, &q.image_id)),
    }
    Ok(questions)
}

fn unanswered(id: Id, image_id: Id, file: String, text: String) -> Question {
    let (answers, answer_type, question_type, detailed_type) = (Vec::new(), None, None, None);
    Question { id, image_id, file, text, answers, answer_type, question_type, detailed_type }
}

/// What an annotation says of its question.
struct Annotation {
    place: String,
    image_id: Id,
    answers: Vec<String>,
    answer_type: Option<String>,
    question_type: Option<String>,
}

/// Gives the questions the answers of VQA's annotations.
///
/// # Errors
/// What is wrong with the JSON.
pub(super) fn annotate(questions: &mut Questions, json: &[u8], problems: &mut Problems) -> Result<(), String> {
    let mut annotations: BTreeMap<String, Annotation> = BTreeMap::new();
    let (mut places, mut subtype) = (Places::default(), None);
    let is_whole = problems.is_empty();
    entries(json, |Spot { key, index }, value| match (key, index) {
        (Some("data_subtype"), None) => subtype = value.as_str().map(str::to_owned),
        (Some("annotations"), Some(index)) => {
            let Some(mut entry) = Entry::of(format!("annotations[{index}]"), value, problems) else { return };
            let (id, image_id) = (entry.id(&["question_id"]), entry.id(&["image_id"]));
            let answers = entry.texts_of("answers", "answer");
            let answer_type = entry.text_if_there("answer_type");
            let question_type = entry.text_if_there("question_type");
            let (Some(id), Some(image_id)) = (id, image_id) else { return };
            if let Some(first) = places.add(&id, &entry.place) {
                let what = format!("annotates question {id}, as {first} does already; expected one annotation");
                entry.note(what);
                return;
            }
            match answers.as_ref().map(Vec::len) {
                None | Some(ANSWERS) => {}
                Some(found) => entry.note(format!("question {id} has {found} answers; expected {ANSWERS}")),
            }
            let answers = answers.unwrap_or_default();
            let place = entry.place;
            annotations.insert(id.to_string(), Annotation { place, image_id, answers, answer_type, question_type });
        }
        _ => {}
    })?;
    // Of questions that could not be read, nothing can be said about their annotations.
    if is_whole {
        if subtype != questions.subtype {
            let shown = |subtype: &Option<String>| subtype.clone().unwrap_or_else(|| "none".into());
            let (found, expected) = (shown(&subtype), shown(&questions.subtype));
            problems.note("data_subtype", format!("annotations are of {found}; expected {expected}, as the questions"));
        }
        join(questions, annotations, problems);
    }
    Ok(())
}

fn join(questions: &mut Questions, mut annotations: BTreeMap<String, Annotation>, problems: &mut Problems) {
    for (question, place) in questions.all.iter_mut().zip(&questions.places) {
        let Some(found) = annotations.remove(&question.id.to_string()) else {
            problems.note(place, format!("question {} has no annotation", question.id));
            continue;
        };
        if found.image_id.to_string() != question.image_id.to_string() {
            let what =
                format!("is about image {}; question {} is about {}", found.image_id, question.id, question.image_id);
            problems.note(&found.place, what);
        }
        question.answers = found.answers;
        question.answer_type = found.answer_type;
        question.question_type = found.question_type;
    }
    for (id, annotation) in annotations {
        problems.note(annotation.place, format!("annotates question {id}, which is not among the questions"));
    }
}

/// GQA: `{question id: {"question", "answer", "imageId", "types"}}`.
fn gqa(json: &[u8], problems: &mut Problems) -> Result<Questions, String> {
    let mut questions = Questions::default();
    entries(json, |spot, value| {
        let (Some(id), None) = (spot.key, spot.index) else {
            return problems.note(format!("question {spot}"), format!("found {}; expected an object", shown(&value)));
        };
        let Some(mut entry) = Entry::of(format!("question {id}"), value, problems) else { return };
        let (text, image_id) = (entry.text("question"), entry.id(&["imageId"]));
        let answer = entry.text_if_there("answer");
        let [structural, semantic, detailed] = entry.object_texts("types", ["structural", "semantic", "detailed"]);
        let (Some(text), Some(image_id)) = (text, image_id) else { return };
        let file = format!("{image_id}.jpg");
        let question = Question {
            answers: answer.into_iter().collect(),
            answer_type: semantic,
            question_type: structural,
            detailed_type: detailed,
            ..unanswered(Id::Text(id.to_owned()), image_id, file, text)
        };
        questions.add(question, &mut entry);
    })?;
    questions.compare_answers(problems);
    Ok(questions)
}

/// LAVIS' lists: `[{"question_id", "question", "image", "answer"}]`, with ten answers or one.
fn list(json: &[u8], problems: &mut Problems) -> Result<Questions, String> {
    let mut questions = Questions::default();
    entries(json, |spot, value| {
        let Some(mut entry) = Entry::of(spot.to_string(), value, problems) else { return };
        let (id, file, text) = (entry.id(&["question_id"]), entry.text("image"), entry.text("question"));
        let keys = &["answer", "answers"];
        let answers = if entry.has(keys) { entry.texts(keys) } else { Some(Vec::new()) };
        let answer_type = entry.text_if_there("answer_type");
        let question_type = entry.text_if_there("question_type");
        let (Some(id), Some(file), Some(text), Some(answers)) = (id, file, text, answers) else { return };
        if ![0, 1, ANSWERS].contains(&answers.len()) {
            entry.note(format!("question {id} has {} answers; expected {ANSWERS}, or one as in GQA", answers.len()));
            return;
        }
        let image_id = id_of(&file);
        let asked = unanswered(id, image_id, file, text);
        questions.add(Question { answers, answer_type, question_type, ..asked }, &mut entry);
    })?;
    questions.compare_answers(problems);
    Ok(questions)
}
