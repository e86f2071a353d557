"""The files of a run: starts it from its checkpoint, and writes them while it trains."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mnistjax import checkpoints, checks, files, records
from mnistjax.backend import processor
from mnistjax.checks import Check
from mnistjax.config import ConfigError, Plan, Spec
from mnistjax.files import DamagedFile
from mnistjax.job import Job
from mnistjax.progress import relative, tell
from mnistjax.run_summary import find_code, find_versions
from mnistjax.tracking import AgentRun

if TYPE_CHECKING:
    from mnistjax.run import Progress, Snapshot

SAVE_SECONDS = 5.0  # between two checkpoints, plus at most a segment of about 1 s
CLOSE_SECONDS = 3.0  # to wait for a write of another thread if the process must end
INSIDE_SEGMENT = "stopped inside a segment; continues from the last checkpoint"


def is_change(x: Any) -> bool:
    """Whether a value is an entry of `RunStart.continued`."""
    if not (isinstance(x, Mapping) and x.keys() == {"epoch", "before", "now"}):
        return False
    before, now = x["before"], x["now"]
    return isinstance(before, Mapping) and isinstance(now, Mapping) and before.keys() == now.keys()


META_FIELDS: dict[str, Check] = {  # fields of a checkpoint; older ones lack the last two
    "epoch": checks.whole(0),
    "step": checks.whole(0),
    "conditions": checks.MAPPING,
    "continued": checks.list_of(Check(is_change, ""), "a list of epochs with conditions before and now"),
}


class RunStart(NamedTuple):
    """The point at which training starts or continues."""

    started: str  # ISO 8601, start of the run's first process
    snapshot: Snapshot | None  # None if the run has no checkpoint yet
    rows: list[dict[str, Any]]
    conditions: Mapping[str, Any]  # from `find_conditions`
    continued: list[dict[str, Any]]  # epochs after which the conditions changed, with old and new values
    agent_run: AgentRun | None = None  # None: the run makes its own W&B run


class RunEnd(NamedTuple):
    """How a run ended."""

    status: records.Status
    reason: str | None = None  # None only if done
    summary: dict[str, Any] | None = None  # only if done
    traceback: str | None = None  # only if failed


class NotSaved(ConfigError):
    """The end of a run could not be saved."""


def find_conditions(spec: Spec, width: int = 1) -> Mapping[str, Any]:
    """What a run's bits depend on besides its identity: lanes, devices per step, processor, versions, code.

    Python's version is left out, because no bit depends on it.
    """
    return {**_find_surroundings(spec, width), **find_code(spec)}


@functools.cache
def _find_surroundings(spec: Spec, width: int) -> Mapping[str, Any]:
    from mnistjax.devices import count_shards, lane_mesh

    devices = count_shards(spec) if width == 1 else lane_mesh(width).size
    return {"lanes": width, "devices": devices, "processor": processor(), **_find_packages()}


def _find_packages() -> dict[str, str]:
    return {name: version for name, version in find_versions().items() if name != "python"}


def find_other_versions(spec: Spec, summary: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """The versions under which a finished run ended, where they differ from today's, as in `find_change`."""
    before, now = summary.get("versions"), {**_find_packages(), **find_code(spec)}
    if not isinstance(before, Mapping):
        return None
    return find_change({name: before[name] for name in now if name in before}, now)


