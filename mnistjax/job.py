"""One job's life: found in its folder, restored, trained, recorded and told about; nothing of Hydra."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import os
import platform
import shlex
import signal
import time
import tomllib
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mnistjax import records
from mnistjax.backend import processor
from mnistjax.compose import Settings, differing_keys, label, load, plan_run, read_settings
from mnistjax.config import ConfigError, Plan, conf_dir, one_line
from mnistjax.data import Dataset
from mnistjax.progress import relative, show_progress, show_results, tell
from mnistjax.tracking import Examples, Tracker, make_run_id

if TYPE_CHECKING:
    from mnistjax.loop import Moment, Observer, Result, Run

SAVE_SECONDS = 5.0  # of training between two checkpoints; a segment, about a second, may come on top
PACKAGES = ("flax", "jax", "jaxlib", "numpy", "optax")  # whose versions a record names
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Job:
    """One run, validated, with its data loaded."""

    overrides: list[str]
    config: dict[str, Any]  # resolved
    settings: Settings
    dataset: Dataset
    plan: Plan
    wandb_mode: str  # online, offline or disabled


class Outcome(NamedTuple):
    code: int  # the exit code
    reason: str | None = None  # why, unless done


class Start(NamedTuple):
    """Where a run begins."""

    started: str  # ISO 8601, of its first process
    snapshot: dict[str, Any] | None  # None at the very beginning
    rows: list[dict[str, Any]]


class Ending(NamedTuple):
    """How a run ends."""

    status: records.Status
    reason: str | None = None  # why, unless done
    summary: dict[str, Any] | None = None  # only when done
    examples: Examples | None = None  # for W&B, only when done
    traceback: str | None = None  # only when failed


def run_job(job: Job, folder: Path) -> Outcome:
    """The outcome of a job in its folder: what is over stays as it is, what is not is trained to its end."""
    with records.lock(folder):
        outcome = find_outcome(job, folder, resume=job.settings["resume"])
        return outcome or train_job(job, folder, restore(job.plan, folder))


def find_outcome(job: Job, folder: Path, *, resume: bool) -> Outcome | None:
    """The outcome of the run in the folder where it is over; else None.

    ConfigError where the folder holds another run, or this one and `resume` is false.
    """
    status = records.read_status(folder)
    if status is None:
        return None
    place, state = relative(folder), status["status"]
    if not resume:
        raise ConfigError(
            f"{place} holds a run already ({state}); resume=true goes on with it, or choose another folder"
        )
    if status["identity"] != job.plan.identity:
        keys = differing_keys(job.config, records.read_config(folder)) or ["the data's SHA-256"]
        raise ConfigError(f"{place} holds another run; what differs: {', '.join(keys)}")
    if state == "done":
        return Outcome(0, f"{place} is done already; nothing changed")
    return Outcome(1, f"{place}: diverged, {status['reason']}") if state == "diverged" else None


def train_job(job: Job, folder: Path, start: Start) -> Outcome:
    """The outcome of a run trained to its end or to a signal, with its records, progress and results."""
    from rich.console import Console

    from mnistjax.loop import fit_lanes

    console, work = Console(), Work(job, folder, start)
    print(describe_job(job, folder, start), flush=True)
    with stop_signals() as received:
        try:
            with show_progress(console) as progress:
                runs = [work.run(progress)]
                ends = fit_lanes(job.plan.spec, runs, data=job.dataset, stop=lambda: bool(received))
                ((_, result),) = ends
            ending = work.end(result)
        except KeyboardInterrupt:
            ending = Ending("interrupted", "stopped at once")
            work.recorder.close(ending)
        except Exception as error:
            ending = work.fail(error)
        if ending.traceback:
            log.error("the run failed\n%s", ending.traceback)
        if ending.summary and ending.examples:
            work.tracker.show(ending.examples, ending.summary, folder, work.run_id)
        work.tracker.finish(ending.status, ending.summary)
    if ending.summary:
        places = find_places(folder, work.tracker.address)
        show_results(console, ending.summary, job.dataset.class_names, places)
    return judge(job, folder, ending, received)


class Work:
    """A job at work in its folder, which is locked: its records and its W&B run."""

    def __init__(
        self, job: Job, folder: Path, start: Start, *, group: str | None = None, name: str | None = None
    ) -> None:
        self.job, self.folder, self._start = job, folder, start
        self.recorder = Recorder(folder, job, start)
        self.recorder.open()
        self.run_id = make_run_id(job.plan.identity, start.started)
        self.tracker = Tracker(
            folder, config=job.config, run_id=self.run_id, group=group, name=name, **tracker_options(job)
        )

    def run(self, *observers: Observer) -> Run:
        """What `fit_lanes` takes; the records come before other observers."""
        from mnistjax.loop import Run

        return Run(
            self.job.plan.hyper,
            self.job.plan.seed,
            self.job.plan.stopping,
            self._start.snapshot,
            self._start.rows,
            [self.recorder, self.tracker, *observers],
        )

    def end(self, result: Result, *, examples: bool = True) -> Ending:
        """How the run ends, recorded; a failed run must never look finished."""
        if result.error:
            return self.fail(result.error)
        try:
            ending = end_job(self.job, result, examples=examples and self.job.wandb_mode != "disabled")
            self.recorder.close(ending)
        except Exception as error:
            return self.fail(error)
        return ending

    def fail(self, error: Exception) -> Ending:
        """The run failed; recorded."""
        ending = Ending("failed", one_line(error), traceback="".join(traceback.format_exception(error)))
        self.recorder.close(ending)
        return ending


def tracker_options(job: Job) -> dict[str, Any]:
    """What every W&B run of a job's command has in common."""
    options = {key: job.settings[f"wandb.{key}"] for key in ("project", "entity", "tags")}
    return options | {"mode": job.wandb_mode, "tell": tell}


