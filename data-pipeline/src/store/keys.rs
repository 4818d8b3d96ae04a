//! Keys of objects as paths, whatever characters they have.
//!
//! [`Path`] reads back a key as it was listed only when it was made by [`Path::parse`], and refuses keys with an empty
//! part (`a//b`), as do the listings of the stores. Empty parts stand as [`EMPTY`] in a listing until [`restored`].

use std::borrow::Cow;

use bytes::Bytes;
use object_store::path::{Path, PathPart};

/// Stands for an empty part of a key in a listing: two characters for private use, which no key has as a whole part.
const EMPTY: &str = "\u{e000}\u{e001}";
/// Elements of the stores' listings that hold keys: S3 and Google, Azure.
const KEY_ELEMENTS: [&str; 2] = ["Key", "Name"];

/// `path` with the parts of `name` below it, each under the very characters that it is written in. A folder of a file
/// system has no empty parts; a key may have some.
pub(super) fn join(path: &Path, name: &str, keeps_empty: bool) -> Path {
    let name = name.strip_suffix('/').unwrap_or(name);
    if name.is_empty() {
        return path.clone();
    }
    let parts = name.split('/').filter(|part| keeps_empty || !part.is_empty());
    parts.fold(path.clone(), |path, part| path.join(part_of(part)))
}

/// A part as it is written; what no path may hold (`..`, control characters) is encoded.
fn part_of(part: &str) -> PathPart<'_> {
    PathPart::parse(part).unwrap_or_else(|_| PathPart::from(part))
}

/// A listing in which empty parts of keys have a name. Other answers are left alone.
pub(super) fn with_named_empty_parts(listing: Bytes) -> Bytes {
    let Ok(text) = std::str::from_utf8(&listing) else { return listing };
    let mut made = String::new();
    let mut rest = text;
    while let Some((start, end)) = next_key(rest) {
        made.push_str(&rest[..start]);
        made.push_str(&named(&rest[start..end]));
        rest = &rest[end..];
    }
    if made.is_empty() {
        return listing;
    }
    made.push_str(rest);
    made.into()
}

/// First byte and end of the next key of a listing.
fn next_key(text: &str) -> Option<(usize, usize)> {
    let found = KEY_ELEMENTS.iter().filter_map(|element| {
        let open = format!("<{element}>");
        let start = text.find(&open)? + open.len();
        let end = start + text[start..].find(&format!("</{element}>"))?;
        Some((start, end))
    });
    found.min()
}

/// A key whose empty parts have a name; the one behind a last slash, that of a folder's own object, has none.
fn named(key: &str) -> Cow<'_, str> {
    if !key.starts_with('/') && !key.contains("//") {
        return Cow::Borrowed(key);
    }
    let (body, end) = key.strip_suffix('/').map_or((key, ""), |body| (body, "/"));
    let parts: Vec<&str> = body.split('/').map(|part| if part.is_empty() { EMPTY } else { part }).collect();
    Cow::Owned(parts.join("/") + end)
}

/// A listed path with its empty parts. None for a key that begins with a slash, which no path can name.
pub(super) fn restored(listed: &Path) -> Option<Path> {
    if !listed.as_ref().contains(EMPTY) {
        return Some(listed.clone());
    }
    let parts = listed.as_ref().split('/').map(|part| if part == EMPTY { "" } else { part });
    let path = parts.fold(Path::default(), |path, part| path.join(part_of(part)));
    (!listed.as_ref().starts_with(EMPTY)).then_some(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_kept_as_they_are_written() {
        for name in
            ["part#2", "100%", "a%20b", "set[0]", "a~1", "{x}", "a*b", "a|b", "a^b", "\"q\"", "<x>", "a?b", "a&b"]
        {
            let path = join(&Path::from("folder"), &format!("été 图像/{name}.parquet"), true);
            assert_eq!(path.as_ref(), format!("folder/été 图像/{name}.parquet"));
        }
        assert_eq!(join(&Path::from("a"), "b//c/", true).as_ref(), "a/b//c");
        assert_eq!(join(&Path::from("a"), "b//c/", false).as_ref(), "a/b/c");
        assert_eq!(join(&Path::from("a"), "", true).as_ref(), "a", "nothing is added to a folder");
        assert_eq!(join(&Path::from("a"), "../b", true).as_ref(), "a/%2E%2E/b", "nothing leads out of a folder");
    }

    #[test]
    fn empty_parts_of_listed_keys_come_back() {
        let listing = "<L><Name>bucket</Name><Contents><Key>a//b.tar</Key></Contents><Contents><Key>a/c.tar</Key>\
                       </Contents><Contents><Key>a//</Key></Contents><Contents><Key>/d.tar</Key></Contents></L>";
        let named = with_named_empty_parts(Bytes::from(listing));
        let text = std::str::from_utf8(&named).unwrap();
        let keys: Vec<&str> = text.split("<Key>").skip(1).map(|rest| rest.split('<').next().unwrap()).collect();
        let paths = keys.iter().map(|key| restored(&Path::parse(key).unwrap()));
        let paths: Vec<Option<String>> = paths.map(|path| path.map(|path| path.to_string())).collect();
        assert_eq!(paths, [Some("a//b.tar".into()), Some("a/c.tar".into()), Some("a/".into()), None]);
        let plain = Bytes::from_static(b"<Key>a/b</Key>");
        assert_eq!(with_named_empty_parts(plain.clone()), plain);
    }

    proptest! {
        #[test]
        fn every_key_is_read_under_its_own_name(parts in prop::collection::vec("[^/\\pC]{0,6}", 1..5)) {
            let key = parts.join("/");
            prop_assume!(!parts.iter().any(|part| part == "." || part == "..") && !key.ends_with('/'));
            let listing = format!("<Key>{key}</Key>");
            let named = with_named_empty_parts(listing.into());
            let listed = std::str::from_utf8(&named).unwrap();
            let listed = Path::parse(&listed["<Key>".len()..listed.len() - "</Key>".len()]).unwrap();
            let expected = (!key.starts_with('/') && !key.is_empty()).then(|| key.clone());
            prop_assert_eq!(restored(&listed).map(|path| path.to_string()).filter(|path| !path.is_empty()), expected);
        }
    }
}
