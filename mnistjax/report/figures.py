"""Figures of a run; each function returns a matplotlib Figure and touches no global state.

N images, K classes. A confusion matrix has the true class in rows.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnistjax import files
from mnistjax.config import ConfigError
from mnistjax.tracking import worst_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from mnistjax.models import Layer

TRAIN, VAL, TEST, INK = "#0072B2", "#D55E00", "#009E73", "#222222"  # Okabe and Ito: safe for the colour-blind
LOWEST_LOSS = 1e-5  # that is drawn; nothing is to be seen below
GROUPS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")  # theirs, too
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": "mnistjax"},
    "svg": {"Date": None, "Creator": "mnistjax"},
}
MARKS = {".png": b"Software\0mnistjax", ".svg": b"<dc:title>mnistjax</dc:title>"}  # how files have these
HEAD = 4096  # bytes of a file, among which its mark is
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
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 9.5,
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "savefig.dpi": 120,
    "svg.fonttype": "path",
    "svg.hashsalt": "mnistjax",  # else the ids inside are random
    "text.color": INK,
    "text.parse_math": False,  # a name with dollar signs is a name
}


def sample_grid(
    images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], *, columns: int = 10
) -> Figure:
    """The images (N, H, W) uint8 in rows of `columns`, each under its class name."""
    figure = _figure(0.72 * columns, 0.92 * math.ceil(len(images) / columns) + 0.1)
    _tiles(figure, images, [class_names[int(label)] for label in labels], columns=columns)
    return figure


def misclassified_grid(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    *,
    count: int = 24,
    columns: int = 8,
) -> Figure:
    """At most `count` misclassified images, the most confident error first, with true and predicted class."""
    worst = worst_errors(labels, probabilities, count)
    wrong = int((probabilities.argmax(axis=1) != labels).sum())
    legend = "  (true → predicted, confidence)" if wrong else ""
    rows = math.ceil(len(worst) / columns)
    figure = _figure(1.25 * columns, 1.55 * rows + 0.6)
    figure.suptitle(f"{wrong:,} of {len(labels):,} wrong{legend}", weight="bold")
    if wrong:
        _tiles(figure, images[worst], _verdicts(worst, labels, probabilities, class_names), columns=columns)
    return figure


def confusion_matrix_figure(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """The counts (K, K), coloured by the share of the true class."""
    cell, size = (0.52, 9.0) if len(class_names) <= 20 else (0.27, 6.0)  # inches, points
    side = max(3.6, cell * len(class_names) + 1.4)
    figure = _figure(side + 0.4, side)
    with _style():
        _confusion(figure.add_subplot(), matrix, class_names, size)
    return figure


def curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and accuracy, training and validation, over the epochs of `metrics.jsonl`'s rows."""
    figure = _figure(9.0, 3.4)
    with _style():
        for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            _curve(axes, rows, metric)
    return figure


