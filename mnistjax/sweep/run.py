"""A sweep from its jobs to its results: groups, tasks, workers, ledger, W&B."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from mnistjax import files, records
from mnistjax.backend import cores
from mnistjax.config import ConfigError, badness, to_plain
from mnistjax.devices import count_shards
from mnistjax.job import Job, load_examples, tracker_options
from mnistjax.progress import tell
from mnistjax.seeds import seeds_table
from mnistjax.sweep.cluster import Cluster
from mnistjax.sweep.ledger import Entry, Ledger, read_result, short_name, varying, write_results
from mnistjax.sweep.plan import Group, Mode, count_team, count_threads, data_key, describe_plan, make_groups
from mnistjax.sweep.supervisor import Inline, Supervisor
from mnistjax.sweep.view import Tally
from mnistjax.sweep.worker import Begun, Ended, Report, Task, Ticket
from mnistjax.tracking import Tracker, find_address, make_run_id

SAVE_SECONDS = 5.0  # between two saves of the ledger and the results
BEST = 3  # jobs whose images and checkpoints W&B gets
OVER = ("done", "diverged")  # jobs that a resumed sweep leaves


@dataclass(frozen=True)
class Options:
    """`sweep.*`"""

    mode: Mode = "auto"
    lanes: int | Literal["auto"] = "auto"
    timeout: float = 600.0
    fail_fast: bool = False
    executor: Literal["processes", "inline", "submitit_local", "submitit_slurm"] = "processes"
    submitit: Mapping[str, Any] | None = None  # options of its executor


class Sweep:
    """A sweep folder and its jobs. `add` jobs, then `run` them; use it in a `with`."""

    def __init__(self, ledger: Ledger, options: Options) -> None:
        self.ledger, self.options = ledger, options
        self.jobs: dict[int, Job] = {}
        self._rows: dict[int, dict[str, Any]] = {}  # of results.csv, by number
        self._trainer = make_trainer(options, ledger.folder)
        self._groups: list[Group] = []
        self._saved = 0.0  # seconds on the clock
        self._told = False  # that saving failed
        self._tracker: Tracker | None = None

    def __enter__(self) -> Sweep:
        """Writes the ledger, which makes the folder that of a sweep; OSError if it can't be written."""
        self.ledger.save()
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends the processes first, whatever else fails; then the records, and W&B's run."""
        try:
            self._trainer.__exit__(*error)
        finally:
            self._end_records(complete=error[0] is None)

    def _end_records(self, *, complete: bool) -> None:
        self.ledger.ended = records.now()
        self.save()
        if not self._tracker:
            return
        if complete:
            self._show_best()
        self._tracker.log_tables(
            {"jobs": self.results(), "by_seed": seeds_table(self.results(), self.monitor)}
        )
        counts = Counter(entry.status for entry in self.entries)
        done = counts["done"] == len(self.entries)
        summary = {f"jobs/{status}": count for status, count in counts.items()}
        self._tracker.finish("done" if done else "failed", summary)
        self._find_addresses(self._tracker.address)
        self.ledger.save()

    def _find_addresses(self, own: str | None) -> None:
        """Writes into the ledger where the W&B runs lie; `own` is the address of the sweep's."""
        folder = self.ledger.folder
        self.ledger.wandb = own.removeprefix(f"{folder}/") if own else self.ledger.wandb
        for entry in self.entries:
            if run_id := self._run_id(entry.number):
                place = self.ledger.job_folder(entry.number)
                address = find_address(place, run_id, own)
                entry.wandb = address.removeprefix(f"{folder}/") if address else entry.wandb

    def _run_id(self, number: int) -> str | None:
        """The id of a job's W&B run; None of one that was not begun, or whose status can't be read."""
        try:
            status = records.read_status(self.ledger.job_folder(number))
        except (ConfigError, OSError):
            return None
        return make_run_id(self.ledger.entries[number].identity, status["started"]) if status else None

    @property
    def hangs(self) -> bool:
        """Whether a thread of this process is left that trains and does not end."""
        return isinstance(self._trainer, Inline) and self._trainer.hangs

    @property
    def entries(self) -> list[Entry]:
        return list(self.ledger.entries.values())

    def add(self, job: Job, words: list[str]) -> int:
        """The number of a job, which it keeps if the ledger knows it."""
        number = self.ledger.number_of(job.plan.identity)
        if number is None:
            number = max(self.ledger.entries, default=-1) + 1
            self.ledger.entries[number] = Entry(number, job.plan.identity, words, job.plan.seed)
        self.jobs[number] = job
        return number

    def begin(self) -> Tally:
        """Plans the jobs that were added, at the widths that the ledger has; the count of those to do."""
        self._check_done()
        widths = {(group["spec"], tuple(group["data"])): group["width"] for group in self.ledger.groups}
        options = self.options
        self._groups = make_groups(self.jobs, mode=options.mode, lanes=options.lanes, widths=widths)
        self._label()
        self._write_plan()
        self._track()
        entries = self.ledger.entries
        plans = {n: job.plan for n, job in self.jobs.items() if entries[n].status not in OVER}
        names = self.names()
        return Tally(
            {number: names[number] for number in plans},
            {n: plan.stopping.epochs * plan.spec.train_count for n, plan in plans.items()},
            {number: entries[number].group for number in plans},
        )

    def _check_done(self) -> None:
        """A job whose files are not those of a run that is over is not over: it is trained again."""
        for entry in self.entries:
            if entry.status not in OVER:
                continue
            try:
                status = records.read_record(self.ledger.job_folder(entry.number)).status
                if (status["status"], status["identity"]) == (entry.status, entry.identity):
                    continue
                reason = f"its folder has another run, {status['status']}"
            except (ConfigError, OSError) as error:
                reason = str(error)
            entry.status, entry.reason = "failed", reason
            tell(f"job {entry.number} is damaged and trained again: {reason}")

    def run(self, stop: Callable[[], bool]) -> Iterator[Report]:
        """Trains every job that is not over, after `begin`; what happens, as it happens."""
        failed = False
        tasks = [task for group in self._groups if (task := self._task(group))]
        if not isinstance(self._trainer, Cluster):  # which has a task for each group
            tasks = merge(tasks)
        datasets = {data_key(job.dataset, job.plan.positive): job.dataset for job in self.jobs.values()}

        def stopping() -> bool:
            return stop() or (failed and self.options.fail_fast)

        for report in self._trainer.run(tasks, datasets, stopping):
            match report:
                case Begun(number):
                    entry = self.ledger.entries[number]
                    entry.status, entry.attempts = "running", entry.attempts + 1
                case Ended(number, status, reason):
                    entry = self.ledger.entries[number]
                    entry.status, entry.reason = status, reason
                    self._rows.pop(number, None)
                    self._log(number)
                    failed = failed or status in ("failed", "diverged")
            yield report
            if time.monotonic() - self._saved > SAVE_SECONDS:
                self._try_save()
        for entry in self.entries:
            if entry.status == "running":
                entry.status, entry.reason = "interrupted", "stopped at once"

    def save(self) -> None:
        """`sweep.json` and `results.csv` are as things stand."""
        self._saved = time.monotonic()
        self.ledger.save()
        write_results(self.ledger.folder, self.results())

    def _try_save(self) -> None:
        """Saves what is not needed to go on: a full disk is told once, and the jobs train on."""
        try:
            self.save()
        except OSError as error:
            if not self._told:
                tell(f"warning: {files.describe(error, self.ledger.folder)}; saving is tried again")
            self._told = True

    def results(self) -> list[dict[str, Any]]:
        """The rows of `results.csv`."""
        for entry in self.entries:
            if entry.status not in (*OVER, "failed") or entry.number not in self._rows:
                self._rows[entry.number] = read_result(entry, self.ledger.job_folder(entry.number))
        return [self._rows[entry.number] for entry in self.entries]

    def names(self) -> dict[int, str]:
        """The jobs' names: what differs between them."""
        return {
            number: short_name(self.ledger.entries[number].config, job.plan.seed)
            for number, job in self.jobs.items()
        }

    @property
    def monitor(self) -> str:
        """The validation metric that jobs are compared by."""
        return next(iter(self.jobs.values())).plan.stopping.monitor

    @property
    def binary(self) -> bool:
        """Whether jobs tell one class from the rest, where F1 says more than accuracy."""
        return any(job.plan.spec.task == "binary" for job in self.jobs.values())

    def end(self, number: int) -> Ended:
        """How a job stands, as the records have it."""
        entry, job = self.ledger.entries[number], self.jobs[number]
        result = read_result(entry, self.ledger.job_folder(number))
        value = float(result[job.plan.stopping.monitor]) if entry.status == "done" else None
        status: Any = "interrupted" if entry.status == "waiting" else entry.status
        return Ended(number, status, entry.reason or "it was not begun", None, value)

    def _label(self) -> None:
        configs = varying({number: job.config for number, job in self.jobs.items()})
        for number, config in configs.items():
            self.ledger.entries[number].config = config
        self._rows.clear()

    def _track(self) -> None:
        """The sweep has a run of its own at W&B, unless its jobs have none."""
        if self._tracker or not self.jobs:
            return
        job, ledger = next(iter(self.jobs.values())), self.ledger
        self._tracker = Tracker(
            ledger.folder,
            config={
                "sweep": ledger.arguments,
                "groups": to_plain(ledger.groups),
                "machine": ledger.machine,
            },
            run_id=make_run_id(ledger.id, ledger.created),
            group=ledger.id,
            name=f"sweep {ledger.id}",
            job_type="sweep",
            step_metric="jobs/over",
            **tracker_options(job),
        )

    def _log(self, number: int) -> None:
        """W&B's curves of the sweep get a point: a job has ended."""
        assert self._tracker
        counts = Counter(entry.status for entry in self.entries)
        failed = counts["failed"] + counts["diverged"]
        row = self._rows[number] = read_result(self.ledger.entries[number], self.ledger.job_folder(number))
        metrics: dict[str, Any] = {
            f"job/{key}": row[key] for key in (self.monitor, "test/accuracy") if row[key] != ""
        }
        over = {"jobs/over": counts["done"] + failed, "jobs/done": counts["done"], "jobs/failed": failed}
        self._tracker.log({**over, "job": number, **metrics})

    def _show_best(self) -> None:
        """W&B gets images and checkpoints of the best few jobs; those of all would be too many."""
        assert self._tracker
        if next(iter(self.jobs.values())).wandb_mode == "disabled":
            return
        done = [row for row in self.results() if row["status"] == "done" and row["number"] in self.jobs]
        for row in sorted(done, key=lambda row: badness(self.monitor, row[self.monitor]))[:BEST]:
            number = row["number"]
            job, folder = self.jobs[number], self.ledger.job_folder(number)
            try:
                examples = load_examples(job.plan, job.dataset, folder)
                summary = records.read_summary(folder) or {}
            except (ConfigError, OSError) as error:
                tell(f"warning: W&B gets no images of job {number}: {error}")
                continue
            if run_id := self._run_id(number):
                self._tracker.show(examples, summary, folder, run_id, prefix=f"job {number}/")

    def _write_plan(self) -> None:
        for index, group in enumerate(self._groups):
            for number in group.jobs:
                self.ledger.entries[number].group = index
        self.ledger.groups = [{**to_plain(asdict(group)), "spec": group.spec} for group in self._groups]
        self.ledger.machine = machine()
        self.ledger.ended = None
        self.save()

    def _task(self, group: Group) -> Task | None:
        numbers = [number for number in group.jobs if self.ledger.entries[number].status not in OVER]
        if not numbers:
            return None
        tickets = tuple(self._ticket(number) for number in numbers)
        team = count_team(group.spec, len(tickets), group.threads) if group.width == 1 else 1
        return Task(group.width, group.threads, team, group.data, tickets)

    def _ticket(self, number: int) -> Ticket:
        job, entry = self.jobs[number], self.ledger.entries[number]
        own = {f.name: getattr(job, f.name) for f in fields(Job) if f.name != "dataset"}
        name = short_name(entry.config, job.plan.seed)
        folder = self.ledger.job_folder(number).absolute()
        return Ticket(number=number, folder=folder, group=self.ledger.id, name=name, **own)


