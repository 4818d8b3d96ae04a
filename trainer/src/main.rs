//! One rank. People type `blip2`; it starts this program, under mpirun or srun when there are several ranks.

mod arguments;
mod control;
mod environment;
mod failure;
mod process;
mod rank_log;
mod signals;

use std::env;
use std::io::{self, Write};
use std::panic;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arguments::{
    Arguments, BenchCheckpointArguments, BenchStepArguments, CapfiltCommand, CaptionArguments, CheckpointsCommand,
    Command, ConfigArguments, DoctorArguments, DoctorPart, EvalCommand, ExportFormat, NamedConfig, ProgressFormat,
    ShardArguments, TrainArguments, WeightsCommand,
};
use clap::Parser;
use cluster::{ClusterError, Collective, Observed, Threads, Topology};
use control::Control;
use environment::Environment;
use serde_json::Value;
use tch::Device;
use trainer::TrainerError;
use trainer::activity::{Activity, Phase};
use trainer::capfilt;
use trainer::checkpoint::{Claim, overview};
use trainer::device;
use trainer::doctor;
use trainer::eval;
use trainer::events::{Event, Events};
use trainer::libraries::{self, CudaLibrary};
use trainer::self_check::{Candidates, self_check};
use trainer::session::{Launch, Rank};

/// Exit code for an error; the table of all codes is in docs/exit-codes.md.
const ERROR: u8 = 1;
/// What a look of `doctor` may take beyond the time that it is given.
const DOCTOR_GRACE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    // Before anything else: once libtorch has looked for its CUDA part in vain, it never looks again.
    let cuda = libraries::load_cuda();
    let arguments = Arguments::parse();
    if let Err(error) = trainer::shim::be_deterministic() {
        print_error(&error.into());
        return ExitCode::from(ERROR);
    }
    let job = match Job::join(&arguments.command) {
        Ok(job) => job,
        Err(error) => {
            print_error(&error);
            return ExitCode::from(ERROR);
        }
    };
    match job.run(arguments.command, cuda) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::from(failure::code_of(&error))
        }
    }
}

/// The job that this rank belongs to.
struct Job {
    topology: Topology,
    ranks: Arc<dyn Collective>,
    mpi_pieces: Vec<PathBuf>,
    activity: Arc<Activity>,
    control: Arc<Control>,
    claim: Claim,
}

impl Job {
    /// Joins the other ranks. The launcher hears of this one before, so that it can tell who did not get so far.
    fn join(command: &Command) -> Result<Self> {
        let topology = Topology::from_environment()?;
        let environment = Environment::read(topology.rank)?;
        let activity = Arc::new(Activity::with_fault(environment.fault));
        let control = environment.connect(&topology, &activity)?;
        report_panics(Arc::clone(&control));
        if matches!(command, Command::Train(_)) {
            let is_alone = topology.world_size == 1;
            signals::watch(environment.leaving, Arc::clone(&activity), Arc::clone(&control), is_alone)?;
        }
        activity.enter(Phase::Joining);
        let configured = env::var_os("BLIP2_MPI_LIBRARY").map(PathBuf::from);
        let executable = env::current_exe().context("cannot find the path of this program")?;
        let mpi_pieces = cluster::piece_candidates(configured.as_deref(), Some(&executable));
        let ranks = cluster::connect(&topology, &mpi_pieces)
            .inspect_err(|error| control.failed(&error.to_string(), ERROR, false, true))?;
        control.joined(Arc::clone(&ranks));
        Ok(Job { topology, ranks, mpi_pieces, activity, control, claim: environment.claim })
    }

