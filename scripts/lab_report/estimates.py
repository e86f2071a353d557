"""Means over seeds with their standard errors, and the confidence that they lie in an interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from lab_report.study import VARIED, Number, Study, TooFew, pick_value
from mnistjax.report.runs import RunRecord, done
from mnistjax.seeds import Spread


class Share(NamedTuple):
    """Shares of the distribution of a mean, or of a difference of two means."""

    inside: float  # the share in the conclusion's interval
    beyond: float  # the larger one of the shares below and above the interval


@dataclass(frozen=True)
class Estimate:
    """A mean over runs, or a difference of two means, with its standard error."""

    mean: float
    error: float
    freedom: float
    left_out: int = 0  # runs that are not done

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference by Welch's method: the two need not have the same variance."""
        one, two = self.error**2, other.error**2
        total = one + two
        freedom = total**2 / (one**2 / self.freedom + two**2 / other.freedom) if total else math.inf
        return Estimate(self.mean - other.mean, math.sqrt(total), freedom)

    def share(self, low: float = -math.inf, high: float = math.inf) -> Share:
        """How much of the distribution lies between these bounds."""
        below, above = self._below(low), 1 - self._below(high)
        return Share(1 - below - above, max(below, above))

    def _below(self, bound: float) -> float:
        from scipy.stats import t

        if self.error == 0:
            return 0.5 if self.mean == bound else float(self.mean < bound)
        return float(t.cdf((bound - self.mean) / self.error, self.freedom))

    def __str__(self) -> str:
        left_out = f" ({self.left_out} not done)" if self.left_out else ""
        return f"{self.mean:.4g} ± {self.error:.2g}{left_out}"


Estimates = Mapping[Any, Estimate]  # by the value that an experiment varies
Relation = Callable[[Estimates], list[Share]]  # a claim about the means, a share for each of its parts


def estimate(runs: Sequence[RunRecord], number: Number) -> Estimate:
    """The mean of a number over the runs that are done; TooFew for fewer than two, or if one is too short."""
    spread = Spread(tuple(number(run) for run in done(runs)))
    if spread.n < 2 or not np.isfinite(spread.values).all():
        raise TooFew("a conclusion needs two runs that are long enough to measure it")
    return Estimate(spread.mean, spread.std / math.sqrt(spread.n), spread.n - 1, len(runs) - spread.n)


def estimate_each(study: Study, experiment: str, number: Number) -> Estimates:
    """The estimates of a number for each value that an experiment varies."""
    return {value: estimate(pick_value(study, experiment, value), number) for value in VARIED[experiment][1]}


def rising(estimates: Estimates) -> list[Share]:
    """The shares of the claim, for each mean but the first, that it is above the previous one."""
    return [(after - before).share(low=0) for before, after in pairwise(estimates.values())]


def falling(estimates: Estimates) -> list[Share]:
    """The shares of the claim, for each mean but the first, that it is below the previous one."""
    return [(before - after).share(low=0) for before, after in pairwise(estimates.values())]


def lowest(name: Any) -> Relation:
    """The claim that each other mean is above the mean for this value."""
    return lambda estimates: [
        (found - estimates[name]).share(low=0) for value, found in estimates.items() if value != name
    ]


def highest(name: Any) -> Relation:
    """The claim that each other mean is below the mean for this value."""
    return lambda estimates: [
        (estimates[name] - found).share(low=0) for value, found in estimates.items() if value != name
    ]


def between(low: float = -math.inf, high: float = math.inf) -> Relation:
    """The claim that each mean lies between these bounds."""
    return lambda estimates: [found.share(low, high) for found in estimates.values()]


def list_estimates(estimates: Estimates) -> str:
    return "; ".join(f"{value}: {found}" for value, found in estimates.items())
