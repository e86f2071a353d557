"""A sweep while Hydra drives it: finds jobs by their overrides, shows progress, handles signals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mnistjax import files
from mnistjax.progress import relative, tell
from mnistjax.signals import stop_signals
from mnistjax.sweep.events import JobEnded

if TYPE_CHECKING:
    from mnistjax.sweep.run import Sweep


class Driver:
    """The sweep of the command and of Hydra's launcher."""

    def __init__(self, sweep: Sweep) -> None:
        from rich.console import Console

        self.sweep = sweep
        self.signal = 2  # the number of the signal that ended the sweep
        self._refused = False  # whether the disk refused some of Hydra's files
        self._console = Console()

    def train(self) -> Iterator[JobEnded]:
        """Trains the jobs that are not over and yields the end of each. KeyboardInterrupt after a signal."""
        from mnistjax.sweep.view import show_sweep

        with stop_signals() as stop:
            try:
                jobs = self.sweep.prepare()
                with show_sweep(self._console, jobs, self.sweep.ledger) as show:
                    for event in self.sweep.run(stop):
                        show(event)
                        if isinstance(event, JobEnded):
                            yield event
            finally:
                self.signal = (stop.received or [self.signal])[0]
        if stop.received:
            raise KeyboardInterrupt

    def tell_refused(self, error: OSError) -> None:
        """Warns once that the disk refuses Hydra's files. The files of the runs are not affected."""
        if not self._refused:
            reason = files.describe(error, self.sweep.ledger.folder)
            tell(f"warning: {reason}; Hydra's files are incomplete")
        self._refused = True

    def report(self) -> int:
        """Prints the table and the failures; returns the exit code."""
        from mnistjax.sweep.view import list_failures, show_table

        sweep = self.sweep
        binary = any(job.plan.spec.task == "binary" for job in sweep.jobs.values())
        show_table(self._console, sweep.results(), sweep.monitor, binary=binary)
        place = relative(sweep.ledger.folder)
        self._console.print(f"results    {place}/results.csv", highlight=False, soft_wrap=True, markup=False)
        names = {number: job.name for number, job in sweep.jobs.items()}
        lines = list_failures(sweep.entries, names)
        if lines:
            tell(f"{len(sweep.entries) - len(lines)} of {len(sweep.entries)} jobs done")
        for line in lines:
            tell(line)
        return int(bool(lines) or self._refused)
