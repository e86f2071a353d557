"""Verdicts between configurations: whether one is better than another, by a metric's mean over seeds.

Two configurations are compared by Student's paired t-test on the seeds that both have, if these are at least
two, because a seed gives both the same initial numbers and the same order of images; else by Welch's t-test.
The p-values of several comparisons are corrected by Holm's method, so that in 95 of 100 sweeps without any
difference no verdict says that there is one. Values that are not finite count as missing.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mnistjax.config import badness

LEVEL = 0.05  # of p-values, for all comparisons together
MOST_COMPARED = 2_000  # configurations that a report compares unasked; 3,000 take 1.7 s
MOST_SEEDS = 1_000  # if more would be needed, a verdict does not say how many
HUGE = 1e60  # larger values count as this, so that their squares are numbers
MOST_LETTERED = 40  # configurations, the best ones
MOST_COLUMNS = 64  # of letters; with more, needless ones are dropped early


@dataclass(frozen=True)
class Verdict:
    """The comparison of two configurations; `better` has the better mean over the seeds compared."""

    better: str
    worse: str
    difference: float  # of their means, in favour of the better one: at least 0
    # 95 % confidence of the difference, for this comparison alone; of width 0 if all seeds differ equally.
    interval: tuple[float, float]
    p: float  # two-sided, corrected for all comparisons
    paired: bool  # by seed
    seeds: tuple[int, int]  # number of the values of both that are compared
    more: int | None = None  # about how many more seeds of each would decide; None if decided or unknown
    comparisons: int = 1  # for which p is corrected

    @property
    def decided(self) -> bool:
        return self.p < LEVEL

    def __format__(self, spec: str) -> str:
        """The verdict in words, with numbers in this format, ".2%" for example."""
        low, high = self.interval
        count = " and ".join(map(str, dict.fromkeys(self.seeds)))
        corrected = f" corrected for {self.comparisons:,} comparisons" * (self.comparisons > 1)
        p = f"p = {self.p:.2g}{corrected}"
        between = f"95 % {low:{spec}} to {high:{spec}}, " if low < high else ""
        how = f"{between}{p}, {count} seeds{', paired' * self.paired}"
        if self.decided:
            return f"{self.better} is better than {self.worse} by {self.difference:{spec}} ({how})"
        more = f"; about {self.more:,} more seed{'s' * (self.more != 1)} would decide" if self.more else ""
        return f"undecided: {self.better} is {self.difference:{spec}} ahead of {self.worse} ({how}){more}"


def compare(
    values: Mapping[str, Mapping[int, float]], metric: str, *, most: int | None = None
) -> list[Verdict]:
    """The verdict of each pair of configurations, from the values of a metric by name and seed.

    A loss is better if it is lower, another metric if it is higher. The order is that of the means over all
    seeds, the best first. Configurations with fewer than two values are left out. Only the first `most`
    verdicts are returned, but all pairs count in the correction.
    """
    names, ranked = rank_samples(values, metric)
    rows = [*compare_with_rest(ranked)]
    raw = join_p_values(rows)
    corrected, increasing = holm(raw), np.sort(raw)
    pairs = itertools.islice(itertools.combinations(range(len(names)), 2), most)
    return [
        _judge((names[i], names[j]), rows[i].pick(j - i - 1), p, increasing)
        for (i, j), p in zip(pairs, corrected, strict=False)
    ]


def compare_sides(
    sides: Sequence[tuple[Mapping[int, float], Mapping[int, float]]], metric: str, names: tuple[str, str]
) -> list[Verdict | None]:
    """The verdict of each pair of samples, such as a configuration's before and after a change of the code.

    `names` are those of the first and the second sample. The p-values are corrected for all these pairs. None
    if one of the two has fewer than two values.
    """
    tests: list[tuple[list[str], Comparison] | None] = []
    for pair in sides:
        ranking, ranked = rank_samples(dict(zip(names, pair, strict=True)), metric)
        tests.append((ranking, next(compare_with_rest(ranked)).pick(0)) if len(ranked) == 2 else None)
    raw = np.array([test.p for _, test in filter(None, tests)], float)
    corrected, increasing = iter(holm(raw)), np.sort(raw)
    return [
        _judge((test[0][0], test[0][1]), test[1], next(corrected), increasing) if test else None
        for test in tests
    ]


def share_seeds(
    one: Mapping[int, float], other: Mapping[int, float]
) -> tuple[dict[int, float], dict[int, float]]:
    """The finite values of two samples that a verdict compares: of two or more common seeds, else all."""
    finite = [{seed: value for seed, value in side.items() if np.isfinite(value)} for side in (one, other)]
    shared = finite[0].keys() & finite[1].keys()
    kept = [{seed: side[seed] for seed in sorted(shared if len(shared) > 1 else side)} for side in finite]
    return kept[0], kept[1]


def _judge(names: tuple[str, str], test: Comparison, p: float, increasing: np.ndarray) -> Verdict:
    """The verdict of a test of two samples.

    `p` is corrected; `increasing` are the p-values of all comparisons, not corrected.
    """
    if test.difference < 0:  # on the seeds that both have, the other one is better
        names, test = (names[1], names[0]), test.swap()
    others = len(increasing) - np.searchsorted(increasing, test.p)  # itself and those not more significant
    more = find_more_seeds(test, int(others)) if p >= LEVEL else None
    paired, sizes = bool(test.paired), (int(test.own), int(test.size))
    difference, interval = float(test.difference), find_interval(test)
    return Verdict(*names, difference, interval, p, paired, sizes, more, len(increasing))


def letters(values: Mapping[str, Mapping[int, float]], metric: str) -> dict[str, str]:
    """The letters of each configuration, by name in the order of `values`.

    Two configurations share a letter if and only if their verdict by `compare` is undecided. The best mean
    has an "a". The text is empty for a configuration with fewer than two values, and for all but the best
    MOST_LETTERED; but all pairs count in the correction. 1,000 configurations take about 0.5 s.

    >>> letters({"sgd": {0: 0.1, 1: 0.2}, "adam": {0: 0.8, 1: 0.91}, "lion": {0: 0.9}}, "val/accuracy")
    {'sgd': 'b', 'adam': 'a', 'lion': ''}
    """
    names, ranked = rank_samples(values, metric)
    corrected = iter(holm(join_p_values([*compare_with_rest(ranked)])))
    shown = min(len(names), MOST_LETTERED)
    decided = []
    for i in range(shown):
        row = [*itertools.islice(corrected, len(names) - i - 1)]
        decided += [(i, i + 1 + k) for k, p in enumerate(row[: shown - i - 1]) if p < LEVEL]
    found = dict.fromkeys(values, "")
    for letter, column in zip(_alphabet(), find_columns(shown, decided), strict=False):
        for index in column:
            found[names[index]] += letter
    return found


def find_columns(count: int, decided: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Groups of the numbers below `count`: two are together in some group unless their pair is decided.

    It is the insert-and-absorb algorithm of Piepho (2004), "An algorithm for a letter-based representation of
    all-pairwise comparisons", with his sweep, which drops a group if others hold all of its pairs.

    >>> find_columns(3, [(0, 2)])
    [[0, 1], [1, 2]]
    """
    columns = [frozenset(range(count))] if count else []
    for pair in decided:
        parts = {column - {one} for column in columns if column.issuperset(pair) for one in pair}
        if parts:
            columns = [column for column in columns if not column.issuperset(pair)]
            columns += [part for part in parts if not any(part < other for other in (*columns, *parts))]
        if len(columns) > MOST_COLUMNS:
            columns = _sweep(count, columns)
    return sorted(sorted(column) for column in _sweep(count, columns))


