"""Tables for papers: a metric of runs, pivoted by one or two keys of their config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mnistjax.config import ConfigError
from mnistjax.report.configurations import (
    Configuration,
    check_metric,
    choose,
    find_key,
    find_varying,
    group_runs,
    short_keys,
    sort_values,
)
from mnistjax.report.runs import RunRecord
from mnistjax.report.sanitize import find_monitor
from mnistjax.report.table_text import format_latex, format_markdown
from mnistjax.seeds import Spread
from mnistjax.sweeps.results import format_csv
from mnistjax.verdicts import LEVEL, compare, rank_samples

QUALITIES = ("loss", "accuracy", "balanced_accuracy", "f1", "precision", "recall", "auc")  # of `val/`, ...
MOST_CELLS = 10_000  # of a table
LISTED = 6  # cells that a note names

Place = tuple[str, str]  # values of the keys in rows and columns


@dataclass(frozen=True)
class Cell:
    """The best configuration of a place in the table, by validation."""

    spread: Spread  # of the metric over seeds; empty without a run that is done
    others: Mapping[str, str]  # values of the other keys that vary, by dotted key
    not_done: int  # runs of all configurations of this place
    marked: bool  # the best cell, or not decidedly worse than that


@dataclass(frozen=True)
class Table:
    """Means of a metric over seeds. With one key, its only column is the metric."""

    metric: str
    keys: tuple[str, ...]  # one or two, in rows and in columns
    rows: tuple[str, ...]  # values of the first key
    columns: tuple[str, ...]  # values of the second key
    cells: Mapping[Place, Cell]  # in the order of rows, then columns; also empty ones
    chosen: tuple[str, ...]  # keys that vary within a cell, which shows the best by `monitor`
    monitor: str  # a validation metric
    notes: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The keys in short."""
        return short_keys(self.keys)

    def to_markdown(self) -> str:
        """The table as GitHub's Markdown, marked cells in bold, with its notes below it."""
        return format_markdown(self)

    def to_latex(self) -> str:
        """The table for LaTeX with the package booktabs, marked cells in bold, its notes as comments."""
        return format_latex(self)

    def to_csv(self) -> str:
        """A row for each cell, with unrounded numbers; it has no notes."""
        rows = []
        for (row, column), cell in self.cells.items():
            spread = cell.spread
            numbers = {
                f"{self.metric} mean": spread.mean if spread.n else "",
                f"{self.metric} std": spread.std if spread.n > 1 else "",
                f"{self.metric} 95 % +-": spread.mean_half_width if spread.n > 1 else "",
            }
            place = dict(zip(self.keys, (row, column), strict=False))
            counts = {"n": spread.n, "not done": cell.not_done, "marked": cell.marked}
            rows.append({**place, **cell.others, **numbers, **counts})
        others = [key for cell in self.cells.values() for key in cell.others]
        return format_csv(rows, [*self.keys, *others])

    def _repr_markdown_(self) -> str:
        return self.to_markdown()


def make_table(runs: Sequence[RunRecord], rows: str, columns: str | None, metric: str) -> Table:
    """The table of a metric by one key of the config, or by two.

    If other keys vary within a cell, it shows the best configuration by the validation metric that the runs
    monitor. ConfigError for a wrong key or metric, and if no run is done.
    """
    configurations = group_runs(runs)
    check_metric(metric, configurations)
    keys = tuple(find_key(key, configurations) for key in (rows, columns) if key is not None)
    if len({*keys}) < len(keys):
        raise ConfigError(f"a table needs two different keys; got {keys[0]} twice")
    monitor = find_monitor(runs)
    waiting = [one for one in configurations if not one.runs and any(key not in one.config for key in keys)]
    placed = [one for one in configurations if one not in waiting]
    axes = [tuple(sort_values(key, placed)) for key in keys]
    axes += [(metric,)] * (2 - len(axes))
    if len(axes[0]) * len(axes[1]) > MOST_CELLS:
        raise ConfigError(f"a table may have {MOST_CELLS:,} cells; got {len(axes[0]):,} x {len(axes[1]):,}")
    places: dict[Place, list[Configuration]] = {(row, column): [] for row in axes[0] for column in axes[1]}
    for one in placed:
        row, column, *_ = *map(one.text, keys), metric
        places[row, column].append(one)
    best = {place: choose(members, monitor) for place, members in places.items()}
    values = {place: one.values(metric) for place, one in best.items() if one}
    marked, why = find_marks(values, metric)
    others = [key for key in find_varying(configurations) if key not in keys]
    chosen_by = [key for key in others if any(differs(key, members) for members in places.values())]
    cells = {}
    for place, members in places.items():
        one = best[place]
        own = {key: one.text(key) for key in others if key in one.config} if one else {}
        spread = one.spread(metric) if one else Spread(())
        cells[place] = Cell(spread, own, sum(len(m.not_done) for m in members), place in marked)
    notes = [
        f"{metric}: mean ± standard deviation over seeds (number of seeds)",
        describe_choice(chosen_by, monitor),
        why,
        describe_missing(best, values, metric),
        describe_not_done(places, [run for one in waiting for run in one.not_done], len(keys)),
    ]
    return Table(metric, keys, axes[0], axes[1], cells, tuple(chosen_by), monitor, tuple(filter(None, notes)))


