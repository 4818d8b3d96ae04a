//! The images of a set.

use bytes::Bytes;

use super::Problems;
use crate::annotations::{Folder, Found, ImageName};
use crate::error::Result;
use crate::store::Location;

/// Advice about images that are missing.
const COMPLETE: &str = "Name the folder below which every image of the set has the name that the set gives it (COCO's also below \
                        train2014, val2014 or test2015), and complete it";

/// Missing images whose base name is searched for, for the message: those that it spells out.
const SEARCHED: usize = 20;

/// A folder that holds every image of a set.
pub struct ImageFolder {
    location: Location,
    folder: Folder,
}

impl ImageFolder {
    /// Lists the folder and looks for the files of a set, each by its full name ([`Folder::find`]); a file may be named
    /// more than once.
    ///
    /// # Errors
    /// [`DataError::Benchmark`](crate::DataError::Benchmark) with all images that are missing, [`DataError::Store`](crate::DataError::Store) when the folder cannot be listed.
    pub async fn open<'a>(location: &Location, files: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let folder = Folder::list(location, location.path.filename().unwrap_or_default()).await?;
        let mut problems = Problems::default();
        let mut asked = std::collections::BTreeSet::new();
        for file in files {
            if asked.insert(file) && path_of(&folder, file).is_none() {
                // Each search walks the folder.
                let elsewhere = if problems.len() < SEARCHED { folder.elsewhere(file) } else { None };
                let other = elsewhere.map(|path| format!("; the folder has {path}")).unwrap_or_default();
                problems.note(file, format!("no image of this name{other}"));
            }
        }
        problems.refuse(location.uri(), COMPLETE)?;
        Ok(Self { location: location.clone(), folder })
    }

    /// The encoded bytes of the image that the set calls `file`.
    ///
    /// # Errors
    /// [`DataError::Store`](crate::DataError::Store) when it cannot be read, or was not there when the folder was opened.
    pub async fn read(&self, file: &str) -> Result<Bytes> {
        self.location.child(path_of(&self.folder, file).unwrap_or(file)).read().await
    }
}

/// The path below the folder of an image.
fn path_of<'a>(folder: &'a Folder, file: &str) -> Option<&'a str> {
    match folder.find(&ImageName::file(file)) {
        Found::At { path, .. } => Some(path),
        Found::Missing | Found::Ambiguous => None,
    }
}
