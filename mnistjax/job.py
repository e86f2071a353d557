"""One job's life: found in its folder, trained, recorded and told about; nothing of Hydra."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
import platform
import signal
import tomllib
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mnistjax import files, records
from mnistjax.backend import processor
from mnistjax.compose import Settings, differing_keys, label, plan_run, read_settings
from mnistjax.config import ConfigError, Plan, conf_dir, one_line
from mnistjax.data import Dataset, find_data
from mnistjax.progress import relative, show_progress, show_results, tell
from mnistjax.recorder import Ending, Recorder, Start, restore
from mnistjax.signals import stop_signals
from mnistjax.tracking import Examples, Tracker, make_run_id
from mnistjax.words import folder_word, shell_join

if TYPE_CHECKING:
    from mnistjax.run import Callback, Result, Run

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


def run_job(job: Job, folder: Path) -> Outcome:
    """The outcome of a job in its folder, which Hydra has made: one that is over stays as it is."""
    with records.lock(folder):
        if outcome := find_outcome(job, folder, resume=job.settings["resume"], hydra_was_here=True):
            return outcome
        return train_job(job, folder, open_run(job, folder))


def find_outcome(job: Job, folder: Path, *, resume: bool, hydra_was_here: bool = False) -> Outcome | None:
    """The outcome of the run in the folder if it is over; else None.

    ConfigError if the folder holds another run, or this one and `resume` is false, or files that are not a
    run's, or damaged.
    """
    status = records.read_status(folder)
    if status is None:
        records.check_unused(folder, records.FILES if hydra_was_here else records.FILES + records.HYDRA)
        return None
    place, state = relative(folder), status["status"]
    if not resume:
        raise ConfigError(
            f"{place} holds a run already ({state}); resume=true goes on with it, or choose another folder"
        )
    if status["identity"] != job.plan.identity:
        raise ConfigError(f"{place} holds another run; what differs: {', '.join(_differences(job, folder))}")
    if state == "done":
        records.read_record(folder)  # raises if its files are not what they were
        return Outcome(0, f"{place} is done already; nothing changed")
    return Outcome(1, f"{place}: diverged, {status['reason']}") if state == "diverged" else None


def _differences(job: Job, folder: Path) -> list[str]:
    """The keys in which the run in a folder differs from a job."""
    try:
        return differing_keys(job.config, records.read_config(folder)) or ["the data's SHA-256"]
    except (OSError, files.DamagedFile):
        return [f"its {records.CONFIG} can't be read"]


def open_run(job: Job, folder: Path, width: int = 1) -> Start:
    """Begins or goes on with the run in its locked folder, whose status then says so; where it begins."""
    start = restore(job.plan, folder, width)
    Recorder(folder, job.plan, job.config, start).open()
    return start


def train_job(job: Job, folder: Path, start: Start) -> Outcome:
    """The outcome of a run trained to its end or to a signal, with its records, progress and results."""
    from rich.console import Console

    from mnistjax.loop import fit_runs
    from mnistjax.programs import make_program

    console, work = Console(), Work(job, folder, start)
    print(describe_job(job, folder, start), flush=True)
    with stop_signals() as stop:
        try:
            with show_progress(console) as progress, stop.limit(functools.partial(abandon, work)):
                program = make_program(job.plan.spec, job.dataset)
                ends = fit_runs(program, [[work.run(progress)]], stop=stop)
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
    return judge(job, folder, ending, stop.received)


def abandon(work: Work, number: int) -> None:
    """Ends the process for a signal that came inside a segment of many seconds; the last checkpoint stays."""
    work.recorder.close(Ending("interrupted", "stopped inside a segment; goes on from the last checkpoint"))
    work.tracker.finish("interrupted", wait=False)
    tell(f"{signal.Signals(number).name}: stopped; to go on: {resume_command(work.job, work.folder)}")
    os._exit(128 + number)


class Work:
    """A job at work in its folder, which is locked: its records and its W&B run."""

    def __init__(
        self, job: Job, folder: Path, start: Start, *, group: str | None = None, name: str | None = None
    ) -> None:
        self.job, self.folder, self._start = job, folder, start
        self.recorder = Recorder(folder, job.plan, job.config, start)
        self.run_id = make_run_id(job.plan.identity, start.started)
        self.tracker = Tracker(
            folder, config=job.config, run_id=self.run_id, group=group, name=name, **tracker_options(job)
        )

    def run(self, *callbacks: Callback) -> Run:
        """What `fit_runs` takes; the records come before other callbacks."""
        from mnistjax.run import Run

        return Run(
            self.job.plan.hyper,
            self.job.plan.seed,
            self.job.plan.stopping,
            self._start.snapshot,
            self._start.rows,
            [self.recorder, self.tracker, *callbacks],
        )

    def end(self, result: Result, *, examples: bool = True) -> Ending:
        """How the run ends, recorded; a failed run must never look finished."""
        if result.error:
            return self.fail(result.error)
        try:
            shows = examples and self.job.wandb_mode != "disabled"
            ending = end_job(self.job, result, self._start.continued, examples=shows)
            self.recorder.close(ending)
        except Exception as error:
            return self.fail(error)
        return ending

    def fail(self, error: Exception) -> Ending:
        """The run failed; recorded."""
        reason = str(error) if isinstance(error, ConfigError) else one_line(error)
        ending = Ending("failed", reason, traceback="".join(traceback.format_exception(error)))
        self.recorder.close(ending)
        return ending


def tracker_options(job: Job) -> dict[str, Any]:
    """What every W&B run of a job's command has in common."""
    options = {key: job.settings[f"wandb.{key}"] for key in ("project", "entity", "tags")}
    return options | {"mode": job.wandb_mode, "tell": tell}


