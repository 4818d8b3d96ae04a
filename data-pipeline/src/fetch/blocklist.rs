//! URLs that are never asked for, and downloads that are never kept.

use std::collections::HashSet;

use md5::Md5;
use sha2::{Digest, Sha256};
use url::Url;

use crate::error::{DataError, Result};
use crate::hex::hex;
use crate::store::Location;

/// What must not enter a corpus. Lists of millions of entries fit: an entry takes 32 bytes, or 16, or its host's name.
#[derive(Debug, Default)]
pub(super) struct Blocklist {
    /// SHA-256 of URLs; URLs that are listed as such are hashed.
    urls_sha256: HashSet<[u8; 32]>,
    urls_md5: HashSet<[u8; 16]>,
    hosts: HashSet<String>,
    contents: HashSet<[u8; 32]>,
    /// SHA-256 of the two files.
    identity: Option<String>,
}

impl Blocklist {
    /// Reads both files; either may be missing.
    ///
    /// # Errors
    /// [`DataError::Store`] for a file that cannot be read, [`DataError::Setting`] for a line that means nothing.
    pub(super) async fn load(urls: Option<&str>, contents: Option<&str>) -> Result<Self> {
        let mut list = Self::default();
        let mut identity = Sha256::new();
        for (uri, of_urls) in [(urls, true), (contents, false)] {
            let Some(uri) = uri else { continue };
            let bytes = Location::parse(uri)?.read().await?;
            identity.update([u8::from(of_urls)]);
            identity.update(Sha256::digest(&bytes));
            let text = String::from_utf8_lossy(&bytes);
            for (number, line) in text.lines().enumerate() {
                let entry = line.trim();
                if entry.is_empty() || entry.starts_with('#') {
                    continue;
                }
                let understood = if of_urls { list.add_url(entry) } else { list.add_content(entry) };
                if !understood {
                    let expected = if of_urls {
                        "a URL, a host, or the SHA-256 or MD5 of a URL"
                    } else {
                        "the SHA-256 of a file, 64 hexadecimal digits"
                    };
                    return Err(DataError::Setting(format!(
                        "{uri}:{}: found {entry:?}, expected {expected}; lines starting with # are comments",
                        number + 1
                    )));
                }
            }
        }
        if urls.or(contents).is_some() {
            list.identity = Some(hex(&identity.finalize()));
        }
        Ok(list)
    }

    /// What tells this list from another; `None` without any.
    pub(super) fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    fn add_url(&mut self, entry: &str) -> bool {
        if let Some(hash) = from_hex::<32>(entry) {
            self.urls_sha256.insert(hash);
        } else if let Some(hash) = from_hex::<16>(entry) {
            self.urls_md5.insert(hash);
        } else if entry.contains("://") {
            self.urls_sha256.insert(Sha256::digest(entry).into());
            if let Ok(url) = Url::parse(entry) {
                self.urls_sha256.insert(Sha256::digest(url.as_str()).into());
            }
        } else if let Ok(url) = Url::parse(&format!("http://{entry}/"))
            && let Some(host) = url.host_str()
            && url.path() == "/"
        {
            self.hosts.insert(host.to_owned());
        } else {
            return false;
        }
        true
    }

    fn add_content(&mut self, entry: &str) -> bool {
        // `sha256sum` writes the name of the file behind the hash.
        let hash = entry.split_whitespace().next().and_then(from_hex::<32>);
        hash.is_some_and(|hash| {
            self.contents.insert(hash);
            true
        })
    }

    /// Whether a URL is blocked, as it was written or as it is asked for. A host stands for everything below it.
    pub(super) fn blocks(&self, written: &str, url: &Url) -> bool {
        if self.identity.is_none() {
            return false;
        }
        let by_hash = [written, url.as_str()].iter().any(|text| {
            self.urls_sha256.contains(&<[u8; 32]>::from(Sha256::digest(text)))
                || (!self.urls_md5.is_empty() && self.urls_md5.contains(&md5_of(text)))
        });
        // `example.com.` is the same host.
        let mut host = url.host_str().map(|name| name.trim_end_matches('.'));
        let mut by_host = false;
        while let Some(name) = host {
            by_host |= self.hosts.contains(name);
            host = name.split_once('.').map(|(_, parent)| parent);
        }
        by_hash || by_host
    }

    /// Whether a download with this SHA-256 is blocked.
    pub(super) fn blocks_content(&self, sha256: &[u8; 32]) -> bool {
        self.contents.contains(sha256)
    }
}

fn md5_of(text: &str) -> [u8; 16] {
    use md5::Digest as _;
    Md5::digest(text).into()
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn urls_hosts_and_hashes_are_blocked_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("urls.txt");
        let sha256 = hex(&Sha256::digest("http://c.example/3.jpg"));
        let md5 = hex(&md5_of("http://c.example/4.jpg"));
        let lines = format!("# unsafe\nhttp://a.example/1.jpg\nb.example\n{sha256}\n{}\n", md5.to_uppercase());
        std::fs::write(&file, lines).unwrap();
        let list = Blocklist::load(file.to_str(), None).await.unwrap();
        let blocks = |text: &str| list.blocks(text, &Url::parse(text).unwrap());
        for url in [
            "http://a.example/1.jpg",
            "http://b.example/x",
            "https://cdn.B.example/y",
            "http://b.example./x",
            "http://c.example/3.jpg",
        ] {
            assert!(blocks(url), "{url}");
        }
        assert!(blocks("http://c.example/4.jpg"));
        for url in ["http://a.example/2.jpg", "http://bb.example/x", "http://c.example/5.jpg"] {
            assert!(!blocks(url), "{url}");
        }
        assert!(!Blocklist::default().blocks("http://b.example/", &Url::parse("http://b.example/").unwrap()));
    }

    #[tokio::test]
    async fn a_line_that_means_nothing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("contents.txt");
        std::fs::write(&file, format!("{}  a.jpg\nnonsense\n", hex(&Sha256::digest("x")))).unwrap();
        let message = Blocklist::load(None, file.to_str()).await.unwrap_err().to_string();
        assert!(message.contains("contents.txt:2: found \"nonsense\""), "{message}");
    }
}
