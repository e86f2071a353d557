"""Trains the jobs of an assignment and reports what happens to them."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mnistjax import checkpoints, files, records
from mnistjax.active import ActiveRun
from mnistjax.config import ConfigError, Spec
from mnistjax.data import Dataset
from mnistjax.job import Job, find_outcome
from mnistjax.progress import relative, tell
from mnistjax.recorder import RunEnd, RunStart, open_run, set_aside
from mnistjax.sweep.assignments import Assignment
from mnistjax.sweep.events import Event, JobEnded, JobProgress, JobStarted, ProgramFailed
from mnistjax.tracking import Tracker

if TYPE_CHECKING:
    from mnistjax.loop import Moment, Observer, Result, Run

PROGRESS_SECONDS = 0.5  # between two events of a job inside an epoch

Send = Callable[[Event], None]


def train_assignment(assignment: Assignment, data: Dataset, send: Send, stop: Callable[[], bool]) -> None:
    """Trains every job of the assignment, until `stop()` is true, and sends what happens."""
    import jax

    from mnistjax.train import count_shares

    devices = jax.devices()
    step_devices = len(devices) // assignment.threads
    spread = step_devices >= count_shares(assignment.jobs[0].plan.spec) > 1
    if devices[0].platform == "cpu" and not spread:
        step_devices = 0  # one device has threads for several programs, and compiles each only once
    queue = JobQueue(group_interleaved(assignment), stop)
    trainers = [Trainer(assignment.width, data, queue, send, stop, spread) for _ in range(assignment.threads)]

    def train(index: int) -> None:
        with jax.default_device(devices[index * step_devices % len(devices)]):
            trainers[index].run()

    threads = [threading.Thread(target=train, args=(index,)) for index in range(assignment.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for trainer in trainers:
        trainer.join_trackers()


def group_interleaved(assignment: Assignment) -> list[list[Job]]:
    """The jobs in the lists that a program takes at a time, by Spec.

    Jobs that read the images in the same order from the first step on are interleaved.
    """
    from mnistjax.train import order_seed

    alike: dict[Any, list[Job]] = {}
    for job in assignment.jobs:
        spec = job.plan.spec
        alone = assignment.interleaved == 1 or (job.folder / checkpoints.CHECKPOINT).exists()
        key = (spec, None, job.number) if alone else (spec, order_seed(spec, job.plan.seed))
        alike.setdefault(key, []).append(job)
    size = assignment.interleaved
    return [jobs[i : i + size] for jobs in alike.values() for i in range(0, len(jobs), size)]


class JobQueue:
    """The jobs that wait, for several threads. The first program of a Spec compiles while the others wait."""

    def __init__(self, jobs: Sequence[list[Job]], stop: Callable[[], bool]) -> None:
        self._jobs, self._stop, self._lock = deque(jobs), stop, threading.Lock()
        self._compiled: dict[Spec, threading.Event] = {}

    def take(self, spec: Spec | None = None) -> list[Job] | None:
        """The next jobs, if they have this Spec or none is given; None after a stop."""
        with self._lock:
            if self._stop() or not self._jobs or spec not in (None, self._jobs[0][0].plan.spec):
                return None
            return self._jobs.popleft()

    def wait_for_program(self, spec: Spec) -> None:
        """Waits until another thread has compiled the program; the first thread that asks compiles it."""
        with self._lock:
            compiled = self._compiled.get(spec)
            if compiled is None:
                self._compiled[spec] = threading.Event()
        if compiled:
            compiled.wait()

    def mark_compiled(self, spec: Spec) -> None:
        """Releases the threads that wait for this program, whether it was compiled or failed."""
        self._compiled[spec].set()


class Trainer:
    """Trains jobs of the queue in one thread, those of one Spec by one program."""

    def __init__(
        self,
        width: int,
        data: Dataset,
        queue: JobQueue,
        send: Send,
        stop: Callable[[], bool],
        spread: bool,
    ) -> None:
        self._width, self._data, self._queue = width, data, queue
        self._send, self._stop, self._spread = send, stop, spread
        self._active: dict[Run, tuple[ActiveRun, contextlib.ExitStack]] = {}  # with their locks
        self._trackers: list[Tracker] = []

    def run(self) -> None:
        """Trains until the queue is empty or stopped."""
        while jobs := self._queue.take():
            self._train(jobs)

    def join_trackers(self) -> None:
        """Waits until W&B has everything."""
        for tracker in self._trackers:
            tracker.join()

    def _train(self, first: list[Job]) -> None:
        """Trains these jobs, and the next ones of the queue as long as they have the same Spec."""
        spec = first[0].plan.spec
        self._queue.wait_for_program(spec)
        try:
            for run, result in self._fit(spec, first):
                active, lock = self._active.pop(run)
                self._close(active, lock, active.end(result), result)
        except Exception as error:
            self._fail(error)
        finally:
            self._queue.mark_compiled(spec)
        for active, lock in self._active.values():  # taken from the queue, but not started
            end = RunEnd("interrupted", "stopped before it started")
            active.recorder.close(end)
            self._close(active, lock, end)
        self._active.clear()

    def _fit(self, spec: Spec, first: list[Job]) -> Iterator[tuple[Run, Result]]:
        from mnistjax.loop import fit_lanes, fit_teams

        def runs() -> Iterator[list[Run]]:
            jobs: list[Job] | None = first
            while jobs:
                yield [run for job in jobs if (run := self._start(job))]
                jobs = self._queue.take(spec)

        options = {"data": self._data, "stop": self._stop}
        if self._width == 1:
            return fit_teams(spec, runs(), spread=self._spread, **options)
        return fit_lanes(spec, itertools.chain.from_iterable(runs()), width=self._width, **options)

    def _start(self, job: Job) -> Run | None:
        """Locks a job's folder and starts or continues its run; None if that is over or impossible."""
        from mnistjax.loop import Run

        self._send(JobStarted(job.number))
        job, plan, lock = replace(job, dataset=self._data), job.plan, contextlib.ExitStack()
        try:
            lock.enter_context(records.lock(job.folder))
            start = self._open(job)
            active = ActiveRun(job, start) if start else None
        except (ConfigError, OSError) as error:
            lock.close()
            reason = str(error) if isinstance(error, ConfigError) else files.describe(error, job.folder)
            self._send(JobEnded(job.number, "failed", reason))
            return None
        if active is None:
            lock.close()
            return None
        report = report_progress(job, self._send, self._queue)
        observers = [active.recorder, active.tracker, report]  # the records first
        snapshot, rows = active.start.snapshot, active.start.rows
        run = Run(plan.hyper, plan.seed, plan.stopping, snapshot, rows, observers)
        self._active[run] = active, lock
        return run

    def _open(self, job: Job) -> RunStart | None:
        """Starts or continues a job in its locked folder; None if it is over already, which is reported.

        If files are damaged, sets them aside and starts again.
        """
        try:
            if not find_outcome(job, job.folder, resume=True, hydra_was_here=True):
                return open_run(job, job.folder, self._width)
            status = records.read_status(job.folder)
            assert status is not None
            self._send(JobEnded(job.number, status["status"], status["reason"]))
            return None
        except ConfigError as damage:
            place = relative(set_aside(job.folder))
            tell(f"job {job.number} starts again; its damaged files were moved to {place}: {damage}")
            return open_run(job, job.folder, self._width)

    def _fail(self, error: Exception) -> None:
        """Records that the program raised: the fault of its job if it had only one, else of any of them."""
        failed = [(active, lock, active.fail(error)) for active, lock in self._active.values()]
        self._active.clear()
        if not failed:
            raise error
        if len(failed) == 1:
            self._close(*failed[0])
            return
        for active, lock, end in failed:
            self._finish(active, lock, end)
        numbers = tuple(active.job.number for active, _, _ in failed)
        self._send(ProgramFailed(numbers, failed[0][2].reason or "", failed[0][2].traceback or ""))

    def _close(
        self, active: ActiveRun, lock: contextlib.ExitStack, end: RunEnd, result: Result | None = None
    ) -> None:
        self._finish(active, lock, end)
        value = None
        if end.status == "done" and result:
            value = result.rows[result.kept_epoch - 1][active.job.plan.stopping.monitor]
        self._send(JobEnded(active.job.number, end.status, end.reason, end.traceback, value))

    def _finish(self, active: ActiveRun, lock: contextlib.ExitStack, end: RunEnd) -> None:
        """Closes the W&B run, without waiting for it, and unlocks the folder."""
        active.tracker.finish(end.status, end.summary, wait=False)
        self._trackers.append(active.tracker)
        lock.close()


def report_progress(job: Job, send: Send, queue: JobQueue) -> Observer:
    """The callback that sends a job's epochs, and meanwhile that it is alive."""
    sent = 0.0  # seconds on the clock

    def report(moment: Moment) -> None:
        nonlocal sent
        now = time.monotonic()
        if moment.row is not None:
            queue.mark_compiled(job.plan.spec)
        if moment.row is not None or now - sent >= PROGRESS_SECONDS:
            sent = now
            send(JobProgress(job.number, moment.epoch, moment.examples_seen, moment.row))

    return report
