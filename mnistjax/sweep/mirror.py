"""The W&B run of a sweep: curves of its progress, tables of its results, and its best jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mnistjax import records
from mnistjax.config import ConfigError, badness, to_plain
from mnistjax.finished import load_examples
from mnistjax.job import Job
from mnistjax.progress import tell
from mnistjax.seeds import seeds_table
from mnistjax.sweep.ledger import Ledger
from mnistjax.tracking import Tracker, find_address, make_run_id

BEST = 3  # jobs whose images and checkpoints are sent to W&B; those of all jobs would be too many


class Mirror:
    """The W&B run of a sweep."""

    def __init__(self, ledger: Ledger, job: Job) -> None:
        """`job` is any job of the sweep: they share their W&B options."""
        self._ledger, self._monitor = ledger, job.plan.stopping.monitor
        self._enabled = job.wandb_mode != "disabled"
        groups = to_plain(ledger.groups)
        self._tracker = Tracker(
            ledger.folder,
            config={"sweep": ledger.arguments, "groups": groups, "machine": ledger.machine},
            run_id=make_run_id(ledger.id, ledger.created),
            group=ledger.id,
            name=f"sweep {ledger.id}",
            job_type="sweep",
            step_metric="jobs/over",
            **job.tracker_options(),
        )

    def log(self, row: Mapping[str, Any]) -> None:
        """Adds a point to the sweep's curves when the job of this row of `results.csv` has ended."""
        counts = self._count_statuses()
        failed = counts["failed"] + counts["diverged"]
        over = {"jobs/over": counts["done"] + failed, "jobs/done": counts["done"], "jobs/failed": failed}
        metrics = {f"job/{key}": row[key] for key in (self._monitor, "test/accuracy") if row[key] != ""}
        self._tracker.log({**over, "job": row["number"], **metrics})

    def finish(self, rows: Sequence[Mapping[str, Any]], best: Iterable[Job]) -> None:
        """Adds tables and the best jobs, closes the run, and writes all W&B addresses into the ledger."""
        if self._enabled:
            for job in best:
                self._show(job)
        self._tracker.log_tables({"jobs": rows, "by_seed": seeds_table(rows, self._monitor)})
        counts = self._count_statuses()
        done = counts["done"] == len(self._ledger.entries)
        summary = {f"jobs/{status}": count for status, count in counts.items()}
        self._tracker.finish("done" if done else "failed", summary)
        self._find_addresses(self._tracker.address)

    def _count_statuses(self) -> Counter[str]:
        return Counter(entry.status for entry in self._ledger.entries.values())

    def _show(self, job: Job) -> None:
        """Sends the images and the checkpoint of a finished job."""
        try:
            examples = load_examples(job.plan, job.data, job.folder)
            summary = records.read_summary(job.folder) or {}
        except (ConfigError, OSError) as error:
            tell(f"warning: W&B gets no images of job {job.number}: {error}")
            return
        if run_id := self._find_run_id(job.number):
            self._tracker.show(examples, summary, job.folder, run_id, prefix=f"job {job.number}/")

    def _find_addresses(self, own: str | None) -> None:
        """Puts the addresses of the W&B runs into the ledger; `own` is the address of the sweep's run."""
        ledger = self._ledger
        if own:
            ledger.wandb = own.removeprefix(f"{ledger.folder}/")
        for entry in ledger.entries.values():
            run_id = self._find_run_id(entry.number)
            address = find_address(ledger.job_folder(entry.number), run_id, own) if run_id else None
            if address:
                entry.wandb = address.removeprefix(f"{ledger.folder}/")

    def _find_run_id(self, number: int) -> str | None:
        """The id of a job's W&B run; None if the job was not started or its status can't be read."""
        try:
            status = records.read_status(self._ledger.job_folder(number))
        except (ConfigError, OSError):
            return None
        identity = self._ledger.entries[number].identity
        return make_run_id(identity, status["started"]) if status else None


def find_best(rows: Iterable[Mapping[str, Any]], monitor: str) -> list[int]:
    """The numbers of the BEST finished jobs by a validation metric."""
    done = [row for row in rows if row["status"] == "done"]
    return [row["number"] for row in sorted(done, key=lambda row: badness(monitor, row[monitor]))[:BEST]]
