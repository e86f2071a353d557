"""The protocol of executors, which train the assignments of a sweep."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mnistjax import records
from mnistjax.config import ConfigError
from mnistjax.data import Dataset
from mnistjax.job import Job
from mnistjax.sweep.events import Event, JobEnded
from mnistjax.sweep.groups import Assignment, DataKey

POLL_SECONDS = 0.2  # at most, between two checks for signals and silent jobs
STOP_SECONDS = 8.0  # without an event after a signal, until jobs are interrupted; a segment takes about 1 s

Datasets = Mapping[DataKey, Dataset]
Stop = Callable[[], bool]
"""Returns whether to stop."""


class Executor(contextlib.AbstractContextManager):
    """Trains assignments. Use it in a `with`, which ends its processes."""

    @abstractmethod
    def run(self, assignments: Iterable[Assignment], datasets: Datasets, stop: Stop) -> Iterator[Event]:
        """Trains the jobs and yields their events, `JobEnded` once for each. Starts no job after `stop()`."""

    def __exit__(self, *error: Any) -> None:
        """Ends all processes."""


def end_job(job: Job, status: records.Status, reason: str, traceback: str | None = None) -> JobEnded:
    """Writes the end of a job whose process can't write it; returns the event."""
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
