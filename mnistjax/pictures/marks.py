"""The digits in people's pictures, made into images like MNIST's.

Lightness is compared with that of the paper, which may be shaded; what stands out far enough is ink, light or
dark. The table that a sheet lies on, a dark edge, and a frame drawn about digits are neither. A digit is then
treated as LeCun et al. (1998) treated theirs: scaled into 20 x 20 pixels, and its centre of mass put into the
middle of 28 x 28.

H, W sides of the picture. Boxes are (top, left, bottom, right) in its pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from mnistjax.config import ConfigError
from mnistjax.zoo.picture import read_picture

MOST_MARKS = 100  # that one picture may have
SMALLEST = 6  # pixels, height of a digit that can be read
SIDE, BOX_SIDE = 28, 20
STROKE = 1.6, 4.5  # widths of MNIST's strokes, in pixels of the box
FAINTEST = 0.06  # contrast of ink and paper, of 1; less is no ink
NOISE_FACTOR = 7.0  # by which the darkest ink must exceed the paper's noise
INK, NEAR_INK = 0.5, 0.35  # of the darkest ink's contrast: what is ink, and what is if it touches such
FULL_INK = 0.9  # from which on a pixel is as dark as can be
LEAST_INK = 0.1  # at a digit's edge, where pixels are partly ink
SPECK = 0.4  # of the tallest mark's height; lower ones are no digits
EDGE = 2  # pixels about a mark that may be partly ink
GAP = 0.12  # of the tallest mark's height; parts of one digit, one above the other, may be so far apart
MOST_LAYERS = 4  # things about the digits that are taken away: the table, the sheet's edge, a frame
SHEET = 0.3, 0.88, 0.8  # a sheet's least share: of the picture, of a rectangle about it, free of ink
ALONG = 0.9  # of a mark's longer side: with so much of it along the picture's edges it comes from outside
FRAMED = 0.25  # of a frame's height, that of a mark in it

Box = tuple[int, int, int, int]


class Digit(NamedTuple):
    image: np.ndarray  # (28, 28) uint8, light on dark, as the model sees it
    box: Box


def read_digits(path: str | Path) -> list[Digit]:
    """The digits in a picture, a PNG, JPEG or BMP file, line by line; none in one without ink.

    ConfigError for what is no such file, and for one with more than MOST_MARKS marks.
    """
    lightness = read_picture(path)
    try:
        return find_digits(lightness)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def find_digits(lightness: np.ndarray) -> list[Digit]:
    """The digits in a picture's lightness (H, W), from 0 to 1, line by line; none in one without ink.

    ConfigError for more than MOST_MARKS marks.
    """
    inside = np.ones(lightness.shape, bool)
    ink = find_ink(lightness, inside)
    for _ in range(MOST_LAYERS):
        around = _find_surroundings(ink) & inside
        if not around.any():
            break
        inside &= ndimage.maximum_filter(around, 2 * (EDGE + round(3 * _blur(lightness))) + 1) == 0
        ink = find_ink(lightness, inside)
    labels, boxes = _find_marks(ink)
    groups = _join([box for _, box in boxes])
    tallest = max((_height(_hull([boxes[i][1] for i in group])) for group in groups), default=0)
    digits = []
    for group in groups:
        box = _hull([boxes[i][1] for i in group])
        if _height(box) >= max(SMALLEST, SPECK * tallest):
            wider = _slices((box[0] - EDGE, box[1] - EDGE, box[2] + EDGE, box[3] + EDGE))
            own = np.isin(labels[wider], [boxes[i][0] for i in group])
            edge = ndimage.binary_dilation(own, np.ones((3, 3)), EDGE) & (labels[wider] == 0)
            digits.append(Digit(normalize(np.where(own | edge, ink[wider], 0)), box))
    return _in_reading_order(digits)


def find_ink(lightness: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """How much of ink each pixel (H, W) is, from 0, the paper, to 1, the ink that stands out most; 0 if not
    inside."""
    if not inside.any():
        return np.zeros_like(lightness)
    smooth = ndimage.gaussian_filter(lightness, _blur(lightness))
    paper, noise = _fit_paper(smooth, inside)
    difference = np.where(inside, smooth - paper, 0)
    least = max(FAINTEST, NOISE_FACTOR * noise)
    dark, light = _strongest(-difference, least), _strongest(difference, least)
    if max(dark, light) < least:
        return np.zeros_like(lightness)
    return np.clip(difference / (light if light > dark else -dark), 0, 1)


def _strongest(contrast: np.ndarray, least: float) -> float:
    """The largest contrast (H, W) that a mark as high as a digit has; 0 if nothing has the least one."""
    contrast = contrast.copy()
    while (strongest := float(contrast.max())) >= least:
        labels, boxes = _label(contrast >= NEAR_INK * strongest)
        if high := [number for number, box in enumerate(boxes, start=1) if _height(box) >= SMALLEST]:
            return float(np.max(ndimage.maximum(contrast, labels, high)))
        contrast[labels > 0] = 0  # dots of a pen, reflections
    return 0.0


def _label(marked: np.ndarray) -> tuple[np.ndarray, list[Box]]:
    """The numbers (H, W), from 1, of the connected parts of what is marked, and their boxes."""
    labels: Any = ndimage.label(marked, np.ones((3, 3)))
    found = ndimage.find_objects(labels[0])
    return labels[0], [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in found]


def _blur(lightness: np.ndarray) -> float:
    """The sigma, in pixels, of what is lost on purpose: grain."""
    return max(lightness.shape) / 500


def _fit_paper(lightness: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, float]:
    """The paper's lightness (H, W), the quadratic surface near which most of what is inside lies; its noise.

    It starts from the margin's median, for thick digits fill much of a small picture.
    """
    step = max(1, max(lightness.shape) // 100)
    values, known = lightness[::step, ::step], inside[::step, ::step]
    terms = _quadratic(lightness.shape)
    depth = max(1, min(values.shape) // 16)
    margin = known & ~_eroded(known, depth)
    if not margin.any():
        known = margin = np.ones(values.shape, bool)
    weights = np.zeros(6, np.float32)
    weights[0] = np.median(values[margin])
    noise = _spread_of(np.abs(values - weights[0])[margin])
    spread = max(noise, 0.02)
    for _ in range(8):
        distance = np.abs(values - terms[::step, ::step] @ weights)
        near = (distance < 2.5 * spread) & known
        if near.sum() < 20:
            break
        weights = np.linalg.lstsq(terms[::step, ::step][near], values[near], rcond=None)[0]
        noise = _spread_of(distance[near])
        spread = max(noise, 0.01)
    return terms @ weights, noise


def _eroded(shape: np.ndarray, depth: int) -> np.ndarray:
    """A shape (H, W) without its outermost pixels."""
    return np.asarray(ndimage.binary_erosion(shape, np.ones((3, 3)), depth), bool)


def _spread_of(distances: np.ndarray) -> float:
    """The standard deviation that normal errors of such sizes would have; a few large ones hardly count."""
    return 1.4826 * float(np.median(distances))


def _quadratic(sides: tuple[int, ...]) -> np.ndarray:
    """The terms (H, W, 6) of a quadratic in two directions, each from -1 to 1."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in sides), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)


