//! What a checkpoint costs: how long training stands still, how long until it is committed, how long until it is read; in
//! turn with a copy of memory, and with the same bytes put and got through `object_store` by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::Single;
use configs::{Overrides, Reduction};
use data_pipeline::store::Location;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStoreExt, WriteMultipart};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::TrainerError;
use crate::checkpoint::{About, Committed, Holder, Lease, Retention, RunPrefix};
use crate::events::Events;
use crate::model::tensors::{Spec, Tensors};
use crate::session::kept::{Copied, segments_of};
use crate::session::saving::{Progress, Saving};
use crate::slices::SliceMap;
use crate::stage1::Stage1;
use crate::state::State;
use crate::storage::{AT_ONCE, PART};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// The preset whose stage 1 is saved.
    pub preset: String,
    /// Where; a folder that is empty, and is left so but for the log.
    pub uri: String,
    /// How often everything is measured.
    pub rounds: usize,
}

/// One round, in seconds.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
struct Round {
    memory_copy: f64,
    stall: f64,
    write: f64,
    plain_write: f64,
    read: f64,
    plain_read: f64,
}

/// Measures. The ratios are medians over rounds, in which ours and the plain way take turns in being first.
///
/// # Errors
/// A preset that is not known, and errors of the store.
pub fn measure(options: &Options) -> Result<Value, TrainerError> {
    let mut bench = Bench::new(options)?;
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        let round = bench.round(number)?;
        Events::Json.message(format!("round {}: {round:?}", number + 1));
        rounds.push(round);
    }
    let median = |of: &dyn Fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
    };
    let mb_per_s = |of: &dyn Fn(&Round) -> f64| bench.bytes as f64 / 1e6 / median(of);
    Ok(json!({
        "schema_version": 1, "task": "bench_checkpoint", "preset": options.preset, "store": bench.scheme(),
        "parameters": bench.state.num_parameters(), "bytes": bench.bytes, "rounds": rounds,
        "threads": tch::get_num_threads(),
        "stall_ratio": median(&|it| it.stall / it.memory_copy), "stall_s": median(&|it| it.stall),
        "write_ratio": median(&|it| it.plain_write / it.write), "write_mb_per_s": mb_per_s(&|it| it.write),
        "read_ratio": median(&|it| it.plain_read / it.read), "read_mb_per_s": mb_per_s(&|it| it.read),
    }))
}

struct Bench {
    uri: String,
    run: RunPrefix,
    lease: Arc<Lease>,
    state: State,
    saving: Saving,
    /// The sizes of the files that a checkpoint has, and memory of the same bytes.
    plain: Vec<Vec<u8>>,
    /// What a copy of memory copies, and where to.
    memory: [Vec<f32>; 2],
    bytes: u64,
    step: u64,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new(options: &Options) -> Result<Self, TrainerError> {
        let unknown = || TrainerError::Unsupported {
            found: format!("--preset {}", options.preset),
            expected: "a preset such as vitg_opt2.7b".into(),
        };
        let text = configs::preset(&options.preset).ok_or_else(unknown)?;
        let run = configs::load_str(&options.preset, text, &Overrides::none()).map_err(|_| unknown())?;
        let specs = Stage1::specs(&run.model)?;
        let state = drawn(&specs);
        let slices = SliceMap::new(&Single, 1, Reduction::Exact)?;
        let run = RunPrefix::open(&options.uri)?;
        let lease = Arc::new(run.take_over(Holder::default())?);
        let keep_all = Retention { keep_last: u64::MAX, ..Retention::default() };
        let mut saving = Saving::new(&run, keep_all, Events::Silent)?;
        saving.prepare(Copied::room(&state, &slices, [0, 1]));
        let (weights, moments) = (state.num_parameters() as usize, state.len() as usize);
        let plain = [weights, 2 * moments].map(|values| (0..4 * values).map(|at| (at % 251) as u8).collect()).into();
        let memory = [1.0, 2.0].map(|value| vec![value; weights + 2 * moments]);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(TrainerError::Runtime)?;
        let bytes = 4 * (weights + 2 * moments) as u64;
        Ok(Self { uri: options.uri.clone(), run, lease, state, saving, plain, memory, bytes, step: 0, runtime })
    }

    fn scheme(&self) -> &str {
        self.uri.split_once("://").map_or("path", |(scheme, _)| scheme)
    }

    fn round(&mut self, number: usize) -> Result<Round, TrainerError> {
        let mut round = Round::default();
        for turn in [number, number + 1] {
            if turn % 2 == 0 {
                (round.stall, round.write, round.read) = self.ours()?;
            } else {
                (round.memory_copy, round.plain_write, round.plain_read) = self.theirs()?;
            }
        }
        Ok(round)
    }

