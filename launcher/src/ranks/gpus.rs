//! How many GPUs a host offers to its ranks: one is needed for each rank of back end nccl.

use std::path::Path;

use super::programs::Programs;
use crate::exit::Lacking;

/// GPUs that the ranks of a host may use, and where the number comes from; `None` where it cannot be known: the shell of an
/// salloc may be on a login node.
pub fn here(programs: &Programs) -> Option<(usize, &'static str)> {
    // What is visible bounds what there is; SLURM sets this variable for its jobs as well.
    if let Some(visible) = programs.variables.get("CUDA_VISIBLE_DEVICES") {
        let named = visible.split(',').map(str::trim).take_while(|device| !device.is_empty() && *device != "-1");
        return Some((named.count(), "CUDA_VISIBLE_DEVICES"));
    }
    for name in ["SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE"] {
        // `8` or `a100:8`.
        let count = programs.variable(name).and_then(|value| value.rsplit(':').next()?.parse().ok());
        if let Some(count) = count {
            return Some((count, name));
        }
    }
    let elsewhere = programs.variable("SLURM_JOB_ID").is_some() && programs.variable("SLURMD_NODENAME").is_none();
    (!elsewhere).then(|| (devices(Path::new("/dev")), "/dev/nvidia*"))
}

/// The files `nvidia0`, `nvidia1`, … of the driver.
fn devices(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_gpu = |name: &str| name.strip_prefix("nvidia").is_some_and(|digits| digits.parse::<u32>().is_ok());
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_gpu)).count()
}

/// Refuses fewer GPUs than ranks on a host.
///
/// # Errors
/// [`Lacking`], with the fix.
pub fn require(host: &str, (found, source): (usize, &str), ranks: usize) -> anyhow::Result<()> {
    if found >= ranks {
        return Ok(());
    }
    let fix = fix(found, ranks);
    Err(Lacking(format!(
        "{host}: found {found} GPUs ({source}) for {ranks} ranks of back end nccl; expected one GPU for each rank; {fix}"
    ))
    .into())
}

/// What to do about fewer GPUs than ranks on a host.
pub fn fix(found: usize, ranks: usize) -> String {
    match found {
        0 => "ask for GPUs (in SLURM --gpus-per-node), install NVIDIA's driver, or train on CPUs with \
              --set cluster.backend=mpi (single for one rank)"
            .to_owned(),
        found => format!("ask for {ranks} GPUs on each node, or set cluster.ranks_per_node={found}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Programs {
        let variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Programs { variables, ..Programs::default() }
    }

    #[test]
    fn visible_devices_come_before_what_slurm_says() {
        let count = |pairs: &[(&str, &str)]| here(&with(pairs)).map(|(count, _)| count);
        assert_eq!(count(&[("CUDA_VISIBLE_DEVICES", "0,3"), ("SLURM_GPUS_ON_NODE", "4")]), Some(2));
        assert_eq!(count(&[("CUDA_VISIBLE_DEVICES", "")]), Some(0));
        assert_eq!(count(&[("SLURM_GPUS_ON_NODE", "4")]), Some(4));
        assert_eq!(count(&[("SLURM_JOB_ID", "17"), ("SLURM_GPUS_PER_NODE", "a100:8")]), Some(8));
        assert_eq!(count(&[("SLURM_JOB_ID", "17")]), None);
    }

    #[test]
    fn too_few_gpus_are_refused_with_the_fix() {
        assert!(require("n1", (8, "x"), 8).is_ok());
        let message = require("n1", (4, "SLURM_GPUS_ON_NODE"), 8).unwrap_err().to_string();
        assert!(message.contains("found 4 GPUs") && message.contains("ranks_per_node=4"), "{message}");
        assert!(require("n1", (0, "x"), 1).unwrap_err().to_string().contains("cluster.backend=mpi"));
    }

    #[test]
    fn device_files_are_counted() {
        let folder = std::env::temp_dir().join(format!("blip2-gpus-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        assert_eq!(devices(&folder), 2);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
