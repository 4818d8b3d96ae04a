//! One URL to its bytes: redirects hop by hop, rules before every request, bounded time and memory, retries.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, redirect};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};
use url::Url;

use super::address::{LookupFailed, NoSuchHost, NotPublic, Resolver, check_literal};
use super::blocklist::Blocklist;
use super::hosts::{Hosts, Turn};
use super::options::{Effort, Rules};
use super::robots::{Known, MAX_ROBOTS_BYTES, SiteRules, Sites, forbidden_by_header};
use crate::error::{DataError, Result};
use crate::rng::{CounterRng, Purpose};

/// Idle connections to one host that are kept for its next picture.
const IDLE_PER_HOST: usize = 2;
/// How long they are kept.
const IDLE_FOR: Duration = Duration::from_secs(5);
/// The longest pause before another try.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// The memory budget is counted in units of this many bytes: a semaphore counts in 32 bits.
const UNIT: u64 = 1 << 10;

/// Why there is no download, in a word that can be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// A short stable name, such as `http_404` or `timeout`.
    pub(super) reason: String,
    /// Whether another try may fare better.
    transient: bool,
    /// How long the server asks to wait before.
    retry_after: Option<Duration>,
}

impl Failure {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), transient: false, retry_after: None }
    }

    fn transient(reason: impl Into<String>) -> Self {
        Self { transient: true, ..Self::new(reason) }
    }

    /// The same, not to be tried again.
    pub(super) fn permanent(self) -> Self {
        Self { transient: false, ..self }
    }
}

/// The bytes of one URL. Until this is dropped they count against the memory budget, and their request among those that
/// may be under way: where pictures are made more slowly than they arrive, fewer are asked for.
#[derive(Debug)]
pub(super) struct Download {
    pub(super) bytes: Bytes,
    _memory: Option<OwnedSemaphorePermit>,
    _request: Option<OwnedSemaphorePermit>,
}

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Longer ones than allowed are refused, and so are those whose headers forbid their use.
    Picture,
    /// A robots.txt. What lies beyond the limit is cut off; headers about its own use mean nothing here.
    SiteRules,
}

/// Where one request led.
enum Answer {
    Body(Download),
    Moved(Url),
}

/// Asks servers.
pub(super) struct Downloader {
    client: Client,
    rules: Rules,
    agent: String,
    effort: Effort,
    hosts: Hosts,
    sites: Sites,
    blocklist: Arc<Blocklist>,
    requests: Arc<Semaphore>,
    memory: Arc<Semaphore>,
}

impl Downloader {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// [`DataError::Setting`] when the system has no usable name servers or certificates.
    pub(super) fn new(rules: &Rules, effort: &Effort, blocklist: Arc<Blocklist>) -> Result<Self> {
        let client = Client::builder()
            .user_agent(&rules.user_agent)
            .redirect(redirect::Policy::none())
            // Through a proxy, addresses could not be checked.
            .no_proxy()
            .referer(false)
            .connect_timeout(Duration::from_secs(effort.connect_timeout_s))
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .pool_idle_timeout(IDLE_FOR)
            .dns_resolver(Resolver::new(rules.private_addresses)?)
            .build()
            .map_err(|e| DataError::Setting(format!("cannot prepare requests: {e}")))?;
        Ok(Self {
            client,
            agent: rules.agent_name(),
            rules: rules.clone(),
            hosts: Hosts::new(effort.per_host, Duration::from_millis(effort.host_delay_ms)),
            sites: Sites::new(),
            blocklist,
            requests: Arc::new(Semaphore::new(effort.concurrency as usize)),
            memory: Arc::new(Semaphore::new((effort.memory_bytes / 2 / UNIT) as usize)),
            effort: effort.clone(),
        })
    }

    /// The bytes that `written` leads to, tried again when that may help. `row` only spreads the pauses in between.
    pub(super) async fn download(&self, written: &str, row: u64) -> std::result::Result<Download, Failure> {
        let url = Url::parse(written.trim()).map_err(|_| Failure::new("invalid_url"))?;
        let mut attempt = 0;
        loop {
            let failure = match self.follow(written, url.clone()).await {
                Ok(download) => return Ok(download),
                Err(failure) => failure,
            };
            attempt += 1;
            if !failure.transient || attempt >= self.effort.tries {
                return Err(failure);
            }
            match self.pause(&failure, attempt, row) {
                Some(pause) => sleep(pause).await,
                None => return Err(failure),
            }
        }
    }

