//! The tiny language model, trained to continue captions.
//!
//! A document is two texts of one training scene, each as the tokenizer frames it for OPT, one after the other. The
//! second one is a caption, which can only be predicted by reading the first: that teaches the model to take what it says
//! from what stands before, which is where the Q-Former's outputs stand later. Documents begin a caption after `</s>`, as
//! stage 2 does. The first text is another caption or, in a share of the documents ([`KEYWORDS_SHARE`]), keywords, as
//! pages often hold them: the objects' words alone, which are about as long as a soft prompt of 8 queries. Behind a model
//! that has read captions alone, stage 2 names about 40 % of the pairs wrongly, and more of them the longer that model is
//! trained (docs/demo.md).
//!
//! Real language models know all colours with all shapes. So that this one does too, the eight colour words are
//! exchanged for one another in a share of the documents ([`COLOUR_PERMUTED_SHARE`]), all over a document alike. Such
//! a text may name a pair that no image of the training split shows; images and their labels never do.

use std::collections::HashMap;
use std::time::Instant;

use configs::{Attention, LanguageModelSizes, OptSizes, Run};
use data_pipeline::DataError;
use data_pipeline::rng::{CounterRng, Purpose};
use data_pipeline::synthetic::{
    COLOUR_WORDS, Object, SHAPE_PLURALS, SHAPE_WORDS, Scene, Split, SynthOptions, captions, scene,
};
use tch::{Device, Kind, Reduction, Tensor, no_grad};

use super::batches::with_batches;
use super::masters::Masters;
use super::scenes::{IGNORED, corpus_options};
use super::{Accuracies, Progress, Report, Stream, plan, train, training_kind, weights_seed};
use crate::TrainerError;
use crate::frozen::LANGUAGE_MODEL;
use crate::model::opt::Opt;
use crate::model::{Tensors, declare};
use crate::text::{OPT_PAD, PadTo, TextBatch, Tokenizer};
use crate::weights_file::{tensors_to_bytes, write_whole};

/// The share of documents whose colour words are exchanged for one another.
pub const COLOUR_PERMUTED_SHARE: f64 = 0.5;
/// The share of documents whose first text is keywords.
pub const KEYWORDS_SHARE: f64 = 0.5;
/// The share of keywords that name sizes.
const SIZED_SHARE: f64 = 0.5;
/// Fresh documents that the accuracies are taken over, and how many at a time.
const FRESH_DOCUMENTS: u64 = 512;
const FRESH_BATCH: u64 = 64;

/// Trains the language model of `run` and writes its weights to `model.language_model.weights.uri`.
///
/// # Errors
/// [`TrainerError::Setting`] when the config names no model that is trained here; those of the store.
pub fn pretrain_language_model(run: &Run, progress: &mut dyn FnMut(Progress)) -> Result<Report, TrainerError> {
    let start = Instant::now();
    let settings = run.model.language_model.settings();
    let plan = plan(settings.pretrain, "model.language_model")?;
    let LanguageModelSizes::Opt(sizes) = run.model.language_model.sizes() else {
        return Err(TrainerError::Setting {
            found: "found a language model of T5's form with `pretrain`".into(),
            expected: "kind `custom_opt`, the only one that is trained here".into(),
            advice: "Write kind: custom_opt, or bring the model's weights".into(),
        });
    };
    let documents = Documents::new(run, &sizes)?;
    let specs = declare(|scope| Opt::new(&scope.at(LANGUAGE_MODEL), sizes, run.model.attention))?;
    let seed = weights_seed(run.run.seed, Stream::LanguageModel);
    let mut masters = Masters::new(&specs, seed, training_kind(settings.dtype));
    with_batches(
        plan.steps,
        |step| documents.batch(step, plan.batch as u64),
        |batches| {
            train(plan, &mut masters, progress, |leaves| {
                Ok(Prediction::new(leaves, sizes, run.model.attention, &batches.next()?)?.loss())
            })
        },
    )?;
    let (loss, accuracies) = evaluate(&masters.leaves(), sizes, run.model.attention, &documents)?;
    let uri = settings.weights.uri.as_str();
    let sha256 = write_whole(uri, tensors_to_bytes(&masters.weights(LANGUAGE_MODEL), uri)?)?;
    Ok(Report { seconds: start.elapsed().as_secs_f64(), loss, accuracies, sha256 })
}

/// The documents of a run.
struct Documents {
    options: SynthOptions,
    seed: u64,
    tokenizer: Tokenizer,
    /// Tokens of one caption and of one document at most.
    limits: [usize; 2],
}

