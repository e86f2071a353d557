"""Figures of several runs for papers. Each function returns a matplotlib Figure and changes no global state.

Lines differ in colours, dashes and markers, so that they can be told apart without colours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mnistjax.config import ConfigError, unknown
from mnistjax.report import axes as parts
from mnistjax.report.axes import COLORS, DASHES, MARKERS, MOST, SHORT, cut, describe_axis, draw_bars
from mnistjax.report.configurations import (
    MISSING,
    Configuration,
    check_metric,
    choose,
    find_front,
    find_key,
    find_varying,
    group_runs,
    is_number,
    rank,
    short_keys,
    sort_values,
)
from mnistjax.report.figures import new_figure, style
from mnistjax.report.runs import RunRecord
from mnistjax.report.sanitize import find_monitor
from mnistjax.report.table import Table, make_table
from mnistjax.seeds import Spread, find_format

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRIC = "test/accuracy"  # of figures but curves, unless told otherwise
DEVIATION = "mean ± standard deviation"
MOST_VALUES = 40  # of a key of a heat map


def draw(runs: Sequence[RunRecord], what: str, columns: str | None, metric: str | None) -> Figure:
    """A figure by its name: "curves", "parameters", or one key of the runs' config, or two."""
    if columns is None and " x " in what:
        what, _, columns = what.partition(" x ")
    if columns is not None:
        return heat_map(make_table(runs, what, columns, metric or METRIC))
    return FIGURES[what](runs, metric) if what in FIGURES else by_key(runs, what, metric)


def curves(runs: Sequence[RunRecord], metric: str | None = None) -> Figure:
    """A metric (by default the monitored one) over the epochs, a line for each configuration.

    A line is the mean over seeds, up to the last epoch of the seed that stopped first; its band goes from
    the lowest to the highest seed. Only the best few configurations by validation are drawn.
    """
    from matplotlib.ticker import MaxNLocator

    configurations = group_runs(runs)
    monitor = find_monitor(runs)
    metric = metric or monitor
    known = {name for one in configurations for run in one.runs for row in run.rows for name in row}
    if metric not in known or "/" not in metric:
        raise unknown("metric of curves", metric, {name for name in known if "/" in name})
    ranked = rank(configurations, monitor)
    shown, varying = ranked[:MOST], find_varying(configurations)
    names = [cut(one.describe(varying)) for one in shown]
    figure, axes = parts.start(names)
    with style():
        drawn = [
            draw_curve(axes, one, metric, index, name)
            for index, (one, name) in enumerate(zip(shown, names, strict=True))
        ]
        if metric.endswith("loss"):
            parts.scale_in_logs(axes.yaxis, [value for values in drawn for value in values])
        axes.set(xlabel="epoch", ylabel=describe_axis(metric))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        note = describe_spread(shown, "mean and range")
        others = f"; the best {MOST} of {len(ranked):,} configurations by {monitor}"
        note += others * (len(ranked) > MOST) + describe_left_out(configurations)
        parts.finish(figure, note, names)
    return figure


