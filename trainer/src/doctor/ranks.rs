//! What ranks find together: whether they meet, how far their clocks are apart, and how fast bytes go between them.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cluster::{Collective, gather_texts};
use configs::{Backend, Run};

use super::{Finding, text};
use crate::error::Result;
use crate::libraries;
use crate::self_check::sum_over_ranks;

/// Bytes of each rank in an exchange that is timed.
const BYTES: usize = 8 << 20;
/// Exchanges; the fastest counts, as the first ones set up connections.
const EXCHANGES: usize = 4;
/// Time to reach the launcher.
const REACH: Duration = Duration::from_secs(5);
/// Clocks further apart are worth a warning, in seconds: nothing in a run compares them, people who read logs do.
const CLOCKS: f64 = 2.0;
/// GB/s between ranks below which every step waits: 1 Gbit/s.
const SLOW: f64 = 0.125;

/// How ranks come together.
#[derive(Clone, Copy, Debug)]
pub struct Meeting<'a> {
    /// Where the launcher listens, as ADDRESS:PORT; none where nobody does.
    pub launcher: Option<&'a str>,
    /// This rank on its host.
    pub local_rank: usize,
    /// This host.
    pub host: &'a str,
}

/// Looks at all of it; every rank calls this, and each has the findings of all.
///
/// # Errors
/// Ranks that cannot talk.
pub fn ranks(run: &Run, control: &Arc<dyn Collective>, meeting: Meeting<'_>) -> Result<Vec<Finding>> {
    sum_over_ranks(control.as_ref())?;
    let world = control.world_size();
    let mut hosts = gather_texts(control.as_ref(), meeting.host)?;
    hosts.sort();
    hosts.dedup();
    let met = format!("{world} ranks on {} hosts met over {} and added right", hosts.len(), control.name());
    let mut findings = vec![Finding::ok("ranks", met, "as many ranks as the config has, and a right sum")];
    findings.extend(reached(control.as_ref(), meeting)?);
    findings.push(clocks(control.as_ref(), hosts.len())?);
    findings.push(match (run.cluster.backend, world) {
        (_, 1) => Finding::skipped("bandwidth", "one rank talks to nobody"),
        (Backend::Nccl, _) => match libraries::connect_gpus(Arc::clone(control), meeting.local_rank) {
            Ok(gpus) => bandwidth(gpus.as_ref())?,
            Err(error) => {
                let fix = "see that NCCL loads (`nccl` above), that each rank has a GPU, and NCCL_DEBUG=INFO for \
                     its own words; \
                           NCCL_SOCKET_IFNAME names the network to use";
                Finding::failure("bandwidth", [text(&error), "NCCL between all ranks".into(), fix.into()])
            }
        },
        _ => bandwidth(control.as_ref())?,
    });
    Ok(findings)
}

