//! As much of HTTP/1.1 as one page needs, at 127.0.0.1: GET and HEAD, one request a connection, a thread and a deadline
//! for each. A client that is slow, silent or broken holds up nobody else.
//!
//! A crate for this would have to let a deadline be set on a connection (tiny_http does not), or bring an asynchronous
//! stack with it; what is needed here is smaller than either.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::exit::Unusable;

/// A request has to have arrived, and later its answer to have left, within this time each.
const DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a request's head; browsers send less than a tenth.
const LONGEST_HEAD: usize = 16 * 1024;
/// Connections at once; more are told to come back.
const MOST_CONNECTIONS: usize = 32;
/// What is read of a client that still sends when it is answered, so that it sees the answer and not a reset.
const MOST_DRAINED: usize = 64 * 1024;
const DRAIN: Duration = Duration::from_millis(200);
/// Sent at a time, so that the deadline is looked at.
const PIECE: usize = 64 * 1024;

/// Nothing runs, nothing is loaded, nothing embeds the page.
const HEADERS: &str = "Cache-Control: no-store\r\n\
    Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'\r\n\
    Cross-Origin-Resource-Policy: same-origin\r\nReferrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n\
    Connection: close\r\n";

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    status: u16,
    content_type: &'static str,
    body: Vec<u8>,
}

impl Reply {
    /// A page.
    pub fn html(page: String) -> Self {
        Self { status: 200, content_type: "text/html; charset=utf-8", body: page.into_bytes() }
    }

    /// An object.
    pub fn json(status: u16, value: &serde_json::Value) -> Self {
        Self { status, content_type: "application/json", body: format!("{value}\n").into_bytes() }
    }

    fn text(status: u16, text: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: format!("{text}\n").into_bytes() }
    }
}

/// Takes a port of 127.0.0.1; 0 takes a free one.
///
/// # Errors
/// A port that is in use, or that the system does not give.
pub fn bind(port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
        let found = match error.kind() {
            io::ErrorKind::AddrInUse => "is in use".to_owned(),
            io::ErrorKind::PermissionDenied => "is for the system's own services".to_owned(),
            _ => format!("cannot be listened at ({error})"),
        };
        Unusable(format!(
            "found that port {port} of 127.0.0.1 {found}; expected a free one for the dashboard. Take another, or 0 to \
             have one picked"
        ))
        .into()
    })
}

type Answer = dyn Fn(&str) -> Option<Reply> + Send + Sync;

/// Serves until it is dropped.
pub struct Server {
    address: SocketAddr,
    has_ended: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers what comes to the listener with what `answer` gives for a path.
    ///
    /// # Errors
    /// A system that gives no thread.
    pub fn start(
        listener: TcpListener,
        answer: impl Fn(&str) -> Option<Reply> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let address = listener.local_addr().context("cannot find the port of the dashboard")?;
        let has_ended = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&has_ended);
        let answer: Arc<Answer> = Arc::new(answer);
        let accepting = std::thread::Builder::new()
            .name("dashboard".into())
            .spawn(move || accept(&listener, &ended, &answer))
            .context("cannot start the thread of the dashboard")?;
        Ok(Self { address, has_ended, accepting: Some(accepting) })
    }

    /// The port of 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections; where that fails it is left behind, and ends with the process.
        if TcpStream::connect_timeout(&self.address, DEADLINE).is_ok()
            && let Some(accepting) = self.accepting.take()
        {
            let _panicked = accepting.join();
        }
    }
}

/// One connection less when it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn accept(listener: &TcpListener, has_ended: &AtomicBool, answer: &Arc<Answer>) {
    let open = Arc::new(AtomicUsize::new(0));
    while !has_ended.load(Ordering::SeqCst) {
        let Ok((stream, _)) = listener.accept() else {
            // Too many open files, for example: they are not more after a moment's rest.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        if has_ended.load(Ordering::SeqCst) {
            return;
        }
        let number = open.fetch_add(1, Ordering::SeqCst);
        let counted = Counted(Arc::clone(&open));
        if number >= MOST_CONNECTIONS {
            // One line into an empty buffer blocks nobody.
            let _gone = send(&stream, &Reply::text(503, "too many connections; come back in a moment"), false);
            continue;
        }
        let answer = Arc::clone(answer);
        let serving = move || {
            let _counted = counted;
            // A client that went away misses nothing.
            let _gone = serve(&stream, &*answer);
        };
        let _refused = std::thread::Builder::new().name("dashboard-client".into()).spawn(serving);
    }
}

