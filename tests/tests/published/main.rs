//! Sets in the forms in which they are published or handed on, made by hand: each is read, every image keeps its text, and
//! every row that cannot be used has its reason.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod folders;
mod parquet_shards;
mod reasons;
mod web_lists;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, ListBuilder, RecordBatch, StringArray, StringBuilder, StructArray};
use arrow::datatypes::{DataType, Field};
use configs::{AnnotatedSource, Columns, Filters, ShardSource, Source, Uri};
use data_pipeline::catalog::{Catalog, READ_UNIT_BYTES, index};
use integration_tests::sets::image;
use parquet::arrow::ArrowWriter;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn write(file: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, bytes).unwrap();
}

fn write_parquet(file: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(file).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn uri(place: &Path) -> Uri {
    Uri::new(&place.display().to_string())
}

fn shards(place: &Path, columns: Option<Columns>, filters: Filters) -> ShardSource {
    let (name, catalog) = ("set".to_owned(), None);
    ShardSource { name, uri: uri(place), catalog, weight: 1.0, top_captions: None, columns, filters }
}

fn annotated(folder: &Path, annotations: &str) -> AnnotatedSource {
    let (name, annotations, images) = ("set".to_owned(), annotations.to_owned(), "images".to_owned());
    AnnotatedSource { name, uri: uri(folder), annotations, images, catalog: None, weight: 1.0 }
}

fn make(source: &Source) -> Catalog {
    block_on(index(source, READ_UNIT_BYTES, &|_, _| ())).unwrap()
}

/// Every usable row of a catalogue: the image's bytes and its texts.
fn pairs(catalog: &Catalog) -> Vec<(Vec<u8>, Vec<String>)> {
    let mut found = Vec::new();
    for group in 0..catalog.row_groups.len() {
        let rows = block_on(catalog.read(group)).unwrap();
        for n in 0..catalog.row_groups[group].usable as usize {
            let row = catalog.row_of(group, n);
            assert_eq!(rows.unusable(row), None, "what the index calls usable is usable when it is read");
            let texts = rows.texts(row).into_iter().map(str::to_owned).collect();
            found.push((rows.image(row).unwrap().to_vec(), texts));
        }
    }
    found
}

/// An image whose bytes tell its number.
fn numbered(row: usize) -> Vec<u8> {
    let mut bytes = image(0);
    // Behind the end mark of a JPEG nothing is read.
    bytes.extend(row.to_le_bytes());
    bytes
}

fn expected(texts: &[&[&str]]) -> Vec<(Vec<u8>, Vec<String>)> {
    let own = |texts: &&[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    texts.iter().enumerate().map(|(row, texts)| (numbered(row), own(texts))).collect()
}

fn images(rows: usize) -> ArrayRef {
    Arc::new(BinaryArray::from_iter_values((0..rows).map(numbered)))
}

fn struct_of_images(rows: usize) -> ArrayRef {
    let paths = StringArray::from_iter_values((0..rows).map(|row| format!("{row}.jpg")));
    let member = |name: &str, kind| Arc::new(Field::new(name, kind, true));
    Arc::new(StructArray::from(vec![
        (member("bytes", DataType::Binary), images(rows)),
        (member("path", DataType::Utf8), Arc::new(paths) as ArrayRef),
    ]))
}

fn lists(rows: &[&[Option<&str>]]) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new());
    rows.iter().for_each(|row| lists.append_value(row.iter().copied()));
    Arc::new(lists.finish())
}

/// Texts of these bytes, which may be no UTF-8, as careless writers store them.
fn unchecked_texts<T: AsRef<[u8]>>(values: impl IntoIterator<Item = T>) -> StringArray {
    let texts = BinaryArray::from_iter_values(values).into_data().into_builder().data_type(DataType::Utf8);
    // SAFETY: the array is written to a file and never read as text.
    StringArray::from(unsafe { texts.build_unchecked() })
}
