//! Outlines and patterns of objects as functions of a point, in units of the object's radius.
//!
//! A distance to an outline gives the covered part of a pixel directly, so edges are anti-aliased without an
//! intermediate path or mask. Only operations whose result IEEE 754 fixes are used (`+ - * / sqrt floor`), so that a
//! scene has the same pixels on every machine.

use super::vocabulary::{Shape, Texture};

/// The signed distance of a point to the outline of a shape: negative inside. Exact along edges, a lower bound beyond
/// corners, which is all that coverage needs.
pub(super) fn outline_distance(shape: Shape, x: f32, y: f32) -> f32 {
    match shape {
        Shape::Circle => length(x, y) - 1.0,
        Shape::Ring => (length(x, y) - 0.77).abs() - 0.25,
        Shape::Square => x.abs().max(y.abs()) - 0.84,
        Shape::Cross => {
            let (long, short) = (x.abs().max(y.abs()), x.abs().min(y.abs()));
            (long - 1.0).max(short - 0.34)
        }
        // Sides of an equilateral triangle, top corner up; its centroid is lowered so that it looks centred.
        Shape::Triangle => {
            let y = y - 0.2;
            (y - 0.55).max(0.866_025_4 * x.abs() - 0.5 * y - 0.55)
        }
        Shape::Star => star_distance(x, y - 0.05),
    }
}

/// A five-pointed star of outer radius 1.12: folded into one tenth of the circle, where it is one straight edge
/// (after Inigo Quilez, "2D distance functions").
fn star_distance(x: f32, y: f32) -> f32 {
    // cos and sin of 36° and 72°; the first tip points up.
    const FOLDS: [(f32, f32); 2] = [(0.809_017, -0.587_785_25), (-0.809_017, -0.587_785_25)];
    const TIP: f32 = 1.12;
    // Inner corners at 0.47 of the tip, 36° beside it.
    const INNER: (f32, f32) = (0.47 * TIP * 0.587_785_25, 0.47 * TIP * 0.809_017);
    let (mut x, mut y) = (x.abs(), -y);
    for (a, b) in FOLDS {
        let beyond = (a * x + b * y).max(0.0);
        x -= 2.0 * beyond * a;
        y -= 2.0 * beyond * b;
    }
    x = x.abs();
    // Signed distance to the line from the tip (0, TIP) to the inner corner.
    let (ex, ey) = (INNER.0, INNER.1 - TIP);
    ((y - TIP) * ex - x * ey) / length(ex, ey)
}

fn length(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}

/// How far a point is inside the dark part of a pattern, in radii: positive in the dark part. `None` for plain objects.
pub(super) fn pattern_depth(texture: Texture, x: f32, y: f32) -> Option<f32> {
    /// Width of a stripe.
    const STRIPE: f32 = 0.30;
    /// Side of a field of the checks.
    const FIELD: f32 = 0.44;
    /// Distance of neighbouring dots, and their radius.
    const DOTS: (f32, f32) = (0.62, 0.20);
    match texture {
        Texture::Plain => None,
        // Diagonal, so that they differ from the edges of squares and crosses.
        Texture::Striped => Some(wave((x + y) * std::f32::consts::FRAC_1_SQRT_2, STRIPE)),
        Texture::Checked => {
            let (a, b) = (wave(x + FIELD / 2.0, FIELD), wave(y + FIELD / 2.0, FIELD));
            Some(if (a > 0.0) == (b > 0.0) { a.abs().min(b.abs()) } else { -a.abs().min(b.abs()) })
        }
        Texture::Dotted => {
            let (dx, dy) = (x - DOTS.0 * (x / DOTS.0).round(), y - DOTS.0 * (y / DOTS.0).round());
            Some(DOTS.1 - length(dx, dy))
        }
    }
}

/// A triangle wave of slope ±1 that changes sign every `width`.
pub(super) fn wave(position: f32, width: f32) -> f32 {
    let phase = position / (2.0 * width);
    let within = phase - phase.floor();
    (0.5 - (within - 0.5).abs() - 0.25) * 2.0 * width
}
