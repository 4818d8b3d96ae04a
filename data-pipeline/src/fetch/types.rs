//! Types of columns: one for all files, and casts that change no value.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef};

use crate::parquet_source::list_item;

/// The type that holds every value of both exactly, if there is one. Equal types stay as they are.
pub(super) fn common(a: &DataType, b: &DataType) -> Option<DataType> {
    if a == b {
        return Some(a.clone());
    }
    match (a, b) {
        (DataType::Null, other) | (other, DataType::Null) => Some(other.clone()),
        (DataType::Dictionary(_, value), other) | (other, DataType::Dictionary(_, value)) => common(value, other),
        (DataType::Struct(left), DataType::Struct(right)) => {
            let same_names = left.len() == right.len() && left.iter().zip(right).all(|(l, r)| l.name() == r.name());
            let fields = same_names.then(|| left.iter().zip(right).map(|(l, r)| common_field(l, r)))?;
            Some(DataType::Struct(fields.collect::<Option<Vec<_>>>()?.into()))
        }
        _ if is_string(a) && is_string(b) => Some(DataType::Utf8),
        _ if is_string(a) && b.is_integer() || a.is_integer() && is_string(b) => Some(DataType::Utf8),
        _ if is_bytes(a) && is_bytes(b) => Some(DataType::Binary),
        _ if is_number(a) && is_number(b) => common_number(a, b),
        _ => Some(DataType::List(common_field(list_item(a)?, list_item(b)?)?)),
    }
}

fn common_field(a: &FieldRef, b: &FieldRef) -> Option<FieldRef> {
    let kind = common(a.data_type(), b.data_type())?;
    Some(Arc::new(Field::new(a.name(), kind, a.is_nullable() || b.is_nullable())))
}

fn common_number(a: &DataType, b: &DataType) -> Option<DataType> {
    let bits = |kind: &DataType| 8 * kind.primitive_width().unwrap_or(16);
    let wider = || if bits(a) >= bits(b) { a } else { b };
    match (a.is_integer(), b.is_integer()) {
        (false, false) => Some(wider().clone()),
        (true, true) if a.is_signed_integer() == b.is_signed_integer() => Some(wider().clone()),
        (true, true) => {
            let (signed, unsigned) = if a.is_signed_integer() { (a, b) } else { (b, a) };
            match bits(signed) > bits(unsigned) {
                true => Some(signed.clone()),
                false => (bits(unsigned) <= 32).then_some(DataType::Int64),
            }
        }
        // A double has 53 bits for whole numbers.
        (whole, _) => (bits(if whole { a } else { b }) <= 32).then_some(DataType::Float64),
    }
}

fn is_number(kind: &DataType) -> bool {
    kind.is_integer() || kind.is_floating()
}

fn is_string(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_bytes(kind: &DataType) -> bool {
    use DataType::{Binary, BinaryView, FixedSizeBinary, LargeBinary};
    matches!(kind, Binary | LargeBinary | BinaryView | FixedSizeBinary(_))
}

/// Whether values can be texts: strings, bytes that may be some, dictionaries of them, or nothing at all.
pub(super) fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, value) => is_text(value),
        DataType::Null | DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        other => is_string(other),
    }
}

/// The same values as another type.
///
/// # Errors
/// The reason, when a value does not fit or would become null.
pub(super) fn exact_cast(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    if column.data_type() == to {
        return Ok(column.clone());
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let cast = cast_with_options(column, to, &options).map_err(|error| error.to_string())?;
    match cast.logical_null_count().abs_diff(column.logical_null_count()) {
        0 => Ok(cast),
        lost => Err(format!("{lost} values would become null")),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, BinaryArray, Int32Array, StringArray, UInt8Array};
    use arrow::datatypes::{Float64Type, Int32Type};

    use super::*;

    fn dictionary(value: DataType) -> DataType {
        DataType::Dictionary(Box::new(DataType::Int32), Box::new(value))
    }

    fn list(name: &str, value: DataType) -> DataType {
        DataType::List(Arc::new(Field::new(name, value, true)))
    }

    #[test]
    fn types_meet_where_both_are_exact_in_either_order() {
        use DataType::*;
        let cases = [
            (Int32, Int64, Some(Int64)),
            (UInt8, UInt32, Some(UInt32)),
            (UInt8, Int16, Some(Int16)),
            (UInt32, Int32, Some(Int64)),
            (UInt64, Int64, None),
            (Int32, Float32, Some(Float64)),
            (UInt16, Float64, Some(Float64)),
            (Int64, Float64, None),
            (Float32, Float64, Some(Float64)),
            (Int64, Utf8, Some(Utf8)),
            (UInt64, LargeUtf8, Some(Utf8)),
            (Float64, Utf8, None),
            (Boolean, Utf8, None),
            (Utf8View, LargeUtf8, Some(Utf8)),
            (dictionary(Utf8), Utf8, Some(Utf8)),
            (dictionary(Utf8), dictionary(Utf8), Some(dictionary(Utf8))),
            (dictionary(Utf8), dictionary(LargeUtf8), Some(Utf8)),
            (dictionary(Int32), Utf8, Some(Utf8)),
            (Null, dictionary(Utf8), Some(dictionary(Utf8))),
            (Null, Float32, Some(Float32)),
            (FixedSizeBinary(4), LargeBinary, Some(Binary)),
            (Date32, Utf8, None),
            (list("a", Int32), list("a", Int64), Some(list("a", Int64))),
            (list("a", Int32), Int32, None),
        ];
        for (a, b, expected) in cases {
            assert_eq!(common(&a, &b), expected, "{a} and {b}");
            assert_eq!(common(&b, &a), expected, "{b} and {a}");
        }
        assert_eq!(common(&list("item", Utf8), &list("element", Utf8)), Some(list("item", Utf8)));
        let record = |name: &str, value: DataType| Struct(vec![Field::new(name, value, false)].into());
        assert_eq!(common(&record("x", Int8), &record("x", Int32)), Some(record("x", Int32)));
        assert_eq!(common(&record("x", Int8), &record("y", Int8)), None);
    }

    #[test]
    fn a_cast_keeps_every_value_or_says_why_not() {
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(-7), None, Some(i32::MAX)]));
        let texts = exact_cast(&numbers, &DataType::Utf8).unwrap();
        assert_eq!(texts.as_string::<i32>().iter().collect::<Vec<_>>(), [Some("-7"), None, Some("2147483647")]);
        let floats = exact_cast(&numbers, &DataType::Float64).unwrap();
        assert_eq!(floats.as_primitive::<Float64Type>().value(2), 2_147_483_647.0);
        let words: ArrayRef = Arc::new(StringArray::from(vec!["1", "x3"]));
        assert!(exact_cast(&words, &DataType::Int32).unwrap_err().contains("x3"));
        let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![&b"\xff\xfe"[..]]));
        assert!(exact_cast(&bytes, &DataType::Utf8).is_err());
        let small: ArrayRef = Arc::new(UInt8Array::from(vec![200]));
        assert_eq!(exact_cast(&small, &DataType::Int32).unwrap().as_primitive::<Int32Type>().value(0), 200);
    }
}
