//! FLOPs of one image: the count that the speed of training is divided by.
//!
//! One multiply-add counts 2; norms, softmax, activations and other element-wise work count 0. Texts count as long as they
//! may be, padding included, so the count does not depend on the data. Work that is left out or done again (unpadded text, keys and
//! values computed once, recomputation) does not change it. It is the formula of `tests/peers/pytorch_step/presets.py`, and
//! docs/planning.md has it in full.
//!
//! Letters: `N` visual tokens of width `D`, `Q` queries, `T` text positions, `H` width of the Q-Former, `W` of the language
//! model.

use crate::language_model::{LanguageModelSizes, OptSizes, T5Sizes};
use crate::model::{Model, QFormer};
use crate::stages::{GenerativeStage, GenerativeText, RepresentationStage, Stage};

/// FLOPs of one image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flops {
    /// Of the image encoder.
    pub image_encoder: f64,
    /// Of the Q-Former and all that is trained with it.
    pub qformer: f64,
    /// Of the language model.
    pub language_model: f64,
}

impl Flops {
    /// Of one training step of `stage`, forward and backward. Trained parts count three times their forward pass, what is
    /// frozen and has nothing trained before it once. The frozen language model sends gradients through: its layers count
    /// twice, its attention, which has two inputs, three times.
    pub fn of(model: &Model, stage: &Stage) -> Self {
        let work = Work::of(model, stage);
        Self {
            image_encoder: work.image_encoder * if stage.train_image_encoder() { 3.0 } else { 1.0 },
            qformer: 3.0 * work.qformer,
            language_model: 2.0 * work.language_model[0] + 3.0 * work.language_model[1],
        }
    }

    /// Of the forward passes of one training step of `stage`.
    pub fn forward(model: &Model, stage: &Stage) -> Self {
        let work = Work::of(model, stage);
        Self {
            image_encoder: work.image_encoder,
            qformer: work.qformer,
            language_model: work.language_model.iter().sum(),
        }
    }

    /// Of all parts.
    pub fn total(&self) -> f64 {
        self.image_encoder + self.qformer + self.language_model
    }

    /// The parts with their names, in the order of the data flow.
    pub fn parts(&self) -> [(&'static str, f64); 3] {
        [("image_encoder", self.image_encoder), ("qformer", self.qformer), ("language_model", self.language_model)]
    }
}

/// FLOPs per image that a rank with several slices spends on passes that it makes twice: stage 1 computes the features of all
/// slices first, and keeps the graph of none. They are no part of [`Flops`].
pub fn repeated(model: &Model, stage: &Stage) -> f64 {
    let passes = Passes::of(model);
    match stage {
        Stage::Representation(_) => passes.image() + passes.positions(passes.text(), passes.text()),
        Stage::Generative(_) => 0.0,
    }
}

/// FLOPs of forward passes.
struct Work {
    image_encoder: f64,
    qformer: f64,
    /// Of layers, and of attention.
    language_model: [f64; 2],
}

impl Work {
    fn of(model: &Model, stage: &Stage) -> Self {
        let passes = Passes::of(model);
        let (qformer, language_model) = match stage {
            Stage::Representation(stage) => (representation(&passes, stage), [0.0, 0.0]),
            Stage::Generative(stage) => {
                (generative(&passes, model, stage), TextLengths::of(model, stage).language_model(model))
            }
        };
        Self { image_encoder: image_encoder(model), qformer, language_model }
    }
}

/// One forward pass of the image encoder.
fn image_encoder(model: &Model) -> f64 {
    let (tokens, sizes) = (model.image_encoder.num_tokens() as f64, model.image_encoder.sizes());
    let [width, mlp, patch] = [sizes.width, sizes.mlp_dim, sizes.patch_size].map(|size| size as f64);
    let block = layer(tokens, width, mlp) + attention(tokens, tokens, width);
    sizes.depth as f64 * block + 2.0 * (tokens - 1.0) * 3.0 * patch * patch * width
}

/// The four projections and the two feed-forward matrices of one layer on so many positions.
fn layer(positions: f64, width: f64, mlp: f64) -> f64 {
    2.0 * positions * (4.0 * width * width + 2.0 * width * mlp)
}

/// Scores, and the sums that they weight.
fn attention(queries: f64, keys: f64, width: f64) -> f64 {
    4.0 * queries * keys * width
}

/// Forward passes of the Q-Former.
struct Passes<'a> {
    qformer: &'a QFormer,
    visual_tokens: f64,
    visual_width: f64,
}

impl<'a> Passes<'a> {
    fn of(model: &'a Model) -> Self {
        Self {
            qformer: &model.qformer,
            visual_tokens: model.image_encoder.num_tokens() as f64,
            visual_width: model.image_encoder.sizes().width as f64,
        }
    }

