//! What slices promise, on ranks that are threads.

use cluster::Threads;
use tch::Device;

use super::sum::{subtrees, sum_tree};
use super::*;

#[test]
fn every_slice_has_one_owner_and_the_tree_is_covered_once() {
    for slices in 1..20 {
        for world_size in 1..=slices {
            let ranges: Vec<Range<usize>> = (0..world_size).map(|rank| owned(rank, world_size, slices)).collect();
            assert_eq!(ranges.iter().cloned().flatten().collect::<Vec<_>>(), (0..slices).collect::<Vec<_>>());
            let mut leaves: Vec<usize> = Vec::new();
            for range in &ranges {
                assert!(!range.is_empty());
                for (start, len) in subtrees(0, slices, range) {
                    leaves.extend(start..start + len);
                }
            }
            assert_eq!(leaves, (0..slices).collect::<Vec<_>>(), "{slices} slices, {world_size} ranks");
        }
    }
}

#[test]
fn partial_sums_of_any_division_give_the_same_bits() {
    // Values for which the order of additions shows.
    let value = |slice: usize| Tensor::from_slice(&[[1e8_f32, 1.0, -1e8, 0.3][slice % 4] * (1.0 + slice as f32)]);
    let leaf = |start: usize, len: usize| (len == 1).then(|| value(start));
    for slices in 1..20 {
        let whole = sum_tree(0, slices, &leaf).double_value(&[0]);
        for world_size in 1..=slices {
            let nodes: Vec<(usize, usize)> =
                (0..world_size).flat_map(|rank| subtrees(0, slices, &owned(rank, world_size, slices))).collect();
            let known = |start: usize, len: usize| nodes.contains(&(start, len)).then(|| sum_tree(start, len, &leaf));
            assert_eq!(sum_tree(0, slices, &known).double_value(&[0]), whole);
        }
    }
}

