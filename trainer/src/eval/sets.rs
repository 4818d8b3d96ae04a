//! What is scored: held-out scenes of the run's corpus, or published sets from any store.

use std::collections::BTreeMap;

use configs::{Run, Source, SyntheticSource};
use data_pipeline::benchmark::{read_captions, read_questions};
use data_pipeline::store::Location;
use data_pipeline::synthetic::{Scene, Split};
use sha2::{Digest, Sha256};

use super::held_out::HeldOut;
use super::images::Images;
use crate::TrainerError;
use crate::storage::runtime;

/// Where a set is.
#[derive(Clone, Debug)]
pub enum Data {
    /// Held-out scenes of the run's synthetic source.
    HeldOut(Split),
    /// Files as they are published.
    Files(Files),
}

/// A set as it is published.
#[derive(Clone, Debug)]
pub struct Files {
    /// Captions, or questions.
    pub annotations: String,
    /// Answers to questions, where they have a file of their own.
    pub answers: Option<String>,
    /// The folder of images.
    pub images: String,
    /// One of the splits of a file that has several.
    pub split: Option<String>,
}

impl Data {
    /// Whether it is of the run's own corpus.
    pub fn is_held_out(&self) -> bool {
        matches!(self, Self::HeldOut(_))
    }
}

/// Images with their captions.
pub struct Captioned {
    /// What the set is called in results.
    pub name: String,
    /// SHA-256 of what is compared with.
    pub sha256: String,
    /// The images.
    pub images: Images,
    /// Their ids.
    pub ids: Vec<String>,
    /// Their captions, one or more.
    pub captions: Vec<Vec<String>>,
    /// NoCaps: the domain of each.
    pub domains: Vec<Option<String>>,
    /// What is in each, of held-out scenes.
    pub scenes: Vec<Scene>,
}

/// Images with questions about them.
pub struct Asked {
    /// What the set is called in results.
    pub name: String,
    /// SHA-256 of what is compared with.
    pub sha256: String,
    /// The images, each once.
    pub images: Images,
    /// The questions, those about one image one after the other.
    pub questions: Vec<Question>,
    /// Whether they are of held-out scenes, whose words are few.
    pub is_held_out: bool,
}

/// A question.
pub struct Question {
    /// Its id.
    pub id: String,
    /// Which image it is about.
    pub image: usize,
    /// The question as it is published.
    pub text: String,
    /// What people answered; none in a set that is published without.
    pub answers: Vec<String>,
    /// What kind of answer it has.
    pub answer_type: String,
    /// What kind of question it is.
    pub question_type: String,
}

/// The synthetic source of a run.
///
/// # Errors
/// When it has none.
pub fn synthetic_source(run: &Run) -> Result<&SyntheticSource, TrainerError> {
    let found = run.data.sources.iter().find_map(|it| if let Source::Synthetic(it) = it { Some(it) } else { None });
    found.ok_or_else(|| TrainerError::Unsupported {
        found: "the run has no source of kind synthetic, whose held-out scenes could be scored".into(),
        expected: "--annotations and --images of a published set (docs/evaluation.md)".into(),
    })
}

impl Captioned {
    /// Reads captions, and opens their images for a model of this image size.
    ///
    /// # Errors
    /// When they cannot be read, or something is wrong with them.
    pub fn open(run: &Run, data: &Data, limit: Option<usize>) -> Result<Self, TrainerError> {
        let size = run.data.image_size;
        match data {
            Data::HeldOut(split) => {
                let HeldOut { files, captions, scenes, .. } = HeldOut::read(synthetic_source(run)?, *split, limit)?;
                let ids: Vec<String> = files.iter().map(|(name, _)| name.trim_end_matches(".jpg").to_owned()).collect();
                Ok(Self {
                    name: split.name().to_owned(),
                    sha256: sha256_of(captions.iter().flatten()),
                    images: Images::encoded(files, size),
                    domains: vec![None; ids.len()],
                    ids,
                    captions,
                    scenes,
                })
            }
            Data::Files(files) => {
                let annotations = Location::parse(&files.annotations)?;
                let mut set = runtime()?.block_on(read_captions(&annotations, files.split.as_deref()))?;
                set.images.truncate(limit.unwrap_or(usize::MAX));
                let folder = runtime()?.block_on(set.open_images(&Location::parse(&files.images)?))?;
                let names = set.images.iter().map(|image| image.file.clone()).collect();
                Ok(Self {
                    name: set.name,
                    sha256: set.sha256,
                    images: Images::of_folder(folder, names, size),
                    ids: set.images.iter().map(|image| image.id.to_string()).collect(),
                    domains: set.images.iter().map(|image| image.domain.clone()).collect(),
                    captions: set.images.into_iter().map(|image| image.captions).collect(),
                    scenes: Vec::new(),
                })
            }
        }
    }

