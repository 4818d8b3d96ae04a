//! The batch script of a run.

use std::fmt::Write;
use std::path::Path;

use configs::{Backend, Run};

use crate::ranks::{Starter, quoted};

/// Paths that a script names.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// This program.
    pub blip2: &'a Path,
    /// The copy of the configuration.
    pub config: &'a Path,
    /// The folder that the job starts in.
    pub work: &'a Path,
    /// The folder of the job's output.
    pub log: &'a Path,
    /// What starts ranks.
    pub starter: Starter,
    /// Keys of the configuration that may differ from the run's.
    pub accept_changes: &'a [String],
}

/// What the job does, behind its options.
const BODY: &str = r#"
# SLURM sends USR1 some time before the time limit and at a preemption. The launcher is told, has the ranks commit a
# checkpoint, and ends with exit code 75; then the job goes back into the queue, and continues from that checkpoint.
@BLIP2@ launch @CONFIG@@OPTIONS@ &
launcher=$!
trap 'kill -USR1 "$launcher" 2>/dev/null' USR1 TERM
code=0
while wait "$launcher" || code=$?; [ "$code" -gt 128 ] && kill -0 "$launcher" 2>/dev/null; do
    code=0 # The wait was ended by the signal, not by the launcher.
done
if [ "$code" -gt 128 ]; then
    code=0
    wait "$launcher" || code=$?
fi
if [ "$code" = 75 ]; then
    # SLURM may have put it back itself, as after the loss of a node.
    if scontrol requeue "$SLURM_JOB_ID" || squeue --noheader --jobs="$SLURM_JOB_ID" --states=PENDING | grep -q .; then
        sleep 60 # SLURM ends this script meanwhile.
        exit 0
    fi
    echo "job $SLURM_JOB_ID was not put back into the queue; submit the run again to continue it" >&2
fi
exit "$code"
"#;

/// The script.
pub fn script(run: &Run, places: Places<'_>) -> String {
    let slurm = &run.cluster.slurm;
    let mut text = format!(
        "#!/bin/bash\n# The run {}, as `blip2 submit` wrote it. Its configuration is a copy: later edits do not reach this job.\n",
        run.run.name
    );
    for option in options(run, places).iter().chain(&slurm.extra) {
        let _written = writeln!(text, "#SBATCH {option}");
    }
    if !slurm.setup.trim().is_empty() {
        let _written = write!(text, "\n# cluster.slurm.setup\n{}\n", slurm.setup.trim_end());
    }
    if let Some(container) = &slurm.container {
        let _written = write!(text, "\n# Ranks run in {container}; `blip2 launch` starts them there.\n");
    }
    let word = |path: &Path| quoted(&path.display().to_string());
    let starter = match places.starter {
        Starter::Auto => "",
        Starter::Local => " --launcher local",
        Starter::Mpirun => " --launcher mpirun",
        Starter::Srun => " --launcher srun",
    };
    let accept = places.accept_changes.iter().map(|key| format!(" --accept-change {}", quoted(key)));
    let body = BODY.replace("@OPTIONS@", &format!("{starter}{}", accept.collect::<String>()));
    text + &body.replace("@BLIP2@", &word(places.blip2)).replace("@CONFIG@", &word(places.config))
}

fn options(run: &Run, places: Places<'_>) -> Vec<String> {
    let (cluster, slurm) = (&run.cluster, &run.cluster.slurm);
    let mut options = vec![
        format!("--job-name={}", run.run.name),
        format!("--nodes={}", cluster.nodes),
        format!("--ntasks-per-node={}", cluster.ranks_per_node),
        format!("--cpus-per-task={}", cluster.threads_per_rank),
    ];
    if cluster.backend == Backend::Nccl {
        options.push(format!("--gpus-per-node={}", cluster.ranks_per_node));
    }
    options.extend(slurm.partition.iter().map(|partition| format!("--partition={partition}")));
    options.extend([
        format!("--time={}", slurm.time_limit),
        format!("--signal=B:USR1@{}", slurm.signal_before_end_s),
        "--requeue".to_owned(),
        "--open-mode=append".to_owned(),
        format!("--output={}", option_path(&places.log.join("slurm-%j.out"), "%j")),
        format!("--chdir={}", option_path(places.work, "")),
    ]);
    options
}

/// A path as sbatch reads it: in quotes where it has a space, per cents doubled save in the field.
fn option_path(path: &Path, field: &str) -> String {
    let text = path.display().to_string();
    let text = match text.strip_suffix(".out").and_then(|text| text.strip_suffix(field)) {
        Some(before) if !field.is_empty() => format!("{}{field}.out", before.replace('%', "%%")),
        _ => text,
    };
    if text.contains(char::is_whitespace) { format!("\"{text}\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_sbatch() {
        assert_eq!(option_path(Path::new("/a/b/slurm-%j.out"), "%j"), "/a/b/slurm-%j.out");
        assert_eq!(option_path(Path::new("/a b/100%/slurm-%j.out"), "%j"), "\"/a b/100%%/slurm-%j.out\"");
    }
}
