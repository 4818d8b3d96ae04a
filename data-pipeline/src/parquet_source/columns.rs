//! Columns of image-text shards by the names and types that the hub, pandas and img2dataset write.

use arrow::datatypes::{DataType, Field, FieldRef, Schema};

use crate::caption;

/// Columns of images in the order of preference. img2dataset names its one after the encode format, the hub's sets after
/// what it holds. Any case is read.
pub const IMAGE_COLUMNS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "image", "image_bytes", "img", "image_data"];
/// Columns of keys.
const KEY_COLUMNS: [&str; 2] = ["key", "__key__"];
/// The member of the hub's image struct that holds the encoded image.
const BYTES: &str = "bytes";

/// A column of encoded images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageColumn {
    /// Its name.
    pub name: String,
    /// Whether the bytes are a member of a struct, as in sets of the hub.
    pub in_struct: bool,
}

impl ImageColumn {
    /// The path of the bytes in the shard's schema.
    pub(crate) fn path(&self) -> String {
        if self.in_struct { format!("{}.{BYTES}", self.name) } else { self.name.clone() }
    }

    /// A field with the bytes read as views of the pages' memory.
    pub(super) fn as_views(&self, field: &Field) -> Field {
        let kind = match field.data_type() {
            DataType::Struct(members) if self.in_struct => {
                let view = |member: &Field| member.clone().with_data_type(DataType::BinaryView);
                let members = members.iter().map(|member| match member.name() == BYTES {
                    true => view(member).into(),
                    false => member.clone(),
                });
                DataType::Struct(members.collect())
            }
            _ => DataType::BinaryView,
        };
        field.clone().with_data_type(kind)
    }
}

/// Columns of a shard that training reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// Encoded images; of several columns the first one counts that has bytes in a row.
    pub images: Vec<ImageColumn>,
    /// A column of one caption each.
    pub caption: Option<String>,
    /// A column of several captions each. There is one of both at least.
    pub captions: Option<String>,
    /// img2dataset's per-row status, when the shard has it.
    pub status: Option<String>,
    /// The sample's key, when the shard has it.
    pub key: Option<String>,
}

impl Columns {
    /// The columns of a schema, those that `choice` names or those with the usual names.
    ///
    /// # Errors
    /// The column that is missing or of the wrong type.
    pub(super) fn find(schema: &Schema, choice: Option<&configs::Columns>) -> Result<Self, String> {
        let named = |name: fn(&configs::Columns) -> &Option<String>| choice.and_then(|choice| name(choice).as_deref());
        let (caption, captions) = captions(schema, named(|choice| &choice.caption))?;
        let key = match named(|choice| &choice.key) {
            Some(name) => Some(chosen(schema, name, "key", |kind| is_text(kind) || kind.is_integer())?),
            None => KEY_COLUMNS.iter().find_map(|name| typed(schema, name, is_text)),
        };
        let images = images(schema, named(|choice| &choice.image))?;
        Ok(Self { images, caption, captions, status: typed(schema, "status", is_text), key })
    }

    /// Paths of everything that training reads.
    pub(super) fn paths(&self) -> Vec<String> {
        let texts = [&self.caption, &self.captions, &self.status, &self.key].into_iter().flatten().cloned();
        self.images.iter().map(ImageColumn::path).chain(texts).collect()
    }
}

fn images(schema: &Schema, chosen: Option<&str>) -> Result<Vec<ImageColumn>, String> {
    let column = |field: &Field| {
        let in_struct = match field.data_type() {
            kind if is_bytes(kind) => false,
            DataType::Struct(members) if members.iter().any(|m| m.name() == BYTES && is_bytes(m.data_type())) => true,
            _ => return None,
        };
        Some(ImageColumn { name: field.name().clone(), in_struct })
    };
    if let Some(name) = chosen {
        let field = schema.field_with_name(name);
        let field = field.map_err(|_| format!("no column `{name}`, which data.sources[].columns.image names"))?;
        let found = column(field).ok_or_else(|| {
            format!(
                "column `{name}` is {}; expected encoded images: binary, or a struct with binary `bytes`",
                field.data_type()
            )
        })?;
        return Ok(vec![found]);
    }
    let mut found: Vec<ImageColumn> = Vec::new();
    for name in IMAGE_COLUMNS {
        // Of two columns whose names differ by case alone, the exact name comes first.
        let exact = schema.fields().iter().filter(|field| field.name() == name);
        let others =
            schema.fields().iter().filter(|field| field.name() != name && field.name().eq_ignore_ascii_case(name));
        found.extend(exact.chain(others).filter_map(|field| column(field)));
    }
    if found.is_empty() { Err("no column of encoded images".into()) } else { Ok(found) }
}

