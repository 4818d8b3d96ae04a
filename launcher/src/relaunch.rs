//! A run from its first start of ranks to its end, with the starts that failures make necessary.

use std::time::{Duration, Instant};

use configs::Run;

use crate::corpus;
use crate::exit::{Interrupted, Preempted};
use crate::launch::NEXT;
use crate::ranks::{Guard, Hold, HostPolicy, Interrupts, Job, Log, Next, Outcome, Plan, RankFailure, Restarts};
use crate::source::local_folder;

/// Plans a start of the ranks, on the machines that are to be used.
pub type Planner<'a> = dyn Fn(&HostPolicy) -> anyhow::Result<Plan> + 'a;

/// How often signals are looked for between two starts.
const TICK: Duration = Duration::from_millis(50);

/// Writes absent corpora, ends ranks that an earlier launch left, and runs the plan until the run is done, starting ranks
/// again after failures as `cluster.restarts` says. Each start is planned anew, as machines may have to be left out.
///
/// # Errors
/// A run that another launcher holds, ranks that failed too often, an interruption, a request to leave.
#[expect(clippy::print_stderr, reason = "progress goes to standard error")]
pub fn start(run: &Run, plan: &Planner<'_>, interrupts: &Interrupts, log: Log) -> anyhow::Result<Outcome> {
    let (mut restarts, mut hosts) = (Restarts::new(&run.cluster.restarts), HostPolicy::new(&run.cluster.restarts));
    let mut next = plan(&hosts)?;
    let hold = local_folder(run.run.output.as_str()).map(|output| Hold::take(&output)).transpose()?;
    let mut guard = Guard::new(run, log)?;
    if hold.is_none() {
        eprintln!("logs of the ranks and records of failures are in {}", guard.folder.display());
    }
    if let Some(hold) = &hold {
        let ended = hold.end_ranks(&next.rank_program)?;
        if ended > 0 {
            eprintln!("ended {ended} ranks that an earlier launch of this run had left");
        }
    }
    corpus::ensure(run)?;
    loop {
        guard.host = next.address;
        let job = Job { plan: &next, interrupts, hold: hold.as_ref(), guard: Some(&guard), next: NEXT };
        let error = match job.run() {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        let Some(failure) = error.downcast_ref::<RankFailure>() else { return Err(error) };
        if let Some(host) = failure.culprit.as_ref().and_then(|culprit| culprit.host.as_deref()) {
            hosts.failed(host);
        }
        match restarts.after(&failure.end()) {
            Next::GiveUp(why) if guard.launch > 1 || failure.culprit.is_some() => {
                eprintln!("the ranks are not started again: {why}");
                return Err(error);
            }
            Next::GiveUp(_) => return Err(error),
            Next::Again { after, number } => {
                eprintln!(
                    "the ranks are started again in {} s, from the last checkpoint (start {number} of {} without progress)",
                    after.as_secs(),
                    restarts.max()
                );
                wait(after, interrupts)?;
            }
        }
        next = plan(&hosts)?;
        // A run that began anew goes on from then.
        next.arguments.retain(|argument| argument != "--fresh");
        guard.launch += 1;
    }
}

fn wait(time: Duration, interrupts: &Interrupts) -> anyhow::Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        if interrupts.count() > 0 {
            return Err(Interrupted(NEXT).into());
        }
        if interrupts.leaves() > 0 {
            return Err(Preempted(NEXT).into());
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}
