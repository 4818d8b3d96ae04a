//! The frozen towers of a run with their tokenizers; tiny ones are trained here once, before anything else.

use configs::{GenerativeStage, GenerativeText, Run, Stage};
use data_pipeline::rng::CounterRng;
use data_pipeline::store::Location;
use tch::Device;

use crate::TrainerError;
use crate::activity::Phase;
use crate::events::{Event, losses};
use crate::frozen::{FrozenImageEncoder, FrozenLanguageModel, load_image_encoder, load_language_model};
use crate::model::language_tower::LanguageTower;
use crate::pretrain::{Progress, pretrain_image_encoder, pretrain_language_model};
use crate::session::Session;
use crate::storage::Storage;
use crate::text::{Encoded, PadTo, TextBatch, Tokenizer, asked, joined, split_caption};

/// Everything that is frozen.
pub struct Towers {
    /// Makes patches of pixels.
    pub image_encoder: FrozenImageEncoder,
    /// Reads the soft prompt.
    pub language_model: FrozenLanguageModel,
    /// Where they are.
    pub device: Device,
    qformer_tokenizer: Tokenizer,
    language_tokenizer: Tokenizer,
    qformer_tokens: usize,
    language_tokens: usize,
}

impl Towers {
    /// Reads the frozen weights of a run.
    ///
    /// # Errors
    /// When they are missing, damaged or of other sizes.
    pub fn load(run: &Run, device: Device) -> Result<Self, TrainerError> {
        let model = &run.model;
        Ok(Self {
            image_encoder: load_image_encoder(run, device)?,
            language_model: load_language_model(run, device)?,
            device,
            qformer_tokenizer: Tokenizer::for_qformer(&model.qformer)?,
            language_tokenizer: Tokenizer::for_language_model(&model.language_model)?,
            qformer_tokens: model.qformer.max_text_tokens,
            language_tokens: model.language_model.settings().max_text_tokens,
        })
    }

    /// Token ids of a batch's texts, in the tokens of the model that the stage gives them to: captions, or answers to
    /// `questions`. `cut` draws where a caption, given by its number, is cut for an encoder-decoder.
    pub fn encode_texts(
        &self,
        stage: &Stage,
        questions: &[String],
        captions: &[String],
        cut: impl Fn(usize) -> CounterRng,
    ) -> Encoded {
        let Stage::Generative(stage) = stage else { return self.encode_for_qformer(captions).into() };
        if stage.text == GenerativeText::QuestionAnswer {
            return self.encode_answers(stage, questions, captions);
        }
        let tokenizer = &self.language_tokenizer;
        match self.language_model.model() {
            LanguageTower::Opt(_) => {
                let with_prompt: Vec<String> = captions.iter().map(|text| joined(&stage.prompt, text)).collect();
                // A prompt's own tokens, with `</s>` in front.
                let prompt_tokens = match stage.prompt.as_str() {
                    "" => Vec::new(),
                    prompt => vec![tokenizer.prompt(prompt).len() as i64; captions.len()],
                };
                let text = tokenizer.encode(&with_prompt, self.language_tokens, PadTo::Limit);
                Encoded { prompt_tokens, ..text.into() }
            }
            LanguageTower::T5(_) => {
                let split = |(number, caption): (usize, &String)| match stage.text {
                    GenerativeText::PrefixSplit => split_caption(caption, &mut cut(number)),
                    _ => (String::new(), caption.clone()),
                };
                let (given, said): (Vec<String>, Vec<String>) = captions.iter().enumerate().map(split).unzip();
                let given: Vec<String> = given.iter().map(|text| joined(&stage.prompt, text)).collect();
                let encode = |texts: &[String]| tokenizer.encode(texts, self.language_tokens, PadTo::Limit);
                Encoded { input: Some(encode(&given)), ..encode(&said).into() }
            }
        }
    }

    /// Answers behind their questions, which stand in the stage's prompt; the Q-Former is given the questions by themselves
    /// where the stage says so.
    fn encode_answers(&self, stage: &GenerativeStage, questions: &[String], answers: &[String]) -> Encoded {
        let prompts: Vec<String> = questions.iter().map(|question| asked(&stage.prompt, question)).collect();
        let (tokenizer, limit) = (&self.language_tokenizer, self.language_tokens);
        let encoded: Encoded = match self.language_model.model() {
            LanguageTower::Opt(_) => {
                let (text, prompt_tokens) = tokenizer.continued(&prompts, answers, limit);
                Encoded { prompt_tokens, ..text.into() }
            }
            LanguageTower::T5(_) => {
                let encode = |texts: &[String]| tokenizer.encode(texts, limit, PadTo::Limit);
                Encoded { input: Some(encode(&prompts)), ..encode(answers).into() }
            }
        };
        Encoded { question: stage.qformer_text_input.then(|| self.encode_for_qformer(questions)), ..encoded }
    }

