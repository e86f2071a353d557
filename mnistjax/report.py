"""Figures of a run; each function returns a matplotlib Figure and touches no global state.

N images, K classes. A confusion matrix has the true class in rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnistjax.tracking import worst_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

TRAIN, VAL, TEST, INK = "#0072B2", "#D55E00", "#009E73", "#222222"  # Okabe and Ito: safe for the colour-blind
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


def save(figure: Figure, path: str | Path) -> list[Path]:
    """The files written: `path` as PNG and as SVG, whatever its suffix; equal figures give equal files."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_suffix(".png"), path.with_suffix(".svg")]
    with _style():
        figure.savefig(written[0], metadata={"Software": None})
        figure.savefig(written[1], metadata={"Date": None, "Creator": None})
    return written


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
