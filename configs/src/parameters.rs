//! How many parameters the parts of a model have, without building one.
//!
//! The trainer's models declare the same tensors; `trainer/tests/full_size_names.rs` compares them, size by size.

use crate::language_model::{LanguageModelSizes, OptSizes, T5Sizes};
use crate::model::{ImageBlock, Model, QFormer};
use crate::stages::Stage;

/// Elements that a tensor's place in the trainer's flat space is a multiple of: 256 bytes of f32 (`trainer/src/state.rs`).
const ALIGNMENT: usize = 64;

/// Rows in front of OPT's position embedding that no position uses.
const OPT_POSITION_OFFSET: usize = 2;

/// The elements of each tensor of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tensors(Vec<usize>);

impl Tensors {
    /// The weights of the image encoder, its norm behind the last block not included: the Q-Former's stages train that.
    pub fn image_encoder(model: &Model) -> Self {
        let mut all = Self::default();
        let encoder = &model.image_encoder;
        let sizes = encoder.sizes();
        let (width, patch) = (sizes.width, 3 * sizes.patch_size * sizes.patch_size);
        all.add(&[width, encoder.num_tokens() * width, patch * width]);
        match sizes.block {
            ImageBlock::EvaClip => all.add(&[width]),
            ImageBlock::Clip => all.norm(width),
        }
        for _ in 0..sizes.depth {
            all.norm(width);
            all.linear(width, 3 * width);
            all.linear(width, width);
            all.norm(width);
            all.linear(width, sizes.mlp_dim);
            all.linear(sizes.mlp_dim, width);
        }
        all
    }

    /// The weights of the language model. OPT's output layer is its word embedding.
    pub fn language_model(model: &Model) -> Self {
        match model.language_model.sizes() {
            LanguageModelSizes::Opt(sizes) => Self::opt(&sizes),
            LanguageModelSizes::T5(sizes) => Self::t5(&sizes),
        }
    }

    /// What `stage` trains besides the image encoder: the Q-Former, the norm of the image encoder's outputs, and the stage's
    /// heads or projection.
    pub fn qformer(model: &Model, stage: &Stage) -> Self {
        let qformer = &model.qformer;
        let (hidden, width) = (qformer.hidden_dim, model.image_encoder.sizes().width);
        let has_text = match stage {
            Stage::Representation(_) => true,
            Stage::Generative(stage) => stage.qformer_text_input,
        };
        let mut all = Self::layers(qformer, width, has_text);
        all.norm(width);
        match stage {
            Stage::Representation(_) => {
                // Projections of images and of texts, matching head, captioning head, temperature.
                all.linear(hidden, qformer.projection_dim);
                all.linear(hidden, qformer.projection_dim);
                all.linear(hidden, 2);
                all.linear(hidden, hidden);
                all.norm(hidden);
                all.add(&[qformer.vocab_size, 1]);
            }
            Stage::Generative(_) => all.linear(hidden, model.language_model.hidden_dim()),
        }
        all
    }

    /// All that `stage` trains.
    pub fn trained(model: &Model, stage: &Stage) -> Self {
        let mut all = Self::qformer(model, stage);
        if stage.train_image_encoder() {
            all.0.extend(Self::image_encoder(model).0);
        }
        all
    }

