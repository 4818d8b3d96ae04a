//! Questions about images with their answers, for training.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::answers::answers;
use super::captions::{FILE_KEYS, file_of};
use super::records::{Record, records};
use super::{Id, ImageName};
use crate::benchmark::Problems;
use crate::benchmark::captions::coco_file;
use crate::benchmark::entry::Entry;
use crate::error::{DataError, Result};
use crate::store::Location;

/// Keys of a question's id.
const QUESTION_ID: [&str; 3] = ["question_id", "questionId", "qa_id"];
/// Keys of A-OKVQA's entries alone, whose images are those of COCO 2017.
const OF_AOKVQA: [&str; 2] = ["direct_answers", "correct_choice_idx"];

/// The questions of a source.
#[derive(Debug)]
pub struct AskedQuestions {
    /// The questions in the order of the file. Those without a text or an answer are among them.
    pub questions: Vec<Asked>,
    /// Entries that cannot be used, with their places, of the file of questions and that of answers.
    pub bad: [Problems; 2],
}

/// A question about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The image.
    pub image: ImageName,
    /// The question's id, or the image's name where it has none.
    pub key: String,
    /// The question; nothing where it has none that can be used.
    pub text: Option<String>,
    /// Its answers, as many as are published.
    pub answers: Vec<String>,
}

/// Reads questions in every published form, with the answers that stand beside them or in a file of their own:
///
/// - VQAv2 and OK-VQA: `{"questions": […]}` and `{"annotations": [{"answers": [{"answer"}]}]}`;
/// - TextVQA: `{"data": [{"question", "answers": […]}]}`;
/// - GQA: `{question id: {"question", "answer", "imageId"}}`;
/// - Visual Genome: `[{"id", "qas": [{"question", "answer"}]}]`;
/// - LAVIS, VizWiz, A-OKVQA: `[{"question", "image" or "image_id", "answer" or "answers" …}]`, or such an object a line.
///
/// # Errors
/// [`DataError::Annotations`] when a file is of none of the forms, or no question can be used;
/// [`DataError::Store`] when one cannot be read.
pub async fn read_questions(questions: &Location, annotations: Option<&Location>) -> Result<AskedQuestions> {
    let broken = |at: &Location, problem: String| DataError::Annotations { uri: at.uri().into(), problem };
    let mut reader = Reader::default();
    let mut bad = [Problems::default(), Problems::default()];
    let bytes = questions.read().await?;
    records(questions.uri(), &bytes, &mut bad[0], |record, problems| reader.question_file(record, problems))
        .map_err(|problem| broken(questions, problem))?;
    if reader.questions.is_empty() {
        let what = if bad[0].is_empty() { String::new() } else { format!("; {}", bad[0]) };
        return Err(broken(questions, format!("no question that can be used{what}\n{EXPECTED}")));
    }
    if let Some(annotations) = annotations {
        let bytes = annotations.read().await?;
        let asked = reader.subtype.take();
        records(annotations.uri(), &bytes, &mut bad[1], |record, problems| reader.answer_file(record, problems))
            .map_err(|problem| broken(annotations, problem))?;
        let answered = std::mem::replace(&mut reader.subtype, asked);
        if let (Some(asked), Some(answered)) = (&reader.subtype, answered)
            && *asked != answered
        {
            let what = format!("its `data_subtype` is {answered}; expected {asked}, that of {}", questions.uri());
            return Err(broken(annotations, what));
        }
    }
    let found = reader.join(&mut bad, annotations.is_some());
    if found.iter().all(|asked| asked.text.is_none() || asked.answers.is_empty()) {
        let notes = bad.iter().filter(|bad| !bad.is_empty()).map(|bad| format!("; {bad}")).collect::<String>();
        let what = format!("none of the {} questions has a text and an answer{notes}", found.len());
        return Err(broken(annotations.unwrap_or(questions), format!("{what}\n{EXPECTED}")));
    }
    Ok(AskedQuestions { questions: found, bad })
}

/// The forms, for messages.
const EXPECTED: &str = "Expected VQA's `questions` and, in the same file or another, `annotations` with `answers`; a list of \
                        `question`, `image` and `answer`; GQA's questions by their ids; or Visual Genome's `qas`";

