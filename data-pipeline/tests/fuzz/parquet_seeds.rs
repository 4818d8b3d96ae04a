//! Small Parquet shards in the ways in which such files are written.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int32Array, ListBuilder, RecordBatch, StringArray, StringBuilder};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};

const ROWS: usize = 30;

fn columns(with_list: bool) -> RecordBatch {
    let image = |row: usize| (row % 7 != 3).then(|| vec![row as u8; 40 + row]);
    let caption = |row: usize| (row % 5 != 2).then(|| format!("caption {}", row % 4));
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("caption", Arc::new(StringArray::from_iter((0..ROWS).map(caption)))),
        ("key", Arc::new(StringArray::from_iter_values((0..ROWS).map(|row| format!("{row:09}"))))),
        ("status", Arc::new(StringArray::from_iter_values((0..ROWS).map(|_| "success")))),
        ("width", Arc::new(Int32Array::from_iter_values(0..ROWS as i32))),
        ("jpg", Arc::new(BinaryArray::from_iter((0..ROWS).map(image)))),
    ];
    if with_list {
        let mut lists = ListBuilder::new(StringBuilder::new());
        for row in 0..ROWS {
            (0..row % 3).for_each(|n| lists.values().append_value(format!("text {n}")));
            lists.append(row % 4 != 1);
        }
        columns.push(("captions", Arc::new(lists.finish())));
    }
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

fn file(batch: &RecordBatch, properties: WriterProperties) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// Plain pages, dictionaries, compressions, both page versions, page indexes, lists.
pub fn all() -> Vec<Vec<u8>> {
    let base = || WriterProperties::builder().set_max_row_group_row_count(Some(12));
    let zstd = Compression::ZSTD(ZstdLevel::try_new(1).unwrap());
    vec![
        file(&columns(false), base().set_dictionary_enabled(false).build()),
        file(&columns(true), base().set_compression(Compression::SNAPPY).build()),
        file(&columns(true), base().set_compression(zstd).set_writer_version(WriterVersion::PARQUET_2_0).build()),
        file(
            &columns(false),
            base().set_compression(Compression::LZ4_RAW).set_statistics_enabled(EnabledStatistics::Page).build(),
        ),
        file(&columns(true), base().set_dictionary_enabled(false).set_data_page_row_count_limit(4).build()),
    ]
}
