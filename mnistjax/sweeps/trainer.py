"""Trains the jobs of an assignment and sends their events."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mnistjax import files, records
from mnistjax.active import ActiveRun
from mnistjax.config import ConfigError, Spec
from mnistjax.data import Dataset
from mnistjax.job import Job, find_outcome
from mnistjax.progress import relative, tell
from mnistjax.recorder import RunEnd, RunStart, open_run, set_aside
from mnistjax.sweeps.events import Event, JobEnded, JobProgress, JobStarted, ProgramFailed
from mnistjax.sweeps.groups import Assignment
from mnistjax.tracking import Tracker

if TYPE_CHECKING:
    from mnistjax.run import Callback, Progress, Result, Run

PROGRESS_SECONDS = 0.5  # between two events of a job inside an epoch

Send = Callable[[Event], None]


def group_interleaved(assignment: Assignment) -> list[list[Job]]:
    """The jobs in lists; the jobs of a list take turns in a program.

    The jobs of a list have one Spec, and read the images in the same order if they start from the same step.
    """
    from mnistjax.layout import order_seed

    alike: dict[Any, list[Job]] = {}
    for job in assignment.jobs:
        spec = job.plan.spec
        alike.setdefault((spec, order_seed(spec, job.plan.seed)), []).append(job)
    sizes = ((jobs, assignment.interleaved.get(jobs[0].plan.spec, 1)) for jobs in alike.values())
    return [jobs[i : i + size] for jobs, size in sizes for i in range(0, len(jobs), size)]


class JobQueue:
    """The waiting jobs of several threads. One of these compiles a Spec's program while the others wait."""

    def __init__(self, jobs: Sequence[list[Job]], stop: Callable[[], bool]) -> None:
        self._jobs, self._stop, self._changed = deque(jobs), stop, threading.Condition()
        self._compiled: dict[Spec, threading.Event] = {}
        self._training, self._closed = 0, False  # threads that train; whether all threads are done

    def add(self, jobs: Sequence[list[Job]]) -> bool:
        """Adds jobs; returns False if no thread is left to train them."""
        with self._changed:
            if not self._closed:
                self._jobs.extend(jobs)
                self._changed.notify_all()
            return not self._closed

    def take(self) -> list[Job] | None:
        """Takes the next jobs, which the thread must `release`; None if there are none, or after a stop.

        Prefers jobs whose program no other thread is compiling, and otherwise waits until that is compiled.
        Also waits while other threads train, because the ends of their jobs may bring new ones.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or not self._training or self._stop())
            if self._stop() or not self._jobs:
                self._closed = not self._training
                return None
            self._training += 1
            compiling = {spec for spec, compiled in self._compiled.items() if not compiled.is_set()}
            free = (jobs for jobs in self._jobs if jobs[0].plan.spec not in compiling)
            jobs = next(free, self._jobs[0])
            self._jobs.remove(jobs)
            spec = jobs[0].plan.spec
            compiled = self._compiled.get(spec)
            if compiled is None:  # this thread compiles it
                self._compiled[spec] = threading.Event()
        if compiled:
            compiled.wait()
        return jobs

    def take_more(self, spec: Spec) -> list[Job] | None:
        """Takes the next jobs for the same thread if they have this Spec, without waiting."""
        with self._changed:
            if self._stop() or not self._jobs or self._jobs[0][0].plan.spec != spec:
                return None
            return self._jobs.popleft()

    def release(self) -> None:
        """Ends the training of the jobs that a thread has taken."""
        with self._changed:
            self._training -= 1
            self._changed.notify_all()

    def mark_compiled(self, spec: Spec) -> None:
        """Releases the threads that wait for this program, also if it failed."""
        self._compiled[spec].set()


class Trainer:
    """Trains the jobs of an assignment until `stop()` is true, and sends their events."""

    def __init__(self, assignment: Assignment, data: Dataset, send: Send, stop: Callable[[], bool]) -> None:
        self._assignment, self._data, self._send, self._stop = assignment, data, send, stop
        self._queue = JobQueue(group_interleaved(assignment), stop)
        self._trackers: list[Tracker] = []
        self.assignments = 1  # that it has taken

    def add(self, assignment: Assignment) -> bool:
        """Takes another assignment like the first one, of one lane; returns False if it is too late."""
        added = self._queue.add(group_interleaved(assignment))
        self.assignments += added
        return added

    def run(self) -> None:
        """Trains all jobs in the assignment's number of threads, then waits until W&B has received all."""
        import jax

        from mnistjax.devices import count_shards

        devices, count = jax.devices(), self._assignment.threads
        step_devices = len(devices) // count
        spread = step_devices >= count_shards(self._assignment.jobs[0].plan.spec) > 1
        if devices[0].platform == "cpu" and not spread:
            step_devices = 0  # one CPU device runs several programs at a time, and compiles each only once

        def work(index: int) -> None:
            with jax.default_device(devices[index * step_devices % len(devices)]):
                while jobs := self._queue.take():
                    try:
                        self._train(jobs, spread)
                    finally:
                        self._queue.release()

        threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ended = time.monotonic()
        for tracker in self._trackers:
            tracker.join(time.monotonic() - ended)  # all share one wait

    def _train(self, first: list[Job], spread: bool) -> None:
        """Trains these jobs and the next ones in the queue as long as they have the same Spec."""
        spec = first[0].plan.spec
        active: dict[Run, ActiveRun] = {}
        program = None

        def start_runs() -> Iterator[list[Run]]:
            jobs: list[Job] | None = first
            while jobs:
                runs = [run for job in jobs if (run := self._start(job, active))]
                yield from split_by_step(runs)
                jobs = self._queue.take_more(spec)

        try:  # also the imports: whatever fails, the threads that wait for this program go on
            from mnistjax.loop import fit_runs
            from mnistjax.programs import make_program

            program = make_program(spec, self._data, width=self._assignment.width, spread=spread)
            for run, result in fit_runs(program, start_runs(), stop=self._stop):
                ended = active.pop(run)
                self._close(ended, ended.end(result), result)
        except Exception as error:
            if program is None:
                for job in first:
                    self._start(job, active)
            if not active:
                raise
            self._fail(list(active.values()), error)
            active.clear()
        finally:
            self._queue.mark_compiled(spec)
        for run in active.values():  # started, but not trained because of a stop
            run.recorder.close(end := RunEnd("interrupted", "stopped before it started"))
            self._close(run, end)

    def _start(self, job: Job, active: dict[Run, ActiveRun]) -> Run | None:
        """Locks a job's folder, starts or continues its run and adds it to the active ones.

        Returns None, after sending `JobEnded`, if the run is over already or its folder can't be used.
        """
        self._send(JobStarted(job.number))
        job, lock = replace(job, dataset=self._data), contextlib.ExitStack()
        try:
            lock.enter_context(records.lock(job.folder))
            if start := self._open(job):
                report = report_progress(job, self._send, self._queue)
                started = ActiveRun(job, start, report, lock=lock)
                active[started.run] = started
                return started.run
        except (ConfigError, OSError) as error:
            reason = str(error) if isinstance(error, ConfigError) else files.describe(error, job.folder)
            self._send(JobEnded(job.number, "failed", reason))
        lock.close()
        return None

    def _open(self, job: Job) -> RunStart | None:
        """Starts or continues a job in its locked folder; sends `JobEnded` and returns None if it is over.

        Sets damaged files aside and starts again.
        """
        width = self._assignment.width
        try:
            if not find_outcome(job, resume=True, hydra_was_here=True):
                return open_run(job, width)
            status = records.read_status(job.folder)
            assert status is not None
            self._send(JobEnded(job.number, status["status"], status["reason"]))
            return None
        except ConfigError as damage:
            place = relative(set_aside(job.folder))
            tell(f"job {job.number} starts again; its damaged files were moved to {place}: {damage}")
            return open_run(job, width)

    def _fail(self, active: Sequence[ActiveRun], error: Exception) -> None:
        """Records and sends that the program of these runs raised."""
        ends = [run.fail(error) for run in active]
        if len(active) == 1:
            self._close(active[0], ends[0])
            return
        for run, end in zip(active, ends, strict=True):
            self._release(run, end)
        numbers = tuple(run.job.number for run in active)
        self._send(ProgramFailed(numbers, ends[0].reason or "", ends[0].traceback or ""))

    def _close(self, run: ActiveRun, end: RunEnd, result: Result | None = None) -> None:
        """Releases a run that has ended and sends its end."""
        self._release(run, end)
        value = None
        if end.status == "done" and result:
            value = result.rows[result.kept_epoch - 1][run.job.plan.stopping.monitor]
        self._send(JobEnded(run.job.number, end.status, end.reason, end.traceback, value))

    def _release(self, run: ActiveRun, end: RunEnd) -> None:
        """Finishes the W&B run without waiting for it, and unlocks the folder."""
        run.tracker.finish(end.status, end.summary, wait=False)
        run.lock.close()
        self._trackers.append(run.tracker)


def split_by_step(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs in lists of those that start from the same step."""
    alike: dict[int, list[Run]] = {}
    for run in runs:
        step = int(run.snapshot["state"].step) if run.snapshot else 0
        alike.setdefault(step, []).append(run)
    return [*alike.values()]


def report_progress(job: Job, send: Send, queue: JobQueue) -> Callback:
    """A callback that sends a job's progress after each epoch, and every PROGRESS_SECONDS inside one."""
    sent = 0.0  # time of the last event, seconds

    def report(progress: Progress) -> None:
        nonlocal sent
        now = time.monotonic()
        if progress.row is not None:
            queue.mark_compiled(job.plan.spec)
        if progress.row is not None or now - sent >= PROGRESS_SECONDS:
            sent = now
            send(JobProgress(job.number, progress.examples_seen, progress.row))

    return report
