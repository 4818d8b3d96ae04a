//! Images and texts against the fixture `preprocess`: what Pillow, torchvision and LAVIS make of the same files.
//!
//! The fixture's root is `BLIP2_FIXTURES`, or the project's `tests/fixtures`; every size and setting comes from its
//! files, so any set with the same layout runs unchanged.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise and says what it saw")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use data_pipeline::augment::{ASPECT, EvalTransform, TrainTransform, random_crop};
use data_pipeline::caption::Cleaner;
use data_pipeline::image::{self, DecodeLimits, Flip, Normalization, Region, Resampling, RgbImage};
use data_pipeline::rng::{CounterRng, Purpose};
use fast_image_resize as fir;
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;

/// Least share of values of [`Resampling::Fast`] within one level of Pillow's (the bound).
const LEAST_SHARE: f64 = 0.9999;

struct Fixture {
    folder: PathBuf,
    expected: Value,
    tensors: Vec<u8>,
}

impl Fixture {
    /// The fixture, or nothing and a loud line when it is absent.
    fn open() -> Option<Self> {
        let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let root = std::env::var_os("BLIP2_FIXTURES").map_or(default, PathBuf::from);
        let folder = root.join("preprocess");
        if !folder.join("expected.json").exists() {
            eprintln!("SKIPPED: no fixture in {}; set BLIP2_FIXTURES to the folder that holds it", folder.display());
            return None;
        }
        let expected = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let tensors = std::fs::read(folder.join("io.safetensors")).unwrap();
        Some(Self { folder, expected, tensors })
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.tensors).unwrap()
    }

    /// File names and their bytes, sorted.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let names = self.expected["files"].as_object().unwrap().keys();
        names.map(|name| (name.clone(), std::fs::read(self.folder.join(name)).unwrap())).collect()
    }

    /// The decoded pixels that Pillow gives for a file.
    fn rgb(&self, name: &str) -> RgbImage {
        let tensors = self.tensors();
        let view = tensors.tensor(&format!("{}.rgb", stem(name))).unwrap();
        let (height, width) = (view.shape()[0] as u32, view.shape()[1] as u32);
        RgbImage { width, height, pixels: view.data().to_vec() }
    }

    /// Every view of a file: the region, mirroring, side and expected values.
    fn views(&self, name: &str) -> Vec<View> {
        let tensors = self.tensors();
        let whole = Region::whole(&self.rgb(name));
        let mut views = Vec::new();
        for (key, tensor) in tensors.iter() {
            let Some(kind) = key.strip_prefix(stem(name)).and_then(|rest| rest.strip_prefix('.')) else { continue };
            let (region, flip) = if kind.starts_with("eval") {
                (whole, Flip::No)
            } else if let Some((_, index)) = kind.strip_prefix("train").and_then(|rest| rest.split_once('.')) {
                crop(&self.expected["crops"][name][index.parse::<usize>().unwrap()])
            } else {
                continue;
            };
            let side = tensor.shape()[2] as u32;
            views.push(View { key: key.to_owned(), region, flip, side, values: floats(&tensor) });
        }
        assert!(!views.is_empty(), "{name} has views");
        views
    }

    fn normalization(&self) -> Normalization {
        let triple = |key: &str| std::array::from_fn(|i| self.expected[key][i].as_f64().unwrap() as f32);
        Normalization { mean: triple("mean"), std: triple("std") }
    }

    fn scale(&self) -> [f64; 2] {
        std::array::from_fn(|i| self.expected["scale"][i].as_f64().unwrap())
    }
}

struct View {
    key: String,
    region: Region,
    flip: Flip,
    side: u32,
    values: Vec<f32>,
}

impl View {
    /// The same view by our transforms; the whole image goes through the one for evaluations.
    fn make(&self, image: &RgbImage, resampling: Resampling, normalization: Normalization) -> Vec<f32> {
        let mut out = vec![0.0; self.values.len()];
        if self.key.contains(".eval") {
            EvalTransform { image_size: self.side, resampling, normalization }.apply(image, &mut out);
        } else {
            let reference = TrainTransform::reference(self.side);
            let transform = TrainTransform { resampling, normalization, ..reference };
            transform.apply_view(image, self.region, self.flip, &mut out);
        }
        out
    }
}

