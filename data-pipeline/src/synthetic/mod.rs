//! A procedural corpus with real structure: rendered scenes of a few objects, captions, questions, held-out pairs.
//!
//! A [`Scene`] is a pure function of `(seed, split, index)`. From it follow, again as pure functions, its pixels
//! ([`render`]), its captions ([`captions`]) and its questions ([`questions`]). [`write_corpus`] streams any number of
//! scenes to an object store as img2dataset-style Parquet shards; [`write_benchmarks`] adds sets for evaluation. `docs/synthetic-corpus.md` describes the corpus for
//! its users.

mod benchmark_files;
mod benchmarks;
mod captions;
mod columns;
mod corpus;
mod encoder;
mod options;
mod questions;
mod render;
mod resume;
mod scene;
mod shapes;
mod shards;
mod splits;
mod vocabulary;

pub use benchmarks::{BenchmarkSizes, BenchmarkSplit, Benchmarks, read_benchmarks, write_benchmarks};
pub use captions::captions;
pub use corpus::{CorpusSummary, Progress, write_corpus};
pub use options::{MAX_OBJECTS, SynthOptions};
pub use questions::{Question, QuestionKind, questions};
pub use render::{Picture, render};
pub use resume::{Corpus, ShardRecord, SplitRecord, read_corpus};
pub use scene::{Background, BackgroundKind, Object, Relation, Scene, Tone};
pub use splits::{HELD_OUT_PAIRS, Pair, Split, held_out_pairs, scene, scenes};
pub use vocabulary::{COLOUR_WORDS, Colour, SHAPE_PLURALS, SHAPE_WORDS, Shape, Size, Texture, VOCABULARY};
