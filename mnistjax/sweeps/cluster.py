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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnistjax.compose import label, load
from mnistjax.config import ConfigError
from mnistjax.job import Job
from mnistjax.signals import in_main_thread
from mnistjax.sweeps.events import Event, JobEnded, JobProgress, JobStarted
from mnistjax.sweeps.executor import POLL_SECONDS, Datasets, Executor, Stop, end_job
from mnistjax.sweeps.groups import Assignment, count_interleaved, count_threads, data_key
from mnistjax.sweeps.processes import ProcessExecutor
from mnistjax.sweeps.worker import Tables, add_tables, copy_tables

FOLDER = "submitit"  # folder in the sweep folder, for submitit's files and ours
STOP = "stop"  # name of a file that tells the tasks to stop
MINUTES = 24 * 60  # time limit of a task, unless given
EVENTS = {kind.__name__: kind for kind in (JobStarted, JobProgress, JobEnded)}


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

    def __submitit_checkpoint__(self) -> Any:
        """Queues the task again when it is preempted or out of time; jobs continue from their checkpoints."""
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
        self._submissions: list[Submission] = []

        def make_executor(folder: Path | str) -> Any:
            executor = submitit.AutoExecutor(folder, cluster=kind)
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
        for submission in self._submissions:
            submission.task.cancel()  # a local process ignores this, but sees the file

    def run(self, assignments: deque[Assignment], datasets: Datasets, stop: Stop) -> Iterator[Event]:
        stopping = False
        self._folder = make_new_folder(self._folder)
        executor = self._make_executor(self._folder)
        while assignments or self._submissions:
            if not stopping and stop():
                stopping = True
                (self._folder / STOP).touch()
            if stopping:
                assignments.clear()
            while assignments and not (self._local and self._submissions):  # one at a time on this machine
                self._submissions.append(self._submit(executor, assignments.popleft()))
            time.sleep(POLL_SECONDS)
            for submission in list(self._submissions):
                over = submission.task.done()  # asked first, so that no later event is missed
                yield from submission.read_events()
                if over:
                    self._submissions.remove(submission)
                    if not stopping:
                        yield from submission.fail_rest()

    def _submit(self, executor: Any, assignment: Assignment) -> Submission:
        name = f"{len(list(self._folder.glob('*.jsonl')))}.jsonl"
        (self._folder / name).touch()
        owner = os.getpid() if self._local else None
        folder = self._folder.absolute()
        remote = RemoteAssignment(assignment, copy_tables(), self._timeout, folder, name, owner)
        with contextlib.ExitStack() as stack:
            if in_main_thread():  # a local task inherits this: Ctrl-C is for us
                before = signal.signal(signal.SIGINT, signal.SIG_IGN)
                stack.callback(signal.signal, signal.SIGINT, before)
            try:
                task = executor.submit(remote)
            except RuntimeError as error:
                said = str(error).strip().splitlines() or [type(error).__name__]
                raise ConfigError(f"the cluster takes no task: {said[-1]}") from error
            return Submission(task, self._folder / name, assignment)


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

    def fail_rest(self) -> Iterator[Event]:
        """Writes and yields the failure of the jobs that did not end before their task did."""
        if not self._left:
            return
        reason = f"its task {self.task.job_id} on the cluster ended without a result ({self.task.state})"
        if type(error := self.task.exception()).__name__ == "FailedJobError":  # the task raised
            trace = str(error).split("-" * 22)[1]  # between two lines of dashes
            reason = f"its task {self.task.job_id} on the cluster failed: {trace.strip().splitlines()[-1]}"
        for job in self._left.values():
            yield end_job(job, "failed", reason)
