//! Writes a small run as training would, with a restart in the middle, for readers in other languages to look at.
//!
//! ```text
//! write_run OUTPUT       then: python tests/peers/read_run.py OUTPUT
//! ```
//!
//! Launch 1 does steps 0 to 5 of the first stage and commits after 4 updates; launch 2 goes on from there with other
//! losses and ends in the second stage. So each step has one right value: loss/total is 100 × stage + step, plus 0.5
//! where launch 2 wrote it. A tensor's values are 0, 1, 2 … plus the step.

use anyhow::Context;
use trainer::checkpoint::{About, Holder, NamedArray, Retention, RunPrefix, Segment, Snapshot};
use trainer::metrics::{MetricsWriter, Record, SessionStart, TensorBoard};

const STAGES: [&str; 2] = ["representation", "generative"];

fn main() -> anyhow::Result<()> {
    let output = std::env::args().nth(1).context("name the folder or URL to write to")?;
    let run = RunPrefix::open(&output)?;
    run.write_config("schema_version: 1\n")?;
    launch(&run, (1, 0), &[(1, 0..6)], 0.0)?;
    let found = run.latest(None)?.context("launch 1 committed nothing")?;
    let resumed = (found.about.stage_index, found.about.step);
    launch(&run, resumed, &[(1, found.about.step..8), (2, 0..4)], 0.5)
}

/// One launch from a place (stage, updates done) through steps of stages; commits after every fourth update.
fn launch(
    run: &RunPrefix,
    from: (usize, u64),
    steps: &[(usize, std::ops::Range<u64>)],
    shift: f64,
) -> anyhow::Result<()> {
    let lease = run.take_over(Holder { host: "example".into(), pid: std::process::id(), ..Holder::default() })?;
    let start = SessionStart::new(&lease.launch(), from.0, STAGES[from.0 - 1], from.1);
    let mut metrics = MetricsWriter::create(&run.uri(), start, TensorBoard::On)?;
    for (stage_index, range) in steps {
        for step in range.clone() {
            metrics.write(&record(*stage_index, step, shift))?;
            if (step + 1) % 4 == 0 {
                lease.commit(&state(*stage_index, step + 1))?;
                lease.retain(&Retention { keep_last: 2, ..Retention::default() })?;
            }
        }
        metrics.flush()?;
    }
    metrics.finish()?;
    anyhow::ensure!(metrics.take_warning().is_none(), "TensorBoard files could not be written");
    Ok(())
}

fn record(stage_index: usize, step: u64, shift: f64) -> Record {
    let total = (100 * stage_index as u64 + step) as f64 + shift;
    let losses = if stage_index == 1 { &["loss/itc", "loss/itm", "loss/itg"][..] } else { &["loss/lm"] };
    let others = ["loss/total", "lr", "images_per_s", "grad_norm"];
    let value = |name: &&str| (name.to_string(), if *name == "loss/total" { total } else { 0.25 });
    Record::new(stage_index, STAGES[stage_index - 1], step, losses.iter().chain(&others).map(value).collect())
}

fn state(stage_index: usize, step: u64) -> Snapshot {
    let array = |name: &str, shape: &[usize]| {
        let size = shape.iter().product::<usize>();
        let values = (0..size).map(|index| (index as u64 + step) as f32).collect();
        NamedArray { name: name.to_owned(), shape: shape.to_vec(), values }
    };
    let trainable =
        vec![array("query_tokens", &[1, 4, 8]), array("qformer.layernorm.weight", &[8]), array("temp", &[])];
    let mut segments = Vec::new();
    let mut offset = 0;
    for NamedArray { name, shape, values } in &trainable {
        segments.push(Segment { name: name.clone(), shape: shape.clone(), offset });
        offset += values.len();
    }
    let about = About {
        stage_index,
        stage: STAGES[stage_index - 1].to_owned(),
        step,
        seed: 42,
        samples_seen: step * 8,
        adamw_count: step,
        flat_len: offset,
        segments,
        ..About::default()
    };
    Snapshot { about, trainable, exp_avg: vec![0.5; offset], exp_avg_sq: vec![0.25; offset] }
}
