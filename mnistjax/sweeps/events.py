"""Events of the jobs of a sweep, sent by the worker that trains them to the ledger and the view."""

from __future__ import annotations

from typing import Any, NamedTuple

from mnistjax import records


class JobStarted(NamedTuple):
    number: int


class JobProgress(NamedTuple):
    number: int
    examples_seen: int
    row: dict[str, Any] | None  # of a finished epoch


class JobPaused(NamedTuple):
    """A job waits at a rung of successive halving, to go on or to stop."""

    number: int


class JobEnded(NamedTuple):
    """A job has ended. An executor sends the status "stopped" when a job has come to its pause."""

    number: int
    status: records.Status
    reason: str | None  # why, unless done
    traceback: str | None = None
    value: float | None = None  # the monitored validation metric of the epoch that was kept, if done


class ProgramFailed(NamedTuple):
    """A program with several jobs raised. It is unknown which job is to blame."""

    numbers: tuple[int, ...]
    reason: str
    traceback: str


class AssignmentEnded(NamedTuple):
    """A worker is idle again. After a stop it leaves jobs that it did not start."""


Event = JobStarted | JobProgress | JobPaused | JobEnded | ProgramFailed | AssignmentEnded