    /// Exponential with full jitter on its upper half; at least what the server asks. `None` when that is too long.
    fn pause(&self, failure: &Failure, attempt: u32, row: u64) -> Option<Duration> {
        let doubled = Duration::from_millis(self.effort.backoff_ms).saturating_mul(1 << (attempt - 1).min(16));
        let mut rng = CounterRng::new(0, Purpose::Backoff, &[row, attempt.into()]);
        let ours = doubled.min(LONGEST_BACKOFF).mul_f64(rng.uniform(0.5, 1.0));
        let asked = failure.retry_after.unwrap_or(Duration::ZERO);
        (asked <= Duration::from_secs(self.effort.max_retry_after_s)).then_some(ours.max(asked))
    }

    async fn follow(&self, written: &str, mut url: Url) -> std::result::Result<Download, Failure> {
        for _ in 0..=self.rules.max_redirects {
            self.check(written, &url)?;
            let site = self.site_rules(&url).await?;
            if !site.allows(&url) {
                return Err(Failure::new("robots_txt"));
            }
            match self.request(&url, site.delay(), Wanted::Picture).await? {
                Answer::Body(download) if download.bytes.is_empty() => return Err(Failure::new("empty_body")),
                Answer::Body(download) => return Ok(download),
                Answer::Moved(next) => url = next,
            }
        }
        Err(Failure::new("too_many_redirects"))
    }

    /// What is refused before anybody is asked.
    fn check(&self, written: &str, url: &Url) -> std::result::Result<(), Failure> {
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(Failure::new("unsupported_scheme"));
        }
        if self.blocklist.blocks(written.trim(), url) {
            return Err(Failure::new("blocked_url"));
        }
        check_literal(url, self.rules.private_addresses).map_err(|_| Failure::new("private_address"))
    }

    /// What the site of `url` asks of robots, from its robots.txt (RFC 9309).
    async fn site_rules(&self, url: &Url) -> std::result::Result<Arc<SiteRules>, Failure> {
        if !self.rules.robots_txt {
            return Ok(Arc::new(SiteRules::Everything));
        }
        let origin = url.origin().ascii_serialization();
        let site = self.sites.site(&origin);
        let mut known = site.lock().await;
        if let Some(verdict) = known.as_ref().and_then(Known::verdict) {
            return verdict;
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            let failure = match self.fetch_rules(&origin).await {
                Ok((rules, bytes)) => {
                    self.sites.weigh(&origin, bytes);
                    let rules = Arc::new(rules);
                    *known = Some(Known::Rules(rules.clone()));
                    return Ok(rules);
                }
                Err(failure) => failure,
            };
            let pause = self.pause(&failure, attempt, 0).filter(|_| failure.transient && attempt < self.effort.tries);
            match pause {
                Some(pause) => sleep(pause).await,
                None => {
                    *known = Some(Known::Unreachable(failure.clone(), Instant::now()));
                    return Err(failure.permanent());
                }
            }
        }
    }

    /// The rules and the length of their file.
    async fn fetch_rules(&self, origin: &str) -> std::result::Result<(SiteRules, usize), Failure> {
        let mut url = Url::parse(&format!("{origin}/robots.txt")).map_err(|_| Failure::new("invalid_url"))?;
        for _ in 0..=self.rules.max_redirects {
            self.check(url.as_str(), &url)?;
            match self.request(&url, Duration::ZERO, Wanted::SiteRules).await {
                Ok(Answer::Moved(next)) => url = next,
                Ok(Answer::Body(download)) => {
                    let (agent, text, bytes) = (self.agent.clone(), download.bytes.clone(), download.bytes.len());
                    // Rules become regular expressions, which takes a while for long files.
                    let parsed = tokio::task::spawn_blocking(move || SiteRules::parse(&agent, &text)).await;
                    // What cannot be read is not known to permit anything.
                    let rules = parsed.ok().flatten().ok_or_else(|| Failure::new("robots_txt_unreadable"))?;
                    return Ok((rules, bytes));
                }
                // "Unavailable": anything may be asked for. Busy or broken servers: nothing, for now.
                Err(failure) if is_unavailable(&failure.reason) => return Ok((SiteRules::Everything, 0)),
                Err(failure) if failure.reason.starts_with("http_") => {
                    return Err(Failure { reason: "robots_txt_unreachable".into(), ..failure });
                }
                Err(failure) => return Err(failure),
            }
        }
        // RFC 9309: after five redirects a file may count as unavailable.
        Ok((SiteRules::Everything, 0))
    }

    /// One request within the host's pace.
    async fn request(&self, url: &Url, delay: Duration, wanted: Wanted) -> std::result::Result<Answer, Failure> {
        let turn = self.hosts.turn(url.host_str().unwrap_or_default(), delay).await;
        // The semaphore is never closed.
        let request = self.requests.clone().acquire_owned().await.ok();
        let limit = Duration::from_secs(self.effort.timeout_s);
        let sent = timeout_at(Instant::now() + limit, self.client.get(url.clone()).send()).await;
        let response = sent.map_err(|_| Failure::transient("timeout"))?.map_err(|e| classify(&e))?;
        self.judge(&response, &turn)?;
        if response.status().is_redirection() {
            let next = response.headers().get(LOCATION).and_then(|to| url.join(to.to_str().ok()?).ok());
            return next.map(Answer::Moved).ok_or_else(|| Failure::new("invalid_redirect"));
        }
        let obeyed = self.rules.robots_header && wanted == Wanted::Picture;
        if obeyed && forbidden_by_header(response.headers(), &self.agent) {
            return Err(Failure::new("x_robots_tag"));
        }
        let (bytes, memory) = self.body(response, wanted, limit).await?;
        Ok(Answer::Body(Download { bytes, _memory: memory, _request: request }))
    }

    /// Success and redirects pass; hosts that are busy are asked less often from now on.
    fn judge(&self, response: &Response, turn: &Turn) -> std::result::Result<(), Failure> {
        let status = response.status();
        if status.is_success() || (status.is_redirection() && status != StatusCode::NOT_MODIFIED) {
            turn.answered();
            return Ok(());
        }
        let reason = format!("http_{}", status.as_u16());
        let transient = matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504);
        let retry_after = retry_after(response.headers());
        if matches!(status.as_u16(), 429 | 503) {
            let most = Duration::from_secs(self.effort.max_retry_after_s);
            turn.slow_down(retry_after.unwrap_or(Duration::ZERO).min(most));
        }
        Err(Failure { reason, transient, retry_after })
    }

    /// The whole body. Memory is reserved before it is read: its announced length, or the most it may have.
    async fn body(
        &self,
        mut response: Response,
        wanted: Wanted,
        limit: Duration,
    ) -> std::result::Result<(Bytes, Option<OwnedSemaphorePermit>), Failure> {
        let most = match wanted {
            Wanted::Picture => self.rules.max_download_bytes,
            Wanted::SiteRules => MAX_ROBOTS_BYTES,
        };
        let announced =
            content_length(response.headers()).filter(|length| *length <= most || wanted == Wanted::Picture);
        if announced.is_some_and(|length| length > most) {
            return Err(Failure::new("too_large"));
        }
        let reserved = announced.unwrap_or(most).div_ceil(UNIT).max(1) as u32;
        // The semaphore is never closed.
        let mut memory = self.memory.clone().acquire_many_owned(reserved).await.ok();
        let deadline = Instant::now() + limit;
        let mut bytes = BytesMut::with_capacity(announced.unwrap_or(0) as usize);
        loop {
            let chunk = timeout_at(deadline, response.chunk()).await.map_err(|_| Failure::transient("timeout"))?;
            let Some(chunk) = chunk.map_err(|e| classify_body(&e))? else { break };
            let room = most as usize - bytes.len();
            if chunk.len() > room && wanted == Wanted::Picture {
                return Err(Failure::new("too_large"));
            }
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                break;
            }
        }
        let unused = u64::from(reserved).saturating_sub((bytes.len() as u64).div_ceil(UNIT).max(1));
        drop(memory.as_mut().and_then(|memory| memory.split(unused as usize)));
        Ok((bytes.freeze(), memory))
    }
}

