//! Where a launch continues: all ranks read one checkpoint together, each the part that it needs.

use std::collections::BTreeSet;

use cluster::{Collective, broadcast_text, gather_texts};
use configs::{Reduction, Run};

use crate::TrainerError;
use crate::checkpoint::{About, CommitRecord, FlatRange, Lease, RunPrefix, Stored};
use crate::events::Events;
use crate::slices::owned;

/// What a rank has read of a checkpoint.
#[derive(Debug)]
pub(super) struct Resumed {
    /// What is known of the state.
    pub(super) about: About,
    /// The chunks that this rank updates.
    pub(super) flat: FlatRange,
    /// The checkpoint's own URI.
    pub(super) uri: String,
}

/// Reads the newest checkpoint of which every rank can verify its part; `None` when none was ever committed. Rank 0, which
/// has the lease, chooses, and has damaged ones set apart once an older one is whole.
///
/// # Errors
/// [`TrainerError::NoUsableCheckpoint`]; errors of the store; when ranks cannot talk.
pub(super) fn read(
    run: &Run,
    prefix: &RunPrefix,
    lease: Option<&Lease>,
    ranks: &dyn Collective,
    events: Events,
) -> Result<Option<Resumed>, TrainerError> {
    let mut candidates = match lease {
        Some(_) => prefix.candidates(None)?,
        None => None,
    };
    if let Some(candidates) = &candidates {
        candidates.fell_back.iter().for_each(|reason| events.message(format!("passed over: {reason}")));
    }
    let mut damaged = Vec::new();
    loop {
        let chosen = candidates.as_mut().map(crate::checkpoint::Candidates::next_older).transpose()?;
        let text = chosen.map(|record| serde_json::to_string(&record)).transpose()?;
        let text = broadcast_text(ranks, text.as_deref().unwrap_or_default())?;
        if text.is_empty() {
            return Ok(None);
        }
        let record: CommitRecord = serde_json::from_str(&text)?;
        let own = match prefix.stored(&record).and_then(|stored| read_own(run, &stored, ranks)) {
            Ok(resumed) => Ok(resumed),
            Err(TrainerError::BadCheckpoint { uri, reason }) => Err(format!("{uri}: {reason}")),
            Err(error) => return Err(error),
        };
        let reasons = gather_texts(ranks, own.as_ref().err().map_or("", String::as_str))?;
        let reasons: BTreeSet<&str> = reasons.iter().map(String::as_str).filter(|reason| !reason.is_empty()).collect();
        match own {
            Ok(resumed) if reasons.is_empty() => {
                if let Some(lease) = lease {
                    set_apart(lease, &damaged, events)?;
                }
                return Ok(Some(resumed));
            }
            _ => {
                let reason = reasons.into_iter().collect::<Vec<_>>().join("; ");
                events.message(format!("a newer checkpoint was passed over: {reason}"));
                if let Some(candidates) = &mut candidates {
                    candidates.fell_back.push(reason.clone());
                }
                damaged.push((record.folder, reason));
            }
        }
    }
}

/// Reads the chunks that this rank updates.
fn read_own(run: &Run, stored: &Stored, ranks: &dyn Collective) -> Result<Resumed, TrainerError> {
    let about = stored.about();
    let misfit = |found: String| TrainerError::Unsupported {
        found: format!("{}: {found}", stored.uri()),
        expected: "continue with the config that the checkpoint was made with".into(),
    };
    let stage = run.stages.get(about.stage_index.wrapping_sub(1));
    let stage = stage.ok_or_else(|| misfit(format!("a checkpoint of stage {}", about.stage_index)))?;
    let slices = stage.slices();
    if !about.flat_len.is_multiple_of(slices) {
        return Err(misfit(format!("{} values, which {slices} slices do not share equally", about.flat_len)));
    }
    let chunk = about.flat_len / slices;
    let own = match run.cluster.reduction {
        Reduction::Exact => owned(ranks.rank(), ranks.world_size(), slices),
        Reduction::AllReduce => 0..slices,
    };
    let flat = stored.flat(own.start * chunk..own.end * chunk)?;
    Ok(Resumed { about: about.clone(), flat, uri: stored.uri() })
}

/// Notes damaged checkpoints in the log: their files stay for people to look at, and nobody reads them again.
fn set_apart(lease: &Lease, damaged: &[(String, String)], events: Events) -> Result<(), TrainerError> {
    for (folder, reason) in damaged {
        lease.quarantine(folder, reason)?;
        events.message(format!("{folder} is in quarantine: nobody continues from it, its files stay"));
    }
    Ok(())
}
