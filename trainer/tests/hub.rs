//! Weights and tokenizers from a hub: a small server on this machine that answers as Hugging Face's does.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

mod reference;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use reference::Fixture;

/// What was asked for: the path, and what stood behind `authorization:`.
type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// Serves a folder as the repository `owner/name` until the program ends; gives back its address and what is asked.
fn serve(folder: PathBuf) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away ends its own connection only.
            let _ = answer(stream, &folder, &seen);
        }
    });
    (address, asked)
}

fn answer(mut stream: TcpStream, folder: &Path, asked: &Asked) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: Vec<String> = lines.map_while(|line| line.ok().filter(|line| !line.is_empty())).collect();
    let header = |name: &str| {
        let line = headers.iter().find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    asked.lock().unwrap().push((path.clone(), header("authorization")));
    let file = path.strip_prefix("/owner/name/resolve/main/").map(|name| folder.join(name));
    let Some(bytes) = file.and_then(|file| std::fs::read(file).ok()) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    };
    let range = header("range").and_then(|range| {
        let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse::<usize>().ok()?, to.parse::<usize>().unwrap_or(bytes.len() - 1).min(bytes.len() - 1)))
    });
    let (from, to) = range.unwrap_or((0, bytes.len() - 1));
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes {from}-{to}/{}\r\n\
         etag: \"{}\"\r\nx-repo-commit: 0123456789abcdef\r\nconnection: close\r\n\r\n",
        to + 1 - from,
        bytes.len(),
        path.replace('/', "-"),
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&bytes[from..=to])
}

fn rank(words: &[&str], address: &str, home: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_blip2-rank"))
        .args(words)
        .envs([("HF_ENDPOINT", address), ("HF_TOKEN", "hf_secret")])
        .env("HF_HOME", home)
        .output()
        .unwrap()
}

#[test]
fn weights_come_from_a_hub_once() {
    let Some(fixture) = Fixture::open("hf_blip2_opt") else { return };
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("files");
    std::fs::create_dir(&files).unwrap();
    std::fs::copy(fixture.path("weights.safetensors"), files.join("model.safetensors")).unwrap();
    std::fs::copy(fixture.path("config.json"), files.join("config.json")).unwrap();
    let (address, asked) = serve(files);
    let home = folder.path().join("home");
    let inspect = || {
        let output = rank(&["weights", "inspect", "hf://owner/name"], &address, &home);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("BLIP-2 of Hugging Face") && text.contains("query_tokens"), "{text}");
    };
    inspect();
    let first = std::mem::take(&mut *asked.lock().unwrap());
    assert!(first.iter().any(|(path, _)| path.ends_with("model.safetensors")), "{first:?}");
    assert!(first.iter().all(|(_, token)| token.as_deref() == Some("Bearer hf_secret")), "{first:?}");
    inspect();
    let second = asked.lock().unwrap();
    assert!(second.iter().all(|(path, _)| !path.ends_with("model.safetensors")), "it is kept: {second:?}");
    drop(second);
    let output = rank(&["weights", "inspect", "hf://owner/other"], &address, &home);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && message.contains("hf://owner/other"), "{message}");
    let output = rank(&["weights", "inspect", "hf://name"], &address, &home);
    assert!(String::from_utf8_lossy(&output.stderr).contains("hf://owner/name"));
}