    /// Runs the command. An error ends the whole job, as the other ranks may be waiting for this one.
    fn run(self, command: Command, cuda: CudaLibrary) -> Result<()> {
        let outcome = self.execute(command, cuda);
        let outcome = match outcome {
            Err(error) if failure::is_preempted(&error) => self.ranks.finish().map_err(Into::into).and(Err(error)),
            Err(error) => Err(error),
            Ok(()) => Ok(self.ranks.finish()?),
        };
        match &outcome {
            Ok(()) => self.control.bye(0),
            Err(error) if failure::is_preempted(error) => self.control.bye(failure::PREEMPTED),
            Err(error) => {
                let code = failure::code_of(error);
                self.control.failed(&failure::text(error), code, false, failure::may_go_better(error));
                if self.ranks.world_size() > 1 {
                    print_error(error);
                    self.ranks.abort(i32::from(code));
                }
            }
        }
        outcome
    }

    fn execute(&self, command: Command, cuda: CudaLibrary) -> Result<()> {
        match command {
            Command::SelfCheck { json, nccl, panic_on_rank } => {
                assert!(panic_on_rank != Some(self.ranks.rank()), "--panic-on-rank names this rank");
                let candidates = Candidates { mpi_pieces: self.mpi_pieces.clone(), nccl };
                let report = self_check(&self.topology, self.ranks.as_ref(), cuda, &candidates)?;
                let text = if json { serde_json::to_string(&report)? + "\n" } else { report.text() };
                if self.ranks.rank() == 0 {
                    io::stdout().write_all(text.as_bytes()).context("cannot write the report")?;
                }
                Ok(())
            }
            Command::Train(arguments) => self.train(&arguments),
            Command::Eval(command) => evaluate(&command, self.ranks.as_ref()),
            Command::Caption(arguments) => caption(&arguments),
            Command::Capfilt(command) => self.capfilt(&command),
            Command::Checkpoints(command) => checkpoints(command, &self.claim),
            Command::Weights(command) => weights(command),
            Command::BenchStep(arguments) => bench_step(&arguments, self.ranks.as_ref()),
            Command::BenchCheckpoint(BenchCheckpointArguments { uri, preset, rounds }) => {
                let options = trainer::bench::checkpoint::Options { preset, uri, rounds };
                answer(trainer::bench::checkpoint::measure(&options)?)
            }
            Command::Doctor(arguments) => self.doctor(&arguments),
        }
    }

    fn doctor(&self, arguments: &DoctorArguments) -> Result<()> {
        // A look that hangs must not outlive who asked for it.
        let (limit, ranks) = (Duration::from_secs(arguments.within) + DOCTOR_GRACE, Arc::clone(&self.ranks));
        std::thread::spawn(move || {
            std::thread::sleep(limit);
            ranks.abort(i32::from(ERROR));
        });
        let run = arguments.config.load()?;
        let within = Duration::from_secs(arguments.within);
        let alone = |part| Ok(doctor::look(&run, part, within, &self.claim));
        let checks = match arguments.part {
            DoctorPart::Space => alone(doctor::Part::Space),
            DoctorPart::Weights => alone(doctor::Part::Weights),
            DoctorPart::Tokenizers => alone(doctor::Part::Tokenizers),
            DoctorPart::Step => alone(doctor::Part::Step),
            DoctorPart::Checkpoint => alone(doctor::Part::Checkpoint),
            DoctorPart::Ranks => {
                let (launcher, local_rank) = (arguments.meet.as_deref(), self.topology.local_rank);
                let meeting = doctor::Meeting { launcher, local_rank, host: &process::host() };
                doctor::ranks(&run, &self.ranks, meeting)
            }
        }?;
        match self.ranks.rank() {
            0 => answer(serde_json::json!({ "schema_version": 1, "task": "doctor", "checks": checks })),
            _ => Ok(()),
        }
    }

