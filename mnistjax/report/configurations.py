"""Configurations, the runs that differ only in their seed, for tables and figures.

Only runs that are done have values. The best of several configurations is chosen by the validation metric
that the runs monitor, never by a test metric.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mnistjax.config import ConfigError, badness, unknown
from mnistjax.report import bits
from mnistjax.report.runs import PLACES, RunRecord, done, name_runs, read_numbers
from mnistjax.report.sanitize import check_run
from mnistjax.seeds import Spread, describe_value, short_key
from mnistjax.sweeps.results import SILENT, align, shown

MISSING = "-"  # the text of a key that a run lacks


@dataclass(frozen=True, eq=False)
class Configuration:
    """The runs that differ only in their seed. A run that was repeated counts once, and so does a seed."""

    own: Mapping[str, str]  # the values that differ between configurations, by dotted key, as text
    config: Mapping[str, Any]  # all values of the first run, by dotted key
    runs: Sequence[RunRecord]  # that are done, with different seeds
    not_done: Sequence[RunRecord]

    def text(self, key: str) -> str:
        return shown(self.config[key]) if key in self.config else MISSING

    def values(self, metric: str) -> dict[int, float]:
        """The finite values of a metric by seed."""
        values = {find_seed(run): find_metrics(run).get(metric, math.nan) for run in self.runs}
        return {seed: value for seed, value in values.items() if math.isfinite(value)}

    def spread(self, metric: str) -> Spread:
        return Spread(tuple(self.values(metric).values()))

    def badness(self, monitor: str) -> float:
        """The mean of the monitored metric such that lower is better; infinite if a run has no number."""
        values = [float(run.kept_row.get(monitor, "nan")) for run in self.runs]
        mean = sum(values) / len(values) if values else math.nan
        return badness(monitor, mean) if math.isfinite(mean) else math.inf

    def describe(self, keys: Sequence[str]) -> str:
        """These values in a few words: "adam learning_rate=0.1"."""
        return " ".join(describe_value(key, self.text(key)) for key in keys if self.text(key) != MISSING)


def group_runs(runs: Sequence[RunRecord]) -> list[Configuration]:
    """The configurations, in the order of their runs; ConfigError if no run is done."""
    runs = find_distinct([check_run(run) for run in runs])
    configs = align([dict(run.config) for run in runs])
    runs = [replace(run, config=config) for run, config in zip(runs, configs, strict=True)]
    if not done(runs):
        raise ConfigError(f"none of the {len(runs):,} runs is done, so there is nothing to show")
    groups: dict[tuple[tuple[str, str], ...], list[RunRecord]] = {}
    for run, (_, own) in zip(runs, name_runs(runs), strict=True):
        groups.setdefault(tuple((key, shown(value)) for key, value in own.items()), []).append(run)
    begun = [run.config for run in runs if run.begun and run.config]
    keys = begun[0].items() if begun else ()
    common = {key: value for key, value in keys if all(c.get(key) == value for c in begun)}
    found = []
    for own, members in groups.items():
        first = next((run for run in members if run.begun), members[0])
        seeds = {find_seed(run): run for run in reversed(done(members))}
        others = [run for run in members if run.status != "done"]
        config = {**dict(own), **({} if first.begun else common), **first.config}
        found.append(Configuration(dict(own), config, [*reversed(seeds.values())], others))
    return found


def find_distinct(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs with each identity once, because a repeated run is not another seed; done ones come first."""
    kept: dict[Any, int] = {}
    for index, run in enumerate(runs):
        known = kept.setdefault(run.identity or index, index)
        if run.status == "done" != runs[known].status:
            kept[run.identity] = index
    return [runs[index] for index in sorted(kept.values())]


def find_seed(run: RunRecord) -> int:
    return run.seed if type(run.seed) is int else run.summary["seed"]


def find_metrics(run: RunRecord) -> dict[str, float]:
    """The metrics of the kept epoch and the numbers of `summary.json`."""
    row = {name: value for name, value in run.kept_row.items() if "/" in name}
    numbers = read_numbers({**run.summary, **row})
    return {k: float(v) for k, v in numbers.items() if k != "seed" and bits.is_number(v)}


def check_metric(metric: str, configurations: Iterable[Configuration]) -> None:
    """Raises ConfigError unless a run that is done has this metric."""
    known = {name: 0 for one in configurations for run in one.runs for name in find_metrics(run)}
    if metric not in known:
        first = sorted((name for name in known if "/" in name), key=lambda name: name.split("/")[0] != "test")
        raise unknown("metric", metric, known, first)


def choose(configurations: Iterable[Configuration], monitor: str) -> Configuration | None:
    """The best configuration by validation, the first one of equals; None if none has a run that is done."""
    return next(iter(rank(configurations, monitor)), None)


def rank(configurations: Iterable[Configuration], monitor: str) -> list[Configuration]:
    """The configurations that have a run that is done, the best by validation first."""
    return sorted((one for one in configurations if one.runs), key=lambda one: one.badness(monitor))


def find_front(configurations: Iterable[Configuration], monitor: str) -> list[Configuration]:
    """Those that are better by validation than all with as many parameters or fewer, the smallest first."""
    front: list[Configuration] = []
    known = [one for one in rank(configurations, monitor) if one.spread("parameters").n]
    for one in sorted(known, key=lambda one: one.spread("parameters").mean):  # of equals the best comes first
        if one.badness(monitor) < (front[-1].badness(monitor) if front else math.inf):
            front.append(one)
    return front


def find_varying(configurations: Iterable[Configuration]) -> list[str]:
    """The keys that differ between the configurations."""
    return [*dict.fromkeys(key for one in configurations for key in one.own)]


def find_key(given: str, configurations: Sequence[Configuration]) -> str:
    """The key of these configurations that has this name, or whose last part it is.

    `optimizer` is short for `optimizer.name`, and `learning_rate` for `optimizer.learning_rate`, if no other
    key ends with it. ConfigError for the seed, and for an unknown key.
    """
    if given == "seed":
        raise ConfigError("seed is no key of a table or a figure, because they show means over seeds")
    varying = find_varying(configurations)
    keys = {key: 0 for one in configurations for key in one.config if key not in PLACES}
    keys = [key for key in keys if key.partition(".")[0] not in SILENT]
    for key in (given, f"{given}.name"):
        if key in keys:
            return key
    for some in (varying, keys):
        ends = [key for key in some if key.rpartition(".")[2] == given]
        if len(ends) == 1:
            return ends[0]
    short, first = ([key.removesuffix(".name") for key in some] for some in (keys, varying))
    raise unknown("key", given, short, first)


def sort_values(key: str, configurations: Iterable[Configuration]) -> list[str]:
    """The different values of a key as text: numbers by value, then all others in their order."""
    values = {one.text(key): one.config.get(key) for one in configurations}
    numbers: dict[str, Any] = {text: value for text, value in values.items() if is_number(value)}
    others = [text for text in values if text not in numbers and text != MISSING]
    return [*sorted(numbers, key=numbers.__getitem__), *others, *[MISSING] * (MISSING in values)]


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def short_keys(keys: Sequence[str]) -> list[str]:
    """These keys without their groups, if that is unambiguous."""
    return [short_key(key, keys) for key in keys]
