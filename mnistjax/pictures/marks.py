"""Finds the marks of ink, joins the parts of a digit, and recognises what surrounds the digits.

Surroundings are the table under the sheet, a dark edge of a scan, and a frame drawn around the digits.

H, W are the sides of the picture in pixels.
"""

import itertools
import math

import numpy as np
from scipy import ndimage

from mnistjax.config import ConfigError
from mnistjax.pictures.ink import NEAR_INK, SMALLEST, Box, edge_of, erode, find_most, label_marks

MOST_MARKS = 300  # per picture
BREAK = 0.04  # the widest gap in a stroke, as a share of the digit's longer side
BREAK_PIXELS, LARGEST_BREAK = 3.5, 0.16  # a gap of so many pixels counts, too, up to this share
FULL = 0.7  # a mark higher than this share of the tallest one can be a digit beside another
INK = 0.5  # the least ink of a mark's darkest pixel
SPECK = 0.4  # a mark lower than this share of the tallest one is not a digit
GAP = 0.12  # the largest gap between a digit and a low part of it, as a share of the tallest mark's height
SHEET_OF_PICTURE = 0.3  # the least share of the picture that a sheet fills
SHEET_OF_RECTANGLE = 0.88  # the least share of the smallest rectangle around a sheet that it fills
SHEET_WITHOUT_INK = 0.8  # the least share of a sheet that has no ink
ALONG = 0.9  # a mark enters from outside if this share of its longer side lies on the picture's edges
FRAMED = 0.25  # the least height of a mark in a frame, as a share of the frame's height

Mark = tuple[int, Box]  # the number in `labels`, and the place


def find_marks(ink: np.ndarray) -> tuple[np.ndarray, list[Mark]]:
    """The numbers (H, W) of the connected marks, and the marks that can be parts of digits.

    ConfigError if there are more than MOST_MARKS.
    """
    labels, boxes = label_marks(ink >= NEAR_INK)
    most = find_most(ink, labels, len(boxes))
    marks = [(number, box) for number, box in enumerate(boxes, start=1) if most[number] >= INK]
    tallest = max((box.height for _, box in marks), default=0)
    if tallest < SMALLEST:
        return labels, []
    marks = [(number, box) for number, box in marks if max(box.height, box.width) >= 0.1 * tallest]
    if len(marks) > MOST_MARKS:
        raise ConfigError(f"found {len(marks):,} marks, which can't all be digits; the limit is {MOST_MARKS}")
    return labels, marks


def find_surroundings(ink: np.ndarray) -> np.ndarray:
    """The pixels (H, W) that surround the digits.

    These are all pixels around a sheet if there is one, else the marks that enter from the picture's edges or
    frame another mark.
    """
    labels, marks = find_marks(ink)
    around = np.zeros(ink.shape, bool)
    for number, box in marks:
        if box.height * box.width >= SHEET_OF_PICTURE * ink.size:
            mark = labels[box.slices()] == number
            filled = np.asarray(ndimage.binary_fill_holes(mark))
            if _is_sheet(mark, filled, ink.size):
                around[:] = True
                around[box.slices()] = ~filled
                return around
    foreign = [
        number for number, box in marks if _enters(labels, number, box) or _frames(labels, number, box, marks)
    ]
    return np.isin(labels, foreign) if len(foreign) < len(marks) else around


def _is_sheet(mark: np.ndarray, filled: np.ndarray, pixels: int) -> bool:
    """Whether a mark (h, w), without and with its holes filled, is a large rectangle with digits on it."""
    tallest = max((box.height for box in label_marks(filled & ~mark)[1]), default=0)
    if tallest < max(SMALLEST, 0.05 * len(mark)) or mark.sum() < SHEET_WITHOUT_INK * filled.sum():
        return False
    outline = filled & ~erode(filled, 1)
    points, angles = np.argwhere(outline), np.deg2rad(np.arange(0, 90, 3))
    cos, sin = np.cos(angles), np.sin(angles)
    along, across = points @ np.stack([cos, sin]), points @ np.stack([-sin, cos])
    rectangle = ((np.ptp(along, axis=0) + 1) * (np.ptp(across, axis=0) + 1)).min()
    return bool(filled.sum() >= max(SHEET_OF_PICTURE * pixels, SHEET_OF_RECTANGLE * rectangle))


