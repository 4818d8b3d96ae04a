//! What writes captions and answers: a checkpoint's model with its tokens, and how they are chosen.

use configs::{LanguageModelSizes, Stage};
use tch::{Device, Kind, Tensor, no_grad};

use super::Subject;
use super::decoding::Options;
use crate::TrainerError;
use crate::batches;
use crate::generate::{Decoding, OptWriter, QFormerWriter, T5Writer, Writer, Written};
use crate::model::language_tower::LanguageTower;
use crate::stage1::{Stage1, Text};
use crate::stage2::Stage2;
use crate::text::Tokenizer;

/// What writes.
pub(crate) struct Speaker<'a> {
    subject: Subject<'a>,
    model: Model<'a>,
    tokenizer: &'a Tokenizer,
    decoding: Decoding,
    /// What every caption continues.
    prompt: String,
}

/// The model that writes, of a checkpoint's stage.
enum Model<'a> {
    /// The Q-Former itself.
    Stage1(Stage1),
    /// The language model behind the Q-Former.
    Stage2(Stage2, &'a LanguageTower),
}

impl<'a> Speaker<'a> {
    /// The model of a stage.
    ///
    /// # Errors
    /// When the weights do not fit the model, or the options do not fit together.
    pub(crate) fn of(subject: Subject<'a>, options: &Options) -> Result<Self, TrainerError> {
        let (model, towers) = (&subject.run.model, subject.towers);
        let scope = subject.weights.scope("");
        let Stage::Generative(stage) = subject.stage else {
            if !options.prompt.is_empty() {
                return Err(TrainerError::Unsupported {
                    found: format!("--prompt {:?} with a checkpoint of stage 1", options.prompt),
                    expected: "the Q-Former writes whole captions; a language model continues prompts, in stage 2"
                        .into(),
                });
            }
            let tokenizer = towers.qformer_tokenizer();
            let decoding = options.decoding(tokenizer.end(), model.qformer.max_text_tokens)?;
            fits(&decoding, 1, model.qformer.max_positions)?;
            let model = Model::Stage1(Stage1::new(&scope, model, false)?);
            return Ok(Self { subject, model, tokenizer, decoding, prompt: String::new() });
        };
        let tokenizer = towers.language_tokenizer();
        let decoding = options.decoding(tokenizer.end(), model.language_model.settings().max_text_tokens)?;
        // What a stage was trained with stands in front of every caption.
        let prompt = if options.prompt.is_empty() { stage.prompt.trim_end() } else { options.prompt.as_str() };
        let language_model = towers.language_model.model();
        let model = Model::Stage2(Stage2::of_stage(&scope, model, stage, false)?, language_model);
        let speaker = Self { subject, model, tokenizer, decoding, prompt: prompt.to_owned() };
        speaker.check_prompt(&prompt.replace("{}", ""))?;
        Ok(speaker)
    }

    /// What every caption continues, or the prompt that holds questions.
    pub(crate) fn prompt(&self) -> &str {
        &self.prompt
    }

    /// Refuses a prompt that the model cannot read or that leaves no room for a text.
    fn check_prompt(&self, prompt: &str) -> Result<(), TrainerError> {
        let unknown = self.tokenizer.unknown_words(prompt);
        if unknown > 0 {
            return Err(TrainerError::Unsupported {
                found: format!("{unknown} words of the prompt {prompt:?} are not in the vocabulary"),
                expected: "a prompt of words that the language model knows; give one with --prompt".into(),
            });
        }
        let model = &self.subject.run.model;
        if let LanguageModelSizes::Opt(sizes) = model.language_model.sizes() {
            let before = model.qformer.num_query_tokens + self.tokenizer.prompt(prompt).len();
            fits(&self.decoding, before, sizes.max_positions)?;
        }
        Ok(())
    }

    /// Captions of every image, best first; draws are keyed by `keys`, one for each image.
    ///
    /// # Shapes
    /// `patches`: `[n, P, V]`.
    pub(crate) fn write(&self, patches: &Tensor, keys: &[u64]) -> Vec<Vec<String>> {
        let texts = no_grad(|| match &self.model {
            Model::Stage1(stage1) => {
                let start = self.tokenizer.decoder_start();
                self.decoded(patches, keys, &mut QFormerWriter::new(stage1, patches, start))
            }
            Model::Stage2(..) => {
                let prompts = vec![self.prompt.clone(); keys.len()];
                self.continued(patches, &prompts, None, keys)
            }
        });
        self.texts(&texts)
    }