/// How the colour words of a document are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Colours {
    AsSeen,
    SomePermuted,
}

impl Documents {
    fn new(run: &Run, sizes: &OptSizes) -> Result<Self, TrainerError> {
        Ok(Self {
            options: corpus_options(run)?,
            seed: run.run.seed,
            tokenizer: Tokenizer::for_language_model(&run.model.language_model)?,
            limits: [run.model.language_model.settings().max_text_tokens, sizes.max_positions],
        })
    }

    /// The documents of one update: training scenes drawn with replacement.
    fn batch(&self, step: u64, rows: u64) -> Result<TextBatch, DataError> {
        let documents = (0..rows).map(|row| {
            let mut rng = CounterRng::new(self.seed, Purpose::Pretrain, &[Stream::LanguageModel as u64, step, row]);
            let index = rng.below(self.options.scenes);
            self.document(index, Colours::SomePermuted, &mut rng)
        });
        Ok(joined(&documents.collect::<Result<Vec<_>, _>>()?))
    }

    /// Documents of scenes behind the corpus' last, with the colours that the scenes have.
    fn fresh(&self, first: u64, rows: u64) -> Result<TextBatch, DataError> {
        let documents = (first..first + rows).map(|row| {
            let counters = [Stream::LanguageModel as u64, u64::MAX, row];
            let mut rng = CounterRng::new(self.seed, Purpose::Pretrain, &counters);
            self.document(self.options.scenes + row, Colours::AsSeen, &mut rng)
        });
        Ok(joined(&documents.collect::<Result<Vec<_>, _>>()?))
    }

    /// The tokens of two different captions of one training scene, or of keywords and a caption.
    fn document(&self, index: u64, colours: Colours, rng: &mut CounterRng) -> Result<Vec<i64>, DataError> {
        let scene = scene(&self.options, Split::Train, index)?;
        let mut texts = captions(&scene);
        rng.shuffle(&mut texts);
        texts.truncate(2);
        if rng.chance(KEYWORDS_SHARE) {
            texts[0] = keywords(&scene, rng);
        }
        if colours == Colours::SomePermuted && rng.chance(COLOUR_PERMUTED_SHARE) {
            let mut permuted = COLOUR_WORDS;
            rng.shuffle(&mut permuted);
            let exchange = COLOUR_WORDS.into_iter().zip(permuted).collect();
            texts = texts.iter().map(|text| exchange_colours(text, &exchange)).collect();
        }
        let [caption, document] = self.limits;
        let frame = |text: &String| self.tokenizer.encode(&[text], caption, PadTo::Longest).ids;
        let mut tokens: Vec<i64> = texts.iter().flat_map(frame).collect();
        tokens.truncate(document);
        Ok(tokens)
    }
}

/// The objects of a scene in a drawn order, no more of them than their words: `red circle blue star`, or with sizes.
fn keywords(scene: &Scene, rng: &mut CounterRng) -> String {
    let mut objects: Vec<&Object> = scene.objects.iter().collect();
    rng.shuffle(&mut objects);
    let sized = rng.chance(SIZED_SHARE);
    let words = |object: &&Object| match sized {
        true => format!("{} {}", object.size.word(), object.pair().words()),
        false => object.pair().words(),
    };
    objects.iter().map(words).collect::<Vec<_>>().join(" ")
}

/// A text with every colour word replaced, and the article before it made to fit.
fn exchange_colours(text: &str, exchange: &HashMap<&'static str, &'static str>) -> String {
    let mut words: Vec<&str> = text.split(' ').collect();
    for place in 0..words.len() {
        if let Some(colour) = exchange.get(words[place]) {
            words[place] = colour;
            if place > 0 && ["a", "an"].contains(&words[place - 1]) {
                words[place - 1] = if *colour == "orange" { "an" } else { "a" };
            }
        }
    }
    words.join(" ")
}

/// Documents padded to the longest.
fn joined(documents: &[Vec<i64>]) -> TextBatch {
    let len = documents.iter().map(Vec::len).max().unwrap_or(0);
    let mut batch = TextBatch { ids: Vec::new(), mask: Vec::new(), rows: documents.len(), len, unknown_words: 0 };
    for document in documents {
        let padding = len - document.len();
        batch.ids.extend(document.iter().copied().chain(std::iter::repeat_n(OPT_PAD, padding)));
        batch.mask.extend(std::iter::repeat_n(1, document.len()).chain(std::iter::repeat_n(0, padding)));
    }
    batch
}

