//! Data sets of the Hugging Face hub: `hf://datasets/owner/name`, `…@revision`, and a path or pattern below it.
//!
//! Files are listed and read in ranges at `HF_ENDPOINT`; `HF_TOKEN` opens those that are not public. With
//! `HF_HUB_OFFLINE=1` they are read where Python's software keeps what it has downloaded.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::http::HttpStore;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LINK};
use serde::Deserialize;

use super::{Location, keys, open};
use crate::error::{DataError, Result};

const SCHEME: &str = "hf://";
const DATASETS: &str = "datasets/";
const ENDPOINT: &str = "https://huggingface.co";
/// Tries of a page of a listing, and the wait before the second one.
const TRIES: u32 = 4;
const WAIT: Duration = Duration::from_millis(500);

/// Settings that Python's software reads from the environment under these names.
struct Settings {
    endpoint: String,
    token: Option<String>,
    cache: PathBuf,
    is_offline: bool,
}

impl Settings {
    fn of_environment() -> Self {
        let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = || value("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let caches = || value("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
        let hub = || value("HF_HOME").map_or_else(|| caches().join("huggingface"), PathBuf::from).join("hub");
        let cache = value("HF_HUB_CACHE").or_else(|| value("HUGGINGFACE_HUB_CACHE"));
        let offline = value("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_uppercase();
        Self {
            endpoint: value("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into()).trim_end_matches('/').to_owned(),
            token: value("HF_TOKEN"),
            cache: cache.map_or_else(hub, PathBuf::from),
            is_offline: ["1", "ON", "YES", "TRUE"].contains(&offline.as_str()),
        }
    }
}

/// A data set and a path in it.
#[derive(Debug, PartialEq, Eq)]
struct Dataset<'a> {
    name: String,
    revision: &'a str,
    path: String,
}

impl<'a> Dataset<'a> {
    /// `owner/name[@revision][/path]`.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.trim_matches('/').split('/');
        let (owner, name) = (parts.next()?, parts.next()?);
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let is_whole = ![owner, name, revision].contains(&"");
        is_whole.then(|| Self { name: format!("{owner}/{name}"), revision, path: parts.collect::<Vec<_>>().join("/") })
    }
}

/// The place that an address of the hub names; none for another address. Opens no connection.
///
/// # Errors
/// [`DataError::BadUri`] for an address of the hub that is no data set's, or one that is not kept here while offline.
pub(super) fn open(uri: &str) -> Result<Option<Location>> {
    let Some(rest) = uri.strip_prefix(SCHEME) else { return Ok(None) };
    open_with(uri, rest, &Settings::of_environment()).map(Some)
}

fn open_with(uri: &str, rest: &str, settings: &Settings) -> Result<Location> {
    let bad = |reason: String| DataError::BadUri { uri: uri.into(), reason };
    let Some(dataset) = rest.strip_prefix(DATASETS).and_then(Dataset::parse) else {
        return Err(bad(
            "data of the hub are hf://datasets/owner/name, or hf://datasets/owner/name@revision/path".into()
        ));
    };
    if settings.is_offline {
        let folder = kept(&settings.cache, &dataset).ok_or_else(|| {
            bad(format!(
                "HF_HUB_OFFLINE is set, and revision {} is not in {}. Download it where there is a network \
                 (`hf download --repo-type dataset {}`), or set HF_HUB_CACHE to the folder that has it",
                dataset.revision,
                settings.cache.display(),
                dataset.name
            ))
        })?;
        let place = Location::local(&folder.join(&dataset.path).display().to_string())?;
        return Ok(Location { uri: uri.trim_end_matches('/').into(), ..place });
    }
    let mut headers = HeaderMap::new();
    if let Some(token) = &settings.token {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|e| bad(format!("HF_TOKEN: {e}")))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    let store = HubStore::new(settings, &dataset, headers).map_err(|error| bad(error.to_string()))?;
    let path = keys::join(&Path::default(), &dataset.path, false);
    let uri = uri.trim_end_matches('/').to_owned();
    Ok(Location { store: Arc::new(store), parts: None, path, uri, keeps_empty: false })
}

/// The folder of a revision that was downloaded.
fn kept(cache: &std::path::Path, dataset: &Dataset<'_>) -> Option<PathBuf> {
    let folder = cache.join(format!("datasets--{}", dataset.name.replace('/', "--")));
    let commit = std::fs::read_to_string(folder.join("refs").join(dataset.revision));
    let snapshot = folder.join("snapshots").join(commit.as_deref().map_or(dataset.revision, str::trim));
    snapshot.is_dir().then_some(snapshot)
}

/// A revision of a data set, for reading.
#[derive(Debug)]
struct HubStore {
    files: HttpStore,
    tree: Tree,
}

/// The listing of a revision.
#[derive(Clone, Debug)]
struct Tree {
    client: reqwest::Client,
    /// Address of the listing of the whole revision.
    address: String,
}

/// An entry of a listing.
#[derive(Deserialize)]
struct Entry {
    r#type: String,
    path: String,
    #[serde(default)]
    size: u64,
}

impl HubStore {
    fn new(settings: &Settings, dataset: &Dataset<'_>, headers: HeaderMap) -> object_store::Result<Self> {
        let (endpoint, Dataset { name, revision, .. }) = (&settings.endpoint, dataset);
        let revision = percent_encoding::utf8_percent_encode(revision, percent_encoding::NON_ALPHANUMERIC);
        let root = format!("{endpoint}/datasets/{name}/resolve/{revision}");
        let options = open::options().with_default_headers(headers.clone());
        let client = reqwest::Client::builder().default_headers(headers).read_timeout(Duration::from_secs(30)).build();
        let address = format!("{endpoint}/api/datasets/{name}/tree/{revision}");
        let tree = Tree { client: client.map_err(generic)?, address };
        Ok(Self { files: open::web(&root, options, open::retries())?, tree })
    }
}

impl Tree {
    /// One page of a listing, and the address of the next one.
    async fn page(&self, address: &str) -> object_store::Result<(Vec<Entry>, Option<String>)> {
        let mut tries = 1;
        loop {
            let passes = match self.client.get(address).send().await {
                Ok(answer) if answer.status().is_success() => {
                    let next = answer.headers().get(LINK).and_then(|link| next_page(link.to_str().ok()?));
                    let body = answer.bytes().await.map_err(generic)?;
                    return Ok((serde_json::from_slice(&body).map_err(generic)?, next));
                }
                Ok(answer) => {
                    let (status, path) = (answer.status().as_u16(), address.to_owned());
                    let source = format!("the hub answers {}", answer.status()).into();
                    match status {
                        404 => return Err(Error::NotFound { path, source }),
                        401 => return Err(Error::Unauthenticated { path, source }),
                        403 => return Err(Error::PermissionDenied { path, source }),
                        429 | 500.. => Error::Generic { store: "hub", source },
                        _ => return Err(Error::Generic { store: "hub", source }),
                    }
                }
                Err(error) => generic(error),
            };
            if tries == TRIES {
                return Err(passes);
            }
            tokio::time::sleep(WAIT * 2_u32.pow(tries - 1)).await;
            tries += 1;
        }
    }

