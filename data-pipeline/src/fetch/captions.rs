//! Captions of a row: one text, or a list of them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef};

use super::types::{exact_cast, is_text};
use crate::parquet_source::list_item;

/// The column that carries all texts of a row where the input has lists of them.
pub(super) const LIST_COLUMN: &str = "captions";

/// The form of a column of captions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One text a row.
    Text,
    /// A list of texts a row.
    List,
}

impl Form {
    /// The form of a column of this type; `None` when its values are neither texts nor lists of texts.
    pub(super) fn of(kind: &DataType) -> Option<Self> {
        match list_item(kind) {
            Some(field) => is_text(field.data_type()).then_some(Self::List),
            None => is_text(kind).then_some(Self::Text),
        }
    }
}

/// The field of [`LIST_COLUMN`].
pub(super) fn list_field() -> FieldRef {
    Arc::new(Field::new(LIST_COLUMN, DataType::List(text_element()), true))
}

fn text_element() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Utf8, true))
}

/// Captions of either form as lists of texts; a text becomes a list of one.
///
/// # Errors
/// The reason, when bytes are no UTF-8.
pub(super) fn lists(column: &ArrayRef) -> Result<ArrayRef, String> {
    if list_item(column.data_type()).is_some() {
        return exact_cast(column, list_field().data_type());
    }
    let texts = exact_cast(column, &DataType::Utf8)?;
    let offsets = OffsetBuffer::from_lengths((0..texts.len()).map(|row| usize::from(texts.is_valid(row))));
    let there = StringArray::from_iter_values(texts.as_string::<i32>().iter().flatten());
    let lists = ListArray::try_new(text_element(), offsets, Arc::new(there), texts.logical_nulls());
    Ok(Arc::new(lists.map_err(|error| error.to_string())?))
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryArray, Int64Array, ListBuilder, StringBuilder};

    use super::*;

    fn lists_of(column: &ArrayRef) -> Vec<Option<Vec<Option<String>>>> {
        let texts = |list: ArrayRef| list.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect();
        lists(column).unwrap().as_list::<i32>().iter().map(|list| list.map(texts)).collect()
    }

    fn firsts_of(column: &ArrayRef) -> Vec<Option<String>> {
        let first = crate::rows::first_texts(lists(column).unwrap().as_list());
        first.iter().map(|text| text.map(str::to_owned)).collect()
    }

    #[test]
    fn every_kind_of_list_gives_its_texts_and_the_first_that_is_not_blank() {
        let rows = [Some([Some("a dog"), Some("a brown dog")]), None, Some([Some(" "), Some("b")]), Some([None, None])];
        let mut builder = ListBuilder::new(StringBuilder::new());
        for row in rows {
            builder.append_option(row);
        }
        let plain: ArrayRef = Arc::new(builder.finish());
        let expected: Vec<_> =
            rows.map(|row| row.map(|texts| texts.map(|text| text.map(str::to_owned)).to_vec())).into();
        use DataType::*;
        let field = |kind: DataType| Arc::new(Field::new_list_field(kind, true));
        let categories = Dictionary(Box::new(Int32), Box::new(Utf8));
        let kinds = [
            List(field(Utf8)),
            List(field(LargeUtf8)),
            List(field(Utf8View)),
            List(field(categories.clone())),
            List(field(Binary)),
            LargeList(field(Utf8)),
            LargeList(field(categories)),
            FixedSizeList(field(Utf8), 2),
            ListView(field(Utf8)),
            LargeListView(field(LargeUtf8)),
        ];
        for kind in kinds {
            let column = arrow::compute::cast(&plain, &kind).unwrap();
            assert_eq!(Form::of(&kind), Some(Form::List), "{kind}");
            assert_eq!(lists_of(&column), expected, "{kind}");
            assert_eq!(firsts_of(&column), [Some("a dog".into()), None, Some("b".into()), None], "{kind}");
        }
    }

    #[test]
    fn a_text_is_a_list_of_one_and_other_types_are_no_captions() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("")]));
        assert_eq!(lists_of(&texts), [Some(vec![Some("a".into())]), None, Some(vec![Some(String::new())])]);
        assert_eq!(firsts_of(&texts), [Some("a".into()), None, None]);
        let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![&b"\xff"[..]]));
        assert!(lists(&bytes).is_err());
        let structs = DataType::Struct(vec![Field::new("text", DataType::Utf8, true)].into());
        let of_structs = DataType::List(Arc::new(Field::new("item", structs.clone(), true)));
        for kind in [Int64Array::from(vec![1]).data_type().clone(), DataType::Float32, structs, of_structs] {
            assert_eq!(Form::of(&kind), None, "{kind}");
        }
    }
}
