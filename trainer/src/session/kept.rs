//! What a checkpoint keeps of a training state, and how it returns.

use std::collections::BTreeMap;

use configs::Run;
use tch::{Device, Tensor};

use super::StagePosition;
use crate::TrainerError;
use crate::checkpoint::{Found, NamedArray, Segment, Snapshot};
use crate::facts::Facts;
use crate::state::{self, State};

fn values_of(tensor: &Tensor) -> Result<Vec<f32>, TrainerError> {
    let flat = tensor.to_device(Device::Cpu).contiguous().view([-1]);
    Vec::try_from(&flat).map_err(|source| TrainerError::Torch { doing: "copying the training state", source })
}

/// The tensor of a checkpoint's array, on the processor.
pub(super) fn tensor_of(array: &NamedArray) -> Tensor {
    let shape: Vec<i64> = array.shape.iter().map(|axis| *axis as i64).collect();
    Tensor::from_slice(&array.values).view(shape.as_slice())
}

/// What a checkpoint keeps of a training state; `exp_avg` and `exp_avg_sq` are whole.
///
/// # Errors
/// When the state cannot be copied from its device.
pub(super) fn snapshot(
    run: &Run,
    at: &StagePosition<'_>,
    state: &State,
    [exp_avg, exp_avg_sq]: [&Tensor; 2],
    (frozen, facts): (&BTreeMap<String, String>, &Facts),
) -> Result<Snapshot, TrainerError> {
    let axes = |shape: &[i64]| shape.iter().map(|axis| *axis as usize).collect::<Vec<_>>();
    let array = |segment: &state::Segment| {
        let values = values_of(&state.weights.narrow(0, segment.offset, segment.len))?;
        Ok(NamedArray { name: segment.name.clone(), shape: axes(&segment.shape), values })
    };
    let segment = |segment: &state::Segment| Segment {
        name: segment.name.clone(),
        shape: axes(&segment.shape),
        offset: segment.offset as usize,
    };
    Ok(Snapshot {
        stage_index: at.index,
        stage: at.stage.name().to_owned(),
        step: at.step,
        seed: run.run.seed,
        samples_seen: at.step * at.stage.global_batch() as u64,
        adamw_count: state.updates,
        trainable: state.segments.iter().map(array).collect::<Result<_, TrainerError>>()?,
        exp_avg: values_of(exp_avg)?,
        exp_avg_sq: values_of(exp_avg_sq)?,
        segments: state.segments.iter().map(segment).collect(),
        frozen: frozen.clone(),
        facts: facts.clone(),
        ledger: state.finite.ledger(),
    })
}

/// Puts what a checkpoint kept into a training state.
///
/// # Errors
/// When it does not fit the model.
pub(super) fn restore(state: &mut State, found: &Found) -> Result<(), TrainerError> {
    let misfit = |what: String| TrainerError::Unsupported {
        found: format!("{} does not fit the model: {what}", found.uri),
        expected: "continue with the config that the checkpoint was made with".into(),
    };
    let Snapshot { trainable, exp_avg, exp_avg_sq, adamw_count, .. } = &found.snapshot;
    if exp_avg.len() as i64 != state.len() || trainable.len() != state.segments.len() {
        return Err(misfit(format!("{} tensors, expected {}", trainable.len(), state.segments.len())));
    }
    for array in trainable {
        if !state.set(&array.name, &tensor_of(array)) {
            return Err(misfit(format!("the tensor {} is not trained in this stage", array.name)));
        }
    }
    let device = state.weights.device();
    let own = |moment: &[f32]| state.own_part(&Tensor::from_slice(moment)).copy().to_device(device);
    (state.exp_avg, state.exp_avg_sq) = (own(exp_avg), own(exp_avg_sq));
    state.updates = *adamw_count;
    state.finite.restore(&found.snapshot.ledger);
    Ok(())
}
