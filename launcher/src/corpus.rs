//! The synthetic shards that a run names, written before its ranks start if they are absent.

use anyhow::{Context, bail};
use configs::{Run, Source, SyntheticSource};
use data_pipeline::store::Location;
use data_pipeline::synthetic::{SynthOptions, read_corpus, write_corpus};

use crate::data::block_on;
use crate::progress::{Progress, count};

/// What an interruption leaves behind.
const KEPT: &str = "complete shards stay; the same command continues from them";

/// What the corpus of a source is made from.
///
/// # Errors
/// A number that the corpus cannot have.
pub fn options(source: &SyntheticSource) -> anyhow::Result<SynthOptions> {
    let wrong = || format!("data.sources: the settings of `{}` are out of range", source.name);
    Ok(SynthOptions {
        scenes: source.scenes,
        test_scenes: source.test_scenes,
        image_size: source.image_size.try_into().with_context(wrong)?,
        seed: source.seed,
        min_objects: source.min_objects.try_into().with_context(wrong)?,
        max_objects: source.max_objects.try_into().with_context(wrong)?,
        patterns: source.patterns,
        jpeg_quality: source.jpeg_quality.try_into().with_context(wrong)?,
        shard_rows: source.shard_rows.try_into().with_context(wrong)?,
        threads: 0,
        overwrite: false,
    })
}

/// The synthetic sources of a run whose corpus is not complete.
///
/// # Errors
/// A store that cannot be read, or a corpus made with other settings.
pub fn missing(run: &Run) -> anyhow::Result<Vec<&SyntheticSource>> {
    let mut missing = Vec::new();
    for source in &run.data.sources {
        let Source::Synthetic(source) = source else { continue };
        let place = Location::parse(source.uri.as_str())?;
        match block_on(read_corpus(&place), "nothing was started")? {
            None => missing.push(source),
            Some(found) if found.options == options(source)? => {}
            Some(found) => bail!(
                "{}: found a corpus made with other settings ({:?}); expected those of the source `{}` ({:?}). Give \
                 the source another uri, or delete that corpus",
                source.uri,
                found.options,
                source.name,
                options(source)?
            ),
        }
    }
    Ok(missing)
}

/// Writes the corpora that are absent, or completes what an earlier command began.
///
/// # Errors
/// A store that fails, settings that cannot be met, or an interruption.
#[expect(clippy::print_stderr, reason = "progress goes to standard error")]
pub fn ensure(run: &Run) -> anyhow::Result<()> {
    for source in missing(run)? {
        let options = options(source)?;
        let place = Location::parse(source.uri.as_str())?;
        let progress = Progress::start("rendering scenes", "scenes", options.scenes);
        let work = write_corpus(&options, &place, |p| progress.set(p.scenes, p.total_scenes));
        let summary = block_on(work, KEPT)?;
        progress.finish();
        eprintln!("{}: {} scenes in {} shards", source.uri, count(summary.scenes), summary.shards);
    }
    Ok(())
}