    /// Parameters.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|len| *len as u64).sum()
    }

    /// Elements of the flat space that the trainer keeps them in, one after the other at 256-byte boundaries, padded so that it can
    /// be cut into `chunks` equal parts.
    pub fn flat_len(&self, chunks: usize) -> u64 {
        let all: usize = self.0.iter().map(|len| len.next_multiple_of(ALIGNMENT)).sum();
        all.next_multiple_of(ALIGNMENT * chunks.max(1)) as u64
    }

    fn layers(qformer: &QFormer, image_width: usize, has_text: bool) -> Self {
        let hidden = qformer.hidden_dim;
        let mut all = Self(vec![qformer.num_query_tokens * hidden]);
        all.norm(hidden);
        if has_text {
            all.add(&[qformer.vocab_size * hidden, qformer.max_positions * hidden]);
        }
        for index in 0..qformer.depth {
            // Queries, keys, values and output of attention.
            (0..4).for_each(|_| all.linear(hidden, hidden));
            all.norm(hidden);
            if index.is_multiple_of(qformer.cross_attention_every) {
                for input in [hidden, image_width, image_width, hidden] {
                    all.linear(input, hidden);
                }
                all.norm(hidden);
            }
            for _ in 0..1 + usize::from(has_text) {
                all.linear(hidden, qformer.mlp_dim);
                all.linear(qformer.mlp_dim, hidden);
                all.norm(hidden);
            }
        }
        all
    }

    fn opt(sizes: &OptSizes) -> Self {
        let width = sizes.hidden_dim;
        let mut all = Self(vec![sizes.vocab_size * width, (sizes.max_positions + OPT_POSITION_OFFSET) * width]);
        all.norm(width);
        for _ in 0..sizes.depth {
            (0..4).for_each(|_| all.linear(width, width));
            all.norm(width);
            all.linear(width, sizes.mlp_dim);
            all.linear(sizes.mlp_dim, width);
            all.norm(width);
        }
        all
    }

    /// No biases; norms have one vector; both stacks have one table of relative positions.
    fn t5(sizes: &T5Sizes) -> Self {
        let (width, inner) = (sizes.hidden_dim, sizes.heads * sizes.head_dim);
        let words = sizes.vocab_size * width;
        let mut all = Self(vec![words, words]);
        for (depth, attentions) in [(sizes.encoder_depth, 1), (sizes.decoder_depth, 2)] {
            all.add(&[sizes.position_buckets * sizes.heads, width]);
            for _ in 0..depth {
                for _ in 0..attentions {
                    all.add(&[width, width * inner, width * inner, width * inner, width * inner]);
                }
                all.add(&[width, width * sizes.mlp_dim, width * sizes.mlp_dim, width * sizes.mlp_dim]);
            }
        }
        all
    }

    fn add(&mut self, lengths: &[usize]) {
        self.0.extend_from_slice(lengths);
    }

    fn norm(&mut self, width: usize) {
        self.add(&[width, width]);
    }

    fn linear(&mut self, input: usize, output: usize) {
        self.add(&[input * output, output]);
    }
}

#[cfg(test)]
mod tests {
    use crate::overrides::Overrides;

    use super::*;

    /// Hugging Face's `blip2-opt-2.7b` has 3,744,761,856 parameters, its output layer counted once; its word embedding has 50,304
    /// rows, 32 more than OPT's own.
    #[test]
    fn the_published_model() {
        let run = crate::load_str("preset", crate::preset("vitg_opt2.7b").unwrap(), &Overrides::none()).unwrap();
        let [encoder, language_model] =
            [Tensors::image_encoder(&run.model), Tensors::language_model(&run.model)].map(|part| part.count());
        let stage2 = Tensors::trained(&run.model, &run.stages[1]).count();
        assert_eq!(encoder + stage2 + language_model + 32 * 2560, 3_744_761_856);
    }

    /// docs/benchmarks/step.json: bytes of the master weights of `mid` on one rank.
    #[test]
    fn the_flat_space_is_that_of_the_benchmark() {
        let run = crate::load_str("mid", crate::preset("mid").unwrap(), &Overrides::none()).unwrap();
        let bytes = |stage: usize| 4 * Tensors::trained(&run.model, &run.stages[stage]).flat_len(1);
        assert_eq!([bytes(0), bytes(1)], [127_302_400, 50_536_448]);
        let frozen = Tensors::image_encoder(&run.model).count() + Tensors::language_model(&run.model).count();
        assert_eq!(4 * frozen, 269_292_032);
    }

    #[test]
    fn the_header_of_mid_says_how_many_it_has() {
        let text = crate::preset("mid").unwrap();
        let run = crate::load_str("mid", text, &Overrides::none()).unwrap();
        let [encoder, language_model] =
            [Tensors::image_encoder(&run.model), Tensors::language_model(&run.model)].map(|part| part.count());
        let trained = [0, 1].map(|stage: usize| Tensors::trained(&run.model, &run.stages[stage]).count());
        let projection = (384 + 1) * 512;
        let grouped = |count: u64| format!("{},{:03},{:03}", count / 1_000_000, count / 1000 % 1000, count % 1000);
        let all = encoder + language_model + trained[0] + projection;
        for count in [all, encoder + language_model, encoder, language_model, trained[0], trained[1]] {
            assert!(text.lines().take(4).any(|line| line.contains(&grouped(count))), "{}", grouped(count));
        }
    }

    #[test]
    fn a_trained_image_encoder_is_counted() {
        let sets = ["representation", "generative"].map(|stage| format!("stages.{stage}.train_image_encoder=true"));
        let run = crate::load_str("mid", crate::preset("mid").unwrap(), &Overrides::new(sets)).unwrap();
        let stage = &run.stages[0];
        let all = Tensors::trained(&run.model, stage).count();
        assert_eq!(all, Tensors::qformer(&run.model, stage).count() + Tensors::image_encoder(&run.model).count());
    }
}
