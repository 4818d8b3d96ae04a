//! What checkpoints do with a store, one step at a time, for tests that need real servers and processes that are killed.
//!
//! `store_work probe URI` checks put-if-absent; `store_work write URI NAME BYTES` writes an object of so many bytes in
//! parts, waits out what fails, and prints its sums; `store_work read URI NAME` reads the object whose sums stand on
//! standard input, verified. Stores and disturbances are chosen by the environment.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use data_pipeline::store::Location;
use trainer::storage::{Content, Hashed, Patience, Storage};

/// Bytes of which no two parts are alike.
struct Pattern(u64);

impl Content for Pattern {
    fn len(&self) -> u64 {
        self.0
    }

    fn fill(&self, at: u64, into: &mut [u8]) {
        for (place, byte) in (at..).zip(into) {
            *byte = (place.wrapping_mul(2_654_435_761) >> 11) as u8;
        }
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let storage = |uri: &str| Result::<_>::Ok(Storage::at(Location::parse(uri)?)?);
    match words[..] {
        ["probe", uri] => storage(uri)?.check_put_if_absent()?,
        ["write", uri, name, bytes] => {
            let patience = Patience::until(Arc::default(), |line| eprintln!("warning: {line}"));
            let hashed = storage(uri)?.write_hashed(name, &Pattern(bytes.parse()?), &patience)?;
            println!("{}", serde_json::to_string(&hashed)?);
        }
        ["read", uri, name] => {
            let hashed: Hashed = serde_json::from_reader(std::io::stdin()).context("no sums on standard input")?;
            let mut bytes = 0;
            let mut sink = |offset: u64, part: &[u8]| {
                let mut expected = vec![0; part.len()];
                Pattern(hashed.size).fill(offset, &mut expected);
                assert!(part == expected, "other bytes from byte {offset} on");
                bytes += part.len() as u64;
            };
            storage(uri)?.read_parts(name, &hashed, 0..hashed.parts.len(), &mut sink)?;
            println!("{bytes}");
        }
        _ => bail!("expected probe URI, write URI NAME BYTES or read URI NAME"),
    }
    Ok(())
}