/// What a model makes of documents, and what it should.
struct Prediction {
    /// `[tokens, W]`, f32.
    logits: Tensor,
    /// `[tokens]`: the next token, or [`IGNORED`].
    targets: Tensor,
}

impl Prediction {
    fn new(leaves: &Tensors, sizes: OptSizes, kernel: Attention, batch: &TextBatch) -> Result<Self, TrainerError> {
        let model = Opt::new(&leaves.scope(LANGUAGE_MODEL), sizes, kernel)?;
        let (ids, length) = (batch.ids_tensor(), batch.len as i64);
        // Padding is on the right, where nothing that counts looks at it.
        let hidden = model.forward(&model.embed_tokens(&ids.narrow(1, 0, length - 1)), None);
        let targets = ids.narrow(1, 1, length - 1);
        let targets = targets.masked_fill(&targets.eq(OPT_PAD), IGNORED).reshape([-1]);
        Ok(Self { logits: model.logits(&hidden).to_kind(Kind::Float).flatten(0, 1), targets })
    }

    fn loss(&self) -> Tensor {
        self.logits.cross_entropy_loss(&self.targets, None::<&Tensor>, Reduction::Mean, IGNORED, 0.0)
    }
}

/// The loss, and the share of colour and shape words of second captions that are predicted right, over documents that
/// were not trained on.
fn evaluate(
    leaves: &Tensors,
    sizes: OptSizes,
    kernel: Attention,
    documents: &Documents,
) -> Result<(f64, Accuracies), TrainerError> {
    let ids = |words: &[&str]| -> Vec<i64> { words.iter().filter_map(|w| documents.tokenizer.id(w)).collect() };
    let kinds = [
        ("colour of the second caption", ids(&COLOUR_WORDS)),
        ("shape of the second caption", ids(&[SHAPE_WORDS, SHAPE_PLURALS].concat())),
    ];
    no_grad(|| {
        let (mut loss, mut counts) = (0.0, [[0.0; 2]; 2]);
        for first in (0..FRESH_DOCUMENTS).step_by(FRESH_BATCH as usize) {
            let batch = documents.fresh(first, FRESH_BATCH)?;
            let prediction = Prediction::new(leaves, sizes, kernel, &batch)?;
            loss += prediction.loss().double_value(&[]) * FRESH_BATCH as f64 / FRESH_DOCUMENTS as f64;
            let found = prediction.logits.argmax(-1, false);
            let second = in_second_caption(&prediction.targets, &documents.tokenizer, batch.rows as i64);
            for ((_, words), [right, all]) in kinds.iter().zip(&mut counts) {
                let of_kind =
                    Tensor::isin(&prediction.targets, &Tensor::from_slice(words), false, false).logical_and(&second);
                let hits = found.eq_tensor(&prediction.targets).logical_and(&of_kind);
                *right += hits.sum(Kind::Int64).double_value(&[]);
                *all += of_kind.sum(Kind::Int64).double_value(&[]);
            }
        }
        Ok((
            loss,
            kinds.iter().zip(counts).map(|((name, _), [right, all])| (*name, right / f64::max(all, 1.0))).collect(),
        ))
    })
}