    /// So many positions, each seeing so many.
    fn positions(&self, positions: f64, seen: f64) -> f64 {
        let width = self.width();
        let one = layer(positions, width, self.qformer.mlp_dim as f64) + attention(positions, seen, width);
        self.qformer.depth as f64 * one
    }

    /// The queries' looks at one image, its keys and values included.
    fn cross(&self) -> f64 {
        let (width, queries) = (self.width(), self.queries());
        let own = 4.0 * queries * width * width + attention(queries, self.visual_tokens, width);
        let crossed = self.qformer.depth.div_ceil(self.qformer.cross_attention_every) as f64;
        crossed * (own + 4.0 * self.visual_tokens * self.visual_width * width)
    }

    fn width(&self) -> f64 {
        self.qformer.hidden_dim as f64
    }

    fn queries(&self) -> f64 {
        self.qformer.num_query_tokens as f64
    }

    fn text(&self) -> f64 {
        self.qformer.max_text_tokens as f64
    }

    /// Queries alone.
    fn image(&self) -> f64 {
        self.positions(self.queries(), self.queries()) + self.cross()
    }

    /// Queries and text together.
    fn joint(&self) -> f64 {
        let both = self.queries() + self.text();
        self.positions(both, both) + self.cross()
    }
}

/// The passes of stage 1: images and texts alone, three joint ones for matching, one for captions.
fn representation(passes: &Passes<'_>, stage: &RepresentationStage) -> f64 {
    let (width, text) = (passes.width(), passes.text());
    let features = passes.image() + passes.positions(text, text);
    let matching = if stage.losses.itm > 0.0 { 3.0 * passes.joint() } else { 0.0 };
    let head = 2.0 * text * (width * width + width * passes.qformer.vocab_size as f64);
    let captioning = passes.positions(text, passes.queries() + text) + head;
    features + matching + if stage.losses.itg > 0.0 { captioning } else { 0.0 }
}

/// The pass of stage 2 and the projection to the language model.
fn generative(passes: &Passes<'_>, model: &Model, stage: &GenerativeStage) -> f64 {
    let pass = if stage.qformer_text_input { passes.joint() } else { passes.image() };
    pass + 2.0 * passes.queries() * passes.width() * model.language_model.hidden_dim() as f64
}

/// How many tokens of text a stage gives the language model at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextLengths {
    /// What an encoder reads behind the queries; 0 for decoders.
    pub input: usize,
    /// What a decoder reads and predicts.
    pub output: usize,
}

impl TextLengths {
    /// Decoders read all of a text. An encoder reads a text's beginning, half of it at most; or the question; or the prompt, whose
    /// tokens are taken to be its words and an end.
    pub fn of(model: &Model, stage: &GenerativeStage) -> Self {
        let limit = model.language_model.settings().max_text_tokens;
        let input = match (model.language_model.sizes(), stage.text) {
            (LanguageModelSizes::Opt(_), _) => 0,
            (LanguageModelSizes::T5(_), GenerativeText::PrefixSplit) => limit / 2,
            (LanguageModelSizes::T5(_), GenerativeText::QuestionAnswer) => limit,
            (LanguageModelSizes::T5(_), GenerativeText::WholeCaption) => {
                limit.min(1 + stage.prompt.split_whitespace().count())
            }
        };
        Self { input, output: limit }
    }

    /// One forward pass: layers and head, and attention.
    fn language_model(self, model: &Model) -> [f64; 2] {
        let [queries, input, output] =
            [model.qformer.num_query_tokens, self.input, self.output].map(|count| count as f64);
        match model.language_model.sizes() {
            LanguageModelSizes::Opt(sizes) => opt(&sizes, queries + output, output),
            LanguageModelSizes::T5(sizes) => t5(&sizes, queries + input, output),
        }
    }
}

/// Layers and head, and attention; `positions` in the layers, `text` of them in the head.
fn opt(sizes: &OptSizes, positions: f64, text: f64) -> [f64; 2] {
    let [depth, width, mlp, words] =
        [sizes.depth, sizes.hidden_dim, sizes.mlp_dim, sizes.vocab_size].map(|size| size as f64);
    let layers = depth * layer(positions, width, mlp) + 2.0 * text * width * words;
    [layers, depth * attention(positions, positions, width)]
}

