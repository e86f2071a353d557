"""Separates ink from paper: what differs enough in lightness from the paper, which may be shaded, is ink.

H, W are the sides of the picture in pixels.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

SMALLEST = 6  # pixels, the height of the smallest readable digit
FAINTEST = 0.06  # the contrast of the faintest ink, from 0 to 1
NOISE_FACTOR = 7.0  # the ratio of the faintest ink's contrast to the paper's noise
FAINT = 0.2  # the least ink of a stroke that is fainter than the rest of its digit
DARK = 0.5  # strokes with more ink count as dark
NEAR_INK = 0.35  # the least contrast of a mark's pixel, as a share of the strongest contrast


class Box(NamedTuple):
    """A rectangle of a picture, in pixels; bottom and right are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def slices(self, margin: int = 0) -> tuple[slice, slice]:
        """The index of its pixels in an array (H, W), and of a margin around them."""
        rows = slice(max(0, self.top - margin), self.bottom + margin)
        return rows, slice(max(0, self.left - margin), self.right + margin)


def find_ink(lightness: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The amount of ink in each pixel (H, W), from 0 (paper) to 1 (the strongest ink); 0 outside of `inside`.

    Dark ink on light paper and light ink on dark paper are treated alike: the stronger one counts.
    """
    if not inside.any():
        return np.zeros_like(lightness)
    smooth = ndimage.gaussian_filter(lightness, find_blur(lightness))
    paper, noise = fit_paper(smooth, inside)
    difference = np.where(inside, smooth - paper, 0)
    least = max(FAINTEST, NOISE_FACTOR * noise)
    dark, light = _strongest(-difference, least), _strongest(difference, least)
    if max(dark, light) < least:
        return np.zeros_like(lightness)
    return np.clip(difference / (light if light > dark else -dark), 0, 1)


def darken(ink: np.ndarray) -> np.ndarray:
    """The ink (H, W) with strokes that are fainter than the rest of their digit made as dark.

    What is near a dark stroke stays as it is: it is the stroke's blurred edge.
    """
    labels, boxes = label_marks(ink >= FAINT)
    dark = ink >= DARK
    inked = ink >= NEAR_INK
    outline = inked & ~erode(inked, 1)
    reach = max(2, round(inked.sum() / max(1, outline.sum())))  # half a stroke's thickness
    strongest = ndimage.maximum_filter(ink, 2 * reach + 1)
    belongs = find_most(ink, labels, len(boxes)) >= DARK
    belongs[0] = False
    lonely = belongs[labels] & (strongest < DARK)  # far from dark strokes
    faint = np.asarray(ndimage.maximum_filter(lonely, 2 * reach + 1), bool) & belongs[labels] & ~dark
    return np.where(faint, np.clip(ink / np.clip(strongest, FAINT, DARK), 0, 1), ink)


def _strongest(contrast: np.ndarray, least: float) -> float:
    """The strongest contrast (H, W) among marks as tall as a digit; 0 if none of them reaches `least`."""
    contrast = contrast.copy()
    while (strongest := float(contrast.max())) >= least:
        labels, boxes = label_marks(contrast >= NEAR_INK * strongest)
        if tall := [number for number, box in enumerate(boxes, start=1) if box.height >= SMALLEST]:
            return float(find_most(contrast, labels, len(boxes))[tall].max())
        contrast[labels > 0] = 0  # too low for digits: dots of a pen, reflections
    return 0.0


def label_marks(marked: np.ndarray) -> tuple[np.ndarray, list[Box]]:
    """The number (H, W), from 1, of the connected mark that each pixel belongs to, and the marks' boxes."""
    labels: Any = ndimage.label(marked, np.ones((3, 3)))
    found = ndimage.find_objects(labels[0])
    return labels[0], [Box(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in found]


def edge_of(values: np.ndarray) -> np.ndarray:
    """The values (2 H + 2 W - 4,) along the picture's edges."""
    return np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])


def find_most(values: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The largest value (count + 1,) in each mark by its number; entry 0 is 0."""
    most = np.zeros(count + 1, values.dtype)
    marked = labels > 0
    np.maximum.at(most, labels[marked], values[marked])
    return most


def find_blur(lightness: np.ndarray) -> float:
    """The standard deviation, in pixels, of the blur that removes grain from a picture."""
    return max(lightness.shape) / 500


def erode(shape: np.ndarray, depth: int) -> np.ndarray:
    """A shape (H, W) without its outermost `depth` pixels."""
    return np.asarray(ndimage.binary_erosion(shape, np.ones((3, 3)), depth), bool)


def fit_paper(lightness: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, float]:
    """The paper's lightness (H, W), a quadratic surface close to most pixels inside, and the paper's noise.

    The fit starts from the median of the margin, because thick digits fill much of a small picture.
    """
    step = max(1, max(lightness.shape) // 100)
    values, known = lightness[::step, ::step], inside[::step, ::step]
    terms = _quadratic(lightness.shape)
    depth = max(1, min(values.shape) // 16)
    margin = known & ~erode(known, depth)
    if not margin.any():
        known = margin = np.ones(values.shape, bool)
    weights = np.zeros(6, np.float32)
    weights[0] = np.median(values[margin])
    noise = _robust_deviation(np.abs(values - weights[0])[margin])
    spread = max(noise, 0.02)
    for _ in range(8):
        distance = np.abs(values - terms[::step, ::step] @ weights)
        near = (distance < 2.5 * spread) & known
        if near.sum() < 20:
            break
        weights = _least_squares(terms[::step, ::step][near], values[near])
        noise = _robust_deviation(distance[near])
        spread = max(noise, 0.01)
    return terms @ weights, noise


def _least_squares(terms: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The weights (6,) of terms (N, 6) that come closest to the values (N,)."""
    square = terms.T.astype(np.float64) @ terms
    return np.linalg.lstsq(square, terms.T @ values, rcond=None)[0].astype(np.float32)


def _robust_deviation(distances: np.ndarray) -> float:
    """The standard deviation of normal errors with this median size; a few large errors hardly count."""
    return 1.4826 * float(np.median(distances))


def _quadratic(sides: tuple[int, ...]) -> np.ndarray:
    """The six terms (H, W, 6) of a quadratic function of the two coordinates, each from -1 to 1."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in sides), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)
