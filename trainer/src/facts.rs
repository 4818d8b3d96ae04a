//! What the bits of a run depend on besides its config: processor, libraries, threads. Ranks agree on it when they start, and
//! checkpoints keep it.

use std::collections::{BTreeMap, BTreeSet};

use cluster::{Collective, gather_texts};
use configs::{Reduction, Run};
use tch::Device;

use crate::TrainerError;
use crate::events::Events;
use crate::libraries::{self, torch_folder, torch_version};
use crate::precision::compute_kind;
use crate::shim;

/// Names and values.
pub type Facts = BTreeMap<String, String>;

/// The facts of this process.
///
/// # Errors
/// When libtorch does not answer.
pub fn facts(run: &Run, device: Device) -> Result<Facts, TrainerError> {
    let torch = torch_folder().map_or_else(|| "unknown".to_owned(), |folder| torch_version(&folder));
    let mut facts = shim::describe()?;
    facts.extend(
        [
            ("program_version", env!("CARGO_PKG_VERSION").to_owned()),
            ("libtorch", torch),
            ("device", libraries::device_model(device)),
            ("processor", processor()),
            ("threads_per_rank", tch::get_num_threads().to_string()),
            ("image_decoder", data_pipeline::image::jpeg_decoder().to_owned()),
            ("computes_in", format!("{:?}", compute_kind(run.model.qformer.dtype, device)).to_lowercase()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    Ok(facts)
}

/// The processor's name, as Linux tells it.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": ")).map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned())
}

/// Has all ranks compare their facts. With `reduction: all_reduce`, which promises no equal bits, a difference is only told.
///
/// # Errors
/// [`TrainerError::Unsupported`] where ranks differ, with both values.
pub fn agree(own: &Facts, reduction: Reduction, ranks: &dyn Collective, events: Events) -> Result<(), TrainerError> {
    let all = gather_texts(ranks, &serde_json::to_string(own)?)?;
    let all = all.iter().map(|text| Ok(serde_json::from_str(text)?)).collect::<Result<Vec<Facts>, TrainerError>>()?;
    let found = all.iter().enumerate().find_map(|(rank, facts)| {
        let difference = differences(&all[0], facts).into_iter().next()?;
        Some(format!("{} is {} on rank 0, {} on rank {rank}", difference.name, difference.before, difference.now))
    });
    match (found, reduction) {
        (None, _) => Ok(()),
        (Some(found), Reduction::AllReduce) => {
            events.message(format!("{found}: bits depend on which rank computes what"));
            Ok(())
        }
        (Some(found), Reduction::Exact) => Err(TrainerError::Unsupported {
            found,
            expected:
                "ranks alike, as the exact reduction promises bits that do not depend on who computes what; start \
                       them on machines of one kind, or take `cluster.reduction: all_reduce`"
                    .into(),
        }),
    }
}

/// What a resume says about facts that have changed since the checkpoint; nothing where all are the same.
pub fn changes(before: &Facts, now: &Facts) -> Option<String> {
    // A checkpoint of an older program knows less.
    let changed = differences(before, now).into_iter().filter(|it| it.before != UNKNOWN && it.now != UNKNOWN);
    let words = changed.map(|it| format!("{} was {}, is {}", it.name, it.before, it.now)).collect::<Vec<_>>();
    (!words.is_empty())
        .then(|| format!("{}: from here on, bits may differ from those of an undisturbed run", words.join("; ")))
}

struct Difference<'a> {
    name: &'a str,
    before: &'a str,
    now: &'a str,
}

/// The value of a fact that only the other side knows.
const UNKNOWN: &str = "unknown";

/// Facts whose values differ, in the order of their names.
fn differences<'a>(before: &'a Facts, now: &'a Facts) -> Vec<Difference<'a>> {
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let value = |facts: &'a Facts, name: &String| facts.get(name).map_or(UNKNOWN, String::as_str);
    let pairs = names.into_iter().map(|name| Difference { name, before: value(before, name), now: value(now, name) });
    pairs.filter(|it| it.before != it.now).collect()
}

#[cfg(test)]
mod tests {
    use cluster::{Single, Threads};

    use super::*;

    fn made_of(processor: &str) -> Facts {
        Facts::from([("processor".to_owned(), processor.to_owned()), ("libtorch".to_owned(), "2.11.0".to_owned())])
    }

    #[test]
    fn facts_name_what_bits_depend_on() {
        let run = configs::load_str("tiny.yaml", configs::preset("tiny").unwrap(), &configs::Overrides::default());
        let facts = facts(&run.unwrap(), Device::Cpu).unwrap();
        for name in ["libtorch", "processor", "cpu_capability", "mkl", "onednn", "mkl_reproducibility", "image_decoder"]
        {
            assert!(facts.get(name).is_some_and(|value| !value.is_empty()), "{name} in {facts:?}");
        }
        assert!(agree(&facts, Reduction::Exact, &Single, Events::Silent).is_ok());
    }

    #[test]
    fn ranks_on_other_machines_are_refused_where_bits_are_promised() {
        let outcome = |reduction: Reduction| {
            std::thread::scope(|scope| {
                let one = |ranks: Threads| {
                    let own = made_of(if ranks.rank() == 2 { "a younger one" } else { "an old one" });
                    scope.spawn(move || {
                        let outcome = agree(&own, reduction, &ranks, Events::Silent);
                        ranks.finish().unwrap();
                        outcome.map_err(|error| error.to_string())
                    })
                };
                let ranks: Vec<_> = Threads::world(3).into_iter().map(one).collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<Result<(), String>>>()
            })
        };
        // Every rank gives up, so that none waits for the others.
        for outcome in outcome(Reduction::Exact) {
            let error = outcome.unwrap_err();
            assert!(error.contains("processor is an old one on rank 0, a younger one on rank 2"), "{error}");
        }
        assert!(outcome(Reduction::AllReduce).iter().all(Result::is_ok));
    }

    #[test]
    fn a_fact_that_one_rank_lacks_is_a_difference() {
        let (more, less) = (made_of("x"), Facts::from([("processor".to_owned(), "x".to_owned())]));
        let found = differences(&more, &less);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name, found[0].before, found[0].now), ("libtorch", "2.11.0", UNKNOWN));
    }

    #[test]
    fn a_resume_says_what_has_changed() {
        assert_eq!(changes(&made_of("x"), &made_of("x")), None);
        let words = changes(&made_of("x"), &made_of("y")).unwrap();
        assert!(words.contains("processor was x, is y"), "{words}");
        // A checkpoint of an older program knows less.
        assert_eq!(changes(&Facts::new(), &made_of("y")), None);
    }
}
