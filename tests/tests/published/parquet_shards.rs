//! Parquet of the hub, of pandas and of img2dataset; names and patterns.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, DictionaryArray, Int64Array, LargeBinaryArray, LargeStringArray, StringArray,
    StringViewArray,
};
use arrow::datatypes::{DataType, Field, Int32Type};
use configs::{Columns, Filters, Nsfw, Source};
use data_pipeline::catalog::{Catalog, READ_UNIT_BYTES};
use data_pipeline::store::Location;
use integration_tests::sets::write_tars;

use crate::{
    block_on, expected, images, lists, make, numbered, pairs, shards, struct_of_images, unchecked_texts, write_parquet,
};

#[test]
fn parquet_of_the_hub_pandas_and_img2dataset() {
    let folder = tempfile::tempdir().unwrap();
    let large = || Arc::new(LargeBinaryArray::from_iter_values((0..2).map(numbered))) as ArrayRef;
    let categories: DictionaryArray<Int32Type> = vec!["a", "b"].into_iter().collect();
    let cases: Vec<(&str, ArrayRef, &str, ArrayRef)> = vec![
        ("image", struct_of_images(2), "text", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("image", images(2), "caption", Arc::new(LargeStringArray::from(vec!["a", "b"]))),
        ("JPG", large(), "TEXT", Arc::new(StringViewArray::from(vec!["a", "b"]))),
        ("image_bytes", images(2), "Caption", Arc::new(categories)),
        ("png", images(2), "captions", lists(&[&[Some("a")], &[Some("b"), Some(" "), None]])),
        ("webp", struct_of_images(2), "alt_text", Arc::new(StringArray::from(vec!["a", "b"]))),
    ];
    for (number, (image, bytes, caption, texts)) in cases.into_iter().enumerate() {
        let set = folder.path().join(format!("set{number}/data/train-00000-of-00001.parquet"));
        write_parquet(&set, vec![(image, bytes), (caption, texts), ("other", Arc::new(Int64Array::from(vec![1, 2])))]);
        let catalog = make(&Source::Parquet(shards(set.parent().unwrap(), None, Filters::none())));
        assert_eq!(pairs(&catalog), expected(&[&["a"], &["b"]]), "{image} {caption}");
    }
}

#[test]
fn columns_of_any_name_by_the_config() {
    let folder = tempfile::tempdir().unwrap();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("photo", images(2)),
        ("title", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("number", Arc::new(Int64Array::from(vec![7, 8]))),
        ("caption", Arc::new(StringArray::from(vec!["no", "no"]))),
    ];
    write_parquet(&folder.path().join("0.parquet"), columns);
    let named = |name: &str| Some(name.to_owned());
    let choice = Columns { image: named("photo"), caption: named("title"), key: named("number") };
    let source = Source::Parquet(shards(folder.path(), Some(choice), Filters::none()));
    let catalog = make(&source);
    assert_eq!(pairs(&catalog), expected(&[&["a"], &["b"]]));
    let keys = block_on(catalog.read(0)).unwrap().keys.unwrap();
    assert_eq!((keys.value(0), keys.value(1)), ("7", "8"));
    // The saved catalogue knows the columns, and refuses others.
    let place = Location::parse(&folder.path().join("catalog").display().to_string()).unwrap();
    block_on(catalog.save(&place)).unwrap();
    let loaded = block_on(Catalog::load(&place, &source, READ_UNIT_BYTES)).unwrap().catalog;
    assert_eq!(pairs(&loaded), expected(&[&["a"], &["b"]]));
    let other = Source::Parquet(shards(folder.path(), None, Filters::none()));
    assert!(block_on(Catalog::load(&place, &other, READ_UNIT_BYTES)).is_err());
}

#[test]
fn one_bad_text_costs_itself_and_no_fact_of_its_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let bad = |good: &[&str]| -> ArrayRef {
        Arc::new(unchecked_texts(good.iter().map(|text| text.as_bytes()).chain([&b"caf\xe9"[..]])))
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("jpg", images(3)),
        ("caption", bad(&["a", "b"])),
        ("NSFW", Arc::new(StringArray::from(vec!["UNLIKELY", "NSFW", "UNLIKELY"]))),
    ];
    write_parquet(&folder.path().join("0.parquet"), columns);
    let filters = Filters { max_nsfw: Some(Nsfw::Unlikely), ..Filters::none() };
    let catalog = make(&Source::Parquet(shards(folder.path(), None, filters)));
    let rejected = [("caption_not_utf8".to_owned(), 1), ("nsfw".to_owned(), 1)];
    assert_eq!(catalog.description.rejected, BTreeMap::from(rejected), "an unsafe row does not pass beside a bad text");
    assert_eq!(pairs(&catalog), expected(&[&["a"]]));

    let all = bad(&["x", "y"]);
    let item = Arc::new(Field::new_list_field(DataType::Utf8, true));
    let offsets = arrow::buffer::OffsetBuffer::from_lengths([1, 1, 1]);
    let lists = arrow::array::ListArray::new(item, offsets, all, None);
    let captions: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
    let set = folder.path().join("lists");
    write_parquet(
        &set.join("0.parquet"),
        vec![("jpg", images(3)), ("caption", captions), ("captions", Arc::new(lists))],
    );
    let catalog = make(&Source::Parquet(shards(&set, None, Filters::none())));
    assert_eq!(pairs(&catalog), expected(&[&["x"], &["y"], &["c"]]), "the other lists stay");
}