fn stem(name: &str) -> &str {
    Path::new(name).file_stem().unwrap().to_str().unwrap()
}

fn floats(tensor: &TensorView) -> Vec<f32> {
    tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn crop(entry: &Value) -> (Region, Flip) {
    let number = |key: &str| entry[key].as_u64().unwrap() as u32;
    let region = Region { top: number("top"), left: number("left"), height: number("height"), width: number("width") };
    (region, if entry["flip"].as_bool().unwrap() { Flip::Horizontal } else { Flip::No })
}

/// Counts how far values are from the expected ones, in levels of 1/255.
#[derive(Default, Debug, PartialEq)]
struct Deviation {
    values: usize,
    off_by_one: usize,
    off_by_more: usize,
    largest: f64,
}

impl Deviation {
    fn count(&mut self, levels: f64) {
        self.values += 1;
        self.largest = self.largest.max(levels);
        // A thousandth of a level for the rounding of normalised values.
        if levels > 1.001 {
            self.off_by_more += 1;
        } else if levels > 0.001 {
            self.off_by_one += 1;
        }
    }

    fn count_bytes(&mut self, ours: &[u8], theirs: &[u8]) {
        assert_eq!(ours.len(), theirs.len());
        ours.iter().zip(theirs).for_each(|(a, b)| self.count(f64::from(a.abs_diff(*b))));
    }

    /// Values of planes that were divided by `std`.
    fn count_planes(&mut self, ours: &[f32], theirs: &[f32], std: [f32; 3]) {
        assert_eq!(ours.len(), theirs.len());
        let plane = ours.len() / 3;
        for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
            self.count(f64::from((a - b).abs() * std[index / plane]) * 255.0);
        }
    }

    fn share_within_one(&self) -> f64 {
        1.0 - self.off_by_more as f64 / self.values as f64
    }
}

#[test]
fn files_decode_to_the_very_pixels_of_pillow() {
    let Some(fixture) = Fixture::open() else { return };
    for (name, bytes) in fixture.files() {
        let image = image::decode(&bytes, &DecodeLimits::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let entry = &fixture.expected["files"][&name];
        assert_eq!(u64::from(image.width), entry["width"].as_u64().unwrap(), "{name}");
        assert_eq!(u64::from(image.height), entry["height"].as_u64().unwrap(), "{name}");
        let mut deviation = Deviation::default();
        deviation.count_bytes(&image.pixels, &fixture.rgb(&name).pixels);
        assert_eq!(deviation.largest, 0.0, "{name}: {deviation:?}");
    }
}

/// Resizes of whole images that the fixture stores as bytes, by `resize`.
fn resized(fixture: &Fixture, resize: impl Fn(&RgbImage, u32, &mut [u8])) -> Deviation {
    let tensors = fixture.tensors();
    let mut deviation = Deviation::default();
    for name in fixture.files().keys() {
        let image = fixture.rgb(name);
        let prefix = format!("{}.resized", stem(name));
        for (_, tensor) in tensors.iter().filter(|(key, _)| key.starts_with(&prefix)) {
            let mut out = vec![0; tensor.data().len()];
            resize(&image, tensor.shape()[0] as u32, &mut out);
            deviation.count_bytes(&out, tensor.data());
        }
    }
    assert!(deviation.values > 0, "the fixture has resized images");
    deviation
}

/// Every crop and every whole image through our transforms.
fn transformed(fixture: &Fixture, make: impl Fn(&View, &RgbImage, Normalization) -> Vec<f32>) -> Deviation {
    let normalization = fixture.normalization();
    let mut deviation = Deviation::default();
    for name in fixture.files().keys() {
        let image = fixture.rgb(name);
        for view in fixture.views(name) {
            deviation.count_planes(&make(&view, &image, normalization), &view.values, normalization.std);
        }
    }
    deviation
}

fn resize_whole(resampling: Resampling) -> impl Fn(&RgbImage, u32, &mut [u8]) {
    move |image, side, out| image::resize(image, Region::whole(image), resampling, (side, side), out)
}

#[test]
fn the_exact_mode_is_bit_exact() {
    let Some(fixture) = Fixture::open() else { return };
    let deviation = resized(&fixture, resize_whole(Resampling::PillowExact));
    assert_eq!((deviation.off_by_one, deviation.off_by_more, deviation.largest), (0, 0, 0.0), "{deviation:?}");
    let normalization = fixture.normalization();
    for name in fixture.files().keys() {
        let image = fixture.rgb(name);
        for view in fixture.views(name) {
            let ours = view.make(&image, Resampling::PillowExact, normalization);
            let same = ours.iter().zip(&view.values).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{} differs from the reference's floats", view.key);
        }
    }
}

#[test]
fn the_fast_mode_is_within_one_level_of_pillow() {
    let Some(fixture) = Fixture::open() else { return };
    let whole = resized(&fixture, resize_whole(Resampling::Fast));
    let views = transformed(&fixture, |view, image, normalization| view.make(image, Resampling::Fast, normalization));
    for (what, deviation) in [("resized", whole), ("crops and whole images", views)] {
        let share = deviation.share_within_one();
        eprintln!("{what}: {:.5} % within one level; {deviation:?}", 100.0 * share);
        assert!(share >= LEAST_SHARE, "{what}: {deviation:?}");
    }
}

/// The whole of `image` by another filter.
fn by_filter(filter: fir::FilterType, image: &RgbImage, side: u32, out: &mut [u8]) {
    let source = TypedImageRef::<U8x3>::from_buffer(image.width, image.height, &image.pixels).unwrap();
    let mut target = TypedImage::<U8x3>::from_buffer(side, side, out).unwrap();
    let options = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(filter)).use_alpha(false);
    fir::Resizer::new().resize_typed(&source, &mut target, &options).unwrap();
}

