//! How long writes wait for a store that fails: not at all, or until it answers again.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use data_pipeline::error::DataError;
use data_pipeline::store::Location;

use crate::error::{Result, TrainerError};

/// First wait after a failure; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait: a store that is back is noticed within this time.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Least time between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// How soon a wait notices that it is to stop.
const NOTICE: Duration = Duration::from_millis(20);

/// What a write does while its store fails. Clones share one outage: all that wait for a store warn once together.
///
/// Waiting begins where the store's own tries (60 s for servers) end. What time cannot heal (no rights, no such
/// bucket, a request that the store does not know) fails at once in any case.
#[derive(Clone)]
pub struct Patience {
    /// Whom to tell, and when to stop; `None` does not wait.
    waits: Option<Waits>,
    first_wait: Duration,
    longest_wait: Duration,
    outage: Arc<Mutex<Outage>>,
}

#[derive(Clone)]
struct Waits {
    warn: Arc<dyn Fn(String) + Send + Sync>,
    stop: Arc<AtomicBool>,
}

impl fmt::Debug for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patience").field("waits", &self.waits.is_some()).finish_non_exhaustive()
    }
}

/// A time in which nothing succeeds.
#[derive(Debug, Default)]
struct Outage {
    began: Option<Instant>,
    tries: u32,
    warned: bool,
    /// Stays over outages, so that a store that flaps does not fill the log.
    last_warning: Option<Instant>,
}

impl Patience {
    /// Gives up at the first error that the store's own tries leave.
    pub fn none() -> Self {
        Self { waits: None, first_wait: FIRST_WAIT, longest_wait: LONGEST_WAIT, outage: Arc::default() }
    }

    /// Waits until the store answers again or `stop` is set: 1 s, then twice as long each time up to 30 s. `warn` is
    /// told of the first failure, then at most once a minute, and when it goes on.
    ///
    /// `BLIP2_TEST_BACKOFF_MS` shortens the waits, for tests.
    pub fn until(stop: Arc<AtomicBool>, warn: impl Fn(String) + Send + Sync + 'static) -> Self {
        let patience = Self { waits: Some(Waits { warn: Arc::new(warn), stop }), ..Self::none() };
        let shorter = std::env::var("BLIP2_TEST_BACKOFF_MS").ok().and_then(|text| text.parse().ok());
        match shorter.map(Duration::from_millis) {
            Some(first) => patience.with_waits(first, first * 30),
            None => patience,
        }
    }

    /// The same with other waits.
    pub(crate) fn with_waits(self, first_wait: Duration, longest_wait: Duration) -> Self {
        Self { first_wait, longest_wait, ..self }
    }

    /// What `ask` gives, asked again while it fails in a way that passes. An answer may have been lost: what was asked
    /// for may be done although `ask` failed.
    ///
    /// # Errors
    /// The first error that waiting does not heal, or the last one before `stop` was set.
    pub fn wait_out<T>(&self, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
        let mut tries = 0;
        loop {
            let error = match ask() {
                Ok(found) => {
                    self.went();
                    return Ok(found);
                }
                Err(error) => error,
            };
            match &error {
                TrainerError::Store(DataError::Store { source, .. }) if passes(source) => {}
                _ => return Err(error),
            }
            tries += 1;
            let Some(wait) = self.failed(&error, tries) else { return Err(error) };
            let until = Instant::now() + wait;
            while Instant::now() < until {
                if self.stopped() {
                    return Err(error);
                }
                std::thread::sleep(NOTICE.min(until.saturating_duration_since(Instant::now())));
            }
        }
    }

