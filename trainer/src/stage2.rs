//! Stage 2, vision-to-language generation: what is trained, and the language model's loss (paper section 3.3).
//!
//! Letters: `b` rows of a slice, `P` visual tokens of width `V`, `Q` queries, `T` text positions, `D` width of the
//! language model, `W` its words.

use configs::{GenerativeStage, Model};
use tch::{Kind, Tensor};

use crate::TrainerError;
use crate::device::upload;
use crate::losses::lm;
use crate::model::language_tower::LanguageTower;
use crate::model::layers::{LayerNorm, Linear};
use crate::model::opt::Opt;
use crate::model::qformer::{Build, QFormer, TextParts};
use crate::model::t5::T5;
use crate::model::tensors::{Init, Scope, Spec, declare};
use crate::precision::compute_kind;
use crate::stage1::Text;

/// T5's padding token, and the token that its decoder starts with.
const T5_PAD: i64 = 0;

/// What a language model is given of a slice's captions, and what it has to say.
#[derive(Debug)]
pub struct Words {
    /// What is said: all that a decoder reads, or what an encoder-decoder answers.
    pub text: Text,
    /// What an encoder reads behind the soft prompt.
    pub input: Option<Text>,
    /// What the Q-Former reads beside its queries.
    pub question: Option<Text>,
    /// The first tokens of each row of `text` that carry no loss; empty where all carry one.
    pub prompt_tokens: Vec<i64>,
}

impl From<Text> for Words {
    fn from(text: Text) -> Self {
        Self { text, input: None, question: None, prompt_tokens: Vec::new() }
    }
}

/// Everything that stage 2 trains.
#[derive(Debug)]
pub struct Stage2 {
    qformer: QFormer,
    ln_vision: LayerNorm,
    language_projection: Linear,
    /// Whether the language model's activations are computed again instead of kept.
    recompute: bool,
}

