# pyright: strict
"""Successive halving: at each rung the best configurations of a sweep go on, and the others stop.

Of n configurations, n / factor go on at each rung. The rungs are at 1 / factor, 1 / factor^2, ... of the
epochs, as many as leave a configuration and an epoch (Jamieson and Talwalkar, 2016,
https://arxiv.org/abs/1502.07943). Decisions depend on validation metrics in the records alone, so a sweep
that was killed decides the same.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from mnistjax.config import ConfigError, badness
from mnistjax.job import Job
from mnistjax.sweeps.groups import data_key

Rank = Literal["last", "best"]
"""The value by which a rung ranks a run: that of its last epoch, or the best one so far."""


class Entrant(NamedTuple):
    """A job as a competition sees it."""

    competition: Hashable  # jobs with another one, on other data for example, do not compete
    configuration: Hashable  # equal for jobs that differ only in their seeds
    epochs: int


@dataclass(eq=False)
class Trial:
    """A configuration, which is ranked by the mean of its jobs."""

    jobs: list[int]  # numbers
    pauses: tuple[int, ...]  # epochs after which its jobs wait, at each rung
    epochs: int  # at the end
    passed: int = 0  # rungs
    stopped: bool = False
    values: list[float] = field(default_factory=list[float])  # at the rungs that all its jobs have reached


class Decision(NamedTuple):
    """What the rungs have decided: the jobs that go on, and why the others stop."""

    onward: list[int]
    stopped: dict[int, str]


class Halving:
    """The rungs of a sweep. `entrants` are its jobs by number."""

    def __init__(
        self, entrants: Mapping[int, Entrant], factor: int, *, monitor: str, rank: Rank = "last"
    ) -> None:
        self._factor, self._monitor, self._rank = factor, monitor, rank
        self._curves: dict[int, Sequence[float]] = {}  # badness of a job after each epoch
        self._over: dict[int, bool] = {}  # jobs that can't go on, and whether they are done
        self._trials: dict[int, Trial] = {}  # by the numbers of their jobs
        found: dict[Hashable, dict[Hashable, list[int]]] = {}
        for number, entrant in entrants.items():
            found.setdefault(entrant.competition, {}).setdefault(entrant.configuration, []).append(number)
        self._competitions: list[list[Trial]] = []
        for configurations in found.values():
            epochs = [entrants[numbers[0]].epochs for numbers in configurations.values()]
            rungs = count_rungs(len(configurations), min(epochs), factor)
            self._competitions.append(
                [
                    Trial(numbers, find_pauses(most, factor, rungs), most)
                    for numbers, most in zip(configurations.values(), epochs, strict=True)
                ]
            )
            self._trials |= {number: trial for trial in self._competitions[-1] for number in trial.jobs}

    def pause(self, number: int) -> int | None:
        """The epochs after which a job waits next; None if it goes on to its end."""
        trial = self._trials[number]
        return trial.pauses[trial.passed] if trial.passed < len(trial.pauses) else None

    def waits(self, number: int) -> bool:
        """Whether a job has stopped, or has come to a rung that has not decided yet."""
        pause = self.pause(number)
        at_rung = pause is not None and len(self._curves.get(number, ())) >= pause
        return at_rung or self._trials[number].stopped

    def record(self, number: int, status: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes a job's rows, which may have come to a rung; a failed or diverged job ranks last there."""
        trial = self._trials[number]
        self._curves[number] = [badness(self._monitor, float(row[self._monitor])) for row in rows]
        if status in ("done", "failed", "diverged"):
            self._over[number] = status == "done"
        trial.stopped = trial.stopped or status == "stopped"
        for epochs in trial.pauses[len(trial.values) :]:
            values = [value for job in trial.jobs if (value := self._value(job, epochs)) is not None]
            if len(values) < len(trial.jobs):
                break
            trial.values.append(statistics.fmean(values))
        while trial.passed < len(trial.pauses) and len(rows) > trial.pauses[trial.passed]:
            trial.passed += 1  # as an earlier process has decided

    def _value(self, number: int, epochs: int) -> float | None:
        """The value of a job at a rung; infinity without a result, None if it has not come there."""
        curve = self._curves.get(number, ())
        if len(curve) < epochs and number not in self._over:
            return None
        if not curve or (len(curve) < epochs and not self._over[number]):
            return math.inf
        value = min(curve[:epochs]) if self._rank == "best" else curve[:epochs][-1]
        return math.inf if math.isnan(value) else value

    def decide(self, *, early: bool = True) -> Decision:
        """Decides what can be decided now; `early` lets jobs go on as soon as that is certain."""
        decision = Decision([], {})
        for trials in self._competitions:
            self._decide(trials, decision, early)
        return decision

    def _decide(self, entrants: list[Trial], decision: Decision, early: bool) -> None:
        rungs = len(entrants[0].pauses)
        for rung in range(rungs):
            known = [trial for trial in entrants if len(trial.values) > rung]
            missing = len(entrants) - len(known)
            certain = self._keep(len(entrants)) - missing  # so many go on, whatever the missing ones give
            if certain <= 0 or (missing and not early):
                return
            known.sort(key=lambda trial: (trial.values[rung], trial.jobs[0]))
            for place, trial in enumerate(known, start=1):
                going_on = [number for number in trial.jobs if number not in self._over]
                if trial.passed > rung or trial.stopped:
                    continue
                if place <= certain:
                    trial.passed += 1
                    decision.onward.extend(going_on)
                elif not missing:
                    trial.stopped = True
                    why = f"rung {rung + 1} of {rungs + 1}: {ordinal(place)} of {len(known)}"
                    decision.stopped.update(dict.fromkeys(going_on, why))
            if missing:
                return
            entrants = [trial for trial in entrants if trial.passed > rung]

    def _keep(self, trials: int) -> int:
        """How many of these go on."""
        return max(1, trials // self._factor)

    def describe_rung(self) -> str:
        """The first rung that has not decided, "rung 2 of 4", of the competition that is behind."""
        behind = [
            (min(trial.passed for trial in going_on), len(trials[0].pauses))
            for trials in self._competitions
            if trials[0].pauses and (going_on := [trial for trial in trials if not trial.stopped])
        ]
        passed, rungs = min(behind, default=(0, 0))
        return f"rung {passed + 1} of {rungs + 1}" if behind else ""

    def describe(self) -> list[str]:
        """Text lines: how many configurations go on to how many epochs, and what that saves."""
        lines: list[str] = []
        for ends, counts, some, most in self._expect():
            if len(ends) == 1:
                few = f"{counts[0]} configurations of {ends[0]} epochs are too few"
                lines.append(f"halving: none; {few} for a factor of {self._factor}")
                continue
            further = "".join(
                f", {count} go on to {end}" for count, end in zip(counts[1:], ends[1:], strict=True)
            )
            first = f"{counts[0]} configurations to epoch {ends[0]}"
            lines.append(f"halving: {first}{further}; {some:,} of {most:,} epochs ({some / most:.0%})")
        return lines

    @property
    def share(self) -> float:
        """The expected share of the epochs of all jobs that are trained."""
        expected = self._expect()
        return sum(some for *_, some, _ in expected) / max(1, sum(most for *_, most in expected))

    def _expect(self) -> list[tuple[list[int], list[int], int, int]]:
        """For each competition: the epochs of its rungs and of its end, the configurations that train to each
        of them, and the epochs of all jobs together, with rungs and without."""
        expected: list[tuple[list[int], list[int], int, int]] = []
        for trials in self._competitions:
            seeds = sum(len(trial.jobs) for trial in trials) / len(trials)
            ends, counts, some = [*trials[0].pauses, trials[0].epochs], [len(trials)], 0.0
            for before, end in zip([0, *ends], ends, strict=False):
                some += counts[-1] * (end - before) * seeds
                counts.append(self._keep(counts[-1]))
            most = sum(trial.epochs * len(trial.jobs) for trial in trials)
            expected.append((ends, counts[:-1], round(some), most))
        return expected


def make_halving(jobs: Mapping[int, Job], factor: int | None, rank: Rank) -> Halving | None:
    """The rungs of these jobs; None without a factor. ConfigError if the jobs monitor different metrics."""
    if not factor or not jobs:
        return None
    monitors = sorted({job.plan.stopping.monitor for job in jobs.values()})
    if len(monitors) > 1:
        raise ConfigError(f"sweep.halving ranks all jobs by one train.monitor; got {', '.join(monitors)}")
    entrants: dict[int, Entrant] = {}
    for number, job in jobs.items():
        competition = data_key(job.data, job.plan.positive)
        configuration = replace(job.plan, seed=0).identity
        entrants[number] = Entrant(competition, configuration, job.plan.stopping.epochs)
    return Halving(entrants, factor, monitor=monitors[0], rank=rank)


def count_rungs(trials: int, epochs: int, factor: int) -> int:
    """The number of rungs: as many as leave a configuration and an epoch."""
    rungs = 0
    while factor ** (rungs + 1) <= min(trials, epochs):
        rungs += 1
    return rungs


def find_pauses(epochs: int, factor: int, rungs: int) -> tuple[int, ...]:
    """The epochs after which a run waits: epochs / factor^rungs, ..., epochs / factor, rounded.

    >>> find_pauses(27, 3, 3)
    (1, 3, 9)
    """
    return tuple(round(epochs / factor**power) for power in range(rungs, 0, -1))


def ordinal(number: int) -> str:
    """A place.

    >>> ordinal(2), ordinal(11), ordinal(103)
    ('2nd', '11th', '103rd')
    """
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