    /// Token ids for the Q-Former.
    pub fn encode_for_qformer(&self, texts: &[String]) -> TextBatch {
        self.encode_for_qformer_within(texts, self.qformer_tokens)
    }

    /// Token ids for the Q-Former, so many of each text at most.
    pub fn encode_for_qformer_within(&self, texts: &[String], max_tokens: usize) -> TextBatch {
        self.qformer_tokenizer.encode(texts, max_tokens, PadTo::Limit)
    }

    /// The Q-Former's tokenizer.
    pub fn qformer_tokenizer(&self) -> &Tokenizer {
        &self.qformer_tokenizer
    }

    /// The language model's tokenizer.
    pub fn language_tokenizer(&self) -> &Tokenizer {
        &self.language_tokenizer
    }
}

/// A tower that the demo trains itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tower {
    ImageEncoder,
    LanguageModel,
}

/// Trains the towers that are to be pre-trained and are not there yet, each on one rank, and loads both.
///
/// # Errors
/// When weights are missing and not to be trained here, or training fails.
pub fn build_towers(run: &Run, session: &mut Session<'_>) -> Result<Towers, TrainerError> {
    // Rank 0 looks, so that all agree.
    let mut missing = [0; 2];
    if session.ranks.rank() == 0 {
        for (place, tower) in [Tower::ImageEncoder, Tower::LanguageModel].into_iter().enumerate() {
            missing[place] = u8::from(is_to_be_trained(run, tower)?);
        }
    }
    session.ranks.broadcast(&mut missing, 0)?;
    let towers = [Tower::ImageEncoder, Tower::LanguageModel].into_iter().zip(missing);
    for (place, (tower, _)) in towers.filter(|(_, missing)| *missing == 1).enumerate() {
        if place % session.ranks.world_size() == session.ranks.rank() {
            train_tower(run, tower, session)?;
        }
    }
    session.ranks.barrier()?;
    let towers = Towers::load(run, session.device)?;
    session.note_frozen(run.model.image_encoder.weights().uri.as_str(), towers.image_encoder.sha256())?;
    session.note_frozen(run.model.language_model.settings().weights.uri.as_str(), towers.language_model.sha256())?;
    Ok(towers)
}

fn is_to_be_trained(run: &Run, tower: Tower) -> Result<bool, TrainerError> {
    let language_model = run.model.language_model.settings();
    let (pretrain, uri) = match tower {
        Tower::ImageEncoder => (run.model.image_encoder.pretrain(), &run.model.image_encoder.weights().uri),
        Tower::LanguageModel => (language_model.pretrain, &language_model.weights.uri),
    };
    if pretrain.is_none() {
        return Ok(false);
    }
    Ok(Storage::at(Location::parse(uri.as_str())?)?.size("")?.is_none())
}

fn train_tower(run: &Run, tower: Tower, session: &Session<'_>) -> Result<(), TrainerError> {
    let (name, what) = match tower {
        Tower::ImageEncoder => ("image_encoder", "pre-training the tiny image encoder on training scenes"),
        Tower::LanguageModel => ("language_model", "pre-training the tiny language model on training captions"),
    };
    let events = session.events;
    session.activity.enter_stage(Phase::PreTraining, name, 0);
    let mut announced = false;
    let mut progress = |progress: Progress| {
        let Progress { step, steps, loss, samples_per_s } = progress;
        session.activity.progress();
        if !announced {
            events.send(&Event::Phase { name: name.into(), what: what.into(), steps });
            announced = true;
        }
        let losses = losses(&["loss"], &[loss]);
        events.send(&Event::Progress {
            name: name.into(),
            step,
            steps,
            losses,
            lr: None,
            images_per_s: Some(samples_per_s),
        });
    };
    let report = match tower {
        Tower::ImageEncoder => pretrain_image_encoder(run, &mut progress)?,
        Tower::LanguageModel => pretrain_language_model(run, &mut progress)?,
    };
    let accuracies: Vec<String> =
        report.accuracies.iter().map(|(what, share)| format!("{what} {:.1} %", share * 100.0)).collect();
    session.activity.enter(Phase::Loading);
    events.message(format!("{what}: {:.0} s, loss {:.3} {}", report.seconds, report.loss, accuracies.join(", ")));
    Ok(())
}
