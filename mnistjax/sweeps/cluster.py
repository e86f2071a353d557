"""Training through submitit: each assignment is a task of a Slurm cluster, or a process of this machine.

The task starts a worker process, so that a job that crashes or hangs stops no other job. It writes events,
one per line, to a file in the sweep folder, which both machines must see.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnistjax.compose import label, load
from mnistjax.config import ConfigError
from mnistjax.job import Job
from mnistjax.progress import tell
from mnistjax.signals import in_main_thread
from mnistjax.sweeps.events import Event, JobEnded, JobProgress, JobStarted
from mnistjax.sweeps.executor import POLL_SECONDS, Datasets, Executor, Stop, end_job
from mnistjax.sweeps.groups import Assignment, count_interleaved, count_threads, cut, data_key
from mnistjax.sweeps.processes import ProcessExecutor
from mnistjax.sweeps.slurm import Queue
from mnistjax.sweeps.worker import Tables, add_tables, copy_tables

FOLDER = "submitit"  # folder in the sweep folder, for submitit's files and ours
STOP = "stop"  # name of a file that tells the tasks to stop
MINUTES = 24 * 60  # time limit of a task, unless given
LIMIT_SHARE = 1 / 3  # of a task's time limit that its jobs should take, because the estimate is rough
MOST_TASKS = 1000  # of an array; Slurm's own limit unless its administrators changed it
MOST_REQUEUES = 100  # of a task that is out of time
LEAVE_SECONDS = 60.0  # that the tasks of an earlier command have to stop, before they are cancelled
EVENTS = {kind.__name__: kind for kind in (JobStarted, JobProgress, JobEnded)}


class NoTask(ConfigError):
    """The cluster refuses tasks; their sweep has its folder already."""


@dataclass(frozen=True, eq=False)
class RemoteAssignment:
    """An assignment that submitit pickles, and calls where the task runs."""

    assignment: Assignment
    tables: Tables
    timeout: float
    folder: Path
    events: str  # name of the file for its events
    owner: int | None  # pid of the process that it must not outlive; None on another machine

    def __call__(self) -> None:
        """Trains the jobs and writes their events."""
        add_tables(self.tables)
        assignment, first = self.assignment, self.assignment.jobs[0]
        data = label(load(first.settings), first.settings)
        if data_key(data, first.plan.positive) != assignment.data:
            raise ConfigError(f"{data.name} has another SHA-256 on this machine than in the sweep")
        if assignment.width == 1:
            spec, count = first.plan.spec, len(assignment.jobs)
            threads = count_threads(spec, count)
            interleaved = {spec: count_interleaved(spec, count, threads)}
            assignment = replace(assignment, threads=threads, interleaved=interleaved)
        with (
            open(self.folder / self.events, "a", buffering=1, encoding="utf-8") as file,
            ProcessExecutor(timeout=self.timeout) as executor,
        ):
            for event in executor.run(deque([assignment]), {assignment.data: data}, self._stopped):
                file.write(json.dumps([type(event).__name__, *event]) + "\n")

    def _stopped(self) -> bool:
        if self.owner is not None:
            try:
                os.kill(self.owner, 0)  # raises if the process is gone
            except ProcessLookupError:
                return True
        return (self.folder / STOP).exists()

    def checkpoint(self) -> Any:
        """Queues the task again when it is preempted or out of time; jobs continue from their checkpoints.

        Submitit looks for it by this name at a time limit, not for `__submitit_checkpoint__`.
        """
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class SubmititExecutor(Executor):
    """Trains each assignment as a task of submitit, which loads the data itself.

    ConfigError if submitit is missing or refuses the parameters.
    """

    def __init__(self, kind: str, folder: Path, parameters: Mapping[str, Any], *, timeout: float) -> None:
        try:
            import submitit
        except ImportError:
            raise ConfigError(
                f'sweep.executor=submitit_{kind} needs submitit: pip install "mnistjax[submitit]"'
            ) from None
        self._folder, self._local, self._timeout = folder / FOLDER, kind == "local", timeout
        self._minutes = parameters.get("slurm_time", parameters.get("timeout_min", MINUTES))
        self._submissions: list[Submission] = []
        self._queue = LocalQueue() if self._local else Queue()

        def make_executor(folder: Path | str) -> Any:
            executor = submitit.AutoExecutor(folder, cluster=kind, slurm_max_num_timeout=MOST_REQUEUES)
            executor.update_parameters(**{"name": "mnistjax", "timeout_min": MINUTES, **parameters})
            return executor

        self._make_executor = make_executor
        try:
            with tempfile.TemporaryDirectory() as place:  # submitit makes files at once
                make_executor(place)
        except Exception as error:  # many types, with pages of text after the first line
            raise ConfigError(f"sweep.submitit: {str(error).strip().splitlines()[0]}") from error

    def __exit__(self, *_: Any) -> None:
        if self._submissions:
            (self._folder / STOP).touch()
            self._queue.cancel(self._tasks())

    def _tasks(self) -> list[Any]:
        return [submission.task for submission in self._submissions]

    def run(self, assignments: deque[Assignment], datasets: Datasets, stop: Stop) -> Iterator[Event]:
        stopping = False
        stop_earlier(self._queue, self._folder)
        self._folder = make_new_folder(self._folder)
        executor = self._make_executor(self._folder.absolute())
        while assignments or self._submissions:
            if not stopping and stop():
                stopping = True
                (self._folder / STOP).touch()
                self._queue.cancel(self._tasks(), waiting=True)
            if stopping:
                assignments.clear()
            if taken := self._take(assignments):
                self._submissions += self._submit(executor, taken)
            time.sleep(POLL_SECONDS)
            for submission in list(self._submissions):
                task = submission.task
                over = self._queue.is_over(task, at_once=stopping)  # asked first, so that no event is missed
                yield from submission.read_events()
                if over:
                    self._submissions.remove(submission)
                    if not stopping:
                        yield from submission.fail_rest(self._queue.state(task))

    def _take(self, assignments: deque[Assignment]) -> list[Assignment]:
        """Takes the assignments that can be submitted now: on this machine one at a time."""
        if self._local:
            return [] if self._submissions or not assignments else [assignments.popleft()]
        taken = [*assignments]
        assignments.clear()
        if isinstance(self._minutes, int | float) and self._minutes > 0:  # 0 is no limit
            seconds = 60 * self._minutes * LIMIT_SHARE
            taken = [part for assignment in taken for part in cut(assignment, seconds)]
        return taken

    def _submit(self, executor: Any, assignments: Sequence[Assignment]) -> list[Submission]:
        """Submits assignments, to Slurm as the tasks of one array or of several."""
        made = len(list(self._folder.glob("*.jsonl")))
        owner = os.getpid() if self._local else None
        tables, folder = copy_tables(), self._folder.absolute()
        remote = [
            RemoteAssignment(assignment, tables, self._timeout, folder, f"{number}.jsonl", owner)
            for number, assignment in enumerate(assignments, made)
        ]
        for one in remote:
            (folder / one.events).touch()
        tasks: list[Any] = []
        with contextlib.ExitStack() as stack:
            if in_main_thread():  # a local task inherits this: Ctrl-C is for us
                before = signal.signal(signal.SIGINT, signal.SIG_IGN)
                stack.callback(signal.signal, signal.SIGINT, before)
            try:
                for first in range(0, len(remote), MOST_TASKS):
                    with executor.batch():
                        tasks += [executor.submit(one) for one in remote[first : first + MOST_TASKS]]
            except RuntimeError as error:
                said = str(error).strip().splitlines() or [type(error).__name__]
                raise NoTask(f"the cluster takes no task: {said[-1]}") from error
        pairs = zip(tasks, remote, strict=True)
        return [Submission(task, folder / one.events, one.assignment) for task, one in pairs]


class LocalQueue:
    """The processes of submitit on this machine, which see when their command is gone."""

    def find_left(self, folder: Path) -> list[Any]:
        return []

    def state(self, task: Any) -> str:
        return task.state

    def is_over(self, task: Any, *, at_once: bool) -> bool:
        return task.done()

    def cancel(self, tasks: Sequence[Any], *, waiting: bool = False) -> None:
        for task in () if waiting else tasks:
            task.cancel()  # it ignores this, but sees the file


def stop_earlier(queue: Queue | LocalQueue, folder: Path) -> None:
    """Stops the tasks of an earlier command on this sweep that was killed: they hold its jobs."""
    if not (tasks := queue.find_left(folder)):
        return
    tell(f"stopping the tasks of an earlier command on the cluster: {len(tasks)}")
    for place in folder.iterdir():
        if place.is_dir() and not place.is_symlink():
            (place / STOP).touch()
    queue.cancel(tasks, waiting=True)
    end = time.monotonic() + LEAVE_SECONDS
    while (tasks := queue.find_left(folder)) and time.monotonic() < end:
        time.sleep(1)
    queue.cancel(tasks)


def make_new_folder(folder: Path) -> Path:
    """Makes an empty folder in this one, named "0" or by the next free number, and returns it.

    Submitit loads pickles by the names of its tasks, so a stranger's sweep must not contain any already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        with contextlib.suppress(FileExistsError):
            (folder / str(number)).mkdir()
            return folder / str(number)
    raise AssertionError