def _find_surroundings(ink: np.ndarray) -> np.ndarray:
    """Which pixels (H, W) are about the digits, not of them: all about the sheet that lies on a table; else
    marks that come in from the picture's edges, or frame another one."""
    labels, found = _find_marks(ink)
    around = np.zeros(ink.shape, bool)
    for number, box in found:
        if _height(box) * _width(box) >= SHEET[0] * ink.size:
            mark = labels[_slices(box)] == number
            filled = np.asarray(ndimage.binary_fill_holes(mark))
            if _is_sheet(mark, filled, ink.size):
                around[:] = True
                around[_slices(box)] = ~filled
                return around
    foreign = [
        number for number, box in found if _enters(labels, number, box) or _frames(labels, number, found)
    ]
    return np.isin(labels, foreign) if len(foreign) < len(found) else around


def _enters(labels: np.ndarray, number: int, box: Box) -> bool:
    """Whether the mark of that number has a corner of the picture and lies along its edges."""
    if number not in labels[[0, 0, -1, -1], [0, -1, 0, -1]]:
        return False
    edges = np.concatenate([labels[0], labels[-1], labels[1:-1, 0], labels[1:-1, -1]])
    return bool((edges == number).sum() >= ALONG * max(_height(box), _width(box)))


def _is_sheet(mark: np.ndarray, filled: np.ndarray, pixels: int) -> bool:
    """Whether a mark (h, w), given without and with its holes, is paper with digits: a large rectangle."""
    tallest = max(map(_height, _label(filled & ~mark)[1]), default=0)
    if tallest < max(SMALLEST, 0.05 * len(mark)) or mark.sum() < SHEET[2] * filled.sum():
        return False
    outline = filled & ~_eroded(filled, 1)
    points, angles = np.argwhere(outline), np.deg2rad(np.arange(0, 90, 3))
    cos, sin = np.cos(angles), np.sin(angles)
    along, across = points @ np.stack([cos, sin]), points @ np.stack([-sin, cos])
    rectangle = ((np.ptp(along, axis=0) + 1) * (np.ptp(across, axis=0) + 1)).min()
    return bool(filled.sum() >= max(SHEET[0] * pixels, SHEET[1] * rectangle))


def _frames(labels: np.ndarray, number: int, found: list[tuple[int, Box]]) -> bool:
    """Whether the mark of that number closes itself about another one that is no speck to it."""
    box = dict(found)[number]
    least, most = FRAMED * _height(box), _height(box) - 1
    inner = [other for other, b in found if _hull([b, box]) == box and least <= _height(b) <= most]
    if not inner:
        return False
    part = labels[_slices(box)]
    filled = np.asarray(ndimage.binary_fill_holes(part == number))
    return bool(filled[np.isin(part, inner)].any())


