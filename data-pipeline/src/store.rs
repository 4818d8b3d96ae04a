//! Object stores by URI: paths, `file://`, `s3://`, `gs://`, `az://` (also `abfs[s]://`), `http(s)://`.
//!
//! Credentials and endpoints come from the environment, under the names that the stores' own tools use
//! (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME` …).

use std::sync::{Arc, Once};
use std::time::Duration;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, ObjectStoreScheme};
use url::Url;

use crate::error::{DataError, Result};

/// No answer within this time counts as a failed try. The library's default is 30 s; a stalled connection costs one
/// such wait per request, so it stays well below.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that takes longer is not coming.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A place in an object store: an object or a prefix.
#[derive(Clone, Debug)]
pub struct Location {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The object or prefix inside the store.
    pub path: Path,
    uri: String,
}

impl Location {
    /// The place that `uri` names. Opens no connection.
    ///
    /// # Errors
    /// [`DataError::BadUri`] for an unknown scheme or an unusable path, [`DataError::Store`] when the environment's
    /// settings for the store do not fit together.
    pub fn parse(uri: &str) -> Result<Self> {
        install_tls();
        let bad = |reason: String| DataError::BadUri { uri: uri.into(), reason };
        if uri.is_empty() {
            return Err(bad("it is empty".into()));
        }
        if !uri.contains("://") {
            return Self::local(uri);
        }
        let url = Url::parse(uri).map_err(|e| bad(e.to_string()))?;
        let (scheme, path) = ObjectStoreScheme::parse(&url).map_err(|e| bad(e.to_string()))?;
        let path = Path::parse(path).map_err(|e| bad(e.to_string()))?;
        let store = open(&scheme, &url).map_err(|source| DataError::Store {
            uri: uri.into(),
            action: "open the store",
            advice: ". Check the store's variables in the environment",
            source: Box::new(source),
        })?;
        Ok(Self { store, path, uri: uri.trim_end_matches('/').into() })
    }

    fn local(path: &str) -> Result<Self> {
        let bad = |reason: String| DataError::BadUri { uri: path.into(), reason };
        let absolute = std::path::absolute(path).map_err(|e| bad(e.to_string()))?;
        let object_path = Path::from_absolute_path(&absolute).map_err(|e| bad(e.to_string()))?;
        let store = Arc::new(object_store::local::LocalFileSystem::new().with_fsync(true));
        Ok(Self { store, path: object_path, uri: path.trim_end_matches('/').into() })
    }

    /// The URI this place was made from, as people wrote it.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The place called `name` below this one; `name` may hold several parts separated by `/`.
    pub fn child(&self, name: &str) -> Self {
        let mut path = self.path.clone();
        for part in name.split('/').filter(|part| !part.is_empty()) {
            path = path.join(part);
        }
        Self { store: self.store.clone(), path, uri: format!("{}/{name}", self.uri) }
    }

