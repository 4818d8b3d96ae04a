use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A ustar member.
fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_size(content.len() as u64);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_cksum();
    let mut bytes = [&header.as_bytes()[..], content].concat();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn tar() -> Vec<u8> {
    let long = format!("{}/c.jpg", "folder".repeat(30));
    let record = |key: &str, value: &str| {
        let rest = format!(" {key}={value}\n");
        let length = rest.len() + 3;
        format!("{length}{rest}")
    };
    [
        member("a/", b'5', b""),
        member("a/1.jpg", b'0', b"picture"),
        member("a/1.txt", b'0', b"one"),
        member("a/1.txt", b'0', b"again"),
        member("a/2.json", b'0', br#"{"caption": "two", "width": 3}"#),
        member("a/2.cls.png", b'0', b"not an image's name"),
        member("a/2.png", b'0', b"second"),
        member("PaxHeaders/x", b'x', record("path", &long).as_bytes()),
        member("short", b'0', b"third"),
        member("././@LongLink", b'L', format!("{}\0", long.replace(".jpg", ".txt")).as_bytes()),
        member("short", b'0', &[0xff, 0xfe]),
        vec![0; 2 * BLOCK],
    ]
    .concat()
}

#[test]
fn members_of_one_name_are_one_sample() {
    let rows = rows(tar().into(), 3, &Roles::default()).unwrap();
    let image = |row: usize| rows.images.value(row);
    assert_eq!((image(0), image(1), image(2)), (&b"picture"[..], &b"second"[..], &b"third"[..]));
    assert_eq!((rows.captions.value(0), rows.captions.value(1)), ("one", "two"));
    assert_eq!(rows.bad_texts, BTreeSet::from([2]));
    assert_eq!(rows.refused, BTreeMap::from([(0, "repeated_key")]), "two other texts of one name");
    let keys = rows.keys.unwrap();
    assert_eq!((keys.value(0), keys.value(1)), ("a/1", "a/2"));
    assert!(keys.value(2).ends_with("folder/c"));
}

#[test]
fn a_tar_may_arrive_in_any_pieces() {
    let whole = tar();
    for piece in [1, 7, 511, 512, 513, 4096] {
        let mut reader = TarSamples::default();
        let mut found = Vec::new();
        for bytes in whole.chunks(piece) {
            reader.push(Bytes::copy_from_slice(bytes));
            while let Some(sample) = reader.next_sample().unwrap() {
                found.push(sample);
            }
        }
        found.extend(reader.finish().unwrap());
        assert_eq!(found.len(), 3, "pieces of {piece}");
        // Every sample can be read by itself.
        for sample in found {
            let part = Bytes::copy_from_slice(&whole[sample.start as usize..sample.end as usize]);
            assert_eq!(rows(part, 1, &Roles::default()).unwrap().images.value(0), sample.image.unwrap().as_ref());
        }
    }
}

#[test]
fn a_cut_tar_gives_its_whole_samples_and_says_so() {
    let whole = tar();
    let mut reader = TarSamples::default();
    reader.push(Bytes::copy_from_slice(&whole[..whole.len() - 4 * BLOCK + 1]));
    assert_eq!(reader.next_sample().unwrap().unwrap().key, "a/1");
    assert_eq!(reader.next_sample().unwrap().unwrap().key, "a/2");
    assert_eq!(reader.next_sample().unwrap(), None);
    assert!(reader.finish().unwrap_err().contains("middle of a member"));
}

proptest! {
    #[test]
    fn damaged_tars_are_told_and_never_panic(at in 0_usize..6000, value: u8, cut in 0_usize..7000) {
        let mut bytes = tar();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        bytes.truncate(cut);
        let _any_answer = rows(bytes.into(), 3, &Roles::default());
    }
}

#[test]
fn a_sum_in_base_256_is_no_sum() {
    // Found by tests/fuzz: the field has 8 bytes, and nothing in front of the number.
    let mut bytes = member("a.jpg", b'0', b"picture");
    bytes[148] = 0x80;
    assert!(rows(bytes.into(), 1, &Roles::default()).unwrap_err().contains("sum is wrong"));
}

#[test]
fn names_are_cut_at_the_first_dot_of_the_base_name() {
    assert_eq!(split_name("a.b/c.d.e"), Some(("a.b/c", "d.e")));
    assert_eq!(split_name("c"), None);
    assert_eq!(split_name("a/.hidden"), None);
}

/// The key, image, text and problem of every sample.
fn samples(members: &[(&str, &str)], roles: &Roles) -> Vec<(String, String, String, Option<&'static str>)> {
    let bytes: Vec<u8> = members.iter().flat_map(|(name, content)| member(name, b'0', content.as_bytes())).collect();
    let mut reader = TarSamples::with_roles(roles.clone());
    reader.push(bytes.into());
    let found = reader.finish().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let one = |sample: &TarSample| {
        let image = text(sample.image.as_deref().unwrap_or_default());
        (sample.key.clone(), image, sample.texts().caption.unwrap_or_default(), sample.problem)
    };
    found.iter().map(one).collect()
}

fn plain(members: &[(&str, &str)]) -> Vec<(String, String, String, Option<&'static str>)> {
    samples(members, &Roles::default())
}

fn row(key: &str, image: &str, text: &str) -> (String, String, String, Option<&'static str>) {
    (key.into(), image.into(), text.into(), None)
}

#[test]
fn extensions_of_two_parts_name_roles() {
    let both = [("7.image.jpg", "i"), ("7.caption.txt", "c"), ("8.mask.png", "m"), ("8.jpg", "j"), ("8.txt", "t")];
    assert_eq!(plain(&both), [row("7", "i", "c"), row("8", "j", "t")]);
    let several = [("7.mask.png", "m"), ("7.image.jpg", "i"), ("7.image.json", "{}"), ("7.caption.txt", "c")];
    assert_eq!(plain(&several), [row("7", "i", "c")]);
    let unknown = [("7.left.jpg", "l"), ("7.right.jpg", "r"), ("7.txt", "t")];
    assert_eq!(plain(&unknown), [("7".into(), String::new(), "t".into(), Some("ambiguous_image"))]);
    let columns = configs::Columns { image: Some("right.jpg".into()), caption: Some(".title".into()), key: None };
    let roles = Roles::of(Some(&columns));
    assert_eq!(samples(&[unknown[0], unknown[1], ("7.title", "n")], &roles), [row("7", "r", "n")]);
}

#[test]
fn keys_with_dots_are_keys() {
    let sorted = [("v1.5.jpg", "a"), ("v1.5.txt", "A"), ("v1.6.jpg", "b"), ("v1.6.txt", "B"), ("v1.7.jpg", "c")];
    assert_eq!(plain(&sorted), [row("v1.5", "a", "A"), row("v1.6", "b", "B"), row("v1.7", "c", "")]);
    let apart = [("v1.5.jpg", "a"), ("v1.6.jpg", "b"), ("v1.5.txt", "A"), ("v1.6.txt", "B")];
    assert_eq!(plain(&apart), [row("v1.5", "a", "A"), row("v1.6", "b", "B")]);
    let uneven = [("v1.5.jpg", "a"), ("v1.6.jpg", "b"), ("v1.7.jpg", "c"), ("v1.5.txt", "A"), ("v1.8.txt", "D")];
    let all = [row("v1.5", "a", "A"), row("v1.6", "b", ""), row("v1.7", "c", ""), row("v1", "", "D")];
    assert_eq!(plain(&uneven), all, "no member goes without a row");
    let beside = [("k.jpg", "a"), ("k.txt", "A"), ("k.5.jpg", "b"), ("k.5.txt", "B")];
    assert_eq!(plain(&beside), [row("k", "a", "A"), row("k.5", "b", "B")]);
    assert_eq!(plain(&[("1.5.jpg", "a"), ("1.6.txt", "B")]), [row("1.5", "a", "")], "no text of another name");
}

#[test]
fn repeated_keys_are_refused_and_equal_copies_are_not() {
    let twice = [("a.jpg", "1"), ("a.txt", "x"), ("a.jpg", "2"), ("a.txt", "y"), ("b.jpg", "3"), ("b.txt", "z")];
    assert_eq!(plain(&twice), [("a".into(), "1".into(), "x".into(), Some("repeated_key")), row("b", "3", "z")]);
    let copied = [("a.jpg", "1"), ("a.jpg", "1"), ("a.txt", "x")];
    assert_eq!(plain(&copied), [row("a", "1", "x")]);
}

#[test]
fn captions_stand_in_texts_or_in_json_of_any_usual_name() {
    for (json, caption) in [
        (r#"{"caption": "one", "score": NaN}"#, "one"),
        (r#"{"TEXT": "one"}"#, "one"),
        (r#"{"captions": ["", "one", "two"]}"#, "one"),
        (r#"{"alt_text": "one", "caption": null}"#, "one"),
        (r#"{"caption": 3}"#, ""),
        ("no json", ""),
    ] {
        assert_eq!(plain(&[("a.jfif", "i"), ("a.json", json)]), [row("a", "i", caption)], "{json}");
    }
    assert_eq!(plain(&[("a.JPEG", "i"), ("a.caption", "c")]), [row("a", "i", "c")]);
    let columns = configs::Columns { image: None, caption: Some("title".into()), key: Some("id".into()) };
    let found = samples(&[("a.jpg", "i"), ("a.json", r#"{"title": "t", "caption": "c"}"#)], &Roles::of(Some(&columns)));
    assert_eq!(found, [row("a", "i", "t")]);
}

#[test]
fn a_caption_of_json_that_is_no_utf8_is_none() {
    let texts = |json: &[u8]| {
        let bytes = [member("a.jpg", b'0', b"i"), member("a.json", b'0', json)].concat();
        rows(bytes.into(), 1, &Roles::default()).unwrap()
    };
    let bad = texts(b"{\"caption\": \"caf\xe9\"}");
    assert_eq!(bad.unusable(0), Some("caption_not_utf8"));
    assert_eq!(texts(b"{\"caption\": \"a\", \"by\": \"caf\xe9\"}").texts(0), ["a"], "another field costs itself");
    assert_eq!(texts(b"{\"captions\": [\"caf\xe9\", \"b\"]}").texts(0), ["b"]);
    assert_eq!(texts("{\"caption\": \"a \u{fffd}\"}".as_bytes()).texts(0), ["a \u{fffd}"], "written so");
}

#[test]
fn images_and_texts_apart_are_no_samples() {
    let apart = [("1.jpg", "a"), ("2.jpg", "b"), ("1.txt", "A"), ("2.txt", "B")];
    assert_eq!(plain(&apart), [row("1", "a", ""), row("2", "b", ""), row("1", "", "A"), row("2", "", "B")]);
}

#[test]
fn compressed_tars_are_told() {
    assert_eq!(compression(&[0x1f, 0x8b, 8, 0]), Some(("gzip", "gunzip")));
    assert_eq!(compression(b"BZh91AY"), Some(("bzip2", "bunzip2")));
    assert_eq!(compression(&tar()), None);
}

proptest! {
    /// Whatever the names and the order of the members are, no image gets a text of other words.
    #[test]
    fn no_text_goes_to_an_image_of_another_name(
        keys in prop::collection::btree_set("[a-zé图#%]{1,3}(\\.[0-9a-z]{1,3}){0,2}", 1..8), seed: u64, is_sorted: bool,
    ) {
        // `7.txt` is the text of `7.left.jpg`, as WebDataset has it.
        prop_assume!(!keys.iter().any(|key| keys.iter().any(|other| other.starts_with(&format!("{key}.")))));
        let mut names: Vec<(String, String)> = Vec::new();
        for key in &keys {
            names.push((format!("{key}.jpg"), key.clone()));
            names.push((format!("{key}.txt"), key.clone()));
        }
        if !is_sorted {
            crate::rng::CounterRng::new(seed, crate::rng::Purpose::Order, &[]).shuffle(&mut names);
        }
        let members: Vec<(&str, &str)> = names.iter().map(|(name, key)| (name.as_str(), key.as_str())).collect();
        let found = plain(&members);
        for (_, image, text, problem) in &found {
            let is_pair = image.is_empty() || text.is_empty() || image == text || problem.is_some();
            prop_assert!(is_pair, "{image} with {text} of {members:?}");
        }
        if is_sorted && keys.iter().all(|key| !key.contains('.')) {
            prop_assert_eq!(found.len(), keys.len());
        }
    }
}