def _find_marks(ink: np.ndarray) -> tuple[np.ndarray, list[tuple[int, Box]]]:
    """Numbers (H, W) of the connected marks, and of each its number and box; ConfigError if they are too
    many."""
    labels, boxes = _label(ink >= NEAR_INK)
    numbers = np.arange(1, len(boxes) + 1)
    dark = ndimage.maximum(ink, labels, numbers) >= INK if boxes else []
    found = [(int(number), box) for number, box, enough in zip(numbers, boxes, dark, strict=True) if enough]
    tallest = max((_height(box) for _, box in found), default=0)
    if tallest < SMALLEST:
        return labels, []
    found = [(number, box) for number, box in found if max(_height(box), _width(box)) >= 0.1 * tallest]
    if len(found) > MOST_MARKS:
        raise ConfigError(f"{len(found):,} marks, at most {MOST_MARKS} are looked at: no picture of digits")
    return labels, found


def _join(boxes: list[Box]) -> list[list[int]]:
    """Which boxes are parts of one digit: those one above the other with hardly a gap between."""
    tallest = max(map(_height, boxes), default=0)

    def hull(group: list[int]) -> Box:
        return _hull([boxes[index] for index in group])

    groups: list[list[int]] = []
    for index in range(len(boxes)):
        group = [index]
        while found := [other for other in groups if _belong(hull(group), hull(other), tallest)]:
            groups = [other for other in groups if other not in found]
            group = sorted(sum(found, group))
        groups.append(group)
    return groups


def _belong(one: Box, other: Box, tallest: int) -> bool:
    overlap = min(one[3], other[3]) - max(one[1], other[1])
    gap = max(one[0], other[0]) - min(one[2], other[2])
    lower = min(_height(one), _height(other))
    low = lower < SPECK * tallest
    near = gap <= GAP * tallest if low else gap <= 0.04 * tallest
    beside = not low and -gap > lower / 2  # a slanted digit and its neighbour's bar overlap, too
    return near and overlap >= (0.8 if beside else 0.4) * min(_width(one), _width(other))


def _in_reading_order(digits: list[Digit]) -> list[Digit]:
    """Lines from the top, each from the left."""
    lines: list[list[Digit]] = []
    for digit in sorted(digits, key=lambda digit: digit.box[0] + digit.box[2]):
        middle = (digit.box[0] + digit.box[2]) / 2
        for line in lines:
            if min(d.box[0] for d in line) <= middle < max(d.box[2] for d in line):
                line.append(digit)
                break
        else:
            lines.append([digit])
    return [digit for line in lines for digit in sorted(line, key=lambda digit: digit.box[1])]


def normalize(ink: np.ndarray) -> np.ndarray:
    """The digit as MNIST would have it, (28, 28) uint8, of its ink (h, w).

    Strokes that are thinner or thicker than MNIST's become as thick as its thinnest or its thickest.
    """
    from PIL import Image

    sharp = _crop(np.clip(ink / FULL_INK, 0, 1))
    scale = BOX_SIDE / max(sharp.shape)
    inside = np.pad(sharp, 1 + round(STROKE[0] / scale)) >= 0.5
    depth: Any = ndimage.distance_transform_edt(inside)
    thickness = 4 * scale * (float(depth[inside].mean()) - 0.25) if inside.any() else 0.0
    grow = (np.clip(thickness, *STROKE) - thickness) / 2 / scale  # pixels of the picture, either way
    if abs(grow) >= 0.5:
        outwards = np.asarray(ndimage.distance_transform_edt(~inside)) - depth
        sharp = _crop(np.clip(grow + 0.5 - outwards + 0.5 * np.sign(outwards), 0, 1))
        scale = BOX_SIDE / max(sharp.shape)
    height, width = (max(1, round(scale * side)) for side in sharp.shape)
    small = Image.fromarray(sharp.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return _center(np.asarray(small))


def _crop(ink: np.ndarray) -> np.ndarray:
    """Without the rows and columns about it that have no ink; all of it if none has."""
    rows, columns = (np.flatnonzero((ink >= LEAST_INK).any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else ink


def _center(digit: np.ndarray) -> np.ndarray:
    """The digit with its centre of mass at row and column 14, as MNIST's are, if it then lies inside."""
    image = np.zeros((SIDE, SIDE), np.uint8)
    digit = np.round(255 * np.clip(digit / max(float(digit.max()), 1e-6), 0, 1)).astype(np.uint8)
    middle: Any = ndimage.center_of_mass(digit)
    starts = [
        min(max(0, round(SIDE / 2 - m)), SIDE - side) for m, side in zip(middle, digit.shape, strict=True)
    ]
    image[starts[0] : starts[0] + digit.shape[0], starts[1] : starts[1] + digit.shape[1]] = digit
    return image


def _hull(boxes: list[Box]) -> Box:
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    return min(tops), min(lefts), max(bottoms), max(rights)


def _slices(box: Box) -> tuple[slice, slice]:
    return slice(max(0, box[0]), box[2]), slice(max(0, box[1]), box[3])


def _height(box: Box) -> int:
    return box[2] - box[0]


def _width(box: Box) -> int:
    return box[3] - box[1]
