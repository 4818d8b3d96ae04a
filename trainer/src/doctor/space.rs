//! Memory and disk against what the models and checkpoints of a run need.

use std::path::{Path, PathBuf};

use configs::{Backend, Run};
use data_pipeline::store::Location;
use tch::Device;

use super::{Finding, size};
use crate::error::Result;
use crate::model::Spec;
use crate::precision::compute_kind;
use crate::storage::local_path;
use crate::train::build_specs;
use crate::weights::{Part, specs};

/// Bytes that a checkpoint has of each trained number: the number and two moments, in f32.
const STORED: u64 = 12;
/// Bytes that a rank holds of each trained number at most: number, two moments, and a gradient by itself and once
/// more flat.
const HELD: u64 = 20;

/// What the models of a run take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Trained numbers of the largest stage.
    pub(super) trained: u64,
    /// Bytes of what is frozen, as it is held on the device.
    pub(super) frozen: u64,
}

impl Sizes {
    /// Of a run whose ranks compute on a device.
    ///
    /// # Errors
    /// What the config asks for and cannot be done.
    pub(super) fn of(run: &Run, device: Device) -> Result<Self> {
        let mut trained = 0;
        for stage in &run.stages {
            trained = trained.max(numbers(&build_specs(run, stage)?));
        }
        let held = |part, dtype| {
            let each = compute_kind(dtype, device).elt_size_in_bytes() as u64;
            Ok::<_, crate::TrainerError>(numbers(&specs(run, part)?) * each)
        };
        let frozen = held(Part::ImageEncoder, run.model.image_encoder.dtype())?
            + held(Part::LanguageModel, run.model.language_model.settings().dtype)?;
        Ok(Self { trained, frozen })
    }

    /// Bytes that a rank holds besides activations.
    pub(super) fn held(self) -> u64 {
        self.frozen + HELD * self.trained
    }

    /// Bytes of a checkpoint.
    pub(super) fn stored(self) -> u64 {
        STORED * self.trained
    }
}

fn numbers(specs: &[Spec]) -> u64 {
    specs.iter().map(|spec| spec.shape.iter().product::<i64>().cast_unsigned()).sum()
}

pub(super) fn look(run: &Run) -> Vec<Finding> {
    let on_gpus = run.cluster.backend == Backend::Nccl;
    // Formats count, not whether a GPU is there.
    let sizes = match Sizes::of(run, if on_gpus { Device::Cuda(0) } else { Device::Cpu }) {
        Ok(sizes) => sizes,
        Err(error) => {
            let fix = "change what the message names in the config";
            return vec![Finding::error("memory.model", &error, "stages that can be trained", fix)];
        }
    };
    vec![memory(run, sizes, on_gpus), disk(run, sizes.stored())]
}

/// Whether the models of all ranks of a host fit into its memory.
fn memory(run: &Run, sizes: Sizes, on_gpus: bool) -> Finding {
    let name = "memory.model";
    let ranks = run.cluster.ranks_per_node.min(run.max_world_size()) as u64;
    if on_gpus {
        return Finding::ok(
            name,
            format!("{} on each GPU, without activations", size(sizes.held())),
            "the step below fits",
        );
    }
    let needed = ranks * sizes.held();
    let Some(free) = available() else { return Finding::skipped(name, "/proc/meminfo tells nothing") };
    let found = format!("{} free", size(free));
    let expected = format!("{} for the models of {ranks} ranks, and activations", size(needed));
    match free {
        _ if free < needed => {
            let fix = "start fewer ranks on this host (cluster.ranks_per_node), take a smaller model, or a host \
                 with more memory";
            Finding::failure(name, [found, expected, fix.to_owned()])
        }
        _ => Finding::ok(name, found, expected),
    }
}

/// Bytes of memory that could be had now.
pub(super) fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

/// Whether the checkpoints that are kept fit onto the disk of the output.
fn disk(run: &Run, checkpoint: u64) -> Finding {
    let name = "disk.output";
    let uri = run.run.output.as_str();
    let Some(path) = Location::parse(uri).ok().and_then(|place| local_path(&place)) else {
        return Finding::skipped(name, format!("{uri} is no folder of this machine"));
    };
    let kept = run.checkpoint.keep_last + 1;
    let needed = kept * checkpoint;
    let there = existing(&path);
    let free = match rustix::fs::statvfs(&there) {
        Ok(stat) => stat.f_bavail * stat.f_frsize,
        Err(error) => {
            let found = format!("{} cannot be asked for its space ({error})", there.display());
            return Finding::warning(name, [found, "a file system".into(), "look at it with `df`".into()]);
        }
    };
    let found = format!("{} free at {}", size(free), there.display());
    let expected = format!("{} for {kept} checkpoints of {}", size(needed), size(checkpoint));
    let fix = "free some space, set run.output to a larger disk, or lower checkpoint.keep_last";
    match free {
        _ if free < needed => Finding::failure(name, [found, expected, fix.to_owned()]),
        _ if free < 2 * needed => {
            let fix = format!("{fix}; metrics, catalogues and logs want space, too");
            Finding::warning(name, [found, expected, fix])
        }
        _ => Finding::ok(name, found, expected),
    }
}

/// The nearest folder above a path, or the path, that is there.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny(set: &[&str]) -> Run {
        let text = configs::preset("tiny").unwrap();
        configs::load_str("tiny.yaml", text, &configs::Overrides::new(set.iter().copied())).unwrap()
    }

    #[test]
    fn sizes_grow_with_the_model() {
        let small = Sizes::of(&tiny(&[]), Device::Cpu).unwrap();
        let large = Sizes::of(&tiny(&["model.qformer.mlp_dim=512"]), Device::Cpu).unwrap();
        // Four layers, each with two matrices of 128 x 256 more and a bias in the image's and in the text's branch.
        assert_eq!(large.trained - small.trained, 4 * 2 * (2 * 128 * 256 + 256));
        assert_eq!((large.frozen, small.stored()), (small.frozen, 12 * small.trained));
        assert!(small.held() > small.frozen);
    }

    #[test]
    fn a_folder_that_is_not_there_yet_lies_on_the_disk_of_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(existing(&folder.path().join("a/b/c")), folder.path());
    }
}
