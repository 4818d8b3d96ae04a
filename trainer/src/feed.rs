//! Batches for one stage, and the list of samples that could not be used.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use cluster::{Collective, gather_texts};
use configs::{GenerativeText, Resize, Run, Stage};
use data_pipeline::augment::TrainTransform;
use data_pipeline::caption::Cleaner;
use data_pipeline::image::{DecodeLimits, Resampling};
use data_pipeline::loader::{Batch, Loader, LoaderSettings, SourceLedger};
use data_pipeline::order::Layout;
use data_pipeline::store::Location;
use serde_json::{Value, json};

use crate::TrainerError;
use crate::activity::{Activity, Phase};
use crate::segment_file::SegmentFile;
use crate::session::{Session, StagePosition};
use crate::sources::Sources;

/// Where in a checkpoint's record of outside decisions the data's counts stand.
const LEDGER: &str = "data";

/// The loader of a stage's own slices, with its records.
pub struct Feed {
    loader: Loader,
    activity: Arc<Activity>,
    stage: String,
    names: Vec<String>,
    /// What counts as delivered while slices are read ahead; all that was delivered otherwise.
    held: Option<Vec<SourceLedger>>,
    /// Counts of all ranks before this launch; on rank 0.
    before: Vec<SourceLedger>,
    output: Location,
    list: String,
    quarantine: Option<SegmentFile>,
    /// Lines for it that are not written yet.
    unlisted: String,
}

/// What all ranks together were given of one source in this stage.
pub struct SourceTotal {
    /// The source.
    pub name: String,
    /// What was delivered and skipped.
    pub ledger: SourceLedger,
    /// Different rows among those that were drawn.
    pub distinct: u64,
}

impl Feed {
    /// Starts reading a stage at one of its steps, for some of its slices.
    ///
    /// # Errors
    /// When the settings do not fit the shards.
    pub fn start(
        run: &Run,
        at: &StagePosition<'_>,
        sources: &Sources,
        slices: Range<usize>,
        session: &Session<'_>,
    ) -> Result<Self, TrainerError> {
        let seed = run.run.seed.wrapping_add(at.index as u64);
        let output = Location::parse(run.run.output.as_str())?;
        let list = format!("quarantine/rank-{:04}.jsonl", session.ranks.rank());
        let settings =
            LoaderSettings { quarantine: Some(output.child(&list).uri().into()), ..settings(run, at.stage, seed) };
        let slices = slices.start as u64..slices.end as u64;
        let loader = Loader::start(sources.list.clone(), settings, sources.lost.clone(), at.step, slices)?;
        let names: Vec<String> = sources.list.iter().map(|source| source.name.clone()).collect();
        let known: BTreeMap<String, SourceLedger> =
            serde_json::from_value(session.restored()[LEDGER].clone()).unwrap_or_default();
        let before = names.iter().map(|name| known.get(name).cloned().unwrap_or_default()).collect();
        let activity = Arc::clone(&session.activity);
        activity.read_from(loader.awaited());
        Ok(Self {
            loader,
            activity,
            stage: at.stage.name().into(),
            names,
            held: None,
            before,
            output,
            list,
            quarantine: None,
            unlisted: String::new(),
        })
    }

    /// The next own slice. Samples that had to be replaced are written to the run's list.
    ///
    /// # Errors
    /// What stopped the data, or when the list cannot be written.
    pub fn next_batch(&mut self) -> Result<Batch, TrainerError> {
        self.activity.enter(Phase::DataWait);
        let batch = self.loader.next_batch();
        self.activity.enter(Phase::Step);
        let batch = batch?;
        for skipped in &batch.skipped {
            let line = json!({ "stage": self.stage, "step": batch.step + 1, "slice": batch.slice,
                "source": self.names[skipped.source], "place": skipped.place, "reason": skipped.reason });
            self.unlisted += &format!("{line}\n");
        }
        if self.held.is_none() {
            self.list_replaced()?;
        }
        Ok(batch)
    }

