"""The W&B run of a sweep: curves of its progress, tables of its results, its best jobs, and its Sweep."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mnistjax import records
from mnistjax.config import ConfigError, Plan, badness, to_plain
from mnistjax.data import Dataset
from mnistjax.finished import describe_model, load_examples
from mnistjax.progress import tell
from mnistjax.seeds import seeds_table
from mnistjax.sweeps.ledger import Ledger
from mnistjax.tracking import Tracker, describe_sweep, find_address, find_run_id, keep_safe, make_run_id

BEST = 3  # jobs whose images and models are sent to W&B; those of all jobs would be too many


class Mirror:
    """The W&B run of a sweep."""

    def __init__(self, ledger: Ledger, monitor: str, registry: str | None, **options: Any) -> None:
        """`options` are those of the Tracker that the jobs share."""
        self._ledger, self._monitor, self._registry = ledger, monitor, registry
        self._place = {key: options.get(key) for key in ("project", "entity")}
        self._tracker = Tracker(
            ledger.folder,
            config={"sweep": ledger.arguments, "groups": to_plain(ledger.groups), "machine": ledger.machine},
            run_id=make_run_id(ledger.id, ledger.created),
            group=ledger.id,
            name=f"sweep {ledger.id}",
            job_type="sweep",
            step_metric="jobs/over",
            **options,
        )

    def log(self, row: Mapping[str, Any], counts: Counter[str]) -> None:
        """Adds a point to the sweep's curves when the job of this row of `results.csv` has ended.

        `counts` are all jobs of the sweep by status.
        """
        self._tracker.log(self._point(row, counts))

    def replay(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Sends the points that W&B lacks of the jobs that are over, in the order of their ends."""
        counts: Counter[str] = Counter()
        points = []
        for row in sort_by_end(self._ledger, rows):
            counts[row["status"]] += 1
            points.append(self._point(row, counts))
        self._tracker.replay(points, counter="jobs/over")

    def finish(
        self, rows: Sequence[Mapping[str, Any]], reopen: Callable[[int], tuple[Plan, Dataset]] | None = None
    ) -> bool:
        """Adds tables, the best jobs and the Sweep, closes the run, and writes all addresses into the ledger.

        `reopen` gives the plan and the data set of a finished job; without it no job is sent. Returns whether
        W&B has all of it.
        """
        best = find_best(rows, self._monitor) if reopen and self._tracker.enabled else []
        for number in reversed(best):  # the best is the latest version
            self._show(number, is_best=number == best[0], reopen=reopen)
        self._tracker.log_tables({"jobs": rows, "by_seed": seeds_table(rows, self._monitor)})
        ids = find_run_ids(self._ledger)
        if best:
            self._tracker.mark_best(self._ledger.id, [ids[number] for number in best if number in ids])
        change = find_sweep_change(self._ledger, ids, self._monitor, **self._place)
        if change:
            self._tracker.save_sweep(change.config, change.runs, change.known)
        counts = Counter(entry.status for entry in self._ledger.entries.values())
        done = counts["done"] + counts["stopped"] == len(self._ledger.entries)
        self._tracker.finish(
            "done" if done else "failed", {f"jobs/{status}": n for status, n in counts.items()}
        )
        if change and self._tracker.sweep:
            self._ledger.wandb_sweep = change.describe(*self._tracker.sweep)
        self._find_addresses(self._tracker.address, ids)
        return not self._tracker.failed

    def _point(self, row: Mapping[str, Any], counts: Counter[str]) -> dict[str, Any]:
        failed = counts["failed"] + counts["diverged"]
        ended = {"jobs/done": counts["done"], "jobs/stopped": counts["stopped"], "jobs/failed": failed}
        over = {"jobs/over": sum(ended.values()), **ended}
        metrics = {f"job/{key}": row[key] for key in (self._monitor, "test/accuracy") if row[key] != ""}
        return {**over, "job": row["number"], **metrics}

    def _show(self, number: int, *, is_best: bool, reopen: Any) -> None:
        """Sends the data set, the images and the model of a finished job."""
        folder, aliases = self._ledger.job_folder(number), [f"job-{number}", *["best"] * is_best]
        try:
            summary = records.read_summary(folder) or {}
            registry = self._registry if is_best else None
            model = describe_model(folder, f"sweep-{self._ledger.id}", registry, *aliases)
            self._tracker.use_data(summary["data"])
            self._tracker.log_model(model)
            plan, data = reopen(number)
            self._tracker.show(load_examples(plan, data, folder), summary, prefix=f"job {number}/")
        except (ConfigError, OSError) as error:
            tell(f"warning: W&B does not get all of job {number}: {error}")

    def _find_addresses(self, own: str | None, ids: Mapping[int, str]) -> None:
        """Puts the addresses of the W&B runs into the ledger; `own` is the address of the sweep's run."""
        ledger = self._ledger
        own = own or ledger.wandb  # W&B's client may not know the address of a run that it continues
        ledger.wandb = own and own.removeprefix(f"{ledger.folder}/")
        for number, run_id in ids.items():
            address = find_address(ledger.job_folder(number), run_id, own)
            if address:
                ledger.entries[number].wandb = address.removeprefix(f"{ledger.folder}/")


class SweepChange(NamedTuple):
    """What a sweep's Sweep at W&B lacks."""

    config: dict[str, Any]
    runs: list[str]  # ids of the jobs' runs
    known: str | None  # the id of the Sweep, None if it is to be made

    def describe(self, id: str, url: str) -> dict[str, str]:
        """The Sweep as the ledger has it."""
        return {"id": id, "url": url, "sha256": hash_runs(self.runs)}


def hash_runs(runs: Iterable[str]) -> str:
    """The SHA-256 of the ids of runs."""
    return hashlib.sha256(" ".join(runs).encode()).hexdigest()


def find_sweep_change(
    ledger: Ledger, ids: Mapping[int, str], monitor: str, **place: str | None
) -> SweepChange | None:
    """What the Sweep of a ledger lacks; None if it has the runs with these `ids`, or if there are none."""
    known, runs = ledger.wandb_sweep, [*ids.values()]
    if not runs or (known and known["sha256"] == hash_runs(runs)):
        return None
    words = [keep_safe(entry.overrides) for entry in ledger.entries.values()]
    config = describe_sweep(words, monitor, name=f"sweep {ledger.id}", **place)
    return SweepChange(config, runs, known["id"] if known else None)


def find_run_ids(ledger: Ledger) -> dict[int, str]:
    """The ids of the W&B runs of the jobs that were started and whose status can be read."""
    ids: dict[int, str] = {}
    for number in ledger.entries:
        with contextlib.suppress(ConfigError, OSError):
            if status := records.read_status(ledger.job_folder(number)):
                ids[number] = find_run_id(status)
    return ids


def sort_by_end(ledger: Ledger, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of the jobs that are over, in the order of their ends."""
    ends: dict[int, str] = {}
    for row in rows:
        if row["status"] in ("done", "diverged", "stopped", "failed"):
            status = records.read_status(ledger.job_folder(row["number"])) or {}
            ends[row["number"]] = str(status.get("ended"))
    over = [row for row in rows if row["number"] in ends]
    return sorted(over, key=lambda row: (ends[row["number"]], row["number"]))


def find_best(rows: Iterable[Mapping[str, Any]], monitor: str) -> list[int]:
    """The numbers of the BEST finished jobs by a validation metric, the best first."""
    done = [row for row in rows if row["status"] == "done"]
    return [row["number"] for row in sorted(done, key=lambda row: badness(monitor, row[monitor]))[:BEST]]
