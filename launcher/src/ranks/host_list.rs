//! The hosts that a person names: `--hosts a:2,b:2`, or a hostfile.

use std::path::Path;

use anyhow::Context;

use crate::exit::Unusable;

/// A host and how many ranks it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name or address.
    pub name: String,
    /// Ranks.
    pub slots: usize,
}

/// Reads `a:2,b:2`; a host without a number takes `slots` ranks.
///
/// # Errors
/// A name or a number that is none.
pub fn parse_list(text: &str, slots: usize) -> anyhow::Result<Vec<Host>> {
    merged(text.split(',').map(|entry| host(entry.trim(), slots, "--hosts")).collect::<anyhow::Result<_>>()?)
}

/// Reads a hostfile, one host a line: `a slots=2` as Open MPI has it, `a:2` as MPICH, or `a`; `#` begins a comment.
///
/// # Errors
/// A file that cannot be read, has no host, or holds something else.
pub fn read_file(path: &Path, slots: usize) -> anyhow::Result<Vec<Host>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse_file(&text, &path.display().to_string(), slots)
}

fn parse_file(text: &str, path: &str, slots: usize) -> anyhow::Result<Vec<Host>> {
    let mut hosts = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        let place = format!("{path}, line {}", number + 1);
        let mut host = host(name, slots, &place)?;
        for word in words {
            let Some(count) = word.strip_prefix("slots=") else {
                return Err(wrong(word, &place));
            };
            host.slots = count.parse().ok().filter(|count| *count > 0).ok_or_else(|| wrong(word, &place))?;
        }
        hosts.push(host);
    }
    if hosts.is_empty() {
        return Err(Unusable(format!("{path}: found no host; expected one a line, such as `n1 slots=2`")).into());
    }
    merged(hosts)
}

fn host(entry: &str, slots: usize, place: &str) -> anyhow::Result<Host> {
    let (name, count) = entry.split_once(':').map_or((entry, None), |(name, count)| (name, Some(count)));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.starts_with('-') || !name.chars().all(plain) {
        return Err(wrong(entry, place));
    }
    let slots = match count {
        None => slots,
        Some(count) => count.parse().ok().filter(|count| *count > 0).ok_or_else(|| wrong(entry, place))?,
    };
    Ok(Host { name: name.to_owned(), slots })
}

fn wrong(found: &str, place: &str) -> anyhow::Error {
    Unusable(format!("{place}: found `{found}`; expected a host and how many ranks it takes, such as n1:2")).into()
}

/// A host that is named twice takes the sum.
fn merged(hosts: Vec<Host>) -> anyhow::Result<Vec<Host>> {
    let mut merged: Vec<Host> = Vec::new();
    for host in hosts {
        match merged.iter_mut().find(|known| known.name == host.name) {
            Some(known) => known.slots += host.slots,
            None => merged.push(host),
        }
    }
    Ok(merged)
}

/// `a:2,b:2`, as mpirun reads it.
pub fn listed(hosts: &[Host]) -> String {
    hosts.iter().map(|host| format!("{}:{}", host.name, host.slots)).collect::<Vec<_>>().join(",")
}

/// Whether this name means this machine in any case.
pub fn is_here(name: &str) -> bool {
    name == "localhost"
        || name.starts_with("127.")
        || std::fs::read_to_string("/proc/sys/kernel/hostname").is_ok_and(|own| own.trim() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed_of(hosts: anyhow::Result<Vec<Host>>) -> String {
        hosts.map_or_else(|error| format!("error: {error}"), |hosts| listed(&hosts))
    }

    #[test]
    fn hosts_of_both_mpis_are_read() {
        assert_eq!(listed_of(parse_list("a:2,b, a:1", 4)), "a:3,b:4");
        let file = "# ours\nn1 slots=2\n\nn2:3 # two\n10.0.0.7\n";
        assert_eq!(listed_of(parse_file(file, "hosts", 8)), "n1:2,n2:3,10.0.0.7:8");
    }

    #[test]
    fn what_is_no_host_is_refused_with_its_place() {
        for text in ["", "a:0", "a:x", "-oProxyCommand=x", "a;b", "a,,b"] {
            assert!(listed_of(parse_list(text, 1)).contains("--hosts: found `"), "{text}");
        }
        assert!(listed_of(parse_file("n1\nn2 slot=2", "h", 1)).starts_with("error: h, line 2: found `slot=2`"));
        assert!(listed_of(parse_file("# none\n", "h", 1)).contains("found no host"));
    }
}