def seed_curves(
    groups: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    metrics: Sequence[str] = ("loss", "accuracy", "f1"),
    *,
    title: str = "",
) -> Figure:
    """Each metric of training (dashed) and validation over the epochs, a colour a group: the mean of its runs
    (their rows of `metrics.jsonl`) in the band between the lowest and the highest of them."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    figure = _figure(4.2 * len(metrics), 3.8)
    if title:
        figure.suptitle(title, weight="bold")
    with _style():
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            early = []
            for color, (name, runs) in zip(cycle(GROUPS), groups.items(), strict=False):
                for part, line in (("train", "--"), ("val", "-")):
                    mean = _band(axes, runs, f"{part}/{metric}", line, color, name if part == "val" else None)
                    early.append(mean[min(2, len(mean) - 1) :].min())
            axes.set(title=metric.upper() if metric == "f1" else metric.capitalize(), xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if metric == "loss":
                axes.set(ylabel="nats per image", yscale="log")
                axes.set_ylim(bottom=max(axes.get_ylim()[0], LOWEST_LOSS))
            else:  # the first two epochs would leave no room for the others
                bottom, top = axes.get_ylim()
                bottom, top = max(bottom, 1.02 * min(early) - 0.02), min(top, 1.0)
                axes.set_ylim(bottom, top + 0.03 * (top - bottom))
        handles, labels = panels[0].get_legend_handles_labels()
        handles += [Line2D([], [], color=INK, linestyle=line) for line in ("-", "--")]
        labels += ["validation", "training"]
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _band(
    axes: Axes,
    runs: Sequence[Sequence[Mapping[str, Any]]],
    key: str,
    line: str,
    color: str,
    label: str | None,
) -> np.ndarray:
    """Draws the mean and the range over the runs that reached an epoch; returns the means."""
    values = np.full((len(runs), max(map(len, runs))), np.nan)
    for run, rows in zip(values, runs, strict=True):
        run[: len(rows)] = [float(row[key]) for row in rows]
    epochs, mean = np.arange(1, values.shape[1] + 1), np.nanmean(values, axis=0)
    axes.plot(epochs, mean, line, color=color, label=label, linewidth=1.2)
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    axes.fill_between(epochs, low, high, color=color, alpha=0.18, linewidth=0)
    return mean


def class_counts_figure(counts: Mapping[str, Sequence[int]], class_names: Sequence[str]) -> Figure:
    """Images per class in each split, `{"train": [n_0, ...], "val": [...], "test": [...]}`."""
    figure = _figure(max(5.0, 0.62 * len(class_names) + 1.6), 3.4)
    colors: dict[str, str] = dict(zip(("train", "val", "test"), (TRAIN, VAL, TEST), strict=True))
    with _style():
        axes = figure.add_subplot()
        width = 0.8 / len(counts)
        for number, (split, values) in enumerate(counts.items()):
            places = np.arange(len(values)) + (number - (len(counts) - 1) / 2) * width
            axes.bar(places, values, width, label=f"{split} ({sum(values):,})", color=colors.get(split))
        axes.set(title="Images per class", xticks=range(len(class_names)))
        axes.set_xticklabels(class_names, **_slant(class_names))
        axes.grid(visible=False, axis="x")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(counts))
    return figure


def architecture_figure(layers: Sequence[Layer], image_shape: tuple[int, ...]) -> Figure:
    """A model's layers from left to right, each output as a box with its shape, parameters and options."""
    from matplotlib.patches import Polygon

    shown = [layer for layer in layers if layer.kind != "Dropout" or layer.options.get("rate")]
    stages = [("image", image_shape, "", 0)]
    for layer in shown:
        options = [f"{name} {_plain(value)}" for name, value in layer.options.items() if value is not True]
        stages.append((layer.kind, layer.shape, "\n".join(options), layer.parameters))
    step = 1.9  # inches from box to box
    figure = _figure(step * len(stages), 3.9)
    with _style():
        axes = figure.add_subplot()
        for place, (kind, shape, options, parameters) in enumerate(stages):
            width, height, slant = _box(shape)
            x, low, high = step * place, -height / 2, height / 2
            faces = (
                [(x, low), (x + width, low), (x + width, high), (x, high)],
                [(x, high), (x + width, high), (x + width + slant, high + slant), (x + slant, high + slant)],
                [(x + width, y) for y in (low, high)] + [(x + width + slant, y + slant) for y in (high, low)],
            )
            color = TRAIN if not parameters else VAL if len(shape) == 3 else TEST
            for face, alpha in zip(faces, (0.9, 0.5, 0.7), strict=True):
                axes.add_patch(Polygon(face, facecolor=color, alpha=alpha, edgecolor="white", linewidth=0.8))
            name = f"{kind}\n{' x '.join(map(str, shape))}"
            axes.text(x, 1.75, name, va="bottom", weight="bold", fontsize=9)
            count = f"{parameters:,} parameters" if parameters else ""
            axes.text(x, -1.3, "\n".join(filter(None, (count, options))), va="top", fontsize=8)
        axes.set(xlim=(-0.1, step * len(stages) - 0.1), ylim=(-2.5, 2.3), aspect="equal")
        axes.axis("off")
    return figure


def _box(shape: tuple[int, ...]) -> tuple[float, float, float]:
    """Width (by channels), height and slant (by the image's sides) of an output's box, in inches."""
    if len(shape) == 3:
        height = 1.9 * math.sqrt(shape[0] / 28)
        return 0.12 + 0.1 * math.log2(shape[-1]), height, 0.3 * height
    return 0.12, min(2.0, 0.25 * math.log2(1 + shape[0])), 0.1


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def result_figure(
    rows: Sequence[Mapping[str, Any]],
    matrix: Sequence[Sequence[int]],
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    *,
    title: str,
) -> Figure:
    """One picture of a finished run: its curves, its confusion matrix on the test set, its worst errors."""
    figure = _figure(12.0, 9.4)
    figure.suptitle(title, fontsize=14, weight="bold")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.7, 1))
    upper, lower = halves
    left, right = upper.subfigures(1, 2, width_ratios=(1, 1.25))
    with _style():
        for axes, metric in zip(left.subplots(2, 1), ("loss", "accuracy"), strict=True):
            _curve(axes, rows, metric)
        _confusion(right.add_subplot(), matrix, class_names, 9.0 if len(class_names) <= 20 else 5.0)
    worst = worst_errors(labels, probabilities, 20)
    heading = "Its most confident errors  (true → predicted, confidence)" if len(worst) else "No errors"
    lower.suptitle(heading, fontsize=11, weight="bold")
    _tiles(lower, images[worst], _verdicts(worst, labels, probabilities, class_names), columns=10)
    return figure


