//! As much of HTTP/1.1 as the test servers need: whole messages over one connection.

use std::io::{self, BufRead, BufReader, Read};
use std::net::TcpStream;

/// Bytes of one line of a head; real ones stay far below.
const LONGEST_LINE: u64 = 1 << 16;

/// A request or a response.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// The first line, without its end.
    pub start: String,
    /// Names in lower case, and values, in order.
    pub headers: Vec<(String, String)>,
    /// The head as it came, with the empty line that ends it.
    pub head: Vec<u8>,
    /// The body as it came; chunks keep their frames.
    pub body: Vec<u8>,
}

impl Message {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Whether the connection ends after this message.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
            || self.start.starts_with("HTTP/1.0")
    }

    /// Method and path of a request, without the query.
    pub fn target(&self) -> (&str, &str) {
        let mut words = self.start.split(' ');
        let method = words.next().unwrap_or_default();
        let path = words.next().unwrap_or_default();
        (method, path.split('?').next().unwrap_or_default())
    }
}

/// The next message; `None` when the other side has closed the connection in front of it. `method` is that of the
/// request which a response answers: some have no body whatever their head says.
///
/// # Errors
/// What the connection gives, and `InvalidData` for a head that is none.
pub fn read_message(from: &mut BufReader<TcpStream>, method: Option<&str>) -> io::Result<Option<Message>> {
    let mut message = Message::default();
    loop {
        let mut line = Vec::new();
        from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
        if line.is_empty() && message.head.is_empty() {
            return Ok(None);
        }
        if !line.ends_with(b"\n") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the head ends in the middle of a line"));
        }
        message.head.extend_from_slice(&line);
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        match (message.start.is_empty(), text.split_once(':')) {
            (true, _) => message.start = text,
            (false, Some((name, value))) => {
                message.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            (false, None) => break,
        }
    }
    read_body(from, method, &mut message)?;
    Ok(Some(message))
}

fn read_body(from: &mut BufReader<TcpStream>, method: Option<&str>, message: &mut Message) -> io::Result<()> {
    let is_response = message.start.starts_with("HTTP/");
    let without_body = ["HTTP/1.1 204", "HTTP/1.1 304"].iter().any(|start| message.start.starts_with(start));
    if is_response && (method == Some("HEAD") || without_body) {
        return Ok(());
    }
    if message.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return read_chunks(from, &mut message.body);
    }
    match message.header("content-length").map(str::parse) {
        Some(Ok(length)) => exactly(from, length, &mut message.body),
        Some(Err(_)) => Err(io::Error::new(io::ErrorKind::InvalidData, "Content-Length is no number")),
        None if is_response => from.read_to_end(&mut message.body).map(drop),
        None => Ok(()),
    }
}

fn exactly(from: &mut BufReader<TcpStream>, length: u64, body: &mut Vec<u8>) -> io::Result<()> {
    if from.by_ref().take(length).read_to_end(body)? as u64 == length {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body ends early"))
}

fn read_chunks(from: &mut BufReader<TcpStream>, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
        body.extend_from_slice(&line);
        let text = String::from_utf8_lossy(&line);
        let size = text.trim().split(';').next().and_then(|size| u64::from_str_radix(size, 16).ok());
        let size = size.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a chunk without a size"))?;
        // The line end behind a chunk, or the empty line behind the last one; trailers are not sent by these servers.
        exactly(from, size + 2, body)?;
        if size == 0 {
            return Ok(());
        }
    }
}
