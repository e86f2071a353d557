"""Groups -> assignments: the jobs that a worker gets at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mnistjax.job import Job
from mnistjax.sweep.groups import DataKey, Group, count_interleaved, count_threads
from mnistjax.train import count_shares


@dataclass(frozen=True, eq=False)
class Assignment:
    """Jobs for one worker, those of one Spec side by side; of one Spec only if they are lanes."""

    jobs: tuple[Job, ...]  # without their data
    data: DataKey
    width: int  # lanes of a program
    threads: int  # programs at a time
    interleaved: int  # at most so many jobs of one lane take turns in a program


def make_assignments(
    groups: Iterable[Group], jobs: Mapping[int, Job], *, merge: bool = True
) -> list[Assignment]:
    """Assigns those jobs of the groups that are in `jobs`.

    Groups of one lane on the same data are merged: when a group runs out of jobs, the next one starts beside
    its last job, and compiles meanwhile. The 27 jobs of `experiment=quickstart` in 3 groups take 31.5 s
    instead of 33.0 s (medians of 3).
    """
    assignments: list[Assignment] = []
    for group in groups:
        left = tuple(replace(jobs[number], dataset=None) for number in group.jobs if number in jobs)
        if not left:
            continue
        assignment = assign(group, left)
        if merge and assignments and can_merge(assignments[-1], assignment):
            assignments[-1] = join(assignments[-1], assignment)
        else:
            assignments.append(assignment)
    return assignments


def assign(group: Group, jobs: Sequence[Job]) -> Assignment:
    """The assignment of these jobs of a group."""
    interleaved = count_interleaved(group.spec, len(jobs), group.threads) if group.width == 1 else 1
    return Assignment(tuple(jobs), group.data, group.width, group.threads, interleaved)


def can_merge(first: Assignment, second: Assignment) -> bool:
    """Whether two assignments may be merged: one lane, the same data, and steps of equally many shards."""
    shards = {count_shares(assignment.jobs[0].plan.spec) for assignment in (first, second)}
    return (
        first.width == second.width == 1
        and first.data == second.data
        and first.interleaved == second.interleaved
        and len(shards) == 1
    )


def join(first: Assignment, second: Assignment) -> Assignment:
    """Two assignments as one, with as many threads as every Spec in it allows."""
    jobs = (*first.jobs, *second.jobs)
    threads = min(count_threads(spec, len(jobs)) for spec in {job.plan.spec for job in jobs})
    return replace(first, jobs=jobs, threads=threads)
