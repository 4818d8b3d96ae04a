//! What the memory of one rank is made of, part by part. docs/planning.md has the formulas in words.
//!
//! Letters: `N` visual tokens of width `D`, `Q` queries, `H` width of the Q-Former, `M` of its feed-forward part.

use configs::flops::TextLengths;
use configs::parameters::Tensors;
use configs::{Attention, Backend, Dtype, LanguageModelSizes, Model, OptSizes, Reduction, Run, Source, Stage, T5Sizes};

use super::shares::most_slices;

/// What is computed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A GPU for each rank.
    Gpu,
    /// Threads of a processor, which computes in f32.
    Processor,
}

impl Device {
    /// Where the run's ranks compute.
    pub fn of(run: &Run) -> Self {
        if run.cluster.backend == Backend::Nccl { Self::Gpu } else { Self::Processor }
    }

    /// Bytes of a number that models compute with in this format.
    pub fn element(self, dtype: Dtype) -> u64 {
        match (self, dtype) {
            (Self::Gpu, Dtype::Bf16 | Dtype::F16) => 2,
            _ => 4,
        }
    }
}

/// What CUDA's context, its libraries' kernels and cuBLAS' workspace take of a GPU; libtorch's allocator does not count it.
const CUDA_CONTEXT: u64 = 600 << 20;
/// A rank on a processor before it has a model (`process` of docs/benchmarks/step.json).
const PROCESS: u64 = 118 << 20;
/// What a rank on a processor holds besides: workspaces of libraries, the heap's gaps. From the same file: the rest of stage 2 at
/// a batch of 8 without the 28 MiB of each image that a batch of 16 adds.
const WORKSPACES: u64 = 290 << 20;
/// What a rank of a run holds that a benchmark has not, besides its loader and the copy for checkpoints: threads of the data path
/// and of the store, catalogues, tokenizers, gaps between them. Preset `mid` on two ranks had 2,122 MiB resident before its
/// first checkpoint, where `bench step` held 1,730 at its peak.
const RUN: u64 = 160 << 20;
/// The shortest caption that the mean length is taken from: benchmarks have 6 tokens to the limit.
const SHORTEST_TEXT: f64 = 6.0;
/// Batches that a loader holds: two in work, two that wait, one that is used (`data-pipeline/src/loader/mod.rs`).
const LOADER_BATCHES: u64 = 5;
/// Rows of a row group of generated scenes.
const SCENES_PER_ROW_GROUP: u64 = 100;

/// Tokens of a text on average, where at most so many are allowed.
pub fn mean_tokens(limit: usize) -> f64 {
    f64::midpoint(SHORTEST_TEXT.min(limit as f64), limit as f64)
}

