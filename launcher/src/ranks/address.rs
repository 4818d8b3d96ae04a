//! The address of this host that ranks on other hosts reach.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use super::plan::Plan;
use super::programs::Programs;
use crate::exit::Unusable;

/// An address that no host has (RFC 5737): the way to it is the way out of this host.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

impl Plan {
    /// The address at which the ranks of this plan reach the launcher: loopback where all are on this host; else that of
    /// `BLIP2_ADDRESS`, or the one from which this host reaches theirs.
    ///
    /// # Errors
    /// A variable that holds no address.
    pub fn launcher_address(&self, programs: &Programs) -> anyhow::Result<IpAddr> {
        if let Some(named) = programs.variable("BLIP2_ADDRESS") {
            let wrong = || format!("BLIP2_ADDRESS is {named}; expected an address of this host, such as 10.0.0.7");
            return Ok(named.parse().map_err(|_| Unusable(wrong()))?);
        }
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        if !self.spans_hosts() {
            return Ok(loopback);
        }
        let peers = self.hosts.iter().filter_map(|host| (host.name.as_str(), 9).to_socket_addrs().ok()?.next());
        let by_route = peers.chain([ELSEWHERE]).filter_map(source_of).find(|address| !address.is_loopback());
        Ok(by_route.or_else(first_local).unwrap_or(loopback))
    }
}

/// The address from which this host would send to another. Nothing is sent.
fn source_of(peer: SocketAddr) -> Option<IpAddr> {
    let own = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(own).ok()?;
    socket.connect(peer).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The first address of this host that is not loopback, as the kernel's routes show it.
fn first_local() -> Option<IpAddr> {
    local_in(&std::fs::read_to_string("/proc/net/fib_trie").ok()?)
}

fn local_in(routes: &str) -> Option<IpAddr> {
    let lines: Vec<&str> = routes.lines().map(str::trim).collect();
    let of_pair = |pair: &[&str]| {
        let address: IpAddr = pair[0].strip_prefix("|-- ")?.parse().ok()?;
        (pair[1].contains("host LOCAL") && !address.is_loopback()).then_some(address)
    };
    lines.windows(2).find_map(of_pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_local_address_is_found() {
        let routes = "Local:\n  +-- 10.0.0.0/8 2 0 2\n     |-- 10.78.0.0\n        /24 link UNICAST\n     |-- 10.78.0.254\n        \
                      /32 host LOCAL\n  |-- 127.0.0.1\n     /32 host LOCAL\n";
        assert_eq!(local_in(routes), Some("10.78.0.254".parse().unwrap()));
        assert_eq!(local_in("  |-- 127.0.0.1\n     /32 host LOCAL\n"), None);
    }
}
