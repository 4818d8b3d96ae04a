//! What the launcher tells a rank in variables; docs/launching.md lists them.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cluster::Topology;
use trainer::activity::{Activity, Fault, FaultKind};
use trainer::checkpoint::{Claim, Holder, Rhythm};

use crate::control::{Address, Control};
use crate::process;
use crate::rank_log::RankLog;
use crate::signals::Leaving;

/// The variables.
pub struct Environment {
    /// `BLIP2_CONTROL`, `BLIP2_CONTROL_TOKEN` and `BLIP2_CONTROL_SILENCE_S`: the launcher.
    address: Option<Address>,
    /// `BLIP2_LOG_DIR` and `BLIP2_LOG_MAX_MB`: where this rank keeps its standard error.
    log: Option<(PathBuf, u64)>,
    /// `BLIP2_PREEMPT_SIGNALS` and `BLIP2_LEAVE_WITHIN_S`.
    pub leaving: Leaving,
    /// `BLIP2_TEST_FAULT`, of this rank and launch.
    pub fault: Option<Fault>,
    /// `SLURM_JOB_ID` and `SLURM_RESTART_COUNT`, or what the launcher hands on of them; `BLIP2_TEST_BOOT_ID` and
    /// `BLIP2_TEST_HEARTBEAT_MS`.
    pub claim: Claim,
}

impl Environment {
    /// Reads the variables of a rank.
    ///
    /// # Errors
    /// A value that cannot be read.
    pub fn read(rank: usize) -> Result<Self> {
        let text = |name: &str| env::var(name).ok().filter(|text| !text.is_empty());
        let number = |name: &str, default: u64| match text(name) {
            None => Ok(default),
            Some(text) => text.parse().with_context(|| format!("{name} is {text}; expected a whole number")),
        };
        let silence = Duration::from_secs(number("BLIP2_CONTROL_SILENCE_S", 300)?.max(1));
        let token = text("BLIP2_CONTROL_TOKEN").unwrap_or_default();
        let signals = text("BLIP2_PREEMPT_SIGNALS").unwrap_or_else(|| "USR1,TERM".to_owned());
        Ok(Self {
            address: text("BLIP2_CONTROL").map(|launcher| Address { launcher, token, silence }),
            log: match text("BLIP2_LOG_DIR") {
                Some(folder) => Some((folder.into(), number("BLIP2_LOG_MAX_MB", 64)? << 20)),
                None => None,
            },
            leaving: Leaving {
                signals: signals.split(',').filter(|name| *name != "none").map(str::to_owned).collect(),
                within: Duration::from_secs(number("BLIP2_LEAVE_WITHIN_S", 300)?),
            },
            fault: match text("BLIP2_TEST_FAULT") {
                Some(text) => planted(&text, rank, number("BLIP2_LAUNCH", 1)?)?,
                None => None,
            },
            claim: claim(&text)?,
        })
    }

    /// Leads standard error to the rank's log, and connects to the launcher, if there is one.
    ///
    /// # Errors
    /// A launcher that cannot be reached.
    pub fn connect(&self, topology: &Topology, activity: &Arc<Activity>) -> Result<Arc<Control>> {
        let Some(address) = &self.address else { return Ok(Control::alone(Arc::clone(activity))) };
        let opened = self.log.as_ref().map(|(folder, max_bytes)| RankLog::open(folder, topology.rank, *max_bytes));
        // Another host may lack the folder: a rank without a log is better than none.
        let (log, unusable) = match opened.transpose() {
            Ok(log) => (log, None),
            Err(error) => (None, Some(error)),
        };
        let control = Control::connect(address, topology, Arc::clone(activity), log)?;
        if let Some(error) = unusable {
            crate::print_error(&error.context("warning: this rank keeps no log"));
        }
        Ok(control)
    }
}

/// As whom this process takes a run over. In tests, the boot id of another machine, and `EVERY:SILENCE` in milliseconds.
fn claim(text: &dyn Fn(&str) -> Option<String>) -> Result<Claim> {
    let of_slurm = |name: &str| text(&format!("SLURM_{name}")).or_else(|| text(&format!("BLIP2_SLURM_{name}")));
    let mut holder = Holder { host: process::host(), slurm_job: of_slurm("JOB_ID"), ..Holder::this_process() };
    holder.restart_count = of_slurm("RESTART_COUNT").and_then(|count| count.parse().ok()).unwrap_or(0);
    if let Some(boot_id) = text("BLIP2_TEST_BOOT_ID") {
        holder.boot_id = boot_id;
    }
    let rhythm = match text("BLIP2_TEST_HEARTBEAT_MS") {
        None => Rhythm::default(),
        Some(text) => {
            let numbers =
                text.split_once(':').and_then(|(every, silence)| Some((every.parse().ok()?, silence.parse().ok()?)));
            let (every, silence) =
                numbers.with_context(|| format!("BLIP2_TEST_HEARTBEAT_MS is {text}; expected EVERY:SILENCE"))?;
            Rhythm { every: Duration::from_millis(every), silence: Duration::from_millis(silence) }
        }
    };
    Ok(Claim { holder, rhythm })
}

/// `KIND:RANK:STEPS[:LAUNCH]`: what goes wrong in a rank after so many steps of a launch, the first one when none is given;
/// of any launch when it is `all`. KIND is `panic`, `hang`, or `slow-` and the milliseconds that each further step takes more.
fn planted(text: &str, rank: usize, launch: u64) -> Result<Option<Fault>> {
    let parts: Vec<&str> = text.split(':').collect();
    let number = |at: usize| parts.get(at).and_then(|part| part.parse::<u64>().ok());
    let (Some(of_rank), Some(after_steps)) = (number(1), number(2)) else {
        bail!("BLIP2_TEST_FAULT is {text}; expected KIND:RANK:STEPS[:LAUNCH]")
    };
    let kind = match (parts[0], parts[0].strip_prefix("slow-").and_then(|ms| ms.parse().ok())) {
        ("panic", _) => FaultKind::Panic,
        ("hang", _) => FaultKind::Hang,
        (_, Some(ms)) => FaultKind::Slow(Duration::from_millis(ms)),
        (other, None) => bail!("BLIP2_TEST_FAULT begins with {other}; expected panic, hang or slow-MILLISECONDS"),
    };
    let in_launch = parts.get(3) == Some(&"all") || number(3).unwrap_or(1) == launch;
    Ok((of_rank == rank as u64 && in_launch).then_some(Fault { after_steps, kind }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_for_one_rank_and_launch() {
        let fault = Some(Fault { after_steps: 7, kind: FaultKind::Panic });
        assert_eq!(planted("panic:1:7", 1, 1).unwrap(), fault);
        assert_eq!(planted("panic:1:7", 0, 1).unwrap(), None);
        assert_eq!(planted("panic:1:7", 1, 2).unwrap(), None);
        assert_eq!(planted("panic:1:7:all", 1, 2).unwrap(), fault);
        let slow = FaultKind::Slow(Duration::from_millis(20));
        assert_eq!(planted("slow-20:0:1", 0, 1).unwrap().map(|fault| fault.kind), Some(slow));
        assert!(planted("burn:1:1", 1, 1).is_err() && planted("panic", 1, 1).is_err());
    }
}
