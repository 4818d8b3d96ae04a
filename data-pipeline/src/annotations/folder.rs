//! A folder of images, and where in it an image of annotations lies.

use std::collections::BTreeMap;

use super::{ImageName, normal};
use crate::error::Result;
use crate::store::Location;

/// Folders of Visual Genome's images, as they are published.
const GENOME_FOLDERS: [&str; 2] = ["VG_100K", "VG_100K_2"];

/// The images of a folder, and how many bytes they have.
pub struct Folder {
    sizes: BTreeMap<String, u64>,
    own_name: String,
}

/// The place of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// At a path below the folder, with so many bytes.
    At {
        /// The path.
        path: &'a str,
        /// Bytes.
        size: u64,
    },
    /// Not in the folder.
    Missing,
    /// In several places, which hold different images.
    Ambiguous,
}

impl Folder {
    /// Lists the folder. Annotations may put `own_name`, the folder's name below theirs, in front of an image's name.
    ///
    /// # Errors
    /// [`DataError::Store`](crate::DataError::Store).
    pub async fn list(location: &Location, own_name: &str) -> Result<Self> {
        let mut sizes = BTreeMap::new();
        for (found, meta) in location.list("").await? {
            sizes.insert(location.below(&found.path).to_owned(), meta.size);
        }
        Ok(Self { sizes, own_name: normal(own_name) })
    }

    /// Finds an image by its full name, never by its base name alone: below the folder, or beside it where the name
    /// begins with the folder's own (`images/a.jpg` of the folder `images`). Names of COCO without a folder state theirs:
    /// `COCO_val2014_….jpg` is looked for below `val2014` as well.
    pub fn find(&self, image: &ImageName) -> Found<'_> {
        match image {
            ImageName::File(name) => {
                let in_coco = || self.at(&format!("{}/{name}", coco_folder(name)?));
                let found = self.at(name).or_else(|| self.at(self.below(name)?)).or_else(in_coco);
                found.unwrap_or(Found::Missing)
            }
            ImageName::Genome(id) => {
                let folders = GENOME_FOLDERS.iter().map(|folder| format!("{folder}/{id}.jpg"));
                let mut all = std::iter::once(format!("{id}.jpg")).chain(folders).filter_map(|name| self.at(&name));
                let first = all.next().unwrap_or(Found::Missing);
                let is_other = |other: Found<'_>| other.size() != first.size();
                if all.any(is_other) { Found::Ambiguous } else { first }
            }
        }
    }

    /// The path of another image with the same base name, for messages.
    pub fn elsewhere(&self, file: &str) -> Option<&str> {
        let base = |path: &str| path.rsplit('/').next().map(str::to_owned);
        let wanted = base(file);
        self.sizes.keys().find(|path| base(path) == wanted).map(String::as_str)
    }

    /// Some path of the folder, for messages.
    pub(crate) fn any(&self) -> Option<&str> {
        self.sizes.keys().next().map(String::as_str)
    }

    fn at(&self, path: &str) -> Option<Found<'_>> {
        self.sizes.get_key_value(path).map(|(path, size)| Found::At { path, size: *size })
    }

    fn below<'a>(&self, name: &'a str) -> Option<&'a str> {
        if self.own_name.is_empty() { None } else { name.strip_prefix(&self.own_name)?.strip_prefix('/') }
    }
}

impl Found<'_> {
    fn size(self) -> Option<u64> {
        if let Self::At { size, .. } = self { Some(size) } else { None }
    }
}

/// The folder that a name of COCO states: `val2014` of `COCO_val2014_000000391895.jpg`.
fn coco_folder(name: &str) -> Option<&str> {
    let (folder, number) = name.strip_prefix("COCO_")?.split_once('_')?;
    let year = ["train", "val", "test"].iter().find_map(|split| folder.strip_prefix(split))?;
    let is_year = year.len() == 4 && year.bytes().all(|byte| byte.is_ascii_digit());
    (is_year && !number.contains('/')).then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(own_name: &str, files: &[(&str, u64)]) -> Folder {
        let sizes = files.iter().map(|(path, size)| ((*path).to_owned(), *size)).collect();
        Folder { sizes, own_name: normal(own_name) }
    }

    fn path(folder: &Folder, name: &str) -> Option<String> {
        match folder.find(&ImageName::file(name)) {
            Found::At { path, .. } => Some(path.to_owned()),
            Found::Missing => None,
            Found::Ambiguous => panic!("files are never ambiguous"),
        }
    }

    #[test]
    fn files_are_found_by_their_full_name_only() {
        let images = folder("./coco/images/", &[("a/1.jpg", 1), ("b/2.jpg", 2), ("images/3.jpg", 3), ("3.jpg", 4)]);
        for name in ["a/1.jpg", "./a/1.jpg", "a//./1.jpg", "coco/images/a/1.jpg", "./coco//images/a/1.jpg"] {
            assert_eq!(path(&images, name).as_deref(), Some("a/1.jpg"), "{name}");
        }
        assert_eq!(path(&images, "images/3.jpg").as_deref(), Some("images/3.jpg"), "below the folder first");
        for name in ["1.jpg", "b/1.jpg", "c/a/1.jpg", "/a/1.jpg", "images/a/1.jpg", "coco/imagesa/1.jpg", "A/1.jpg", ""]
        {
            assert_eq!(path(&images, name), None, "{name}");
        }
        assert_eq!(images.elsewhere("x/2.jpg"), Some("b/2.jpg"));
        assert_eq!(images.elsewhere("5.jpg"), None);
    }

    #[test]
    fn names_of_coco_state_their_folder() {
        let images = folder(
            "images",
            &[
                ("val2014/COCO_val2014_000000000042.jpg", 1),
                ("train2014/COCO_val2014_000000000043.jpg", 1),
                ("COCO_test_a_1.jpg", 2),
            ],
        );
        assert_eq!(
            path(&images, "COCO_val2014_000000000042.jpg").as_deref(),
            Some("val2014/COCO_val2014_000000000042.jpg")
        );
        assert_eq!(path(&images, "COCO_val2014_000000000043.jpg"), None, "train2014 is not its folder");
        assert_eq!(path(&images, "other/COCO_val2014_000000000042.jpg"), None);
        assert_eq!(path(&images, "COCO_test_a_1.jpg").as_deref(), Some("COCO_test_a_1.jpg"));
    }

    #[test]
    fn ids_of_visual_genome_are_in_its_folders_and_may_be_ambiguous() {
        let images = folder(
            "images",
            &[
                ("VG_100K/1.jpg", 5),
                ("VG_100K_2/2.jpg", 6),
                ("3.jpg", 7),
                ("VG_100K/4.jpg", 8),
                ("VG_100K_2/4.jpg", 8),
                ("VG_100K/5.jpg", 8),
                ("VG_100K_2/5.jpg", 9),
                ("other/6.jpg", 1),
            ],
        );
        let find = |id: &str| images.find(&ImageName::Genome(id.into()));
        assert_eq!(find("1"), Found::At { path: "VG_100K/1.jpg", size: 5 });
        assert_eq!(find("2"), Found::At { path: "VG_100K_2/2.jpg", size: 6 });
        assert_eq!(find("3"), Found::At { path: "3.jpg", size: 7 });
        assert_eq!(find("4"), Found::At { path: "VG_100K/4.jpg", size: 8 });
        assert_eq!(find("5"), Found::Ambiguous);
        assert_eq!(find("6"), Found::Missing);
        assert_eq!(images.find(&ImageName::file("1.jpg")), Found::Missing, "a file's name is no id");
    }
}
