//! `blip2 submit`: writes the batch job of a run and hands it to SLURM.

mod script;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use configs::Run;
use sha2::{Digest, Sha256};

use crate::cli::SubmitArgs;
use crate::data::print_json;
use crate::exit::{Lacking, Taken, Unusable};
use crate::ranks::Programs;
use crate::slurm_job::{self, JobNote, JobState};
use crate::source::{RunSource, local_folder};
use script::{Places, script};

/// Digits of the configuration's hash in the names of a job's files.
const DIGITS: usize = 12;

/// Checks the run, writes its job, submits it and says its id; or prints the script.
///
/// # Errors
/// A wrong configuration, programs that are missing, a job of this run that waits or runs, a refusal of sbatch.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub fn run(args: &SubmitArgs, programs: &Programs) -> anyhow::Result<()> {
    let run = RunSource::find(&args.run).load(&overrides(args))?;
    let job = Job::of(&run, args, programs)?;
    if args.dry_run {
        return job.show(args);
    }
    let sbatch = programs.of_slurm("sbatch").map_err(|error| Lacking(error.to_string()))?;
    let output = slurm_job::output_of(&run)?;
    if let Some(note) = JobNote::read(&output)? {
        refuse_a_second(&run, JobState::ask(programs, &note.job))?;
    }
    job.write()?;
    let (id, cluster) = submit(&sbatch, &job.script)?;
    let note = JobNote {
        schema_version: 1,
        job: id.clone(),
        cluster,
        script: job.script.display().to_string(),
        config: job.config.display().to_string(),
        log: job.log.join(format!("slurm-{id}.out")).display().to_string(),
        submitted: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
    };
    note.write(&output).with_context(|| format!("job {id} was submitted, and its id could not be noted"))?;
    if args.json {
        return print_json(&note);
    }
    println!("{}: submitted as job {id}; see it with: blip2 status {}", run.run.name, run.run.output.as_str());
    Ok(())
}

/// What the command line adds to the configuration.
fn overrides(args: &SubmitArgs) -> Vec<String> {
    let mut set = args.set.clone();
    set.extend(args.nodes.map(|nodes| format!("cluster.nodes={nodes}")));
    set.extend(args.time.as_ref().map(|limit| format!("cluster.slurm.time_limit={limit}")));
    set
}

/// The files of a job.
struct Job {
    text: String,
    yaml: String,
    script: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

impl Job {
    fn of(run: &Run, args: &SubmitArgs, programs: &Programs) -> anyhow::Result<Self> {
        if run.cluster.slurm.container.is_some() {
            programs.rank_in_container()?
        } else {
            programs.rank()?
        };
        let work = std::env::current_dir().context("cannot find the working folder")?;
        // Beside what the run writes, where that is a folder; else where the command is typed.
        let folder = match local_folder(run.run.output.as_str()) {
            Some(output) => work.join(output).join("launch"),
            None => work.join("slurm").join(&run.run.name),
        };
        if folder.display().to_string().contains('\n') {
            return Err(
                Unusable("found a line break in the path of run.output; expected none in a batch job".into()).into()
            );
        }
        let yaml = run.to_yaml();
        let named =
            args.accept_changes.iter().fold(yaml.clone(), |text, key| format!("{text}# --accept-change {key}\n"));
        let hash: String = Sha256::digest(&named).iter().map(|byte| format!("{byte:02x}")).collect();
        let name = |ending: &str| folder.join(format!("job-{}.{ending}", &hash[..DIGITS]));
        let (config, script_path) = (name("yaml"), name("sbatch"));
        let (starter, accept_changes) = (args.launcher, args.accept_changes.as_slice());
        let places =
            Places { blip2: &programs.executable, config: &config, work: &work, log: &folder, starter, accept_changes };
        Ok(Self { text: script(run, places), yaml, script: script_path, config, log: folder })
    }

    #[expect(clippy::print_stdout, reason = "the command's answer")]
    fn show(&self, args: &SubmitArgs) -> anyhow::Result<()> {
        if args.json {
            return print_json(&serde_json::json!({
                "schema_version": 1, "script": self.script, "config": self.config, "text": self.text,
            }));
        }
        print!("{}", self.text);
        Ok(())
    }

    fn write(&self) -> anyhow::Result<()> {
        let write = |path: &Path, text: &str| {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        std::fs::create_dir_all(&self.log).with_context(|| format!("cannot make the folder {}", self.log.display()))?;
        write(&self.config, &self.yaml)?;
        write(&self.script, &self.text)
    }
}

/// A run has one job at a time: two would fight for the right to write.
fn refuse_a_second(run: &Run, state: Option<JobState>) -> anyhow::Result<()> {
    if let Some(state) = state.filter(|state| state.waits() || state.runs()) {
        bail!(Taken(format!(
            "{}: found job {} of this run in SLURM ({}); expected none. Wait for it, end it with `scancel {1}`, or give this \
             run another run.output",
            run.run.output.as_str(),
            state.job,
            state.state.as_deref().unwrap_or_default()
        )));
    }
    Ok(())
}

/// The id that sbatch gave, and the cluster where it names one.
fn submit(sbatch: &Path, script: &Path) -> anyhow::Result<(String, Option<String>)> {
    let output = Command::new(sbatch)
        .arg("--parsable")
        .arg(script)
        .output()
        .with_context(|| format!("cannot start {}", sbatch.display()))?;
    let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let (id, cluster) =
        answer.split_once(';').map_or((answer.as_str(), None), |(id, name)| (id, Some(name.to_owned())));
    if !output.status.success() || id.is_empty() {
        bail!(
            "sbatch refused {}: {}; expected a job. Check cluster.nodes, ranks_per_node, threads_per_rank and cluster.slurm \
             (partition, time_limit, extra) against what `sinfo` shows",
            script.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok((id.to_owned(), cluster))
}