/// Statuses after which RFC 9309 calls a robots.txt unavailable: 4xx, except for being asked too often.
fn is_unavailable(reason: &str) -> bool {
    reason.starts_with("http_4") && reason != "http_429"
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).ok()
}

/// The reason behind an error before the answer began.
fn classify(error: &reqwest::Error) -> Failure {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if current.is::<NotPublic>() {
            return Failure::new("private_address");
        }
        if current.is::<NoSuchHost>() {
            return Failure::new("no_such_host");
        }
        if current.is::<LookupFailed>() {
            return Failure::transient("dns_failed");
        }
        // An input/output error hides what it wraps from `source`.
        let wrapped = current.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if current.is::<rustls::Error>() || wrapped.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return Failure::new("tls_failed");
        }
        cause = current.source();
    }
    if error.is_timeout() {
        Failure::transient("timeout")
    } else if error.is_builder() {
        Failure::new("invalid_url")
    } else if error.is_connect() {
        Failure::transient("connection_failed")
    } else {
        Failure::transient("bad_answer")
    }
}

/// The reason behind an error after the answer began.
fn classify_body(error: &reqwest::Error) -> Failure {
    Failure::transient(if error.is_timeout() { "timeout" } else { "incomplete_body" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let parsed = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(parsed("7"), Some(Duration::from_secs(7)));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(90));
        assert!((80..=90).contains(&parsed(&soon).unwrap().as_secs()));
        assert_eq!(parsed("soon"), None);
    }
}
