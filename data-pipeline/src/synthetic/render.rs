//! The pixels of a scene.

use super::scene::{Background, BackgroundKind, Object, Scene, Tone};
use super::shapes::{outline_distance, pattern_depth, wave};
use super::vocabulary::Colour;
use crate::rng::{CounterRng, Purpose};

/// A square RGB picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels on each side.
    pub side: u32,
    /// `side * side` pixels row by row, red, green and blue.
    pub rgb: Vec<u8>,
}

/// Colours are values from 0 to 255, unrounded.
type Rgb = [f32; 3];

/// The reference colour of each colour word; every object's own one differs by up to ten levels.
const fn reference_rgb(colour: Colour) -> Rgb {
    match colour {
        Colour::Red => [222.0, 38.0, 38.0],
        Colour::Green => [38.0, 168.0, 62.0],
        Colour::Blue => [44.0, 88.0, 232.0],
        Colour::Yellow => [246.0, 220.0, 40.0],
        Colour::Purple => [140.0, 50.0, 190.0],
        Colour::Orange => [246.0, 136.0, 24.0],
        Colour::Cyan => [44.0, 208.0, 222.0],
        Colour::Pink => [250.0, 140.0, 196.0],
    }
}

/// Brightness of the dark part of a pattern, as a part of the object's own.
const SHADE: f32 = 0.32;
/// Width of the unpatterned rim of an object, in radii: keeps shapes whole where the pattern has the ground's tone.
const RIM: f32 = 0.13;
/// Points per side of the random lattice behind cloudy backgrounds.
const LATTICE: usize = 7;

/// The picture of a scene: the same content at any side length, with pixel noise of its own at each.
pub fn render(scene: &Scene, side: u32) -> Picture {
    let mut rng = CounterRng::new(scene.seed, Purpose::Pixels, &[scene.split as u64, scene.draw]);
    let mut canvas = Canvas { side: side as usize, pixels: Vec::with_capacity((side * side) as usize) };
    canvas.paint_background(&scene.background, &mut rng);
    for object in &scene.objects {
        let jitter: Rgb = std::array::from_fn(|_| rng.below(21) as f32 - 10.0);
        let colour = add(reference_rgb(object.colour), jitter);
        canvas.paint_object(object, colour);
    }
    Picture { side, rgb: canvas.to_bytes(scene.background.noise, &mut rng) }
}

fn add(a: Rgb, b: Rgb) -> Rgb {
    std::array::from_fn(|c| a[c] + b[c])
}

fn mix(a: Rgb, b: Rgb, part_of_b: f32) -> Rgb {
    std::array::from_fn(|c| a[c] + (b[c] - a[c]) * part_of_b)
}

/// A picture being painted.
struct Canvas {
    side: usize,
    pixels: Vec<Rgb>,
}

impl Canvas {
    fn paint_background(&mut self, background: &Background, rng: &mut CounterRng) {
        let (a, b) = (ground_rgb(background.tone, rng), ground_rgb(background.tone, rng));
        let angle = [rng.uniform(-1.0, 1.0) as f32, rng.uniform(-1.0, 1.0) as f32];
        let steps = self.side as f32;
        match background.kind {
            BackgroundKind::Flat => self.pixels.resize(self.side * self.side, a),
            BackgroundKind::Gradient => self.fill(|x, y| {
                let along = angle[0] * (x / steps - 0.5) + angle[1] * (y / steps - 0.5);
                mix(a, b, (0.5 + along).clamp(0.0, 1.0))
            }),
            BackgroundKind::Cloudy => {
                let lattice: [[f32; LATTICE]; LATTICE] =
                    std::array::from_fn(|_| std::array::from_fn(|_| rng.unit() as f32));
                self.fill(|x, y| mix(a, b, lattice_value(&lattice, x / steps, y / steps)));
            }
            BackgroundKind::Woven => {
                let width = rng.uniform(0.045, 0.09) as f32;
                self.fill(|x, y| {
                    let thread = wave(x / steps, width) + wave(y / steps, width);
                    mix(a, b, 0.5 + thread / (2.0 * width))
                });
            }
        }
    }

    fn fill(&mut self, value: impl Fn(f32, f32) -> Rgb) {
        for y in 0..self.side {
            self.pixels.extend((0..self.side).map(|x| value(x as f32 + 0.5, y as f32 + 0.5)));
        }
    }