def picture_figure(
    lightness: np.ndarray,
    boxes: Sequence[tuple[int, int, int, int]],
    images: np.ndarray,
    titles: Sequence[str],
    *,
    columns: int = 6,
) -> Figure:
    """A picture (H, W) in [0, 1] with boxes (top, left, bottom, right) around its digits, above the digits
    as a model sees them (N, 28, 28)."""
    from matplotlib.patches import Rectangle

    rows = math.ceil(len(images) / columns)
    height = min(6.0, max(0.5, 7.2 * lightness.shape[0] / lightness.shape[1]))  # inches
    figure = _figure(7.2, height + 1.5 * rows)
    halves: Any = figure.subfigures(2, 1, height_ratios=[height, 1.5 * rows]) if rows else [figure]
    axes = halves[0].add_subplot()
    axes.imshow(lightness, cmap="gray", vmin=0, vmax=1)
    axes.axis("off")
    for top, left, bottom, right in boxes:
        corner = left - 1, top - 1
        axes.add_patch(Rectangle(corner, right - left + 1, bottom - top + 1, fill=False, edgecolor=VAL))
    if rows:
        _tiles(halves[1], images, titles, columns=columns)
    return figure


def save(figure: Figure, path: str | Path) -> list[Path]:
    """The files written: `path` as PNG and as SVG, whatever its suffix; equal figures give equal files.

    ConfigError, and nothing is written, if a file of that name is there that we did not draw.
    """
    contents = {}
    with _style(), warnings.catch_warnings():
        # Names in letters that the font lacks, or that leave no room, are drawn all the same.
        warnings.simplefilter("ignore", UserWarning)
        for kind, metadata in METADATA.items():
            file = io.BytesIO()
            figure.savefig(file, format=kind, metadata=metadata)
            contents[Path(path).with_suffix(f".{kind}")] = file.getvalue()
    for target in contents:
        check_drawn(target)
    files.make_folder(Path(path).parent)
    for target, content in contents.items():
        files.replace(target, content)
    return [*contents]


def check_drawn(path: Path) -> None:
    """ConfigError if something has this name that `save` did not write."""
    try:
        with open(files.open_plain(path, os.O_RDONLY), "rb") as file:
            head = file.read(HEAD)
    except FileNotFoundError:
        return
    if MARKS[path.suffix] not in head:
        raise ConfigError(f"{path} is not drawn by mnistjax, so it is not replaced")


def _style() -> Any:
    import matplotlib as mpl

    return mpl.rc_context(STYLE)


def _figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches."""
    from matplotlib.figure import Figure

    with _style():
        return Figure(figsize=(width, height), layout="constrained")


def _curve(axes: Axes, rows: Sequence[Mapping[str, Any]], metric: str) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) <= 30 else None
    for split, color, line in (("train", TRAIN, "--"), ("val", VAL, "-")):
        # The records keep a non-finite number as a word.
        values = [float(row[f"{split}/{metric}"]) for row in rows]
        axes.plot(epochs, values, line, color=color, marker=marker, markersize=3.5, label=split)
    axes.set(title=metric.capitalize(), xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        axes.set_ylabel("nats per image")
    axes.legend(loc="lower right" if metric == "accuracy" else "upper right")


def _confusion(axes: Axes, matrix: Sequence[Sequence[int]], class_names: Sequence[str], size: float) -> None:
    """Draws the counts and names at `size` points; counts too small to read are left to the colour."""
    counts = np.asarray(matrix)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1)  # the root shows the few errors beside the many
    for (row, column), count in np.ndenumerate(counts):
        if count and size >= 6:
            color = "white" if share[row, column] > 0.4 else INK
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=size)
    places = range(len(counts))
    axes.set(xticks=places, yticks=places, yticklabels=class_names, xlabel="predicted", ylabel="true")
    axes.set_xticklabels(class_names, **_slant(class_names))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=size)
    correct, count = int(np.trace(counts)), int(counts.sum())
    axes.set_title(f"{correct:,} of {count:,} right ({correct / max(count, 1):.2%})")


def _tiles(figure: Figure | SubFigure, images: np.ndarray, titles: Sequence[str], *, columns: int) -> None:
    """Images (N, H, W) as ink on paper, in rows of `columns`, each under its title."""
    with _style():
        grid = figure.subplots(max(1, math.ceil(len(images) / columns)), columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for axes, image, title in zip(grid.flat, images, titles, strict=False):
            axes.imshow(image, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(title, fontsize=9, weight="normal", pad=3)


def _verdicts(
    worst: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> list[str]:
    """`true → predicted` and the probability of that, on two lines, or three where the names are long."""
    verdicts = []
    for i in worst:
        predicted = int(probabilities[i].argmax())
        true, taken = class_names[int(labels[i])], class_names[predicted]
        gap = "\n" if len(true) + len(taken) > 10 else " "
        verdicts.append(f"{true} →{gap}{taken}\n{probabilities[i, predicted]:.1%}")
    return verdicts


def _slant(class_names: Sequence[str]) -> dict[str, Any]:
    """How class names stand below an axis: upright where they are short."""
    if max(map(len, class_names)) <= 5:
        return {}
    return {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
