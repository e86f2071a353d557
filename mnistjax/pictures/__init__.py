"""Finds the digits in people's pictures and turns them into images like MNIST's.

The stages are `decode` (file -> lightness), `shadow` (removes one), `ink` (lightness -> ink), `lines`
(removes the paper's), `marks` (ink -> digits) and `normalize` (digit -> image of 28 x 28).

H, W are the sides of the picture in pixels.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mnistjax.config import ConfigError
from mnistjax.pictures.decode import read_picture as read_picture
from mnistjax.pictures.ink import SMALLEST, Box, darken, find_blur, find_ink
from mnistjax.pictures.lines import remove_lines
from mnistjax.pictures.marks import SPECK, find_marks, find_surroundings, join_parts
from mnistjax.pictures.normalize import normalize
from mnistjax.pictures.shadow import remove_shadow

EDGE = 2  # pixels around a mark that may be partly ink
MOST_LAYERS = 4  # surroundings that are removed one after the other: a table, the sheet's edge, a frame


class Digit(NamedTuple):
    """A digit in a picture."""

    image: np.ndarray  # (28, 28) uint8, light on dark, as the model sees it
    box: Box  # its place in the picture


def read_digits(path: str | Path) -> list[Digit]:
    """The digits in a PNG, JPEG, BMP or WebP file, line by line; an empty list if there is no ink.

    ConfigError if the file is not such a picture, or has more than 300 marks.
    """
    lightness = read_picture(path)
    try:
        return find_digits(lightness)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def find_digits(lightness: np.ndarray) -> list[Digit]:
    """The digits in a picture's lightness (H, W), from 0 to 1, line by line; an empty list without ink.

    ConfigError if there are more than 300 marks.
    """
    lightness = remove_shadow(lightness)
    inside = np.ones(lightness.shape, bool)
    ink = find_ink(lightness, inside)
    for _ in range(MOST_LAYERS):
        around = find_surroundings(ink) & inside
        if not around.any():
            break
        margin = EDGE + round(3 * find_blur(lightness))
        inside &= ndimage.maximum_filter(around, 2 * margin + 1) == 0
        ink = find_ink(lightness, inside)
    rest = remove_lines(ink)
    ink = darken(ink) if rest is ink else rest  # what is left of lines is faint, too
    labels, marks = find_marks(ink)
    groups = join_parts(labels, marks)
    tallest = max((box.height for _, box in groups), default=0)
    digits = []
    for numbers, box in groups:
        if box.height >= max(SMALLEST, SPECK * tallest):
            wider = box.slices(EDGE)
            own = np.isin(labels[wider], numbers)
            edge = ndimage.binary_dilation(own, np.ones((3, 3)), EDGE) & (labels[wider] == 0)
            digits.append(Digit(normalize(np.where(own | edge, ink[wider], 0)), box))
    return _in_reading_order(digits)


def _in_reading_order(digits: list[Digit]) -> list[Digit]:
    """The digits by line from the top, and within a line from the left."""
    lines: list[list[Digit]] = []
    for digit in sorted(digits, key=lambda digit: digit.box.top + digit.box.bottom):
        middle = (digit.box.top + digit.box.bottom) / 2
        for line in lines:
            if min(d.box.top for d in line) <= middle < max(d.box.bottom for d in line):
                line.append(digit)
                break
        else:
            lines.append([digit])
    return [digit for line in lines for digit in sorted(line, key=lambda digit: digit.box.left)]
