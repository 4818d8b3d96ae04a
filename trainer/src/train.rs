//! A run from its first step to its last. Read this first.

use configs::{GenerativeStage, GenerativeText, LanguageModelSizes, Run, Stage};

use crate::TrainerError;
use crate::activity::Phase;
use crate::events::Event;
use crate::feed::Feed;
use crate::model::image_tower::Share;
use crate::model::tensors::Spec;
use crate::optimizer::{Update, update_if_finite};
use crate::reader::Reader;
use crate::schedule::learning_rate;
use crate::session::{Outcome, Rank, Session, StagePosition};
use crate::slices::SliceMap;
use crate::sources::{Sources, open_sources};
use crate::step::{StepKey, generative, representation};
use crate::towers::{Towers, build_towers};
use crate::{stage1::Stage1, stage2::Stage2, trained_image_encoder};

/// Trains every stage of the run, from wherever it stands. Every rank calls it.
///
/// # Errors
/// What stopped the run; the same call continues from the last checkpoint.
pub fn train(run: &Run, rank: Rank<'_>) -> Result<(), TrainerError> {
    let mut session = Session::begin(run, rank)?;
    let towers = build_towers(run, &mut session)?;
    let sources = open_sources(run, &mut session)?;
    for position in session.stages_left() {
        train_stage(run, position, &towers, &sources, &mut session)?;
    }
    session.events.send(&Event::Done);
    Ok(())
}

fn train_stage(
    run: &Run,
    mut at: StagePosition<'_>,
    towers: &Towers,
    sources: &Sources,
    session: &mut Session<'_>,
) -> Result<(), TrainerError> {
    let (stage, ranks) = (at.stage, session.ranks);
    session.activity.enter(Phase::Loading);
    let slices = SliceMap::new(ranks, stage.slices(), run.cluster.reduction)?.timed(&session.parts);
    let mut state = session.build_state(&at, &build_specs(run, stage)?, &towers.image_encoder, &slices)?;
    let seed = run.run.seed.wrapping_add(at.index as u64);
    let feed = Feed::start(run, &at, sources, slices.own(), session)?;
    let mut reader = Reader::new(run, stage, towers, &slices, feed)?;
    announce(session, &at, state.num_parameters());
    while at.step < stage.steps() {
        let key = StepKey { seed, stage: at.index as u64, step: at.step };
        let batch = reader.slices(&state, key)?;
        let (losses, gradient) = match stage {
            Stage::Representation(stage) => {
                let mut meanwhile = || reader.encode_ahead(key.next(), Share::Half);
                representation(&state, (&run.model, stage), &batch, &slices, key, &mut meanwhile)?
            }
            Stage::Generative(stage) => {
                generative(&state, &run.model, stage, towers.language_model.model(), &batch, &slices, key)?
            }
        };
        let grad_norm = slices.norm(&gradient)?;
        reader.encode_ahead(key.next(), Share::All);
        let learning_rate = learning_rate(stage.lr_schedule(), at.step, stage.steps());
        let (events, step) = (session.events, at.step + 1);
        let update = Update { stage, step, grad_norm, learning_rate, batch: &batch, slices: &slices, events };
        update_if_finite(&mut state, gradient, &update)?;
        at.step += 1;
        let skipped = state.finite.skipped();
        let outcome =
            Outcome { losses: &losses, slices: &slices, feed: reader.feed(), grad_norm, learning_rate, skipped };
        session.report(&at, &outcome)?;
        session.evaluate_if_due(&at, &state, towers)?;
        session.checkpoint_if_due(&at, &state, &outcome)?;
    }
    Ok(())
}

/// The weights that a stage trains.
///
/// # Errors
/// Texts that the language model cannot be given.
pub(crate) fn build_specs(run: &Run, stage: &Stage) -> Result<Vec<Spec>, TrainerError> {
    let mut specs = match stage {
        Stage::Representation(_) => Stage1::specs(&run.model)?,
        Stage::Generative(stage) => {
            check_texts(run, stage)?;
            Stage2::specs_of_stage(&run.model, stage)?
        }
    };
    if stage.train_image_encoder() {
        specs.extend(trained_image_encoder::specs(&run.model)?);
    }
    Ok(specs)
}

/// Refuses what a language model cannot be given yet.
fn check_texts(run: &Run, stage: &GenerativeStage) -> Result<(), TrainerError> {
    let is_decoder = matches!(run.model.language_model.sizes(), LanguageModelSizes::Opt(_));
    let refuse = |what: &str, expected: &str| {
        let found = format!("stages.{}.{what}", stage.name);
        Err(TrainerError::Unsupported { found, expected: expected.into() })
    };
    let settings = run.model.language_model.settings();
    if settings.recompute && (!is_decoder || settings.dropout > 0.0) {
        return Err(TrainerError::Unsupported {
            found: "model.language_model.recompute is true with an encoder-decoder, or with dropout".into(),
            expected: "false; a decoder without dropout is computed again so far".into(),
        });
    }
    match stage.text {
        GenerativeText::PrefixSplit if is_decoder => refuse(
            "text is prefix_split with a decoder",
            "whole_caption; an encoder-decoder reads a caption's beginning",
        ),
        _ => Ok(()),
    }
}

fn announce(session: &Session<'_>, at: &StagePosition<'_>, parameters: i64) {
    let stage = at.stage;
    let what = format!(
        "stage {}: {:.2} M trained parameters, batches of {} in {} slices on {} ranks",
        stage.name(),
        parameters as f64 / 1e6,
        stage.global_batch(),
        stage.slices(),
        session.ranks.world_size()
    );
    session.events.send(&Event::Phase { name: stage.name().to_owned(), what, steps: stage.steps() });
    session.begin_steps(at);
}