class Submission:
    """An assignment that was sent to the cluster."""

    def __init__(self, task: Any, events: Path, assignment: Assignment) -> None:
        self.task = task  # a job of submitit
        self._events, self._offset = events, 0  # bytes read
        self._left: dict[int, Job] = {job.number: job for job in assignment.jobs}

    def read_events(self) -> Iterator[Event]:
        """Yields the events since the last call."""
        with open(self._events, "rb") as file:
            file.seek(self._offset)
            lines = file.read().rpartition(b"\n")[0]
        if not lines:
            return
        self._offset += len(lines) + 1
        for line in lines.split(b"\n"):
            kind, *values = json.loads(line)
            event = EVENTS[kind](*values)
            if isinstance(event, JobEnded):
                self._left.pop(event.number, None)
            yield event

    def fail_rest(self, state: str) -> Iterator[Event]:
        """Writes and yields the failure of the jobs that did not end before their task did, in this state."""
        if not self._left:
            return
        reason = f"its task {self.task.job_id} on the cluster ended without a result ({state})"
        error = self.task.exception() if self.task.paths.result_pickle.exists() else None
        if type(error).__name__ == "FailedJobError":  # the task raised
            trace = str(error).split("-" * 22)[1]  # between two lines of dashes
            reason = f"its task {self.task.job_id} on the cluster failed: {trace.strip().splitlines()[-1]}"
        for job in self._left.values():
            yield end_job(job, "failed", reason)
