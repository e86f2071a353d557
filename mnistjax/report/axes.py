"""Parts of figures for papers: error bars, scales, ticks, labels, legends and notes."""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mnistjax.report.figures import INK, SLANTED, TEST, TRAIN, VAL, new_figure, style
from mnistjax.seeds import Spread, find_format
from mnistjax.words import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLORS = (TRAIN, VAL, TEST, "#CC79A7", "#E69F00", "#56B4E9", INK)  # Okabe and Ito, without yellow
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = "osD^vPX"
MOST = len(COLORS)  # lines in a figure
WIDTH, HEIGHT = 4.2, 2.9  # inches, without a legend: text of 9.5 points has 7.5 in a column of 3.3 inches
NOTE = 8.0  # points of a note's letters, which are about 0.066 inches wide
LONGEST = 48  # characters of a name in a legend
SHORT = 20  # characters of a name at a tick
TICKS = 10  # numbers with a tick each
LETTER = 0.09  # inches of a letter at a tick, at most
LONG_NUMBER = re.compile(r"\d*\.\d{5,}(e[-+]\d+)?")
SPAN = 100.0  # from the lowest to the highest number of a log axis, at least


def start(names: Sequence[str], labels: Sequence[str] = ()) -> tuple[Figure, Axes]:
    """An empty figure with one plot and room for a legend of these names, and for labels below the axis."""
    rows = math.ceil(len(names) / legend_columns(names)) if len(names) > 1 else 0
    width = min(14.0, max(WIDTH, 0.2 * len(labels) + 1.0))
    room = 0.05 * max(map(len, labels)) if is_slanted(labels, width) else 0.0
    figure = new_figure(width, HEIGHT + 0.19 * rows + room)
    with style():
        return figure, figure.add_subplot()


def legend_columns(names: Sequence[str]) -> int:
    return max(1, int(WIDTH / (0.6 + 0.075 * max(map(len, names), default=1))))


def finish(figure: Figure, note: str, names: Sequence[str]) -> None:
    """Writes the note above the plot, and the legend below it if there are several names."""
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.04, h_pad=0.04)  # inches
    width = int(figure.get_figwidth() / 0.066)
    text = textwrap.fill(printable(note), width)
    figure.suptitle(text, x=0.01, ha="left", fontsize=NOTE, color="#555555")
    if len(names) > 1:
        columns = legend_columns(names)
        figure.legend(
            loc="outside lower center", borderaxespad=0, ncols=columns, fontsize=NOTE + 0.5, handlelength=2.6
        )


def cut(name: str, longest: int = LONGEST) -> str:
    """A name as one line that fits: its middle is cut, and numbers have four digits."""
    name, half = LONG_NUMBER.sub(lambda match: f"{float(match[0]):.4g}", printable(name)), longest // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[1 - half :]}"


def find_factor(metric: str) -> float:
    """By which values are multiplied for an axis: 100 for percent."""
    return 100.0 if find_format(metric).endswith("%") else 1.0


def describe_axis(metric: str) -> str:
    """The metric and its unit."""
    unit = " (%)" if find_factor(metric) == 100 else " (nats per image)" if metric.endswith("loss") else ""
    return f"{printable(metric)}{unit}"


def draw_bars(
    axes: Axes, places: Sequence[float], spreads: Sequence[Spread], metric: str, look: dict[str, Any]
) -> None:
    """Draws means with bars of one standard deviation; without a bar for one seed."""
    factor = find_factor(metric)
    means = [factor * spread.mean for spread in spreads]
    bars = [factor * spread.std if spread.n > 1 else 0.0 for spread in spreads]
    axes.errorbar(places, means, yerr=bars, capsize=2.5, markersize=5, linewidth=1.4, elinewidth=1.0, **look)


def scale_in_logs(axis: Axis, numbers: Sequence[float]) -> None:
    """Makes an axis logarithmic, with plain numbers at its ticks, if the numbers are positive and differ."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    if not numbers or not 0 < min(numbers) < max(numbers):
        return
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
    ratio = max(numbers) / min(numbers)
    steps = (1.0, 2.0, 5.0) if ratio < 30 else (1.0,)
    axis.set_major_locator(MaxNLocator(4) if ratio < 4 else LogLocator(subs=steps))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def is_even_in_logs(numbers: Sequence[float]) -> bool:
    """Whether sorted numbers span two orders of magnitude, and leave smaller gaps on a logarithmic axis."""
    if numbers[0] <= 0 or numbers[-1] / numbers[0] < SPAN:
        return False
    return find_gap([math.log(number) for number in numbers]) <= find_gap(numbers)


def find_gap(numbers: Sequence[float]) -> float:
    """The widest gap between sorted numbers, as a share of all."""
    gaps = [high - low for low, high in itertools.pairwise(numbers)]
    return max(gaps) / (numbers[-1] - numbers[0])


def set_number_ticks(axes: Axes, numbers: Sequence[float], texts: Sequence[str]) -> None:
    """Scales the axis below for sorted numbers; a few of them have a tick each."""
    from matplotlib.ticker import NullLocator

    logs = is_even_in_logs(numbers)
    if logs:
        scale_in_logs(axes.xaxis, numbers)
    if len(numbers) > TICKS:
        return
    places = [math.log(number) for number in numbers] if logs else numbers
    inches = (find_width(axes) - 0.9) / ((places[-1] - places[0]) or 1.0)  # of a unit
    end, labels = -math.inf, []
    for place, text in zip(places, texts, strict=True):
        label, center = cut(text, SHORT), inches * place
        room = LETTER * (len(label) + 1) / 2
        labels.append(label if center - room >= end else "")
        end = center + room if labels[-1] else end
    axes.set_xticks(numbers, labels)
    axes.xaxis.set_minor_locator(NullLocator())


def set_word_ticks(axes: Axes, texts: Sequence[str]) -> None:
    """Gives each word a tick on the axis below."""
    labels = [cut(text, SHORT) for text in texts]
    axes.set_xticks(range(len(labels)), labels, **tick_options(labels, find_width(axes)))
    axes.set_xlim(-0.6, len(labels) - 0.4)


def find_width(axes: Axes) -> float:
    """The inches of the whole figure."""
    figure: Any = axes.figure
    return figure.get_figwidth()


def is_slanted(labels: Sequence[str], width: float) -> bool:
    """Whether labels side by side don't fit in so many inches of a figure."""
    return bool(labels) and LETTER * len(labels) * (max(map(len, labels)) + 1) > width - 0.8


def tick_options(labels: Sequence[str], width: float) -> dict[str, Any]:
    """Text options for labels below an axis: slanted unless they fit side by side."""
    return SLANTED if is_slanted(labels, width) else {}


def find_ink(color: tuple[float, float, float, float]) -> str:
    """White or black, whichever is easier to read on this colour (by the contrast of WCAG 2)."""
    parts = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3])
    luminance = sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"
