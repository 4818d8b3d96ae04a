//! Broken things for tests: rows, shards and moments in which a reader finds something else than it was promised, each
//! with the reason under which it is to be counted.

use std::io::Cursor;
use std::sync::Arc;

use data_pipeline::Result;
use data_pipeline::store::Location;
use image::codecs::{gif::GifEncoder, webp::WebPEncoder};
use image::{ExtendedColorType, Frame, ImageFormat, RgbImage};
use object_store::ObjectStoreExt;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::programs::checkout;

/// Side that a decompression bomb claims to have.
const BOMB: u32 = 50_000;

/// A row that differs from a good one.
#[derive(Clone, Debug)]
pub struct Defect {
    /// Name for messages.
    pub name: &'static str,
    /// Bytes of the image; the outer option is none where the image is good.
    pub image: Option<Option<Vec<u8>>>,
    /// Bytes of the caption; the outer option is none where the caption is good.
    pub caption: Option<Option<Vec<u8>>>,
    /// The reason to be counted; none when the row is fine.
    pub reason: Option<&'static str>,
}

fn of_image(name: &'static str, image: Vec<u8>, reason: Option<&'static str>) -> Defect {
    Defect { name, image: Some(Some(image)), caption: None, reason }
}

fn of_caption(name: &'static str, caption: &[u8], reason: Option<&'static str>) -> Defect {
    Defect { name, image: None, caption: Some(Some(caption.to_vec())), reason }
}

/// Every defect of a row that is known.
///
/// # Panics
/// When the fixtures of the checkout are gone.
pub fn defects() -> Vec<Defect> {
    let half = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    let null_image = Defect { name: "null image", image: Some(None), caption: None, reason: Some("no_image") };
    let null_caption = Defect { name: "null caption", image: None, caption: Some(None), reason: Some("no_caption") };
    vec![
        null_image,
        of_image("zero-byte image", Vec::new(), Some("no_image")),
        of_image("web page", b"<!doctype html><title>404</title>".to_vec(), Some("not_an_image")),
        of_image("BMP", b"BM\0\0\0\0\0\0\0\0".to_vec(), Some("truncated")),
        of_image("AVIF", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1".to_vec(), Some("unsupported_avif")),
        of_image("truncated JPEG", half(good_image()), Some("truncated")),
        of_image("truncated PNG", half(encoded(ImageFormat::Png)), Some("truncated")),
        of_image("truncated GIF", half(encoded(ImageFormat::Gif)), Some("corrupt")),
        of_image("CMYK JPEG", fixture("cmyk.jpg"), None),
        of_image("palette PNG", fixture("palette.png"), None),
        of_image("PNG with alpha", fixture("rgba.png"), None),
        of_image("16-bit PNG", png_16_bit(), None),
        of_image("animated GIF", animated_gif(), None),
        of_image("animated PNG", animated_png(), None),
        of_image("animated WebP", animated_webp(), None),
        of_image("JPEG bomb", bomb_jpeg(), Some("too_many_pixels")),
        of_image("PNG bomb", bomb_png(BOMB, BOMB), Some("too_many_pixels")),
        of_image("GIF bomb", bomb_gif(), Some("too_many_pixels")),
        of_image("PNG of no width", bomb_png(0, BOMB), Some("zero_sized")),
        of_image("PNG like a thread", bomb_png(3, BOMB), Some("extreme_aspect")),
        null_caption,
        of_caption("empty caption", b"", Some("no_caption")),
        of_caption("blank caption", b" ... \n", Some("no_caption")),
        of_caption("caption of 1 MB", "a long tale ".repeat(90_000).as_bytes(), None),
        of_caption("caption of 1 MB of spaces", &[b' '; 1 << 20], Some("no_caption")),
        of_caption("caption that is no UTF-8", &[b'c', b'a', 0xff, 0xfe, b't'], Some("caption_not_utf8")),
    ]
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(checkout().join("tests/fixtures/preprocess").join(name)).expect("a fixture of the checkout")
}

/// The image of a row without defect.
pub fn good_image() -> Vec<u8> {
    fixture("gradient.jpg")
}

fn picture() -> RgbImage {
    RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 11) as u8, (y * 17) as u8, (x * y) as u8]))
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture().write_to(&mut file, format).expect("invariant: a picture can be encoded");
    file.into_inner()
}

