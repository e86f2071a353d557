"""Tasks of this user in Slurm's queue, as `squeue` shows them.

Submitit asks `sacct` instead, which needs accounts that small clusters lack: it would warn at each question,
and a task that was cancelled would seem to run for ever.
"""

import logging
import math
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

QUEUE_SECONDS = 5.0  # between two readings of the queue
GRACE_SECONDS = 15.0  # from the end of a task until it is over: it may be queued again, or its result be late
SLOW_SECONDS = 60.0  # a command of Slurm that takes longer is given up
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"),
    "not in the queue",  # Slurm forgets a task a few minutes after its end
}
LIST = ("squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i|%T|%o")


class Row(NamedTuple):
    """A task in the queue."""

    job_id: str
    state: str  # in Slurm's words, such as RUNNING
    script: str  # path of what was submitted


class Queue:
    """The states of submitit's tasks, by their job_id. The queue is read again only every few seconds."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}  # by id
        self._read = -math.inf  # time of the last reading, seconds
        self._ended: dict[str, float] = {}  # when a task was first seen as ended, by id

    def find_left(self, folder: Path) -> list[Row]:
        """The tasks that have not ended and whose script is somewhere in this folder."""
        rows, place = read_queue() or (), folder.absolute()
        return [row for row in rows if row.state not in ENDED and place in Path(row.script).parents]

    def state(self, task: Any) -> str:
        return self._rows[task.job_id].state if task.job_id in self._rows else "not in the queue"

    def is_over(self, task: Any, *, at_once: bool = False) -> bool:
        """Whether a task has a result, or has ended for good; `at_once`: or seems to have ended."""
        return task.paths.result_pickle.exists() or self._has_ended(task, 0.0 if at_once else GRACE_SECONDS)

    def _has_ended(self, task: Any, grace: float) -> bool:
        now = time.monotonic()
        if now - self._read >= QUEUE_SECONDS:
            self._read = now
            rows = read_queue()
            if rows is None:
                return False
            self._rows = {row.job_id: row for row in rows}
        if self.state(task) not in ENDED:
            self._ended.pop(task.job_id, None)
            return False
        return now - self._ended.setdefault(task.job_id, now) >= grace

    def cancel(self, tasks: Sequence[Any], *, waiting: bool = False) -> None:
        """Cancels tasks, or only those of them that have not begun."""
        if tasks:
            self._read = -math.inf  # because their states change now
            _call("scancel", *["--state=PENDING"] * waiting, *(task.job_id for task in tasks))


def read_queue() -> list[Row] | None:
    """The tasks in the queue; those that ended stay for minutes. None if Slurm does not answer."""
    printed = _call(*LIST)
    if printed is None:
        return None
    return [Row(*line.strip().split("|", 2)) for line in printed.splitlines() if line.count("|") >= 2]


def _call(*command: str) -> str | None:
    options: Any = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "check": True}
    try:
        return subprocess.run(command, timeout=SLOW_SECONDS, **options).stdout
    except (OSError, subprocess.SubprocessError) as error:
        logging.getLogger(__name__).warning("Slurm does not answer: %s", error)
        return None
