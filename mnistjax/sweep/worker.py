"""A worker: trains the jobs of its tasks and reports every step of theirs.

A process of its own (`serve`), so that a model that kills or hangs takes nobody along. It is spawned, never
forked, and ends with its parent: the pipe between them closes then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mnistjax import checkpoints, files, records
from mnistjax.backend import prepare_backend
from mnistjax.compose import Settings
from mnistjax.config import ConfigError, Plan, Spec
from mnistjax.data import Dataset
from mnistjax.job import Job, Work, find_outcome, open_run
from mnistjax.progress import relative, tell
from mnistjax.recorder import Ending, Start, set_aside
from mnistjax.signals import STOPPING
from mnistjax.tracking import Tracker

if TYPE_CHECKING:
    from mnistjax.run import Progress, Result, Run

Key = tuple[str, ...]
"""Of a data set: name, SHA-256, positive class."""

REPORT_SECONDS = 0.5  # between two reports of a job inside an epoch


@dataclass(frozen=True, eq=False)
class Ticket:
    """A job on its way to a worker, without its data."""

    number: int
    folder: Path
    overrides: list[str]
    config: dict[str, Any]
    settings: Settings
    plan: Plan
    wandb_mode: str
    group: str  # of the sweep at W&B
    name: str  # of the run at W&B


@dataclass(frozen=True, eq=False)
class Task:
    """Jobs for one worker, those of one Spec side by side; of one Spec only where they are lanes."""

    width: int  # lanes of a program
    threads: int  # programs at a time
    team: int  # jobs of one lane that take turns in a program, at most
    data: Key
    tickets: tuple[Ticket, ...]


class Begun(NamedTuple):
    number: int


class JobProgress(NamedTuple):
    number: int
    epoch: int
    examples_seen: int
    row: dict[str, Any] | None


class Ended(NamedTuple):
    number: int
    status: records.Status
    reason: str | None
    traceback: str | None = None
    value: float | None = None  # the monitored validation metric of the kept epoch, when done


class Broken(NamedTuple):
    """The program of these lanes raised; which of them is to blame is not known."""

    numbers: tuple[int, ...]
    reason: str
    traceback: str


class Finished(NamedTuple):
    """The task is over; jobs that it did not begin are left."""


Report = Begun | JobProgress | Ended | Broken | Finished


def serve(connection: Connection, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """The life of a worker process: takes data sets and tasks until it is told to end.

    `rows` are those of the open tables that a script registered.
    """
    for number in STOPPING:  # the parent gets them too, and says when to stop
        signal.signal(number, signal.SIG_IGN)
    prepare_backend()
    add_rows(rows)
    tasks: queue.Queue[Task | None] = queue.Queue()
    datasets: dict[Key, Dataset] = {}
    stop, sending = threading.Event(), threading.Lock()

    def receive() -> None:
        while True:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                os._exit(1)  # the parent is gone
            if message == "stop":
                stop.set()
            elif isinstance(message, tuple):
                datasets[message[0]] = message[1]
            else:
                tasks.put(message)

    def send(report: Report) -> None:
        with sending, contextlib.suppress(OSError):
            connection.send(report)

    threading.Thread(target=receive, daemon=True).start()
    while (task := tasks.get()) is not None:
        run_task(task, datasets[task.data], send, stop.is_set)
        send(Finished())


def add_rows(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """The rows that the parent registered are in this process's tables too."""
    from mnistjax.models import MODELS
    from mnistjax.optim import OPTIMIZERS

    MODELS.update(rows["model"])
    OPTIMIZERS.update(rows["optimizer"])


Team = tuple[Ticket, ...]


def make_teams(task: Task) -> list[Team]:
    """The tickets by Spec; and those that read the images in one order, from the first step on, together."""
    from mnistjax.layout import order_seed

    together: dict[Any, list[Ticket]] = {}
    for ticket in task.tickets:
        spec = ticket.plan.spec
        alike = task.team > 1 and not (ticket.folder / checkpoints.CHECKPOINT).exists()
        key = (spec, order_seed(spec, ticket.plan.seed)) if alike else (spec, None, ticket.number)
        together.setdefault(key, []).append(ticket)
    return [
        tuple(tickets[i : i + task.team])
        for tickets in together.values()
        for i in range(0, len(tickets), task.team)
    ]


class Line:
    """The teams of a task, in turn; of each Spec one program compiles first and the others wait."""

    def __init__(self, teams: Sequence[Team], stop: Callable[[], bool]) -> None:
        self._teams, self._stop, self._turn = deque(teams), stop, threading.Lock()
        self._compiled: dict[Spec, threading.Event] = {}

    def take(self, spec: Spec | None = None) -> Team | None:
        """The next team, if it is of this Spec or any will do; None after a stop."""
        with self._turn:
            if self._stop() or not self._teams or spec not in (None, self._teams[0][0].plan.spec):
                return None
            return self._teams.popleft()

    def wait(self, spec: Spec) -> None:
        """Waits until another has compiled the program, unless this is the first one to need it."""
        with self._turn:
            compiled = self._compiled.get(spec)
            if compiled is None:
                self._compiled[spec] = threading.Event()
        if compiled:
            compiled.wait()

    def compiled(self, spec: Spec) -> None:
        """The program is there, or can't be had."""
        self._compiled[spec].set()


