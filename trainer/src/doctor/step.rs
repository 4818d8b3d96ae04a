//! A step of each stage at the size that one rank of the run has, with random weights and inputs on the rank's own
//! device.

use configs::{Dtype, GenerativeText, Run, Stage};
use tch::Device;

use super::space::{Sizes, available};
use super::{Finding, size, text};
use crate::bench::{Options, one_step};
use crate::device;
use crate::error::Result;

pub(super) fn look(run: &Run) -> Vec<Finding> {
    tch::set_num_threads(i32::try_from(run.cluster.threads_per_rank).unwrap_or(i32::MAX));
    run.stages.iter().map(|stage| finding(run, stage)).collect()
}

fn finding(run: &Run, stage: &Stage) -> Finding {
    let name = format!("step.{}", stage.name());
    let expected = format!("{} images of a step on one rank", share(run, stage).0);
    let device = match device::of_training(run, 0) {
        Ok(device) => device,
        Err(error) => {
            let fix = "ask for GPUs, or train on CPUs with --set cluster.backend=mpi";
            return Finding::failure(name, [text(&error), expected, fix.into()]);
        }
    };
    if let Some(found) = refusal(run, device) {
        return Finding::failure(name, [found, expected, lighter().into()]);
    }
    match taken(run, stage, device) {
        Ok((seconds, peak)) => {
            let memory = peak.map_or_else(String::new, |peak| format!(", at most {} held", size(peak)));
            Finding::ok(
                name,
                format!("{seconds:.2} s{memory} on {}{}", device::name(device), left_out(stage)),
                expected,
            )
        }
        Err(error) => {
            let said = text(&error);
            let fix = if super::is_out_of_memory(&said) {
                lighter()
            } else {
                "see the message; `blip2 bench step` repeats it"
            };
            Finding::failure(name, [said, expected, fix.into()])
        }
    }
}

/// What makes a step lighter.
fn lighter() -> &'static str {
    "use more slices (stages.*.slices), a smaller global batch, dtype bf16 or model.language_model.recompute, or \
         more memory"
}

/// What the step leaves out that training does.
fn left_out(stage: &Stage) -> &'static str {
    if stage.train_image_encoder() {
        "; without the gradient of the image encoder, which this stage trains"
    } else {
        ""
    }
}

/// Why the step is not even tried: the models alone do not fit.
fn refusal(run: &Run, device: Device) -> Option<String> {
    if device != Device::Cpu {
        return None;
    }
    let (needed, free) = (Sizes::of(run, device).ok()?.held(), available()?);
    (needed > free).then(|| format!("{} free for {} of models; the step was not tried", size(free), size(needed)))
}

/// Images and slices of a step that fall to one rank.
fn share(run: &Run, stage: &Stage) -> (usize, usize) {
    let ranks = run.world_size().clamp(1, stage.slices());
    let slices = stage.slices().div_ceil(ranks);
    (slices * stage.slice_size(), slices)
}

/// Takes the step; seconds and bytes.
fn taken(run: &Run, stage: &Stage, device: Device) -> Result<(f64, Option<u64>)> {
    let (batch, slices) = match (share(run, stage), stage) {
        // A sample by itself has no negatives; in the run they come from other ranks.
        ((1, _), Stage::Representation(_)) => (2, 2),
        (share, _) => share,
    };
    let mut alone = stage.clone();
    let model = &run.model;
    let kind = match &mut alone {
        Stage::Representation(stage) => {
            (stage.global_batch, stage.slices, stage.train_image_encoder) = (batch, slices, false);
            // Matching with hard negatives is the whole of the step.
            (stage.itm_start_step, stage.hard_negatives_start_step) = (0, 0);
            stage.match_by_image_id = false;
            1
        }
        Stage::Generative(stage) => {
            (stage.global_batch, stage.slices, stage.train_image_encoder) = (batch, slices, false);
            stage.qformer_text_input = false;
            if stage.text == GenerativeText::QuestionAnswer {
                stage.text = GenerativeText::WholeCaption;
            }
            2
        }
    };
    let settings = model.language_model.settings();
    let options = Options {
        preset: String::new(),
        run: None,
        device,
        stage: kind,
        batch,
        slices,
        steps: [1, 0],
        dtype: dtype(model.qformer.dtype).to_owned(),
        attention: String::new(),
        dropout: [model.qformer.dropout, settings.dropout],
        text_tokens: if kind == 1 { model.qformer.max_text_tokens } else { settings.max_text_tokens },
        fixed_text: true,
        pad_to_limit: true,
        project_once: true,
        recompute: settings.recompute,
        compare_reductions: false,
        phases: false,
        trace: None,
    };
    let run = Run { stages: vec![alone; 2], ..run.clone() };
    one_step(&run, &options)
}

fn dtype(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Bf16 => "bf16",
        Dtype::F16 => "f16",
        Dtype::F32 => "f32",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny(set: &[&str]) -> Run {
        let sets = configs::SMALL.iter().chain(set).copied();
        configs::load_str("tiny.yaml", configs::preset("tiny").unwrap(), &configs::Overrides::new(sets)).unwrap()
    }

    #[test]
    fn a_rank_has_its_share_of_the_slices() {
        let run = tiny(&[]);
        assert_eq!(share(&run, &run.stages[0]), (32, 1));
        let run = tiny(&[
            "stages.representation.slices=8",
            "cluster.ranks_per_node=3",
            "data.lanes=8",
            "stages.generative.slices=8",
        ]);
        assert_eq!(share(&run, &run.stages[0]), (24, 3), "the rank that has most");
    }

    #[test]
    fn both_stages_of_a_tiny_run_take_a_step_in_its_own_vocabulary() {
        let found = look(&tiny(&[]));
        assert_eq!(found.len(), 2);
        for finding in found {
            assert_eq!(finding.state, crate::doctor::State::Ok, "{finding:?}");
        }
    }
}