def restore(plan: Plan, folder: Path, width: int = 1, agent_run: AgentRun | None = None) -> RunStart:
    """The start of the run in a folder: its checkpoint and the rows up to it. Removes later rows.

    Only a run that begins now uses the W&B run `agent_run`. DamagedFile, and no change, if the files do not
    belong together.
    """
    status, conditions = records.read_status(folder), find_conditions(plan.spec, width)
    if status is None:
        return RunStart(records.now(), None, [], conditions, [], agent_run)
    kept = AgentRun(**status["wandb"]) if status.get("wandb") else None
    if agent_run and agent_run != kept:
        tell(f"{relative(folder)} has a W&B run of its own; the run {agent_run.id} is not used")
    rows, checkpoint = records.read_rows(folder), _load_checkpoint(folder)
    if checkpoint is None:
        if status["epoch"]:
            tell(f"{relative(folder)} has no checkpoint; it starts again")
        records.truncate_rows(folder, 0)
        return RunStart(status["started"], None, [], conditions, [], kept)
    meta = check_meta(checkpoint, plan)
    epoch, snapshot = meta["epoch"], read_snapshot(plan, checkpoint)
    if len(rows) < epoch:
        raise DamagedFile(
            f"{folder / records.ROWS} has {len(rows)} epochs; the checkpoint is of epoch {epoch}"
        )
    records.check_rows(str(folder / records.ROWS), rows[:epoch])
    records.truncate_rows(folder, epoch)
    continued = list(meta.get("continued", []))
    if change := find_change(meta.get("conditions", conditions), conditions):
        continued.append({"epoch": epoch, **change})
        tell(f"{relative(folder)} {describe_change(continued[-1])}")
    return RunStart(status["started"], snapshot, rows[:epoch], conditions, continued, kept)


def find_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """The values of changed conditions before and now; None if none has changed."""
    keys = [key for key, value in before.items() if now.get(key) != value]
    if not keys:
        return None
    return {"before": {key: before[key] for key in keys}, "now": {key: now.get(key) for key in keys}}


def describe_change(change: Mapping[str, Any]) -> str:
    """An entry of `RunStart.continued` as text."""
    return f"continues under other conditions, so its bits may differ: {describe_values(change)}"


def describe_values(change: Mapping[str, Any]) -> str:
    """The values of `find_change` as text."""
    return ", ".join(
        f"{key} {value} before, {change['now'][key]} now" for key, value in change["before"].items()
    )