#[test]
fn the_checks_fail_on_planted_faults() {
    let Some(fixture) = Fixture::open() else { return };
    // `fast_image_resize` by itself: the right filter, but the passes in another order than Pillow's.
    let with_filter = |filter| move |image: &RgbImage, side: u32, out: &mut [u8]| by_filter(filter, image, side, out);
    let share = |filter| resized(&fixture, with_filter(filter)).share_within_one();
    let order_alone = share(fir::FilterType::CatmullRom);
    eprintln!("with the passes in another order {:.3} % are within one level", 100.0 * order_alone);
    for wrong in [fir::FilterType::Bilinear, fir::FilterType::Lanczos3, fir::FilterType::Mitchell] {
        assert!(share(wrong) < LEAST_SHARE.min(order_alone), "{wrong:?} passed");
    }

    let share = |change: fn(&View) -> (Region, Flip)| {
        let deviation = transformed(&fixture, |view, image, normalization| {
            let (region, flip) = change(view);
            View { region, flip, key: String::new(), side: view.side, values: view.values.clone() }.make(
                image,
                Resampling::Fast,
                normalization,
            )
        });
        deviation.share_within_one()
    };
    assert!(share(|view| (view.region, view.flip)) >= LEAST_SHARE, "nothing planted");
    assert!(share(|view| (view.region, Flip::No)) < LEAST_SHARE, "the mirroring is checked");
    let narrower = |view: &View| (Region { width: view.region.width - 1, ..view.region }, view.flip);
    assert!(share(narrower) < LEAST_SHARE, "the crop is checked");
}

#[test]
fn crops_are_drawn_as_torchvision_draws_them() {
    let Some(fixture) = Fixture::open() else { return };
    let mut fixed = 0;
    for name in fixture.files().keys() {
        let image = fixture.rgb(name);
        let crops: Vec<Region> =
            fixture.expected["crops"][name].as_array().unwrap().iter().map(|entry| crop(entry).0).collect();
        let draw = |key| {
            let mut rng = CounterRng::new(key, Purpose::Augment, &[0, 0]);
            random_crop(image.width, image.height, fixture.scale(), ASPECT, &mut rng)
        };
        // Where the reference always crops the same, the image is too long for any try: the centre crop.
        if crops.iter().all(|crop| *crop == crops[0]) {
            fixed += 1;
            assert!((0..100).all(|key| draw(key) == crops[0]), "{name}: {:?}, expected {:?}", draw(0), crops[0]);
        }
    }
    eprintln!("{fixed} images with a fixed crop");
}

