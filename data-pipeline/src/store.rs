//! Object stores by URI: paths, `file://`, `s3://`, `gs://`, `az://` (also `abfs[s]://`), `http(s)://`,
//! `hf://datasets/owner/name`.
//!
//! The text behind the bucket of `s3://`, `gs://` and `az://` is a key, character by character, as the stores' own tools read
//! it; behind `file://` and `http(s)://` it is percent-encoded. Credentials and endpoints come from the environment, under the names that the stores' own tools use
//! (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME` …).

mod encoded;
mod hub;
mod keys;
mod open;
mod pattern;
mod trouble;
mod web;

use std::fmt;
use std::ops::Range;
use std::path::{Component, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, ObjectStoreScheme};
use url::Url;

use crate::error::{DataError, Result};
pub use pattern::Pattern;
pub use trouble::Trouble;

/// Tries of an answer whose body breaks off. The library goes on in the middle of an object, where an ETag proves that
/// both halves are of one version; lists and objects without an ETag are asked for anew.
const BODY_TRIES: u32 = 6;
/// Wait before the first new try; it doubles.
const BODY_WAIT: Duration = Duration::from_millis(50);

/// A place in an object store: an object or a prefix.
#[derive(Clone)]
pub struct Location {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The same store, where single parts of an object can be sent, and sent again, under an upload's id.
    pub parts: Option<Arc<dyn MultipartStore>>,
    /// The object or prefix inside the store.
    pub path: Path,
    uri: String,
    /// Whether empty parts of a name count: they do in keys, and not in a file system.
    keeps_empty: bool,
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Location").field("uri", &self.uri).field("path", &self.path).finish_non_exhaustive()
    }
}

impl Location {
    /// The place that `uri` names. Opens no connection.
    ///
    /// # Errors
    /// [`DataError::BadUri`] for an unknown scheme or an unusable path, [`DataError::Store`] when the environment's
    /// settings for the store do not fit together.
    pub fn parse(uri: &str) -> Result<Self> {
        open::install_tls();
        let bad = |reason: String| DataError::BadUri { uri: uri.into(), reason };
        if uri.is_empty() {
            return Err(bad("it is empty".into()));
        }
        if !uri.contains("://") {
            return Self::local(uri);
        }
        if let Some(place) = hub::open(uri)? {
            return Ok(place);
        }
        let (root, written) = cut(uri);
        let is_web = uri.starts_with("http://") || uri.starts_with("https://");
        // A key is no path of an address: it may have empty parts, and characters that end one.
        let url = Url::parse(if is_web { uri } else { root }).map_err(|e| bad(e.to_string()))?;
        let (scheme, path) = ObjectStoreScheme::parse(&url).map_err(|e| bad(e.to_string()))?;
        let path = match (url.scheme(), &scheme) {
            // A number sign or a question mark of a name would end the path of an address.
            ("file", _) => {
                let decoded =
                    percent_encoding::percent_decode_str(written).decode_utf8().map_err(|e| bad(e.to_string()))?;
                keys::join(&Path::default(), &decoded, false)
            }
            ("http" | "https", _) if url.query().is_some() || url.fragment().is_some() => {
                return Err(bad(
                    "a web address with `?` or `#`; signed addresses cannot be listed or read in ranges. \
                                In a name write %3F and %23"
                        .into(),
                ));
            }
            ("http" | "https", _) => path,
            _ => keys::join(&Path::default(), written, true),
        };
        let open::Opened { store, parts } = open::open(&scheme, &url).map_err(|source| DataError::Store {
            uri: uri.into(),
            action: "open the store",
            advice: ". Check the store's variables in the environment",
            source: Box::new(source),
        })?;
        let keeps_empty = !matches!(scheme, ObjectStoreScheme::Local);
        Ok(Self { store, parts, path, uri: uri.trim_end_matches('/').into(), keeps_empty })
    }

    fn local(path: &str) -> Result<Self> {
        let bad = |reason: String| DataError::BadUri { uri: path.into(), reason };
        let absolute = std::path::absolute(path).map_err(|e| bad(e.to_string()))?;
        let object_path = Path::from_absolute_path(without_parents(&absolute)).map_err(|e| bad(e.to_string()))?;
        let uri = path.trim_end_matches('/').into();
        Ok(Self { store: open::local(), parts: None, path: object_path, uri, keeps_empty: false })
    }

    /// The URI this place was made from, as people wrote it.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The place called `name` below this one; `name` may hold several parts separated by `/`. Every character stands for
    /// itself.
    pub fn child(&self, name: &str) -> Self {
        let path = keys::join(&self.path, name, self.keeps_empty);
        Self { path, uri: format!("{}/{name}", self.uri), ..self.clone() }
    }