def _enters(labels: np.ndarray, number: int, box: Box) -> bool:
    """Whether a mark covers a corner of the picture and lies along the picture's edges."""
    if number not in labels[[0, 0, -1, -1], [0, -1, 0, -1]]:
        return False
    return bool((edge_of(labels) == number).sum() >= ALONG * max(box.height, box.width))


def _frames(labels: np.ndarray, number: int, box: Box, marks: list[Mark]) -> bool:
    """Whether a mark is closed around another one that is not a mere speck."""
    inner = [
        other
        for other, b in marks
        if enclose([b, box]) == box and FRAMED * box.height <= b.height < box.height
    ]
    if not inner:
        return False
    part = labels[box.slices()]
    filled = np.asarray(ndimage.binary_fill_holes(part == number))
    return bool(filled[np.isin(part, inner)].any())


def join_parts(labels: np.ndarray, marks: list[Mark]) -> list[tuple[list[int], Box]]:
    """The numbers of the marks and the place of each digit.

    The parts of a digit lie one above the other, or hardly a gap separates them.
    """
    tallest = max((box.height for _, box in marks), default=0)
    broken = {
        (one[0], other[0])
        for one, other in itertools.permutations(marks, 2)
        if _is_broken(labels, one, other, tallest)
    }
    groups: list[tuple[list[int], Box]] = []
    for number, box in marks:
        numbers = [number]
        while found := [
            group
            for group in groups
            if _belong(box, group[1], tallest) or not broken.isdisjoint(itertools.product(numbers, group[0]))
        ]:
            groups = [group for group in groups if group not in found]
            numbers = sum((group[0] for group in found), numbers)
            box = enclose([box, *(group[1] for group in found)])
        groups.append((numbers, box))
    return groups


def _is_broken(labels: np.ndarray, one: Mark, other: Mark, tallest: int) -> bool:
    """Whether a narrow gap separates two marks that are not two digits side by side."""
    (number, box), (other_number, other_box) = one, other
    whole = enclose([box, other_box])
    side = max(whole.height, whole.width)
    gap = max(BREAK * side, min(BREAK_PIXELS, LARGEST_BREAK * side))
    reach = math.ceil(gap) + 1
    top, left = max(box.top, other_box.top) - reach, max(box.left, other_box.left) - reach
    bottom, right = min(box.bottom, other_box.bottom) + reach, min(box.right, other_box.right) + reach
    if top >= bottom or left >= right:
        return False
    lower, narrower = min(box.height, other_box.height), min(box.width, other_box.width)
    across = min(box.right, other_box.right) - max(box.left, other_box.left)
    down = min(box.bottom, other_box.bottom) - max(box.top, other_box.top)
    if across < 0.3 * narrower and down > 0.5 * lower > 0.5 * FULL * tallest:
        return False
    window = labels[max(0, top) : bottom, max(0, left) : right]
    if not (window == number).any():
        return False
    distance = np.asarray(ndimage.distance_transform_edt(window != number))[window == other_number]
    return bool(distance.size and distance.min() - 1 <= gap)


def _belong(one: Box, other: Box, tallest: int) -> bool:
    """Whether two marks are parts of one digit, in a picture whose tallest mark has this height."""
    overlap = min(one.right, other.right) - max(one.left, other.left)
    gap = max(one.top, other.top) - min(one.bottom, other.bottom)
    lower = min(one.height, other.height)
    low = lower < SPECK * tallest
    near = gap <= (GAP if low else 0.04) * tallest
    beside = not low and -gap > lower / 2  # a slanted digit and its neighbour's bar overlap, too
    return near and overlap >= (0.8 if beside else 0.4) * min(one.width, other.width)


def enclose(boxes: list[Box]) -> Box:
    """The smallest box around all of these."""
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    return Box(min(tops), min(lefts), max(bottoms), max(rights))