def reopen(folder: Path) -> tuple[Plan, Dataset]:
    """The Plan of the run in a folder, which is done, and its data set, as this user has it, see `find_data`.

    The records say which data, never where they lie. ConfigError if the run is none of that config.
    """
    status, summary = records.read_status(folder), records.read_summary(folder)
    settings = read_settings(records.read_config(folder))
    data = summary.get("data") if summary else None
    if status is None or not isinstance(data, dict):
        raise ConfigError(f"{folder} holds no run that is done")
    dataset = label(find_data(str(data.get("name")), str(data.get("sha256"))), settings)
    plan = plan_run(settings, dataset)
    if status["identity"] != plan.identity:
        raise ConfigError(f"the records in {folder} are of different runs: their identity is another")
    return plan, dataset


def load_examples(plan: Plan, dataset: Dataset, folder: Path) -> Examples:
    """The test images with what the run in the folder, which is done, made of them."""
    from mnistjax import zoo

    _, variables, _ = zoo.load(folder)
    return find_examples(plan, dataset, variables)


def find_examples(plan: Plan, dataset: Dataset, variables: Any) -> Examples:
    """The test images with what these variables make of them."""
    from mnistjax.evaluation import predict

    test = dataset.test
    return Examples(test.images, test.labels, predict(plan.spec, variables, test.images), dataset.class_names)


def end_job(job: Job, result: Result, continued: list[dict[str, Any]], *, examples: bool) -> Ending:
    """How a run that `fit` returned ends; with test images and their probabilities if asked for."""
    if result.status != "done":
        return Ending(result.status, result.reason)
    shown = find_examples(job.plan, job.dataset, result.variables) if examples else None
    return Ending("done", None, summarize_job(job, result, continued), shown)


def judge(job: Job, folder: Path, ending: Ending, received: list[int]) -> Outcome:
    """The outcome for the user, who is told what to do next."""
    if ending.status == "failed":
        return Outcome(1, f"failed: {ending.reason} (see {relative(folder / 'mnistjax.log')})")
    if ending.status == "interrupted":
        return Outcome(128 + received[0], f"{ending.reason}; to go on: {resume_command(job, folder)}")
    return Outcome(int(ending.status != "done"), ending.reason)


def summarize_job(job: Job, result: Result, continued: list[dict[str, Any]]) -> dict[str, Any]:
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
        **({"continued": continued} if continued else {}),
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
        place = relative(Path(wandb_address))
        place = f"./{place}" if place.startswith("-") else place  # which wandb would read as an option
        wandb_address = f"offline; to upload: {shell_join(['wandb', 'sync', place])}"
    return {"run folder": relative(folder), **({"W&B": wandb_address} if wandb_address else {})}


def resume_command(job: Job, folder: Path) -> str:
    """The command that goes on with a stopped run."""
    own = ("hydra.run.dir=", "hydra.sweep.dir=", "resume=")
    words = [word for word in job.overrides if not word.lstrip("+").startswith(own)]
    return shell_join(["mnistjax", *words, folder_word("hydra.run.dir", relative(folder)), "resume=true"])


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