    fn capfilt(&self, command: &CapfiltCommand) -> Result<()> {
        let (CapfiltCommand::Caption { shards, .. } | CapfiltCommand::Filter { shards, .. }) = command;
        let ShardArguments { source, out, limit_shards, threads, exit_on_stdin_eof } = shards;
        let (rank, ranks) = (self.ranks.rank(), self.ranks.as_ref());
        write_pid(rank)?;
        if *exit_on_stdin_eof && rank == 0 {
            watch_stdin(Arc::clone(&self.ranks));
        }
        tch::set_num_threads(i32::try_from(*threads).unwrap_or(i32::MAX));
        let (source, out) = (source.clone(), out.clone());
        let request = capfilt::Request { source, out, limit_shards: *limit_shards, threads: *threads };
        let events = if rank == 0 { Events::Json } else { Events::Silent };
        let result = match command {
            CapfiltCommand::Caption { checkpoint, stage, decoding, .. } => {
                let expected = || format!("found --decoding {decoding}; expected the options of `blip2 caption`");
                let decoding = serde_json::from_str(decoding).with_context(expected)?;
                capfilt::caption((checkpoint, stage.as_deref()), &decoding, &request, ranks, events)?
            }
            CapfiltCommand::Filter { scorer, stage, by_match, top, min_similarity, .. } => {
                let (model, stage) = (scorer.clone(), stage.clone());
                let scorer = capfilt::ScorerRequest { model, stage, by_match: *by_match };
                capfilt::filter(&scorer, (*top, *min_similarity), &request, ranks, events)?
            }
        };
        events.send(&Event::Result { result });
        events.send(&Event::Done);
        Ok(())
    }

    fn train(&self, arguments: &TrainArguments) -> Result<()> {
        let run = arguments.config.load()?;
        let rank = self.ranks.rank();
        write_pid(rank)?;
        // A launcher that ranks report to is missed sooner so.
        if arguments.exit_on_stdin_eof && rank == 0 && !self.control.has_launcher() {
            watch_stdin(Arc::clone(&self.ranks));
        }
        Observed::new(self.ranks.as_ref(), &self.activity.calls).barrier()?;
        let activity = Arc::clone(&self.activity);
        tch::set_num_threads(i32::try_from(run.cluster.threads_per_rank).unwrap_or(i32::MAX));
        let json = rank == 0 && arguments.progress == ProgressFormat::Json;
        let events = if json { Events::Json } else { Events::Silent };
        let device = device::of_training(&run, self.topology.local_rank)?;
        let accept_changes = arguments.accept_changes.clone();
        let launch = &Launch { claim: self.claim.clone(), accept_changes, fresh: arguments.fresh };
        match arguments.threads {
            None if run.cluster.backend == configs::Backend::Nccl && self.ranks.world_size() > 1 => {
                let gpus = libraries::connect_gpus(Arc::clone(&self.ranks), self.topology.local_rank)?;
                let ranks = &Observed::new(gpus.as_ref(), &self.activity.calls);
                let outcome = trainer::train::train(&run, Rank { ranks, device, events, activity, launch });
                if outcome.is_err() {
                    // NCCL would wait for the other ranks while it is taken down; the job is ended instead.
                    std::mem::forget(gpus);
                }
                Ok(outcome?)
            }
            None => {
                let ranks = &Observed::new(self.ranks.as_ref(), &self.activity.calls);
                Ok(trainer::train::train(&run, Rank { ranks, device, events, activity, launch })?)
            }
            Some(threads) if self.ranks.world_size() == 1 => {
                train_on_threads(&run, threads as usize, device, events, launch)
            }
            Some(_) => anyhow::bail!("--threads makes ranks inside one process; start one process, without mpirun"),
        }
    }
}

