//! What a run measured, beside what was planned for it.

use configs::Run;
use data_pipeline::store::Location;
use serde::Serialize;
use serde_json::Value;

use super::Plan;
use super::memory::Device;
use crate::data::block_on;
use crate::report::gather::Record;
use crate::source::local_folder;
use crate::status::Reader;

/// What a stage of a run measured. Errors are shares of what was measured: 0.1 where the plan said 10 % too much.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The median over all reports.
    pub images_per_s: Option<f64>,
    /// The plan's error.
    pub images_per_s_error: Option<f64>,
    /// The most memory that rank 0 has held so far, earlier stages included: its GPU's, or its own.
    pub peak_memory_bytes: Option<f64>,
    /// The plan's error.
    pub peak_memory_error: Option<f64>,
    /// Reports that this comes from.
    pub reports: usize,
}

/// Adds to every stage what the run measured of it, where there is something. A local folder is looked at; an object store only
/// where a person asks.
///
/// # Errors
/// A store that fails.
pub fn compare(run: &Run, plan: &mut Plan, ask_stores: bool) -> anyhow::Result<()> {
    let uri = run.run.output.as_str();
    let look = local_folder(uri).map_or(ask_stores, |folder| folder.join("metrics").is_dir());
    if !look {
        return Ok(());
    }
    let place = Location::parse(uri)?;
    let on_gpu = plan.gpu.is_some() || Device::of(run) == Device::Gpu;
    let history = block_on(Reader::new(&place).read(), "nothing was changed")?;
    // One process runs all stages, and keeps what an earlier one touched: peaks are those of all stages so far.
    let (mut planned_peak, mut measured_peak) = (0, None::<f64>);
    for stage in &mut plan.stages {
        // libtorch's allocator, which metrics ask, does not count the context.
        let counted = stage.peak_memory_bytes - stage.memory_bytes.get("cuda_context").copied().unwrap_or_default();
        planned_peak = counted.max(planned_peak);
        let records: Vec<&Record> = history.records.iter().filter(|record| record.stage == stage.name).collect();
        measured_peak = peak_of(&records, on_gpu).into_iter().chain(measured_peak).reduce(f64::max);
        // A run on processors says nothing of a plan for GPUs.
        let speed = stage.speed().filter(|_| !on_gpu || measured_peak.is_some());
        stage.measured = measured(&records, speed, (planned_peak as f64, measured_peak));
    }
    Ok(())
}

/// The most memory of rank 0 in bytes: its GPU's, or its own.
fn peak_of(records: &[&Record], on_gpu: bool) -> Option<f64> {
    let name = if on_gpu { "gpu_peak_mib" } else { "resident_mib" };
    let values = records.iter().filter_map(|record| record.values.get(name).and_then(Value::as_f64));
    values.reduce(f64::max).map(|mib| mib * f64::from(1 << 20))
}

/// `memory`: peaks as planned and as measured.
fn measured(records: &[&Record], planned_speed: Option<f64>, memory: (f64, Option<f64>)) -> Option<Comparison> {
    let mut speeds: Vec<f64> = records.iter().filter_map(|record| record.images_per_s).collect();
    if records.is_empty() {
        return None;
    }
    speeds.sort_by(f64::total_cmp);
    let images_per_s = speeds.get(speeds.len() / 2).copied();
    let (planned_memory, peak_memory_bytes) = memory;
    let error = |planned: f64, found: f64| planned / found - 1.0;
    Some(Comparison {
        images_per_s,
        images_per_s_error: planned_speed.zip(images_per_s).map(|(planned, found)| error(planned, found)),
        peak_memory_bytes,
        peak_memory_error: peak_memory_bytes.map(|found| error(planned_memory, found)),
        reports: records.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(images_per_s: Option<f64>, memory: &[(&str, f64)]) -> Record {
        let values = memory.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
        Record { stage: "representation".into(), images_per_s, values, ..Record::default() }
    }

    #[test]
    fn errors_are_shares_of_what_was_measured() {
        let records = [
            record(None, &[("resident_mib", 100.0)]),
            record(Some(10.0), &[("resident_mib", 200.0)]),
            record(Some(8.0), &[("resident_mib", 150.0)]),
            record(Some(1.0), &[]),
        ];
        let records: Vec<&Record> = records.iter().collect();
        let memory = (210.0 * f64::from(1 << 20), peak_of(&records, false));
        let found = measured(&records, Some(8.8), memory).unwrap();
        assert_eq!((found.images_per_s, found.reports), (Some(8.0), 4));
        assert!((found.images_per_s_error.unwrap() - 0.1).abs() < 1e-9);
        assert!((found.peak_memory_error.unwrap() - 0.05).abs() < 1e-9);
        assert_eq!(measured(&records, None, memory).unwrap().images_per_s_error, None);
        assert_eq!(measured(&[], Some(1.0), memory), None);
    }

    #[test]
    fn a_plan_for_gpus_is_compared_with_gpus() {
        let one = record(Some(1.0), &[("resident_mib", 100.0), ("gpu_peak_mib", 50.0)]);
        assert_eq!(peak_of(&[&one], true), Some(50.0 * f64::from(1 << 20)));
        assert_eq!(peak_of(&[&one], false), Some(100.0 * f64::from(1 << 20)));
        assert_eq!(peak_of(&[&record(None, &[("resident_mib", 1.0)])], true), None);
    }
}
