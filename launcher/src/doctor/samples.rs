//! Samples of every source, read and decoded as training would.

use std::time::Duration;

use configs::Source;
use data_pipeline::catalog::{Catalog, catalog_place, index_some};
use data_pipeline::image::DecodeLimits;
use data_pipeline::inspect::{Tried, TryOptions, try_samples};
use data_pipeline::store::{Location, Trouble};

use super::check::Check;
use super::context::Context;
use super::store::{OUTPUT, of_source};

/// Shards of a source without a catalogue that are looked at, at most.
const SHARDS: usize = 32;
/// No row group is begun after this time.
const WITHIN: Duration = Duration::from_secs(20);

/// Looks at the samples of a source.
pub fn samples(context: &Context, number: usize) -> Vec<Check> {
    let source = &context.run.data.sources[number];
    let name = format!("samples.{}", source.name());
    if context.is_broken(&of_source(source)) {
        return vec![Check::skipped(name, "the source cannot be read yet, as said")];
    }
    let share = context.run.data.shares()[number];
    let wanted = ((context.samples as f64 * share).round() as usize).max(1);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return vec![Check::failure(name, error.to_string(), "threads that read", "raise the limit: `ulimit -u`")];
        }
    };
    let found = runtime.block_on(look(context, source, wanted));
    runtime.shutdown_background();
    vec![match found {
        Ok(found) => judged(name, source, &found, context.run.data.loader.max_bad_fraction),
        Err(error) => {
            let fix = match Trouble::of(&error) {
                Trouble::Other => {
                    "mend, remove or write the shards again, and see that the source's kind and uri are right"
                }
                trouble => trouble.fix(),
            };
            Check::failure(name, error.to_string(), "samples that can be read and decoded", fix)
        }
    }]
}

/// What was found of a source.
struct Looked {
    catalog: Catalog,
    /// Whether the run has this catalogue already, so that what it leaves out is left out.
    is_kept: bool,
    tried: Tried,
}

async fn look(context: &Context, source: &Source, wanted: usize) -> data_pipeline::Result<Looked> {
    let loader = &context.run.data.loader;
    let read_unit = loader.read_unit_mb << 20;
    let output = Location::parse(context.run.run.output.as_str())?;
    let place = catalog_place(source, &output)?;
    let can_look = source.catalog().is_some() || !context.is_broken(OUTPUT);
    let is_kept = can_look && place.exists().await?;
    let catalog = match is_kept {
        true => Catalog::load(&place, source, read_unit).await?.catalog,
        false => index_some(source, read_unit, (SHARDS, &|_, _| ())).await?,
    };
    let limits = DecodeLimits { max_pixels: loader.max_image_pixels, ..DecodeLimits::default() };
    let options = TryOptions { samples: wanted, limits, seed: context.run.run.seed, within: WITHIN };
    let tried = try_samples(&catalog, options).await?;
    Ok(Looked { catalog, is_kept, tried })
}

fn judged(name: String, source: &Source, looked: &Looked, limit: f64) -> Check {
    let Looked { catalog, is_kept, tried } = looked;
    let description = &catalog.description;
    let expected = format!("at most {:.2} % that cannot be used (data.loader.max_bad_fraction)", limit * 100.0);
    if let Some(error) = catalog.nothing_usable() {
        let fix = match catalog.is_emptied_by_filters() {
            true => format!("loosen data.sources.{}.filters, or take the source out", source.name()),
            false => format!("mend the data of data.sources.{}, or take the source out", source.name()),
        };
        return Check::failure(name, error.to_string(), "rows to train on", fix);
    }
    let mend =
        "download or write the shard again, or remove it; `blip2 data index` makes a catalogue that leaves it out";
    if let Some(error) = catalog.too_many_bad(limit).filter(|_| !is_kept) {
        return Check::failure(name, error.to_string(), &expected, mend);
    }
    let shards = catalog.shards.len() + description.bad_shards.iter().filter(|shard| !shard.used_in_part).count();
    if let Some(first) = description.bad_shards.first() {
        let bad = description.bad_shards.len();
        let found = format!("{bad} of {shards} shards cannot be read; first {}: {}", first.uri, first.problem);
        return Check::warning(name, found, &expected, mend);
    }
    if let Some(first) = description.bad_entries.first.first() {
        let bad = description.bad_entries.count;
        let found = format!("{bad} entries of the annotations cannot be used; first: {first}");
        return Check::warning(name, found, &expected, mend);
    }
    let found = found(tried, shards);
    match (tried.bad_fraction() > limit, tried.unreadable.is_empty()) {
        (true, false) => Check::failure(name, found, &expected, mend),
        (true, true) => {
            let fix = "fetch or write these samples again, filter them out (data.sources.*.filters), or raise \
                       data.loader.max_bad_fraction; `blip2 data inspect` shows them";
            Check::failure(name, found, &expected, fix)
        }
        (false, false) => Check::warning(name, found, &expected, mend),
        (false, true) => Check::ok(name, found, expected),
    }
}

fn found(tried: &Tried, shards: usize) -> String {
    let mut found = format!("{} samples of {} row groups in {shards} shards decoded", tried.tried, tried.row_groups);
    if tried.num_bad() > 0 {
        found.push_str(&format!(", {} cannot be used ({})", tried.num_bad(), tried.reasons()));
    }
    let first = tried.unreadable.first().or(tried.examples.first());
    if let Some(first) = first {
        found.push_str(&format!("; first: {first}"));
    }
    found
}
