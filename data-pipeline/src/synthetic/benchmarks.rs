//! Evaluation sets of a corpus in published layouts: images, captions as LAVIS' Karpathy lists, questions as VQAv2.
//!
//! | object below `benchmarks/` | holds |
//! |---|---|
//! | `images/COCO_<split>_<12 digits>.jpg` | scene 0 and on of the split; VQAv2's rule for names |
//! | `captions_<split>.json` | five captions of each scene |
//! | `questions_<split>.json`, `annotations_<split>.json` | all questions of each scene, ten equal answers |
//! | `benchmarks.json` | written last: sizes and hashes of the others |
//!
//! Everything is written anew each time, in less time than it would take to compare it.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::benchmark_files::{Files, SplitScene, describe};
use super::corpus::{in_pool, pool};
use super::encoder::JpegEncoder;
use super::options::SynthOptions;
use super::questions::questions_with;
use super::resume::{json, read_corpus};
use super::splits::{SceneSource, Split};
use crate::error::{DataError, Result};
use crate::hex::hex;
use crate::store::Location;

/// The folder below the corpus.
const FOLDER: &str = "benchmarks";
const COMPLETE: &str = "benchmarks.json";
/// Most scenes of a split: its annotations are put together in memory, about 5 kB of each scene.
const MAX_SCENES: u64 = 20_000;
/// Scenes that one thread renders before their images are written.
const SCENES_AT_ONCE: u64 = 64;
/// Images that are written at the same time.
const IMAGES_IN_FLIGHT: usize = 16;

/// How many scenes the sets have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchmarkSizes {
    /// Scenes of each of the sets of `test_seen` and `test_unseen`.
    pub test_scenes: u64,
    /// Scenes of the set of `train`: the first ones of the corpus.
    pub train_scenes: u64,
}

/// What `benchmarks.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Benchmarks {
    /// Version of the program.
    pub program_version: String,
    /// What the corpus was made from.
    pub options: SynthOptions,
    /// The sets that hold scenes.
    pub splits: Vec<BenchmarkSplit>,
}

/// The files of one split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchmarkSplit {
    /// Name of the split.
    pub name: String,
    /// Scenes, each with one image.
    pub scenes: u64,
    /// Captions.
    pub captions: u64,
    /// Captions whose text another scene of the split has, too.
    pub shared_captions: u64,
    /// Questions.
    pub questions: u64,
    /// SHA-256 of `captions_<split>.json`.
    pub captions_sha256: String,
    /// SHA-256 of `questions_<split>.json`.
    pub questions_sha256: String,
    /// SHA-256 of `annotations_<split>.json`.
    pub annotations_sha256: String,
    /// SHA-256 of all images of the split, one behind the other.
    pub images_sha256: String,
}

impl BenchmarkSizes {
    /// How many scenes a split has.
    fn of(self, split: Split) -> u64 {
        if split == Split::Train { self.train_scenes } else { self.test_scenes }
    }

    /// Checks the sizes against a corpus.
    ///
    /// # Errors
    /// [`DataError::Setting`] with all problems.
    pub fn validate(self, options: &SynthOptions) -> Result<()> {
        let most = options.scenes.min(MAX_SCENES);
        let mut problems = Vec::new();
        if self.test_scenes == 0 || self.test_scenes > MAX_SCENES {
            problems.push(format!("benchmark_scenes is {}, expected 1 to {MAX_SCENES}", self.test_scenes));
        }
        if self.train_scenes > most {
            let why = "the training scenes of the corpus, and no more than that limit";
            problems.push(format!("benchmark_train_scenes is {}, expected at most {most}: {why}", self.train_scenes));
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(DataError::Setting(format!("benchmarks cannot be made: {}", problems.join("; "))))
    }
}

/// Writes the sets of the complete corpus at `out` below `benchmarks/`. The same options and sizes give the same bytes,
/// whatever the number of threads. Tells `progress` the scenes that are written and their total.
///
/// # Errors
/// [`DataError::Setting`] when the sizes cannot work, the corpus is not there, or the folder holds other people's files;
/// [`DataError::Store`] when the store refuses. Without `benchmarks.json` the sets are not complete.
pub async fn write_benchmarks(
    options: &SynthOptions,
    sizes: BenchmarkSizes,
    out: &Location,
    progress: impl Fn(u64, u64) + Sync,
) -> Result<Benchmarks> {
    sizes.validate(options)?;
    let source = Arc::new(SceneSource::new(options));
    let mut draws = Vec::new();
    for split in Split::ALL {
        draws.push(match split {
            Split::Train => (0..sizes.train_scenes).collect(),
            _ => source.distinct_draws(split, sizes.test_scenes)?,
        });
    }
    check_corpus(options, out).await?;
    // Sets of other sizes may have had more images.
    delete(out, own_files(out).await?).await?;
    let folder = out.child(FOLDER);
    let total = Split::ALL.into_iter().map(|split| sizes.of(split)).sum();
    let pool = pool(options.threads)?;
    let (mut splits, mut before) = (Vec::new(), 0);
    for (split, draws) in Split::ALL.into_iter().zip(draws).filter(|(_, draws)| !draws.is_empty()) {
        let work = Work { options, source: &source, folder: &folder, pool: &pool };
        splits.push(work.write_split(split, draws, |done| progress(before + done, total)).await?);
        before += sizes.of(split);
    }
    let benchmarks = Benchmarks {
        program_version: env!("CARGO_PKG_VERSION").into(),
        options: SynthOptions { threads: 0, overwrite: false, ..options.clone() },
        splits,
    };
    folder.child(COMPLETE).write(json(&benchmarks)).await?;
    Ok(benchmarks)
}

/// The record of the complete sets of the corpus at `out`; `None` when there are none.
///
/// # Errors
/// [`DataError::Store`], or [`DataError::Setting`] when the record is none of this version.
pub async fn read_benchmarks(out: &Location) -> Result<Option<Benchmarks>> {
    super::resume::read_json(&out.child(FOLDER).child(COMPLETE)).await
}

/// Sets beside a corpus of other options would hold scenes that it trains on.
async fn check_corpus(options: &SynthOptions, out: &Location) -> Result<()> {
    let found = read_corpus(out).await?.map(|corpus| corpus.options);
    if found == Some(SynthOptions { threads: 0, overwrite: false, ..options.clone() }) {
        return Ok(());
    }
    let what = if found.is_some() { "a corpus of other options" } else { "no complete corpus" };
    Err(DataError::Setting(format!("{}: there is {what}. Write the corpus first, with the same options", out.uri())))
}

/// The files of the sets below `out`.
///
/// # Errors
/// [`DataError::Setting`] when other people's files are among them.
pub(super) async fn own_files(out: &Location) -> Result<Vec<Location>> {
    let folder = out.child(FOLDER);
    let mut own = Vec::new();
    for (place, _) in folder.list("").await? {
        let below = folder.below(&place.path);
        if !is_own_name(below.trim_start_matches('/')) {
            return Err(DataError::Setting(format!(
                "{}: this is no file of benchmarks. Nothing was changed. Move it away, or choose another place",
                place.uri()
            )));
        }
        own.push(place);
    }
    Ok(own)
}

/// Deletes files of the sets below `out`, the record first.
pub(super) async fn delete(out: &Location, files: Vec<Location>) -> Result<()> {
    out.child(FOLDER).child(COMPLETE).delete().await?;
    let deletions = stream::iter(files).map(|place| async move { place.delete().await });
    deletions.buffer_unordered(IMAGES_IN_FLIGHT).try_collect::<Vec<()>>().await?;
    Ok(())
}

/// Whether [`write_benchmarks`] writes a file of this name.
fn is_own_name(below: &str) -> bool {
    let is_of_split = |split: Split| {
        let prefix = image_prefix(split);
        let digits = below.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".jpg"));
        digits.is_some_and(|digits| digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_digit()))
            || ["captions", "questions", "annotations"].iter().any(|kind| below == file_name(kind, split))
    };
    below == COMPLETE || Split::ALL.into_iter().any(is_of_split)
}