fn png_16_bit() -> Vec<u8> {
    let wide =
        image::ImageBuffer::<image::Rgb<u16>, _>::from_fn(40, 30, |x, y| image::Rgb([x as u16 * 999, 7, y as u16]));
    let mut file = Cursor::new(Vec::new());
    wide.write_to(&mut file, ImageFormat::Png).expect("invariant: a picture can be encoded");
    file.into_inner()
}

fn animated_gif() -> Vec<u8> {
    let frame = || Frame::new(image::DynamicImage::ImageRgb8(picture()).to_rgba8());
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    encoder.encode_frames([frame(), frame()]).expect("invariant: a picture can be encoded");
    drop(encoder);
    bytes
}

/// Two frames: APNG's control chunks, and the pixels of the default image again as the second one.
fn animated_png() -> Vec<u8> {
    let still = encoded(ImageFormat::Png);
    let (header, rest) = still.split_at(33);
    let pixels: Vec<u8> =
        chunks(rest).filter(|(name, _)| name == b"IDAT").flat_map(|(_, data)| data.to_vec()).collect();
    let control = |number: u32| {
        let fields = [number, 40, 30, 0, 0].map(u32::to_be_bytes).concat();
        png_chunk(b"fcTL", &[&fields[..], &[0, 1, 0, 10, 0, 0]].concat())
    };
    let second = [&2_u32.to_be_bytes()[..], &pixels].concat();
    [
        header.to_vec(),
        png_chunk(b"acTL", &[2_u32, 0].map(u32::to_be_bytes).concat()),
        control(0),
        png_chunk(b"IDAT", &pixels),
        control(1),
        png_chunk(b"fdAT", &second),
        png_chunk(b"IEND", &[]),
    ]
    .concat()
}

fn chunks(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
        let (name, data) = (bytes.get(4..8)?, bytes.get(8..8 + length)?);
        bytes = &bytes[12 + length..];
        Some((name, data))
    })
}

fn png_chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let named = [&name[..], data].concat();
    let mut sum = u32::MAX;
    for byte in &named {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    [&(data.len() as u32).to_be_bytes()[..], &named, &(!sum).to_be_bytes()].concat()
}

/// Two lossless frames in WebP's extended container.
fn animated_webp() -> Vec<u8> {
    let mut still = Vec::new();
    let encoder = WebPEncoder::new_lossless(&mut still);
    encoder.encode(&picture(), 40, 30, ExtendedColorType::Rgb8).expect("invariant: a picture can be encoded");
    let chunk = |name: &[u8; 4], data: &[u8]| {
        let mut bytes = [&name[..], &(data.len() as u32).to_le_bytes(), data].concat();
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        bytes
    };
    // Sides are stored less one, in 24 bits; the flag says "animation".
    let extended = chunk(b"VP8X", &[2, 0, 0, 0, 39, 0, 0, 29, 0, 0]);
    // Place 0, sides, 100 ms, no blending; behind it the still's own chunk.
    let frame = [&[0, 0, 0, 0, 0, 0, 39, 0, 0, 29, 0, 0, 100, 0, 0, 0][..], &still[12..]].concat();
    let frames = [chunk(b"ANMF", &frame), chunk(b"ANMF", &frame)].concat();
    let body = [&b"WEBP"[..], &extended, &chunk(b"ANIM", &[0; 6]), &frames].concat();
    chunk(b"RIFF", &body)
}

fn bomb_png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = encoded(ImageFormat::Png);
    bytes[16..24].copy_from_slice(&[width, height].map(u32::to_be_bytes).concat());
    bytes
}

fn bomb_gif() -> Vec<u8> {
    let mut bytes = encoded(ImageFormat::Gif);
    bytes[6..10].copy_from_slice(&[BOMB as u16; 2].map(u16::to_le_bytes).concat());
    bytes
}

