//! The images of a set.

use bytes::Bytes;

use super::Problems;
use crate::annotations::Folder;
use crate::error::Result;
use crate::store::Location;

/// A folder that holds every image of a set.
pub struct ImageFolder {
    location: Location,
    folder: Folder,
}

impl ImageFolder {
    /// Lists the folder and looks for the files of a set; a file may be named more than once.
    ///
    /// # Errors
    /// [`DataError::Benchmark`](crate::DataError::Benchmark) with all images that are missing, [`DataError::Store`](crate::DataError::Store) when the folder cannot be listed.
    pub async fn open<'a>(location: &Location, files: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let folder = Folder::list(location).await?;
        let mut problems = Problems::default();
        let mut asked = std::collections::BTreeSet::new();
        for file in files {
            if asked.insert(file) && folder.find(file).is_none() {
                problems.note(file, "no such image, neither by its path nor by its base name".into());
            }
        }
        problems.refuse(location.uri(), "Complete the folder: it is to hold every image of the set")?;
        Ok(Self { location: location.clone(), folder })
    }

    /// The encoded bytes of the image that the set calls `file`.
    ///
    /// # Errors
    /// [`DataError::Store`](crate::DataError::Store) when it cannot be read, or was not there when the folder was opened.
    pub async fn read(&self, file: &str) -> Result<Bytes> {
        let path = self.folder.find(file).map_or(file, |(path, _)| path);
        self.location.child(path).read().await
    }
}
