//! Stores with the patience that training needs: how long to wait, how often to try again.

use std::sync::{Arc, Once};
use std::time::Duration;

use object_store::client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService};
use object_store::http::HttpStore;
use object_store::multipart::MultipartStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use super::encoded::EncodedKeys;
use super::keys::with_named_empty_parts;
use super::web::WebServer;

/// A connection that takes longer is not coming.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A read that brings no byte for this long has failed. It counts anew from every byte that arrives, so a large body on
/// a slow link takes the time it takes, while a stalled connection costs this much and no more (the library's default
/// is 30 s for the whole request, which does both wrong).
const READ_SILENCE: Duration = Duration::from_secs(8);
/// A write without an answer for this long has failed. Progress of a body that is being sent is not seen, so it is
/// longer: a part of 16 MiB, the largest that is written, needs 0.6 MB/s.
const WRITE_SILENCE: Duration = Duration::from_secs(30);
/// A request is tried again for this long: a store that restarts or fails over is back within a minute, and a run that
/// waited longer would rather know. The library's default is three minutes.
pub(super) const RETRY_BUDGET: Duration = Duration::from_secs(60);
/// The count must not end the tries before the budget does. With the library's 10 tries and doubling, requests that
/// fail at once give up after 2.6 s (median of 4,000 draws, 95 % within 6.8 s): its jitter draws each wait between the
/// first wait and `base` times the last one. With the numbers here the median is the whole budget, in 26 tries.
const MOST_RETRIES: usize = 40;
/// First wait; all later ones are drawn, so that ranks which failed together come back apart.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait: a store that is back is noticed within this time.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const WAIT_GROWTH: f64 = 3.0;

/// reqwest is built without a TLS provider of its own; ring is chosen once per process.
pub(super) fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An Err means that the program chose a provider already, which serves as well.
        let _already_chosen = rustls::crypto::ring::default_provider().install_default();
    });
}

/// The file system; what was written is on the disk before it counts as written.
pub(super) fn local() -> Arc<dyn ObjectStore> {
    Arc::new(object_store::local::LocalFileSystem::new().with_fsync(true))
}

/// A store of a builder; the builders are alike and share no trait.
macro_rules! patient {
    ($builder:expr, $retries:expr) => {
        $builder.with_client_options(options()).with_retry($retries).with_http_connector(Patience).build()
    };
}

/// A store that was opened.
pub(super) struct Opened {
    pub(super) store: Arc<dyn ObjectStore>,
    /// The same, for those whose parts can be sent one by one.
    pub(super) parts: Option<Arc<dyn MultipartStore>>,
}

impl Opened {
    fn in_parts(store: impl ObjectStore + MultipartStore) -> Self {
        let store = Arc::new(store);
        Self { store: store.clone(), parts: Some(store) }
    }

    fn whole(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, parts: None }
    }
}

/// The store that a URI's scheme and host name. Opens no connection.
pub(super) fn open(scheme: &ObjectStoreScheme, url: &Url) -> object_store::Result<Opened> {
    let url_text = url.as_str();
    Ok(match scheme {
        ObjectStoreScheme::Local => Opened::whole(local()),
        ObjectStoreScheme::AmazonS3 => {
            Opened::in_parts(patient!(object_store::aws::AmazonS3Builder::from_env().with_url(url_text), retries())?)
        }
        ObjectStoreScheme::GoogleCloudStorage => Opened::in_parts(EncodedKeys(patient!(
            object_store::gcp::GoogleCloudStorageBuilder::from_env().with_url(url_text),
            retries()
        )?)),
        ObjectStoreScheme::MicrosoftAzure => Opened::in_parts(patient!(
            object_store::azure::MicrosoftAzureBuilder::from_env().with_url(url_text),
            retries()
        )?),
        ObjectStoreScheme::Http => {
            let root = &url[..url::Position::BeforePath];
            // "This server cannot list" comes as 501, which counts as passing: few tries, so that it is told soon.
            let few = RetryConfig { max_retries: 4, ..retries() };
            let objects = web(root, options(), retries())?;
            Opened::whole(Arc::new(WebServer { objects, listing: web(root, options(), few)? }))
        }
        other => {
            return Err(object_store::Error::NotSupported {
                source: format!("scheme {other:?} is not offered").into(),
            });
        }
    })
}

/// A web server below `root`.
pub(super) fn web(root: &str, options: ClientOptions, retries: RetryConfig) -> object_store::Result<HttpStore> {
    let builder = object_store::http::HttpBuilder::new().with_url(root);
    builder.with_client_options(options).with_retry(retries).with_http_connector(Patience).build()
}

pub(super) fn options() -> ClientOptions {
    ClientOptions::new().with_timeout_disabled().with_connect_timeout(CONNECT_TIMEOUT).with_allow_http(true)
}

pub(super) fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { init_backoff: FIRST_WAIT, max_backoff: LONGEST_WAIT, base: WAIT_GROWTH },
        max_retries: MOST_RETRIES,
        retry_timeout: test_budget().unwrap_or(RETRY_BUDGET),
    }
}

/// For tests of what waits longer than this budget: `BLIP2_TEST_STORE_BUDGET_MS` shortens it.
fn test_budget() -> Option<Duration> {
    std::env::var("BLIP2_TEST_STORE_BUDGET_MS").ok()?.parse().ok().map(Duration::from_millis)
}

/// Makes clients that wait for reads and writes differently.
#[derive(Debug)]
struct Patience;

impl HttpConnector for Patience {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = |silence| {
            object_store::client::ReqwestConnector::default().connect(&options.clone().with_read_timeout(silence))
        };
        Ok(HttpClient::new(PatientClient { reads: client(READ_SILENCE)?, writes: client(WRITE_SILENCE)? }))
    }
}

#[derive(Debug)]
struct PatientClient {
    reads: HttpClient,
    writes: HttpClient,
}

#[async_trait::async_trait]
impl HttpService for PatientClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let client = if matches!(request.method().as_str(), "PUT" | "POST") { &self.writes } else { &self.reads };
        let is_listing = request.method() == "GET" && request.uri().query().is_some_and(is_listing);
        let response = client.execute(request).await?;
        if !is_listing || !response.status().is_success() {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        Ok(HttpResponse::from_parts(head, with_named_empty_parts(body.bytes().await?).into()))
    }
}

/// Whether a query asks for a listing of S3, Google's store or Azure.
fn is_listing(query: &str) -> bool {
    query.split('&').any(|pair| matches!(pair, "list-type=2" | "comp=list"))
}
