//! Which machines the next launch uses, by the failures of each.

use std::collections::BTreeMap;

/// Counts failures of machines.
#[derive(Clone, Debug)]
pub struct HostPolicy {
    exclude_after: Option<u64>,
    fewer_ranks: bool,
    failures: BTreeMap<String, u64>,
}

/// What the next launch uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Machines, in the order given.
    pub hosts: Vec<String>,
    /// Machines that are left out.
    pub excluded: Vec<String>,
    /// Ranks over all machines.
    pub ranks: usize,
}

impl HostPolicy {
    /// As the config says.
    pub fn new(settings: &configs::Restarts) -> Self {
        let (exclude_after, fewer_ranks) = (settings.exclude_host_after, settings.fewer_ranks);
        Self { exclude_after, fewer_ranks, failures: BTreeMap::new() }
    }

    /// A rank on this machine was the one that failed.
    pub fn failed(&mut self, host: &str) {
        *self.failures.entry(host.to_owned()).or_default() += 1;
    }

    /// Whether any machine failed so often that it is left out where others are left.
    pub fn has_bad(&self) -> bool {
        self.exclude_after.is_some_and(|limit| self.failures.values().any(|failures| *failures >= limit))
    }

    /// What the next launch uses of `hosts`, with `ranks_per_host` ranks on each and at most `max_ranks` in all. `spare` hosts
    /// stand behind those that `wanted` names; they step in first. Without permission for fewer ranks no machine is left out
    /// that nobody can replace, and the last one never is.
    pub fn choose(&self, hosts: &[String], wanted: usize, ranks_per_host: usize, max_ranks: usize) -> Use {
        let failures = |host: &String| self.failures.get(host).copied().unwrap_or(0);
        let is_bad = |host: &&String| self.exclude_after.is_some_and(|limit| failures(host) >= limit);
        let (bad, mut good): (Vec<&String>, Vec<&String>) = hosts.iter().partition(is_bad);
        let least = if self.fewer_ranks { 1 } else { wanted.min(hosts.len()) };
        if good.len() < least {
            // The least bad ones stay, in the order given.
            let mut by_failures = bad.clone();
            by_failures.sort_by_key(|host| failures(host));
            let back: Vec<&String> = by_failures.into_iter().take(least - good.len()).collect();
            good = hosts.iter().filter(|host| good.contains(host) || back.contains(host)).collect();
        }
        good.truncate(wanted);
        let excluded = bad.into_iter().filter(|host| !good.contains(host)).cloned().collect();
        let hosts: Vec<String> = good.into_iter().cloned().collect();
        let ranks = (hosts.len() * ranks_per_host).min(max_ranks).max(1);
        Use { hosts, excluded, ranks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(fewer_ranks: bool, failures: &[(&str, u64)]) -> HostPolicy {
        let settings = configs::Restarts { max: 10, backoff_s: 1, fewer_ranks, exclude_host_after: Some(3) };
        let mut policy = HostPolicy::new(&settings);
        for (host, count) in failures {
            (0..*count).for_each(|_| policy.failed(host));
        }
        policy
    }

    fn hosts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_host_that_failed_often_is_left_out() {
        let all = hosts(&["n1", "n2", "n3"]);
        let used = policy(true, &[("n2", 2)]).choose(&all, 3, 8, 16);
        assert_eq!((used.hosts, used.ranks), (all.clone(), 16), "no more ranks than slices");
        let used = policy(true, &[("n2", 3)]).choose(&all, 3, 4, 16);
        assert_eq!(used, Use { hosts: hosts(&["n1", "n3"]), excluded: hosts(&["n2"]), ranks: 8 });
    }

    #[test]
    fn spare_hosts_step_in() {
        let used = policy(false, &[("n1", 3)]).choose(&hosts(&["n1", "n2", "n3"]), 2, 8, 16);
        assert_eq!(used, Use { hosts: hosts(&["n2", "n3"]), excluded: hosts(&["n1"]), ranks: 16 });
    }

    #[test]
    fn without_permission_for_fewer_ranks_the_least_bad_stay() {
        let used = policy(false, &[("n1", 5), ("n2", 3)]).choose(&hosts(&["n1", "n2"]), 2, 8, 16);
        assert_eq!((used.hosts, used.ranks), (hosts(&["n1", "n2"]), 16));
    }

    #[test]
    fn the_last_host_stays() {
        let used = policy(true, &[("n1", 9), ("n2", 4)]).choose(&hosts(&["n1", "n2"]), 2, 2, 16);
        assert_eq!(used, Use { hosts: hosts(&["n2"]), excluded: hosts(&["n1"]), ranks: 2 });
    }
}
