"""Two sweeps, or two versions of the code, compared: their configs, versions, results and bits.

The records may come from anyone, so all texts are cleaned, and runs whose records make no sense count as
failed. "Before" and "after" are the two sides, whatever happened first.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnistjax.compose import OLD, flatten
from mnistjax.config import unknown
from mnistjax.report.bits import Bits, compare_bits
from mnistjax.report.configurations import find_metrics
from mnistjax.report.runs import RunRecord, done, read_configs
from mnistjax.report.sanitize import check_run, clean, find_monitor
from mnistjax.seeds import Spread, describe_value
from mnistjax.sweeps.results import SILENT, shown, varying
from mnistjax.verdicts import Verdict, compare_sides, share_seeds

LONGEST_LABEL = 30  # characters
LONGEST_VALUE = 200  # characters of a value of a config or a version
Config = tuple[tuple[str, str], ...]  # sorted pairs of a dotted key and a value as JSON
Values = dict[Config, dict[int, float]]  # a metric by configuration and seed


@dataclass(frozen=True)
class Difference:
    """A key of the config, or a version, with the different values of both sides as text."""

    key: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """A metric of a configuration that both sides have."""

    name: str  # the values in which it differs from the others
    metric: str
    before: Spread
    after: Spread
    verdict: Verdict | None  # None if a side has fewer than two values

    @property
    def difference(self) -> float:
        """The mean after minus the mean before."""
        return self.after.mean - self.before.mean

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the difference, for this comparison alone."""
        if self.verdict is None:
            return None
        low, high = self.verdict.interval  # in favour of the better side
        return (low, high) if self.difference >= 0 else (-high, -low)

    @property
    def equal(self) -> bool:
        """Whether all values are the same on both sides, which have some."""
        return self.before.n > 0 and self.before == self.after


@dataclass(frozen=True)
class Comparison:
    """What differs between two collections of runs."""

    labels: tuple[str, str]
    counts: tuple[int, int]  # of runs
    unfinished: tuple[dict[str, int], dict[str, int]]  # runs that are not done, by status
    config: tuple[Difference, ...]
    versions: tuple[Difference, ...]  # of programs, devices and data
    metrics: tuple[str, ...]
    results: tuple[Result, ...]  # metric after metric
    only: tuple[tuple[str, ...], tuple[str, ...]]  # names of the configurations that one side has
    lone_seeds: tuple[int, int]  # finished runs of the compared configurations with a seed of one side
    bits: Bits


def compare_runs(
    before: Iterable[RunRecord],
    after: Iterable[RunRecord],
    metric: str | None = None,
    *,
    labels: tuple[str, str] = ("A", "B"),
) -> Comparison:
    """What differs between two collections of runs in config, versions, results and bits.

    Configurations match if all values are equal except those of the keys that have one value before and
    another one after. Results are compared by `metric`, else by test/accuracy and the monitored metric. Only
    runs that are done have results. ConfigError if no run has the metric.
    """
    sides = [check_run(run) for run in before], [check_run(run) for run in after]
    configs = iter(read_configs([*sides[0], *sides[1]]))
    read = [[(read_values(next(configs)), run) for run in side] for side in sides]
    begun = [[(values, run) for values, run in side if run.begun] for side in read]
    differences = find_differences(*([values for values, _ in side] for side in begun))
    changed = {found.key for found in differences if len(found.before) == len(found.after) == 1}
    known = [{freeze_config(values, changed): values for values, _ in side} for side in begun]
    names = name_configs({**known[0], **known[1]}, changed)
    finished = [
        [(freeze_config(values, changed), run) for values, run in side if run.status == "done"]
        for side in begun
    ]
    metrics = choose_metrics(sides, metric)
    values = [(collect_values(finished[0], name), collect_values(finished[1], name)) for name in metrics]
    results = [
        compare_results(*pair, name, names, labels) for name, pair in zip(metrics, values, strict=True)
    ]
    versions = [[read_versions(run) for run in done(side)] for side in sides]
    return Comparison(
        labels=labels,
        counts=(len(sides[0]), len(sides[1])),
        unfinished=(count_unfinished(sides[0]), count_unfinished(sides[1])),
        config=tuple(differences),
        versions=tuple(find_differences(*versions)),
        metrics=metrics,
        results=tuple(itertools.chain(*results)),
        only=(
            tuple(name for config, name in names.items() if config not in known[1]),
            tuple(name for config, name in names.items() if config not in known[0]),
        ),
        lone_seeds=count_lone_seeds(*values[-1]),
        bits=compare_bits(*sides),
    )


def find_labels(before: Path, after: Path) -> tuple[str, str]:
    """Short names of two folders: the last parts of their paths that differ; else "A" and "B".

    >>> find_labels(Path("/v1/sweep"), Path("/v2/sweep"))
    ('v1', 'v2')
    """
    parts = (reversed(folder.resolve().parts) for folder in (before, after))
    for one, other in itertools.zip_longest(*parts, fillvalue=""):
        if one != other:
            labels = clean(one), clean(other)
            usable = all(len(label) <= LONGEST_LABEL and label.strip("/ ") for label in labels)
            return labels if usable else ("A", "B")
    return "A", "B"


