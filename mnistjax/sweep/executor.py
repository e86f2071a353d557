"""What trains the assignments of a sweep: worker processes, this process, or a cluster."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mnistjax import records
from mnistjax.config import ConfigError
from mnistjax.data import Dataset
from mnistjax.job import Job
from mnistjax.recorder import INSIDE_SEGMENT
from mnistjax.sweep.events import Event, JobEnded
from mnistjax.sweep.groups import Assignment, DataKey

POLL_SECONDS = 0.2  # at most, between two checks for signals and silence
STOP_SECONDS = 8.0  # for jobs to end after a signal, from one event to the next; a segment takes about one


Datasets = Mapping[DataKey, Dataset]
Stop = Callable[[], bool]
"""Whether to stop."""


class Executor(contextlib.AbstractContextManager):
    """Trains assignments. Use it in a `with`: no process outlives it."""

    @abstractmethod
    def run(self, assignments: Iterable[Assignment], datasets: Datasets, stop: Stop) -> Iterator[Event]:
        """Yields what happens, each job's `JobEnded` once. Once `stop()` is true no job starts."""

    def __exit__(self, *error: Any) -> None:
        """Ends all processes."""


def end_job(job: Job, status: records.Status, reason: str, traceback: str | None = None) -> JobEnded:
    """Writes the end of a job that could not write it itself; returns the event."""
    with contextlib.suppress(OSError, ConfigError):
        before = records.read_status(job.folder) or {}
        records.write_status(
            job.folder,
            status,
            identity=job.plan.identity,
            epoch=before.get("epoch", 0),
            started=before.get("started", records.now()),
            ended=records.now(),
            reason=reason,
        )
    return JobEnded(job.number, status, reason, traceback)


def interrupt_jobs(jobs: Iterable[Job]) -> Iterator[JobEnded]:
    """Writes and yields the end of jobs that were stopped inside a segment."""
    for job in jobs:
        yield end_job(job, "interrupted", INSIDE_SEGMENT)
