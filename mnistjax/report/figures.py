"""Figures of a run. Each function returns a matplotlib Figure and changes no global state.

N images, K classes. A confusion matrix has the true class in rows.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnistjax import files
from mnistjax.config import ConfigError
from mnistjax.tracking import Examples

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

TRAIN, VAL, TEST, INK = "#0072B2", "#D55E00", "#009E73", "#222222"  # Okabe and Ito: safe for the colour-blind
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": "mnistjax"},
    "svg": {"Date": None, "Creator": "mnistjax"},
    "pdf": {"CreationDate": None, "Creator": "mnistjax", "Producer": None},
}
MARKS = {  # METADATA in a file
    ".png": b"Software\0mnistjax",
    ".svg": b"<dc:title>mnistjax</dc:title>",
    ".pdf": b"/Creator (mnistjax)",
}
KINDS = ("png", "svg")  # that a figure is saved as unless told otherwise
HEAD = 4096  # bytes at the start of a file that contain its mark
TAIL = 2**16  # bytes at the end of a PDF that contain its mark, before its table of objects
COLUMNS = 6  # digits in a row below a picture
MOST_NAMES = 80  # of classes at a side of a confusion matrix
SLANTED: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}  # text below an axis
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.dpi": 120,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so text is the same on every machine
    "font.size": 9.5,
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # publishers refuse matplotlib's own choice, Type 3
    "savefig.dpi": 120,
    "svg.fonttype": "path",
    "svg.hashsalt": "mnistjax",  # else the ids are random
    "text.color": INK,
    "text.parse_math": False,  # names may have dollar signs
}


def misclassified_grid(examples: Examples) -> Figure:
    """At most 24 misclassified images with true and predicted class, the most confident error first."""
    count, columns = 24, 8
    wrong = len(examples.errors())
    legend = "  (true → predicted, confidence)" if wrong else ""
    rows = math.ceil(min(wrong, count) / columns)
    figure = new_figure(1.25 * columns, 1.55 * rows + 0.6)
    figure.suptitle(f"{wrong:,} of {len(examples.labels):,} wrong{legend}", weight="bold")
    if wrong:
        draw_errors(figure, examples, count=count, columns=columns)
    return figure


def confusion_matrix_figure(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """The counts (K, K), coloured by their share of the true class."""
    cell, size = (0.52, 9.0) if len(class_names) <= 20 else (0.27, 6.0)  # inches, points
    side = max(3.6, cell * min(len(class_names), MOST_NAMES) + 1.4)
    figure = new_figure(side + 0.4, side)
    with style():
        draw_confusion(figure.add_subplot(), matrix, class_names, size)
    return figure


def curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and accuracy on training and validation images over the epochs (rows of `metrics.jsonl`)."""
    figure = new_figure(9.0, 3.4)
    with style():
        for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            draw_curve(axes, rows, metric)
    return figure


def picture_figure(
    lightness: np.ndarray,
    boxes: Sequence[tuple[int, int, int, int]],
    images: np.ndarray,
    titles: Sequence[str],
) -> Figure:
    """A picture (H, W) in [0, 1] with boxes (top, left, bottom, right) around its digits.

    Below it are images (N, H, W) or (N, H, W, 3) uint8: what the model sees.
    """
    from matplotlib.patches import Rectangle

    rows = math.ceil(len(images) / COLUMNS)
    height = min(6.0, max(0.5, 7.2 * lightness.shape[0] / lightness.shape[1]))  # inches
    figure = new_figure(7.2, height + 1.5 * rows)
    halves: Any = figure.subfigures(2, 1, height_ratios=[height, 1.5 * rows]) if rows else [figure]
    axes = halves[0].add_subplot()
    axes.imshow(lightness, cmap="gray", vmin=0, vmax=1)
    axes.axis("off")
    for top, left, bottom, right in boxes:
        corner = left - 1, top - 1
        axes.add_patch(Rectangle(corner, right - left + 1, bottom - top + 1, fill=False, edgecolor=VAL))
    if rows:
        draw_tiles(halves[1], images, titles, columns=COLUMNS)
    return figure


def save(figure: Figure, path: str | Path, kinds: Sequence[str] = KINDS) -> list[Path]:
    """Writes a figure as PNG and as SVG, or as these kinds (also "pdf"), with the suffix of `path` replaced.

    Returns the files. Equal figures give equal files. ConfigError, before anything is written, if mnistjax
    did not draw an existing file of that name.
    """
    contents = {Path(path).with_suffix(f".{kind}"): render(figure, kind) for kind in kinds}
    for target in contents:
        check_drawn(target)
    files.make_folder(Path(path).parent)
    for target, content in contents.items():
        files.replace(target, content)
    return [*contents]