fn image_prefix(split: Split) -> String {
    format!("images/COCO_{}_", split.name())
}

fn file_name(kind: &str, split: Split) -> String {
    format!("{kind}_{}.json", split.name())
}

/// What writing a split needs.
#[derive(Clone, Copy)]
struct Work<'a> {
    options: &'a SynthOptions,
    source: &'a Arc<SceneSource>,
    folder: &'a Location,
    pool: &'a rayon::ThreadPool,
}

impl Work<'_> {
    async fn write_split(&self, split: Split, draws: Vec<u64>, progress: impl Fn(u64)) -> Result<BenchmarkSplit> {
        let scene = |draw: &u64| {
            let scene = self.source.draw(split, *draw);
            let questions = questions_with(&scene, self.source.pairs());
            SplitScene { captions: super::captions(&scene), questions }
        };
        let scenes: Vec<SplitScene> = draws.iter().map(scene).collect();
        let num_scenes = draws.len() as u64;
        let images_sha256 = self.write_images(split, draws, progress).await?;
        let Files { captions, questions, annotations, num_captions, shared_captions, num_questions } =
            describe(split.name(), scenes)?;
        let hash = |bytes: &[u8]| hex(&Sha256::digest(bytes));
        let record = BenchmarkSplit {
            name: split.name().into(),
            scenes: num_scenes,
            captions: num_captions,
            shared_captions,
            questions: num_questions,
            captions_sha256: hash(&captions),
            questions_sha256: hash(&questions),
            annotations_sha256: hash(&annotations),
            images_sha256,
        };
        for (kind, bytes) in [("captions", captions), ("questions", questions), ("annotations", annotations)] {
            self.folder.child(&file_name(kind, split)).write(bytes).await?;
        }
        Ok(record)
    }

    /// Renders and writes the images of a split; SHA-256 of all of them in order.
    async fn write_images(&self, split: Split, draws: Vec<u64>, progress: impl Fn(u64)) -> Result<String> {
        let numbered: Vec<(u64, u64)> = (0..).zip(draws).collect();
        let chunks: Vec<Vec<(u64, u64)>> = numbered.chunks(SCENES_AT_ONCE as usize).map(<[_]>::to_vec).collect();
        let (side, quality) = (self.options.image_size, self.options.jpeg_quality);
        let render = |chunk: Vec<(u64, u64)>| {
            let source = self.source.clone();
            in_pool(self.pool, move || {
                let mut jpeg = JpegEncoder::new(quality)?;
                chunk.into_iter().map(|(n, draw)| Ok((n, jpeg.encode(&source.draw(split, draw), side)?))).collect()
            })
        };
        let mut rendered = stream::iter(chunks).map(render).buffered(self.pool.current_num_threads() + 1);
        let (mut sha256, mut done) = (Sha256::new(), 0);
        while let Some(images) = rendered.next().await {
            let images: Vec<(u64, Vec<u8>)> = images?;
            images.iter().for_each(|(_, image)| sha256.update(image));
            done += images.len() as u64;
            let writes = stream::iter(images).map(|(number, image)| async move {
                let name = format!("{}{number:012}.jpg", image_prefix(split));
                self.folder.child(&name).write(image).await
            });
            writes.buffer_unordered(IMAGES_IN_FLIGHT).try_collect::<Vec<()>>().await?;
            progress(done);
        }
        Ok(hex(&sha256.finalize()))
    }
}
