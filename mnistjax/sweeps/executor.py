"""The protocol of executors, which train the assignments of a sweep, and the executor for debugging."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mnistjax import records
from mnistjax.config import ConfigError
from mnistjax.data import Dataset
from mnistjax.job import Job
from mnistjax.recorder import INSIDE_SEGMENT
from mnistjax.sweeps.events import Event, JobEnded, JobStarted, ProgramFailed
from mnistjax.sweeps.groups import Assignment, DataKey
from mnistjax.sweeps.trainer import Trainer

POLL_SECONDS = 0.2  # at most, between two checks for signals and silent jobs
STOP_SECONDS = 8.0  # without an event after a signal, until jobs are interrupted; a segment takes about 1 s

Datasets = Mapping[DataKey, Dataset]
Stop = Callable[[], bool]
"""Returns whether to stop."""


class Executor(contextlib.AbstractContextManager):
    """Trains assignments. Use it in a `with`, which ends its processes."""

    def start(self) -> None:
        """Begins to start processes, while the sweep is prepared."""

    @abstractmethod
    def run(self, assignments: deque[Assignment], datasets: Datasets, stop: Stop) -> Iterator[Event]:
        """Trains the jobs and yields their events, `JobEnded` once for each. Starts no job after `stop()`.

        Takes the assignments from the queue, also those that the caller adds while it handles an event.
        """

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
            continued=before.get("continued", ()),
            wandb=before.get("wandb"),
        )
    return JobEnded(job.number, status, reason, traceback)


class InlineExecutor(Executor):
    """Trains in a thread of this process, for debugging. A job that crashes or hangs stops the sweep."""

    def run(self, assignments: deque[Assignment], datasets: Datasets, stop: Stop) -> Iterator[Event]:
        while assignments and not stop():
            assignment = assignments.popleft()
            yield from self._train(assignment, datasets[assignment.data], stop)

    def _train(self, assignment: Assignment, data: Dataset, stop: Stop) -> Iterator[Event]:
        jobs = {job.number: job for job in assignment.jobs}
        active: dict[int, Job] = {}
        events: queue.Queue[Event | None] = queue.Queue()

        def train() -> None:
            Trainer(assignment, data, events.put, stop).run()
            events.put(None)

        threading.Thread(target=train, daemon=True).start()
        last = time.monotonic()
        while True:
            try:
                event = events.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if stop() and active and time.monotonic() - last > STOP_SECONDS:
                    for job in active.values():
                        yield end_job(job, "interrupted", INSIDE_SEGMENT)
                    return
                continue
            last = time.monotonic()
            match event:
                case None:
                    return
                case ProgramFailed(numbers, reason, traceback):
                    for number in numbers:
                        active.pop(number, None)
                        yield JobEnded(number, "failed", reason, traceback)
                    continue
                case JobStarted(number):
                    active[number] = jobs[number]
                case JobEnded(number):
                    active.pop(number, None)
            yield event
