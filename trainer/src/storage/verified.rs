//! Parts of an object, each verified by its sum while others are fetched.

use std::ops::Range;

use bytes::Bytes;
use data_pipeline::store::Location;
use futures::StreamExt;
use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};

use super::parts::{Hashed, hex};
use super::{AT_ONCE, Storage};
use crate::error::{Result, TrainerError};

impl Storage {
    /// Fetches parts of an object and hands each to `sink` once it has verified, in order, with the offset of its first
    /// byte in the object. At most `AT_ONCE` + 1 parts are in memory.
    ///
    /// # Errors
    /// [`TrainerError::BadCheckpoint`] when the object is missing, has another size, or a part is not what its sum says
    /// in two fetches: the reason names the bytes. [`TrainerError::Store`] when the store does not answer.
    pub fn read_parts(
        &self,
        name: &str,
        expected: &Hashed,
        parts: Range<usize>,
        sink: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<()> {
        let place = &self.root.child(name);
        let bad = |reason: String| TrainerError::BadCheckpoint { uri: place.uri().to_owned(), reason };
        let size = self.size(name)?.ok_or_else(|| bad("the file is missing".into()))?;
        if size != expected.size {
            return Err(bad(format!("found {size} bytes, expected {}", expected.size)));
        }
        let num_parts = size.div_ceil(expected.part_bytes.max(1)) as usize;
        if num_parts != expected.parts.len() || parts.end > num_parts {
            let (sums, to) = (expected.parts.len(), parts.end);
            return Err(bad(format!("found sums of {sums} parts and a wish for {to}, expected {num_parts} at most")));
        }
        self.runtime.block_on(async {
            // On the runtime's own thread, beside the connections: their pieces would else wake this thread one by one.
            let fetch = |part: usize| {
                let (place, range, sum) = (place.clone(), expected.range(part), expected.parts[part].clone());
                let start = range.start;
                let fetched = self.runtime.spawn(async move { fetch(&place, range, &sum).await });
                async move {
                    let bytes = fetched.await.unwrap_or_else(|end| std::panic::resume_unwind(end.into_panic()))?;
                    Ok::<_, TrainerError>((start, bytes))
                }
            };
            let mut fetched = futures::stream::iter(parts).map(fetch).buffered(AT_ONCE);
            while let Some(part) = fetched.next().await {
                let (offset, bytes) = part?;
                sink(offset, &bytes);
            }
            Ok(())
        })
    }
}

/// The bytes of a range, which have the sum that is expected. A part that was damaged on the way is right the second time.
async fn fetch(place: &Location, range: Range<u64>, expected: &str) -> Result<Bytes> {
    let bad = |reason: String| TrainerError::BadCheckpoint { uri: place.uri().to_owned(), reason };
    let mut found = String::new();
    for _ in 0..2 {
        let bytes = match place.store.get_range(&place.path, range.clone()).await {
            Ok(bytes) => bytes,
            Err(object_store::Error::NotFound { .. }) => return Err(bad("the file is missing".into())),
            Err(source) => return Err(place.error("read", source).into()),
        };
        let (hashed, len) = (bytes.clone(), bytes.len());
        let sum = tokio::task::spawn_blocking(move || hex(&Sha256::digest(&hashed)));
        found = sum.await.map_err(|source| place.error("read", object_store::Error::JoinError { source }))?;
        if found == expected {
            return Ok(bytes);
        }
        if len as u64 != range.end - range.start {
            found = format!("{found} of {len} bytes");
        }
    }
    let Range { start, end } = range;
    Err(bad(format!("bytes {start}..{end}: found sha256 {found}, expected {expected}: they were changed or damaged")))
}
