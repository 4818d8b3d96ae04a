//! A web server on loopback that answers as a test says: well, badly, late or never.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::connections::Connections;

/// What a server says to one request.
pub enum Reply {
    /// A whole answer: status, headers beyond the length, body.
    Whole(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// An answer that announces this many bytes more than it has, and ends.
    Short(Vec<u8>, usize),
    /// An answer that announces this many bytes more than it has, and waits.
    Stall(Vec<u8>, usize),
    /// A body without an announced length.
    Unannounced(Vec<u8>),
    /// Nothing, for as long as the server lives.
    Hang,
}

/// One request.
pub struct Request {
    /// Path and query.
    pub path: String,
    /// The User-Agent.
    pub user_agent: String,
    /// How often this path was asked for before.
    pub before: usize,
}

#[derive(Default)]
struct Log {
    asked: HashMap<String, usize>,
    starts: Vec<Instant>,
    now: usize,
    most: usize,
}

/// A server; it ends when it is dropped.
pub struct Web {
    /// Address and port, as URLs have it.
    pub host: String,
    log: Arc<Mutex<Log>>,
    over: Arc<AtomicBool>,
    _connections: Connections,
}

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;

impl Web {
    /// Serves at a free port of `address`, an address of loopback.
    ///
    /// # Panics
    /// When the port cannot be opened.
    pub fn serve(address: &str, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let (log, over): (Arc<Mutex<Log>>, Arc<AtomicBool>) = Default::default();
        let (seen, ended) = (log.clone(), over.clone());
        let connections = Connections::serve_at(address, move |stream| {
            converse(&stream, &seen, &ended, &answer);
            Ok(())
        });
        Self { host: connections.address().to_string(), log, over, _connections: connections }
    }

    /// The URL of a path here.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host)
    }

    /// How often a path was asked for.
    pub fn asked(&self, path: &str) -> usize {
        lock(&self.log).asked.get(path).copied().unwrap_or(0)
    }

    /// How often anything was asked for.
    pub fn asked_in_all(&self) -> usize {
        lock(&self.log).starts.len()
    }

    /// The most requests at the same time.
    pub fn most_at_once(&self) -> usize {
        lock(&self.log).most
    }

    /// When requests began.
    pub fn starts(&self) -> Vec<Instant> {
        lock(&self.log).starts.clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers the requests of one connection until either side ends it.
fn converse(stream: &TcpStream, log: &Mutex<Log>, over: &AtomicBool, answer: &Answer) {
    let mut lines = BufReader::new(stream);
    while let Some(request) = read_request(&mut lines, log) {
        let reply = answer(&request);
        let went_on = send(stream, reply, over);
        lock(log).now -= 1;
        if !went_on {
            return;
        }
    }
}

fn read_request(lines: &mut impl BufRead, log: &Mutex<Log>) -> Option<Request> {
    let mut first = String::new();
    lines.read_line(&mut first).ok().filter(|bytes| *bytes > 0)?;
    let path = first.split_whitespace().nth(1)?.to_owned();
    let mut user_agent = String::new();
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        match line.trim().split_once(": ") {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("user-agent") => value.clone_into(&mut user_agent),
            Some(_) => {}
        }
    }
    let mut log = lock(log);
    log.starts.push(Instant::now());
    log.now += 1;
    log.most = log.most.max(log.now);
    let times = log.asked.entry(path.clone()).or_default();
    *times += 1;
    let before = *times - 1;
    Some(Request { path, user_agent, before })
}

/// Whether the connection can be used further.
fn send(mut stream: &TcpStream, reply: Reply, over: &AtomicBool) -> bool {
    let wait = || {
        while !over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(20));
        }
    };
    let waits = matches!(reply, Reply::Stall(..));
    let (status, headers, body, length) = match reply {
        Reply::Hang => {
            wait();
            return false;
        }
        Reply::Whole(status, headers, body) => {
            let length = body.len();
            (status, headers, body, Some(length))
        }
        Reply::Short(body, more) | Reply::Stall(body, more) => {
            let length = body.len() + more;
            (200, Vec::new(), body, Some(length))
        }
        Reply::Unannounced(body) => (200, vec![("Connection", "close".into())], body, None),
    };
    let mut head = format!("HTTP/1.1 {status} x\r\n");
    if let Some(length) = length {
        head += &format!("Content-Length: {length}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    // The client may have gone away, killed or no longer interested.
    let whole = length == Some(body.len());
    let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).is_ok();
    if waits {
        wait();
    }
    sent && whole
}