def restore(plan: Plan, folder: Path) -> Start:
    """Where the run in the folder goes on: at its checkpoint, with the rows up to there."""
    status = records.read_status(folder)
    if status is None:
        return Start(records.now(), None, [])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checkpoint = records.load_checkpoint(folder)
    for warning in caught:
        tell(f"warning: {warning.message}")
    records.truncate_rows(folder, int(checkpoint.meta["epoch"]) if checkpoint else 0)
    if checkpoint is None:
        return Start(status["started"], None, [])
    return Start(status["started"], read_snapshot(plan, checkpoint), records.read_rows(folder))


def read_snapshot(plan: Plan, checkpoint: records.Checkpoint) -> dict[str, Any]:
    """The `Snapshot` of a run in its checkpoint."""
    import jax

    from mnistjax.train import init, variables_of

    state = init.eval_shape(plan.spec, plan.hyper, jax.random.key(plan.seed))
    kept = any(name.startswith("best/") for name in checkpoint.arrays)
    template = {"state": state, "best": variables_of(state) if kept else None}
    return records.unflatten(template, checkpoint.arrays)


def reopen(folder: Path) -> tuple[Plan, Dataset]:
    """The Plan of the run in a folder, and its data set; ConfigError where the data are others now."""
    status, settings = records.read_status(folder), read_settings(records.read_config(folder))
    dataset = label(load(settings), settings)
    plan = plan_run(settings, dataset)
    if status is None or status["identity"] != plan.identity:
        raise ConfigError(f"{folder} was trained on other data than {dataset.name} is now")
    return plan, dataset


def load_examples(plan: Plan, dataset: Dataset, folder: Path) -> Examples:
    """The test images with what the run in the folder, which is done, made of them."""
    from mnistjax import zoo

    _, variables, _ = zoo.load(folder)
    return find_examples(plan, dataset, variables)


def find_examples(plan: Plan, dataset: Dataset, variables: Any) -> Examples:
    """The test images with what these variables make of them."""
    from mnistjax.train import predict

    test = dataset.test
    return Examples(test.images, test.labels, predict(plan.spec, variables, test.images), dataset.class_names)


def end_job(job: Job, result: Result, *, examples: bool) -> Ending:
    """How a run that `fit` returned ends; with test images and their probabilities where asked for."""
    if result.status != "done":
        return Ending(result.status, result.reason)
    shown = find_examples(job.plan, job.dataset, result.variables) if examples else None
    return Ending("done", None, summarize_job(job, result), shown)


def judge(job: Job, folder: Path, ending: Ending, received: list[int]) -> Outcome:
    """The outcome for the user, who is told what to do next."""
    if ending.status == "failed":
        return Outcome(1, f"failed: {ending.reason} (see {relative(folder / 'mnistjax.log')})")
    if ending.status == "interrupted":
        return Outcome(128 + received[0], f"{ending.reason}; to go on: {resume_command(job, folder)}")
    return Outcome(int(ending.status != "done"), ending.reason)


