"""A run's folder while it trains: where it goes on, and an observer that keeps its files."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mnistjax import checkpoints, checks, files, records
from mnistjax.backend import processor
from mnistjax.checks import Check
from mnistjax.config import ConfigError, Plan, Spec
from mnistjax.files import DamagedFile
from mnistjax.progress import relative, tell
from mnistjax.tracking import Examples

if TYPE_CHECKING:
    from mnistjax.run import Progress, Snapshot

SAVE_SECONDS = 5.0  # of training between two checkpoints; a segment, about a second, may come on top
CLOSE_SECONDS = 3.0  # for another thread's writing to end, where the process must
META_FIELDS: dict[str, Check] = {  # of a checkpoint; older ones tell no conditions
    "epoch": checks.whole(0),
    "step": checks.whole(0),
    "conditions": checks.MAPPING,
    "continued": checks.list_of(checks.MAPPING, "a list of mappings"),
}


class Start(NamedTuple):
    """Where a run begins."""

    started: str  # ISO 8601, of its first process
    snapshot: Snapshot | None  # None at the very beginning
    rows: list[dict[str, Any]]
    conditions: Mapping[str, Any]  # as `find_conditions` has them
    continued: list[dict[str, Any]]  # epochs after which the conditions were others, with both


class Ending(NamedTuple):
    """How a run ends."""

    status: records.Status
    reason: str | None = None  # why, unless done
    summary: dict[str, Any] | None = None  # only when done
    examples: Examples | None = None  # for W&B, only when done
    traceback: str | None = None  # only when failed


class NotSaved(ConfigError):
    """The end of a run that could not be saved."""


@functools.cache
def find_conditions(spec: Spec, width: int = 1) -> Mapping[str, Any]:
    """What a run's bits depend on beside its identity: lanes, devices that share its work, JAX, processor."""
    from mnistjax.devices import count_shards, lane_mesh

    return {
        "lanes": width,
        "devices": count_shards(spec) if width == 1 else lane_mesh(width).size,
        "jax": importlib.metadata.version("jax"),
        "processor": processor(),
    }


def restore(plan: Plan, folder: Path, width: int = 1) -> Start:
    """Where the run in the folder goes on: at its checkpoint, with the rows up to there.

    DamagedFile if its files don't fit together; nothing is changed then. Later rows are cut off.
    """
    status, conditions = records.read_status(folder), find_conditions(plan.spec, width)
    if status is None:
        return Start(records.now(), None, [], conditions, [])
    rows, checkpoint = records.read_rows(folder), _load(folder)
    if checkpoint is None:
        if status["epoch"]:
            tell(f"{relative(folder)} has no checkpoint; it begins again")
        records.truncate_rows(folder, 0)
        return Start(status["started"], None, [], conditions, [])
    meta = check_meta(checkpoint, plan)
    epoch, snapshot = meta["epoch"], read_snapshot(plan, checkpoint)
    if len(rows) < epoch:
        raise DamagedFile(
            f"{folder / records.ROWS} has {len(rows)} epochs; the checkpoint is of epoch {epoch}"
        )
    records.check_rows(str(folder / records.ROWS), rows[:epoch])
    records.truncate_rows(folder, epoch)
    continued = list(meta.get("continued", []))
    before = meta.get("conditions", conditions)
    if changed := {key: value for key, value in before.items() if conditions.get(key) != value}:
        now = {key: conditions.get(key) for key in changed}
        words = ", ".join(f"{key} {value} before, {now[key]} now" for key, value in changed.items())
        tell(f"{relative(folder)} goes on under other conditions, to other bits than without a stop: {words}")
        continued.append({"epoch": epoch, "before": changed, "now": now})
    return Start(status["started"], snapshot, rows[:epoch], conditions, continued)


