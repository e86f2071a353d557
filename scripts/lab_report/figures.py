"""Figures that only the lab report needs; each function returns a matplotlib Figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from mnistjax.records.fields import METRICS
from mnistjax.report.axes import scale_in_logs
from mnistjax.report.figures import INK, TEST, TRAIN, VAL, draw_tiles, new_figure, style, tick_options

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lab_report.layers import Layer

LOWEST_LOSS = 1e-5  # on the axis of losses
# Okabe and Ito's colours, safe for the colour-blind.
GROUPS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def sample_grid(images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> Figure:
    """The images (N, H, W) uint8 in rows of ten, each under its class name."""
    figure = new_figure(0.72 * 10, 0.92 * math.ceil(len(images) / 10) + 0.1)
    draw_tiles(figure, images, [class_names[int(label)] for label in labels], columns=10)
    return figure


def class_counts_figure(counts: Mapping[str, Sequence[int]], class_names: Sequence[str]) -> Figure:
    """Images per class in each split, `{"train": [n_0, ...], "val": [...], "test": [...]}`."""
    figure = new_figure(max(5.0, 0.62 * len(class_names) + 1.6), 3.4)
    colors: dict[str, str] = dict(zip(("train", "val", "test"), (TRAIN, VAL, TEST), strict=True))
    with style():
        axes = figure.add_subplot()
        width = 0.8 / len(counts)
        for number, (split, values) in enumerate(counts.items()):
            places = np.arange(len(values)) + (number - (len(counts) - 1) / 2) * width
            axes.bar(places, values, width, label=f"{split} ({sum(values):,})", color=colors.get(split))
        axes.set(title="Images per class", xticks=range(len(class_names)))
        axes.set_xticklabels(class_names, **tick_options(class_names))
        axes.grid(visible=False, axis="x")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(counts))
    return figure


def seed_curves(groups: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], *, title: str = "") -> Figure:
    """Each metric over the epochs, dashed for training and solid for validation, in a colour for each group.

    A curve is the mean of the group's runs (rows of `metrics.jsonl`), in the band of their range.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(4.2 * len(METRICS), 3.8)
    if title:
        figure.suptitle(title, weight="bold")
    with style():
        panels = figure.subplots(1, len(METRICS))
        for axes, metric in zip(panels, METRICS, strict=True):
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
                scale_in_logs(axes.yaxis, axes.get_ylim())
            else:  # the first two epochs would leave no room for the rest
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
    """Draws the mean and the range over the runs that reached an epoch, and returns the means."""
    values = np.full((len(runs), max(map(len, runs))), np.nan)
    for run, rows in zip(values, runs, strict=True):
        run[: len(rows)] = [float(row[key]) for row in rows]
    epochs, mean = np.arange(1, values.shape[1] + 1), np.nanmean(values, axis=0)
    axes.plot(epochs, mean, line, color=color, label=label, linewidth=1.2)
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    axes.fill_between(epochs, low, high, color=color, alpha=0.18, linewidth=0)
    return mean


def architecture_figure(layers: Sequence[Layer], image_shape: tuple[int, ...]) -> Figure:
    """A model's layers from left to right: a box for each output, with shape, parameters and options."""
    from matplotlib.patches import Polygon

    shown = [layer for layer in layers if layer.kind != "Dropout" or layer.options.get("rate")]
    stages = [("image", image_shape, "", 0)]
    for layer in shown:
        options = [f"{name} {_plain(value)}" for name, value in layer.options.items() if value is not True]
        stages.append((layer.kind, layer.shape, "\n".join(options), layer.parameters))
    step = 1.9  # inches from box to box
    figure = new_figure(step * len(stages), 3.9)
    with style():
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
    """Width (by channels), height and slant (by image side) of an output's box, in inches."""
    if len(shape) == 3:
        height = 1.9 * math.sqrt(shape[0] / 28)
        return 0.12 + 0.1 * math.log2(shape[-1]), height, 0.3 * height
    return 0.12, min(2.0, 0.25 * math.log2(1 + shape[0])), 0.1


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
