//! Which addresses may be asked, and the resolver that lets no other through.
//!
//! The check is made on the address that is connected to, not on an earlier answer for the same name: a name that
//! changes its address between two look-ups (DNS rebinding) gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::error::{DataError, Result};

/// Answers kept; a crawl asks for the same hosts again and again.
const CACHED_ANSWERS: u64 = 65_536;

/// An address that is not asked.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not a public address")]
pub(super) struct NotPublic(String);

/// A name that has no address.
#[derive(Debug, thiserror::Error)]
#[error("no such host")]
pub(super) struct NoSuchHost;

/// The name server did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the name cannot be looked up: {0}")]
pub(super) struct LookupFailed(String);

/// Whether anybody on the internet may be meant by this address.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

/// By the special-purpose registry of IANA (RFC 6890 and its successors).
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        // Cloud metadata: 169.254.169.254.
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        // Shared address space, with Alibaba's metadata at 100.100.100.200.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b))
        // Azure's platform address is in a public range.
        || address == Ipv4Addr::new(168, 63, 129, 16);
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        // Mapped and compatible IPv4, ::1 and :: among them.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => embedded(high, low),
        // NAT64.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        // 6to4.
        [0x2002, high, low, ..] => embedded(high, low),
        // Teredo and benchmarking, documentation.
        [0x2001, 0..=2, ..] | [0x2001, 0xdb8, ..] => false,
        // Global unicast; loopback, unique local (fc00::/7), link-local and multicast lie outside.
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

/// Refuses a URL that names such an address itself: those never reach the resolver.
pub(super) fn check_literal(url: &Url, private_addresses: bool) -> std::result::Result<(), NotPublic> {
    let address = match url.host() {
        Some(Host::Ipv4(v4)) => IpAddr::V4(v4),
        Some(Host::Ipv6(v6)) => IpAddr::V6(v6),
        _ => return Ok(()),
    };
    if private_addresses || is_public(address) { Ok(()) } else { Err(NotPublic(address.to_string())) }
}

/// Looks names up at the system's name servers, concurrently and with a bounded cache that heeds their times to live.
#[derive(Clone)]
pub(super) struct Resolver {
    inner: Arc<TokioResolver>,
    private_addresses: bool,
}

impl Resolver {
    /// A resolver with the system's settings (`/etc/resolv.conf`, `/etc/hosts`).
    pub(super) fn new(private_addresses: bool) -> Result<Self> {
        let failed = |e: &dyn std::fmt::Display| {
            DataError::Setting(format!("the system's name servers cannot be found: {e}. Check /etc/resolv.conf"))
        };
        let mut builder = TokioResolver::builder_tokio().map_err(|e| failed(&e))?;
        builder.options_mut().cache_size = CACHED_ANSWERS;
        let inner = builder.build().map_err(|e| failed(&e))?;
        Ok(Self { inner: Arc::new(inner), private_addresses })
    }

    async fn addresses(
        &self,
        name: &str,
    ) -> std::result::Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
        // With its final dot a name is never tried below the machine's own search domains.
        let whole = if name.contains('.') && !name.ends_with('.') { format!("{name}.") } else { name.to_owned() };
        let found: Vec<IpAddr> = match self.inner.lookup_ip(whole).await {
            Ok(found) => found.iter().collect(),
            Err(error) if error.is_nx_domain() || error.is_no_records_found() => return Err(NoSuchHost.into()),
            Err(error) => return Err(LookupFailed(error.to_string()).into()),
        };
        let allowed: Vec<IpAddr> = found.iter().copied().filter(|a| self.private_addresses || is_public(*a)).collect();
        match found.first() {
            None => Err(NoSuchHost.into()),
            Some(first) if allowed.is_empty() => Err(NotPublic(format!("{first} ({name})")).into()),
            Some(_) => Ok(allowed.into_iter().map(|address| SocketAddr::new(address, 0)).collect()),
        }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses: Addrs = Box::new(resolver.addresses(name.as_str()).await?.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        let public = ["8.8.8.8", "1.1.1.1", "100.63.0.1", "172.32.0.1", "2606:4700::1111", "64:ff9b::808:808"];
        let others = [
            "127.0.0.1",
            "127.8.9.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "192.0.0.192",
            "198.18.0.1",
            "240.0.0.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "fe80::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
        ];
        for address in public {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in others {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn an_address_in_a_url_is_refused_however_it_is_written() {
        for url in
            ["http://127.0.0.1/", "http://0x7f.1/", "http://2130706433/", "http://[::1]/", "http://[::ffff:10.0.0.1]/"]
        {
            let url = Url::parse(url).unwrap();
            assert!(check_literal(&url, false).is_err(), "{url}");
            assert!(check_literal(&url, true).is_ok(), "{url}");
        }
        assert!(check_literal(&Url::parse("https://example.com/a.jpg").unwrap(), false).is_ok());
    }

    #[tokio::test]
    async fn a_name_for_the_machine_itself_is_refused() {
        let error = Resolver::new(false).unwrap().addresses("localhost").await.unwrap_err();
        assert!(error.downcast_ref::<NotPublic>().is_some(), "{error}");
        assert!(!Resolver::new(true).unwrap().addresses("localhost").await.unwrap().is_empty());
    }
}