    /// Every object below this prefix whose name ends in `suffix`, sorted by path. An object itself counts as its own
    /// listing.
    ///
    /// # Errors
    /// [`DataError::Store`] when the store cannot be listed, which most web servers cannot; [`DataError::BadUri`] for a key
    /// that begins with a slash, which cannot be read.
    pub async fn list(&self, suffix: &str) -> Result<Vec<(Self, ObjectMeta)>> {
        // A web server that cannot list can still hand out the one file that was named.
        if self.is_web() && !suffix.is_empty() && self.path.as_ref().ends_with(suffix) {
            return Ok(vec![(self.clone(), self.head().await?)]);
        }
        let mut found: Vec<ObjectMeta> = match whole(|| self.store.list(Some(&self.path)).try_collect()).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => Vec::new(),
            Err(source) => return Err(self.error("list", source)),
        };
        if found.is_empty() && !suffix.is_empty() && self.path.as_ref().ends_with(suffix) {
            found.push(self.head().await?);
        }
        found.retain(|meta| meta.location.as_ref().ends_with(suffix));
        for meta in &mut found {
            meta.location = keys::restored(&meta.location).ok_or_else(|| DataError::BadUri {
                uri: format!("{}/{}", self.uri, meta.location),
                reason: "its key begins with a slash, which cannot be read here. Rename the object".into(),
            })?;
        }
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found.into_iter().map(|meta| (self.at(&meta.location), meta)).collect())
    }

    /// [`Self::list`] without hidden files and those that software keeps beside data: names that begin with `.` or `_`, and
    /// all below such a folder (`_temporary/`, `.ipynb_checkpoints/`, parts of unfinished shards).
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn list_data(&self, suffix: &str) -> Result<Vec<(Self, ObjectMeta)>> {
        let mut found = self.list(suffix).await?;
        found.retain(|(object, _)| !self.below(&object.path).split('/').any(|part| part.starts_with(['_', '.'])));
        Ok(found)
    }

    /// The name of `path` below this place; empty for this place itself and for what is not below it.
    pub fn below<'a>(&self, path: &'a Path) -> &'a str {
        let whole = path.as_ref();
        match self.path.as_ref() {
            "" => whole,
            own => whole.strip_prefix(own).and_then(|below| below.strip_prefix('/')).unwrap_or_default(),
        }
    }

    /// This place's object at `path`, with a URI that people can paste.
    fn at(&self, path: &Path) -> Self {
        let below = self.below(path);
        let uri = if below.is_empty() { self.uri.clone() } else { format!("{}/{below}", self.uri) };
        Self { path: path.clone(), uri, ..self.clone() }
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
    pub async fn read(&self) -> Result<Bytes> {
        let get = || async { self.store.get(&self.path).await?.bytes().await };
        whole(get).await.map_err(|e| self.error("read", e))
    }

    /// Size, ETag and time of the object.
    ///
    /// # Errors
    /// [`DataError::Store`].
    pub async fn head(&self) -> Result<ObjectMeta> {
        self.store.head(&self.path).await.map_err(|e| self.error("read", e))
    }

    /// Exactly the bytes of `range`, of the version that `if_match` names (an ETag as [`Self::head`] and
    /// [`Self::list`] give it) or of any version.
    ///
    /// # Errors
    /// [`DataError::Changed`] when the object has another ETag or ends before the range does, as far as the store can
    /// tell; otherwise [`DataError::Store`].
    pub async fn read_range(&self, range: Range<u64>, if_match: Option<&str>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let source = match self.try_range(range.clone(), if_match).await {
            Ok((found, bytes)) => {
                self.check_version(if_match, found.e_tag.as_deref())?;
                let wanted = range.end - range.start;
                return if bytes.len() as u64 == wanted {
                    Ok(bytes)
                } else {
                    Err(self.changed(format!("{} bytes from byte {} on, not {wanted}", bytes.len(), range.start)))
                };
            }
            Err(object_store::Error::Precondition { .. }) => {
                return Err(self.changed(format!("its version is no longer {}", if_match.unwrap_or("*"))));
            }
            Err(source) => source,
        };
        // A range behind the end and a version that changed in the middle of a body have no error of their own.
        if matches!(source, object_store::Error::Generic { .. })
            && let Ok(now) = self.store.head(&self.path).await
        {
            self.check_version(if_match, now.e_tag.as_deref())?;
            if now.size < range.end {
                return Err(self.changed(format!("{} bytes, not at least {}", now.size, range.end)));
            }
        }
        Err(self.error("read", source))
    }

    /// [`Self::read_range`] for several ranges: neighbours are read together, up to ten at the same time.
    ///
    /// # Errors
    /// Those of [`Self::read_range`], the first one.
    pub async fn read_ranges(&self, ranges: &[Range<u64>], if_match: Option<&str>) -> Result<Vec<Bytes>> {
        let gap = object_store::OBJECT_STORE_COALESCE_DEFAULT;
        object_store::coalesce_ranges(ranges, |range| self.read_range(range, if_match), gap).await
    }

    /// The bytes of a range, and what is known of the version that they are of. An object that ends earlier gives fewer.
    ///
    /// # Errors
    /// [`DataError::Store`].
    pub(crate) async fn read_version(&self, range: Range<u64>) -> Result<(ObjectMeta, Bytes)> {
        self.try_range(range, None).await.map_err(|e| self.error("read", e))
    }

    /// One read of a range: what is known of the object, and the bytes.
    async fn try_range(&self, range: Range<u64>, if_match: Option<&str>) -> object_store::Result<(ObjectMeta, Bytes)> {
        // A weak ETag never satisfies If-Match (RFC 9110, 13.1.1); it is compared afterwards instead.
        let condition = if_match.filter(|etag| !etag.starts_with("W/"));
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(range))).with_if_match(condition);
        let get = || async {
            let got = self.store.get_opts(&self.path, options.clone()).await?;
            Ok((got.meta.clone(), got.bytes().await?))
        };
        whole(get).await
    }

    fn check_version(&self, wanted: Option<&str>, found: Option<&str>) -> Result<()> {
        // Azure's lists give ETags without the quotation marks that its answers have.
        let bare = |etag: &str| etag.trim_matches('"').to_owned();
        match (wanted, found) {
            (Some(wanted), Some(found)) if bare(wanted) != bare(found) => {
                Err(self.changed(format!("its version is {found}, not {wanted}")))
            }
            _ => Ok(()),
        }
    }

    fn changed(&self, what: String) -> DataError {
        DataError::Changed { uri: self.uri.clone(), what }
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
    pub async fn write(&self, bytes: impl Into<Bytes>) -> Result<()> {
        let payload = object_store::PutPayload::from(bytes.into());
        self.store.put(&self.path, payload).await.map_err(|e| self.error("write", e))?;
        Ok(())
    }

    /// Wraps a store error with this place's URI and what to do about it.
    pub fn error(&self, action: &'static str, source: object_store::Error) -> DataError {
        let advice = if action == "list" && self.is_web() { CANNOT_LIST } else { advice(&source) };
        DataError::Store { uri: self.uri.clone(), action, advice, source: Box::new(source) }
    }

    /// Whether it is on a web server, most of which cannot list.
    pub(crate) fn is_web(&self) -> bool {
        self.uri.starts_with("http://") || self.uri.starts_with("https://")
    }
}

