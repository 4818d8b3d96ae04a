//! Which part of a JPEG is decoded for a view, and at which size.

use super::{Region, Shrink};

/// What is decoded, and where the view lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The image is decoded at one over this of its size: 1, 2 or 4.
    pub(super) denominator: u32,
    /// What is decoded of the (smaller) image.
    pub(super) window: Region,
    /// The view, counted from the window's first pixel.
    pub(super) view: Region,
    size: (u32, u32),
}

/// Columns beside the view that are decoded too: at the edge of what it decodes, libjpeg smooths chroma with one
/// neighbour missing, which changes at most the two columns of one chroma sample.
const MARGIN: u32 = 2;

impl Part {
    /// The least that holds `view` of an image of this width and height with the pixels of a full decode.
    ///
    /// `mcu_width`: columns of a minimum coded unit, the steps in which libjpeg places a part's left edge.
    pub(super) fn of(view: Region, (width, height): (u32, u32), shrink: Shrink, mcu_width: u32) -> Self {
        let fits = |denominator: &u32| match shrink {
            Shrink::Never => false,
            Shrink::To { height, width } => {
                let smaller = divided(view, *denominator);
                smaller.height >= height && smaller.width >= width
            }
        };
        let denominator = [4, 2].into_iter().find(fits).unwrap_or(1);
        let size = (width.div_ceil(denominator), height.div_ceil(denominator));
        let view = if denominator == 1 { view } else { divided(view, denominator) };
        let step = mcu_width.div_ceil(denominator);
        let left = view.left.saturating_sub(MARGIN) / step * step;
        let right = (view.left + view.width).saturating_add(MARGIN).next_multiple_of(step).min(size.0);
        let window = Region { top: view.top, left, height: view.height, width: right - left };
        Self { denominator, window, view: Region { top: 0, left: view.left - left, ..view }, size }
    }

    /// The same view, when the whole image is decoded.
    pub(super) fn of_whole(self) -> Self {
        let (top, left) = (self.window.top + self.view.top, self.window.left + self.view.left);
        let view = Region { top, left, ..self.view };
        let (width, height) = self.size;
        Self { window: Region { top: 0, left: 0, height, width }, view, ..self }
    }

    /// Whether the window is the whole image.
    pub(super) fn is_whole(&self) -> bool {
        (self.window.width, self.window.height) == self.size
    }

    /// Whether the image has rows below the window.
    pub(super) fn leaves_rows_below(&self) -> bool {
        self.window.top + self.window.height < self.size.1
    }
}

/// A region of the image shrunk by `denominator`; its edges are rounded to whole pixels.
fn divided(region: Region, denominator: u32) -> Region {
    let edge = |at: u32| (at + denominator / 2) / denominator;
    let (top, left) = (edge(region.top), edge(region.left));
    Region { top, left, height: edge(region.top + region.height) - top, width: edge(region.left + region.width) - left }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_starts_at_a_coded_unit_and_holds_the_view_with_its_margin() {
        let view = Region { top: 7, left: 33, height: 50, width: 64 };
        let part = Part::of(view, (200, 100), Shrink::Never, 16);
        assert_eq!(part.window, Region { top: 7, left: 16, height: 50, width: 96 });
        assert_eq!(part.view, Region { top: 0, left: 17, height: 50, width: 64 });
        assert!(part.leaves_rows_below() && !part.is_whole());
        assert_eq!(part.of_whole().view, view);
        assert!(part.of_whole().is_whole() && !part.of_whole().leaves_rows_below());
        assert_eq!(part.of_whole().of_whole(), part.of_whole());
    }

    #[test]
    fn an_image_shrinks_only_while_the_view_keeps_enough_pixels() {
        let denominator = |side: u32| {
            let view = Region { top: 0, left: 0, height: side, width: side + 100 };
            Part::of(view, (4001, 3001), Shrink::To { height: 224, width: 224 }, 16).denominator
        };
        assert_eq!([440, 446, 448, 893, 896, 2000].map(denominator), [1, 1, 2, 2, 4, 4]);
    }
}
