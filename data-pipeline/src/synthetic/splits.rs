//! Which scene is which: splits, held-out colour-shape pairs, and the draw of a scene.
//!
//! - `train` and `test_seen` hold only the 36 pairs that are seen in training.
//! - `test_unseen`: every scene holds exactly one object of a held-out pair, its other objects are of seen pairs.
//! - An eighth of all contents (attributes of all objects) is reserved for `test_seen` and drawn again in `train`, so
//!   that the two splits share no content, whatever their sizes.
//! - Within a test split, draws whose first caption came up before are skipped.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::captions::first_caption;
use super::options::SynthOptions;
use super::scene::{Background, Object, Scene, lay_out};
use super::vocabulary::{Colour, Shape, Texture};
use crate::error::{DataError, Result};
use crate::rng::{CounterRng, Purpose};

/// How many of the 48 colour-shape pairs are held out.
pub const HELD_OUT_PAIRS: usize = 12;
/// No shape and no colour loses more pairs than this, so every colour keeps four shapes and every shape six colours.
const MAX_HELD_OUT_PER_WORD: usize = 2;
/// One in this many contents is reserved for `test_seen`.
const RESERVED_ONE_IN: u64 = 8;
/// A draw takes over the colour or the shape of an earlier object with this probability, so that counts above one occur.
const SHARED_ATTRIBUTE: f64 = 0.4;
/// Draws in a row without a new caption after which a test split is declared exhausted.
const MAX_FUTILE_DRAWS: u64 = 20_000;
/// First counter of the streams that are not draws of a split.
const HELD_OUT_STREAM: u64 = 1 << 32;
const RESERVED_STREAM: u64 = (1 << 32) + 1;

/// A part of the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// For training.
    Train = 0,
    /// For tests: pairs that training holds, contents that it does not.
    TestSeen = 1,
    /// For tests: every scene holds a pair that training does not.
    TestUnseen = 2,
}

impl Split {
    /// Every split, in the order in which they are written.
    pub const ALL: [Split; 3] = [Self::Train, Self::TestSeen, Self::TestUnseen];

    /// The name of its folder.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::TestSeen => "test_seen",
            Self::TestUnseen => "test_unseen",
        }
    }

    /// How many scenes it has.
    pub fn scenes(self, options: &SynthOptions) -> u64 {
        if self == Self::Train { options.scenes } else { options.test_scenes }
    }
}

/// A colour and a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pair {
    /// The colour.
    pub colour: Colour,
    /// The shape.
    pub shape: Shape,
}

impl Pair {
    /// All 48 pairs.
    pub fn all() -> impl Iterator<Item = Pair> {
        Colour::ALL.iter().flat_map(|&colour| Shape::ALL.iter().map(move |&shape| Pair { colour, shape }))
    }

    /// How captions name it. A text names a pair where the colour word directly precedes the shape word, in singular or
    /// plural.
    pub fn words(self) -> String {
        format!("{} {}", self.colour.word(), self.shape.word())
    }
}

/// The pairs that training never shows nor names, sorted: a pure function of the seed.
pub fn held_out_pairs(seed: u64) -> Vec<Pair> {
    for attempt in 0.. {
        let mut rng = CounterRng::new(seed, Purpose::Scene, &[HELD_OUT_STREAM, attempt]);
        let mut all: Vec<Pair> = Pair::all().collect();
        rng.shuffle(&mut all);
        let mut chosen: Vec<Pair> = Vec::new();
        for pair in all {
            let colour = chosen.iter().filter(|other| other.colour == pair.colour).count();
            let shape = chosen.iter().filter(|other| other.shape == pair.shape).count();
            if chosen.len() < HELD_OUT_PAIRS && colour.max(shape) < MAX_HELD_OUT_PER_WORD {
                chosen.push(pair);
            }
        }
        if chosen.len() == HELD_OUT_PAIRS {
            chosen.sort_unstable();
            return chosen;
        }
    }
    unreachable!("the loop has no end")
}

/// Scene `index` of a split. For test splits this draws all scenes before it, too: use [`scenes`] for several.
///
/// # Errors
/// [`DataError::Setting`] when the split has no such scene.
pub fn scene(options: &SynthOptions, split: Split, index: u64) -> Result<Scene> {
    let source = SceneSource::new(options);
    if split == Split::Train {
        return Ok(source.draw(split, index));
    }
    let draws = source.distinct_draws(split, index + 1)?;
    Ok(source.draw(split, draws[index as usize]))
}

/// The scenes of a split in order, as many as the options say.
///
/// # Errors
/// [`DataError::Setting`] when a test split cannot have as many.
pub fn scenes(options: &SynthOptions, split: Split) -> Result<impl Iterator<Item = Scene> + use<>> {
    let source = SceneSource::new(options);
    let count = split.scenes(options);
    let draws = if split == Split::Train { Vec::new() } else { source.distinct_draws(split, count)? };
    Ok((0..count).map(move |index| source.draw(split, draws.get(index as usize).copied().unwrap_or(index))))
}

/// Draws the scenes of one corpus.
#[derive(Clone, Debug)]
pub(super) struct SceneSource {
    seed: u64,
    min_objects: u8,
    max_objects: u8,
    patterns: bool,
    pairs: PairSets,
}

/// The two sets of pairs of one corpus.
#[derive(Clone, Debug)]
pub(super) struct PairSets {
    /// Pairs that training shows.
    pub(super) seen: Vec<Pair>,
    /// Pairs that only `test_unseen` shows.
    pub(super) held_out: Vec<Pair>,
}

