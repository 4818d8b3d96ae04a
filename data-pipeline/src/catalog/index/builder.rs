//! Puts shards together to a catalogue.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Mutex;

use super::{IndexedShard, columns_of};
use crate::catalog::file::SCHEMA_VERSION;
use crate::catalog::{BadEntries, BadShard, Catalog, Description, Footers, Form, Images, Place, RowGroup, ShardEntry};
use crate::error::{DataError, Result};
use crate::filters::Rejected;
use crate::store::Location;

/// A catalogue that grows.
pub(crate) struct Builder {
    pub(crate) location: Location,
    pub(crate) description: Description,
    pub(crate) shards: Vec<ShardEntry>,
    pub(crate) images: Option<Images>,
    row_groups: Vec<RowGroup>,
    bits: Vec<u8>,
    rows: u64,
}

/// A row group as files and indexes know it: with its bits, which are none when all rows are used.
pub(crate) struct NewGroup<'a> {
    pub(crate) shard: u32,
    pub(crate) place: Place,
    pub(crate) rows: u32,
    pub(crate) usable: u32,
    pub(crate) bytes: u64,
    pub(crate) bits: Option<&'a [u8]>,
}

impl Builder {
    pub(crate) fn new(form: Form, location: &Location, settings: serde_json::Value) -> Self {
        let description = Description {
            schema_version: SCHEMA_VERSION,
            form,
            settings,
            rows: 0,
            rejected: Rejected::new(),
            formats: BTreeMap::new(),
            bad_shards: Vec::new(),
            bad_entries: BadEntries::default(),
            is_pattern: false,
        };
        Self::described(location, description)
    }

    pub(crate) fn described(location: &Location, description: Description) -> Self {
        let (shards, row_groups) = (Vec::new(), Vec::new());
        let location = location.clone();
        // Byte 0 is not used, so that the place of bits is never 0.
        Self { location, description, shards, images: None, row_groups, bits: vec![0], rows: 0 }
    }

    pub(super) fn add(&mut self, shard: &Location, size: u64, indexed: IndexedShard) {
        let path = self.location.below(&shard.path).to_owned();
        let number = self.shards.len() as u32;
        self.shards.push(ShardEntry { path, size, fingerprint: indexed.fingerprint });
        for (reason, rows) in indexed.rejected {
            *self.description.rejected.entry(reason).or_default() += rows;
        }
        for (format, images) in indexed.formats {
            *self.description.formats.entry(format).or_default() += images;
        }
        if let Some(problem) = indexed.damage {
            self.description.bad_shards.push(BadShard { uri: shard.uri().into(), problem, used_in_part: true });
        }
        for group in indexed.groups {
            let (rows, usable) = (group.used.len() as u32, group.used.iter().filter(|used| **used).count() as u32);
            let bits = (usable < rows).then(|| pack(&group.used));
            let (place, bytes, bits) = (group.place, group.bytes, bits.as_deref());
            self.push(&NewGroup { shard: number, place, rows, usable, bytes, bits });
            self.description.rows += u64::from(rows);
        }
    }

    pub(crate) fn push(&mut self, group: &NewGroup<'_>) {
        let start = group.bits.map(|bits| {
            let start = NonZeroU32::new(self.bits.len() as u32).expect("invariant: byte 0 is not used");
            self.bits.extend(bits);
            start
        });
        let NewGroup { shard, place, rows, usable, bytes, .. } = *group;
        self.row_groups.push(RowGroup { shard, place, rows, usable, bytes, first_row: self.rows, bits: start });
        self.rows += u64::from(rows);
    }

    pub(super) fn leave_out(&mut self, shard: &Location, error: &DataError) {
        let problem = error.to_string();
        self.description.bad_shards.push(BadShard { uri: shard.uri().into(), problem, used_in_part: false });
    }

    /// # Errors
    /// `first_error`, when no shard could be read.
    pub(crate) fn finish(self, first_error: Option<DataError>) -> Result<Catalog> {
        if let (true, Some(error)) = (self.shards.is_empty(), first_error) {
            return Err(error);
        }
        let Self { location, description, shards, row_groups, bits, images, .. } = self;
        let footers = Mutex::new(Footers::default());
        let columns = columns_of(&description.settings);
        Ok(Catalog { location, description, shards, row_groups, bits, images, columns, footers, asks: false })
    }
}

/// One bit per row, the first row lowest.
fn pack(used: &[bool]) -> Vec<u8> {
    let byte = |rows: &[bool]| rows.iter().enumerate().fold(0, |byte, (bit, used)| byte | u8::from(*used) << bit);
    used.chunks(8).map(byte).collect()
}

#[cfg(test)]
impl Catalog {
    /// A catalogue of Parquet row groups with these rows, all used, of a shard that does not exist.
    pub(crate) fn of_rows(rows: &[u32]) -> Self {
        let location = Location::parse("/nowhere").unwrap();
        let mut catalog = Builder::new(Form::Parquet, &location, serde_json::Value::Null);
        for (row_group, rows) in rows.iter().enumerate() {
            let place = Place::Parquet { row_group: row_group as u32, first: 0 };
            catalog.push(&NewGroup { shard: 0, place, rows: *rows, usable: *rows, bytes: 1, bits: None });
        }
        catalog.finish(None).unwrap()
    }
}
