//! What hashing, patience and verification cost: objects written in parts with both sums, and read back verified, against
//! the same bytes, parts and concurrency through `object_store` alone; in turn, medians of the ratios. Prints JSON.
//!
//! `bench_store URI [BYTES [ROUNDS]]`: BYTES (2.26 GB) are two objects of one third and two thirds, as the trained weights
//! and the moments of 188 M parameters. Objects lie below URI and are deleted after each measurement.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::time::Instant;

use anyhow::Result;
use data_pipeline::store::Location;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStoreExt, WriteMultipart};
use serde_json::json;
use trainer::storage::{Content, Hashed, Patience, Storage};

/// As the storage has them.
const PART_BYTES: usize = 16 << 20;
const AT_ONCE: usize = 8;
/// Trained weights and two moments of 188 M parameters.
const BYTES: u64 = 2_260_000_000;

/// One object's bytes, which lie in memory as a copy of the training state does.
struct Copy(Vec<u8>);

impl Content for Copy {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn fill(&self, at: u64, into: &mut [u8]) {
        let at = at as usize;
        into.copy_from_slice(&self.0[at..at + into.len()]);
    }
}

struct Bench {
    uri: String,
    objects: Vec<(String, Copy)>,
    /// Of the plain transfers: like the storage's own.
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn place(&self, name: &str) -> Result<Location> {
        Ok(Location::parse(&self.uri)?.child(name))
    }

    fn write_hashed(&self) -> Result<Vec<Hashed>> {
        let storage = Storage::at(Location::parse(&self.uri)?)?;
        let write = |(name, copy): &(String, Copy)| Ok(storage.write_hashed(name, copy, &Patience::none())?);
        self.objects.iter().map(write).collect()
    }

    fn write_plain(&self) -> Result<()> {
        self.runtime.block_on(async {
            for (name, copy) in &self.objects {
                let place = self.place(name)?;
                let upload = place.store.put_multipart(&place.path).await?;
                let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
                for part in copy.0.chunks(PART_BYTES) {
                    parts.wait_for_capacity(AT_ONCE).await?;
                    parts.put(part.to_vec().into());
                }
                parts.finish().await?;
            }
            Ok(())
        })
    }

    fn read_verified(&self, hashed: &[Hashed]) -> Result<u64> {
        let storage = Storage::at(Location::parse(&self.uri)?)?;
        let mut into = 0;
        for ((name, copy), hashed) in self.objects.iter().zip(hashed) {
            let mut whole = vec![0; copy.0.len()];
            let mut sink = |at: u64, part: &[u8]| whole[at as usize..at as usize + part.len()].copy_from_slice(part);
            storage.read_parts(name, hashed, 0..hashed.parts.len(), &mut sink)?;
            into += whole.len() as u64;
        }
        Ok(into)
    }

    fn read_plain(&self) -> Result<u64> {
        self.runtime.block_on(async {
            let mut into = 0;
            for (name, copy) in &self.objects {
                let place = &self.place(name)?;
                let size = copy.0.len() as u64;
                let mut whole = vec![0; copy.0.len()];
                let get = |start: u64| async move {
                    let end = (start + PART_BYTES as u64).min(size);
                    let part = place.store.get_range(&place.path, start..end).await?;
                    Ok::<_, object_store::Error>((start as usize, part))
                };
                let mut parts = futures::stream::iter((0..size).step_by(PART_BYTES)).map(get).buffered(AT_ONCE);
                while let Some((start, part)) = parts.try_next().await? {
                    whole[start..start + part.len()].copy_from_slice(&part);
                }
                into += whole.len() as u64;
            }
            Ok(into)
        })
    }

    fn delete(&self) -> Result<()> {
        self.runtime.block_on(async {
            for (name, _) in &self.objects {
                self.place(name)?.delete().await?;
            }
            Ok(())
        })
    }
}

/// What `work` gives, and the seconds that it took.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let began = Instant::now();
    Ok((work()?, began.elapsed().as_secs_f64()))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let uri = arguments.first().map_or("bench-store", String::as_str).to_owned();
    let bytes: u64 = arguments.get(1).map_or(Ok(BYTES), |text| text.parse())?;
    let rounds: usize = arguments.get(2).map_or(Ok(3), |text| text.parse())?;
    let object = |name: &str, size: u64, factor: u64| {
        let bytes = (0..size / 8).flat_map(|at| at.wrapping_mul(factor).to_le_bytes()).collect();
        (name.to_owned(), Copy(bytes))
    };
    let objects = vec![
        object("trainable", bytes / 3, 0x9e37_79b9_7f4a_7c15),
        object("moments", bytes / 3 * 2, 0xff51_afd7_ed55_8ccd),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bench = Bench { uri, objects, runtime };
    let mut pairs = Vec::new();
    for round in 0..rounds {
        let mut written = None;
        let mut hashed_write = || -> Result<f64> {
            let (hashed, time) = timed(|| bench.write_hashed())?;
            written = Some(hashed);
            Ok(time)
        };
        // Each goes first in turn; what is read is what was written last.
        let (write_s, plain_write_s) = if round % 2 == 0 {
            let first = hashed_write()?;
            bench.delete()?;
            (first, timed(|| bench.write_plain())?.1)
        } else {
            let first = timed(|| bench.write_plain())?.1;
            bench.delete()?;
            (hashed_write()?, first)
        };
        let hashed = written.unwrap_or_default();
        let (read_s, plain_read_s) = if round % 2 == 0 {
            let first = timed(|| bench.read_verified(&hashed))?.1;
            (first, timed(|| bench.read_plain())?.1)
        } else {
            let first = timed(|| bench.read_plain())?.1;
            (timed(|| bench.read_verified(&hashed))?.1, first)
        };
        bench.delete()?;
        eprintln!(
            "round {round}: write {write_s:.2} s, plain {plain_write_s:.2} s; read {read_s:.2} s, plain {plain_read_s:.2} s"
        );
        pairs.push([write_s, plain_write_s, read_s, plain_read_s]);
    }
    let of = |value: fn(&[f64; 4]) -> f64| median(pairs.iter().map(value).collect());
    let report = json!({
        "uri": bench.uri,
        "bytes": bytes,
        "rounds": rounds,
        "seconds_write_hashed_plain_read_verified_plain": pairs,
        "write_mb_per_s": bytes as f64 / 1e6 / of(|pair| pair[0]),
        "plain_write_mb_per_s": bytes as f64 / 1e6 / of(|pair| pair[1]),
        "write_ratio": of(|pair| pair[1] / pair[0]),
        "read_mb_per_s": bytes as f64 / 1e6 / of(|pair| pair[2]),
        "plain_read_mb_per_s": bytes as f64 / 1e6 / of(|pair| pair[3]),
        "read_ratio": of(|pair| pair[3] / pair[2]),
    });
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