impl Stage2 {
    /// Takes the weights from a scope; `training` turns dropout on.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn new(scope: &Scope<'_>, model: &Model, training: bool) -> Result<Self, TrainerError> {
        Self::build(scope, model, TextParts::Absent, training)
    }

    /// [`Self::new`], as a stage needs it: with the Q-Former's text parts where it reads questions.
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn of_stage(
        scope: &Scope<'_>,
        model: &Model,
        stage: &GenerativeStage,
        training: bool,
    ) -> Result<Self, TrainerError> {
        let text = if stage.qformer_text_input { TextParts::Present } else { TextParts::Absent };
        Self::build(scope, model, text, training)
    }

    fn build(scope: &Scope<'_>, model: &Model, text: TextParts, training: bool) -> Result<Self, TrainerError> {
        let sizes = &model.qformer;
        let kind = compute_kind(sizes.dtype, scope.device());
        let build = Build { text, attention: model.attention, kind, training };
        let (hidden, width) = (sizes.hidden_dim as i64, model.image_encoder.sizes().width as i64);
        let half = scope.computed_in(kind);
        // torch's default for a new linear layer, as the reference leaves it.
        let bound = Init::Uniform(1.0 / (hidden as f64).sqrt());
        let output = model.language_model.hidden_dim() as i64;
        Ok(Self {
            qformer: QFormer::new(&half, sizes, width, build)?,
            ln_vision: LayerNorm::new(&scope.at("vision_model.post_layernorm"), width, sizes.image_norm_eps)?,
            language_projection: Linear::with_init(&half.at("language_projection"), hidden, output, bound, bound)?,
            recompute: training && model.language_model.settings().recompute,
        })
    }

    /// The weights that stage 2 trains.
    ///
    /// # Errors
    /// None in practice: nothing is read.
    pub fn specs(model: &Model) -> Result<Vec<Spec>, TrainerError> {
        declare(|scope| Self::new(scope, model, true))
    }

    /// The weights that a stage trains.
    ///
    /// # Errors
    /// None in practice: nothing is read.
    pub fn specs_of_stage(model: &Model, stage: &GenerativeStage) -> Result<Vec<Spec>, TrainerError> {
        declare(|scope| Self::of_stage(scope, model, stage, true))
    }

    /// The soft prompt: projected query outputs. Queries see the question, where there is one, as they see a text in ITM
    /// (paper section 4.3: the question conditions what the Q-Former takes from the image).
    ///
    /// # Shapes
    /// `patches`: `[b, P, V]`, the image encoder's output; `question`: `[b, T]`, padded on the right; result: `[b, Q, D]`.
    pub fn prefix(&self, patches: &Tensor, question: Option<&Text>) -> Tensor {
        let image = self.ln_vision.forward(&patches.to_kind(Kind::Float)).to_kind(self.qformer.kind);
        let image = self.qformer.image_key_values(&image);
        self.language_projection.forward(&match question {
            Some(text) => self.qformer.joint(&image, &text.ids, &text.mask),
            None => self.qformer.queries(&image, patches.size()[0]).hidden,
        })
    }

    /// The loss of one slice with either kind of language model.
    ///
    /// # Shapes
    /// `prefix`: `[b, Q, D]`, the soft prompt; result: a scalar.
    pub fn prompted_loss(
        &self,
        language_model: &LanguageTower,
        prefix: &Tensor,
        words: &Words,
        label_smoothing: f64,
    ) -> Tensor {
        let prefix = prefix.shallow_clone();
        match (language_model, words) {
            (LanguageTower::Opt(model), Words { text, prompt_tokens, .. }) => {
                self.loss(model, prefix, text, prompt_tokens, label_smoothing)
            }
            (LanguageTower::T5(model), Words { text, input: Some(input), .. }) => {
                self.encoder_decoder_loss(model, prefix, [input, text], label_smoothing)
            }
            (LanguageTower::T5(_), _) => unreachable!("invariant: texts for T5 have an input"),
        }
    }

    /// The loss of an encoder-decoder: the encoder reads the soft prompt and then `input`, the decoder predicts `output`.
    ///
    /// # Shapes
    /// `prefix`: `[b, Q, D]`; `input`: `[b, S]`; `output`: `[b, T]`, each padded on the right.
    pub fn encoder_decoder_loss(
        &self,
        language_model: &T5,
        prefix: Tensor,
        [input, output]: [&Text; 2],
        label_smoothing: f64,
    ) -> Tensor {
        let words = language_model.embed_tokens(&input.ids);
        let prefix = prefix.to_kind(words.kind());
        let seen = Tensor::ones([prefix.size()[0], prefix.size()[1]], (input.mask.kind(), input.mask.device()));
        let mask = upload(&Tensor::cat(&[&seen, &input.mask], 1), prefix.device());
        let encoded = language_model.encode(&Tensor::cat(&[&prefix, &words], 1), &mask);
        // The decoder is given what it has said so far, behind T5's start token, which is the one it pads with.
        let length = output.ids.size()[1];
        let start = output.ids.narrow(1, 0, 1).full_like(T5_PAD);
        let said = Tensor::cat(&[start, output.ids.narrow(1, 0, length - 1)], 1);
        let hidden = language_model.decode(&language_model.embed_tokens(&said), &encoded, &mask);
        let places = lm::labelled(&output.mask, &[], prefix.device());
        let [hidden, labels] = [hidden.flatten(0, 1), output.ids.flatten(0, 1)].map(|x| x.index_select(0, &places));
        lm::next_word(&language_model.logits(&hidden), &labels, label_smoothing)
    }

    /// The language model's loss on a text that follows the soft prompt. The leading `</s>` is a label too, predicted
    /// from the last query; the first `prompt_tokens` labels of each row do not count.
    ///
    /// # Shapes
    /// `prefix`: `[b, Q, D]`; `text`: `[b, T]`, padded on the right; `prompt_tokens`: `[b]`, or nothing.
    pub fn loss(
        &self,
        language_model: &Opt,
        prefix: Tensor,
        text: &Text,
        prompt_tokens: &[i64],
        label_smoothing: f64,
    ) -> Tensor {
        let words = language_model.embed_tokens(&text.ids);
        let prefix = prefix.to_kind(words.kind());
        let (queries, length) = (prefix.size()[1], text.ids.size()[1]);
        // Right padding: the causal order alone keeps padding from every labelled position.
        let places = lm::labelled(&text.mask, prompt_tokens, prefix.device());
        let labels = text.ids.flatten(0, 1).index_select(0, &places);
        let loss = |hidden: &Tensor| {
            let hidden = hidden.narrow(1, queries - 1, length).flatten(0, 1).index_select(0, &places);
            lm::next_word(&language_model.logits(&hidden), &labels, label_smoothing)
        };
        let inputs = Tensor::cat(&[prefix, words], 1);
        match self.recompute {
            true => language_model.recomputed(&inputs, loss),
            false => loss(&language_model.forward(&inputs, None)),
        }
    }
}
