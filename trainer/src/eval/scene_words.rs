//! What a caption says of a scene: pairs of a colour word directly before a shape word, as the corpus writes them.

use std::collections::HashMap;
use std::hash::Hash;

use data_pipeline::synthetic::{Colour, Pair, Scene, Shape};

/// The objects that a caption names; `two red circles` names two.
pub fn named_objects(caption: &str) -> Vec<Pair> {
    let words: Vec<&str> = caption.split_whitespace().collect();
    let mut named = Vec::new();
    for (place, two) in words.windows(2).enumerate() {
        let colour = Colour::ALL.iter().find(|colour| colour.word() == two[0]);
        let shape = Shape::ALL.iter().find(|shape| shape.word() == two[1] || shape.plural() == two[1]);
        let (Some(&colour), Some(&shape)) = (colour, shape) else { continue };
        let several = shape.plural() == two[1];
        let count = place.checked_sub(1).filter(|_| several).and_then(|before| number(words[before])).unwrap_or(1);
        named.extend(std::iter::repeat_n(Pair { colour, shape }, count));
    }
    named
}

fn number(word: &str) -> Option<usize> {
    ["one", "two", "three", "four"].iter().position(|known| *known == word).map(|place| place + 1)
}

/// How many of the scene's objects a caption gets right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// Colour and shape together, among objects of pairs that training shows.
    pub seen: Count,
    /// Colour and shape together, among objects of held-out pairs.
    pub unseen: Count,
    /// The colour, whatever the shape.
    pub colour: Count,
    /// The shape, whatever the colour.
    pub shape: Count,
}

/// Right ones and all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Right ones.
    pub right: usize,
    /// All.
    pub all: usize,
}

impl Count {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self { right: self.right + other.right, all: self.all + other.all }
    }

    /// The share of right ones in percent; 0 where there is nothing.
    pub fn percent(self) -> f64 {
        100.0 * self.right as f64 / self.all.max(1) as f64
    }
}

impl Hits {
    /// What `caption` has right about `scene`. Each named object counts for one object of the scene.
    pub fn of(scene: &Scene, caption: &str, held_out: &[Pair]) -> Self {
        let (named, truth) = (named_objects(caption), scene.objects.iter().map(|object| object.pair()));
        let truth: Vec<Pair> = truth.collect();
        let pairs = matched(&truth, &named, |pair| *pair);
        let part = |unseen: bool| {
            let of_kind = truth.iter().zip(&pairs).filter(|(pair, _)| held_out.contains(pair) == unseen);
            of_kind.fold(Count::default(), |count, (_, right)| count.plus(Count { right: usize::from(*right), all: 1 }))
        };
        let share = |right: Vec<bool>| Count { right: right.iter().filter(|right| **right).count(), all: right.len() };
        Self {
            seen: part(false),
            unseen: part(true),
            colour: share(matched(&truth, &named, |pair| pair.colour as usize)),
            shape: share(matched(&truth, &named, |pair| pair.shape as usize)),
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            seen: self.seen.plus(other.seen),
            unseen: self.unseen.plus(other.unseen),
            colour: self.colour.plus(other.colour),
            shape: self.shape.plus(other.shape),
        }
    }
}

/// For every true object whether a named one is left that agrees with it in `key`.
fn matched<K: Hash + Eq>(truth: &[Pair], named: &[Pair], key: impl Fn(&Pair) -> K) -> Vec<bool> {
    let mut left: HashMap<K, usize> = HashMap::new();
    named.iter().for_each(|pair| *left.entry(key(pair)).or_default() += 1);
    let mut take = |pair: &Pair| match left.get_mut(&key(pair)) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    };
    truth.iter().map(&mut take).collect()
}

#[cfg(test)]
mod tests {
    use data_pipeline::synthetic::{Split, SynthOptions, captions, held_out_pairs, scenes};

    use super::*;

    #[test]
    fn every_caption_of_the_corpus_names_every_object() {
        let options = SynthOptions { test_scenes: 50, ..SynthOptions::default() };
        let held_out = held_out_pairs(options.seed);
        for scene in scenes(&options, Split::TestUnseen).unwrap() {
            for caption in captions(&scene) {
                let hits = Hits::of(&scene, &caption, &held_out);
                let all = hits.seen.plus(hits.unseen);
                assert_eq!((all.right, all.all), (scene.objects.len(), scene.objects.len()), "{caption}");
                assert!(hits.unseen.all > 0 && hits.colour.right == all.all && hits.shape.right == all.all);
            }
        }
    }

    #[test]
    fn an_object_named_once_counts_once() {
        assert_eq!(named_objects("two red circles and a blue star").len(), 3);
        assert_eq!(named_objects("a red and a circle").len(), 0);
        let circle = Pair { colour: Colour::Red, shape: Shape::Circle };
        assert_eq!(matched(&[circle, circle], &[circle], |pair| *pair), [true, false]);
    }
}
