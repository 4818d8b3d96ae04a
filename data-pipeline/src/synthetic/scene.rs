//! One scene: what is where. Lengths are thousandths of the image's side, y grows downwards.

use serde::{Deserialize, Serialize};

use super::splits::{Pair, Split};
use super::vocabulary::{Colour, Shape, Size, Texture};
use crate::rng::CounterRng;

/// How far apart two centres are, at least, along the axis of a relation that is said to hold.
const RELATION_MARGIN: i32 = 100;
/// Free space between an object and the image's border.
const BORDER: u64 = 15;
/// Centres keep this distance from the lines between the nine cells of the image, so that a cell's name is never
/// arguable.
const CELL_MARGIN: u64 = 30;
/// Layouts tried before every object is made small; only scenes of four large objects ever come near it.
const MAX_LAYOUTS: u32 = 200;

/// Everything that the pixels, captions and questions of one image follow from. The column `scene` holds it as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scene {
    /// The seed of its corpus.
    pub seed: u64,
    /// The split it belongs to.
    pub split: Split,
    /// Its draw in the split. Equal to the index for `train`; test splits skip draws whose caption is taken.
    pub draw: u64,
    /// What is behind the objects.
    pub background: Background,
    /// The objects, none in front of another, in the order in which captions name them.
    pub objects: Vec<Object>,
}

/// One object of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its size word: `radius` is 105 to 130 for small, 170 to 200 for large ones.
    pub size: Size,
    /// Its pattern.
    pub texture: Texture,
    /// Its colour.
    pub colour: Colour,
    /// Its outline.
    pub shape: Shape,
    /// Centre, from the left, in thousandths of the side.
    pub x: u16,
    /// Centre, from the top, in thousandths of the side.
    pub y: u16,
    /// Radius in thousandths of the side.
    pub radius: u16,
    /// Clockwise turn in degrees, -12 to 12.
    pub turn: i8,
}

/// What is behind the objects of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Background {
    /// How it is painted.
    pub kind: BackgroundKind,
    /// Light or dark; captions name it.
    pub tone: Tone,
    /// Standard deviation of the pixel noise over the whole image, in tenths of a level of 255.
    pub noise: u8,
}

/// How a background is painted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackgroundKind {
    /// One colour.
    Flat,
    /// From one colour to another, in any direction.
    Gradient,
    /// Soft clouds.
    Cloudy,
    /// A regular weave.
    Woven,
}

/// Brightness of a background.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tone {
    /// Written `light`.
    Light,
    /// Written `dark`.
    Dark,
}

impl Tone {
    /// The word for it in captions.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

/// A spatial relation of one object to another, with respect to their centres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Its centre is further left.
    LeftOf,
    /// Its centre is further right.
    RightOf,
    /// Its centre is higher.
    Above,
    /// Its centre is lower.
    Below,
}

impl Relation {
    /// Every relation.
    pub const ALL: [Relation; 4] = [Self::LeftOf, Self::RightOf, Self::Above, Self::Below];

    /// The words between the two objects.
    pub const fn words(self) -> &'static str {
        match self {
            Self::LeftOf => "left of",
            Self::RightOf => "right of",
            Self::Above => "above",
            Self::Below => "below",
        }
    }

    /// How far `a` stands in this relation to `b`, in thousandths of the side; negative when it is the other way round.
    fn distance(self, a: &Object, b: &Object) -> i32 {
        let (dx, dy) = (i32::from(b.x) - i32::from(a.x), i32::from(b.y) - i32::from(a.y));
        match self {
            Self::LeftOf => dx,
            Self::RightOf => -dx,
            Self::Above => dy,
            Self::Below => -dy,
        }
    }

    /// Whether `a` stands in this relation to `b`; `None` when their centres are too close along its axis to say.
    pub fn holds(self, a: &Object, b: &Object) -> Option<bool> {
        let distance = self.distance(a, b);
        (distance.abs() >= RELATION_MARGIN).then_some(distance > 0)
    }

    /// The clearest relation of `a` to `b`. It always holds: objects do not overlap, so the centres of any two are more
    /// than √2 times the margin apart.
    pub fn clearest(a: &Object, b: &Object) -> Self {
        let [mut best, rest @ ..] = Self::ALL;
        for relation in rest {
            if relation.distance(a, b) > best.distance(a, b) {
                best = relation;
            }
        }
        best
    }
}