/// Trains with ranks that are threads and share one device. The first error is the answer; the ranks that waited for its rank only say so.
fn train_on_threads(run: &configs::Run, threads: usize, device: Device, events: Events, launch: &Launch) -> Result<()> {
    std::thread::scope(|scope| {
        let train = |ranks: Threads| {
            move || {
                let events = if ranks.rank() == 0 { events } else { Events::Silent };
                let activity = Arc::new(Activity::default());
                let observed = &Observed::new(&ranks, &activity.calls);
                let activity = Arc::clone(&activity);
                trainer::train::train(run, Rank { ranks: observed, device, events, activity, launch })?;
                Ok::<(), anyhow::Error>(ranks.finish()?)
            }
        };
        let ranks: Vec<_> = Threads::world(threads).into_iter().map(|ranks| scope.spawn(train(ranks))).collect();
        let joined = ranks.into_iter().map(|rank| rank.join().unwrap_or_else(|panic| panic::resume_unwind(panic)));
        let outcomes: Vec<Result<()>> = joined.collect();
        let (ended, first): (Vec<_>, Vec<_>) = outcomes.into_iter().filter_map(Result::err).partition(is_ended);
        first.into_iter().chain(ended).next().map_or(Ok(()), Err)
    })
}

fn is_ended(error: &anyhow::Error) -> bool {
    let ended = |error: &ClusterError| matches!(error, ClusterError::Ended { .. });
    match error.downcast_ref() {
        Some(TrainerError::Cluster(error)) => ended(error),
        _ => error.downcast_ref().is_some_and(ended),
    }
}

fn bench_step(arguments: &BenchStepArguments, ranks: &dyn Collective) -> Result<()> {
    tch::set_num_threads(arguments.threads);
    let options = bench_options(arguments, ranks.world_size())?;
    let report = match arguments.count_traffic {
        true => trainer::bench::traffic(&options, &[2, 4, 8])?,
        false => trainer::bench::steps(&options, ranks)?,
    };
    if ranks.rank() == 0 {
        writeln!(io::stdout(), "{report}").context("cannot write the report")?;
    }
    Ok(())
}

/// What `bench-step` was asked for: the sizes of a preset, or of a run.
fn bench_options(arguments: &BenchStepArguments, world_size: usize) -> Result<trainer::bench::Options> {
    let (stage, slices) = (usize::from(arguments.stage), arguments.slices.unwrap_or(world_size));
    let sizes = match &arguments.run {
        Some(file) => {
            let config = ConfigArguments { config: file.clone(), set: arguments.set.clone() };
            trainer::bench::Options::of_run(file, config.load()?, stage)?
        }
        None => trainer::bench::Options {
            preset: arguments.preset.clone(),
            dtype: arguments.dtype.clone(),
            attention: arguments.attention.clone(),
            dropout: [arguments.dropout, arguments.lm_dropout],
            text_tokens: arguments.text_tokens,
            recompute: arguments.recompute,
            ..trainer::bench::Options::of_mid(stage)
        },
    };
    Ok(trainer::bench::Options {
        device: if arguments.device == "cuda" { device::gpu(0)? } else { Device::Cpu },
        batch: arguments.batch.unwrap_or(if arguments.run.is_some() { sizes.batch * slices } else { 8 }),
        slices,
        steps: [arguments.steps, arguments.warmup],
        fixed_text: arguments.fixed_text,
        pad_to_limit: arguments.pad_to_limit,
        project_once: !arguments.project_each_use,
        compare_reductions: arguments.compare_reductions,
        phases: arguments.phases,
        trace: arguments.trace.clone(),
        ..sizes
    })
}

fn evaluate(command: &EvalCommand, ranks: &dyn Collective) -> Result<()> {
    let result = match command {
        EvalCommand::Retrieval { arguments, candidates } => {
            eval::retrieval(&arguments.request()?, *candidates, ranks, Events::Json)?
        }
        EvalCommand::Caption(arguments) => eval::captions(&arguments.request()?, ranks, Events::Json)?,
        EvalCommand::Vqa(arguments) => eval::answers(&arguments.request()?, ranks, Events::Json)?,
    };
    if ranks.rank() == 0 { answer(result) } else { Ok(()) }
}