/// Questions that were read so far.
#[derive(Default)]
struct Reader {
    questions: Vec<Question>,
    answers: Vec<Answered>,
    /// `data_subtype` of the file that is read.
    subtype: Option<String>,
}

/// A question as its file has it.
struct Question {
    place: String,
    id: Option<Id>,
    image: Image,
    text: Option<String>,
    /// The answers beside it.
    answers: Option<Vec<String>>,
}

/// The image of a question.
#[derive(Clone, PartialEq, Eq)]
enum Image {
    Named(ImageName),
    /// By its id: COCO's name where the file has a `data_subtype`, which may stand behind the questions.
    Id(Id),
}

/// An entry of the answers.
struct Answered {
    place: String,
    question: Id,
    image: Option<Id>,
    answers: Vec<String>,
}

impl Reader {
    fn question_file(&mut self, record: Record<'_>, problems: &mut Problems) {
        let Record { key, index, place, value } = record;
        match (key, index, value) {
            (Some("data_subtype"), None, value) => self.subtype = value.as_str().map(str::to_owned),
            (Some("annotations"), Some(_), value) => self.answer(place, None, value, problems),
            (None | Some("questions" | "data"), Some(_), value) => self.question(place, None, value, problems),
            (Some("data"), None, Value::Object(mut data)) => {
                let Some(Value::Array(list)) = data.remove("questions") else { return };
                for (index, value) in list.into_iter().enumerate() {
                    self.question(format!("data.questions[{index}]"), None, value, problems);
                }
            }
            (Some(id), None, Value::Object(fields)) if fields.contains_key("question") => {
                self.question(format!("question {id}"), Some(id), Value::Object(fields), problems);
            }
            _ => {}
        }
    }

    fn answer_file(&mut self, record: Record<'_>, problems: &mut Problems) {
        let Record { key, index, place, value } = record;
        match (key, index, value) {
            (Some("data_subtype"), None, value) => self.subtype = value.as_str().map(str::to_owned),
            (None | Some("annotations" | "data"), Some(_), value) => self.answer(place, None, value, problems),
            (Some(id), None, Value::Object(fields))
                if ["answer", "answers"].iter().any(|key| fields.contains_key(*key)) =>
            {
                self.answer(format!("question {id}"), Some(id), Value::Object(fields), problems);
            }
            _ => {}
        }
    }

    fn question(&mut self, place: String, id: Option<&str>, value: Value, problems: &mut Problems) {
        let Some(mut entry) = Entry::of(place, value, problems) else { return };
        if let Some((key, value)) = entry.value(&["qas"]) {
            let Some(image) = entry.id(&["id", "image_id"]) else { return };
            let Value::Array(list) = value else {
                entry.refuse::<()>(key, &value, "a list of questions with their answers");
                return;
            };
            let Entry { place, problems, .. } = entry;
            for (index, value) in list.into_iter().enumerate() {
                let Some(entry) = Entry::of(format!("{place}.qas[{index}]"), value, problems) else { continue };
                self.add(entry, None, Some(Image::Named(ImageName::Genome(image.to_string()))));
            }
            return;
        }
        self.add(entry, id, None);
    }

    fn add(&mut self, mut entry: Entry<'_>, id: Option<&str>, image: Option<Image>) {
        let id = match id {
            Some(key) => Some(Id::Text(key.to_owned())),
            None if entry.has(&QUESTION_ID) => {
                let Some(id) = entry.id(&QUESTION_ID) else { return };
                Some(id)
            }
            None => None,
        };
        let Some(image) = image.or_else(|| image_of(&mut entry)) else { return };
        let answers = answers(&mut entry);
        let text = entry.text("question");
        self.questions.push(Question { place: entry.place, id, image, text, answers });
    }

    fn answer(&mut self, place: String, id: Option<&str>, value: Value, problems: &mut Problems) {
        let Some(mut entry) = Entry::of(place, value, problems) else { return };
        let id = match id {
            Some(key) => Some(Id::Text(key.to_owned())),
            None => entry.id(&QUESTION_ID),
        };
        let Some(question) = id else { return };
        let image = if entry.has(&["image_id"]) { entry.id(&["image_id"]) } else { None };
        match answers(&mut entry) {
            Some(answers) => self.answers.push(Answered { place: entry.place, question, image, answers }),
            None => entry.note("has no `answers`; expected a list, or one answer".into()),
        }
    }