#[test]
fn rows_without_an_image_are_not_called_usable() {
    let folder = tempfile::tempdir().unwrap();
    let some = BinaryArray::from_iter((0..4).map(|row| (row != 2).then(|| numbered(row))));
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", " ... "]));
    write_parquet(&folder.path().join("0.parquet"), vec![("image", Arc::new(some)), ("text", texts.clone())]);
    let none = BinaryArray::new_null(4);
    write_parquet(&folder.path().join("1.parquet"), vec![("image", Arc::new(none)), ("text", texts)]);
    let catalog = make(&Source::Parquet(shards(folder.path(), None, Filters::none())));
    let rejected = [("no_caption".to_owned(), 1), ("no_image".to_owned(), 5)];
    assert_eq!(catalog.description.rejected, BTreeMap::from(rejected));
    assert_eq!(pairs(&catalog), expected(&[&["a"], &["b"]]));
    // Images that stand in two columns are taken from the one that has them.
    let first = BinaryArray::from_iter([None, Some(numbered(1))]);
    let second = BinaryArray::from_iter([Some(numbered(0)), Some(numbered(9))]);
    let set = folder.path().join("two");
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    write_parquet(&set.join("0.parquet"), vec![("png", Arc::new(second)), ("jpg", Arc::new(first)), ("text", texts)]);
    let catalog = make(&Source::Parquet(shards(&set, None, Filters::none())));
    assert_eq!(pairs(&catalog), expected(&[&["a"], &["b"]]));
}

#[test]
fn patterns_and_names_of_any_characters() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["été", "图像", "part#2", "100%", "set[0]", "a~1", "{x}", "a*b", "a|b^c", "\"q\" <x>", "a?b&c", "a b"]
    {
        let set = folder.path().join(format!("names/{name}"));
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
        write_parquet(&set.join(format!("{name}.parquet")), vec![("jpg", images(1)), ("caption", texts)]);
        for place in [&set, set.parent().unwrap()] {
            let catalog = make(&Source::Parquet(shards(place, None, Filters::none())));
            assert!(pairs(&catalog).iter().all(|pair| *pair == expected(&[&["a"]])[0]), "{name}");
        }
    }
    let tars = folder.path().join("tars");
    write_tars(&tars, 6, 2);
    let pattern = tars.join("{00001..00003}.tar");
    let source = Source::WebDataset(shards(&pattern, None, Filters::none()));
    let catalog = make(&source);
    assert_eq!((catalog.shards.len(), catalog.usable()), (2, 4));
    let [missing] = catalog.description.bad_shards.as_slice() else { panic!("{:?}", catalog.description) };
    assert!(missing.uri.ends_with("00003.tar") && !missing.used_in_part);
    let place = Location::parse(&folder.path().join("catalog").display().to_string()).unwrap();
    block_on(catalog.save(&place)).unwrap();
    let loaded = block_on(Catalog::load(&place, &source, READ_UNIT_BYTES)).unwrap().catalog;
    assert_eq!(pairs(&loaded).len(), 4, "paths are below the folder in front of the pattern");
}
