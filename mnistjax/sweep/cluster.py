"""Tasks on a cluster, through submitit: each group one job of Slurm, or a process of this machine.

An errand runs a supervisor of its own, so that one job that kills or hangs its process takes no other
along there either. What happens comes back line by line through a file in the sweep folder, which both sides
must see.
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnistjax.compose import label, load
from mnistjax.config import ConfigError
from mnistjax.data import Dataset
from mnistjax.sweep.plan import count_team, count_threads, data_key
from mnistjax.sweep.supervisor import POLL_SECONDS, Supervisor, registered_rows, write_end
from mnistjax.sweep.worker import Begun, Ended, JobProgress, Key, Report, Task, Ticket, add_rows

FOLDER = "submitit"  # in the sweep folder: submitit's files, and ours
STOP = "stop"  # the file that tells errands to stop
MINUTES = 24 * 60  # of an errand, unless told
REPORTS = {kind.__name__: kind for kind in (Begun, JobProgress, Ended)}


@dataclass(frozen=True, eq=False)
class Errand:
    """A task on its way to the cluster."""

    task: Task
    rows: Mapping[str, Mapping[str, Any]]  # of the open tables, as `registered_rows` has them
    timeout: float
    folder: Path
    name: str  # of the file for its reports
    owner: int | None  # the process that it must not outlive; None on another machine

    def __call__(self) -> None:
        """Trains the jobs, there."""
        add_rows(self.rows)
        task, (ticket, *_) = self.task, self.task.tickets
        data = label(load(ticket.settings), ticket.settings)
        if data_key(data, ticket.plan.positive) != task.data:
            raise ConfigError(f"{data.name} has another SHA-256 there")
        if task.width == 1:
            spec, jobs = ticket.plan.spec, len(task.tickets)
            threads = count_threads(spec, jobs)
            task = replace(task, threads=threads, team=count_team(spec, jobs, threads))
        with (
            open(self.folder / self.name, "a", buffering=1) as file,
            Supervisor(timeout=self.timeout) as supervisor,
        ):
            for report in supervisor.run([task], {task.data: data}, self._stopped):
                file.write(json.dumps([type(report).__name__, *report]) + "\n")

    def _stopped(self) -> bool:
        return (self.folder / STOP).exists() or (self.owner is not None and not _alive(self.owner))

    def __submitit_checkpoint__(self) -> Any:
        """Preempted or out of time: queued again, and every job goes on at its checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Processes started inside don't hear Ctrl-C: it is for us, who tell them to stop."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Cluster:
    """As a Supervisor, for tasks that run elsewhere. ConfigError where submitit can't be used."""

    def __init__(self, kind: str, folder: Path, parameters: Mapping[str, Any], *, timeout: float) -> None:
        try:
            import submitit
        except ImportError:
            raise ConfigError(
                f'sweep.executor=submitit_{kind} needs submitit: pip install "mnistjax[submitit]"'
            ) from None
        self._folder, self._local, self._timeout = folder / FOLDER, kind == "local", timeout
        self._sent: list[Sent] = []

        def make_executor(folder: Path | str) -> Any:
            executor = submitit.AutoExecutor(folder, cluster=kind)
            executor.update_parameters(**{"name": "mnistjax", "timeout_min": MINUTES, **parameters})
            return executor

        self._make_executor = make_executor
        try:
            with tempfile.TemporaryDirectory() as place:  # it writes there at once
                make_executor(place)
        except Exception as error:  # of several kinds, with pages of what is allowed
            raise ConfigError(f"sweep.submitit: {str(error).strip().splitlines()[0]}") from error

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._sent:
            (self._folder / STOP).touch()
        for sent in self._sent:
            sent.job.cancel()  # which a deaf process of this machine does not hear, but it sees the file

    def run(
        self, tasks: Iterable[Task], datasets: Mapping[Key, Dataset], stop: Callable[[], bool]
    ) -> Iterator[Report]:
        """As `Supervisor.run`; the data is loaded where it is needed. One task at a time on this machine."""
        waiting, stopping = deque(tasks), False
        self._folder = make_new_folder(self._folder)
        executor = self._make_executor(self._folder)
        while waiting or self._sent:
            if not stopping and stop():
                stopping = True
                waiting.clear()
                (self._folder / STOP).touch()
            while waiting and not (self._local and self._sent):
                self._sent.append(self._submit(executor, waiting.popleft()))
            time.sleep(POLL_SECONDS)
            for sent in list(self._sent):
                over = sent.job.done()  # before the last look at what it reported
                yield from sent.read()
                if over:
                    self._sent.remove(sent)
                    if not stopping:
                        yield from sent.fail_rest()

    def _submit(self, executor: Any, task: Task) -> Sent:
        name = f"{len(list(self._folder.glob('*.jsonl')))}.jsonl"
        (self._folder / name).touch()
        owner = os.getpid() if self._local else None
        errand = Errand(task, registered_rows(), self._timeout, self._folder.absolute(), name, owner)
        with _deaf():
            return Sent(executor.submit(errand), self._folder / name, task)


def make_new_folder(folder: Path) -> Path:
    """A new, empty folder below, "0" or the next that is free.

    Submitit loads pickles by the names of its tasks: they must be none that lay in a stranger's sweep.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        with contextlib.suppress(FileExistsError):
            (folder / str(number)).mkdir()
            return folder / str(number)
    raise AssertionError


class Sent:
    """A task on the cluster, seen from here."""

    def __init__(self, job: Any, reports: Path, task: Task) -> None:
        self.job = job  # submitit's
        self._reports, self._read = reports, 0
        self._left: dict[int, Ticket] = {ticket.number: ticket for ticket in task.tickets}

    def read(self) -> Iterator[Report]:
        """What is new since the last look."""
        with open(self._reports, "rb") as file:
            file.seek(self._read)
            lines = file.read().rpartition(b"\n")[0]
        if not lines:
            return
        self._read += len(lines) + 1
        for line in lines.split(b"\n"):
            kind, *values = json.loads(line)
            report = REPORTS[kind](*values)
            if isinstance(report, Ended):
                self._left.pop(report.number, None)
            yield report

    def fail_rest(self) -> Iterator[Report]:
        """The jobs of a task that ended without their end have failed."""
        if not self._left:
            return
        reason = f"its task {self.job.job_id} on the cluster ended without a result ({self.job.state})"
        if type(error := self.job.exception()).__name__ == "FailedJobError":  # it raised
            trace = str(error).split("-" * 22)[1]  # between two lines of them
            reason = f"its task {self.job.job_id} on the cluster failed: {trace.strip().splitlines()[-1]}"
        for number, ticket in self._left.items():
            write_end(ticket, "failed", reason)
            yield Ended(number, "failed", reason)