    /// [`Self::wait_out`] of one request about `place`.
    pub(super) async fn wait<T, F>(&self, place: &Location, mut ask: impl FnMut() -> F) -> object_store::Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut tries = 0;
        loop {
            let asked = ask();
            let answer = tokio::select! {
                answer = asked => answer,
                () = self.given_up() => Err(stopped_waiting()),
            };
            let error = match answer {
                Ok(found) => {
                    self.went();
                    return Ok(found);
                }
                Err(error) => error,
            };
            tries += 1;
            if !passes(&error) {
                return Err(error);
            }
            let told = format!("{}: cannot write: {error}", place.uri());
            let Some(wait) = self.failed(&told, tries) else { return Err(error) };
            let until = Instant::now() + wait;
            while Instant::now() < until {
                if self.stopped() {
                    return Err(error);
                }
                tokio::time::sleep(NOTICE.min(until.saturating_duration_since(Instant::now()))).await;
            }
        }
    }

    /// Whether waiting has been forbidden.
    fn stopped(&self) -> bool {
        self.waits.as_ref().is_none_or(|waits| waits.stop.load(Ordering::SeqCst))
    }

    /// Returns when waiting is forbidden and the store has failed last: then its own tries are cut short too.
    async fn given_up(&self) {
        while !(self.waits.is_some() && self.stopped() && self.outage().began.is_some()) {
            tokio::time::sleep(NOTICE).await;
        }
    }

    /// Notes a failure; how long to wait before the next try, or `None` to give up.
    fn failed(&self, error: &dyn fmt::Display, tries: u32) -> Option<Duration> {
        let waits = self.waits.as_ref().filter(|_| !self.stopped())?;
        let mut outage = self.outage();
        let now = Instant::now();
        let began = *outage.began.get_or_insert(now);
        outage.tries += 1;
        if outage.last_warning.is_none_or(|last| now - last >= WARN_EVERY) {
            outage.last_warning = Some(now);
            outage.warned = true;
            let since = match (now - began).as_secs() {
                0 => String::new(),
                seconds => format!(" for {seconds} s, {} tries", outage.tries),
            };
            drop(outage);
            (waits.warn)(format!("{error}. Trying again until it works{since}; nothing is lost meanwhile"));
        }
        let doubled = self.first_wait.saturating_mul(1 << (tries - 1).min(16));
        Some(doubled.min(self.longest_wait))
    }

    /// Notes that something succeeded.
    fn went(&self) {
        let mut outage = self.outage();
        let Some(began) = outage.began.take() else { return };
        let (tries, warned) = (std::mem::take(&mut outage.tries), std::mem::take(&mut outage.warned));
        drop(outage);
        if let Some(waits) = self.waits.as_ref().filter(|_| warned) {
            let seconds = began.elapsed().as_secs_f64();
            (waits.warn)(format!("the store works again after {seconds:.0} s, {tries} tries"));
        }
    }

    fn outage(&self) -> MutexGuard<'_, Outage> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopped_waiting() -> object_store::Error {
    let source = "the store did not answer, and this process is to end".into();
    object_store::Error::Generic { store: "store", source }
}

/// Whether time may heal an error: no answer, a server's own error, too many requests, a full or failing disk.
pub(super) fn passes(error: &object_store::Error) -> bool {
    if !matches!(error, object_store::Error::Generic { .. }) {
        return false;
    }
    let first: &(dyn std::error::Error + 'static) = error;
    for cause in std::iter::successors(Some(first), |cause| cause.source()) {
        if let Some(cause) = cause.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind as K;
            return !matches!(
                cause.kind(),
                K::PermissionDenied
                    | K::ReadOnlyFilesystem
                    | K::NotADirectory
                    | K::IsADirectory
                    | K::InvalidFilename
                    | K::InvalidInput
                    | K::Unsupported
            );
        }
    }
    !refused(&error.to_string())
}