fn serve(stream: &TcpStream, answer: &Answer) -> io::Result<()> {
    let head = read_head(stream)?;
    let (reply, is_head) = match &head {
        Some(head) => reply_to(head, answer),
        None => (Reply::text(431, "found a head without an end, or too long; expected that of a GET"), false),
    };
    send(stream, &reply, is_head)?;
    stream.shutdown(Shutdown::Write)?;
    drain(stream)
}

/// The answer to a request, and whether its body is left out.
fn reply_to(head: &str, answer: &Answer) -> (Reply, bool) {
    let mut lines = head.lines();
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = words[..] else {
        return (Reply::text(400, "found no request of HTTP; expected GET / HTTP/1.1"), false);
    };
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") || !target.starts_with('/') {
        return (Reply::text(400, "found no request of HTTP/1.1; expected GET / HTTP/1.1"), false);
    }
    let host = lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("host"));
    if !host.is_none_or(|(_, host)| is_own(host.trim())) {
        // A page elsewhere whose name was made to lead here would read the run through the browser of who looks at it.
        let text =
            "found another host's name in the request; expected 127.0.0.1 or localhost. Open the page by one of them";
        return (Reply::text(403, text), false);
    }
    let is_head = method == "HEAD";
    if method != "GET" && !is_head {
        return (Reply::text(405, "found another method; expected GET or HEAD, as this page changes nothing"), false);
    }
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let reply = answer(path).unwrap_or_else(|| Reply::text(404, "nothing is here; there are / and /status.json"));
    (reply, is_head)
}

/// Whether a request's host is this one, at whatever port a tunnel has.
fn is_own(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    ["127.0.0.1", "localhost", "[::1]"].iter().any(|own| name.eq_ignore_ascii_case(own))
}

/// The head of a request; `None` where it has no end or is too long.
///
/// # Errors
/// A client that goes away or is too slow.
fn read_head(mut stream: &TcpStream) -> io::Result<Option<String>> {
    let until = Instant::now() + DEADLINE;
    let mut head = Vec::new();
    let mut piece = [0; 2048];
    loop {
        stream.set_read_timeout(Some(left(until)?))?;
        let length = match stream.read(&mut piece) {
            // A signal to the launcher is none to the client.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if length == 0 {
            return if head.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
        }
        // The end may lie across two pieces.
        let from = head.len().saturating_sub(3);
        head.extend_from_slice(&piece[..length]);
        if let Some(end) = head[from..].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            head.truncate(from + end);
            return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
        }
        if head.len() > LONGEST_HEAD {
            return Ok(None);
        }
    }
}

fn send(mut stream: &TcpStream, reply: &Reply, is_head: bool) -> io::Result<()> {
    let until = Instant::now() + DEADLINE;
    let reason = match reply.status {
        200 => "OK",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed\r\nAllow: GET, HEAD",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Bad Request",
    };
    let Reply { status, content_type, body } = reply;
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{HEADERS}\r\n",
        body.len()
    );
    let body = if is_head { &[][..] } else { body };
    for piece in std::iter::once(head.as_bytes()).chain(body.chunks(PIECE)) {
        let mut rest = piece;
        while !rest.is_empty() {
            stream.set_write_timeout(Some(left(until)?))?;
            match stream.write(rest)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                sent => rest = &rest[sent..],
            }
        }
    }
    Ok(())
}

/// The time until then.
///
/// # Errors
/// When that is over.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn drain(mut stream: &TcpStream) -> io::Result<()> {
    let until = Instant::now() + DRAIN;
    let mut piece = [0; 4096];
    let mut drained = 0;
    while drained < MOST_DRAINED {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut piece)? {
            0 => break,
            length => drained += length,
        }
    }
    Ok(())
}