    fn paint_object(&mut self, object: &Object, colour: Rgb) {
        let side = self.side as f32;
        let radius = f32::from(object.radius) / 1000.0 * side;
        let (centre_x, centre_y) = (f32::from(object.x) / 1000.0 * side, f32::from(object.y) / 1000.0 * side);
        let (sin, cos) = small_angle(object.turn);
        let dark = colour.map(|level| level * SHADE);
        let rim = RIM.max(1.0 / radius);
        let range = |centre: f32| {
            let reach = 1.25 * radius + 1.0;
            ((centre - reach).max(0.0) as usize, ((centre + reach).ceil().max(0.0) as usize).min(self.side))
        };
        let ((left, right), (top, bottom)) = (range(centre_x), range(centre_y));
        for y in top..bottom {
            for x in left..right {
                let (dx, dy) = ((x as f32 + 0.5 - centre_x) / radius, (y as f32 + 0.5 - centre_y) / radius);
                let (u, v) = (cos * dx + sin * dy, cos * dy - sin * dx);
                let distance = outline_distance(object.shape, u, v);
                let covered = (0.5 - distance * radius).clamp(0.0, 1.0);
                if covered == 0.0 {
                    continue;
                }
                let depth = pattern_depth(object.texture, u, v).map_or(-1.0, |depth| depth.min(-distance - rim));
                let ink = mix(colour, dark, (0.5 + depth * radius).clamp(0.0, 1.0));
                let pixel = &mut self.pixels[y * self.side + x];
                *pixel = mix(*pixel, ink, covered);
            }
        }
    }

    /// Adds grey noise with a standard deviation of `noise` tenths of a level and rounds to bytes.
    fn to_bytes(&self, noise: u8, rng: &mut CounterRng) -> Vec<u8> {
        // The sum of two bytes has a standard deviation of √((256² - 1) / 6) = 104.5.
        let scale = f32::from(noise) / 10.0 / 104.5;
        let mut bytes = Vec::with_capacity(self.pixels.len() * 3);
        for four in self.pixels.chunks(4) {
            let random = if noise == 0 { 0 } else { rng.next_u64() };
            for (place, pixel) in four.iter().enumerate() {
                let [low, high] = ((random >> (16 * place)) as u16).to_le_bytes();
                let shift = (f32::from(low) + f32::from(high) - 255.0) * scale + 0.5;
                bytes.extend(pixel.map(|level| (level + shift) as u8));
            }
        }
        bytes
    }
}

/// A greyish colour of the given tone: darker or lighter than the objects, and less colourful.
fn ground_rgb(tone: Tone, rng: &mut CounterRng) -> Rgb {
    let base = match tone {
        Tone::Light => rng.uniform(186.0, 226.0),
        Tone::Dark => rng.uniform(18.0, 62.0),
    };
    std::array::from_fn(|_| (base + rng.uniform(-12.0, 12.0)) as f32)
}

/// Bilinear interpolation with smoothed steps between the points of a lattice over the unit square.
fn lattice_value(lattice: &[[f32; LATTICE]; LATTICE], x: f32, y: f32) -> f32 {
    let split = |position: f32| {
        let scaled = position * (LATTICE - 1) as f32;
        let cell = (scaled as usize).min(LATTICE - 2);
        let part = scaled - cell as f32;
        (cell, part * part * (3.0 - 2.0 * part))
    };
    let ((column, right), (row, down)) = (split(x), split(y));
    let line = |row: usize| lattice[row][column] + (lattice[row][column + 1] - lattice[row][column]) * right;
    line(row) + (line(row + 1) - line(row)) * down
}

/// Sine and cosine of a few degrees by their series: five terms are exact to a float's precision below 15°, and the
/// result does not depend on the system's mathematics library.
fn small_angle(degrees: i8) -> (f32, f32) {
    let angle = f32::from(degrees) * (std::f32::consts::PI / 180.0);
    let square = angle * angle;
    let sin = angle * (1.0 - square / 6.0 * (1.0 - square / 20.0));
    let cos = 1.0 - square / 2.0 * (1.0 - square / 12.0 * (1.0 - square / 30.0));
    (sin, cos)
}