def read_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config that can change results, by dotted key, without the seed.

    Older configs lack keys whose default is false or None.
    """
    return {
        key: value
        for key, value in {**OLD, **config}.items()
        if not (value is False or value is None or key.partition(".")[0] in SILENT)
    }


def freeze_config(values: Mapping[str, Any], left_out: Iterable[str]) -> Config:
    """A configuration without some keys, as a key of a dict."""
    left_out = {*left_out}
    return tuple(sorted((key, json.dumps(values[key])) for key in values if key not in left_out))


def find_differences(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> list[Difference]:
    """The keys whose sets of values differ between two collections of configs; none if one is empty."""
    if not before or not after:
        return []
    keys = dict.fromkeys(key for values in (*before, *after) for key in values)
    found = []
    for key in keys:
        sides = [dict.fromkeys(_text(values, key) for values in side) for side in (before, after)]
        if sides[0].keys() != sides[1].keys():
            found.append(Difference(key, tuple(sides[0]), tuple(sides[1])))
    return found


def _text(values: Mapping[str, Any], key: str) -> str:
    """A value as text, "-" if it is missing."""
    return clean(shown(values[key]))[:LONGEST_VALUE] if key in values else "-"


def name_configs(configs: Mapping[Config, Mapping[str, Any]], left_out: Iterable[str]) -> dict[Config, str]:
    """The name of each configuration, made of the values in which they differ; "all" if there is one."""
    left_out, names = {*left_out}, {}
    own = varying(
        {i: {k: v for k, v in one.items() if k not in left_out} for i, one in enumerate(configs.values())}
    )
    for i, config in enumerate(configs):
        words = (describe_value(key, shown(value)) for key, value in own[i].items())
        names[config] = clean(" ".join(words))[:LONGEST_VALUE] or "all"
    return names


def choose_metrics(sides: Sequence[Sequence[RunRecord]], metric: str | None) -> tuple[str, ...]:
    """The metric, else test/accuracy if both sides have it, and the metric that most runs monitor.

    ConfigError if no finished run has the given metric.
    """
    have = [{name for run in done(side) for name in find_numbers(run)} for side in sides]
    if metric is None:
        tested = ("test/accuracy",) if all("test/accuracy" in names for names in have) else ()
        return (*tested, find_monitor([run for side in sides for run in side]))
    if not any(metric in names for names in have):
        raise unknown("metric", metric, have[0] | have[1])
    return (metric,)


def find_numbers(run: RunRecord) -> dict[str, float]:
    """The metrics of a run's kept epoch and of its test, by name."""
    return {clean(key): value for key, value in find_metrics(run).items() if "/" in key}


def collect_values(finished: Sequence[tuple[Config, RunRecord]], metric: str) -> Values:
    """The values of a metric of finished runs, by configuration and seed."""
    values: Values = {}
    for config, run in finished:
        number = find_numbers(run).get(metric)
        if number is not None and type(run.seed) is int:
            values.setdefault(config, {}).setdefault(run.seed, number)
    return values


def compare_results(
    before: Values, after: Values, metric: str, names: Mapping[Config, str], labels: tuple[str, str]
) -> list[Result]:
    """The results of the configurations that both sides have, in the order of their names."""
    both = [config for config in names if config in before and config in after]
    verdicts = compare_sides([(before[config], after[config]) for config in both], metric, labels)
    found = []
    for config, verdict in zip(both, verdicts, strict=True):
        one, other = share_seeds(before[config], after[config])
        spreads = Spread(tuple(one.values())), Spread(tuple(other.values()))
        found.append(Result(names[config], metric, *spreads, verdict))
    return found


def count_lone_seeds(before: Values, after: Values) -> tuple[int, int]:
    """How many values of the common configurations have a seed that only this side has."""
    both = [config for config in before if config in after]
    lone = [(before[config].keys() - after[config], after[config].keys() - before[config]) for config in both]
    return sum(len(one) for one, _ in lone), sum(len(other) for _, other in lone)


def count_unfinished(runs: Sequence[RunRecord]) -> dict[str, int]:
    """How many runs are not done, by status."""
    return dict(Counter(run.status for run in runs if run.status != "done"))


def read_versions(run: RunRecord) -> dict[str, Any]:
    """The versions, device and data of a finished run, by name: its bits depend on them, too."""
    summary, data = run.summary, run.summary["data"]
    own = {"data": data["name"], "data.sha256": data["sha256"], "lanes": summary.get("lanes")}
    versions, device = summary.get("versions"), {"device": summary["device"]}
    programs = dict(versions) if isinstance(versions, Mapping) else {}
    facts = {**programs, **dict(flatten(device)), **own}
    return {clean(key): value for key, value in facts.items() if value is not None}
