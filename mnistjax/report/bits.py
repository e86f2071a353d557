"""Whether runs of the same identity have the same numbers, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mnistjax import records
from mnistjax.records.fields import EXACT
from mnistjax.report.runs import RunRecord, done
from mnistjax.report.sanitize import clean


@dataclass(frozen=True)
class Bits:
    """Whether finished runs of the same identity have the same numbers, apart from seconds."""

    compared: int = 0  # runs that are finished on both sides
    same: int = 0
    epoch: int | None = None  # the first one in which runs differ; None if only their tests do
    largest: float = 0.0  # the largest difference
    metric: str | None = None  # that has the largest difference


def compare_bits(before: Sequence[RunRecord], after: Sequence[RunRecord]) -> Bits:
    """Whether finished runs of the same identity have the same rows and the same test metrics."""
    others = {run.identity: run for run in done(after) if run.identity}
    pairs = {run.identity: (run, others[run.identity]) for run in done(before) if run.identity in others}
    same, first, largest, metric = 0, math.inf, 0.0, None
    for one, other in pairs.values():
        apart = [*find_apart(one, other)]
        same += not apart
        first = min([first, *(epoch for epoch, _, _ in apart if epoch)])
        for _, size, name in apart:
            if metric is None or size > largest or math.isnan(size):
                largest, metric = size, name
    return Bits(len(pairs), same, int(first) if first < math.inf else None, largest, metric)


def find_apart(one: RunRecord, other: RunRecord) -> list[tuple[int | None, float, str]]:
    """The numbers that differ between two runs: epoch (None for the test), absolute difference, metric.

    Metrics that only one of the runs recorded are left out. An epoch that only one has differs in its number.
    """
    tests = [{k: v for k, v in run.summary.items() if k.startswith("test/")} for run in (one, other)]
    pairs: list[tuple[int | None, Any]] = [*enumerate(zip(one.rows, other.rows, strict=False), start=1)]
    found: list[tuple[int | None, float, str]] = []
    for epoch, (here, there) in [*pairs, (None, tests)]:
        for key in here:
            sides = here[key], there.get(key)
            if "/" in key and sides[0] != sides[1] and all(map(is_number, sides)):  # a matrix is no number
                found.append((epoch, abs(float(sides[0]) - float(sides[1])), clean(key)))
    if len(one.rows) != len(other.rows):
        gap = abs(len(one.rows) - len(other.rows))
        found.append((min(len(one.rows), len(other.rows)) + 1, float(gap), "epochs"))
    return found


def is_number(value: Any) -> bool:
    """Whether a value of a record is a number, or one of the words for those that are not finite."""
    if type(value) is int:
        return abs(value) <= EXACT  # a larger one need not fit a float
    return type(value) is float or value in records.NOT_FINITE
