//! One object written piece by piece, in bounded memory.

use object_store::{ObjectStoreExt, WriteMultipart};

use crate::error::Result;
use crate::store::Location;

/// Bytes of one part of a multipart upload; stores ask for at least 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// Parts of one object that are on their way at the same time, at most.
const PARTS_IN_FLIGHT: usize = 4;

/// An object being written: one put when it is small, parts otherwise. Appears complete or not at all.
pub(crate) struct Upload {
    place: Location,
    buffer: Vec<u8>,
    parts: Option<WriteMultipart>,
}

impl Upload {
    pub(crate) fn new(place: Location) -> Self {
        Self { place, buffer: Vec::new(), parts: None }
    }

    /// Appends bytes; waits while too many parts are on their way.
    pub(crate) async fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < PART_BYTES {
            return Ok(());
        }
        let failed = |source| self.place.error("write", source);
        let parts = match &mut self.parts {
            Some(parts) => parts,
            empty => {
                let upload = self.place.store.put_multipart(&self.place.path).await.map_err(failed)?;
                empty.insert(WriteMultipart::new_with_chunk_size(upload, PART_BYTES))
            }
        };
        parts.wait_for_capacity(PARTS_IN_FLIGHT).await.map_err(failed)?;
        parts.put(std::mem::take(&mut self.buffer).into());
        Ok(())
    }

    /// Makes the object appear.
    pub(crate) async fn finish(self) -> Result<()> {
        let Some(mut parts) = self.parts else {
            return self.place.write(self.buffer).await;
        };
        parts.put(self.buffer.into());
        parts.finish().await.map_err(|source| self.place.error("write", source))?;
        Ok(())
    }

    /// Gives it up and leaves nothing behind where the store allows it.
    pub(crate) async fn abort(self) {
        if let Some(parts) = self.parts {
            // The run ends with the error that led here; one more from the clean-up would hide it.
            let _not_cleaned_up = parts.abort().await;
        }
    }
}
