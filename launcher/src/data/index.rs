//! `blip2 data index`: the catalogues of a run, made before it starts.

use configs::Source;
use data_pipeline::catalog::{Catalog, catalog_place, index};
use data_pipeline::store::Location;
use serde_json::{Value, json};

use super::{block_on, print_json};
use crate::cli::IndexArgs;
use crate::progress::{Progress, bytes, count};
use crate::source::RunSource;

/// Makes the catalogue of every source, and prints how many of its rows training can use, and what was left out.
///
/// # Errors
/// A config with mistakes, shards that cannot be listed or read, or a source without a row that training can use. A source
/// that the config's own filters empty is a warning: nothing is wrong with its data.
pub fn run(args: &IndexArgs) -> anyhow::Result<()> {
    let run = RunSource::find(&args.run).load(&args.set)?;
    let output = Location::parse(run.run.output.as_str())?;
    let read_unit = run.data.loader.read_unit_mb << 20;
    let (mut rows, mut useless) = (Vec::new(), None);
    for source in &run.data.sources {
        let place = catalog_place(source, &output)?;
        let work = async {
            let is_kept = !args.overwrite && place.exists().await?;
            if !is_kept {
                make(source, &place, read_unit).await?;
            }
            let saved = Catalog::load(&place, source, read_unit).await?;
            Ok((row(source, &place, &saved.catalog, &saved.sha256, is_kept), saved))
        };
        let (row, saved) = block_on(work, "catalogues that were finished are kept")?;
        if !args.json {
            print(source, &place, &saved.catalog, row["kept"] == true);
        }
        rows.push(row);
        match saved.catalog.nothing_usable() {
            Some(error) if saved.catalog.is_emptied_by_filters() => warn(&error),
            error => useless = useless.or(error),
        }
    }
    if args.json {
        print_json(&json!({ "schema_version": 1, "sources": rows }))?;
    }
    useless.map_or(Ok(()), |error| Err(error.into()))
}

#[expect(clippy::print_stderr, reason = "a warning beside the command's answer")]
fn warn(error: &data_pipeline::DataError) {
    eprintln!("blip2: warning: {error}");
}

async fn make(source: &Source, place: &Location, read_unit: u64) -> data_pipeline::Result<()> {
    let progress = Progress::start(source.name(), "shards", 0);
    let catalog = index(source, read_unit, &|done, total| progress.set(done as u64, total as u64)).await?;
    progress.finish();
    catalog.save(place).await?;
    Ok(())
}

fn row(source: &Source, place: &Location, catalog: &Catalog, sha256: &str, is_kept: bool) -> Value {
    let found = &catalog.description;
    json!({
        "name": source.name(), "catalog": place.uri(), "sha256": sha256, "kept": is_kept, "form": found.form,
        "shards": catalog.shards.len(), "bytes": catalog.bytes(), "row_groups": catalog.row_groups.len(),
        "rows": found.rows, "usable": catalog.usable(), "rejected": found.rejected, "formats": found.formats,
        "bad_shards": found.bad_shards, "bad_entries": found.bad_entries,
    })
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print(source: &Source, place: &Location, catalog: &Catalog, is_kept: bool) {
    let found = &catalog.description;
    println!(
        "{}: {} of {} rows usable for training, in {} row groups of {} shards, {}{}",
        source.name(),
        count(catalog.usable()),
        count(found.rows),
        count(catalog.row_groups.len() as u64),
        count(catalog.shards.len() as u64),
        bytes(catalog.bytes()),
        if is_kept { "; the catalogue was there" } else { "" }
    );
    for (reason, rows) in &found.rejected {
        println!("  left out, {reason}: {}", count(*rows));
    }
    for bad in &found.bad_shards {
        let how = if bad.used_in_part { "used up to its damage" } else { "left out" };
        let place = if bad.problem.contains(&bad.uri) { String::new() } else { format!("{}: ", bad.uri) };
        println!("  {how}: {place}{}", bad.problem);
    }
    if found.bad_entries.count > 0 {
        println!("  entries of the annotations left out: {}", count(found.bad_entries.count));
        found.bad_entries.first.iter().for_each(|entry| println!("    {entry}"));
    }
    if !found.formats.is_empty() {
        let formats = found.formats.iter().map(|(format, images)| format!("{} {format}", count(*images)));
        println!("  images: {}", formats.collect::<Vec<_>>().join(", "));
    }
    println!("  {}", place.uri());
}