    /// Every object below this prefix whose name ends in `suffix`, sorted by path. An object itself counts as its own
    /// listing.
    ///
    /// # Errors
    /// [`DataError::Store`] when the store cannot be listed.
    pub async fn list(&self, suffix: &str) -> Result<Vec<(Self, ObjectMeta)>> {
        let mut found: Vec<ObjectMeta> = match self.store.list(Some(&self.path)).try_collect().await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => Vec::new(),
            Err(source) => return Err(self.error("list", source)),
        };
        if found.is_empty() && !suffix.is_empty() && self.path.as_ref().ends_with(suffix) {
            found.push(self.store.head(&self.path).await.map_err(|e| self.error("read", e))?);
        }
        found.retain(|meta| meta.location.as_ref().ends_with(suffix));
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found.into_iter().map(|meta| (self.at(&meta.location), meta)).collect())
    }

    /// This place's object at `path`, with a URI that people can paste.
    fn at(&self, path: &Path) -> Self {
        let below = path.as_ref().strip_prefix(self.path.as_ref()).unwrap_or_default().trim_start_matches('/');
        let uri = if below.is_empty() { self.uri.clone() } else { format!("{}/{below}", self.uri) };
        Self { store: self.store.clone(), path: path.clone(), uri }
    }

    /// Whether there is an object here.
    ///
    /// # Errors
    /// [`DataError::Store`] when the store does not tell.
    pub async fn exists(&self) -> Result<bool> {
        match self.store.head(&self.path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.error("read", error)),
        }
    }

    /// The whole object.
    ///
    /// # Errors
    /// [`DataError::Store`].
    pub async fn read(&self) -> Result<bytes::Bytes> {
        let got = self.store.get(&self.path).await.map_err(|e| self.error("read", e))?;
        got.bytes().await.map_err(|e| self.error("read", e))
    }

    /// The whole object; `None` when there is none.
    ///
    /// # Errors
    /// [`DataError::Store`].
    pub async fn read_if_there(&self) -> Result<Option<bytes::Bytes>> {
        match self.store.get(&self.path).await {
            Ok(got) => got.bytes().await.map(Some).map_err(|e| self.error("read", e)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.error("read", source)),
        }
    }

    /// Deletes the object, which may be gone already.
    ///
    /// # Errors
    /// [`DataError::Store`].
    pub async fn delete(&self) -> Result<()> {
        match self.store.delete(&self.path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.error("delete", source)),
        }
    }

    /// Writes the whole object at once: it appears complete or not at all.
    ///
    /// # Errors
    /// [`DataError::Store`].
    pub async fn write(&self, bytes: impl Into<bytes::Bytes>) -> Result<()> {
        let payload = object_store::PutPayload::from(bytes.into());
        self.store.put(&self.path, payload).await.map_err(|e| self.error("write", e))?;
        Ok(())
    }

    /// Wraps a store error with this place's URI and what to do about it.
    pub fn error(&self, action: &'static str, source: object_store::Error) -> DataError {
        DataError::Store { uri: self.uri.clone(), action, advice: advice(&source), source: Box::new(source) }
    }
}

/// What a person can do about a store error.
fn advice(source: &object_store::Error) -> &'static str {
    use object_store::Error as E;
    let text = source.to_string();
    match source {
        _ if text.contains("No space left") || text.contains("os error 28") => {
            ". The disk is full: free some space and run the same command again"
        }
        E::NotFound { .. } => ". Check the URI, and that the object was not moved or deleted",
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            ". Check the credentials in the environment and their rights on this path"
        }
        E::NotImplemented { .. } | E::NotSupported { .. } => {
            ". This store is read-only here; write to a path, s3://, gs:// or az://"
        }
        _ if text.contains("Permission denied") => ". Check the rights on this path",
        _ => "",
    }
}

/// reqwest is built without a TLS provider of its own; ring is chosen once per process.
fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An Err means that the program chose a provider already, which serves as well.
        let _already_chosen = rustls::crypto::ring::default_provider().install_default();
    });
}

fn open(scheme: &ObjectStoreScheme, url: &Url) -> object_store::Result<Arc<dyn ObjectStore>> {
    let options = object_store::ClientOptions::new()
        .with_timeout(REQUEST_TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http(true);
    let url_text = url.as_str();
    Ok(match scheme {
        ObjectStoreScheme::Local => Arc::new(object_store::local::LocalFileSystem::new().with_fsync(true)),
        ObjectStoreScheme::AmazonS3 => Arc::new(
            object_store::aws::AmazonS3Builder::from_env().with_url(url_text).with_client_options(options).build()?,
        ),
        ObjectStoreScheme::GoogleCloudStorage => Arc::new(
            object_store::gcp::GoogleCloudStorageBuilder::from_env()
                .with_url(url_text)
                .with_client_options(options)
                .build()?,
        ),
        ObjectStoreScheme::MicrosoftAzure => Arc::new(
            object_store::azure::MicrosoftAzureBuilder::from_env()
                .with_url(url_text)
                .with_client_options(options)
                .build()?,
        ),
        ObjectStoreScheme::Http => Arc::new(
            object_store::http::HttpBuilder::new()
                .with_url(&url[..url::Position::BeforePath])
                .with_client_options(options)
                .build()?,
        ),
        other => {
            return Err(object_store::Error::NotSupported {
                source: format!("scheme {other:?} is not offered").into(),
            });
        }
    })
}
