"""A sweep: groups its jobs, lets an executor train them, and keeps the sweep folder."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mnistjax import files, records
from mnistjax.config import ConfigError, Plan, to_plain
from mnistjax.data import Dataset
from mnistjax.finished import reopen
from mnistjax.job import Job
from mnistjax.progress import tell
from mnistjax.recorder import describe_values, find_other_versions
from mnistjax.run_summary import USER_CODE
from mnistjax.sweeps.cluster import SubmititExecutor
from mnistjax.sweeps.events import Event, JobEnded, JobPaused, JobStarted
from mnistjax.sweeps.executor import Executor, InlineExecutor, end_job
from mnistjax.sweeps.groups import Assignment, Group, Mode, data_key, make_assignments, make_groups
from mnistjax.sweeps.halving import Decision, Halving, Rank, make_halving
from mnistjax.sweeps.ledger import ENDED_WELL, Entry, Ledger, describe_machine, final_statuses
from mnistjax.sweeps.mirror import Mirror
from mnistjax.sweeps.processes import ProcessExecutor
from mnistjax.sweeps.results import make_result, read_result, short_name, varying, write_results
from mnistjax.sweeps.spawn import Spawned

SAVE_SECONDS, MOST_SECONDS = 5.0, 600.0  # between two saves of the ledger and the results
SAVE_SHARE = 0.05  # of the time, in saves


@dataclass(frozen=True)
class Options:
    """The keys `sweep.*`."""

    mode: Mode = "auto"
    lanes: int | Literal["auto"] = "auto"
    halving: int | None = None  # the factor of successive halving
    rank: Rank = "last"
    timeout: float = 600.0  # seconds without an event of a job
    fail_fast: bool = False
    executor: Literal["processes", "inline", "submitit_local", "submitit_slurm"] = "processes"
    submitit: Mapping[str, Any] | None = None  # parameters of submitit's executor


class Sweep:
    """A sweep folder and its jobs. Usage: in a `with`, `add` jobs, `prepare` and `run` them."""

    def __init__(self, ledger: Ledger, options: Options, spawned: Spawned | None = None) -> None:
        self.ledger, self.options = ledger, options
        self.jobs: dict[int, Job] = {}
        self.numbers: dict[tuple[str, ...], int] = {}  # of jobs, by their overrides
        self._known = {entry.identity: entry.number for entry in ledger.entries.values()}
        self._next = max(ledger.entries, default=-1) + 1  # number of the next new job
        self._executor = make_executor(options, ledger.folder, spawned)
        self.refused = False  # whether the disk refused some of Hydra's files
        self._groups: list[Group] = []
        self.halving: Halving | None = None
        self._final = final_statuses(options.halving)
        self._mirror: Mirror | None = None
        self._rows: dict[int, dict[str, Any]] = {}  # rows of results.csv, by number of the job
        self._next_save = 0.0  # time, seconds
        self._counts: Counter[str] = Counter()  # jobs by status
        self._failed: set[int] = set()  # numbers of jobs that failed in this command
        self._told = False  # whether the user knows that saving failed

    def __enter__(self) -> Sweep:
        """Writes the ledger, which makes its folder a sweep folder, and starts the executor.

        ConfigError if the disk refuses the ledger.
        """
        try:
            self.ledger.save()
        except OSError as error:
            raise ConfigError(files.describe(error, self.ledger.folder)) from None
        if self._waiting():
            self._executor.start()
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends the processes, even if something else fails; then writes the records and ends the W&B run."""
        try:
            self._executor.__exit__(*error)
        finally:
            self.ledger.ended = records.now()
            self.save()
            if self._mirror:
                self._mirror.finish(self.results(), None if error[0] else self._reopen)
                self.ledger.save()

    def _reopen(self, number: int) -> tuple[Plan, Dataset]:
        """The plan and the data set of a finished job, which an earlier command may have run."""
        job = self.jobs.get(number)
        return (job.plan, job.data) if job else reopen(self.ledger.job_folder(number))

    @property
    def entries(self) -> list[Entry]:
        return list(self.ledger.entries.values())

    @property
    def monitor(self) -> str:
        """The validation metric by which jobs are compared."""
        return next(iter(self.jobs.values())).plan.stopping.monitor

    def add(self, job: Job, words: Sequence[str]) -> None:
        """Adds a job, made of these overrides, under a new number unless the ledger has it already."""
        ledger, identity = self.ledger, job.plan.identity
        number = self._known.setdefault(identity, self._next)
        if number == self._next:
            ledger.entries[number] = Entry(number, identity, list(words), job.plan.seed)
            self._next += 1
        folder, name = ledger.job_folder(number).absolute(), short_name({}, job.plan.seed)
        self.jobs[number] = replace(job, number=number, folder=folder, group=ledger.id, name=name)
        self.numbers[tuple(words)] = number

    def prepare(self) -> list[Job]:
        """Groups and names the jobs, writes the ledger, and returns the jobs to train."""
        self._name_jobs()
        self._check_done()
        self._counts = Counter(entry.status for entry in self.entries)
        self._make_rungs()
        widths = {(group["spec"], tuple(group["data"])): group["width"] for group in self.ledger.groups}
        options = self.options
        self._groups = make_groups(self.jobs, mode=options.mode, lanes=options.lanes, widths=widths)
        for index, group in enumerate(self._groups):
            for number in group.jobs:
                self.ledger.entries[number].group = index
        self.ledger.groups = [{**to_plain(asdict(group)), "spec": group.spec} for group in self._groups]
        self.ledger.machine, self.ledger.ended = describe_machine(), None
        self.save()
        if not self._mirror and self.jobs:
            job = next(iter(self.jobs.values()))  # they share their W&B options
            self._mirror = Mirror(
                self.ledger, self.monitor, job.settings["wandb.registry"], **job.tracker_options()
            )
            if job.wandb_mode == "online":
                self._mirror.replay(self.results())  # those of commands that were offline
        return list(self._waiting().values())

    def _check_done(self) -> None:
        """Marks finished jobs with damaged or foreign files as failed, so that they are trained again.

        Keeps the rows of the others, and tells which ran under other versions than those trained now, or with
        other code of the user.
        """
        changes: Counter[tuple[str, bool]] = Counter()  # as text, and whether the user's code has changed
        for entry in self.entries:
            if entry.status not in self._final:
                continue
            try:
                record = records.read_record(self.ledger.job_folder(entry.number))
                status = record.status
                if (status["status"], status["identity"]) == (entry.status, entry.identity):
                    summary = record.summary or {}
                    job = self.jobs.get(entry.number)
                    if job and (change := find_other_versions(job.plan.spec, summary)):
                        own = not change["before"].keys().isdisjoint(USER_CODE)
                        changes[describe_values(change), own] += 1
                    self._rows[entry.number] = make_result(entry, record.rows, summary)
                    continue
                reason = f"its folder has another run, with status {status['status']}"
            except ConfigError as error:
                reason = str(error)
            except OSError as error:  # the folder was removed, for example
                reason = files.describe(error, self.ledger.folder)
            entry.status, entry.reason = "failed", reason
            tell(f"job {entry.number} is damaged and is trained again: {reason}")
        waiting = self._waiting()
        for (change, own), count in changes.items():
            if waiting or own:
                tell(f"{count:,} of the finished jobs ran under other versions, so bits may differ: {change}")

    def _name_jobs(self) -> None:
        """Names each job by its values that differ; a new job can change the names of all."""
        for number, config in varying({number: job.config for number, job in self.jobs.items()}).items():
            self.ledger.entries[number].config = config
            job = self.jobs[number]
            self.jobs[number] = replace(job, name=short_name(config, job.plan.seed))
        self._rows.clear()

    def _waiting(self) -> dict[int, Job]:
        entries = self.ledger.entries
        left = {number: job for number, job in self.jobs.items() if number not in self._failed}
        return {number: job for number, job in left.items() if entries[number].status not in self._final}

    def _make_rungs(self) -> None:
        """Makes the rungs of successive halving, and tells them how far each job is."""
        self.halving = make_halving(self.jobs, self.options.halving, self.options.rank)
        for number in self.jobs:
            status = self.ledger.entries[number].status
            over = status in self._final or number in self._failed
            self._tell_rungs(number, status if over else "waiting")

    def _tell_rungs(self, number: int, status: str) -> None:
        """Tells the rungs of successive halving how far a job is, by its records."""
        if self.halving and number in self.jobs:
            with contextlib.suppress(ConfigError, OSError):  # a damaged job is trained again
                self.halving.record(number, status, records.read_rows(self.jobs[number].folder))

    def _assign(self, jobs: Mapping[int, Job]) -> list[Assignment]:
        """The assignments of these jobs, up to their next pauses, without those that wait at a rung."""
        if halving := self.halving:
            jobs = {
                number: replace(job, pause=halving.pause(number))
                for number, job in jobs.items()
                if not halving.waits(number)
            }
        return make_assignments(self._groups, jobs, merge=self._merge)

    @property
    def _merge(self) -> bool:
        """Whether jobs may join those of other groups; a cluster has a task for each group."""
        return not isinstance(self._executor, SubmititExecutor)

    def run(self, stop: Callable[[], bool]) -> Iterator[Event]:
        """Trains the prepared jobs that are not over and yields their events."""
        yield from self._end_stopped(self._decide().stopped)
        assignments = deque(self._assign(self._waiting()))
        datasets = {data_key(job.data, job.plan.positive): job.data for job in self.jobs.values()}

        def stopping() -> bool:
            return stop() or (bool(self._failed) and self.options.fail_fast)

        for event in self._executor.run(assignments, datasets, stopping):
            match event:
                case JobStarted(number):
                    entry = self.ledger.entries[number]
                    entry.attempts += 1
                    self._update_entry(entry, "running", entry.reason)
                case JobEnded(number, "stopped", reason):
                    self._set_status(number, "waiting", reason)
                    event = JobPaused(number)
                case JobEnded(number, status, reason):
                    self._set_status(number, status, reason)
                    self._publish_end(number)
                    if status in ("failed", "diverged"):
                        self._failed.add(number)
                    elif status == "done" and event.value is None:  # it was done already
                        event = self.read_end(number)
            yield event
            if self.halving and isinstance(event, JobPaused | JobEnded):
                onward, stopped = self._decide()
                yield from self._end_stopped(stopped)
                assignments.extend(self._assign({number: self.jobs[number] for number in onward}))
            if time.monotonic() > self._next_save:
                self._try_save()
        for entry in self.entries:
            if entry.status == "running":
                self._set_status(entry.number, "interrupted", "stopped at once")

    def _set_status(self, number: int, status: str, reason: str | None) -> None:
        """Writes the status of a job into the ledger, and tells the rungs how far it is."""
        self._update_entry(self.ledger.entries[number], status, reason)
        self._rows.pop(number, None)
        self._tell_rungs(number, status)

    def _update_entry(self, entry: Entry, status: str, reason: str | None) -> None:
        """Changes the status of a job in the ledger, and the counts of statuses."""
        self._counts[entry.status] -= 1
        self._counts[status] += 1
        entry.status, entry.reason = status, reason

    def _publish_end(self, number: int) -> None:
        """Adds the end of a job to the table and the curves of the sweep."""
        self._rows[number] = read_result(self.ledger.entries[number], self.ledger.job_folder(number))
        assert self._mirror
        self._mirror.log(self._rows[number], self._counts)

    def _decide(self) -> Decision:
        """What the rungs decide now."""
        return self.halving.decide(early=self._merge) if self.halving else Decision([], {})

    def _end_stopped(self, reasons: Mapping[int, str]) -> Iterator[JobEnded]:
        """Ends the jobs that a rung has stopped."""
        for number, reason in reasons.items():
            end_job(self.jobs[number], "stopped", reason)
            self._set_status(number, "stopped", reason)
            self._publish_end(number)
            yield self.read_end(number)

    def save(self) -> None:
        """Writes `sweep.json` and `results.csv`."""
        rows = self.results()  # reads the folders of jobs that are not over
        started = time.monotonic()
        try:
            self.ledger.save()
            write_results(self.ledger.folder, rows)
        finally:
            ended = time.monotonic()
            self._next_save = ended + min(max(SAVE_SECONDS, (ended - started) / SAVE_SHARE), MOST_SECONDS)

    def _try_save(self) -> None:
        """Saves during training; warns once if the disk is full."""
        try:
            self.save()
        except OSError as error:
            if not self._told:
                tell(f"warning: {files.describe(error, self.ledger.folder)}; saving is tried again")
            self._told = True

    def results(self) -> list[dict[str, Any]]:
        """The rows of `results.csv`."""
        for entry in self.entries:
            if entry.status == "running" or entry.number not in self._rows:
                self._rows[entry.number] = read_result(entry, self.ledger.job_folder(entry.number))
        return [self._rows[entry.number] for entry in self.entries]

    def find_pause(self, words: Sequence[str]) -> int | None:
        """The epochs after which the job of these overrides was stopped at a rung; None if it was not."""
        number = self.numbers[tuple(words)]
        stopped = self.ledger.entries[number].status == "stopped"
        return len(records.read_rows(self.ledger.job_folder(number))) if stopped else None

    def read_end(self, number: int) -> JobEnded:
        """The end of a job, from the records; its status if it has not ended."""
        entry, job = self.ledger.entries[number], self.jobs[number]
        result = self._rows.get(number) or read_result(entry, job.folder)
        value = float(result[job.plan.stopping.monitor]) if entry.status in ENDED_WELL else None
        status: Any = "interrupted" if entry.status == "waiting" else entry.status
        return JobEnded(number, status, entry.reason or "it was not started", None, value)


def make_executor(options: Options, folder: Path, spawned: Spawned | None = None) -> Executor:
    """The executor of a sweep in this folder; ConfigError if submitit refuses its parameters.

    `spawned`: a process that may become its worker.
    """
    if options.executor == "inline":
        return InlineExecutor()
    if options.executor == "processes":
        return ProcessExecutor(timeout=options.timeout, spawned=spawned)
    kind = options.executor.removeprefix("submitit_")
    return SubmititExecutor(kind, folder, options.submitit or {}, timeout=options.timeout)