def _load_checkpoint(folder: Path) -> checkpoints.Checkpoint | None:
    """Returns the checkpoint in a folder; tells the user if it is the previous one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checkpoint = checkpoints.load_checkpoint(folder)
    for warning in caught:
        tell(f"warning: {warning.message}")
    return checkpoint


def check_meta(checkpoint: checkpoints.Checkpoint, plan: Plan) -> dict[str, Any]:
    """The meta of a checkpoint; CheckpointError unless it is of this run."""
    meta, path = checkpoint.meta, checkpoint.path
    try:
        records.check_fields(str(path), {"conditions": {}, "continued": [], **meta}, META_FIELDS)
    except DamagedFile as error:
        raise checkpoints.CheckpointError(str(error)) from None
    if meta.get("identity", plan.identity) != plan.identity:  # older ones lack it
        raise checkpoints.CheckpointError(f"{path} is a checkpoint of another run")
    if meta["step"] // plan.spec.steps_per_epoch != meta["epoch"]:
        raise checkpoints.CheckpointError(f"{path} is damaged: step {meta['step']} in epoch {meta['epoch']}")
    return meta


def read_snapshot(plan: Plan, checkpoint: checkpoints.Checkpoint) -> Snapshot:
    """The `Snapshot` in a checkpoint; CheckpointError unless it is of this run."""
    import jax

    from mnistjax.step import init, variables_of

    state = init.eval_shape(plan.spec.without_batches, plan.hyper, jax.random.key(plan.seed))
    has_best = any(name.startswith("best/") for name in checkpoint.arrays)
    template = {"state": state, "best": variables_of(state) if has_best else None}
    try:
        snapshot = checkpoints.unflatten(template, checkpoint.arrays)
    except checkpoints.CheckpointError as error:
        raise checkpoints.CheckpointError(f"{checkpoint.path} is of another run: {error}") from None
    if int(snapshot["state"].step) != checkpoint.meta["step"]:
        raise checkpoints.CheckpointError(f"{checkpoint.path} is damaged: its State is of another step")
    return snapshot


class Recorder:
    """A callback that writes the files of a run.

    If a write fails, it warns once and tries again later; NotSaved if the last write fails.
    """

    def __init__(self, job: Job, start: RunStart) -> None:
        self._job, self._folder, self._start = job, job.folder, start
        self._epoch, self._told = len(start.rows), False
        self._unwritten: list[dict[str, Any]] = []  # rows that the disk refused
        self._saved = time.monotonic()  # time of the last checkpoint, seconds
        self._writing = threading.RLock()

    def open(self) -> None:
        """Writes the status "running", which makes this a run folder, and then the config."""
        self._write_status("running")
        if not (self._folder / records.CONFIG).exists():
            records.write_config(self._folder, self._job.config)

    def __call__(self, progress: Progress) -> None:
        """Writes the row of a finished epoch, and a checkpoint every SAVE_SECONDS."""
        with self._writing:
            self._epoch = progress.epoch
            if progress.row is not None:
                self._unwritten.append(progress.row)
            try:
                self._write_rows()
                if progress.final or time.monotonic() - self._saved >= SAVE_SECONDS:
                    self._saved = time.monotonic()
                    self._save(progress)
            except (OSError, DamagedFile) as error:
                self._tell_unsaved(error, final=progress.final)

    def _save(self, progress: Progress) -> None:
        """Saves a checkpoint, after the rows have reached the disk, so that none of its rows is missing."""
        meta = {
            "epoch": progress.epoch,
            "step": progress.step,
            "identity": self._job.plan.identity,
            "conditions": self._start.conditions,
            **({"continued": self._start.continued} if self._start.continued else {}),
        }
        with contextlib.suppress(FileNotFoundError):
            files.sync(self._folder / records.ROWS)
        checkpoints.save_checkpoint(self._folder, checkpoints.flatten(progress.snapshot()), meta=meta)
        if not progress.final:  # else `close` follows
            self._write_status("running")

    def _tell_unsaved(self, error: OSError | DamagedFile, *, final: bool) -> None:
        reason = files.describe(error, self._folder) if isinstance(error, OSError) else str(error)
        if final:
            raise NotSaved(f"its end could not be saved: {reason}") from error
        if not self._told:
            tell(f"warning: {reason}; saving is tried again")
        self._told = True

    def close(self, end: RunEnd) -> None:
        """Writes how the run ended; NotSaved if it is done and the write fails."""
        if not self._writing.acquire(timeout=CLOSE_SECONDS):
            return  # another thread waits for the disk, but the process must end
        try:
            self._write_rows()
            if end.summary is not None:
                records.write_summary(self._folder, end.summary)
            self._write_status(end.status, reason=end.reason, ended=records.now())
        except (OSError, DamagedFile) as error:
            self._tell_unsaved(error, final=end.status == "done")
        finally:
            self._writing.release()

    def _write_rows(self) -> None:
        while self._unwritten:
            records.append_row(self._folder, self._unwritten[0])
            del self._unwritten[0]

    def _write_status(self, status: records.Status, **more: Any) -> None:
        start = self._start
        more |= {"identity": self._job.plan.identity, "epoch": self._epoch, "started": start.started}
        wandb = asdict(start.agent_run) if start.agent_run else None
        records.write_status(self._folder, status, continued=start.continued, wandb=wandb, **more)


def open_run(job: Job, width: int = 1) -> RunStart:
    """Restores the run in the job's locked folder, writes the status "running", and returns its start."""
    start = restore(job.plan, job.folder, width, job.agent_run)
    Recorder(job, start).open()
    return start


def set_aside(folder: Path) -> Path:
    """Moves the files of a damaged run into a new folder inside the run folder, and returns that."""
    number = 1
    while (place := folder / f"damaged-{number}").exists():
        number += 1
    place.mkdir()
    for name in records.FILES:
        if os.path.lexists(folder / name):
            (folder / name).rename(place / name)
    return place
