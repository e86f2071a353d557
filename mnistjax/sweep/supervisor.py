"""The supervisor: gives tasks to worker processes, and finds the job that killed or hung one.

A worker that dies or falls silent takes the jobs in its lanes with it. One job alone is the guilty one;
several are split and run again apart, at the same lane width, until it is found.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import pickle
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

from mnistjax import records
from mnistjax.config import ConfigError
from mnistjax.data import Dataset
from mnistjax.sweep.worker import (
    Begun,
    Broken,
    Ended,
    Finished,
    JobProgress,
    Key,
    Report,
    Task,
    Ticket,
    run_task,
    serve,
)

INTERRUPTED = "stopped inside a segment; goes on from the last checkpoint"
POLL_SECONDS = 0.2  # at most, between two looks at signals and silence
GRACE_SECONDS = 20.0  # for a worker to end by itself
STOP_SECONDS = 8.0  # for jobs to end after a signal, from one report to the next; a segment takes about one


def registered_rows() -> dict[str, Any]:
    """The open tables that a worker needs, rows of a user's script included."""
    from mnistjax.models import MODELS, list_models
    from mnistjax.optim import OPTIMIZERS, list_optimizers

    rows: dict[str, Any] = {
        "model": {name: MODELS[name] for name in list_models()},
        "optimizer": {name: OPTIMIZERS[name] for name in list_optimizers()},
    }
    for kind, table in rows.items():
        for name, row in table.items():
            try:
                pickle.dumps(row)
            except (pickle.PicklingError, AttributeError, TypeError):
                raise ConfigError(
                    f"{kind} {name!r} can't be imported by a worker process; define it at the top level of a "
                    f"module, or use sweep.executor=inline"
                ) from None
    return rows


class Worker:
    """A worker process, seen from its parent."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, registered_rows()), daemon=True)
        self._process.start()
        theirs.close()
        self._datasets: set[Key] = set()
        self.task: Task | None = None
        self.left: dict[int, Ticket] = {}  # jobs of the task that are not over, by number
        self.heard: dict[int, float] = {}  # when a job in a lane last reported, seconds on the clock
        self.last = time.monotonic()  # when the worker got the task, or reported

    def give(self, task: Task, data: Dataset) -> None:
        """The worker is at this task."""
        with contextlib.suppress(OSError):  # dead already: the next look at it says so
            if task.data not in self._datasets:
                self.connection.send((task.data, data))
                self._datasets.add(task.data)
            self.connection.send(task)
        self.task, self.left = task, {ticket.number: ticket for ticket in task.tickets}
        self.last = time.monotonic()

    def stop(self) -> None:
        """The worker's jobs end after their segment."""
        with contextlib.suppress(OSError):
            self.connection.send("stop")

    def end(self) -> None:
        """The process ends by itself, or after a time of grace is killed."""
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self._process.join(GRACE_SECONDS)
        self.kill()

    def kill(self, patience: float = 0.0) -> str:
        """The process is dead; says what it died of, by itself if within `patience` seconds."""
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