def render(figure: Figure, kind: str) -> bytes:
    """The content of a file of that kind."""
    file = io.BytesIO()
    with style(), warnings.catch_warnings():
        # Names whose letters the font lacks, or that leave no room, are drawn anyway.
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(file, format=kind, metadata=METADATA[kind])
    return file.getvalue()


def check_drawn(path: Path) -> None:
    """Raises ConfigError if a file of this name exists that `save` did not write."""
    head, tail = (0, TAIL) if path.suffix == ".pdf" else (HEAD, 0)
    if has_mark(path, MARKS[path.suffix], head, tail) is False:
        raise ConfigError(f"{path} was not drawn by mnistjax, so it is not replaced")


def has_mark(path: Path, mark: bytes, head: int, tail: int = 0) -> bool | None:
    """Whether the first `head` or last `tail` bytes of a file contain a mark; None if there is no file."""
    try:
        with open(files.open_plain(path, os.O_RDONLY), "rb") as file:
            start = file.read(head)
            file.seek(max(0, os.fstat(file.fileno()).st_size - tail))
            return mark in start or mark in file.read(tail)
    except FileNotFoundError:
        return None


def style() -> Any:
    import matplotlib as mpl

    return mpl.rc_context(STYLE)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches."""
    from matplotlib.figure import Figure

    with style():
        figure: Any = Figure(figsize=(width, height), layout="constrained")
    figure._repr_png_ = lambda: render(figure, "png")  # a notebook shows figures of pyplot only
    return figure


def draw_curve(axes: Axes, rows: Sequence[Mapping[str, Any]], metric: str) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) <= 30 else None
    for split, color, line in (("train", TRAIN, "--"), ("val", VAL, "-")):
        # The records hold non-finite numbers as words.
        values = [float(row[f"{split}/{metric}"]) for row in rows]
        axes.plot(epochs, values, line, color=color, marker=marker, markersize=3.5, label=split)
    axes.set(title=metric.capitalize(), xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        axes.set_ylabel("nats per image")
    axes.legend(loc="lower right" if metric == "accuracy" else "upper right")


def draw_confusion(
    axes: Axes, matrix: Sequence[Sequence[int]], class_names: Sequence[str], size: float
) -> None:
    """Draws counts and names at `size` points; only colours and some of the names if there is no room."""
    counts, step = np.asarray(matrix), -(-len(matrix) // MOST_NAMES)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1)  # the root makes rare errors visible
    for (row, column), count in np.ndenumerate(counts):
        if count and size >= 6 and step == 1:
            color = "white" if share[row, column] > 0.4 else INK
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=size)
    places, names = range(0, len(counts), step), class_names[::step]
    axes.set(xticks=places, yticks=places, yticklabels=names, xlabel="predicted", ylabel="true")
    axes.set_xticklabels(names, **tick_options(names))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=size)
    correct, count = int(np.trace(counts)), int(counts.sum())
    axes.set_title(f"{correct:,} of {count:,} right ({correct / max(count, 1):.2%})")


def draw_tiles(
    figure: Figure | SubFigure, images: np.ndarray, titles: Sequence[str], *, columns: int
) -> None:
    """Draws images (N, H, W) or (N, H, W, 3) in rows of `columns`, each under its title."""
    with style():
        grid = figure.subplots(max(1, math.ceil(len(images) / columns)), columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        images = images[..., 0] if images.shape[3:] == (1,) else images
        for axes, image, title in zip(grid.flat, images, titles, strict=False):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(title, fontsize=9, weight="normal", pad=3)


def draw_errors(figure: Figure | SubFigure, examples: Examples, *, count: int, columns: int) -> None:
    """Draws the `count` most confident errors, each under `true → predicted` and its confidence."""
    errors, titles = examples.errors()[:count], []
    for error in errors:
        true, predicted, confidence = examples.describe(error)
        gap = "\n" if len(true) + len(predicted) > 10 else " "
        titles.append(f"{true} →{gap}{predicted}\n{confidence:.1%}")
    draw_tiles(figure, examples.show(errors, on_paper=True), titles, columns=columns)


def tick_options(class_names: Sequence[str]) -> dict[str, Any]:
    """Text options for class names below an axis: slanted unless they are short."""
    return SLANTED if max(map(len, class_names)) > 5 else {}