/// Bytes of one rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    /// Where the model is: the GPU's memory, or the rank's own.
    pub parts: Vec<(&'static str, u64)>,
    /// The rank's own memory beside a GPU; nothing where there is none.
    pub host: Vec<(&'static str, u64)>,
    /// What one more image of a slice takes.
    pub per_image: u64,
    /// Images of a slice.
    slice_size: u64,
}

impl Memory {
    /// All parts.
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// What a rank holds that a benchmark of its steps has not, or does not count.
    pub fn besides_benchmark(&self) -> u64 {
        let besides = ["loader", "checkpoint_copy", "rest_of_run", "cuda_context"];
        self.parts.iter().filter(|(name, _)| besides.contains(name)).map(|(_, bytes)| bytes).sum()
    }

    /// What libtorch's allocator counts at its peak: all but the context.
    #[cfg(test)]
    pub fn allocated(&self) -> u64 {
        self.parts.iter().filter(|(name, _)| *name != "cuda_context").map(|(_, bytes)| bytes).sum()
    }

    /// The most images of a slice that fit so many bytes, if a rank has one slice; none where not even one does.
    pub fn largest_slice(&self, bytes: u64) -> Option<u64> {
        let fixed = self.total().saturating_sub(self.per_image * self.slice_size);
        Some(bytes.checked_sub(fixed)? / self.per_image.max(1)).filter(|images| *images > 0)
    }
}

/// The memory of a rank that has most slices.
pub fn memory(run: &Run, stage: &Stage, ranks: usize, device: Device, image_bytes: f64) -> Memory {
    let model = &run.model;
    let (element, own) = (device.element(model.qformer.dtype), most_slices(ranks, stage.slices()) as u64);
    let flat = Tensors::trained(model, stage).flat_len(stage.slices());
    let share = |bytes: u64| bytes * own / stage.slices() as u64;
    let moments = match run.cluster.reduction {
        Reduction::Exact => share(8 * flat),
        Reduction::AllReduce => 8 * flat,
    };
    // A rank keeps a logarithm of its slices' gradients, besides the one that is added.
    let partial_sums = 4 * flat * u64::from(own.next_power_of_two().trailing_zeros());
    let activations = Activations { model, stage, device };
    let (image, per_image) = (activations.outputs_per_image(), activations.per_image());
    let rows = stage.slice_size() as u64;
    let loader = loader_bytes(run, stage, own, image_bytes);
    let mut parts = match device {
        Device::Gpu => vec![("cuda_context", CUDA_CONTEXT)],
        Device::Processor => vec![("process", PROCESS), ("workspaces", WORKSPACES)],
    };
    parts.extend([
        ("image_encoder", frozen_encoder(model, stage, device)),
        (
            "language_model",
            Tensors::language_model(model).count() * device.element(model.language_model.settings().dtype),
        ),
        ("master_weights", 4 * flat),
        ("weight_copies", if element == 4 { 0 } else { element * flat }),
        ("moments", moments),
        ("gradients", (element + 4) * flat + partial_sums),
        ("image_outputs", own * rows * image),
        ("activations", (rows as f64 * activations.kept()) as u64),
        ("logits", (rows as f64 * activations.logits()) as u64),
    ]);
    let checkpoint = if run.checkpoint.background { share(12 * flat) } else { 0 };
    let host = vec![("loader", loader), ("checkpoint_copy", checkpoint), ("rest_of_run", RUN)];
    let (parts, host) = match device {
        Device::Gpu => (parts, host),
        Device::Processor => (parts.into_iter().chain(host).collect(), Vec::new()),
    };
    let parts = parts.into_iter().filter(|(_, bytes)| *bytes > 0).collect();
    Memory { parts, host, per_image, slice_size: rows }
}

/// A trained image encoder lies among the trained weights, but for the values that it was read with.
fn frozen_encoder(model: &Model, stage: &Stage, device: Device) -> u64 {
    let held = Tensors::image_encoder(model).count() * device.element(model.image_encoder.dtype());
    if stage.train_image_encoder() { 2 * held } else { held }
}

/// What a loader is seen to hold: its batches and windows, within its limit. Row groups of published sets are as large as the
/// limit allows to plan for.
fn loader_bytes(run: &Run, stage: &Stage, own: u64, image_bytes: f64) -> u64 {
    let (data, limit) = (&run.data, run.data.loader.memory_mb << 20);
    let pixels = 3 * 4 * (data.image_size * data.image_size) as u64 * stage.slice_size() as u64;
    let scenes: Option<Vec<u64>> = data
        .sources
        .iter()
        .map(|source| match source {
            Source::Synthetic(source) => Some(source.scenes),
            _ => None,
        })
        .collect();
    let Some(scenes) = scenes else { return limit };
    let lanes = data.lanes as u64 * own / stage.slices() as u64;
    let window = data.shuffle_window_row_groups as u64 * SCENES_PER_ROW_GROUP;
    // A window of each lane, and as much again that is read ahead.
    let rows: u64 = scenes.iter().map(|scenes| (2 * lanes * window).min(*scenes)).sum();
    limit.min(LOADER_BATCHES * pixels + (rows as f64 * image_bytes) as u64)
}

/// Bytes that the graph of a step keeps for its backward pass, for each image of a slice.
struct Activations<'a> {
    model: &'a Model,
    stage: &'a Stage,
    device: Device,
}