impl Object {
    /// Its colour and shape, the unit of the held-out split.
    pub fn pair(&self) -> Pair {
        Pair { colour: self.colour, shape: self.shape }
    }

    /// Column and row (0 to 2) of the cell of the image that holds its centre.
    pub fn cell(&self) -> (u8, u8) {
        let third = |position: u16| (position > 333) as u8 + (position > 667) as u8;
        (third(self.x), third(self.y))
    }

    /// The cell's name: `top left`, `center` and so on.
    pub fn cell_words(&self) -> &'static str {
        let (column, row) = self.cell();
        [["top left", "top", "top right"], ["left", "center", "right"], ["bottom left", "bottom", "bottom right"]]
            [usize::from(row)][usize::from(column)]
    }

    /// Whether it comes too close to `other`: shapes reach up to 1.15 radii from their centre in single points.
    fn crowds(&self, other: &Self) -> bool {
        let (dx, dy) = (i32::from(self.x) - i32::from(other.x), i32::from(self.y) - i32::from(other.y));
        let apart = (i32::from(self.radius) + i32::from(other.radius)) * 11 / 10;
        dx * dx + dy * dy < apart * apart
    }
}

impl Background {
    /// Draws a background: kinds and tones with equal chances, noise up to four levels.
    pub(super) fn draw(rng: &mut CounterRng) -> Self {
        use BackgroundKind::{Cloudy, Flat, Gradient, Woven};
        Self {
            kind: *rng.choose(&[Flat, Gradient, Cloudy, Woven]),
            tone: *rng.choose(&[Tone::Light, Tone::Dark]),
            noise: rng.below(41) as u8,
        }
    }
}

/// Draws size, texture, turn and place for objects of the given pairs.
pub(super) fn lay_out(pairs: &[Pair], rng: &mut CounterRng) -> Vec<Object> {
    let mut objects: Vec<Object> = pairs
        .iter()
        .map(|pair| Object {
            size: *rng.choose(Size::ALL),
            texture: *rng.choose(Texture::ALL),
            colour: pair.colour,
            shape: pair.shape,
            x: 0,
            y: 0,
            radius: 0,
            turn: rng.below(25) as i8 - 12,
        })
        .collect();
    for layout in 0.. {
        if layout == MAX_LAYOUTS {
            objects.iter_mut().for_each(|object| object.size = Size::Small);
        }
        if place(&mut objects, rng) {
            break;
        }
    }
    objects
}

/// Tries to place all objects once, one after the other; false when one found no room.
fn place(objects: &mut [Object], rng: &mut CounterRng) -> bool {
    for current in 0..objects.len() {
        let (placed, rest) = objects.split_at_mut(current);
        let object = &mut rest[0];
        object.radius = match object.size {
            Size::Small => 105 + rng.below(26) as u16,
            Size::Large => 170 + rng.below(31) as u16,
        };
        let found = (0..8).any(|_| {
            object.x = centre(object.radius, rng);
            object.y = centre(object.radius, rng);
            !placed.iter().any(|other| object.crowds(other))
        });
        if !found {
            return false;
        }
    }
    true
}

/// A coordinate for the centre of an object: inside the image, and not close to a line between cells.
fn centre(radius: u16, rng: &mut CounterRng) -> u16 {
    let reach = u64::from(radius) * 115 / 100 + BORDER;
    loop {
        let position = reach + rng.below(1001 - 2 * reach);
        if position.abs_diff(333) >= CELL_MARGIN && position.abs_diff(667) >= CELL_MARGIN {
            return position as u16;
        }
    }
}
