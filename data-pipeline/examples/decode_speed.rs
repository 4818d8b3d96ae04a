//! Images per CPU second of decode + crop + resize + normalise on one thread, by stage:
//! `cargo run --release -p data-pipeline --example decode_speed [-- FOLDER]`, a folder of JPEG files, or none for
//! 256-pixel JPEGs of about 36 KB made here.
#![allow(clippy::print_stdout, reason = "the table on standard output is what this program is for")]

use std::hint::black_box;

use data_pipeline::augment::TrainTransform;
use data_pipeline::image::{
    DecodeLimits, Flip, REFERENCE_NORMALIZATION, Resampling, RgbImage, Shrink, decode_view, jpeg_decoder, resize,
};
use data_pipeline::rng::{CounterRng, Purpose};

const IMAGE_SIZE: u32 = 224;
const ROUNDS: usize = 7;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let files = match std::env::args().nth(1) {
        Some(folder) => read_folder(&folder)?,
        None => (0..200).map(make_jpeg).collect::<Result<_, _>>()?,
    };
    let kilobytes = files.iter().map(Vec::len).sum::<usize>() / files.len().max(1) / 1000;
    println!("{} files, mean {kilobytes} KB; {}", files.len(), jpeg_decoder());
    for resampling in [Resampling::Fast, Resampling::Scaled, Resampling::PillowExact] {
        let mut rounds: Vec<[f64; 3]> =
            (0..ROUNDS).map(|round| microseconds(&files, resampling, round as u64)).collect::<Result<_, _>>()?;
        rounds.sort_by(|a, b| a.iter().sum::<f64>().total_cmp(&b.iter().sum()));
        let [decode, resize, normalize] = rounds[ROUNDS / 2];
        let (best, worst) = (per_second(&rounds[0]), per_second(&rounds[ROUNDS - 1]));
        println!(
            "{resampling:?}: decode {decode:.0} + resize {resize:.0} + normalise {normalize:.0} us = {:.0} images per CPU second \
             (median of {ROUNDS}; {worst:.0} to {best:.0})",
            per_second(&rounds[ROUNDS / 2])
        );
    }
    print_deviation(&files)
}

/// How far the views of the scaled mode are from those of the fast one, in levels of 8 bits.
fn print_deviation(files: &[Vec<u8>]) -> Result<(), Failure> {
    let (mut squares, mut within, mut values) = (0.0, [0u64; 3], 0u64);
    for (index, file) in files.iter().enumerate() {
        let [fast, scaled] =
            [Resampling::Fast, Resampling::Scaled].map(|resampling| view(file, resampling, index as u64));
        for (a, b) in fast?.into_iter().zip(scaled?) {
            let distance = a.abs_diff(b);
            squares += f64::from(distance).powi(2);
            values += 1;
            within.iter_mut().zip([1, 4, 16]).for_each(|(count, most)| *count += u64::from(distance <= most));
        }
    }
    let share = within.map(|count| 100.0 * count as f64 / values as f64);
    println!(
        "scaled against fast: PSNR {:.1} dB; within 1 level {:.1} %, 4 levels {:.1} %, 16 levels {:.2} %",
        10.0 * (255.0f64.powi(2) * values as f64 / squares).log10(),
        share[0],
        share[1],
        share[2]
    );
    Ok(())
}

/// The pixels of one random view.
fn view(file: &[u8], resampling: Resampling, key: u64) -> Result<Vec<u8>, Failure> {
    let transform = TrainTransform::reference(IMAGE_SIZE);
    let mut rng = CounterRng::new(1, Purpose::Augment, &[0, key]);
    let mut image = RgbImage::default();
    let choose = |width, height| transform.draw(width, height, &mut rng).0;
    let region = decode_view(file, &DecodeLimits::default(), shrink(resampling), choose, &mut image)?;
    let mut view = vec![0; transform.out_len()];
    resize(&image, region, resampling, (IMAGE_SIZE, IMAGE_SIZE), &mut view);
    Ok(view)
}

fn shrink(resampling: Resampling) -> Shrink {
    match resampling {
        Resampling::Scaled => Shrink::To { height: IMAGE_SIZE, width: IMAGE_SIZE },
        Resampling::Fast | Resampling::PillowExact => Shrink::Never,
    }
}

