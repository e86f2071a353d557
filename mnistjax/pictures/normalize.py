"""Turns a digit of any size into an image like MNIST's.

As LeCun et al. (1998) did, a digit is scaled to fit 20 x 20 pixels, and its centre of mass is moved to the
middle of 28 x 28.

h, w are the sides of the digit in the picture, in pixels.
"""

from typing import Any

import numpy as np
from scipy import ndimage

SIDE, BOX_SIDE = 28, 20  # pixels
STROKE = 1.8, 4.5  # the thinnest and the thickest of MNIST's strokes, in pixels of the image
STAIRS = 0.2  # strokes have stairs if a smaller share of their pixels is partly ink
LEAST_CHANGE = 0.2  # of a stroke on each side, in pixels of the image
MEASURABLE = 100  # pixels, the longer side of a digit whose strokes' thickness is measured
FULL_INK = 0.9  # a pixel with more ink counts as full
LEAST_INK = 0.1  # a pixel with less ink lies outside of the digit


def normalize(ink: np.ndarray) -> np.ndarray:
    """The image (28, 28) uint8 of a digit's ink (h, w).

    Strokes thinner or thicker than MNIST's become as thick as its thinnest or thickest ones.
    """
    from PIL import Image

    sharp = _crop(np.clip(ink / FULL_INK, 0, 1))
    large = _crop(np.clip(_enlarge(ink) / FULL_INK, 0, 1))
    scale = BOX_SIDE / max(large.shape)
    inside = np.pad(large, 1 + round(STROKE[0] / scale)) >= 0.5
    depth: Any = ndimage.distance_transform_edt(inside)
    thickness = 4 * scale * (float(depth[inside].mean()) - 0.25) if inside.any() else 0.0
    grow = (np.clip(thickness, *STROKE) - thickness) / 2  # pixels of the image on each side
    if abs(grow) >= LEAST_CHANGE:
        outwards = np.asarray(ndimage.distance_transform_edt(~inside)) - depth
        sharp = _crop(np.clip(grow / scale + 0.5 - outwards + 0.5 * np.sign(outwards), 0, 1))
    elif ((sharp > LEAST_INK) & (sharp < 1 - LEAST_INK)).sum() < STAIRS * (sharp > LEAST_INK).sum():
        sharp = large
    scale = BOX_SIDE / max(sharp.shape)
    height, width = (max(1, round(scale * side)) for side in sharp.shape)
    small = Image.fromarray(sharp.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return _center(np.asarray(small))


def _enlarge(ink: np.ndarray) -> np.ndarray:
    """The ink (h, w) of a digit, enlarged if strokes one or two pixels thick could not be changed."""
    from PIL import Image

    factor = -(-MEASURABLE // max(ink.shape))
    size = factor * ink.shape[1], factor * ink.shape[0]
    larger = Image.fromarray(ink.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    return np.clip(np.asarray(larger), 0, 1)


def _crop(ink: np.ndarray) -> np.ndarray:
    """The ink without empty rows and columns around it, or unchanged if all are empty."""
    rows, columns = (np.flatnonzero((ink >= LEAST_INK).any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else ink


def _center(digit: np.ndarray) -> np.ndarray:
    """The image (28, 28) with the digit's centre of mass at row and column 14, or as near as it fits."""
    image = np.zeros((SIDE, SIDE), np.uint8)
    digit = np.round(255 * np.clip(digit / max(float(digit.max()), 1e-6), 0, 1)).astype(np.uint8)
    middle: Any = ndimage.center_of_mass(digit)
    top, left = (
        min(max(0, round(SIDE / 2 - m)), SIDE - side) for m, side in zip(middle, digit.shape, strict=True)
    )
    image[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return image