def merge(tasks: Iterable[Task]) -> list[Task]:
    """Tasks of one lane on the same data become one: where a group ends, the next one begins beside its last
    job, and compiles meanwhile.

    The 27 jobs of `experiment=quickstart` in 3 groups take 31.5 s instead of 33.0 s (medians of 3).
    """
    merged: list[Task] = []
    for task in tasks:
        last = merged[-1] if merged else None
        alike = last and last.width == task.width == 1 and last.data == task.data
        if last and alike and last.team == task.team and _shares(last) == _shares(task):
            tickets = (*last.tickets, *task.tickets)
            threads = min(count_threads(spec, len(tickets)) for spec in {t.plan.spec for t in tickets})
            merged[-1] = replace(last, tickets=tickets, threads=threads)
        else:
            merged.append(task)
    return merged


def _shares(task: Task) -> int:
    return count_shards(task.tickets[0].plan.spec)


def make_trainer(options: Options, folder: Path) -> Supervisor | Inline | Cluster:
    """What trains the tasks of a sweep in this folder."""
    if options.executor == "inline":
        return Inline()
    if options.executor == "processes":
        return Supervisor(timeout=options.timeout)
    kind = options.executor.removeprefix("submitit_")
    return Cluster(kind, folder, options.submitit or {}, timeout=options.timeout)


def show_plan(jobs: Sequence[Job], options: Options) -> list[str]:
    """What a sweep of these jobs would do, for people."""
    numbered = dict(enumerate(jobs))
    return describe_plan(make_groups(numbered, mode=options.mode, lanes=options.lanes), numbered)


def machine() -> dict[str, Any]:
    """What the sweep runs on."""
    import jax

    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "devices": jax.device_count(),
        "cores": cores(),
        "host": platform.node(),
        "system": platform.platform(),
        "pid": os.getpid(),
    }