fn per_second(stages: &[f64; 3]) -> f64 {
    1e6 / stages.iter().sum::<f64>()
}

/// Mean microseconds per image of decoding, resizing and normalising.
fn microseconds(files: &[Vec<u8>], resampling: Resampling, epoch: u64) -> Result<[f64; 3], Failure> {
    let transform = TrainTransform { resampling, ..TrainTransform::reference(IMAGE_SIZE) };
    let mut image = RgbImage::default();
    let mut view = vec![0; transform.out_len()];
    let mut out = vec![0.0; transform.out_len()];
    let mut stages = [0.0; 3];
    for (index, file) in files.iter().enumerate() {
        let mut rng = CounterRng::new(1, Purpose::Augment, &[epoch, index as u64]);
        let start = cpu_time()?;
        let mut mirrored = Flip::No;
        let choose = |width, height| {
            let (region, flip) = transform.draw(width, height, &mut rng);
            mirrored = flip;
            region
        };
        let region = decode_view(file, &DecodeLimits::default(), shrink(resampling), choose, &mut image)?;
        let decoded = cpu_time()?;
        resize(&image, region, resampling, (IMAGE_SIZE, IMAGE_SIZE), &mut view);
        let resized = cpu_time()?;
        REFERENCE_NORMALIZATION.apply(&view, IMAGE_SIZE as usize, mirrored, &mut out);
        black_box(&out);
        let spans = [decoded - start, resized - decoded, cpu_time()? - resized];
        stages.iter_mut().zip(spans).for_each(|(stage, span)| *stage += span);
    }
    Ok(stages.map(|stage| stage / files.len() as f64))
}

/// Processor time of this thread so far in microseconds, so that other load on the machine does not count.
fn cpu_time() -> Result<f64, Failure> {
    let accounting = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(accounting.split(' ').next().ok_or("an empty schedstat")?.parse::<f64>()? / 1000.0)
}

fn read_folder(folder: &str) -> Result<Vec<Vec<u8>>, Failure> {
    let mut paths: Vec<_> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_, Failure>>()?;
    paths.sort();
    Ok(paths.iter().map(std::fs::read).collect::<Result<_, _>>()?)
}

/// Noise of several octaves, quality 95, 4:2:0, sides 256 to 384: the size and entropy of web images shrunk to 256.
fn make_jpeg(index: u64) -> Result<Vec<u8>, Failure> {
    let mut rng = CounterRng::new(index, Purpose::Pixels, &[]);
    let (width, height) = (256 + rng.below(129) as usize, 256);
    let mut levels = vec![128.0f64; width * height * 3];
    for (cell, amplitude) in [(64, 60.0), (16, 30.0), (4, 14.0), (1, 5.0)] {
        let (columns, rows) = (width / cell + 2, height / cell + 2);
        let grid: Vec<f64> = (0..columns * rows * 3).map(|_| rng.uniform(-amplitude, amplitude)).collect();
        for (at, level) in levels.iter_mut().enumerate() {
            let (channel, x, y) = (at % 3, at / 3 % width, at / 3 / width);
            let (fx, fy) = ((x % cell) as f64 / cell as f64, (y % cell) as f64 / cell as f64);
            let corner = |dx: usize, dy: usize| grid[((y / cell + dy) * columns + x / cell + dx) * 3 + channel];
            let top = corner(0, 0) * (1.0 - fx) + corner(1, 0) * fx;
            let bottom = corner(0, 1) * (1.0 - fx) + corner(1, 1) * fx;
            *level += top * (1.0 - fy) + bottom * fy;
        }
    }
    let pixels: Vec<u8> = levels.iter().map(|level| level.clamp(0.0, 255.0) as u8).collect();
    let image = turbojpeg::Image {
        pixels: pixels.as_slice(),
        width,
        pitch: width * 3,
        height,
        format: turbojpeg::PixelFormat::RGB,
    };
    Ok(turbojpeg::compress(image, 95, turbojpeg::Subsamp::Sub2x2)?.to_vec())
}