    async fn all(&self, prefix: &str) -> object_store::Result<Vec<ObjectMeta>> {
        let encoded =
            |part| percent_encoding::utf8_percent_encode(part, percent_encoding::NON_ALPHANUMERIC).to_string();
        let below = format!("{}/{}", self.address, prefix.split('/').map(encoded).collect::<Vec<_>>().join("/"));
        let mut next = Some(format!("{}?recursive=true", below.trim_end_matches('/')));
        let mut found = Vec::new();
        while let Some(address) = next {
            let (entries, following) = self.page(&address).await?;
            for entry in entries.into_iter().filter(|entry| entry.r#type == "file") {
                let location = Path::parse(&entry.path)?;
                // The hub's own hash is not the ETag that the servers of its files answer with.
                let (last_modified, size) = (Default::default(), entry.size);
                found.push(ObjectMeta { location, last_modified, size, e_tag: None, version: None });
            }
            next = following;
        }
        Ok(found)
    }
}

/// The address that a `Link` header calls `next`.
fn next_page(link: &str) -> Option<String> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    Some(next.split_once('<')?.1.split_once('>')?.0.to_owned())
}

fn generic(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic { store: "hub", source: Box::new(error) }
}

fn read_only() -> Error {
    Error::NotSupported { source: "hf:// is for reading only".into() }
}

impl fmt::Display for HubStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HubStore")
    }
}

