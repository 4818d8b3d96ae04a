//! Whether a store keeps an object that is there when it is asked to write it only if absent.

use bytes::Bytes;
use object_store::ObjectStoreExt;

use super::{Created, Storage};
use crate::error::{Result, TrainerError};

/// Times that the second write is sent while its answer is unclear.
const TRIES: u32 = 3;

impl Storage {
    /// Checks that the store has put-if-absent, without which two processes could both own a run: an object below
    /// `log/`, of a name that no entry has, is written twice and must stay as it was first. It is deleted afterwards.
    ///
    /// # Errors
    /// [`TrainerError::NoPutIfAbsent`] when the store does not have it, [`TrainerError::Store`] when it does not answer.
    pub fn check_put_if_absent(&self) -> Result<()> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(TrainerError::NoRandomBytes)?;
        let name = format!("log/probe-{:032x}", u128::from_le_bytes(random));
        let checked = self.probe(&name);
        let place = self.root.child(&name);
        // It is no entry of the log: one that stays costs some bytes.
        let _gone = self.runtime.block_on(place.store.delete(&place.path));
        checked
    }

    fn probe(&self, name: &str) -> Result<()> {
        let (first, second) = (Bytes::from_static(b"first\n"), Bytes::from_static(b"second\n"));
        // An answer that is lost, or "it exists" to one's own repeated write, is settled by what stands there.
        let written = self.create(name, first.clone());
        match (&written, self.read(name)?) {
            (_, Some(there)) if there == first => {}
            (Ok(Created::Written), None) => return Err(self.refused("an object that was written and is not there")),
            (Ok(_), Some(_)) => return Err(self.refused("other bytes than were written")),
            (Ok(Created::Taken), None) => {
                return Err(self.refused("\"it exists\" for an object that does not"));
            }
            (Err(_), _) => return Err(self.unless_unknown(written.err())),
        }
        let mut unclear = None;
        for _ in 0..TRIES {
            let written = self.create(name, second.clone());
            if self.read(name)?.is_none_or(|there| there != first) {
                return Err(self.refused("that the second of two writes \"if absent\" replaced the first"));
            }
            match written {
                Ok(Created::Taken) => return Ok(()),
                Ok(Created::Written) => {
                    return Err(self.refused("that the store confirmed a second write \"if absent\" of one object"));
                }
                Err(error) => unclear = Some(error),
            }
        }
        Err(self.unless_unknown(unclear))
    }

    /// The store's error; another one where it says that it does not know what was asked for.
    fn unless_unknown(&self, error: Option<TrainerError>) -> TrainerError {
        use data_pipeline::error::DataError;
        use object_store::Error as E;
        match error {
            Some(TrainerError::Store(DataError::Store { source, .. }))
                if matches!(*source, E::NotImplemented { .. } | E::NotSupported { .. }) =>
            {
                self.refused(&source.to_string())
            }
            Some(error) => error,
            None => self.refused("no clear answer"),
        }
    }

    fn refused(&self, found: &str) -> TrainerError {
        TrainerError::NoPutIfAbsent { uri: self.uri(""), found: found.to_owned() }
    }
}