class Recorder:
    """An observer that keeps the run folder. What a full disk refuses is told once and tried again."""

    def __init__(self, folder: Path, job: Job, start: Start) -> None:
        self._folder, self._job, self._started = folder, job, start.started
        self._epoch, self._told = len(start.rows), False
        self._waiting: list[dict[str, Any]] = []  # rows that the disk refused
        self._saved = time.monotonic()  # seconds on the clock

    def open(self) -> None:
        """The folder says that the run is on."""
        if records.read_status(self._folder) is None:
            records.write_config(self._folder, self._job.config)
        self._write_status("running")

    def __call__(self, moment: Moment) -> None:
        self._epoch = moment.epoch
        if moment.row is not None:
            self._waiting.append(moment.row)
        try:
            self._write_rows()
            if moment.final or time.monotonic() - self._saved >= SAVE_SECONDS:
                self._saved = time.monotonic()
                meta = {"epoch": moment.epoch, "step": moment.step}
                records.save_checkpoint(self._folder, records.flatten(moment.snapshot()), meta=meta)
                self._write_status("running")
        except OSError as error:
            if not self._told:
                tell(f"warning: {self._folder}: {error}; training goes on, saving is tried again")
            self._told = True

    def close(self, ending: Ending) -> None:
        """The folder says how the run ended."""
        try:
            self._write_rows()
            if ending.summary is not None:
                records.write_summary(self._folder, ending.summary)
            self._write_status(ending.status, reason=ending.reason, ended=records.now())
        except OSError as error:
            if ending.status == "done":
                raise
            tell(f"warning: {self._folder}: {error}")

    def _write_rows(self) -> None:
        while self._waiting:
            records.append_row(self._folder, self._waiting[0])
            del self._waiting[0]

    def _write_status(self, status: records.Status, **more: Any) -> None:
        more |= {"identity": self._job.plan.identity, "epoch": self._epoch, "started": self._started}
        records.write_status(self._folder, status, **more)


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """The SIGINT or SIGTERM received inside, once there is one; a second one interrupts at once."""
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt
        tell(f"{signal.Signals(number).name}: saving and stopping; once more stops at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def summarize_job(job: Job, result: Result) -> dict[str, Any]:
    """`summary.json` of a run that is done."""
    import jax

    plan, dataset = job.plan, job.dataset
    assert result.test is not None
    data = {"name": dataset.name, "sha256": dataset.sha256, "class_counts": dataset.class_counts}
    data["class_names"] = list(dataset.class_names)
    return {
        **{f"test/{name}": value for name, value in result.test.items()},
        "kept_epoch": result.kept_epoch,
        "seconds_per_epoch": result.seconds_per_epoch,
        "lanes": result.lanes,
        "compile_seconds": result.compile_seconds,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(result.variables["params"])),
        "data": data | ({"banner": dataset.banner} if dataset.banner else {}),
        "spec": plan.spec,
        "hyper": plan.hyper,
        "stopping": plan.stopping,
        "seed": plan.seed,
        "identity": plan.identity,
        "versions": find_versions(),
        "device": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
            "cores": os.cpu_count(),
            "processor": processor(),
        },
    }


def describe_job(job: Job, folder: Path, start: Start) -> str:
    """One line: what is trained on what, and where the records go."""
    spec, dataset = job.plan.spec, job.dataset
    counts = " + ".join(f"{len(part.images):,}" for part in (dataset.train, dataset.val, dataset.test))
    at = f", going on after epoch {len(start.rows)}" if start.snapshot else ""
    return f"{spec.model} on {dataset.name} ({counts} images), {spec.optimizer}{at} -> {relative(folder)}"


def find_places(folder: Path, wandb_address: str | None) -> dict[str, str]:
    """Where everything lies, by name."""
    if wandb_address and not wandb_address.startswith("http"):
        wandb_address = f"offline; to upload: wandb sync {shlex.quote(relative(Path(wandb_address)))}"
    return {"run folder": relative(folder), **({"W&B": wandb_address} if wandb_address else {})}


def resume_command(job: Job, folder: Path) -> str:
    """The command that goes on with a stopped run."""
    own = ("hydra.run.dir=", "hydra.sweep.dir=", "resume=")
    words = [word for word in job.overrides if not word.lstrip("+").startswith(own)]
    return shlex.join(["mnistjax", *words, f"hydra.run.dir={relative(folder)}", "resume=true"])


@functools.cache
def find_versions() -> dict[str, str]:
    """What a run's numbers depend on."""
    packages = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"python": platform.python_version(), "mnistjax": find_version(), **packages}


def find_version() -> str:
    """The version of this package, installed or not."""
    try:
        return importlib.metadata.version("mnistjax")
    except importlib.metadata.PackageNotFoundError:  # a bare checkout
        return tomllib.loads((conf_dir().parent / "pyproject.toml").read_text())["project"]["version"]