/// The column of one caption each, and that of several.
fn captions(schema: &Schema, chosen: Option<&str>) -> Result<(Option<String>, Option<String>), String> {
    let wrong = |field: &Field| {
        format!(
            "column `{}` is {}; expected texts or lists of texts. Name another one with data.sources[].columns.caption",
            field.name(),
            field.data_type()
        )
    };
    if let Some(name) = chosen {
        let field = schema.field_with_name(name);
        let field = field.map_err(|_| format!("no column `{name}`, which data.sources[].columns.caption names"))?;
        return match field.data_type() {
            kind if is_text(kind) => Ok((Some(name.to_owned()), None)),
            kind if is_text_list(kind) => Ok((None, Some(name.to_owned()))),
            _ => Err(wrong(field)),
        };
    }
    let mut refused = None;
    // Of the first family one column may hold texts and another one lists of texts.
    let (own, others) = caption::NAMES.split_at(2);
    for (rank, family) in std::iter::once(own).chain(others.chunks(1)).enumerate() {
        let fields: Vec<&Field> = family.iter().flat_map(|name| named(schema, name)).collect();
        let of = |accepts: fn(&DataType) -> bool| fields.iter().find(|field| accepts(field.data_type()));
        // Lists under the plural name are the ones that `blip2 data filter` writes.
        let list = fields.iter().rev().find(|field| is_text_list(field.data_type()));
        let (one, many) = (of(is_text), list);
        if let Some(other) = fields.iter().find(|f| !is_text(f.data_type()) && !is_text_list(f.data_type())) {
            refused.get_or_insert_with(|| wrong(other));
            // A column that is called captions and holds something else is not passed over.
            if rank == 0 {
                break;
            }
        }
        if one.is_some() || many.is_some() {
            let name = |field: Option<&&Field>| field.map(|field| field.name().clone());
            return Ok((name(one), name(many)));
        }
    }
    Err(refused.unwrap_or_else(|| "no column of captions".into()))
}

/// Fields of a name in any case, the exact one first.
fn named<'a>(schema: &'a Schema, name: &str) -> Vec<&'a Field> {
    let fields = schema.fields().iter().map(AsRef::as_ref);
    let mut found: Vec<&Field> = fields.filter(|field: &&Field| field.name().eq_ignore_ascii_case(name)).collect();
    found.sort_by_key(|field| field.name() != name);
    found
}

fn typed(schema: &Schema, name: &str, accepts: fn(&DataType) -> bool) -> Option<String> {
    named(schema, name).into_iter().find(|field| accepts(field.data_type())).map(|field| field.name().clone())
}

fn chosen(schema: &Schema, name: &str, key: &str, accepts: impl Fn(&DataType) -> bool) -> Result<String, String> {
    let field = schema.field_with_name(name);
    let field = field.map_err(|_| format!("no column `{name}`, which data.sources[].columns.{key} names"))?;
    match accepts(field.data_type()) {
        true => Ok(name.to_owned()),
        false => Err(format!("column `{name}` is {}; expected texts or whole numbers", field.data_type())),
    }
}

/// Whether a column holds one text each; one that is null throughout may.
pub(crate) fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

/// Whether a column holds a list of texts each.
pub(crate) fn is_text_list(kind: &DataType) -> bool {
    list_item(kind).is_some_and(|item| is_text(item.data_type()))
}

/// The field of the items of any kind of list.
pub(crate) fn list_item(kind: &DataType) -> Option<&FieldRef> {
    use DataType::{FixedSizeList, LargeList, LargeListView, List, ListView};
    match kind {
        List(item) | LargeList(item) | ListView(item) | LargeListView(item) | FixedSizeList(item, _) => Some(item),
        _ => None,
    }
}

