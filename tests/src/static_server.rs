//! A small web server of files in memory: ranges, ETags and WebDAV's listing, in as little time as possible. It stands in
//! for an object store where a real server would be the bottleneck of a measurement.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use crate::connections::Connections;
use crate::http::{Message, read_message};

const TIME: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

struct File {
    bytes: Vec<u8>,
    etag: String,
}

/// The server; it ends when dropped.
pub struct StaticServer(Connections);

impl StaticServer {
    /// Serves the files below `folder` as files below `/name`.
    ///
    /// # Panics
    /// When they cannot be read.
    pub fn of_folder_as(name: &str, folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut left = vec![folder.to_path_buf()];
        while let Some(place) = left.pop() {
            for entry in std::fs::read_dir(&place).expect("a readable folder") {
                let path = entry.expect("a readable entry").path();
                if path.is_dir() {
                    left.push(path);
                    continue;
                }
                let below = path.strip_prefix(folder).expect("invariant: it lies below").display();
                files.insert(format!("{name}/{below}"), std::fs::read(&path).expect("a readable file"));
            }
        }
        Self::start(files)
    }

    /// Serves files by name.
    pub fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let with_etag = |(name, bytes): (String, Vec<u8>)| {
            let mut hash = DefaultHasher::new();
            bytes.hash(&mut hash);
            (format!("/{name}"), File { bytes, etag: format!("\"{:016x}\"", hash.finish()) })
        };
        let files: Arc<BTreeMap<String, File>> = Arc::new(files.into_iter().map(with_etag).collect());
        Self(Connections::serve(move |connection| serve(&files, connection)))
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

fn serve(files: &BTreeMap<String, File>, connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut to_client = connection.try_clone()?;
    let mut from_client = BufReader::new(connection);
    while let Some(request) = read_message(&mut from_client, None)? {
        match request.target() {
            ("GET" | "HEAD", path) => get(files.get(path), &request, &mut to_client)?,
            ("PROPFIND", path) => {
                let list = list(files, path);
                let head = format!("HTTP/1.1 207 Multi-Status\r\nContent-Length: {}\r\n\r\n", list.len());
                to_client.write_all(&[head.as_bytes(), list.as_bytes()].concat())?;
            }
            _ => to_client.write_all(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")?,
        }
    }
    Ok(())
}

fn get(file: Option<&File>, request: &Message, client: &mut TcpStream) -> io::Result<()> {
    let Some(file) = file else {
        return client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    if request.header("if-match").is_some_and(|etag| etag != file.etag) {
        return client.write_all(b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n");
    }
    let size = file.bytes.len();
    let (first, last) = request.header("range").and_then(|range| parse_range(range, size)).unwrap_or((0, size));
    if first > last {
        let head =
            format!("HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{size}\r\nContent-Length: 0\r\n\r\n");
        return client.write_all(head.as_bytes());
    }
    let status = match request.header("range") {
        Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {first}-{}/{size}", last.saturating_sub(1)),
        None => "200 OK".to_owned(),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: {}\r\nLast-Modified: {TIME}\r\nAccept-Ranges: bytes\r\n\r\n",
        last - first,
        file.etag
    );
    client.write_all(head.as_bytes())?;
    if request.target().0 == "HEAD" { Ok(()) } else { client.write_all(&file.bytes[first..last]) }
}

/// First byte, and the one behind the last, of `bytes=a-b`; the first lies behind the second when there are none.
fn parse_range(text: &str, size: usize) -> Option<(usize, usize)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let last = last.parse().map_or(size, |last: usize| size.min(last + 1));
    Some(if first >= size { (1, 0) } else { (first, last) })
}

/// WebDAV's answer to PROPFIND: the files below `path`.
fn list(files: &BTreeMap<String, File>, path: &str) -> String {
    let folder = format!("{}/", path.trim_end_matches('/'));
    let mut text = String::from("<?xml version=\"1.0\"?><D:multistatus xmlns:D=\"DAV:\">");
    for (name, file) in files.iter().filter(|(name, _)| name.starts_with(&folder) || *name == path) {
        let (size, etag) = (file.bytes.len(), file.etag.replace('"', "&quot;"));
        write!(
            text,
            "<D:response><D:href>{name}</D:href><D:propstat><D:prop><D:getlastmodified>{TIME}</D:getlastmodified>\
             <D:getcontentlength>{size}</D:getcontentlength><D:getetag>{etag}</D:getetag><D:resourcetype/></D:prop>\
             <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
        )
        .expect("a String takes all text");
    }
    text + "</D:multistatus>"
}
