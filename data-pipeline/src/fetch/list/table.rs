//! Rows of JSON values as columns of Arrow.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, ListBuilder, RecordBatch, StringArray, StringBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use serde_json::{Map, Value};

/// Whole numbers up to this are exact as doubles.
const EXACT: i64 = 1 << 53;

/// The values of a column so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing but nulls.
    Null,
    Boolean,
    /// Whole numbers that are exact as doubles too.
    Whole,
    /// Whole numbers beyond.
    Large,
    Double,
    Text,
    /// Lists of texts, or lists and single texts.
    Texts,
    /// Scalars of several kinds, as texts.
    Mixed,
    /// Objects, other lists, or those and others, as JSON.
    Nested,
}

impl Kind {
    pub(super) fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Boolean,
            Value::Number(number) => match number.as_i64() {
                Some(whole) if (-EXACT..=EXACT).contains(&whole) => Self::Whole,
                Some(_) => Self::Large,
                None if number.is_u64() => Self::Mixed,
                None => Self::Double,
            },
            Value::String(_) => Self::Text,
            Value::Array(items) if items.iter().all(|item| item.is_string() || item.is_null()) => Self::Texts,
            Value::Array(_) | Value::Object(_) => Self::Nested,
        }
    }

    /// The kind that keeps the values of both.
    pub(super) fn and(self, other: Self) -> Self {
        use Kind::{Double, Large, Mixed, Nested, Null, Text, Texts, Whole};
        match (self, other) {
            (a, b) if a == b => a,
            (Null, other) | (other, Null) => other,
            (Whole, Large) | (Large, Whole) => Large,
            (Whole, Double) | (Double, Whole) => Double,
            (Text, Texts) | (Texts, Text) => Texts,
            (Nested | Texts, _) | (_, Nested | Texts) => Nested,
            _ => Mixed,
        }
    }
}

enum Column {
    Boolean(BooleanBuilder),
    Whole(Int64Builder),
    Double(Float64Builder),
    Text(StringBuilder),
    Texts(ListBuilder<StringBuilder>),
}

impl Column {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Boolean => Self::Boolean(BooleanBuilder::new()),
            Kind::Whole | Kind::Large => Self::Whole(Int64Builder::new()),
            Kind::Double => Self::Double(Float64Builder::new()),
            Kind::Texts => Self::Texts(ListBuilder::new(StringBuilder::new())),
            Kind::Null | Kind::Text | Kind::Mixed | Kind::Nested => Self::Text(StringBuilder::new()),
        }
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::Boolean(_) => DataType::Boolean,
            Self::Whole(_) => DataType::Int64,
            Self::Double(_) => DataType::Float64,
            Self::Text(_) => DataType::Utf8,
            Self::Texts(_) => DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
        }
    }

    fn append(&mut self, value: Value) {
        match (self, value) {
            (Self::Boolean(builder), value) => builder.append_option(value.as_bool()),
            (Self::Whole(builder), value) => builder.append_option(value.as_i64()),
            (Self::Double(builder), value) => builder.append_option(value.as_f64()),
            (Self::Text(builder), Value::Null) => builder.append_null(),
            (Self::Text(builder), Value::String(text)) => builder.append_value(text),
            (Self::Text(builder), other) => builder.append_value(other.to_string()),
            (Self::Texts(builder), Value::Array(items)) => builder.append_value(items.iter().map(Value::as_str)),
            (Self::Texts(builder), value) => builder.append_option(value.as_str().map(|text| [Some(text)])),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Boolean(builder) => Arc::new(builder.finish()),
            Self::Whole(builder) => Arc::new(builder.finish()),
            Self::Double(builder) => Arc::new(builder.finish()),
            Self::Text(builder) => Arc::new(builder.finish()),
            Self::Texts(builder) => Arc::new(builder.finish()),
        }
    }
}

/// Rows in memory.
pub(super) struct Table {
    columns: Vec<(String, Column)>,
    bad_lines: Vec<Option<String>>,
}

impl Table {
    pub(super) fn new(columns: impl IntoIterator<Item = (String, Kind)>) -> Self {
        let columns = columns.into_iter().map(|(name, kind)| (name, Column::new(kind))).collect();
        Self { columns, bad_lines: Vec::new() }
    }

    /// A table of nothing but texts.
    pub(super) fn of_texts(names: &[String]) -> Self {
        Self::new(names.iter().map(|name| (name.clone(), Kind::Text)))
    }

    /// The schema of the columns, and of the reasons of bad lines as the last.
    pub(super) fn schema(&self) -> SchemaRef {
        let columns = self.columns.iter().map(|(name, column)| Field::new(name, column.data_type(), true));
        Arc::new(Schema::new(columns.chain([Field::new("bad_line", DataType::Utf8, true)]).collect::<Vec<_>>()))
    }

    pub(super) fn rows(&self) -> usize {
        self.bad_lines.len()
    }

    /// Appends a row; values that it lacks are null.
    pub(super) fn append(&mut self, mut row: Map<String, Value>) {
        for (name, column) in &mut self.columns {
            column.append(row.remove(name).unwrap_or_default());
        }
        self.bad_lines.push(None);
    }

    /// Appends a row of texts, one for each column.
    pub(super) fn append_texts(&mut self, texts: &[&str]) {
        for ((_, column), text) in self.columns.iter_mut().zip(texts) {
            if let Column::Text(builder) = column {
                builder.append_value(text);
            }
        }
        self.bad_lines.push(None);
    }

    /// Appends a row without values.
    pub(super) fn append_bad(&mut self, reason: String) {
        self.columns.iter_mut().for_each(|(_, column)| column.append(Value::Null));
        self.bad_lines.push(Some(reason));
    }

    /// Takes all rows out.
    pub(super) fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        let schema = self.schema();
        let mut columns: Vec<ArrayRef> = self.columns.iter_mut().map(|(_, column)| column.finish()).collect();
        columns.push(Arc::new(StringArray::from_iter(std::mem::take(&mut self.bad_lines))));
        RecordBatch::try_new(schema, columns)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_meet_where_no_value_changes() {
        let of = |values: Value| {
            let kinds = values.as_array().unwrap().iter().map(Kind::of);
            kinds.reduce(Kind::and).unwrap()
        };
        for (values, expected) in [
            (json!([null, null]), Kind::Null),
            (json!([1, null, 2]), Kind::Whole),
            (json!([1, 0.5]), Kind::Double),
            (json!([9_007_199_254_740_993_i64, 1]), Kind::Large),
            (json!([9_007_199_254_740_993_i64, 0.5]), Kind::Mixed),
            (json!([u64::MAX]), Kind::Mixed),
            (json!([1, "x3"]), Kind::Mixed),
            (json!(["a", ["b", null]]), Kind::Texts),
            (json!(["a", [1]]), Kind::Nested),
            (json!([["a"], 1]), Kind::Nested),
            (json!([{"a": 1}, null]), Kind::Nested),
            (json!([true, false]), Kind::Boolean),
        ] {
            assert_eq!(of(values.clone()), expected, "{values}");
        }
    }
}
