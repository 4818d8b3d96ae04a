//! What a run is: one YAML file, read into typed sections, with every mistake reported at once.
//!
//! ```
//! # fn main() -> Result<(), configs::ConfigError> {
//! let overrides = configs::Overrides::new(["stages.representation.steps=100"]);
//! let run = configs::load_str("tiny.yaml", configs::preset("tiny").unwrap_or_default(), &overrides)?;
//! assert_eq!(run.stages[0].steps(), 100);
//! assert_eq!(run.stages[0].slice_size(), run.stages[0].global_batch() / run.stages[0].slices());
//! # Ok(())
//! # }
//! ```
//!
//! To add a key, add one documented line to its section (`model.rs`, `data.rs`, `stages.rs`, `cluster.rs`, `run.rs`);
//! the reader, the messages, the resolved YAML and [`schema::reference`] follow from it. Then state it in the presets.

mod cluster;
mod data;
mod decode;
pub mod flops;
pub mod gpus;
mod language_model;
mod load;
mod model;
mod overrides;
pub mod parameters;
mod parse;
mod presets;
mod problem;
mod rule;
mod run;
pub mod schema;
mod secret;
mod section;
mod stages;
mod suggest;
mod tree;
mod uri;
mod validate;

pub use cluster::{Backend, Cluster, Container, Logs, PreemptSignal, Reduction, Restarts, Slurm, Timeouts};
pub use data::{
    AnnotatedSource, Augment, Columns, Data, Filters, LaionSource, Loader, Nsfw, Resize, ShardSource, Source,
    SyntheticSource, VqaSource,
};
pub use flops::Flops;
pub use gpus::Gpu;
pub use language_model::{
    CustomOpt, CustomT5, LanguageModel, LanguageModelSettings, LanguageModelSizes, Opt, OptSize, OptSizes, T5, T5Size,
    T5Sizes,
};
pub use load::{load, load_str};
pub use model::{
    Attention, CustomImageTower, Dtype, ImageBlock, ImageEncoder, ImageSizes, ImageTower, Model, QFormer, QFormerInit,
    RandomInit, TowerPretraining,
};
pub use overrides::Overrides;
pub use presets::{PRESETS, SMALL, preset};
pub use problem::{ConfigError, Origin, Problem};
pub use rule::Rule;
pub use run::{BestBy, Checkpoint, Evaluation, Identity, Metrics, Run, SCHEMA_VERSION};
pub use stages::{
    AdamW, GenerativeStage, GenerativeText, LavisEpochCosine, Losses, LrSchedule, Negatives, Optimizer,
    RepresentationStage, Stage, WarmupCosine,
};
pub use uri::{SCHEMES, Sha256, Uri, Weights};
