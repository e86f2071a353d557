"""Statistics over seeds, for runs that differ only in their seed.

A row describes a run like a row of `results.csv`: config values by dotted key, `status`, `epoch` (the last
one), and metrics by name ("" if missing).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mnistjax.config import badness

TESTED = ("test/accuracy", "test/f1")  # every table over seeds has them and the monitored metric
COUNTS = ("parameters", "test/count")  # metrics that are whole numbers


@dataclass(frozen=True)
class Spread:
    """The values of one metric over seeds. The format ".2%" gives "98.76% ± 0.12%", or "-" without values."""

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        """The mean; nan without values, and if one is not finite."""
        return statistics.fmean(self.values) if self.n and self._finite else math.nan

    @property
    def std(self) -> float:
        """The standard deviation of a sample; nan for fewer than two values, and if one is not finite."""
        return statistics.stdev(self.values) if self.n > 1 and self._finite else math.nan

    @property
    def mean_half_width(self) -> float:
        """Half the 95 % confidence interval of the mean (Student's t); nan for fewer than two values."""
        return self._quantile * self.std / self.n**0.5 if self.n > 1 else math.nan

    @property
    def next_half_width(self) -> float:
        """Half the 95 % prediction interval for one more seed; nan for fewer than two values."""
        return self._quantile * self.std * math.sqrt(1 + 1 / self.n) if self.n > 1 else math.nan

    @property
    def _finite(self) -> bool:
        return all(map(math.isfinite, self.values))

    @property
    def _quantile(self) -> float:
        from scipy.special import stdtrit

        return float(stdtrit(self.n - 1, 0.975))

    def __format__(self, spec: str) -> str:
        if not self.values:
            return "-"
        return f"{self.mean:{spec}}" + (f" ± {self.std:{spec}}" if self.n > 1 else "")


@dataclass(frozen=True)
class Seeds:
    """The runs of one configuration."""

    config: dict[str, str]  # by dotted key
    spreads: dict[str, Spread]  # of the runs that are done, or else stopped, by metric
    not_done: int
    stopped: int | None = None  # epochs after which a rung of successive halving stopped it


def group_seeds(rows: Sequence[Mapping[str, Any]], monitor: str) -> list[Seeds]:
    """The configurations, the best mean of the monitored metric first, those without a finite one last.

    Each seed counts once. Stopped configurations follow those that are done, ordered by the epochs that they
    came to, then by their means.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        config = tuple((key, str(row[key])) for key in row if is_option(key))
        groups.setdefault(config, []).append(row)

    def spread(runs: Sequence[Mapping[str, Any]], metric: str) -> Spread:
        return Spread(tuple(float(run[metric]) for run in runs if run.get(metric, "") != ""))

    found = []
    for config, runs in groups.items():
        done, stopped = (take_seeds([run for run in runs if run["status"] == x]) for x in ("done", "stopped"))
        spreads = {metric: spread(done or stopped, metric) for metric in (monitor, *TESTED)}
        epochs = None if done else min((int(run["epoch"]) for run in stopped), default=None)
        found.append(Seeds(dict(config), spreads, sum(run["status"] != "done" for run in runs), epochs))

    def order(seeds: Seeds) -> tuple[bool, int, float]:
        one = seeds.spreads[monitor]
        unknown = not math.isfinite(one.mean)
        return unknown, -(seeds.stopped or 2**53), 0.0 if unknown else badness(monitor, one.mean)

    return sorted(found, key=order)


def take_seeds(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first row of each seed, and those without one."""
    found: dict[Any, Mapping[str, Any]] = {}
    for place, row in enumerate(rows):
        seed = row.get("seed", "")
        found.setdefault((place,) if seed in ("", None) else seed, row)
    return [*found.values()]


def by_seed(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, dict[int, float]]:
    """The values of a metric of the runs that are done, by the configuration's name and the seed."""
    values: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["status"] == "done" and row.get(metric, "") != "" and type(row["seed"]) is int:
            values.setdefault(name_config(row), {}).setdefault(row["seed"], float(row[metric]))
    return values


def name_config(row: Mapping[str, Any]) -> str:
    """The name of a configuration, made of the config values of a row."""
    return " ".join(describe_value(key, row[key]) for key in row if is_option(key))


def is_option(column: str) -> bool:
    """Whether a column of `results.csv` is a value of the config, but not the seed."""
    return "." in column or column == "init_from"


def describe_value(key: str, value: Any) -> str:
    """A value of a config in the name of a run: "adam" for `optimizer.name`, else "learning_rate=0.1"."""
    last = key.rpartition(".")[2]
    return str(value) if last == "name" else f"{last}={value}"


def short_key(key: str, keys: Sequence[str]) -> str:
    """A key without its group if that is unambiguous: learning_rate for optimizer.learning_rate."""
    key = key.removesuffix(".name")
    last = key.rpartition(".")[2]
    return last if sum(other.removesuffix(".name").rpartition(".")[2] == last for other in keys) == 1 else key


def find_format(metric: str) -> str:
    """The format of a metric in text."""
    if metric in COUNTS:
        return ",.0f"
    return ".2%" if metric.endswith("accuracy") else ".4f" if "/" in metric else ".4g"


def seeds_table(rows: Sequence[Mapping[str, Any]], monitor: str) -> list[dict[str, Any]]:
    """A row for each configuration, best first: mean, deviation and 95 % interval of each metric.

    With stopped configurations it also has the epochs after which these stopped.
    """
    table, ranked = [], group_seeds(rows, monitor)
    stopped = any(seeds.stopped for seeds in ranked)
    for seeds in ranked:
        row: dict[str, Any] = dict(seeds.config)
        for name, spread in seeds.spreads.items():
            known = spread.n > 1
            row[f"{name} mean"] = spread.mean
            row[f"{name} std"] = spread.std if known else None
            row[f"{name} 95 % +-"] = spread.mean_half_width if known else None
        row |= {"n": seeds.spreads[monitor].n, "not done": seeds.not_done}
        table.append(row | ({"stopped after": seeds.stopped} if stopped else {}))
    return table