/// True behind the first line feed of each document.
fn in_second_caption(targets: &Tensor, tokenizer: &Tokenizer, rows: i64) -> Tensor {
    let ends = targets.view([rows, -1]).eq(tokenizer.end()).to_kind(Kind::Int64);
    (ends.cumsum(1, Kind::Int64) - ends).gt(0).reshape([-1]).to_device(Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frozen::load_language_model;
    use crate::model::language_tower::LanguageTower;
    use crate::precision::compute_kind;

    fn run(folder: &std::path::Path, steps: usize) -> Run {
        let weights = folder.join("tower.safetensors").display().to_string();
        let overrides = configs::Overrides::new([
            format!("model.language_model.weights.uri={weights}"),
            format!("model.language_model.pretrain.steps={steps}"),
            "model.language_model.pretrain.batch=8".into(),
            "model.language_model.hidden_dim=32".into(),
            "model.language_model.mlp_dim=64".into(),
            "model.language_model.depth=2".into(),
        ]);
        configs::load_str("tiny", configs::preset("tiny").unwrap(), &overrides).unwrap()
    }

    #[test]
    fn a_model_learns_is_saved_and_comes_out_the_same_again() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(folder.path(), 40);
        // Threads that wait for one another take minutes where other tests keep the cores busy.
        tch::set_num_threads(1);
        let mut losses = Vec::new();
        let first = pretrain_language_model(&run, &mut |progress| losses.push(progress.loss)).unwrap();
        assert!(losses[35..].iter().sum::<f64>() < 0.8 * losses[..5].iter().sum::<f64>(), "{losses:?}");
        let frozen = load_language_model(&run, Device::Cpu).unwrap();
        assert_eq!(frozen.sha256(), first.sha256);
        let ids = Tensor::from_slice(&[2_i64, 9, 10]).view([1, 3]);
        let LanguageTower::Opt(opt) = frozen.model() else { panic!("the demo's language model is a decoder") };
        let embedded = opt.embed_tokens(&ids).set_requires_grad(true);
        let logits = opt.logits(&opt.forward(&embedded, None));
        assert_eq!((logits.size(), logits.kind()), (vec![1, 3, 96], compute_kind(configs::Dtype::Bf16, Device::Cpu)));
        logits.sum(Kind::Float).backward();
        assert!(embedded.grad().defined(), "gradients reach the inputs");
        let again = pretrain_language_model(&run, &mut |_| {}).unwrap();
        assert_eq!((first.sha256, first.loss, first.accuracies), (again.sha256, again.loss, again.accuracies));
    }

    #[test]
    fn documents_are_framed_captions_or_keywords_and_a_caption_of_training_scenes() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(folder.path(), 1);
        let LanguageModelSizes::Opt(sizes) = run.model.language_model.sizes() else { panic!("tiny has an OPT") };
        let documents = Documents::new(&run, &sizes).unwrap();
        let mut rng = CounterRng::new(1, Purpose::Pretrain, &[]);
        let mut with_keywords = 0;
        for index in 0..200 {
            let scene = scene(&documents.options, Split::Train, index).unwrap();
            let known = captions(&scene);
            let tokens = documents.document(index, Colours::AsSeen, &mut rng).unwrap();
            let texts: Vec<String> = tokens
                .split(|id| *id == documents.tokenizer.end())
                .map(|part| documents.tokenizer.decode(part))
                .filter(|text| !text.is_empty())
                .collect();
            assert_eq!(texts.len(), 2, "{texts:?}");
            assert!(texts[0] != texts[1] && known.contains(&texts[1]), "{texts:?} {known:?}");
            if !known.contains(&texts[0]) {
                with_keywords += 1;
                let sized = texts[0].split(' ').count() == 3 * scene.objects.len();
                let mut rest = texts[0].clone();
                for object in &scene.objects {
                    let pair = object.pair().words();
                    let words = if sized { format!("{} {pair}", object.size.word()) } else { pair };
                    rest = rest.replacen(&words, "", 1);
                }
                assert!(rest.trim().is_empty(), "{texts:?} {scene:?}");
            }
            assert_eq!(tokens.iter().filter(|id| **id == crate::text::OPT_START).count(), 2);
        }
        assert!((70..130).contains(&with_keywords), "{with_keywords} of 200 at a share of {KEYWORDS_SHARE}");
    }

    #[test]
    fn colours_are_exchanged_with_their_articles() {
        let exchange = HashMap::from([("red", "orange"), ("orange", "blue"), ("blue", "red")]);
        let text = "a red circle left of an orange star above a large blue ring and two red squares";
        let expected = "an orange circle left of a blue star above a large red ring and two orange squares";
        assert_eq!(exchange_colours(text, &exchange), expected);
    }

    /// Not a test: trains the language model of `tiny` and prints what came of it. `PRETRAIN_OVERRIDES` holds
    /// overrides with spaces between them.
    #[test]
    #[ignore = "takes minutes"]
    #[allow(clippy::print_stdout, reason = "its output is its purpose")]
    fn print_the_accuracies_of_the_demo() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("tower.safetensors").display().to_string();
        let extra = std::env::var("PRETRAIN_OVERRIDES").unwrap_or_default();
        let overrides = [format!("model.language_model.weights.uri={weights}")];
        let overrides =
            configs::Overrides::new(overrides.into_iter().chain(extra.split_whitespace().map(String::from)));
        let run = configs::load_str("tiny", configs::preset("tiny").unwrap(), &overrides).unwrap();
        tch::set_num_threads(1);
        let report = pretrain_language_model(&run, &mut |progress| {
            if progress.step % 100 == 0 {
                println!("{progress:?}");
            }
        });
        println!("{extra} {report:?}");
    }
}
