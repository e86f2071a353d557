"""Pictures of digits, drawn stroke by stroke in many ways: what a person would photograph or paint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

# Strokes through points (x, y), y downwards, in a box about 0.62 wide and 1 high; smooth unless "straight".
STROKES = {
    0: [[(0.32, 0), (0.08, 0.2), (0.03, 0.55), (0.14, 0.9), (0.34, 1), (0.55, 0.82), (0.61, 0.45), (0.52, 0.12), (0.32, 0)]],
    1: [["straight", (0.18, 0.2), (0.36, 0.0), (0.34, 1)]],
    2: [[(0.06, 0.22), (0.16, 0.04), (0.38, 0), (0.55, 0.16), (0.5, 0.42), (0.28, 0.72), (0.03, 0.98)], [(0.03, 0.98), (0.3, 0.95), (0.64, 0.97)]],
    3: [[(0.07, 0.1), (0.28, 0), (0.5, 0.08), (0.52, 0.28), (0.38, 0.44), (0.22, 0.47)], [(0.22, 0.47), (0.48, 0.52), (0.6, 0.72), (0.48, 0.94), (0.24, 1), (0.03, 0.88)]],
    4: [["straight", (0.42, 0), (0.04, 0.62), (0.66, 0.62)], ["straight", (0.45, 0.32), (0.42, 1)]],
    5: [["straight", (0.58, 0.02), (0.16, 0.03), (0.12, 0.44)], [(0.12, 0.44), (0.34, 0.36), (0.54, 0.48), (0.58, 0.72), (0.42, 0.96), (0.2, 1), (0.03, 0.9)]],
    6: [[(0.5, 0), (0.24, 0.16), (0.07, 0.5), (0.08, 0.82), (0.3, 1), (0.54, 0.86), (0.54, 0.62), (0.36, 0.5), (0.16, 0.6), (0.08, 0.78)]],
    7: [["straight", (0.04, 0.05), (0.6, 0.03), (0.26, 1)]],
    8: [[(0.5, 0.12), (0.3, 0), (0.1, 0.14), (0.16, 0.36), (0.42, 0.52), (0.58, 0.76), (0.44, 0.97), (0.2, 0.98), (0.06, 0.8), (0.2, 0.56), (0.46, 0.36), (0.52, 0.14)]],
    9: [[(0.54, 0.22), (0.42, 0.03), (0.2, 0.04), (0.08, 0.24), (0.18, 0.46), (0.4, 0.44), (0.54, 0.22)], [(0.55, 0.18), (0.54, 0.5), (0.48, 1)]],
}  # fmt: skip
OTHERS = {  # other habits
    1: [["straight", (0.3, 0), (0.28, 1)]],
    4: [["straight", (0.12, 0), (0.08, 0.52), (0.62, 0.5)], ["straight", (0.5, 0.05), (0.46, 1)]],
    7: [["straight", (0.04, 0.04), (0.6, 0.04), (0.26, 1)], ["straight", (0.16, 0.5), (0.54, 0.46)]],
    2: [[(0.06, 0.2), (0.3, 0), (0.54, 0.14), (0.46, 0.5), (0.2, 0.92), (0.06, 0.9), (0.14, 0.8), (0.36, 0.94), (0.64, 0.92)]],
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """How digits are drawn."""

    name: str
    height: int = 140  # of a digit, pixels
    width: float = 0.11  # of a stroke, of the digit's height
    slant: float = 0.0  # x over y
    turn: float = 0.0  # degrees
    wobble: float = 0.015  # of the height
    paper: float = 0.95  # lightness
    ink: float = 0.1
    noise: float = 0.0
    shade: float = 0.0  # lightness that the paper loses from one corner to the other
    margin: float = 0.5  # of the height, on all sides
    aside: tuple[float, float] = (0.0, 0.0)  # more margin on the left and on top, of the height
    blur: float = 0.0  # pixels
    habit: int = 0


PLAIN = Way("plain")
WAYS = [
    PLAIN,
    Way("thick", width=0.2),
    Way("thin", width=0.035),
    Way("slanted", slant=0.35, habit=1),
    Way("slanted back", slant=-0.2, width=0.09),
    Way("turned", turn=12),
    Way("inverted", paper=0.05, ink=0.95),
    Way("off-centre", aside=(4.0, 2.5), height=60),
    Way("large", height=900, margin=0.15),
    Way("small", height=22, margin=0.3),
    Way("tight", margin=0.02),
    Way("on noisy paper", noise=0.08, ink=0.2),
    Way("on shaded paper", shade=0.5, ink=0.1, habit=1),
    Way("shaky", wobble=0.035),
    Way("pencil", width=0.05, ink=0.6, paper=0.85, noise=0.03),
    Way(
        "photographed", shade=0.35, noise=0.04, blur=2.0, paper=0.8, ink=0.25, height=300, width=0.08, turn=-6
    ),
    Way("chalk", paper=0.2, ink=0.8, noise=0.05, shade=-0.15, habit=1),
]


def draw(digits: str, way: Way = PLAIN, seed: int = 0) -> np.ndarray:
    """A picture (H, W) uint8 of digits beside each other, of several lines where there are line ends."""
    random = np.random.default_rng(seed)
    lines = digits.split("\n")
    height, margin = way.height, way.margin * way.height
    step = 1.15 + abs(way.slant) + 2 * way.width
    left, top = (margin + more * height for more in way.aside)
    wide = int(left + margin + height * (step * (max(map(len, lines)) - 1) + 0.7 + abs(way.slant)))
    high = int(top + margin + height * (1.6 * (len(lines) - 1) + 1))
    canvas = Image.new("L", (2 * wide, 2 * high))  # ink, at twice the size
    pen = ImageDraw.Draw(canvas)
    left += max(0.0, way.slant) * 0.5 * height
    for row, line in enumerate(lines):
        for column, digit in enumerate(line):
            corner = np.array([left + step * height * column, top + 1.6 * height * row])
            _draw_one(pen, int(digit), way, corner, random)
    ink = np.asarray(canvas.resize((wide, high), Image.Resampling.BOX), float) / 255
    if way.blur:
        from scipy.ndimage import gaussian_filter

        ink = gaussian_filter(ink, way.blur)
    slope = np.linspace(0, 1, high)[:, None] + np.linspace(0, 1, wide)[None]
    paper = way.paper - way.shade * (slope / 2) ** 1.5
    lightness = paper + ink * (way.ink - way.paper) * np.clip(paper / way.paper, 0.3, 1.7)
    lightness += way.noise * random.standard_normal(lightness.shape)
    return np.round(255 * np.clip(lightness, 0, 1)).astype(np.uint8)


def _draw_one(pen, digit: int, way: Way, corner: np.ndarray, random: np.random.Generator) -> None:
    strokes = OTHERS.get(digit, STROKES[digit]) if way.habit else STROKES[digit]
    radius = way.width * way.height  # at twice the size
    turn = np.deg2rad(way.turn)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    bend = way.wobble * random.standard_normal((2, 3))
    for stroke in strokes:
        straight = stroke[0] == "straight"
        points = np.array(stroke[1:] if straight else stroke, float)
        path = _along(points) if straight else _smooth(points)
        phase = 2 * np.pi * (path[:, 1:] * [1, 1.7, 2.6] + [0, 0.3, 0.7])
        path = path + np.sin(phase) @ bend.T
        path[:, 0] += way.slant * (0.5 - path[:, 1])
        path = (path - 0.5) @ matrix.T + 0.5
        for x, y in 2 * (corner + way.height * path):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)


def _along(points: np.ndarray) -> np.ndarray:
    ends = zip(points, points[1:], strict=False)
    return np.concatenate([one + np.linspace(0, 1, 150)[:, None] * (two - one) for one, two in ends])


def _smooth(points: np.ndarray) -> np.ndarray:
    """A Catmull-Rom spline through the points."""
    padded = np.concatenate([[2 * points[0] - points[1]], points, [2 * points[-1] - points[-2]]])
    t = np.linspace(0, 1, 60)[:, None]
    pieces = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        pieces.append(
            0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        )
    return np.concatenate(pieces)


def with_size(way: Way, height: int) -> Way:
    return dataclasses.replace(way, height=height)