def run_task(task: Task, data: Dataset, send: Callable[[Report], None], stop: Callable[[], bool]) -> None:
    """Every job of the task is over, or stopped, or reported as broken."""
    import jax

    from mnistjax.devices import count_shards

    line, devices = Line(make_teams(task), stop), jax.devices()
    each = len(devices) // task.threads  # of a program, from its default one on
    spread = each >= count_shards(task.tickets[0].plan.spec) > 1
    if devices[0].platform == "cpu" and not spread:
        each = 0  # a device has threads enough for several programs, and one device compiles each once
    trackers: list[Tracker] = []

    def work(index: int) -> None:
        with jax.default_device(devices[index * each % len(devices)]):
            while team := line.take():
                Bench(task.width, spread, data, line, send, stop, trackers).run(team)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(task.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for tracker in trackers:
        tracker.join()


class Bench:
    """One program and the jobs in its lanes."""

    def __init__(
        self,
        width: int,
        spread: bool,
        data: Dataset,
        line: Line,
        send: Callable[[Report], None],
        stop: Callable[[], bool],
        trackers: list[Tracker],
    ) -> None:
        self._width, self._spread, self._data = width, spread, data
        self._line, self._send, self._stop = line, send, stop
        self._trackers = trackers
        self._works: dict[int, tuple[Ticket, Work, contextlib.ExitStack]] = {}  # by the id of their Run

    def run(self, first: Team) -> None:
        """Trains this team and those of its Spec that come next; jobs that are left are for another Bench."""
        from mnistjax.loop import fit_runs
        from mnistjax.programs import make_program

        spec = first[0].plan.spec

        def teams() -> Iterator[list[Run]]:
            team: Team | None = first
            while team:
                yield [run for ticket in team if (run := self._begin(ticket))]
                team = self._line.take(spec)

        self._line.wait(spec)
        try:
            program = make_program(spec, self._data, width=self._width, spread=self._spread)
            results = fit_runs(program, teams(), stop=self._stop)
            for run, result in results:
                self._end(run, result)
        except Exception as error:
            self._break(error)
        finally:
            self._line.compiled(spec)
        for ticket, work, stack in self._works.values():  # taken, and never begun
            ending = Ending("interrupted", "stopped before it began")
            work.recorder.close(ending)
            self._close(ticket, work, stack, ending)

    def _begin(self, ticket: Ticket) -> Run | None:
        """The run of a job in its locked folder; None where it is over already."""
        self._send(Begun(ticket.number))
        stack = contextlib.ExitStack()
        fields = {f.name: getattr(ticket, f.name) for f in dataclasses.fields(Job) if f.name != "dataset"}
        job = Job(dataset=self._data, **fields)
        try:
            stack.enter_context(records.lock(ticket.folder))
            start = self._open(job, ticket)
            if start is None:
                stack.close()
                return None
            work = Work(job, ticket.folder, start, group=ticket.group, name=ticket.name)
        except (ConfigError, OSError) as error:
            stack.close()
            reason = str(error) if isinstance(error, ConfigError) else files.describe(error, ticket.folder)
            self._send(Ended(ticket.number, "failed", reason))
            return None
        compiled = functools.partial(self._line.compiled, ticket.plan.spec)
        run = work.run(Reporter(ticket.number, self._send, compiled))
        self._works[id(run)] = ticket, work, stack
        return run

    def _open(self, job: Job, ticket: Ticket) -> Start | None:
        """Where a job begins in its locked folder; None if it is over already, which is reported.

        Damaged files are set aside, and the job begins again.
        """
        try:
            if not find_outcome(job, ticket.folder, resume=True, hydra_was_here=True):
                return open_run(job, ticket.folder, self._width)
            status = records.read_status(ticket.folder)
            assert status is not None
            self._send(Ended(ticket.number, status["status"], status["reason"]))
            return None
        except ConfigError as damage:
            place = set_aside(ticket.folder)
            tell(f"job {ticket.number} begins again, its damaged files are in {relative(place)}: {damage}")
            return open_run(job, ticket.folder, self._width)

    def _end(self, run: Run, result: Result) -> None:
        ticket, work, stack = self._works.pop(id(run))
        self._close(ticket, work, stack, work.end(result, examples=False), result)

    def _break(self, error: Exception) -> None:
        """The program raised: the fault of the job in it, if there is one only."""
        broken = list(self._works.values())
        self._works.clear()
        endings = [work.fail(error) for _, work, _ in broken]
        if len(broken) == 1:
            self._close(*broken[0], endings[0])
            return
        for (_, work, stack), ending in zip(broken, endings, strict=True):
            self._finish(work.tracker, ending)
            stack.close()
        reason, traceback = endings[0].reason or "", endings[0].traceback or ""
        self._send(Broken(tuple(ticket.number for ticket, _, _ in broken), reason, traceback))

    def _close(
        self,
        ticket: Ticket,
        work: Work,
        stack: contextlib.ExitStack,
        ending: Ending,
        result: Result | None = None,
    ) -> None:
        self._finish(work.tracker, ending)
        stack.close()
        value = None
        if ending.status == "done" and result:
            value = result.rows[result.kept_epoch - 1][ticket.plan.stopping.monitor]
        self._send(Ended(ticket.number, ending.status, ending.reason, ending.traceback, value))

    def _finish(self, tracker: Tracker, ending: Ending) -> None:
        """W&B closes the run in its own time."""
        tracker.finish(ending.status, ending.summary, wait=False)
        self._trackers.append(tracker)


class Reporter:
    """An observer that reports a job's epochs, and that it is alive inside them."""

    def __init__(self, number: int, send: Callable[[Report], None], compiled: Callable[[], None]) -> None:
        self._number, self._send, self._compiled = number, send, compiled
        self._sent = 0.0  # seconds on the clock

    def __call__(self, moment: Progress) -> None:
        now = time.monotonic()
        if moment.row is not None:
            self._compiled()
        if moment.row is not None or now - self._sent >= REPORT_SECONDS:
            self._sent = now
            self._send(JobProgress(self._number, moment.epoch, moment.examples_seen, moment.row))