def _sweep(count: int, columns: Sequence[frozenset[int]]) -> list[frozenset[int]]:
    """The columns without those whose pairs are all in others, the smallest dropped first."""
    holds = np.zeros((count, count), int)  # how many columns hold a pair
    for column in columns:
        holds[np.ix_([*column], [*column])] += 1
    kept = []
    for column in sorted(columns, key=lambda column: (len(column), sorted(column))):
        own = np.ix_([*column], [*column])
        if (holds[own] > 1).all():
            holds[own] -= 1
        else:
            kept.append(column)
    return kept


def _alphabet() -> Iterator[str]:
    """Yields a, ..., z, A, ..., Z, then the letters of other alphabets."""
    yield from string.ascii_letters
    yield from filter(str.isalpha, map(chr, itertools.count(0xC0)))


def rank_samples(values: Mapping[str, Mapping[int, float]], metric: str) -> tuple[list[str], list[Sample]]:
    """The names and samples of the configurations with at least two values, the best mean first."""
    sign = -1.0 if badness(metric, 1.0) > 0 else 1.0
    samples = {}
    for name, by_seed in values.items():
        seeds = tuple(seed for seed in sorted(by_seed) if np.isfinite(by_seed[seed]))
        if len(seeds) > 1:
            numbers = np.array([by_seed[seed] for seed in seeds], float)
            samples[name] = Sample(seeds, sign * np.clip(numbers, -HUGE, HUGE))
    names = sorted(samples, key=lambda name: -samples[name].values.mean())
    return names, [samples[name] for name in names]


def join_p_values(rows: Sequence[Comparison]) -> np.ndarray:
    """The p-values of all pairs, not corrected, row after row."""
    return np.concatenate([row.p for row in rows]) if rows else np.zeros(0)


class Sample(NamedTuple):
    """The values of a metric of one configuration, in the order of its seeds; higher is better."""

    seeds: tuple[int, ...]
    values: np.ndarray