fn is_bytes(kind: &DataType) -> bool {
    match kind {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        DataType::Dictionary(_, value) => is_bytes(value),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn list(item: DataType) -> DataType {
        DataType::List(Arc::new(Field::new_list_field(item, true)))
    }

    fn image_struct() -> DataType {
        let member = |name: &str, kind| Field::new(name, kind, true);
        DataType::Struct(vec![member("bytes", DataType::Binary), member("path", DataType::Utf8)].into())
    }

    fn find(fields: &[(&str, DataType)]) -> Result<Columns, String> {
        find_chosen(fields, None)
    }

    fn find_chosen(fields: &[(&str, DataType)], choice: Option<&configs::Columns>) -> Result<Columns, String> {
        let fields = fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Vec<_>>();
        Columns::find(&Schema::new(fields), choice)
    }

    fn dictionary() -> DataType {
        DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
    }

    #[test]
    fn columns_of_the_hub_pandas_and_img2dataset() {
        let images = |found: &Columns| found.images.iter().map(ImageColumn::path).collect::<Vec<_>>();
        for (image, kind, path) in [
            ("image", image_struct(), "image.bytes"),
            ("image", DataType::Binary, "image"),
            ("JPG", DataType::LargeBinary, "JPG"),
            ("image_bytes", DataType::BinaryView, "image_bytes"),
        ] {
            for (caption, text, is_list) in [
                ("text", DataType::Utf8, false),
                ("TEXT", DataType::Utf8View, false),
                ("Caption", dictionary(), false),
                ("txt", DataType::LargeUtf8, false),
                ("alt_text", DataType::Utf8, false),
                ("caption", list(DataType::Utf8), true),
                ("captions", list(DataType::LargeUtf8), true),
            ] {
                let found = find(&[(image, kind.clone()), (caption, text)]).unwrap();
                assert_eq!(images(&found), [path]);
                let (one, many) = if is_list { (None, Some(caption.into())) } else { (Some(caption.into()), None) };
                assert_eq!((found.caption, found.captions), (one, many));
            }
        }
        let both = find(&[("jpg", DataType::Binary), ("caption", DataType::Utf8), ("captions", list(DataType::Utf8))]);
        let both = both.unwrap();
        assert_eq!((both.caption.as_deref(), both.captions.as_deref()), (Some("caption"), Some("captions")));
        let two = find(&[("png", DataType::Binary), ("jpg", DataType::Binary), ("caption", DataType::Utf8)]).unwrap();
        assert_eq!(images(&two), ["jpg", "png"]);
        let cases = find(&[("TEXT", DataType::Utf8), ("text", DataType::Utf8), ("jpg", DataType::Binary)]).unwrap();
        assert_eq!(cases.caption.as_deref(), Some("text"));
    }

    #[test]
    fn a_choice_names_columns_and_a_wrong_one_is_told() {
        let choice = |image: Option<&str>, caption: Option<&str>, key: Option<&str>| configs::Columns {
            image: image.map(Into::into),
            caption: caption.map(Into::into),
            key: key.map(Into::into),
        };
        let fields = [
            ("photo", DataType::Binary),
            ("title", DataType::Utf8),
            ("number", DataType::Int64),
            ("jpg", DataType::Binary),
            ("caption", DataType::Utf8),
        ];
        let found = find_chosen(&fields, Some(&choice(Some("photo"), Some("title"), Some("number")))).unwrap();
        assert_eq!((found.images[0].name.as_str(), found.caption.as_deref()), ("photo", Some("title")));
        assert_eq!(found.key.as_deref(), Some("number"));
        let wrong = |choice| find_chosen(&fields, Some(&choice)).unwrap_err();
        assert!(wrong(choice(Some("title"), None, None)).contains("`title` is Utf8"));
        assert!(wrong(choice(None, Some("none"), None)).contains("no column `none`"));
        assert!(wrong(choice(None, None, Some("photo"))).contains("`photo` is Binary"));
    }

    #[test]
    fn captions_of_another_type_are_not_passed_over() {
        let structs = list(DataType::Struct(vec![Field::new("raw", DataType::Utf8, true)].into()));
        let fields = [("jpg", DataType::Binary), ("caption", DataType::Utf8), ("captions", structs)];
        let error = find(&fields).unwrap_err();
        assert!(error.contains("`captions` is List(Struct") && error.contains("columns.caption"), "{error}");
        assert!(find(&[("jpg", DataType::Binary), ("text", DataType::Float64)]).unwrap_err().contains("`text`"));
        assert_eq!(find(&[("jpg", DataType::Binary)]).unwrap_err(), "no column of captions");
        assert_eq!(find(&[("caption", DataType::Utf8)]).unwrap_err(), "no column of encoded images");
    }

    proptest! {
        #[test]
        fn any_layout_is_read_whatever_stands_beside_and_in_whatever_order(
            image in 0_usize..8, caption in 0_usize..5, upper: bool, is_struct: bool, is_list: bool,
            others in prop::collection::btree_set("[a-z]{4,9}_[0-9]", 0..5), seed: u64,
        ) {
            let cased = |name: &str| if upper { name.to_ascii_uppercase() } else { name.to_owned() };
            let image = cased(IMAGE_COLUMNS[image]);
            let caption = cased(["caption", "captions", "text", "txt", "alt_text"][caption]);
            let image_kind = if is_struct { image_struct() } else { DataType::Binary };
            let caption_kind = if is_list { list(DataType::Utf8) } else { DataType::Utf8 };
            let mut fields = vec![(image.clone(), image_kind), (caption.clone(), caption_kind)];
            fields.extend(others.into_iter().map(|name| (name, DataType::Utf8)));
            crate::rng::CounterRng::new(seed, crate::rng::Purpose::Order, &[]).shuffle(&mut fields);
            let fields: Vec<(&str, DataType)> = fields.iter().map(|(name, kind)| (name.as_str(), kind.clone())).collect();
            let found = find(&fields).unwrap();
            prop_assert_eq!(&found.images, &[ImageColumn { name: image, in_struct: is_struct }]);
            let (one, many) = if is_list { (None, Some(caption)) } else { (Some(caption), None) };
            prop_assert_eq!((found.caption, found.captions), (one, many));
        }
    }
}