#[test]
fn crops_are_distributed_as_torchvision_distributes_them() {
    let Some(fixture) = Fixture::open() else { return };
    let distribution = &fixture.expected["crop_distribution"];
    let (width, height) = distribution["image"].as_str().unwrap().split_once('x').unwrap();
    let (width, height): (u32, u32) = (width.parse().unwrap(), height.parse().unwrap());
    // Ten times the fixture's draws, so that its own sampling error is what counts.
    let draws = 10 * distribution["n"].as_u64().unwrap();
    let crops: Vec<Region> = (0..draws)
        .map(|n| {
            random_crop(width, height, fixture.scale(), ASPECT, &mut CounterRng::new(1, Purpose::Augment, &[0, n]))
        })
        .collect();
    let sorted = |of: fn(&Region) -> f64| {
        let mut values: Vec<f64> = crops.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let image_area = f64::from(width * height);
    let area: Vec<f64> = sorted(|c| f64::from(c.width * c.height)).iter().map(|a| a / image_area).collect();
    let aspect = sorted(|c| f64::from(c.width) / f64::from(c.height));
    for (index, percent) in distribution["quantiles_percent"].as_array().unwrap().iter().enumerate() {
        let at = (percent.as_f64().unwrap() / 100.0 * (draws - 1) as f64).round() as usize;
        for (what, ours) in [("area", &area), ("aspect_w_over_h", &aspect)] {
            let theirs = distribution[what][index].as_f64().unwrap();
            // The fixture's notes allow 0.01: quantiles of its draws are uncertain by 0.001 to 0.003.
            assert!((ours[at] - theirs).abs() < 0.01, "{what} at {percent} %: {} and {theirs}", ours[at]);
        }
    }
    for (what, of) in [("top_mean", (|c| c.top) as fn(&Region) -> u32), ("left_mean", |c| c.left)] {
        let values: Vec<f64> = crops.iter().map(|c| f64::from(of(c))).collect();
        let mean = values.iter().sum::<f64>() / draws as f64;
        let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / draws as f64).sqrt();
        let theirs = distribution[what].as_f64().unwrap();
        // Four standard errors of the fixture's mean.
        let tolerance = 4.0 * deviation / (draws as f64 / 10.0).sqrt();
        assert!((mean - theirs).abs() < tolerance, "{what}: {mean} and {theirs}, tolerance {tolerance}");
    }
}

#[test]
fn texts_are_cleaned_as_in_the_reference() {
    let Some(fixture) = Fixture::open() else { return };
    let texts: Value = serde_json::from_slice(&std::fs::read(fixture.folder.join("text.json")).unwrap()).unwrap();
    let text = |item: &Value, key: &str| item[key].as_str().unwrap().to_owned();
    let max_words = texts["default_max_words"].as_u64().unwrap() as usize;
    let plain = Cleaner { max_words, prompt: String::new() };
    for item in texts["items"].as_array().unwrap() {
        let raw = text(item, "raw");
        let caption = text(item, "caption");
        assert_eq!(plain.caption(&raw), caption, "{raw:?}");
        assert_eq!(plain.question(&raw), text(item, "question"), "{raw:?}");
        let with_prompt = text(item, "caption_prompt");
        let prompt = with_prompt.strip_suffix(&caption).unwrap().to_owned();
        assert_eq!(Cleaner { max_words, prompt }.caption(&raw), with_prompt, "{raw:?}");
    }
    for (key, items) in texts.as_object().unwrap() {
        let Some(limit) = key.strip_prefix("max_words_") else { continue };
        let cleaner = Cleaner { max_words: limit.parse().unwrap(), prompt: String::new() };
        for item in items.as_array().unwrap() {
            assert_eq!(cleaner.caption(&text(item, "raw")), text(item, "caption"), "{key}");
        }
    }
}