class Comparison(NamedTuple):
    """Comparisons of one configuration with several, in arrays, or with one of them."""

    difference: Any
    error: Any  # standard error of the difference
    freedom: Any  # degrees of freedom
    p: Any  # two-sided, not corrected
    paired: Any
    own: Any  # number of values of the one configuration that are compared
    size: Any  # and of the other

    def pick(self, index: int) -> Comparison:
        return Comparison(*(numbers[index] for numbers in self))

    def swap(self) -> Comparison:
        return self._replace(difference=-self.difference, own=self.size, size=self.own)


def compare_with_rest(ranked: Sequence[Sample]) -> Iterator[Comparison]:
    """The comparisons of each sample with those after it: Student's paired test, or Welch's."""
    from scipy.special import stdtr

    column = {seed: i for i, seed in enumerate(sorted({seed for one in ranked for seed in one.seeds}))}
    table = np.full((len(ranked), len(column)), np.nan)  # a row for each sample
    for row, one in zip(table, ranked, strict=True):
        row[[column[seed] for seed in one.seeds]] = one.values
    size, mean, part = (
        np.array([number(sample.values) for sample in ranked])
        for number in (len, np.mean, lambda values: values.var(ddof=1) / len(values))
    )
    for i, one in enumerate(ranked[:-1]):
        rest = slice(i + 1, None)
        gaps = one.values - table[rest][:, [column[seed] for seed in one.seeds]]
        shared, gap, deviation = describe_rows(gaps)
        paired = shared > 1
        squares = part[i] ** 2 / (size[i] - 1) + part[rest] ** 2 / (size[rest] - 1)
        spread = np.sqrt(part[i] + part[rest])
        welch = np.where(squares > 0, spread**4 / np.where(squares > 0, squares, 1), 1.0)
        difference = np.where(paired, gap, mean[i] - mean[rest])
        error = np.where(paired, deviation / np.sqrt(np.maximum(shared, 1)), spread)
        error[error <= 1e-12 * np.maximum(1.0, np.abs(difference))] = 0.0  # all seeds differ by the same
        freedom = np.where(paired, shared - 1, welch)
        sizes = np.where(paired, shared, size[i]), np.where(paired, shared, size[rest])
        p = np.where(difference == 0, 1.0, sign_p_value(np.minimum(*sizes)))
        p[error > 0] = 2 * stdtr(freedom, -np.abs(difference) / np.where(error > 0, error, 1))[error > 0]
        yield Comparison(difference, error, freedom, p, paired, *sizes)


def describe_rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many values of each row are finite, their mean and their standard deviation; 0 without enough."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    mean = np.where(known, values, 0).sum(axis=1) / np.maximum(count, 1)
    squares = (np.where(known, values - mean[:, None], 0) ** 2).sum(axis=1)
    return count, mean, np.sqrt(squares / np.maximum(count - 1, 1))


def sign_p_value(size: Any) -> Any:
    """The two-sided p-value of the sign test of seeds that all differ in the same direction.

    It stands for the t-test if they all differ by the same, which then would be sure of the difference. But
    an accuracy is a number of images: those of two seeds often differ by the same by chance.
    """
    return 2.0 ** (1.0 - size)


def find_interval(test: Comparison) -> tuple[float, float]:
    """The 95 % confidence interval of a difference."""
    from scipy.special import stdtrit

    half = stdtrit(test.freedom, 0.975) * test.error
    return float(test.difference - half), float(test.difference + half)


def holm(p_values: Sequence[float] | np.ndarray) -> list[float]:
    """The p-values corrected by Holm's step-down method, at most 1.

    >>> holm([0.01, 0.04, 0.03, 0.005])
    [0.03, 0.06, 0.06, 0.02]
    """
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values, kind="stable")
    steps = np.minimum(1.0, np.arange(len(p_values), 0, -1) * p_values[order])
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(steps)
    return corrected.tolist()


def find_more_seeds(test: Comparison, comparisons: int) -> int | None:
    """How many more seeds of each would decide, if the difference and the deviations stay as they are.

    `comparisons` is the factor of Holm's correction. None without a difference, if it takes more than
    MOST_SEEDS, or of samples of different sizes.
    """
    from scipy.special import stdtr

    if not test.difference or not (test.paired or test.own == test.size):
        return None
    size = int(min(test.own, test.size))
    count = np.arange(size + 1, size + 1 + MOST_SEEDS)
    freedom = (count - 1) * (1 if test.paired else 2)
    if test.error:
        p = 2 * stdtr(freedom, -test.difference / (test.error * size**0.5) * np.sqrt(count))
    else:
        p = sign_p_value(count)
    enough = np.flatnonzero(comparisons * p < LEVEL)
    return int(count[enough[0]] - size) if len(enough) else None