fn caption(arguments: &CaptionArguments) -> Result<()> {
    let read = |path: &PathBuf| {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        anyhow::Ok((path.display().to_string(), bytes))
    };
    let files = arguments.images.iter().map(read).collect::<Result<Vec<_>>>()?;
    let options = serde_json::from_str(&arguments.decoding)
        .with_context(|| format!("found --decoding {}; expected the options of `blip2 caption`", arguments.decoding))?;
    let captions = eval::caption_files(&arguments.checkpoint, files, &options, Events::Json)?;
    let pairs = arguments.images.iter().zip(captions);
    let images: Vec<_> = pairs
        .map(|(path, texts)| {
            serde_json::json!({ "image": path.display().to_string(), "caption": texts[0], "captions": texts })
        })
        .collect();
    let result = serde_json::json!({ "schema_version": 1, "task": "describe", "images": images });
    answer(result)
}

fn checkpoints(command: CheckpointsCommand, claim: &Claim) -> Result<()> {
    let result = match command {
        CheckpointsCommand::List { uri } => overview::list(&uri)?,
        CheckpointsCommand::Show { uri } => overview::show(&uri)?,
        CheckpointsCommand::Verify { uri, all } => overview::verify(&uri, all, Events::Json)?,
        CheckpointsCommand::Prune { uri, keep_last, keep_every_steps, keep_best, quarantined, dry_run } => {
            let keep = overview::Keep { last: keep_last, every_steps: keep_every_steps, best: keep_best };
            let prune = overview::Prune { keep, quarantined, dry_run };
            overview::prune(&uri, &prune, claim, Events::Json)?
        }
    };
    answer(result)
}

/// Hands a command's result to the launcher.
fn answer(result: Value) -> Result<()> {
    Events::Json.send(&Event::Result { result });
    Events::Json.send(&Event::Done);
    Ok(())
}

fn weights(command: WeightsCommand) -> Result<()> {
    let result = match command {
        WeightsCommand::Inspect { uri } => trainer::weights::inspect(&uri)?,
        WeightsCommand::Verify { uri, config } => trainer::weights::verify(&uri, &config.load()?)?,
        WeightsCommand::Import { uri, config, output } => trainer::weights::import(&uri, &config.load()?, &output)?,
        WeightsCommand::Export { uri, config, set, format, output } => {
            let run = config.map(|config| NamedConfig { config, set }.load()).transpose()?;
            let format = match format {
                ExportFormat::HuggingFace => trainer::weights::Format::HuggingFace,
                ExportFormat::Lavis => trainer::weights::Format::Lavis,
            };
            trainer::weights::export(&uri, run.as_ref(), format, &output)?
        }
    };
    answer(result)
}

/// Ends the job when the launcher, which holds the other end of standard input, is gone.
fn watch_stdin(ranks: Arc<dyn Collective>) {
    std::thread::spawn(move || {
        let _end = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _closed = writeln!(io::stderr(), "the launcher is gone: ending the job");
        ranks.abort(i32::from(ERROR));
    });
}

/// Notes this process in the folder that the launcher names, so that a later launch can end it if it outlives its own.
fn write_pid(rank: usize) -> Result<()> {
    let Some(folder) = env::var_os("BLIP2_PID_DIR").map(PathBuf::from) else { return Ok(()) };
    let note = serde_json::json!({ "pid": std::process::id(), "start_ticks": trainer::checkpoint::start_ticks(std::process::id()) });
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(format!("rank-{rank}.pid"));
    std::fs::write(&path, note.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

/// A rank that panics ends the job: unwinding would leave the other ranks waiting for it for ever.
fn report_panics(control: Arc<Control>) {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        print(panic);
        let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
        let message = panic.payload_as_str().unwrap_or("without a message");
        control.failed(&format!("panicked{place}: {message}"), ERROR, true, true);
        control.end_job(ERROR);
    }));
}

/// Prints the chain of causes. A closed stderr is no reason to fail again.
fn print_error(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "error: {error:#}");
}
