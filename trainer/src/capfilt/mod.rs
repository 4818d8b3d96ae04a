//! CapFilt as BLIP-2 uses it (paper section 3.4): a captioner writes texts for web images, and of these and the web's own text
//! those that fit the image best are kept. Both halves make new shards from shards; see docs/capfilt.md.
//!
//! `job` shares shards among ranks and knows what is done already; `captioner` and `filter` are the two halves; `scorer`
//! is what says how well a text fits.

mod captioner;
mod columns;
mod filter;
mod images;
mod job;
mod progress;
mod scorer;

use cluster::Collective;
use serde_json::Value;

use crate::error::Result;
use crate::eval::Loaded;
use crate::eval::decoding::Options;
use crate::events::Events;

pub use job::Request;
pub use scorer::{Request as ScorerRequest, Scorer};

/// Writes captions of all images of a source with a checkpoint; `decoding` are [`Options`] in JSON. The result on rank 0, null
/// elsewhere.
///
/// # Errors
/// When the checkpoint cannot be used, options do not fit together, nothing can be read, or the place holds shards that were
/// made otherwise.
pub fn caption(
    checkpoint: (&str, Option<&str>),
    decoding: &Value,
    request: &Request,
    ranks: &dyn Collective,
    events: Events,
) -> Result<Value> {
    let options: Options = serde_json::from_value(decoding.clone())?;
    let loaded = Loaded::open(checkpoint.0, checkpoint.1)?;
    let captioner = captioner::Captioner::new(&loaded, &options, decoding, request.threads)?;
    job::run(&captioner, request, &loaded.found.uri, ranks, events)
}

/// Keeps the `top` best captions of all images of a source. The result on rank 0, null elsewhere.
///
/// # Errors
/// When the scorer cannot be used, nothing can be read, or the place holds shards that were made otherwise.
pub fn filter(
    scorer: &ScorerRequest,
    (top, min_similarity): (usize, Option<f64>),
    request: &Request,
    ranks: &dyn Collective,
    events: Events,
) -> Result<Value> {
    let opened = Scorer::open(scorer)?;
    let filter = filter::Filter::new(&opened, top, min_similarity, request.threads);
    job::run(&filter, request, &scorer.model, ranks, events)
}
