"""What happens to the jobs of a sweep, from the worker that trains them to the ledger and the view."""

from __future__ import annotations

from typing import Any, NamedTuple

from mnistjax import records


class JobStarted(NamedTuple):
    number: int


class JobProgress(NamedTuple):
    number: int
    epoch: int  # epochs finished
    examples_seen: int
    row: dict[str, Any] | None  # of a finished epoch


class JobEnded(NamedTuple):
    number: int
    status: records.Status
    reason: str | None  # why, unless done
    traceback: str | None = None
    value: float | None = None  # the monitored validation metric of the epoch that was kept, if done


class ProgramFailed(NamedTuple):
    """A program with several jobs raised; which job is to blame is unknown."""

    numbers: tuple[int, ...]
    reason: str
    traceback: str


class AssignmentEnded(NamedTuple):
    """A worker is idle again; jobs that it did not start are left."""


Event = JobStarted | JobProgress | JobEnded | ProgramFailed | AssignmentEnded