def draw_curve(axes: Axes, one: Configuration, metric: str, index: int, name: str) -> list[float]:
    """Draws the line of a configuration and its band; returns all finite values that the axis must show."""
    length = min(len(run.rows) for run in one.runs)
    epochs = [row["epoch"] for row in one.runs[0].rows[:length]]
    rows = [[float(row.get(metric, "nan")) for row in run.rows[:length]] for run in one.runs]
    values = parts.find_factor(metric) * np.array(rows)  # (seeds, epochs)
    values[~np.isfinite(values)] = np.nan
    look: dict[str, Any] = {"color": COLORS[index], "linestyle": DASHES[index], "marker": MARKERS[index]}
    look |= {"markersize": 4, "markevery": max(1, length // 8), "linewidth": 1.4}
    axes.plot(epochs, values.mean(axis=0), label=name, **look)
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(epochs, low, high, color=COLORS[index], alpha=0.15, linewidth=0)
    return values[np.isfinite(values)].tolist()


def parameters(runs: Sequence[RunRecord], metric: str | None = None) -> Figure:
    """A metric against the number of parameters, a point for each configuration.

    A line connects those that are better by validation than all smaller ones.
    """
    from matplotlib.ticker import MaxNLocator

    configurations, metric = group_runs(runs), metric or METRIC
    check_metric(metric, configurations)
    points = [one for one in configurations if one.spread(metric).n and one.spread("parameters").n]
    if not points:
        raise ConfigError(f"no run has both a finite {metric} and a number of parameters")
    names = name_points(points, find_varying(configurations))
    kinds, monitor = [*dict.fromkeys(names)], find_monitor(runs)
    front, note = find_front(points, monitor), describe_spread(points)
    figure, axes = parts.start(kinds)
    with style():
        if len(front) > 1:
            note += f"; on the line: better by {monitor} than all smaller ones"
            means = [parts.find_factor(metric) * one.spread(metric).mean for one in front]
            axes.plot([one.spread("parameters").mean for one in front], means, color="#AAAAAA", linewidth=1)
        sizes = [one.spread("parameters").mean for one in points]
        for index, kind in enumerate(kinds):
            own = [i for i, name in enumerate(names) if name == kind]
            look = {"color": COLORS[index], "marker": MARKERS[index], "linestyle": "none", "label": kind}
            draw_bars(axes, [sizes[i] for i in own], [points[i].spread(metric) for i in own], metric, look)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if max(sizes) >= 10 * min(sizes):
            parts.scale_in_logs(axes.xaxis, sizes)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set(xlabel="parameters", ylabel=describe_axis(metric))
        parts.finish(figure, note + describe_left_out(configurations), kinds)
    return figure


def name_points(points: Sequence[Configuration], varying: Sequence[str]) -> list[str]:
    """The models of the points if there are a few, else their whole names, else empty names."""
    models = [one.text("model.name") for one in points]
    if 1 < len({*models}) <= MOST:
        return [*map(cut, models)]
    return [cut(one.describe(varying)) for one in points] if len(points) <= MOST else [""] * len(points)


def by_key(runs: Sequence[RunRecord], key: str, metric: str | None = None) -> Figure:
    """A metric against the values of a key, which is an axis of numbers if all are numbers.

    There is a line for each combination of the other keys' values if these are few; else a point is the best
    configuration by validation.
    """
    configurations, metric = group_runs(runs), metric or METRIC
    key = find_figure_key(key, configurations)
    check_metric(metric, configurations)
    some = [one for one in configurations if one.spread(metric).n]
    if not some:
        raise ConfigError(f"no run has a finite {metric}")
    texts = sort_values(key, some)
    others = [other for other in find_varying(some) if other != key]
    values: dict[str, Any] = {one.text(key): one.config.get(key) for one in some}
    numbers = [values[text] for text in texts] if all(map(is_number, values.values())) else None
    monitor = find_monitor(runs)
    lines = find_lines(some, key, texts, others, metric, monitor)
    names = [line.name for line in lines]
    figure, axes = parts.start(names, [] if numbers else [cut(text, SHORT) for text in texts])
    with style():
        for index, line in enumerate(lines):
            look: dict[str, Any] = {"color": COLORS[index], "marker": MARKERS[index], "label": line.name}
            look["linestyle"] = DASHES[index] if numbers else "none"
            shift = 0.0 if numbers else 0.1 * (index - (len(lines) - 1) / 2)  # so that bars don't overlap
            places = [numbers[i] if numbers else i + shift for i in line.places]
            draw_bars(axes, places, line.spreads, metric, look)
        if numbers:
            parts.set_number_ticks(axes, numbers, texts)
        else:
            parts.set_word_ticks(axes, texts)
        axes.set(xlabel=short_keys([key, *others])[0], ylabel=describe_axis(metric))
        best = f"; the best {', '.join(short_keys(others))} by {monitor}"
        note = describe_spread(some) + best * (len(lines) == 1 and bool(others))
        parts.finish(figure, note + describe_left_out(configurations), names)
    return figure


def find_figure_key(given: str, configurations: Sequence[Configuration]) -> str:
    """The key of this name; the error for an unknown one names the other figures, too."""
    try:
        return find_key(given, configurations)
    except ConfigError as error:
        raise ConfigError(f"{error}; other figures: {', '.join(FIGURES)}") from None


@dataclass(frozen=True)
class Line:
    name: str
    places: Sequence[int]  # of its values among all of the key
    spreads: Sequence[Spread]


def find_lines(
    configurations: Sequence[Configuration],
    key: str,
    texts: Sequence[str],
    others: Sequence[str],
    metric: str,
    monitor: str,
) -> list[Line]:
    """A line for each combination of the other keys' values if these are few, else one of the best."""
    groups: dict[str, list[Configuration]] = {}
    for one in configurations:
        groups.setdefault(one.describe(others) or MISSING, []).append(one)
    if len(groups) > MOST:
        groups = {"": [*configurations]}
    lines = []
    for name, members in groups.items():
        best = [choose([one for one in members if one.text(key) == text], monitor) for text in texts]
        found = {place: one.spread(metric) for place, one in enumerate(best) if one}
        lines.append(Line(cut(name), [*found], [*found.values()]))
    return lines


def heat_map(table: Table) -> Figure:
    """The means of a table with two keys as colours and numbers; marked cells are bold and framed."""
    import matplotlib as mpl
    from matplotlib.colors import Normalize

    factor = parts.find_factor(table.metric)
    means = np.array([[table.cells[r, c].spread.mean for c in table.columns] for r in table.rows]) * factor
    if np.isnan(means).all():
        raise ConfigError(f"no run has a finite {table.metric}")
    count, tall = len(table.columns), len(table.rows)
    if max(count, tall) > MOST_VALUES:
        raise ConfigError(f"a heat map takes {MOST_VALUES} values of a key; got {max(count, tall):,}")
    lines = 2 if count <= 10 and tall <= 16 else 1
    wide, high = (0.95, 0.46) if lines == 2 else (0.6, 0.3)  # inches of a cell
    labels, left = ([cut(text, SHORT) for text in texts] for texts in (table.columns, table.rows))
    width = max(parts.WIDTH, wide * count + 1.2 + 0.07 * max(map(len, left)))
    room = 0.05 * max(map(len, labels)) if parts.is_slanted(labels, wide * count + 0.8) else 0.0
    figure = new_figure(width, high * tall + 1.2 + room)
    low, top = float(np.nanmin(means)), float(np.nanmax(means))
    norm = Normalize(low, top if top > low else low + 1e-3 * (abs(low) or 1.0))
    colors = mpl.colormaps["cividis_r" if table.metric.endswith("loss") else "cividis"]  # the best is light
    with style():
        axes = figure.add_subplot()
        image = axes.imshow(means, cmap=colors, norm=norm, aspect="auto")
        axes.set_facecolor("#F2F2F2")  # of empty cells
        draw_cells(axes, table, lambda row, column: parts.find_ink(colors(norm(means[row, column]))), lines)
        first, second = table.names
        axes.set(xlabel=second, ylabel=first, xticks=range(count), yticks=range(tall))
        axes.set_xticklabels(labels, **parts.tick_options(labels, wide * count + 0.8))
        axes.set_yticklabels(left)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        bar: Any = figure.colorbar(image, ax=axes, label=describe_axis(table.metric), pad=0.02)
        bar.outline.set_visible(False)
        note = f"{DEVIATION} (number of seeds)" if lines == 2 else "mean over seeds"
        best = f"; the best {', '.join(short_keys(table.chosen))} by {table.monitor}"
        parts.finish(figure, note + best * bool(table.chosen), [])
    return figure


def draw_cells(axes: Axes, table: Table, find_ink: Callable[[int, int], str], lines: int) -> None:
    """Writes the numbers of a table's cells in one line or two, and frames those that are marked."""
    from matplotlib.patches import Rectangle

    for row, first in enumerate(table.rows):
        for column, second in enumerate(table.columns):
            cell = table.cells[first, second]
            spread, spec = cell.spread, find_format(table.metric)
            ink = find_ink(row, column) if spread.n else "black"
            mean, _, deviation = f"{spread:{spec}}".replace("%", "").partition(" ± ")
            if lines == 2 and spread.n:
                mean += f"\n{f'± {deviation} ' * bool(deviation)}({spread.n})"
            weight = "bold" if cell.marked else "normal"
            axes.text(column, row, mean, ha="center", va="center", color=ink, weight=weight, fontsize=8)
            if cell.marked:
                corner = column - 0.46, row - 0.46
                axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=ink, linewidth=1.4))


def describe_spread(configurations: Sequence[Configuration], what: str = DEVIATION) -> str:
    """What is drawn of how many seeds: "mean ± standard deviation, 1 to 3 seeds"."""
    counts = sorted({len(one.runs) for one in configurations})
    if counts == [1]:
        return "1 seed"
    return f"{what}, {' to '.join(map(str, dict.fromkeys([counts[0], counts[-1]])))} seeds"


def describe_left_out(configurations: Sequence[Configuration]) -> str:
    """The runs that are not done, by status: "; left out: 6 stopped, 1 failed"; empty without any."""
    statuses = Counter(run.status for one in configurations for run in one.not_done)
    words = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
    return f"; left out: {words}" if words else ""


FIGURES = {"curves": curves, "parameters": parameters}
"""The figures that have a name; all others are named by their keys."""