def differs(key: str, configurations: Sequence[Configuration]) -> bool:
    """Whether the configurations with a run that is done have different values of a key."""
    return len({one.text(key) for one in configurations if one.runs}) > 1


def find_marks(values: Mapping[Place, Mapping[int, float]], metric: str) -> tuple[set[Place], str]:
    """The best cell and those that are not decidedly worse, from the values by seed; and a note."""
    if sum(map(bool, values.values())) < 2:
        return set(), ""
    if metric.rpartition("/")[2] not in QUALITIES:
        return set(), f"Nothing is marked, because {metric} says nothing about quality"
    names = {str(number): place for number, place in enumerate(values)}
    samples = {name: values[place] for name, place in names.items() if len(values[place]) > 1}
    if len(samples) < 2:
        return set(), "Nothing is marked, because a verdict needs two cells with two or more seeds each"
    verdicts = compare(samples, metric, most=len(samples) - 1)  # of the best mean with all others
    (best, *_), _ = rank_samples(samples, metric)
    worse = {verdict.worse for verdict in verdicts if verdict.decided and verdict.better == best}
    marked = samples.keys() - worse
    single = sum(len(seeds) == 1 for seeds in values.values())
    pairs = len(samples) * (len(samples) - 1) // 2
    tests = f"t-tests, p < {LEVEL}, corrected for {pairs:,} pair{'s' * (pairs > 1)} by Holm's method"
    note = f"Marked: the best mean, and all cells that are not decidedly worse ({tests})"
    return {names[name] for name in marked}, note + "; cells with one seed have no verdict" * (single > 0)


def describe_choice(keys: Sequence[str], monitor: str) -> str:
    if not keys:
        return ""
    some = f"{', '.join(keys)} {'vary' if len(keys) > 1 else 'varies'}"
    return f"{some} within a cell, which shows the best configuration by mean {monitor}"


def describe_missing(
    best: Mapping[Place, Configuration | None], values: Mapping[Place, Mapping[int, float]], metric: str
) -> str:
    count = sum(len(one.runs) - len(values[place]) for place, one in best.items() if one)
    return f"Without a finite {metric}, and so left out: {count:,} run{'s' * (count > 1)}" if count else ""


def describe_not_done(
    places: Mapping[Place, Sequence[Configuration]], waiting: Sequence[RunRecord], keys: int
) -> str:
    """The runs that are not done, by status and cell; `waiting` are those that belong to no known cell."""
    found = {place: [run for one in some for run in one.not_done] for place, some in places.items()}
    found = {place: runs for place, runs in found.items() if runs}
    statuses = Counter(run.status for run in [*waiting, *(run for runs in found.values() for run in runs)])
    if not statuses:
        return ""
    counts = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
    where = [f"{' x '.join(place[:keys])}: {len(runs)}" for place, runs in [*found.items()][:LISTED]]
    where += ["..."] * (len(found) > LISTED)
    return f"Not done, and so left out: {counts}" + (f" ({', '.join(where)})" if where else "")