    /// Answers to a question about each image, best first. `asked` are the questions in their prompts, `questions` the same
    /// without for the Q-Former of a stage that reads them.
    ///
    /// # Shapes
    /// `patches`: `[n, P, V]`.
    ///
    /// # Errors
    /// For a checkpoint of stage 1, and when a prompt leaves no room for an answer.
    pub(crate) fn answer(
        &self,
        patches: &Tensor,
        asked: &[String],
        questions: &[String],
    ) -> Result<Vec<Vec<String>>, TrainerError> {
        let Stage::Generative(stage) = self.subject.stage else {
            return Err(TrainerError::Unsupported {
                found: format!("a checkpoint of stage {}, which writes captions only", self.subject.stage.name()),
                expected: "one of a stage of kind generative; choose it with --stage".into(),
            });
        };
        if let Some(longest) = asked.iter().max_by_key(|prompt| self.tokenizer.prompt(prompt).len()) {
            let model = &self.subject.run.model;
            if let LanguageModelSizes::Opt(sizes) = model.language_model.sizes() {
                let before = model.qformer.num_query_tokens + self.tokenizer.prompt(longest).len();
                fits(&self.decoding, before, sizes.max_positions)?;
            }
        }
        let question = stage.qformer_text_input.then(|| {
            let tokens = self.subject.towers.encode_for_qformer(questions);
            batches::text(&tokens, tokens.longest(), patches.device())
        });
        let keys: Vec<u64> = (0..asked.len() as u64).collect();
        Ok(self.texts(&no_grad(|| self.continued(patches, asked, question.as_ref(), &keys))))
    }

    fn texts(&self, written: &[Vec<Written>]) -> Vec<Vec<String>> {
        let decode = |text: &Written| self.tokenizer.decode(&text.tokens).trim().to_owned();
        written.iter().map(|texts| texts.iter().map(decode).collect()).collect()
    }

    /// What the language model goes on with behind the soft prompt and a prompt for each image.
    fn continued(
        &self,
        patches: &Tensor,
        prompts: &[String],
        question: Option<&Text>,
        keys: &[u64],
    ) -> Vec<Vec<Written>> {
        let Model::Stage2(stage2, language_model) = &self.model else {
            unreachable!("invariant: prompts are for language models");
        };
        let prefix = stage2.prefix(patches, question).to_kind(language_model.kind());
        let is_decoder = matches!(language_model, LanguageTower::Opt(_));
        let (ids, mask) = self.padded(prompts, is_decoder, patches.device());
        let seen = Tensor::ones([prefix.size()[0], prefix.size()[1]], (Kind::Int64, patches.device()));
        let mask = Tensor::cat(&[seen, mask], 1);
        let inputs = Tensor::cat(&[prefix, language_model.embed_tokens(&ids)], 1);
        let start = self.tokenizer.decoder_start();
        match language_model {
            LanguageTower::Opt(model) => self.decoded(patches, keys, &mut OptWriter::new(model, &inputs, &mask)),
            LanguageTower::T5(model) => self.decoded(patches, keys, &mut T5Writer::new(model, &inputs, &mask, start)),
        }
    }

    fn decoded(&self, patches: &Tensor, keys: &[u64], writer: &mut dyn Writer) -> Vec<Vec<Written>> {
        // As in LAVIS, the repetition penalty counts the start token, which OPT is given as part of the prompt only.
        let start = self.tokenizer.decoder_start();
        let seen = Tensor::full([patches.size()[0], 1], start, (Kind::Int64, patches.device()));
        self.decoding.write_keyed(writer, &seen, keys)
    }

    /// Prompts with their mask. A decoder goes on behind the last position, so its prompts are padded between the soft prompt
    /// and the words (LAVIS `predict_answers`).
    ///
    /// # Shapes
    /// Results: `[n, T]`, i64.
    fn padded(&self, prompts: &[String], on_the_left: bool, device: Device) -> (Tensor, Tensor) {
        let rows: Vec<Vec<i64>> = prompts.iter().map(|prompt| self.tokenizer.prompt(prompt)).collect();
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for row in rows {
            let padding = longest - row.len();
            let (left, right) = if on_the_left { (padding, 0) } else { (0, padding) };
            let around = |values: &mut Vec<i64>, inner: Vec<i64>, pad: i64| {
                values.extend(std::iter::repeat_n(pad, left));
                values.extend(inner);
                values.extend(std::iter::repeat_n(pad, right));
            };
            around(&mut mask, vec![1; row.len()], 0);
            around(&mut ids, row, self.tokenizer.pad());
        }
        let tensor = |values: &[i64]| Tensor::from_slice(values).view([-1, longest as i64]).to_device(device);
        (tensor(&ids), tensor(&mask))
    }
}

/// Refuses texts that have more places than a model has positions.
fn fits(decoding: &Decoding, before: usize, positions: usize) -> Result<(), TrainerError> {
    if before + decoding.max_tokens > positions {
        return Err(TrainerError::Unsupported {
            found: format!("--max-tokens {} behind {before} places of image, prompt and start", decoding.max_tokens),
            expected: format!("at most {}: the model has {positions} positions", positions.saturating_sub(before)),
        });
    }
    Ok(())
}