/// Layers and head, and attention. The gated feed-forward part has three matrices; the decoder looks at the encoder, too.
fn t5(sizes: &T5Sizes, encoded: f64, decoded: f64) -> [f64; 2] {
    let [width, mlp, words] = [sizes.hidden_dim, sizes.mlp_dim, sizes.vocab_size].map(|size| size as f64);
    let [encoder, decoder] = [sizes.encoder_depth, sizes.decoder_depth].map(|depth| depth as f64);
    let inner = (sizes.heads * sizes.head_dim) as f64;
    let block = 4.0 * width * inner + 3.0 * width * mlp;
    let cross = 2.0 * width * inner;
    let layers = 2.0 * encoder * block * encoded + 2.0 * decoder * ((block + cross) * decoded + cross * encoded);
    let own = encoder * attention(encoded, encoded, inner) + decoder * attention(decoded, decoded, inner);
    [layers + 2.0 * decoded * width * words, own + decoder * attention(decoded, encoded, inner)]
}

#[cfg(test)]
mod tests {
    use crate::overrides::Overrides;
    use crate::run::Run;

    use super::*;

    fn run(name: &str, sets: &[&str]) -> Run {
        let overrides = Overrides::new(sets.iter().map(|set| (*set).to_owned()));
        crate::load_str(name, crate::preset(name).unwrap(), &overrides).unwrap()
    }

    fn near(found: f64, expected: f64) {
        // Both are sums of products of whole numbers; they differ by rounding only.
        assert!((found / 1e9 - expected).abs() <= 1e-9 * expected, "found {} GFLOP, expected {expected}", found / 1e9);
    }

    /// What `flops` of tests/peers/pytorch_step/presets.py gives, in GFLOP: tower, Q-Former, language model.
    #[test]
    fn counts_equal_those_of_the_benchmark() {
        let expected = [
            ("vitg_opt2.7b", 0, [520.719_260_16, 240.484_663_296, 0.0]),
            ("vitg_opt2.7b", 1, [520.719_260_16, 38.621_085_696, 664.744_755_2]),
            ("vitl_opt2.7b", 0, [155.285_811_2, 218.656_456_704, 0.0]),
            ("vitl_opt2.7b", 1, [155.285_811_2, 33.164_034_048, 664.744_755_2]),
            ("vitg_flant5xl", 0, [520.719_260_16, 240.484_663_296, 0.0]),
            // Captions are cut at their middle at the latest: 16 tokens for the encoder at most, 32 for the decoder.
            ("vitg_flant5xl", 1, [520.719_260_16, 38.545_588_224, 446.156_505_088]),
            ("mid", 0, [12.247_123_968, 27.668_865_024, 0.0]),
            ("mid", 1, [12.247_123_968, 3.752_312_832, 8.277_458_944]),
        ];
        for (name, stage, [encoder, qformer, language_model]) in expected {
            let run = run(name, &[]);
            let found = Flops::of(&run.model, &run.stages[stage]);
            near(found.image_encoder, encoder);
            near(found.qformer, qformer);
            near(found.language_model, language_model);
        }
    }

    #[test]
    fn the_published_figures() {
        let run = run("vitg_opt2.7b", &[]);
        let forward = Flops::forward(&run.model, &run.stages[0]);
        assert_eq!(format!("{:.1}", forward.image_encoder / 1e9), "520.7");
        assert_eq!(format!("{:.0}", Flops::of(&run.model, &run.stages[0]).total() / 1e9), "761");
        let whole = Flops::of(&run.model, &run.stages[1]);
        assert_eq!(whole.total(), whole.parts().iter().map(|(_, flops)| flops).sum::<f64>());
    }

    #[test]
    fn what_is_left_out_does_not_count() {
        let stage1 = |sets: &[&str]| {
            let run = run("vitg_opt2.7b", sets);
            Flops::of(&run.model, &run.stages[0])
        };
        let whole = stage1(&[]);
        near(whole.total() - stage1(&["stages.representation.losses.itm=0"]).total(), 164.672_372_736);
        near(whole.total() - stage1(&["stages.representation.losses.itg=0"]).total(), 21.147_992_064);
        let trained =
            stage1(&["stages.representation.train_image_encoder=true", "stages.generative.train_image_encoder=true"]);
        near(trained.image_encoder, 3.0 * 520.719_260_16);
        assert_eq!(trained.qformer, whole.qformer);
    }

    #[test]
    fn questions_and_prompts_have_lengths() {
        let t5 = run("vitg_flant5xl", &[]);
        let Stage::Generative(split) = &t5.stages[1] else { panic!("stage 2 is generative") };
        assert_eq!(TextLengths::of(&t5.model, split), TextLengths { input: 16, output: 32 });
        let sets = ["stages.generative.text=whole_caption", "stages.generative.prompt=a photo of"];
        let prompted = run("vitg_flant5xl", &sets);
        let Stage::Generative(prompted_stage) = &prompted.stages[1] else { panic!("stage 2 is generative") };
        assert_eq!(TextLengths::of(&prompted.model, prompted_stage).input, 4);
    }
}
