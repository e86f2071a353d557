"""Pictures of digits, drawn stroke by stroke in many ways, like those that people photograph or paint.

python tests/pictures.py MODEL FOLDER [SEED]    # draws all of them on one page, with the model's answers

The seed determines wobbles and noise.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from mnistjax.cli.predict import main

# Strokes through points x,y (y downwards) in a box about 62 wide and 100 high; smooth unless "straight".
STROKES = {
    0: ("32,0 8,20 3,55 14,90 34,100 55,82 61,45 52,12 32,0",),
    1: ("straight 18,20 36,0 34,100",),
    2: (
        "6,22 16,4 38,0 55,16 50,42 28,72 3,98",
        "3,98 30,95 64,97",
    ),
    3: (
        "7,10 28,0 50,8 52,28 38,44 22,47",
        "22,47 48,52 60,72 48,94 24,100 3,88",
    ),
    4: (
        "straight 42,0 4,62 66,62",
        "straight 45,32 42,100",
    ),
    5: (
        "straight 58,2 16,3 12,44",
        "12,44 34,36 54,48 58,72 42,96 20,100 3,90",
    ),
    6: ("50,0 24,16 7,50 8,82 30,100 54,86 54,62 36,50 16,60 8,78",),
    7: ("straight 4,5 60,3 26,100",),
    8: ("50,12 30,0 10,14 16,36 42,52 58,76 44,97 20,98 6,80 20,56 46,36 52,14",),
    9: (
        "54,22 42,3 20,4 8,24 18,46 40,44 54,22",
        "55,18 54,50 48,100",
    ),
}
OTHERS = {  # for other habits of writing
    1: ("straight 30,0 28,100",),
    4: (
        "straight 12,0 8,52 62,50",
        "straight 50,5 46,100",
    ),
    7: (
        "straight 4,4 60,4 26,100",
        "straight 16,50 54,46",
    ),
    2: ("6,20 30,0 54,14 46,50 20,92 6,90 14,80 36,94 64,92",),
}
ONES = {  # ones that people confuse with other digits
    "flag": ("straight 2,34 36,0 36,100",),
    "flag and foot": ("straight 6,28 34,0 34,100", "straight 8,100 62,100"),
    "loop": ("6,30 22,12 40,2 40,30 36,70 26,98 10,98 12,84 30,88 58,98",),
}


@dataclass(frozen=True)
class Way:
    """A way to draw digits."""

    name: str
    height: int = 140  # of a digit, in pixels
    width: float = 0.11  # of a stroke, relative to the digit's height
    slant: float = 0.0  # x over y
    turn: float = 0.0  # degrees
    wobble: float = 0.015  # relative to the height
    paper: float = 0.95  # lightness
    ink: float = 0.1
    noise: float = 0.0
    shade: float = 0.0  # lightness that the paper loses from one corner to the other
    margin: float = 0.5  # on all sides, relative to the height
    aside: tuple[float, float] = (0.0, 0.0)  # extra margin on the left and on top, relative to the height
    blur: float = 0.0  # pixels
    step: float = 0.0  # to the next digit, relative to the height; 0 means far enough not to overlap
    habit: int | str = 0  # a name in ONES draws every one in that way
    around: str = ""  # table (on all sides), left (a table there), edge (black), frame, or dots (of a pen)
    gaps: int = 0  # cuts through each digit's strokes
    gap: float = 2.0  # the width of a cut, pixels
    faint: float = 1.0  # the ink of each digit's last stroke, or half a stroke, relative to the others'
    behind: str = ""  # lines, squares, cells (of a table), shadow, or desk (beyond the sheet's slanted edge)
    lines: float = 0.5  # the ink of what is behind, relative to the digits'
    tilt: float = 0.0  # of what is behind, degrees


PLAIN = Way("plain")
BROKEN = [
    Way("a gap", gaps=1, gap=2.5, height=100, width=0.06),
    Way("gaps of a thin pen", gaps=2, gap=3, height=60, width=0.04),
    Way("gaps in a small digit", gaps=1, gap=1.5, height=24, width=0.06, margin=0.3),
    Way("gaps in a thick digit", gaps=2, gap=3, height=50, width=0.12),
    Way("a faint stroke", faint=0.3, height=100),
    Way("a faint stroke of a pencil", faint=0.4, height=200, width=0.04, ink=0.5, noise=0.01),
    Way("a faint stroke, small", faint=0.3, height=26, width=0.06, margin=0.3),
]
BACKGROUNDS = [
    Way("on ruled paper", behind="lines", lines=0.5, tilt=0.5, margin=0.8),
    Way("on paper with dark lines", behind="lines", lines=0.9, height=80, width=0.08, margin=1.5),
    Way("on squared paper", behind="squares", lines=0.4, height=120, margin=1.2),
    Way("on dark squares, tilted", behind="squares", lines=0.8, height=90, tilt=2.0, margin=0.8),
    Way("in a table's cell", behind="cells", lines=1.0, margin=0.7),
    Way("in a thin table's cell", behind="cells", lines=0.6, height=200, margin=0.8, tilt=-1.0, noise=0.02),
    Way("under a shadow", behind="shadow", lines=0.35, margin=1.0, blur=1.0),
    Way("half in a hard shadow", behind="shadow", lines=0.5, margin=0.6, noise=0.02, ink=0.15),
    Way("near a desk", behind="desk", lines=0.8, margin=1.0, noise=0.02),
    Way("near a light desk", behind="desk", lines=0.4, height=100, margin=1.5, blur=1.0),
]
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
    Way("on a table", margin=1.0, around="table"),
    Way("half on a table", margin=1.0, shade=0.2, around="left"),
    Way("scanned", margin=0.4, around="edge"),
    Way("pencil, pen dots", height=300, ink=0.7, paper=0.88, noise=0.01, around="dots"),
    Way("framed", margin=0.6, width=0.07, around="frame"),
]


def draw(digits: str, way: Way = PLAIN, seed: int = 0) -> np.ndarray:
    """A picture (H, W) uint8 of digits side by side; newlines start a new line."""
    random = np.random.default_rng(seed)
    lines = digits.split("\n")
    height, margin = way.height, way.margin * way.height
    step = way.step or 1.15 + abs(way.slant) + 2 * way.width
    left, top = (margin + more * height for more in way.aside)
    wide = int(left + margin + height * (step * (max(map(len, lines)) - 1) + 0.7 + abs(way.slant)))
    high = int(top + margin + height * (1.6 * (len(lines) - 1) + 1))
    canvas = Image.new("L", (2 * wide, 2 * high))  # of ink, at twice the size
    pen = ImageDraw.Draw(canvas)
    left += max(0.0, way.slant) * 0.5 * height
    for row, line in enumerate(lines):
        for column, digit in enumerate(line):
            corner = np.array([left + step * height * column, top + 1.6 * height * row])
            _draw_one(pen, int(digit), way, corner, random)
    ink = np.asarray(canvas.resize((wide, high), Image.Resampling.BOX), float) / 255
    return put_on_paper(ink, way, random)


def put_on_paper(ink: np.ndarray, way: Way, random: np.random.Generator) -> np.ndarray:
    """A picture (H, W) uint8 of ink (H, W), from 0 to 1."""
    high, wide = ink.shape
    if way.behind in ("lines", "squares", "cells"):
        ink = np.maximum(ink, way.lines * _lines(ink, way, random))
    if way.blur:
        ink = gaussian_filter(ink, way.blur)
    slope = np.linspace(0, 1, high)[:, None] + np.linspace(0, 1, wide)[None]
    paper = way.paper - way.shade * (slope / 2) ** 1.5
    if way.behind in ("shadow", "desk"):
        paper = paper * (1 - way.lines * _half(ink, way, random))
    lightness = paper + ink * (way.ink - way.paper) * np.clip(paper / way.paper, 0.3, 1.7)
    lightness = _surround(lightness, way.around, round(0.3 * way.height))
    lightness += way.noise * random.standard_normal(lightness.shape)
    return np.round(255 * np.clip(lightness, 0, 1)).astype(np.uint8)


def _lines(ink: np.ndarray, way: Way, random: np.random.Generator) -> np.ndarray:
    """The lines (H, W), from 0 to 1, of ruled or squared paper, or around the cell of a table."""
    tops, lefts = (np.flatnonzero(ink.max(axis=axis) > 0.5) for axis in (1, 0))
    y, x = np.mgrid[: ink.shape[0], : ink.shape[1]]
    tangent = np.tan(np.deg2rad(way.tilt))
    y, x = y - tangent * x, x + tangent * y
    thick = max(1.0, way.height / 70) * random.uniform(0.7, 1.5)
    if way.behind == "cells":
        space = random.uniform(0.2, 0.4) * way.height
        rows = tops[0] - space, tops[-1] + space
        columns = lefts[0] - space, lefts[-1] + space
        distances = [np.abs(y - row) for row in rows] + [np.abs(x - column) for column in columns]
        return np.clip(thick / 2 + 0.5 - np.min(distances, axis=0), 0, 1)
    step = (0.45 if way.behind == "squares" else 1.2) * way.height * random.uniform(0.8, 1.2)
    start = random.uniform(0, step, 2)

    def away(places: np.ndarray, start: float) -> np.ndarray:
        return np.abs((places - start + step / 2) % step - step / 2)

    distance = away(y, start[0])
    if way.behind == "squares":
        distance = np.minimum(distance, away(x, start[1]))
    return np.clip(thick / 2 + 0.5 - distance, 0, 1)


def _half(ink: np.ndarray, way: Way, random: np.random.Generator) -> np.ndarray:
    """A shadow (H, W), from 0 to 1, on one side of a straight edge; a desk lies beyond all ink."""
    turn = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[: ink.shape[0], : ink.shape[1]]
    along = np.cos(turn) * x + np.sin(turn) * y
    inked = along[ink > 0.5]
    if way.behind == "desk":
        start = inked.max() + random.uniform(0.15, 0.4) * way.height
        soft = 1.0
    else:
        start = random.uniform(inked.min(), inked.max())
        soft = random.uniform(0.02, 0.15) * way.height
    return np.clip(0.5 + (along - start) / (2 * soft), 0, 1)


def _surround(lightness: np.ndarray, around: str, depth: int) -> np.ndarray:
    """The picture with something around its sheet or its digits."""
    if around == "table":
        sheet = Image.fromarray(np.pad(lightness, 2 * depth, constant_values=0.3).astype(np.float32))
        return np.asarray(sheet.rotate(7, Image.Resampling.BILINEAR, fillcolor=0.3), float)
    if around == "left":
        lightness[:, :depth] = 0.35
    elif around == "dots":
        for row, column in [(depth // 2, depth), (depth, -depth), (-depth // 2, depth // 3)]:
            lightness[row : row + 3, column : column + 3] = 0.0
    elif around == "edge":
        lightness[:3] = lightness[:, :2] = lightness[-4:] = 0.05
    elif around == "frame":
        inner = slice(12, -12), slice(12, -12)
        within = lightness[inner].copy()
        lightness[8:-8, 8:-8] = 0.2
        lightness[inner] = within
    return lightness


def _draw_one(pen, digit: int, way: Way, corner: np.ndarray, random: np.random.Generator) -> None:
    strokes = OTHERS.get(digit, STROKES[digit]) if way.habit else STROKES[digit]
    if digit == 1 and way.habit in ONES:
        strokes = ONES[way.habit]
    radius = way.width * way.height  # at twice the size
    turn = np.deg2rad(way.turn)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    bend = way.wobble * random.standard_normal((2, 3))
    paths = []
    for stroke in strokes:
        straight = stroke.startswith("straight")
        words = stroke.removeprefix("straight").split()
        points = np.array([word.split(",") for word in words], float) / 100
        path = _along(points) if straight else _smooth(points)
        phase = 2 * np.pi * (path[:, 1:] * [1, 1.7, 2.6] + [0, 0.3, 0.7])
        path = path + np.sin(phase) @ bend.T
        path[:, 0] += way.slant * (0.5 - path[:, 1])
        path = (path - 0.5) @ matrix.T + 0.5
        paths.append(2 * (corner + way.height * path))
    if way.faint < 1:  # drawn first, so that it is dark where it meets the others
        half = len(paths[-1]) // 2 if len(paths) == 1 else 0
        paths = [paths[-1][half:], *paths[:-1], paths[-1][:half]]
    for index, path in enumerate(paths):
        level = round(255 * (way.faint if index == 0 else 1))
        for x, y in path:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=level)
    paths = [path for path in paths if len(path)]
    for _ in range(way.gaps):
        path = paths[random.integers(len(paths))]
        place = int(random.uniform(0.2, 0.8) * len(path))
        ahead = path[min(place + 3, len(path) - 1)] - path[place - 3]
        ahead = ahead / np.linalg.norm(ahead)
        across = 1.6 * radius * np.array([-ahead[1], ahead[0]])
        ends = [path[place] + side * way.gap * ahead for side in (-1, 1)]  # at twice the size
        corners = [ends[0] - across, ends[0] + across, ends[1] + across, ends[1] - across]
        pen.polygon([tuple(corner) for corner in corners], fill=0)


def _along(points: np.ndarray) -> np.ndarray:
    ends = itertools.pairwise(points)
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


def read_all(
    model: str, folder: Path, seed: int = 0, ways: Sequence[Way] = WAYS
) -> list[tuple[Path, int, list[int]]]:
    """For each digit drawn in each way: its file, the digit, and the answer of `mnistjax-predict`."""
    cases = {folder / f"{way.name} {digit}.png": (way, digit) for way in ways for digit in range(10)}
    for path, (way, digit) in cases.items():
        Image.fromarray(draw(str(digit), way, seed=10 * seed + digit)).save(path)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([model, *map(str, cases), "--json"]) == 0
    answers = json.loads(out.getvalue())
    return [
        (path, digit, [found["class"] for found in answer["digits"]])
        for (path, (_, digit)), answer in zip(cases.items(), answers, strict=True)
    ]


def draw_page(model: str, folder: Path, seed: int = 0) -> str:
    """Draws all of them on FOLDER/page.png, errors in red; returns how many are read correctly."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    ways = WAYS + BROKEN + BACKGROUNDS
    read = read_all(model, folder, seed, ways)
    title = f"{model} reads {sum(found == [digit] for _, digit, found in read)} of {len(read)} pictures"
    figure = Figure(figsize=(11, 1.1 * len(ways)), layout="constrained")
    figure.suptitle(title)
    for axes, (path, digit, found) in zip(figure.subplots(len(ways), 10).flat, read, strict=True):
        axes.imshow(Image.open(path), cmap="gray", vmin=0, vmax=255)
        axes.set(xticks=[], yticks=[])
        if not digit:
            axes.set_ylabel(path.stem.removesuffix(" 0"), rotation=0, ha="right", va="center")
        if found != [digit]:
            axes.set_title(f"read as {' '.join(map(str, found)) or 'nothing'}", color="C3", fontsize=9)
            axes.spines[:].set(color="C3", linewidth=3)
    figure.savefig(folder / "page.png", dpi=90)
    return title


if __name__ == "__main__":
    print(draw_page(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])))