#[async_trait::async_trait]
impl ObjectStore for HubStore {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> object_store::Result<PutResult> {
        Err(read_only())
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        Err(read_only())
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.files.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        paths.map(|_| Err(read_only())).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let tree = self.tree.clone();
        let prefix = prefix.map(ToString::to_string).unwrap_or_default();
        let all = async move {
            match tree.all(&prefix).await {
                Ok(found) => found.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            }
        };
        all.map(futures::stream::iter).flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> object_store::Result<ListResult> {
        Err(Error::NotSupported { source: "hf:// is listed as a whole".into() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        Err(read_only())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;

    fn settings(endpoint: &str, cache: &std::path::Path, is_offline: bool) -> Settings {
        super::super::open::install_tls();
        Settings { endpoint: endpoint.into(), token: Some("secret".into()), cache: cache.into(), is_offline }
    }

    /// A stand-in for the hub: one data set of two pages, the second file of which is kept elsewhere.
    fn hub() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = format!("http://{}", listener.local_addr().unwrap());
        let root = own.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let mut head = Vec::new();
                for line in BufReader::new(&connection).lines() {
                    match line.unwrap() {
                        end if end.is_empty() => break,
                        line => head.push(line.to_ascii_lowercase()),
                    }
                }
                let is_trusted = head.contains(&"authorization: bearer secret".to_owned());
                let path = head[0].split(' ').nth(1).unwrap().to_owned();
                let body = |text: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", text.len());
                let answer = match path.as_str() {
                    _ if !is_trusted => "HTTP/1.1 401 no\r\ncontent-length: 0\r\n\r\n".to_owned(),
                    "/api/datasets/o/n/tree/main/data?recursive=true" => {
                        let page = r#"[{"type": "directory", "path": "data/x"}, {"type": "file", "path": "data/a b.txt", "size": 3}]"#;
                        format!("{}link: <{root}/page2>; rel=\"next\"\r\n\r\n{page}", body(page))
                    }
                    "/page2" => {
                        let page = r#"[{"type": "file", "path": "data/train-1.txt", "size": 5, "lfs": {"oid": "x"}}]"#;
                        format!("{}\r\n{page}", body(page))
                    }
                    "/datasets/o/n/resolve/main/data/train-1.txt" => {
                        format!("HTTP/1.1 302 Found\r\nlocation: {root}/elsewhere\r\ncontent-length: 0\r\n\r\n")
                    }
                    "/elsewhere" => {
                        "HTTP/1.1 206 Partial\r\ncontent-length: 2\r\ncontent-range: bytes 1-2/5\r\n\r\nel".into()
                    }
                    _ => "HTTP/1.1 404 no\r\ncontent-length: 0\r\n\r\n".to_owned(),
                };
                connection.write_all(answer.replacen("\r\n", "\r\nconnection: close\r\n", 1).as_bytes()).unwrap();
            }
        });
        own
    }

    #[tokio::test]
    async fn a_data_set_is_listed_page_by_page_and_read_in_ranges() {
        let settings = settings(&hub(), std::path::Path::new("/nowhere"), false);
        let place = open_with("hf://datasets/o/n/data", "datasets/o/n/data", &settings).unwrap();
        let found = place.list("").await.unwrap();
        let names: Vec<(&str, u64)> = found.iter().map(|(place, meta)| (place.uri(), meta.size)).collect();
        assert_eq!(names, [("hf://datasets/o/n/data/a b.txt", 3), ("hf://datasets/o/n/data/train-1.txt", 5)]);
        assert_eq!(&found[1].0.read_range(1..3, None).await.unwrap()[..], b"el");
        let missing = open_with("hf://datasets/o/other", "datasets/o/other", &settings).unwrap();
        assert_eq!(missing.list(".parquet").await.unwrap().len(), 0);
    }

    #[tokio::test]
    async fn offline_the_downloaded_revision_is_read() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("datasets--o--n");
        std::fs::create_dir_all(folder.join("snapshots/abc/data")).unwrap();
        std::fs::create_dir_all(folder.join("refs")).unwrap();
        std::fs::create_dir_all(folder.join("blobs")).unwrap();
        std::fs::write(folder.join("refs/main"), "abc\n").unwrap();
        std::fs::write(folder.join("blobs/1"), "hello").unwrap();
        std::os::unix::fs::symlink("../../../blobs/1", folder.join("snapshots/abc/data/0.parquet")).unwrap();
        let settings = settings("http://127.0.0.1:1", cache.path(), true);
        for uri in ["hf://datasets/o/n", "hf://datasets/o/n@abc", "hf://datasets/o/n@main/data"] {
            let place = open_with(uri, uri.strip_prefix(SCHEME).unwrap(), &settings).unwrap();
            let found = place.list(".parquet").await.unwrap();
            assert_eq!(found.len(), 1, "{uri}");
            assert_eq!(&found[0].0.read().await.unwrap()[..], b"hello");
        }
        let error = open_with("hf://datasets/o/n@v2", "datasets/o/n@v2", &settings).unwrap_err().to_string();
        assert!(error.contains("HF_HUB_OFFLINE") && error.contains("v2"), "{error}");
    }

    #[test]
    fn an_address_names_a_data_set_its_revision_and_a_path() {
        let parse = |text| Dataset::parse(text).map(|it| (it.name, it.revision.to_owned(), it.path));
        assert_eq!(parse("o/n"), Some(("o/n".into(), "main".into(), String::new())));
        assert_eq!(parse("o/n@v1/data/*.parquet"), Some(("o/n".into(), "v1".into(), "data/*.parquet".into())));
        assert_eq!(parse("o"), None);
        let error = Location::parse("hf://owner/model").unwrap_err().to_string();
        assert!(error.contains("hf://datasets/owner/name"), "{error}");
    }
}