fn bomb_jpeg() -> Vec<u8> {
    let mut bytes = good_image();
    let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a baseline JPEG has a frame header");
    bytes[frame + 5..frame + 9].copy_from_slice(&[BOMB as u16; 2].map(u16::to_be_bytes).concat());
    bytes
}

/// A shard of `rows` rows in row groups of `group`; row `i` is good, or has the defect that `defect(i)` gives.
///
/// # Panics
/// Never in practice.
pub fn shard<'a>(rows: usize, group: usize, defect: impl Fn(usize) -> Option<&'a Defect>) -> Vec<u8> {
    let schema = "message rows { required binary key (UTF8); optional binary caption (UTF8); optional binary jpg; }";
    let schema = Arc::new(parse_message_type(schema).expect("invariant: the schema is right"));
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).expect("a writer of bytes");
    let good = good_image();
    for first in (0..rows).step_by(group) {
        let of_group = first..rows.min(first + group);
        let key = |row: usize| Some(format!("{row:09}").into_bytes());
        let caption = |row: usize| {
            defect(row).and_then(|defect| defect.caption.clone()).unwrap_or(Some(format!("Picture {row}").into_bytes()))
        };
        let image = |row: usize| defect(row).and_then(|defect| defect.image.clone()).unwrap_or(Some(good.clone()));
        let columns: [Vec<Option<Vec<u8>>>; 3] = [
            of_group.clone().map(key).collect(),
            of_group.clone().map(caption).collect(),
            of_group.clone().map(image).collect(),
        ];
        let mut group = writer.next_row_group().expect("a row group");
        for (index, column) in columns.into_iter().enumerate() {
            let mut writer = group.next_column().expect("a column").expect("three columns");
            let levels: Vec<i16> = column.iter().map(|value| i16::from(value.is_some())).collect();
            let values: Vec<ByteArray> = column.into_iter().flatten().map(ByteArray::from).collect();
            let levels = (index > 0).then_some(levels.as_slice());
            writer.typed::<ByteArrayType>().write_batch(&values, levels, None).expect("values");
            writer.close().expect("a column");
        }
        group.close().expect("a row group");
    }
    writer.close().expect("a footer");
    bytes
}

/// The shard without its last 100 bytes: no footer.
pub fn without_footer(shard: &[u8]) -> Vec<u8> {
    shard[..shard.len() - 100].to_vec()
}

/// The shard with one bit flipped in the header of the first page of a row group's captions: that row group is lost.
///
/// # Panics
/// When it is no shard.
pub fn with_flipped_page(shard: &[u8], row_group: usize) -> Vec<u8> {
    let mut bytes = shard.to_vec();
    let reader = SerializedFileReader::new(bytes::Bytes::copy_from_slice(shard)).expect("a shard");
    let page = reader.metadata().row_group(row_group).column(1).data_page_offset() as usize;
    // The value of the first field: a data page (0) becomes a page of the unknown kind -1.
    bytes[page + 1] ^= 1;
    bytes
}

/// The shard with one bit flipped at the beginning of a row's image, which makes it no image.
///
/// # Panics
/// When it has fewer good images.
pub fn with_flipped_image(shard: &[u8], row: usize) -> Vec<u8> {
    let mut bytes = shard.to_vec();
    let good = good_image();
    let mut starts = (0..bytes.len() - good.len()).filter(|at| bytes[*at..].starts_with(&good));
    let start = starts.nth(row).expect("an image of this row");
    bytes[start] ^= 1;
    bytes
}

/// Takes a shard away.
///
/// # Errors
/// The store's.
pub async fn vanish(shard: &Location) -> Result<()> {
    shard.store.delete(&shard.path).await.map_err(|error| shard.error("delete", error))
}

/// Puts another shard in a shard's place, of the same rows with other keys in front.
///
/// # Errors
/// The store's.
pub async fn rewrite(shard: &Location, rows: usize, group: usize) -> Result<()> {
    let null = Defect { name: "null image", image: Some(None), caption: None, reason: Some("no_image") };
    shard.write(self::shard(rows, group, |row| (row == 0).then_some(&null))).await
}