impl Activations<'_> {
    fn visual_tokens(&self) -> f64 {
        self.model.image_encoder.num_tokens() as f64
    }

    fn visual_width(&self) -> f64 {
        self.model.image_encoder.sizes().width as f64
    }

    fn element(&self) -> f64 {
        self.device.element(self.model.qformer.dtype) as f64
    }

    /// Whether attention keeps its scores.
    fn keeps_scores(&self) -> bool {
        self.model.attention == Attention::Math
    }

    /// Masks of dropout, one byte for each number; a processor computes them again.
    fn mask(&self, dropout: f64) -> f64 {
        if dropout > 0.0 && self.device == Device::Gpu { 1.0 } else { 0.0 }
    }

    /// One image as the image encoder gives it.
    fn outputs_per_image(&self) -> u64 {
        (self.visual_tokens() * self.visual_width()) as u64 * self.device.element(self.model.image_encoder.dtype())
    }

    /// One more image of a slice.
    fn per_image(&self) -> u64 {
        (self.kept() + self.logits()) as u64 + self.outputs_per_image()
    }

    /// What is kept at once: the losses' graph, or the image encoder's, which is built when the losses' is gone; no less than
    /// the image encoder's one block that computes before there is any graph.
    fn kept(&self) -> f64 {
        let losses = match self.stage {
            Stage::Representation(_) => self.representation(),
            Stage::Generative(_) => self.generative(),
        };
        let encoder = if self.stage.train_image_encoder() { self.trained_encoder() } else { 0.0 };
        losses.max(encoder).max(self.encoder_block())
    }

    /// A block of the image encoder without a graph: input, norm, queries, keys and values, feed-forward part, scores.
    fn encoder_block(&self) -> f64 {
        let sizes = self.model.image_encoder.sizes();
        let element = self.device.element(self.model.image_encoder.dtype()) as f64;
        let scores = if self.keeps_scores() { 2.0 * sizes.heads as f64 * self.visual_tokens() } else { 0.0 };
        self.visual_tokens() * (6.0 * self.visual_width() + 2.0 * sizes.mlp_dim as f64 + scores) * element
    }

    /// The graph of a trained image encoder: eight vectors of its width and two of its feed-forward part for each token and
    /// block; with recomputation the blocks' inputs and one block.
    fn trained_encoder(&self) -> f64 {
        let sizes = self.model.image_encoder.sizes();
        let element = self.device.element(self.model.image_encoder.dtype()) as f64;
        let scores = if self.keeps_scores() { sizes.heads as f64 * self.visual_tokens() } else { 0.0 };
        let block = self.visual_tokens() * (8.0 * self.visual_width() + 2.0 * sizes.mlp_dim as f64 + scores) * element;
        let depth = sizes.depth as f64;
        if self.model.image_encoder.recompute() {
            depth * self.visual_tokens() * self.visual_width() * element + block
        } else {
            depth * block
        }
    }

    /// Layers of the Q-Former on so many positions, whose attention has so many scores. For each position: queries, keys and
    /// values, what attention gives (twice: its own copy and the packed one), sums before and behind both norms, and two of
    /// the feed-forward part; scores as softmax and dropout give them.
    fn layers(&self, positions: f64, scores: f64) -> f64 {
        let qformer = &self.model.qformer;
        let (hidden, mask) = (qformer.hidden_dim as f64, self.mask(qformer.dropout));
        let numbers = (9.0 * hidden + 2.0 * qformer.mlp_dim as f64) * self.element() + 2.0 * hidden * mask;
        qformer.depth as f64 * (positions * numbers + self.scores(scores))
    }

    /// Scores of the Q-Former's attention, of all heads.
    fn scores(&self, scores: f64) -> f64 {
        let qformer = &self.model.qformer;
        let copies = if qformer.dropout > 0.0 { 2.0 } else { 1.0 };
        let bytes = copies * self.element() + self.mask(qformer.dropout);
        if self.keeps_scores() { scores * qformer.heads as f64 * bytes } else { 0.0 }
    }

    /// `looks` looks of the queries at an image, whose keys and values are kept `projected` times.
    fn cross(&self, looks: f64, projected: f64) -> f64 {
        let qformer = &self.model.qformer;
        let (hidden, queries) = (qformer.hidden_dim as f64, qformer.num_query_tokens as f64);
        let crossed = qformer.depth.div_ceil(qformer.cross_attention_every) as f64;
        let look = queries * hidden * (5.0 * self.element() + self.mask(qformer.dropout));
        let keys_values = 2.0 * hidden * self.visual_tokens() * self.element();
        crossed * (looks * (look + self.scores(queries * self.visual_tokens())) + projected * keys_values)
    }

    /// The norm over an image: its input in f32, where that is a copy, and its output.
    fn image_norm(&self) -> f64 {
        let input = if self.device.element(self.model.image_encoder.dtype()) == 4 { 0.0 } else { 4.0 };
        self.visual_tokens() * self.visual_width() * (input + self.element())
    }

    /// Stage 1: images, texts, three joint passes, captions. Keys and values are kept of the own image, of the drawn one, and
    /// of all three that are put together for matching.
    fn representation(&self) -> f64 {
        let Stage::Representation(stage) = self.stage else { return 0.0 };
        let qformer = &self.model.qformer;
        let (queries, limit) = (qformer.num_query_tokens as f64, qformer.max_text_tokens as f64);
        let text = mean_tokens(qformer.max_text_tokens);
        let mut bytes = self.layers(queries, queries * queries)
            + self.layers(text, limit * limit)
            + self.cross(1.0, 1.0)
            + self.image_norm();
        if stage.losses.itm > 0.0 {
            let both = queries + limit;
            bytes += 3.0 * self.layers(queries + text, both * both) + self.cross(3.0, 4.0) + self.image_norm();
            bytes += self.outputs_per_image() as f64;
        }
        if stage.losses.itg > 0.0 {
            bytes += self.layers(text, limit * (queries + limit));
        }
        bytes
    }

    fn generative(&self) -> f64 {
        let Stage::Generative(stage) = self.stage else { return 0.0 };
        let qformer = &self.model.qformer;
        let question = if stage.qformer_text_input { qformer.max_text_tokens } else { 0 };
        let queries = qformer.num_query_tokens as f64;
        let (positions, seen) = (queries + question as f64, queries + question as f64);
        let lengths = TextLengths::of(self.model, stage);
        self.layers(positions, positions * seen)
            + self.cross(1.0, 1.0)
            + self.image_norm()
            + match self.model.language_model.sizes() {
                LanguageModelSizes::Opt(sizes) => self.opt(&sizes, queries + lengths.output as f64),
                LanguageModelSizes::T5(sizes) => self.t5(&sizes, queries + lengths.input as f64, lengths.output as f64),
            }
    }

    /// A frozen decoder keeps what its gradient needs of inputs alone: for each layer and position both norms' inputs, queries,
    /// keys and values, what attention gives, and the hidden layer.
    fn opt(&self, sizes: &OptSizes, positions: f64) -> f64 {
        let settings = self.model.language_model.settings();
        let element = self.device.element(settings.dtype) as f64;
        let (width, mask) = (sizes.hidden_dim as f64, self.mask(settings.dropout));
        let scores = if self.keeps_scores() { sizes.heads as f64 * positions * element } else { 0.0 };
        let numbers = (6.0 * width + sizes.mlp_dim as f64) * element + 2.0 * width * mask + scores;
        let depth = sizes.depth as f64;
        positions * if settings.recompute { depth * width * element + numbers } else { depth * numbers }
    }

    /// As [`Self::opt`] for an encoder and a decoder whose norms are computed in f32, whose feed-forward part has a gate, and
    /// whose attention always keeps its scores: in f32, and in the model's format.
    fn t5(&self, sizes: &T5Sizes, encoded: f64, decoded: f64) -> f64 {
        let settings = self.model.language_model.settings();
        let element = self.device.element(settings.dtype) as f64;
        let mask = self.mask(settings.dropout);
        let [width, mlp] = [sizes.hidden_dim, sizes.mlp_dim].map(|size| size as f64);
        let inner = (sizes.heads * sizes.head_dim) as f64;
        let norm = width * (element + if element < 4.0 { 4.0 } else { 0.0 } + mask);
        let scores = |seen: f64| sizes.heads as f64 * seen * (4.0 + if element < 4.0 { element } else { 0.0 } + mask);
        let feed_forward = norm + mlp * (4.0 * element + mask);
        let attention = |seen: f64| norm + 4.0 * inner * element + scores(seen);
        let encoder = sizes.encoder_depth as f64 * encoded * (attention(encoded) + feed_forward);
        let keys_values = 2.0 * inner * encoded * element;
        let own = decoded * (attention(decoded) + attention(encoded) + feed_forward);
        encoder + sizes.decoder_depth as f64 * (own + keys_values)
    }

    /// The scores of words: in the model's format, in f32, as log-softmax, and their gradient.
    fn logits(&self) -> f64 {
        let bytes = |words: usize, dtype: Dtype| {
            let element = self.device.element(dtype) as f64;
            words as f64 * (12.0 + if element < 4.0 { element } else { 0.0 })
        };
        match self.stage {
            Stage::Representation(stage) if stage.losses.itg > 0.0 => {
                let qformer = &self.model.qformer;
                mean_tokens(qformer.max_text_tokens) * bytes(qformer.vocab_size, qformer.dtype)
            }
            Stage::Representation(_) => 0.0,
            Stage::Generative(_) => {
                let settings = self.model.language_model.settings();
                let words = match self.model.language_model.sizes() {
                    LanguageModelSizes::Opt(sizes) => sizes.vocab_size,
                    LanguageModelSizes::T5(sizes) => sizes.vocab_size,
                };
                mean_tokens(settings.max_text_tokens) * bytes(words, settings.dtype)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::tests::preset;
    use super::*;

    /// One slice on one rank, as benchmarks have it.
    fn one_slice(name: &str, sets: &[&str], stage: usize, batch: usize) -> Memory {
        let mut all: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        all.extend(
            ["representation", "generative"]
                .iter()
                .flat_map(|stage| [format!("stages.{stage}.global_batch={batch}"), format!("stages.{stage}.slices=1")]),
        );
        all.extend(["data.lanes=1".to_owned(), "cluster.nodes=1".to_owned(), "cluster.ranks_per_node=1".to_owned()]);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let run = preset(name, &all);
        memory(&run, &run.stages[stage], 1, Device::of(&run), 1e4)
    }

    /// docs/benchmarks/nvidia-h100-80gb-hbm3.md: the peak of libtorch's allocator. 10 %: the formulas leave out small tensors, and
    /// count texts by their mean length.
    #[test]
    fn the_memory_of_measured_steps_on_a_gpu() {
        for (stage, measured) in [(0, 23.6), (1, 25.9)] {
            let sets = ["model.attention=flash", "model.language_model.dropout=0.1"];
            let gib = one_slice("vitg_opt2.7b", &sets, stage, 128).allocated() as f64 / f64::from(1 << 30);
            assert!((gib / measured - 1.0).abs() < 0.1, "stage {}: {gib:.1} GiB, measured {measured}", stage + 1);
        }
    }

    /// docs/benchmarks/step.json, without what a benchmark has not: loader and checkpoints.
    #[test]
    fn the_memory_of_measured_steps_on_a_processor() {
        let measured: Value = serde_json::from_str(include_str!("../../../docs/benchmarks/step.json")).unwrap();
        for (stage, row) in measured["memory"].as_array().unwrap().iter().enumerate() {
            let found = one_slice("mid", &["model.language_model.dropout=0.1"], stage, 8);
            let part = |name: &str| found.parts.iter().find(|(part, _)| *part == name).map_or(0, |(_, bytes)| *bytes);
            assert_eq!(part("image_encoder") + part("language_model"), row["frozen"].as_u64().unwrap());
            assert_eq!(part("master_weights"), row["master_weights"].as_u64().unwrap());
            assert_eq!(part("moments"), row["moments"].as_u64().unwrap());
            assert_eq!(part("gradients"), row["gradients"].as_u64().unwrap());
            let peak = found.total() - found.besides_benchmark();
            let measured = row["peak"].as_f64().unwrap();
            assert!((peak as f64 / measured - 1.0).abs() < 0.1, "stage {}: {peak}, measured {measured}", stage + 1);
        }
    }

    #[test]
    fn ranks_share_moments_and_a_larger_slice_takes_more() {
        let run = preset("vitg_opt2.7b", &[]);
        let moments = |ranks: usize| {
            let found = memory(&run, &run.stages[0], ranks, Device::Gpu, 3e4);
            found.parts.iter().find(|(name, _)| *name == "moments").unwrap().1
        };
        assert_eq!(moments(1), 16 * moments(16));
        let found = memory(&run, &run.stages[0], 16, Device::Gpu, 3e4);
        let largest = found.largest_slice(75_000_000_000).unwrap();
        assert!(largest > 105, "{largest}");
        assert_eq!(found.largest_slice(found.total()), Some(105));
        assert_eq!(found.largest_slice(1 << 30), None);
    }

    #[test]
    fn recomputation_saves_memory() {
        let with = |recompute: &str| one_slice("vitg_opt2.7b", &[recompute], 1, 64).total();
        assert!(with("model.language_model.recompute=true") + (2 << 30) < with("model.language_model.recompute=false"));
    }
}