    /// A checkpoint, from the step that it stops to the commit, then back.
    fn ours(&mut self) -> Result<(f64, f64, f64), TrainerError> {
        self.step += 1;
        let about = About {
            stage_index: 1,
            stage: "representation".into(),
            step: self.step,
            flat_len: self.state.len() as usize,
            segments: segments_of(&self.state),
            ..About::default()
        };
        let slices = SliceMap::new(&Single, 1, Reduction::Exact)?;
        let began = Instant::now();
        let state = &self.state;
        self.saving.start(about, (Some(&self.lease), &Single), |room| room.copy(state, &slices))?;
        let stall = began.elapsed();
        let mut done: Option<Committed> = None;
        while done.is_none() {
            if self.saving.poll(|committed| done = Some(committed))? == Progress::Written {
                self.saving.commit(Some(&self.lease), &Single)?;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let write = began.elapsed();

        let began = Instant::now();
        let stored = self.run.newest(None)?.map(|found| found.stored);
        let stored = stored.ok_or_else(|| TrainerError::NoCheckpoint { uri: self.uri.clone() })?;
        let flat = stored.flat(0..stored.about().flat_len)?;
        let read = began.elapsed();
        let weights = Tensor::from_data_size(&flat.weights, &[self.state.len()], Kind::Float);
        assert!(weights.equal(&self.state.weights), "invariant: what is read is what was written");
        let folder = stored.uri();
        let folder = folder.strip_prefix(&self.run.uri()).unwrap_or(&folder).trim_start_matches('/').to_owned();
        self.lease.delete(&folder)?;
        Ok((stall.as_secs_f64(), write.as_secs_f64(), read.as_secs_f64()))
    }

    /// A copy of memory; the same bytes put and got, without sums, patience, manifest and log.
    fn theirs(&mut self) -> Result<(f64, f64, f64), TrainerError> {
        let [from, to] = &mut self.memory;
        let began = Instant::now();
        to.copy_from_slice(from);
        let memory_copy = began.elapsed();
        std::hint::black_box(&self.memory);

        let place = Location::parse(&self.uri)?;
        let name = |number: usize| place.child(&format!("plain/{number}"));
        let failed = |source| TrainerError::from(place.error("use", source));
        let began = Instant::now();
        self.runtime
            .block_on(async {
                for (number, bytes) in self.plain.iter().enumerate() {
                    let place = name(number);
                    let upload = place.store.put_multipart(&place.path).await?;
                    let mut parts = WriteMultipart::new_with_chunk_size(upload, PART as usize);
                    for part in bytes.chunks(PART as usize) {
                        parts.wait_for_capacity(AT_ONCE).await?;
                        parts.put(part.to_vec().into());
                    }
                    parts.finish().await?;
                }
                Ok(())
            })
            .map_err(failed)?;
        let write = began.elapsed();

        let began = Instant::now();
        self.runtime
            .block_on(async {
                for (number, bytes) in self.plain.iter().enumerate() {
                    let (place, size) = (&name(number), bytes.len() as u64);
                    let mut whole = vec![0; bytes.len()];
                    let get = |start: u64| async move {
                        let range = start..(start + PART).min(size);
                        Ok::<_, object_store::Error>((start as usize, place.store.get_range(&place.path, range).await?))
                    };
                    let mut parts = futures::stream::iter((0..size).step_by(PART as usize)).map(get).buffered(AT_ONCE);
                    while let Some((start, part)) = parts.try_next().await? {
                        whole[start..start + part.len()].copy_from_slice(&part);
                    }
                    std::hint::black_box(&whole);
                }
                Ok(())
            })
            .map_err(failed)?;
        let read = began.elapsed();
        self.runtime.block_on(async {
            for number in 0..self.plain.len() {
                name(number).delete().await?;
            }
            Ok::<_, TrainerError>(())
        })?;
        Ok((memory_copy.as_secs_f64(), write.as_secs_f64(), read.as_secs_f64()))
    }
}

/// A state of random numbers, moments too.
fn drawn(specs: &[Spec]) -> State {
    let mut state = State::new(specs, &Tensors::random(specs, 0, Device::Cpu), 1, 0..1, Device::Cpu);
    tch::no_grad(|| {
        _ = state.exp_avg.uniform_(-1.0, 1.0);
        _ = state.exp_avg_sq.uniform_(0.0, 1.0);
    });
    state
}