    /// Writes to the run's list what had to be replaced.
    fn list_replaced(&mut self) -> Result<(), TrainerError> {
        if self.unlisted.is_empty() {
            return Ok(());
        }
        let file = match &mut self.quarantine {
            Some(file) => file,
            none => none.insert(SegmentFile::create(&self.output, &self.list)?),
        };
        file.append(std::mem::take(&mut self.unlisted).as_bytes());
        match file.flush() {
            Err(error) if !SegmentFile::may_heal(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether this rank was asked to leave after the present step.
    pub fn is_to_leave(&self) -> bool {
        self.activity.is_to_leave()
    }

    /// How long this rank's decode threads have worked since this was asked last, added up over them.
    pub fn take_decode_time(&self) -> Duration {
        self.loader.take_decode_time()
    }

    /// What is delivered from here on does not count yet, and is not listed.
    pub fn hold_counts(&mut self) {
        self.held = Some(self.loader.ledger().sources.clone());
    }

    /// All that was delivered counts, and is listed.
    ///
    /// # Errors
    /// When the list of replaced samples cannot be written.
    pub fn count_all(&mut self) -> Result<(), TrainerError> {
        self.held = None;
        self.list_replaced()
    }

    /// What all ranks were given up to a step of the stage. Every rank takes part.
    ///
    /// # Errors
    /// When ranks cannot talk.
    pub fn totals(&self, ranks: &dyn Collective, step: u64) -> Result<Vec<SourceTotal>, TrainerError> {
        let own = serde_json::to_string(self.held.as_ref().unwrap_or(&self.loader.ledger().sources))?;
        let mut totals = self.before.clone();
        for text in gather_texts(ranks, &own)? {
            let of_rank: Vec<SourceLedger> = serde_json::from_str(&text)?;
            totals.iter_mut().zip(&of_rank).for_each(|(total, own)| total.add(own));
        }
        let drawn = self.loader.drawn_before(step);
        let all = self.names.iter().zip(totals).zip(drawn);
        Ok(all.map(|((name, ledger), (_, distinct))| SourceTotal { name: name.clone(), ledger, distinct }).collect())
    }
}

/// Names and values for metrics.
pub fn metrics(totals: &[SourceTotal]) -> Vec<(String, f64)> {
    let mut values = Vec::new();
    for SourceTotal { name, ledger, distinct } in totals {
        let mut add = |what: &str, value: u64| values.push((format!("data/{name}/{what}"), value as f64));
        add("seen", ledger.seen);
        add("distinct", *distinct);
        add("bytes", ledger.bytes);
        add("skipped", ledger.num_skipped());
        for (reason, count) in &ledger.skipped {
            add(&format!("skipped/{reason}"), *count);
        }
    }
    values
}

/// Adds the counts to a checkpoint's record.
pub fn keep(totals: &[SourceTotal], record: &mut Value) {
    let by_name: BTreeMap<&String, &SourceLedger> = totals.iter().map(|total| (&total.name, &total.ledger)).collect();
    record[LEDGER] = json!(by_name);
}

/// What the config says of loading.
pub fn settings(run: &Run, stage: &Stage, seed: u64) -> LoaderSettings {
    let data = &run.data;
    let resampling = match data.loader.resize {
        Resize::PillowExact => Resampling::PillowExact,
        Resize::Fast => Resampling::Fast,
        Resize::Scaled => Resampling::Scaled,
    };
    let asks = matches!(stage, Stage::Generative(stage) if stage.text == GenerativeText::QuestionAnswer);
    LoaderSettings {
        layout: Layout {
            seed,
            lanes: data.lanes as u64,
            window_row_groups: data.shuffle_window_row_groups as u64,
            global_batch: stage.global_batch() as u64,
        },
        slices: stage.slices() as u64,
        transform: TrainTransform {
            resampling,
            scale: data.augment.scale,
            aspect: data.augment.aspect,
            flip: data.augment.flip,
            ..TrainTransform::reference(data.image_size as u32)
        },
        captions: Cleaner::default(),
        asks,
        limits: DecodeLimits { max_pixels: data.loader.max_image_pixels, ..DecodeLimits::default() },
        decode_threads: data.loader.decode_threads,
        memory_bytes: data.loader.memory_mb << 20,
        max_bad_fraction: data.loader.max_bad_fraction,
        quarantine: None,
    }
}