/// Runs `work` on ranks that are threads and gives back what each of them returned.
fn on_ranks<T: Send>(
    world_size: usize,
    slices: usize,
    reduction: Reduction,
    work: impl Fn(&SliceMap<'_>) -> T + Sync,
) -> Vec<T> {
    std::thread::scope(|scope| {
        let run = |rank: Threads| {
            let work = &work;
            scope.spawn(move || {
                let result = work(&SliceMap::new(&rank, slices, reduction).unwrap());
                rank.finish().unwrap();
                result
            })
        };
        let ranks: Vec<_> = Threads::world(world_size).into_iter().map(run).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Values for which the order of additions shows, `6 · slices` of them.
fn gradient(slice: usize, slices: usize) -> Tensor {
    let value = |i: usize| ((slice * 37 + i * 11) as f32).sin() * 10_f32.powi((slice + i) as i32 % 7 - 3);
    Tensor::from_slice(&(0..6 * slices).map(value).collect::<Vec<_>>())
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    Vec::<f32>::try_from(tensor.contiguous().view([-1])).unwrap().into_iter().map(f32::to_bits).collect()
}

/// The mean, shared with all ranks, its norm, and the same collected on rank 0.
fn mean_of(world_size: usize, slices: usize) -> (Vec<u32>, u64) {
    let results = on_ranks(world_size, slices, Reduction::Exact, |map| {
        let mut sum = map.sum();
        map.own().for_each(|slice| sum.add(slice, gradient(slice, slices)));
        let part = sum.mean(1.0).unwrap();
        assert_eq!(part.size(), [6 * map.chunks().len() as i64]);
        let norm = map.norm(&part).unwrap();
        let mut whole = Tensor::zeros([6 * slices as i64], (Kind::Float, Device::Cpu));
        whole.narrow(0, 6 * map.chunks().start as i64, part.size()[0]).copy_(&part);
        map.share(&mut whole).unwrap();
        let collected = map.collect(&part).unwrap();
        assert_eq!(collected.is_some(), map.own().start == 0);
        if let Some(collected) = collected {
            assert_eq!(bits(&collected), bits(&whole));
        }
        (bits(&whole), norm.to_bits())
    });
    assert!(results.iter().all(|result| *result == results[0]), "all ranks hold the same");
    results.into_iter().next().unwrap()
}

#[test]
fn means_and_norms_have_the_same_bits_on_any_number_of_ranks() {
    for slices in [1, 2, 3, 4, 6, 7, 8, 12, 16] {
        let expected = mean_of(1, slices);
        for world_size in 2..=slices {
            assert_eq!(mean_of(world_size, slices), expected, "{slices} slices on {world_size} ranks");
        }
    }
}

#[test]
fn the_librarys_all_reduce_gives_the_same_mean_up_to_rounding() {
    let (expected, _) = mean_of(1, 6);
    let means = on_ranks(3, 6, Reduction::AllReduce, |map| {
        let mut sum = map.sum();
        map.own().for_each(|slice| sum.add(slice, gradient(slice, 6)));
        let mean = sum.mean(1.0).unwrap();
        assert_eq!(map.chunks(), 0..6);
        (bits(&mean), map.norm(&mean).unwrap())
    });
    assert!(means.iter().all(|mean| *mean == means[0]));
    for (found, expected) in means[0].0.iter().zip(&expected) {
        let (found, expected) = (f32::from_bits(*found), f32::from_bits(*expected));
        assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1000.0), "{found} {expected}");
    }
}

#[test]
fn rows_come_from_their_owners_in_the_order_they_are_wanted() {
    let (slices, per_slice) = (5, 3);
    let row = |row: i64| (0..4).map(|i| (row * 10 + i) as f32).collect::<Vec<_>>();
    // Rows of everywhere, some twice, some its own; the third slice wants nothing.
    let wanted: Vec<Vec<i64>> = (0..slices)
        .map(|slice| if slice == 2 { vec![] } else { vec![14, slice, 0, 0, (slice * 4 + 2) % 15] })
        .collect();
    for world_size in 1..=5 {
        on_ranks(world_size, 5, Reduction::Exact, |map| {
            let own = |slice: usize| {
                let rows = (0..per_slice).flat_map(|i| row((slice * per_slice + i) as i64)).collect::<Vec<_>>();
                Tensor::from_slice(&rows).view([per_slice as i64, 2, 2])
            };
            let own: Vec<Tensor> = map.own().map(own).collect();
            for round in 0..map.rounds() {
                let fetched = map.fetch(&own, &wanted, round).unwrap();
                let wanted = map.own().nth(round).map_or(&[][..], |slice| wanted[slice].as_slice());
                match fetched {
                    None => assert!(wanted.is_empty()),
                    Some(fetched) => {
                        let expected: Vec<f32> = wanted.iter().flat_map(|wanted| row(*wanted)).collect();
                        assert_eq!(fetched.size(), [wanted.len() as i64, 2, 2]);
                        assert_eq!(Vec::<f32>::try_from(fetched.view([-1])).unwrap(), expected);
                    }
                }
            }
        });
    }
}

#[test]
fn what_arrives_from_others_is_counted() {
    for world_size in 1..=4 {
        let slices = 4;
        let counted = on_ranks(world_size, slices, Reduction::Exact, |map| {
            let others = slices - map.own().len();
            let rows = |slice: usize| Tensor::full([2, 3], slice as f64, (Kind::Float, Device::Cpu));
            let own: Vec<Tensor> = map.own().map(rows).collect();
            map.gather(&own).unwrap();
            let gathered = map.traffic().gathered;
            // Every slice wants one row of each slice.
            let wanted: Vec<Vec<i64>> =
                (0..slices).map(|_| (0..slices as i64).map(|slice| 2 * slice).collect()).collect();
            (0..map.rounds()).for_each(|round| drop(map.fetch(&own, &wanted, round).unwrap()));
            assert_eq!(map.traffic().negatives, map.own().len() * others * 3 * 4);
            let mut sum = map.sum();
            map.own().for_each(|slice| sum.add(slice, gradient(slice, slices)));
            let part = sum.mean(1.0).unwrap();
            (gathered, map.traffic().gradients, part.numel() * 4)
        });
        // Ranks send as many slices as the one with most of them has.
        let most = slices.div_ceil(world_size);
        let of_gather = (world_size - 1) * most * 2 * 3 * 4;
        assert!(counted.iter().all(|(gathered, ..)| *gathered == of_gather), "{world_size} ranks: {counted:?}");
        if world_size.is_power_of_two() {
            // Each other rank has one partial sum of all its slices, and sends the part that is owned here.
            let sound = |(_, gradients, part): &(usize, usize, usize)| *gradients == (world_size - 1) * part;
            assert!(counted.iter().all(sound), "{world_size} ranks: {counted:?}");
        }
    }
}
