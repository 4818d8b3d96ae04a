//! An S3 in memory whose clock is an hour behind, and the variables that lead to a store of a test.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Arc, Mutex};

use integration_tests::connections::Connections;
use integration_tests::http::{Message, read_message};

/// What the ranks and the launcher need for the S3 of a test.
pub fn s3(address: &str) -> Vec<(&'static str, String)> {
    [
        ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ("AWS_ACCESS_KEY_ID", "test".into()),
        ("AWS_SECRET_ACCESS_KEY", "test".into()),
        ("AWS_REGION", "us-east-1".into()),
        ("AWS_ALLOW_HTTP", "true".into()),
        ("AWS_DISABLE_BULK_DELETE", "true".into()),
        ("BLIP2_TEST_STORE_BUDGET_MS", "3000".into()),
    ]
    .into()
}

/// An S3 in memory whose clock is an hour behind.
pub fn late_store() -> Connections {
    let mut date = Command::new("date");
    date.args(["--utc", "--date=1 hour ago", "+%a, %d %b %Y %H:%M:%S GMT"]).env("LC_ALL", "C");
    let date = String::from_utf8(date.output().unwrap().stdout).unwrap().trim().to_owned();
    let objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>> = Arc::default();
    Connections::serve(move |stream: TcpStream| {
        let mut writer = stream.try_clone()?;
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_message(&mut reader, None)? {
            writer.write_all(&answer(&request, &mut objects.lock().unwrap(), &date))?;
        }
        Ok(())
    })
}

fn answer(request: &Message, objects: &mut BTreeMap<String, Vec<u8>>, date: &str) -> Vec<u8> {
    let (method, path) = request.target();
    let key = path.trim_start_matches("/bucket").trim_start_matches('/').to_owned();
    let (status, body) = match method {
        "PUT" if request.header("if-none-match").is_some() && objects.contains_key(&key) => ("412 x", Vec::new()),
        "PUT" => {
            objects.insert(key, request.body.clone());
            ("200 x", Vec::new())
        }
        "DELETE" => {
            objects.remove(&key);
            ("204 x", Vec::new())
        }
        _ if key.is_empty() => ("200 x", listing(request, objects)),
        _ => match objects.get(&key) {
            None => ("404 x", Vec::new()),
            Some(bytes) => match request.header("range").and_then(|range| part(range, bytes.len())) {
                None => ("200 x", bytes.clone()),
                Some((from, to)) => {
                    let head = format!(
                        "HTTP/1.1 206 x\r\nETag: \"e\"\r\nLast-Modified: {date}\r\nContent-Range: bytes \
                             {from}-{}/{}\r\nContent-Length: {}\r\n\r\n",
                        to - 1,
                        bytes.len(),
                        to - from
                    );
                    return [head.into_bytes(), bytes[from..to].to_vec()].concat();
                }
            },
        },
    };
    if status.starts_with("204") {
        return b"HTTP/1.1 204 x\r\n\r\n".to_vec();
    }
    let head =
        format!("HTTP/1.1 {status}\r\nETag: \"e\"\r\nLast-Modified: {date}\r\nContent-Length: {}\r\n\r\n", body.len());
    let body = if method == "HEAD" { Vec::new() } else { body };
    [head.into_bytes(), body].concat()
}

/// First byte and the one behind the last of `bytes=a-b`.
fn part(range: &str, len: usize) -> Option<(usize, usize)> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    Some((from.parse().ok()?, (to.parse::<usize>().ok()? + 1).min(len)))
}

fn listing(request: &Message, objects: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let query =
        request.start.split(' ').nth(1).and_then(|target| target.split_once('?')).map_or("", |(_, query)| query);
    let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or("").replace("%2F", "/");
    let found: Vec<_> = objects.iter().filter(|(key, _)| key.starts_with(&prefix)).collect();
    let contents: String = found
        .iter()
        .map(|(key, bytes)| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag>\
                 <Size>{}</Size></Contents>",
                bytes.len()
            )
        })
        .collect();
    format!(
        "<?xml version=\"1.0\"?><ListBucketResult><Name>bucket</Name><KeyCount>{}</KeyCount>\
         <IsTruncated>false</IsTruncated>{contents}</ListBucketResult>",
        found.len()
    )
    .into_bytes()
}