/// Whether every rank reaches the port that the launcher listens at.
fn reached(ranks: &dyn Collective, meeting: Meeting<'_>) -> Result<Option<Finding>> {
    let Some(launcher) = meeting.launcher else { return Ok(None) };
    let own = match launcher.parse::<SocketAddr>() {
        Ok(address) => TcpStream::connect_timeout(&address, REACH).map(drop).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let own = own.err().map_or_else(String::new, |why| format!("rank {} on {}: {why}", ranks.rank(), meeting.host));
    let all = gather_texts(ranks, &own)?;
    let failed: Vec<&str> = all.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
    let expected = "ranks that reach the launcher's port".to_owned();
    Ok(Some(match failed.first() {
        None => Finding::ok("ports.ranks", format!("all {} ranks reach {launcher}", ranks.world_size()), expected),
        Some(first) => {
            let found =
                format!("{} of {} ranks do not reach {launcher}; first: {first}", failed.len(), ranks.world_size());
            let fix = "open TCP between the nodes (firewall, security group), or name an address of this host that \
                 they reach \
                       in BLIP2_ADDRESS";
            Finding::failure("ports.ranks", [found, expected, fix.into()])
        }
    }))
}

/// How far clocks are apart, as ranks read them right after one another's call.
fn clocks(ranks: &dyn Collective, hosts: usize) -> Result<Finding> {
    if hosts == 1 {
        return Ok(Finding::skipped("clock.ranks", "all ranks are on one host"));
    }
    ranks.barrier()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    let all = ranks.all_gather(&now.to_le_bytes())?;
    let times: Vec<f64> = all.chunks_exact(8).map(|it| f64::from_le_bytes(it.try_into().unwrap_or_default())).collect();
    let (first, last) = times.iter().fold((f64::MAX, f64::MIN), |(low, high), time| (low.min(*time), high.max(*time)));
    let (found, expected) = (format!("{:.1} s apart", last - first), format!("at most {CLOCKS:.0} s between hosts"));
    Ok(match last - first {
        apart if apart > CLOCKS => {
            let fix = "set the clocks of the nodes (`chronyc makestep`, `timedatectl set-ntp true`)";
            Finding::warning("clock.ranks", [found, expected, fix.into()])
        }
        _ => Finding::ok("clock.ranks", found, expected),
    })
}

/// What a rank receives in an all-gather of some megabytes, in GB/s.
fn bandwidth(ranks: &dyn Collective) -> Result<Finding> {
    let mine = vec![1_u8; BYTES];
    let mut fastest = f64::MAX;
    for _ in 0..EXCHANGES {
        ranks.barrier()?;
        let began = Instant::now();
        std::hint::black_box(ranks.all_gather(&mine)?);
        fastest = fastest.min(began.elapsed().as_secs_f64());
    }
    // What the slowest rank saw.
    let all = ranks.all_gather(&fastest.to_le_bytes())?;
    let slowest =
        all.chunks_exact(8).map(|it| f64::from_le_bytes(it.try_into().unwrap_or_default())).fold(0.0, f64::max);
    let received = ((ranks.world_size() - 1) * BYTES) as f64;
    let rate = received / 1e9 / slowest.max(1e-9);
    let found = format!("{rate:.2} GB/s into each rank over {}", ranks.name());
    let expected = format!("{SLOW} GB/s (1 Gbit/s) or more");
    Ok(match rate {
        rate if rate < SLOW => {
            let fix = "see which network is used (OMPI_MCA_btl_tcp_if_include, NCCL_SOCKET_IFNAME, NCCL_IB_HCA) and \
                 take the fast one";
            Finding::warning("bandwidth", [found, expected, fix.into()])
        }
        _ => Finding::ok("bandwidth", found, expected),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::Threads;

    #[test]
    fn ranks_measure_what_goes_between_them_and_name_who_does_not_reach_the_launcher() {
        let text = configs::preset("tiny").unwrap();
        let run = configs::load_str("tiny.yaml", text, &configs::Overrides::none()).unwrap();
        std::thread::scope(|scope| {
            for world in Threads::world(2) {
                let run = &run;
                scope.spawn(move || {
                    let world: Arc<dyn Collective> = Arc::new(world);
                    // A port of loopback at which nobody listens.
                    let meeting = Meeting { launcher: Some("127.0.0.1:1"), local_rank: 0, host: "here" };
                    let found = ranks(run, &world, meeting).unwrap();
                    let names: Vec<&str> = found.iter().map(|it| it.name.as_str()).collect();
                    assert_eq!(names, ["ranks", "ports.ranks", "clock.ranks", "bandwidth"]);
                    assert_eq!(found[1].state, crate::doctor::State::Failure);
                    assert!(found[1].found.contains("2 of 2") && found[1].fix.contains("BLIP2_ADDRESS"), "{found:?}");
                    assert!(found[3].found.contains("GB/s"), "{found:?}");
                    world.finish().unwrap();
                });
            }
        });
    }
}
