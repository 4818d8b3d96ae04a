//! Times the similarity phase of retrieval against its products alone: all images of COCO's test set with all of its captions,
//! random features of the published width. `bench_similarity [IMAGES TEXTS ROUNDS]`, 5000 25000 3 by default.

use std::time::Instant;

use serde_json::json;
use tch::{Device, Kind, Tensor, no_grad};
use trainer::losses::itc::best_query_in_blocks;

const QUERIES: i64 = 32;
const WIDTH: i64 = 256;

fn main() {
    let given: Vec<i64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let number = |place: usize, default: i64| given.get(place).copied().unwrap_or(default);
    let (images, texts, rounds) = (number(0, 5000), number(1, 25_000), number(2, 3));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    tch::set_num_threads(i32::try_from(threads).unwrap_or(1));
    let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let (image, text) = (random(&[images, QUERIES, WIDTH]), random(&[texts, WIDTH]));
    let timed = |work: &dyn Fn()| {
        let began = Instant::now();
        no_grad(work);
        began.elapsed().as_secs_f64()
    };
    let similarity = || drop(best_query_in_blocks(&image, &text));
    // The bound: the same products in large blocks, each thrown away.
    let products = || {
        for block in image.view([images * QUERIES, WIDTH]).split(4096, 0) {
            for part in text.split(8192, 0) {
                drop(block.matmul(&part.tr()));
            }
        }
    };
    let mut rows = Vec::new();
    for _ in 0..rounds {
        rows.push((timed(&similarity), timed(&products)));
    }
    let mut ratios: Vec<f64> = rows.iter().map(|(ours, bound)| ours / bound).collect();
    ratios.sort_by(f64::total_cmp);
    let flop = 2.0 * (images * QUERIES * WIDTH) as f64 * texts as f64;
    let best = rows.iter().map(|(_, bound)| *bound).fold(f64::INFINITY, f64::min);
    let result = json!({
        "images": images, "texts": texts, "threads": threads, "seconds": rows,
        "ratio_median": ratios[ratios.len() / 2], "ratio_interval": [ratios[0], ratios[ratios.len() - 1]],
        "bound_gflop_per_s": flop / best / 1e9,
    });
    #[expect(clippy::print_stdout, reason = "the program's answer")]
    {
        println!("{result}");
    }
}
