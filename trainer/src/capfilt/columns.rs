//! The columns that CapFilt adds, and those it reads again.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float32Builder, ListArray, ListBuilder, RecordBatch, StringArray, StringBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};

/// Captions that a model wrote.
pub(super) const SYNTHETIC: &str = "synthetic_captions";
/// The best captions, best first: the column that training draws from.
pub(super) const CAPTIONS: &str = "captions";
/// How similar each of [`CAPTIONS`] is to its image.
pub(super) const SIMILARITIES: &str = "similarities";
/// Where each of [`CAPTIONS`] comes from.
pub(super) const SOURCES: &str = "caption_sources";

/// A new column.
pub(super) type Column = (Field, ArrayRef);

fn list_of(name: &str, kind: DataType) -> (Field, Field) {
    let element = Field::new("element", kind, true);
    (Field::new(name, DataType::List(Arc::new(element.clone())), true), element)
}

/// Lists of texts; null where there is no list.
pub(super) fn texts<T: AsRef<str>>(name: &str, rows: &[Option<Vec<T>>]) -> Column {
    let (field, element) = list_of(name, DataType::Utf8);
    let mut lists = ListBuilder::new(StringBuilder::new()).with_field(element);
    for row in rows {
        row.iter().flatten().for_each(|text| lists.values().append_value(text));
        lists.append(row.is_some());
    }
    (field, Arc::new(lists.finish()))
}

/// Lists of numbers; null where there is no list.
pub(super) fn numbers(name: &str, rows: &[Option<Vec<f32>>]) -> Column {
    let (field, element) = list_of(name, DataType::Float32);
    let mut lists = ListBuilder::new(Float32Builder::new()).with_field(element);
    for row in rows {
        row.iter().flatten().for_each(|number| lists.values().append_value(*number));
        lists.append(row.is_some());
    }
    (field, Arc::new(lists.finish()))
}

/// The same text in every row; Parquet keeps it once for each row group.
pub(super) fn constant(name: &str, text: &str, rows: usize) -> Column {
    (Field::new(name, DataType::Utf8, false), Arc::new(StringArray::from(vec![text; rows])))
}

/// A column of lists of texts, if the batch has it.
pub(super) fn read_texts(batch: &RecordBatch, name: &str) -> Option<ListArray> {
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
    let column = cast(batch.column_by_name(name)?, &list).ok()?;
    column.as_list_opt::<i32>().cloned()
}

/// The texts of a row of such a column, nulls left out.
pub(super) fn texts_of(lists: Option<&ListArray>, row: usize) -> Vec<String> {
    let Some(list) = lists.filter(|lists| lists.is_valid(row)).map(|lists| lists.value(row)) else { return Vec::new() };
    list.as_string::<i32>().iter().flatten().map(str::to_owned).collect()
}