    /// The same with the first caption of each image only.
    pub fn with_one_caption(mut self) -> Self {
        self.captions.iter_mut().for_each(|captions| captions.truncate(1));
        self
    }

    /// Images.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

impl Asked {
    /// Reads questions, and opens their images for a model of this image size. `limit` counts questions.
    ///
    /// # Errors
    /// When they cannot be read, or something is wrong with them.
    pub fn open(run: &Run, data: &Data, limit: Option<usize>) -> Result<Self, TrainerError> {
        let size = run.data.image_size;
        let limit = limit.unwrap_or(usize::MAX);
        let (name, sha256, images, mut questions) = match data {
            Data::HeldOut(split) => {
                let HeldOut { files, questions, .. } = HeldOut::read(synthetic_source(run)?, *split, None)?;
                let sha256 = sha256_of(questions.iter().flatten().flatten());
                let questions = of_scenes(&files, questions);
                (split.name().to_owned(), sha256, Images::encoded(files, size), questions)
            }
            Data::Files(files) => {
                let answers = files.answers.as_deref().map(Location::parse).transpose()?;
                let questions = Location::parse(&files.annotations)?;
                let mut set = runtime()?.block_on(read_questions(&questions, answers.as_ref()))?;
                set.questions.truncate(limit);
                let folder = runtime()?.block_on(set.open_images(&Location::parse(&files.images)?))?;
                let mut names: Vec<String> = Vec::new();
                let mut places: BTreeMap<String, usize> = BTreeMap::new();
                let mut questions = Vec::with_capacity(set.questions.len());
                for question in set.questions {
                    let image = *places.entry(question.file.clone()).or_insert_with(|| {
                        names.push(question.file.clone());
                        names.len() - 1
                    });
                    questions.push(Question {
                        id: question.id.to_string(),
                        image,
                        text: question.text,
                        answers: question.answers,
                        answer_type: question.answer_type.unwrap_or_else(|| "other".into()),
                        question_type: question.question_type.unwrap_or_else(|| "other".into()),
                    });
                }
                (set.name, set.sha256, Images::of_folder(folder, names, size), questions)
            }
        };
        questions.truncate(limit);
        questions.sort_by_key(|question| question.image);
        Ok(Self { name, sha256, images, questions, is_held_out: data.is_held_out() })
    }
}

/// Questions about scenes, in VQAv2's terms: ten people who agree.
fn of_scenes(files: &[(String, Vec<u8>)], questions: Vec<Vec<[String; 3]>>) -> Vec<Question> {
    let of_scene = |(image, questions): (usize, Vec<[String; 3]>)| {
        let one = move |(number, [text, answer, question_type]): (usize, [String; 3])| {
            let answer_type = match (answer.as_str(), question_type.as_str()) {
                ("yes" | "no", _) => "yes/no",
                (_, "count") => "number",
                _ => "other",
            };
            let id = format!("{}-{number}", files[image].0.trim_end_matches(".jpg"));
            let answers = vec![answer; 10];
            Question { id, image, text, answers, answer_type: answer_type.into(), question_type }
        };
        questions.into_iter().enumerate().map(one).collect::<Vec<_>>()
    };
    questions.into_iter().enumerate().flat_map(of_scene).collect()
}

fn sha256_of<'a>(texts: impl Iterator<Item = &'a String>) -> String {
    let mut hash = Sha256::new();
    texts.for_each(|text| {
        hash.update(text.as_bytes());
        hash.update([0]);
    });
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