/// Whether a server calls the request wrong (status 4xx, save "took too long" and "too many").
fn refused(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("status code: 4") else { return false };
    !["08", "25", "29"].iter().any(|passing| rest.starts_with(passing))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::atomic::AtomicU32;

    use super::*;

    fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
        object_store::Error::Generic { store: "test", source: source.into() }
    }

    fn from_store(source: object_store::Error) -> TrainerError {
        Location::parse("s3://bucket/run").unwrap().error("write", source).into()
    }

    /// A patience that notes what it says.
    fn patience(stop: &Arc<AtomicBool>) -> (Patience, Arc<Mutex<Vec<String>>>) {
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = said.clone();
        let patience = Patience::until(stop.clone(), move |line| told.lock().unwrap().push(line));
        (patience.with_waits(Duration::from_millis(2), Duration::from_millis(8)), said)
    }

    #[test]
    fn what_time_heals_is_told_from_what_it_does_not() {
        for errno in [28, 122, 5, 110, 104] {
            assert!(passes(&generic(std::io::Error::from_raw_os_error(errno))), "os error {errno}");
        }
        for errno in [13, 30, 20, 36] {
            assert!(!passes(&generic(std::io::Error::from_raw_os_error(errno))), "os error {errno}");
        }
        for status in ["500 Internal", "503 Slow Down", "429 Too Many", "408 Timeout"] {
            assert!(passes(&generic(format!("Server returned non-2xx status code: {status}"))), "{status}");
        }
        assert!(!passes(&generic("Server returned non-2xx status code: 400 Bad Request")));
        assert!(passes(&generic("error sending request")));
        let path = || "log/1".to_owned();
        assert!(!passes(&object_store::Error::PermissionDenied { path: path(), source: "no".into() }));
        assert!(!passes(&object_store::Error::NotFound { path: path(), source: "no bucket".into() }));
        assert!(!passes(&object_store::Error::NotImplemented { operation: "put".into(), implementer: "it".into() }));
    }

    #[test]
    fn an_outage_is_waited_out_with_one_warning_and_one_line_when_it_ends() {
        let (patience, said) = patience(&Arc::default());
        let tries = AtomicU32::new(0);
        let found = patience.wait_out(|| match tries.fetch_add(1, Ordering::SeqCst) {
            0..4 => Err(from_store(generic("no answer"))),
            n => Ok(n),
        });
        assert_eq!(found.unwrap(), 4);
        let said = said.lock().unwrap();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("s3://bucket/run") && said[0].contains("no answer"), "{said:?}");
        assert!(said[1].contains("works again") && said[1].contains("4 tries"), "{said:?}");
    }

    #[test]
    fn a_store_that_flaps_warns_once_a_minute() {
        let (patience, said) = patience(&Arc::default());
        for _ in 0..5 {
            let mut failed = false;
            let ask = || if std::mem::replace(&mut failed, true) { Ok(()) } else { Err(from_store(generic("no"))) };
            patience.wait_out(ask).unwrap();
        }
        assert_eq!(said.lock().unwrap().len(), 2);
    }

    #[test]
    fn no_patience_and_no_rights_end_at_once() {
        let tries = AtomicU32::new(0);
        let ask = |error: fn() -> object_store::Error| {
            tries.fetch_add(1, Ordering::SeqCst);
            Err::<(), _>(from_store(error()))
        };
        Patience::none().wait_out(|| ask(|| generic("no answer"))).unwrap_err();
        assert_eq!(tries.load(Ordering::SeqCst), 1);
        let (patience, said) = patience(&Arc::default());
        let denied = || object_store::Error::PermissionDenied { path: "a".into(), source: "no".into() };
        patience.wait_out(|| ask(denied)).unwrap_err();
        assert_eq!(tries.load(Ordering::SeqCst), 2);
        assert!(said.lock().unwrap().is_empty());
    }

    #[test]
    fn a_wait_ends_soon_when_it_is_told_to() {
        let stop = Arc::new(AtomicBool::new(false));
        let (patience, _) = patience(&stop);
        let patience = patience.with_waits(Duration::from_secs(60), Duration::from_secs(60));
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                stop.store(true, Ordering::SeqCst);
            });
            patience.wait_out(|| Err::<(), _>(from_store(generic("no answer")))).unwrap_err();
        });
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}