/// A URI up to its host or bucket, and the text behind the slash after it.
fn cut(uri: &str) -> (&str, &str) {
    let host = uri.find("://").map_or(0, |at| at + 3);
    match uri[host..].find('/') {
        Some(slash) => (&uri[..host + slash], &uri[host + slash + 1..]),
        None => (uri, ""),
    }
}

/// What `ask` gives, asked again while the body of the answer breaks off.
async fn whole<T, F: Future<Output = object_store::Result<T>>>(ask: impl Fn() -> F) -> object_store::Result<T> {
    let began = Instant::now();
    let mut tries = 1;
    loop {
        match ask().await {
            Err(error) if broke_off(&error) && tries < BODY_TRIES && began.elapsed() < open::RETRY_BUDGET => {
                tokio::time::sleep(BODY_WAIT * (1 << (tries - 1))).await;
                tries += 1;
            }
            other => return other,
        }
    }
}

/// Whether an answer began and did not end. Requests that the library has tried again itself say "Error performing".
fn broke_off(error: &object_store::Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    let mut causes = std::iter::successors(Some(first), |cause| cause.source());
    causes.any(|cause| cause.is::<object_store::client::HttpError>()) && !error.to_string().contains("Error performing")
}

/// `path` with each `..` and what it leaves taken out, as a shell's `cd` does: a symbolic link counts as a folder.
fn without_parents(path: &std::path::Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = plain.pop(),
            other => plain.push(other),
        }
    }
    plain
}

const CANNOT_LIST: &str = ". Most web servers cannot list a folder (those with WebDAV can): name one *.parquet file, or \
                           use a path, s3://, gs:// or az://";

/// What a person can do about a store error; empty or starting with ". ".
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
        _ if text.contains("Range request not supported") || text.contains("non-partial response") => {
            ". This server hands out whole files only; reading needs one that answers Range requests"
        }
        E::NotImplemented { .. } | E::NotSupported { .. } => {
            ". This store is read-only here; write to a path, s3://, gs:// or az://"
        }
        _ if text.contains("Permission denied") => ". Check the rights on this path",
        _ if text.contains("error sending request") || text.contains("retries, max_retries") => {
            ". The store did not answer, or only with errors, for as long as was tried: check its address in the \
             environment, the network and the store's own log, then run the same command again"
        }
        _ => "",
    }
}