impl PairSets {
    /// The sets of a seed.
    pub(super) fn new(seed: u64) -> Self {
        let held_out = held_out_pairs(seed);
        Self { seen: Pair::all().filter(|pair| !held_out.contains(pair)).collect(), held_out }
    }
}

impl SceneSource {
    /// The scenes of a corpus with these options.
    pub(super) fn new(options: &SynthOptions) -> Self {
        Self {
            seed: options.seed,
            min_objects: options.min_objects,
            max_objects: options.max_objects,
            patterns: options.patterns,
            pairs: PairSets::new(options.seed),
        }
    }

    /// The pairs of the corpus.
    pub(super) fn pairs(&self) -> &PairSets {
        &self.pairs
    }

    /// The scene of one draw of a split.
    pub(super) fn draw(&self, split: Split, draw: u64) -> Scene {
        let mut attempt = 0;
        loop {
            let scene = self.draw_once(split, draw, attempt);
            if split == Split::TestUnseen || self.is_reserved(&scene) == (split == Split::TestSeen) {
                return scene;
            }
            attempt += 1;
        }
    }

    fn draw_once(&self, split: Split, draw: u64, attempt: u64) -> Scene {
        let mut rng = CounterRng::new(self.seed, Purpose::Scene, &[split as u64, draw, attempt]);
        let spread = u64::from(self.max_objects - self.min_objects) + 1;
        let num_objects = usize::from(self.min_objects) + rng.below(spread) as usize;
        let held_out_at = (split == Split::TestUnseen).then(|| rng.below(num_objects as u64) as usize);
        let mut pairs: Vec<Pair> = Vec::with_capacity(num_objects);
        for place in 0..num_objects {
            let allowed = if held_out_at == Some(place) { &self.pairs.held_out } else { &self.pairs.seen };
            pairs.push(draw_pair(allowed, &pairs, &mut rng));
        }
        let mut objects = lay_out(&pairs, &mut rng);
        if !self.patterns {
            objects.iter_mut().for_each(|object| object.texture = Texture::Plain);
        }
        Scene { seed: self.seed, split, draw, background: Background::draw(&mut rng), objects }
    }

    /// Whether a content is reserved for `test_seen`: decided by the attributes of all objects in any order, and for a
    /// single object by its cell as well.
    fn is_reserved(&self, scene: &Scene) -> bool {
        let cell = |object: &Object| object.cell().0 * 3 + object.cell().1;
        let mut content: Vec<u64> = scene
            .objects
            .iter()
            .map(|o| (((o.size as u64) * 4 + o.texture as u64) * 8 + o.colour as u64) * 6 + o.shape as u64)
            .collect();
        content.sort_unstable();
        if let [only] = scene.objects.as_slice() {
            content.push(cell(only).into());
        }
        content.push(RESERVED_STREAM);
        CounterRng::new(self.seed, Purpose::Scene, &content).below(RESERVED_ONE_IN) == 0
    }

    /// The first `count` draws of a test split whose first captions differ from all before.
    ///
    /// # Errors
    /// [`DataError::Setting`] when there are not so many.
    pub(super) fn distinct_draws(&self, split: Split, count: u64) -> Result<Vec<u64>> {
        let mut draws = Vec::new();
        let mut taken = HashSet::new();
        let mut last = 0;
        for draw in 0.. {
            if draws.len() as u64 == count {
                break;
            }
            if draw - last > MAX_FUTILE_DRAWS {
                return Err(DataError::Setting(format!(
                    "{count} scenes with distinct captions were asked for in {}, but with {} to {} objects there are \
                     hardly more than {}. Lower test_scenes or allow more objects",
                    split.name(),
                    self.min_objects,
                    self.max_objects,
                    draws.len()
                )));
            }
            if taken.insert(fnv1a(first_caption(&self.draw(split, draw)).as_bytes())) {
                draws.push(draw);
                last = draw;
            }
        }
        Ok(draws)
    }
}

/// A pair from `allowed`, often one that shares its colour or shape with an earlier object.
fn draw_pair(allowed: &[Pair], earlier: &[Pair], rng: &mut CounterRng) -> Pair {
    if !earlier.is_empty() && rng.chance(SHARED_ATTRIBUTE) {
        let model = *rng.choose(earlier);
        let by_colour = rng.chance(0.5);
        let shares = |pair: &&Pair| if by_colour { pair.colour == model.colour } else { pair.shape == model.shape };
        let alike: Vec<Pair> = allowed.iter().filter(shares).copied().collect();
        if !alike.is_empty() {
            return *rng.choose(&alike);
        }
    }
    *rng.choose(allowed)
}

/// 64-bit FNV-1a. A collision would only skip a caption that is distinct, never keep one that is not.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_colour_and_shape_stays_in_training() {
        for seed in 0..200 {
            let held_out = held_out_pairs(seed);
            assert_eq!(held_out.len(), HELD_OUT_PAIRS);
            for &colour in Colour::ALL {
                assert!(held_out.iter().filter(|pair| pair.colour == colour).count() <= MAX_HELD_OUT_PER_WORD);
            }
            for &shape in Shape::ALL {
                assert!(held_out.iter().filter(|pair| pair.shape == shape).count() <= MAX_HELD_OUT_PER_WORD);
            }
        }
        assert_ne!(held_out_pairs(1), held_out_pairs(2));
    }

    #[test]
    fn an_exhausted_test_split_is_an_error() {
        let options = SynthOptions { max_objects: 1, test_scenes: 5_000, ..SynthOptions::default() };
        let message = SceneSource::new(&options).distinct_draws(Split::TestSeen, 5_000).unwrap_err().to_string();
        assert!(message.contains("test_scenes") && message.contains("test_seen"), "{message}");
    }
}
