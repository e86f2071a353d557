"""A job: one run of the command or of a sweep, validated before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mnistjax import files, records
from mnistjax.compose import Settings, differing_keys
from mnistjax.config import ConfigError, Plan
from mnistjax.data import Dataset
from mnistjax.progress import relative, tell
from mnistjax.tracking import AgentRun
from mnistjax.words import folder_word, shell_join


@dataclass(frozen=True, eq=False)
class Job:
    """One run of the command or of a sweep, validated."""

    overrides: list[str]
    config: dict[str, Any]  # resolved
    settings: Settings
    plan: Plan
    wandb_mode: str  # online, offline or disabled
    dataset: Dataset | None = None  # None if the job is sent to a worker, which gets each data set once
    number: int = 0  # in its sweep
    folder: Path = Path()  # absolute path of the run folder
    group: str | None = None  # group of the W&B run: the id of the sweep
    name: str | None = None  # name of the W&B run: the values that differ between the jobs of the sweep
    pause: int | None = None  # epochs after which it waits for a decision of its sweep
    agent_run: AgentRun | None = None  # None: the job makes its own W&B run

    @property
    def data(self) -> Dataset:
        """The data set, which must not be None."""
        assert self.dataset is not None
        return self.dataset

    def tracker_options(self) -> dict[str, Any]:
        """The options that are the same for all W&B runs of a command."""
        options = {key: self.settings[f"wandb.{key}"] for key in ("project", "entity", "tags")}
        return options | {"mode": self.wandb_mode, "tell": tell}

    def resume_command(self) -> str:
        """The command that continues the run in the job's folder."""
        own = ("hydra.run.dir=", "hydra.sweep.dir=", "resume=")
        words = [word for word in self.overrides if not word.lstrip("+").startswith(own)]
        folder = folder_word("hydra.run.dir", relative(self.folder))
        return shell_join(["mnistjax", *words, folder, "resume=true"])


class Outcome(NamedTuple):
    """How a job ended, for the user."""

    code: int  # exit code
    reason: str | None = None  # None only if done


def find_outcome(job: Job, *, resume: bool, hydra_was_here: bool = False) -> Outcome | None:
    """The outcome of the run in the job's folder; None if the run is not over or not begun.

    ConfigError if the folder contains another run, damaged or foreign files, or a run although `resume` is
    false. With `hydra_was_here` the folder may contain Hydra's files before the run has begun.
    """
    folder = job.folder
    status = records.read_status(folder)
    if status is None:
        records.check_unused(folder, records.FILES if hydra_was_here else records.FILES + records.HYDRA)
        return None
    place, state = relative(folder), status["status"]
    if not resume:
        raise ConfigError(
            f"{place} holds a run already ({state}); continue it with resume=true, or choose another folder"
        )
    if status["identity"] != job.plan.identity:
        raise ConfigError(f"{place} holds another run; what differs: {', '.join(_differences(job))}")
    if state == "done":
        records.read_record(folder)  # raises if its files are damaged
        return Outcome(0, f"{place} is done already; nothing changed")
    return Outcome(1, f"{place}: diverged, {status['reason']}") if state == "diverged" else None


def _differences(job: Job) -> list[str]:
    """The keys in which the run in the job's folder differs from the job."""
    try:
        return differing_keys(job.config, records.read_config(job.folder)) or [
            "the data's SHA-256" + (", or the model that it starts from" if job.plan.start else "")
        ]
    except (OSError, files.DamagedFile):
        return [f"its {records.CONFIG} can't be read"]
