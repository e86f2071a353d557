"""Training in a worker process, and the search for a job that crashes or hangs it.

When a worker dies or sends no events, one of its active jobs is to blame. A single job has failed. Several
are split and trained again, in programs of equally many lanes, until the one to blame is alone.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from mnistjax.data import Dataset
from mnistjax.job import Job
from mnistjax.recorder import INSIDE_SEGMENT
from mnistjax.sweeps.events import (
    AssignmentEnded,
    Event,
    JobEnded,
    JobProgress,
    JobStarted,
    ProgramFailed,
)
from mnistjax.sweeps.executor import POLL_SECONDS, STOP_SECONDS, Datasets, Executor, Stop, end_job
from mnistjax.sweeps.groups import Assignment, DataKey, can_join
from mnistjax.sweeps.spawn import Spawned, spawn
from mnistjax.sweeps.worker import copy_tables, needs_main

GRACE_SECONDS = 20.0  # until a worker that should end is killed


class WorkerProcess:
    """A worker process and its assignment. A process that was `spawned` before it is used, if it can be."""

    def __init__(self, spawned: Spawned | None = None) -> None:
        tables = copy_tables()
        with_main = needs_main(tables)
        if spawned and with_main:
            spawned.kill()  # it can't import the script
            spawned = None
        self._process, self.connection = spawned or spawn(with_main=with_main)
        self.send(tables)
        self._datasets: set[DataKey] = set()
        self.assignment: Assignment | None = None  # the first of those that it trains
        self.assignments = 0  # that it trains
        self.left: dict[int, Job] = {}  # jobs of the assignments that are not over
        self.heard: dict[int, float] = {}  # time of the last event by active job, seconds
        self.last = time.monotonic()  # time of the assignment or the last event, seconds

    def assign(self, assignment: Assignment, data: Dataset) -> None:
        """Sends an assignment to the worker, and its data set unless the worker has it."""
        if assignment.data not in self._datasets:
            self.send((assignment.data, data))
            self._datasets.add(assignment.data)
        self.send(assignment)
        self.assignment = self.assignment or assignment
        self.assignments += 1
        self.left |= {job.number: job for job in assignment.jobs}
        self.last = time.monotonic()

    def can_take(self, assignment: Assignment) -> bool:
        """Whether it can train another assignment now: it is idle, or its threads can take more jobs."""
        return self.assignment is None or can_join(self.assignment, assignment)

    def end_assignment(self) -> None:
        """Counts an assignment that has ended; after the last one, forgets the jobs that a stop left over."""
        self.assignments -= 1
        if not self.assignments:
            self.assignment, self.left = None, {}

    def send(self, message: Any) -> None:
        """Sends tables, an assignment, a data set, "stop" or None, as `serve` explains."""
        with contextlib.suppress(OSError):  # if the worker is dead, the next `recv` raises
            self.connection.send(message)

    def end(self) -> None:
        """Asks the worker to end; kills it after GRACE_SECONDS."""
        self.send(None)
        self._process.join(GRACE_SECONDS)
        self.kill()

    def kill(self, patience: float = 0.0) -> str:
        """Kills the worker unless it ends by itself within `patience` seconds; returns what ended it."""
        self._process.join(patience)
        alive = self._process.is_alive()
        self._process.kill()
        self._process.join()
        self.connection.close()
        code = self._process.exitcode or 0
        if alive:
            return "its process was stopped"
        if code < 0:
            name = signal.Signals(-code).name
            return f"its process was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
        return f"its process exited with code {code}"


class ProcessExecutor(Executor):
    """Trains in one worker process, which is replaced if it dies."""

    def __init__(self, *, timeout: float = 600.0, spawned: Spawned | None = None) -> None:
        self._timeout = timeout  # seconds without an event of a job
        self._spawned = spawned  # the first worker's process
        self._worker: WorkerProcess | None = None
        self._pending: deque[Assignment] = deque()
        self._early_deaths = 0  # workers in succession that died before they started a job

    def start(self) -> None:
        with contextlib.suppress(OSError):  # `run` tries it again
            self._worker = self._worker or self._start_worker()

    def __exit__(self, *error: Any) -> None:
        if self._worker:
            self._worker.kill() if error[0] else self._worker.end()
        self._worker = None

    def run(self, assignments: deque[Assignment], datasets: Datasets, stop: Stop) -> Iterator[Event]:
        self._pending, stopped = assignments, math.inf  # time of the stop, seconds
        while self._pending or (self._worker and self._worker.assignment):
            if stopped == math.inf and stop():
                stopped = time.monotonic()
                if self._worker:
                    self._worker.send("stop")
            if stopped < math.inf:
                self._pending.clear()
            try:
                worker = self._assign_next(datasets)
            except OSError as error:  # too many processes or open files
                why = f"its worker process could not be started: {error.strerror}"
                for job in [job for assignment in self._pending for job in assignment.jobs]:
                    yield end_job(job, "failed", why)
                self._pending.clear()
                continue
            if worker:
                yield from self._receive(worker)
            if worker and worker.assignment and worker is self._worker:
                yield from self._check_silence(worker, stopped)

    def _assign_next(self, datasets: Datasets) -> WorkerProcess | None:
        """Returns the working worker, given the next assignments that it can take; None if none is left."""
        while self._pending and (not self._worker or self._worker.can_take(self._pending[0])):
            self._worker = self._worker or self._start_worker()
            assignment = self._pending.popleft()
            self._worker.assign(assignment, datasets[assignment.data])
        return self._worker if self._worker and self._worker.assignment else None

    def _start_worker(self) -> WorkerProcess:
        spawned, self._spawned = self._spawned, None
        return WorkerProcess(spawned)

    def _receive(self, worker: WorkerProcess) -> Iterator[Event]:
        """Handles the next event or the death of the worker; waits at most POLL_SECONDS."""
        try:
            if not worker.connection.poll(POLL_SECONDS):
                return
            event = worker.connection.recv()
        except (EOFError, OSError):
            yield from self._replace(worker, list(worker.heard))
            return
        worker.last, self._early_deaths = time.monotonic(), 0
        match event:
            case AssignmentEnded():
                worker.end_assignment()
            case ProgramFailed(numbers, reason, traceback):
                assert worker.assignment
                suspects = [worker.left.pop(number) for number in numbers]
                for number in numbers:
                    worker.heard.pop(number, None)
                yield from self._suspect(worker.assignment, suspects, reason, traceback)
            case JobStarted(number) | JobProgress(number):
                worker.heard[number] = time.monotonic()
                yield event
            case JobEnded(number):
                worker.heard.pop(number, None)
                worker.left.pop(number, None)
                yield event

    def _check_silence(self, worker: WorkerProcess, stopped: float) -> Iterator[Event]:
        """Kills the worker if jobs did not end in time after a stop, or sent no event within the timeout."""
        now = time.monotonic()
        if now - max(stopped, worker.last) > STOP_SECONDS and worker.heard:
            worker.kill()
            self._worker = None
            for number in worker.heard:
                yield end_job(worker.left[number], "interrupted", INSIDE_SEGMENT)
            return
        silent = [number for number, heard in worker.heard.items() if now - heard > self._timeout]
        if silent or (not worker.heard and now - worker.last > self._timeout):
            yield from self._replace(worker, silent, f"no progress within {self._timeout:g} s")

    def _replace(
        self, worker: WorkerProcess, suspects: Sequence[int], reason: str | None = None
    ) -> Iterator[Event]:
        """Ends a dead or silent worker; leaves the jobs that are not suspects to the next worker."""
        died_of, assignment = worker.kill(0.0 if reason else GRACE_SECONDS), worker.assignment
        self._worker = None
        assert assignment
        jobs = [worker.left.pop(number) for number in suspects if number in worker.left]
        self._early_deaths += not worker.heard
        if self._early_deaths > 1:  # the first one may be chance
            for job in worker.left.values():
                yield end_job(job, "failed", f"before it started: {reason or died_of}")
        elif worker.left:
            self._pending.appendleft(replace(assignment, jobs=tuple(worker.left.values())))
        yield from self._suspect(assignment, jobs, reason or died_of)

    def _suspect(
        self, assignment: Assignment, suspects: Sequence[Job], reason: str, traceback: str | None = None
    ) -> Iterator[Event]:
        """Fails a single suspect. Trains several again: lanes in two halves, other jobs one after another."""
        if len(suspects) == 1:
            yield end_job(suspects[0], "failed", reason, traceback)
            return
        half = len(suspects) // 2
        parts = [suspects] if assignment.width == 1 else [suspects[:half], suspects[half:]]
        for jobs in filter(None, parts):
            self._pending.append(replace(assignment, jobs=tuple(jobs), threads=1, interleaved={}, alone=True))