    /// The questions with their answers. `bad` has the problems of the questions' file, and of the answers'.
    fn join(self, bad: &mut [Problems; 2], are_apart: bool) -> Vec<Asked> {
        let Self { questions, answers, subtype } = self;
        let repeated = repeated(&questions);
        let of_answers = usize::from(are_apart);
        let mut by_id: BTreeMap<String, Answered> = BTreeMap::new();
        for answered in answers {
            let id = answered.question.to_string();
            match by_id.get(&id) {
                Some(first) => {
                    let what =
                        format!("annotates question {id}, as {} does already; expected one annotation", first.place);
                    bad[of_answers].note(answered.place, what);
                }
                None => _ = by_id.insert(id, answered),
            }
        }
        let mut asked = Vec::with_capacity(questions.len());
        let mut used = BTreeSet::new();
        for question in questions {
            let id = question.id.as_ref().map(ToString::to_string);
            used.extend(id.clone());
            if let (Some(id), None) = (id.as_ref().filter(|id| repeated.contains(*id)), &question.answers) {
                let what =
                    format!("question {id} stands in several places, about other things; expected one of each id");
                bad[0].note(&question.place, what);
                continue;
            }
            let elsewhere = id.as_ref().filter(|_| question.answers.is_none()).and_then(|id| by_id.get(id));
            let texts = match elsewhere {
                Some(found) if !is_about(found, &question.image) => {
                    let what = format!("is about another image than its question, {}", question.place);
                    bad[of_answers].note(&found.place, what);
                    Vec::new()
                }
                Some(found) => found.answers.clone(),
                None => question.answers.unwrap_or_default(),
            };
            let image = named(question.image, subtype.as_deref());
            let key = id.unwrap_or_else(|| image.to_string());
            asked.push(Asked { image, key, text: question.text, answers: texts });
        }
        for (id, answered) in by_id.iter().filter(|(id, _)| !used.contains(*id)) {
            bad[of_answers].note(&answered.place, format!("annotates question {id}, which is not among the questions"));
        }
        asked
    }
}

/// Ids that several different questions have.
fn repeated(questions: &[Question]) -> BTreeSet<String> {
    let (mut first, mut repeated) = (BTreeMap::new(), BTreeSet::new());
    for question in questions {
        let Some(id) = question.id.as_ref().map(ToString::to_string) else { continue };
        let known = first.entry(id.clone()).or_insert(question);
        if known.text != question.text || known.image != question.image {
            repeated.insert(id);
        }
    }
    repeated
}

/// Whether answers are about the image of the question, as far as they tell.
fn is_about(answered: &Answered, image: &Image) -> bool {
    match (&answered.image, image) {
        (Some(found), Image::Id(id)) => found.to_string() == id.to_string(),
        _ => true,
    }
}

fn image_of(entry: &mut Entry<'_>) -> Option<Image> {
    if entry.has(&FILE_KEYS) {
        return file_of(entry).map(Image::Named);
    }
    if entry.has(&["imageId"]) {
        // GQA's images are Visual Genome's.
        return Some(Image::Named(ImageName::Genome(entry.id(&["imageId"])?.to_string())));
    }
    let is_aokvqa = entry.has(&OF_AOKVQA) && entry.has(&["split"]);
    let id = entry.id(&["image_id", "img_id"])?;
    if is_aokvqa {
        let split = entry.text("split")?;
        return Some(Image::Named(ImageName::File(format!("{split}2017/{:0>12}.jpg", id.to_string()))));
    }
    Some(Image::Id(id))
}

/// The file of an image.
fn named(image: Image, subtype: Option<&str>) -> ImageName {
    match (image, subtype) {
        (Image::Named(name), _) => name,
        (Image::Id(id), Some(subtype)) => ImageName::File(coco_file(subtype, &id)),
        (Image::Id(id), None) => ImageName::File(format!("{id}.jpg")),
    }
}

#[cfg(test)]
mod tests;
