"""Training in this process, for debugging. A job that crashes or hangs stops the sweep."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator

from mnistjax.job import Job
from mnistjax.recorder import INSIDE_SEGMENT
from mnistjax.sweep.events import Event, JobEnded, JobStarted, ProgramFailed
from mnistjax.sweep.executor import POLL_SECONDS, STOP_SECONDS, Datasets, Executor, Stop, end_job
from mnistjax.sweep.groups import Assignment
from mnistjax.sweep.trainer import Trainer


class InlineExecutor(Executor):
    """Trains in a thread of this process."""

    def run(self, assignments: Iterable[Assignment], datasets: Datasets, stop: Stop) -> Iterator[Event]:
        assignments = list(assignments)
        jobs = {job.number: job for assignment in assignments for job in assignment.jobs}
        active: dict[int, Job] = {}
        events: queue.Queue[Event | None] = queue.Queue()

        def train() -> None:
            for assignment in assignments:
                Trainer(assignment, datasets[assignment.data], events.put, stop).run()
            events.put(None)

        threading.Thread(target=train, daemon=True).start()
        last = time.monotonic()
        while True:
            try:
                event = events.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if stop() and active and time.monotonic() - last > STOP_SECONDS:
                    for job in active.values():
                        yield end_job(job, "interrupted", INSIDE_SEGMENT)
                    return
                continue
            last = time.monotonic()
            match event:
                case None:
                    return
                case ProgramFailed(numbers, reason, traceback):
                    for number in numbers:
                        active.pop(number, None)
                        yield JobEnded(number, "failed", reason, traceback)
                    continue
                case JobStarted(number):
                    active[number] = jobs[number]
                case JobEnded(number):
                    active.pop(number, None)
            yield event