def _load(folder: Path) -> checkpoints.Checkpoint | None:
    """The checkpoint in a folder; the user is told if it is the one before the last."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checkpoint = checkpoints.load_checkpoint(folder)
    for warning in caught:
        tell(f"warning: {warning.message}")
    return checkpoint


def check_meta(checkpoint: checkpoints.Checkpoint, plan: Plan) -> dict[str, Any]:
    """What a checkpoint tells of itself; CheckpointError unless it is of this run."""
    meta, path = checkpoint.meta, checkpoint.path
    try:
        records.check_fields(str(path), {"conditions": {}, "continued": [], **meta}, META_FIELDS)
    except DamagedFile as error:
        raise checkpoints.CheckpointError(str(error)) from None
    if meta.get("identity", plan.identity) != plan.identity:  # older ones tell none
        raise checkpoints.CheckpointError(f"{path} is a checkpoint of another run")
    if meta["step"] // plan.spec.steps_per_epoch != meta["epoch"]:
        raise checkpoints.CheckpointError(f"{path} is damaged: step {meta['step']} in epoch {meta['epoch']}")
    return meta


def read_snapshot(plan: Plan, checkpoint: checkpoints.Checkpoint) -> Snapshot:
    """The `Snapshot` of a run in its checkpoint."""
    import jax

    from mnistjax.step import init, variables_of

    state = init.eval_shape(plan.spec, plan.hyper, jax.random.key(plan.seed))
    kept = any(name.startswith("best/") for name in checkpoint.arrays)
    template = {"state": state, "best": variables_of(state) if kept else None}
    try:
        snapshot = checkpoints.unflatten(template, checkpoint.arrays)
    except checkpoints.CheckpointError as error:
        raise checkpoints.CheckpointError(f"{checkpoint.path} is of another run: {error}") from None
    if int(snapshot["state"].step) != checkpoint.meta["step"]:
        raise checkpoints.CheckpointError(f"{checkpoint.path} is damaged: its State is of another step")
    return snapshot


class Recorder:
    """An observer that keeps the run folder. What a full disk refuses is told once and tried again; the last
    save must succeed, else it raises NotSaved."""

    def __init__(self, folder: Path, plan: Plan, config: Mapping[str, Any], start: Start) -> None:
        self._folder, self._plan, self._config, self._start = folder, plan, config, start
        self._epoch, self._told = len(start.rows), False
        self._waiting: list[dict[str, Any]] = []  # rows that the disk refused
        self._saved = time.monotonic()  # seconds on the clock
        self._turn = threading.RLock()  # of the thread that writes

    def open(self) -> None:
        """Writes that the run is on: the status first, which makes the folder that of a run."""
        self._write_status("running")
        if not (self._folder / records.CONFIG).exists():
            records.write_config(self._folder, self._config)

    def __call__(self, moment: Progress) -> None:
        with self._turn:
            self._epoch = moment.epoch
            if moment.row is not None:
                self._waiting.append(moment.row)
            try:
                self._write_rows()
                if moment.final or time.monotonic() - self._saved >= SAVE_SECONDS:
                    self._saved = time.monotonic()
                    self._save(moment)
            except (OSError, DamagedFile) as error:
                self._refuse(error, final=moment.final)

    def _save(self, moment: Progress) -> None:
        """Saves a checkpoint; the rows reach the disk first, so that no checkpoint is ever ahead of them."""
        meta: dict[str, Any] = {"epoch": moment.epoch, "step": moment.step, "identity": self._plan.identity}
        meta["conditions"] = self._start.conditions
        if self._start.continued:
            meta["continued"] = self._start.continued
        records.sync_rows(self._folder)
        checkpoints.save_checkpoint(self._folder, checkpoints.flatten(moment.snapshot()), meta=meta)
        self._write_status("running")

    def _refuse(self, error: OSError | DamagedFile, *, final: bool) -> None:
        reason = files.describe(error, self._folder) if isinstance(error, OSError) else str(error)
        if final:
            raise NotSaved(f"its end could not be saved: {reason}") from error
        if not self._told:
            tell(f"warning: {reason}; saving is tried again")
        self._told = True

    def close(self, ending: Ending) -> None:
        """Writes how the run ended; NotSaved if it is done and that can't be written."""
        if not self._turn.acquire(timeout=CLOSE_SECONDS):
            return  # another thread waits for the disk, and this one for the end of the process
        try:
            self._write_rows()
            if ending.summary is not None:
                records.write_summary(self._folder, ending.summary)
            self._write_status(ending.status, reason=ending.reason, ended=records.now())
        except (OSError, DamagedFile) as error:
            self._refuse(error, final=ending.status == "done")
        finally:
            self._turn.release()

    def _write_rows(self) -> None:
        while self._waiting:
            records.append_row(self._folder, self._waiting[0])
            del self._waiting[0]

    def _write_status(self, status: records.Status, **more: Any) -> None:
        more |= {"identity": self._plan.identity, "epoch": self._epoch, "started": self._start.started}
        records.write_status(self._folder, status, **more)


def set_aside(folder: Path) -> Path:
    """Moves the damaged files of a run folder into a new folder in it, which is returned."""
    number = 1
    while (place := folder / f"damaged-{number}").exists():
        number += 1
    place.mkdir()
    for name in records.FILES:
        if os.path.lexists(folder / name):
            (folder / name).rename(place / name)
    return place
