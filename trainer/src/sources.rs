//! The sources of a run: their catalogues, made once and shared by all ranks, and what could not be read of them.

use std::sync::Arc;

use cluster::broadcast_text;
use configs::{GenerativeText, Run, Source, Stage};
use data_pipeline::catalog::{Catalog, SavedCatalog, catalog_place, index};
use data_pipeline::loader::LoaderSource;
use data_pipeline::lost::LostRowGroups;
use data_pipeline::store::Location;

use crate::TrainerError;
use crate::session::Session;

/// What a run reads.
#[derive(Clone)]
pub struct Sources {
    /// In the order of the config.
    pub list: Vec<LoaderSource>,
    /// Row groups that could not be read, by the steps that needed them.
    pub lost: Arc<LostRowGroups>,
}

/// Opens every source. A catalogue that is not there yet is made by rank 0 and kept in the run's folder, so that each
/// later launch reads the same rows in the same order.
///
/// # Errors
/// When shards cannot be listed or read, or a catalogue is not the one that the run's checkpoint was made with.
pub fn open_sources(run: &Run, session: &mut Session<'_>) -> Result<Sources, TrainerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(TrainerError::Runtime)?;
    let output = Location::parse(run.run.output.as_str())?;
    let read_unit = run.data.loader.read_unit_mb << 20;
    let mut list = Vec::with_capacity(run.data.sources.len());
    for source in &run.data.sources {
        let place = catalog_place(source, &output)?;
        if session.ranks.rank() == 0 {
            runtime.block_on(make_if_absent(source, &place, &run.data.loader, session))?;
        }
        // The others wait until it is there.
        broadcast_text(session.ranks, "made")?;
        let SavedCatalog { catalog, sha256 } = runtime.block_on(Catalog::load(&place, source, read_unit))?;
        if let Some(error) = catalog.nothing_usable() {
            return Err(error.into());
        }
        session.note_frozen(&format!("catalog of {}", source.name()), &sha256)?;
        let catalog = if asks(run) { catalog.asking() } else { catalog };
        list.push(LoaderSource {
            name: source.name().to_owned(),
            catalog: Arc::new(catalog),
            weight: source.weight(),
            top_captions: source.top_captions(),
        });
    }
    let lost = runtime.block_on(LostRowGroups::open(&output.child("lost")))?;
    Ok(Sources { list, lost: Arc::new(lost) })
}

/// Whether a stage asks questions; validation sees to it that all sources have some then.
fn asks(run: &Run) -> bool {
    let asks = |stage: &Stage| matches!(stage, Stage::Generative(it) if it.text == GenerativeText::QuestionAnswer);
    run.stages.iter().any(asks)
}

async fn make_if_absent(
    source: &Source,
    place: &Location,
    loader: &configs::Loader,
    session: &Session<'_>,
) -> Result<(), TrainerError> {
    if place.exists().await? {
        return Ok(());
    }
    let events = session.events;
    let told = |done: usize, total: usize| {
        if done.is_multiple_of(1000) && done < total {
            events.message(format!("{}: {done} of {total} shards catalogued", source.name()));
        }
    };
    let catalog = index(source, loader.read_unit_mb << 20, &told).await?;
    for shard in &catalog.description.bad_shards {
        events.message(format!("{} is left out of the catalogue: {}", shard.uri, shard.problem));
    }
    let entries = &catalog.description.bad_entries;
    if entries.count > 0 {
        let first = entries.first.join("; ");
        events.message(format!("{}: {} entries are left out of the catalogue: {first}", source.name(), entries.count));
    }
    if let Some(error) = catalog.too_many_bad(loader.max_bad_fraction) {
        return Err(error.into());
    }
    catalog.save(place).await?;
    Ok(())
}