class Supervisor:
    """Worker processes, kept from task to task. Use it in a `with`: no process outlives it."""

    def __init__(self, *, processes: int = 1, timeout: float = 600.0) -> None:
        self._processes, self._timeout = processes, timeout
        self._workers: list[Worker] = []
        self._pending: deque[Task] = deque()
        self._stillborn = 0  # workers in a row that died before they began a job

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        for worker in self._workers:
            worker.kill() if kind else worker.end()
        self._workers.clear()

    def run(
        self, tasks: Iterable[Task], datasets: Mapping[Key, Dataset], stop: Callable[[], bool]
    ) -> Iterator[Report]:
        """What the workers report, each job's `Ended` once. After a true `stop` no job begins."""
        self._pending, stopped = deque(tasks), math.inf  # when, seconds on the clock
        while self._pending or any(worker.task for worker in self._workers):
            if stopped == math.inf and stop():
                stopped = time.monotonic()
                for worker in self._workers:
                    worker.stop()
            if stopped < math.inf:
                self._pending.clear()
            self._give(datasets)
            busy = {worker.connection: worker for worker in self._workers if worker.task}
            for connection in wait(list(busy), POLL_SECONDS):
                worker = busy[connection]  # pyright: ignore[reportArgumentType] (wait's type is wider)
                try:
                    report = worker.connection.recv()
                except (EOFError, OSError):
                    yield from self._lose(worker, list(worker.heard))
                else:
                    yield from self._hear(worker, report)
            for worker in [worker for worker in self._workers if worker.task]:
                now = time.monotonic()
                if now - max(stopped, worker.last) > STOP_SECONDS and worker.heard:
                    yield from self._interrupt(worker)
                    continue
                silent = [n for n, heard in worker.heard.items() if now - heard > self._timeout]
                if silent or (not worker.heard and now - worker.last > self._timeout):
                    yield from self._lose(worker, silent, f"no progress within {self._timeout:g} s")

    def _give(self, datasets: Mapping[Key, Dataset]) -> None:
        while self._pending:
            idle = next((worker for worker in self._workers if not worker.task), None)
            if idle is None:
                if len(self._workers) == self._processes:
                    return
                self._workers.append(idle := Worker())
            task = self._pending.popleft()
            idle.give(task, datasets[task.data])

    def _hear(self, worker: Worker, report: Report) -> Iterator[Report]:
        worker.last, self._stillborn = time.monotonic(), 0
        match report:
            case Finished():
                worker.task = None
            case Broken(numbers, reason, traceback):
                assert worker.task
                suspects = [worker.left.pop(number) for number in numbers]
                for number in numbers:
                    worker.heard.pop(number, None)
                yield from self._suspect(worker.task, suspects, reason, traceback)
            case Begun(number) | JobProgress(number):
                worker.heard[number] = time.monotonic()
                yield report
            case Ended(number):
                worker.heard.pop(number, None)
                worker.left.pop(number, None)
                yield report

    def _lose(self, worker: Worker, suspects: list[int], reason: str | None = None) -> Iterator[Report]:
        """The worker is dead; its other jobs wait for the next one."""
        died_of, task = worker.kill(0.0 if reason else GRACE_SECONDS), worker.task
        self._workers.remove(worker)
        assert task
        tickets = [worker.left.pop(number) for number in suspects if number in worker.left]
        self._stillborn += not worker.heard
        if self._stillborn > 1:  # once may be chance
            for ticket in worker.left.values():
                yield from self._suspect(task, [ticket], f"before it began: {reason or died_of}")
        elif worker.left:
            self._pending.appendleft(replace(task, tickets=tuple(worker.left.values())))
        yield from self._suspect(task, tickets, reason or died_of)

    def _interrupt(self, worker: Worker) -> Iterator[Report]:
        """Ends a worker whose jobs did not end in time after a signal; they go on at their checkpoints."""
        worker.kill()
        self._workers.remove(worker)
        for number in list(worker.heard):
            if ticket := worker.left.get(number):
                write_end(ticket, "interrupted", INTERRUPTED)
                yield Ended(number, "interrupted", INTERRUPTED)

    def _suspect(
        self, task: Task, suspects: list[Ticket], reason: str, traceback: str | None = None
    ) -> Iterator[Report]:
        """One suspect has failed; several run again, apart."""
        if len(suspects) == 1:
            write_end(suspects[0], "failed", reason)
            yield Ended(suspects[0].number, "failed", reason, traceback)
            return
        half = len(suspects) // 2
        halves = [suspects] if task.width == 1 else [suspects[:half], suspects[half:]]
        for tickets in filter(None, halves):
            self._pending.append(replace(task, tickets=tuple(tickets), threads=1, team=1))


def write_end(ticket: Ticket, status: records.Status, reason: str) -> None:
    """Writes how a job ended that could not write it itself."""
    with contextlib.suppress(OSError, ConfigError):
        before = records.read_status(ticket.folder) or {}
        records.write_status(
            ticket.folder,
            status,
            identity=ticket.plan.identity,
            epoch=before.get("epoch", 0),
            started=before.get("started", records.now()),
            ended=records.now(),
            reason=reason,
        )


class Inline:
    """As a Supervisor, in this process: for debugging; a job that kills or hangs takes all along."""

    def __init__(self) -> None:
        self.hangs = False  # whether a thread is left that does not end

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def run(
        self, tasks: Iterable[Task], datasets: Mapping[Key, Dataset], stop: Callable[[], bool]
    ) -> Iterator[Report]:
        """As `Supervisor.run`."""
        reports: queue.Queue[Report | None] = queue.Queue()
        last, left = time.monotonic(), dict[int, Ticket]()  # jobs that have begun and not ended
        tasks = list(tasks)
        tickets = {ticket.number: ticket for task in tasks for ticket in task.tickets}

        def work() -> None:
            for task in tasks:
                run_task(task, datasets[task.data], reports.put, stop)
            reports.put(None)

        threading.Thread(target=work, daemon=True).start()
        while True:
            try:
                report = reports.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if stop() and left and time.monotonic() - last > STOP_SECONDS:
                    self.hangs = True
                    for number, ticket in left.items():
                        write_end(ticket, "interrupted", INTERRUPTED)
                        yield Ended(number, "interrupted", INTERRUPTED)
                    return
                continue
            last = time.monotonic()
            match report:
                case None:
                    return
                case Broken(numbers, reason, traceback):
                    for number in numbers:
                        left.pop(number, None)
                        yield Ended(number, "failed", reason, traceback)
                    continue
                case Begun(number):
                    left[number] = tickets[number]
                case Ended(number):
                    left.pop(number, None)
            yield report
