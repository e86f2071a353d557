"""Validated jobs from overrides, and one run of one of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistjax import files, records
from mnistjax.active import train_job
from mnistjax.backend import keep_one_device, prepare_backend
from mnistjax.cli.folders import owning
from mnistjax.cli.overrides import Composer
from mnistjax.compose import Settings, label, load, plan_run, read_settings
from mnistjax.config import ConfigError, conf_dir
from mnistjax.data import Dataset
from mnistjax.job import Job, Outcome, find_outcome
from mnistjax.progress import printable, show_banner, tell
from mnistjax.recorder import open_run
from mnistjax.tracking import resolve_mode
from mnistjax.words import quote

if TYPE_CHECKING:
    from omegaconf import DictConfig


def prepare_jobs(overrides: list[list[str]]) -> list[Job]:
    """The validated jobs of these overrides; an error names its job where there are several.

    Only when all are valid is anything shown: what a data set or W&B must tell first.
    """
    composer, prepare, jobs = Composer(), Preparer(), []
    for number, words in enumerate(overrides):
        try:
            jobs.append(prepare(composer(words), words))
        except ConfigError as error:
            if len(overrides) == 1:
                raise
            raise ConfigError(f"job {number} ({' '.join(words)}): {error}") from None
    for banner in filter(None, {job.data.banner for job in jobs}):
        show_banner(banner)
    for line in prepare.lines:
        tell(line)
    return jobs


class Preparer:
    """Makes validated jobs of resolved configs; they share their data."""

    def __init__(self) -> None:
        self._datasets: dict[tuple[Any, ...], Dataset] = {}
        self._modes: dict[str, str] = {}
        self.lines: list[str] = []  # for the user, where W&B went offline

    def __call__(self, config: dict[str, Any], words: list[str]) -> Job:
        """The validated job of a config and the overrides that it is made of."""
        settings = read_settings(config)
        dataset = self._load(settings)
        prepare_backend()
        plan = plan_run(settings, dataset)
        mode = self._mode(settings["wandb.mode"])
        return Job(
            overrides=words, config=config, settings=settings, dataset=dataset, plan=plan, wandb_mode=mode
        )

    def _load(self, settings: Settings) -> Dataset:
        source = tuple(settings[f"data.{key}"] for key in ("name", "dir", "raw_dir"))
        if source not in self._datasets:
            self._datasets[source] = load(settings)
        labelled = (*source, settings.values.get("task.positive"))
        if labelled not in self._datasets:
            self._datasets[labelled] = label(self._datasets[source], settings)
        return self._datasets[labelled]

    def _mode(self, asked: str) -> str:
        if asked not in self._modes:
            self._modes[asked], line = resolve_mode(asked)
            self.lines += [line] if line else []
        return self._modes[asked]


def call_hydra(
    argv: list[str], task: Callable[[DictConfig], None] = lambda cfg: None, folder: Path | None = None
) -> int:
    """The exit code of Hydra's own main, which makes the folders and calls the task in each.

    ConfigError for what Hydra refuses, and for what can't be written in the `folder`.
    """
    import hydra
    from hydra.errors import HydraException

    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [before[0][0], *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would print
    try:
        hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(task)()
    except SystemExit as exit:
        return 2 if exit.code else 0
    except OSError as error:
        raise ConfigError(files.describe(error, folder or os.curdir)) from error
    except (HydraException, ValueError) as error:
        raise ConfigError(" ".join(str(error).split())) from error
    finally:
        sys.argv = before[0]
        if before[1] is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before[1]
    return 0


def run_single(job: Job, folder: Path) -> int:
    """The exit code of one run, in its folder or, with resume=true, in that of the run it continues."""
    given = any(word.lstrip("+").startswith("hydra.run.dir=") for word in job.overrides)
    if job.settings["resume"] and not given:
        folder = records.find_run("outputs", job.plan.identity) or folder
    folder, outcomes = folder.absolute(), []
    if outcome := find_outcome(job, folder, resume=job.settings["resume"]):
        if outcome.code == 0:
            print(printable(str(outcome.reason)))
        return report([("", outcome)])
    _settle(job)
    with owning(folder):  # before Hydra writes there
        try:
            start = open_run(job, folder)
        except OSError as error:
            raise ConfigError(files.describe(error, folder)) from None
        code = call_hydra(
            [*job.overrides, f"hydra.run.dir={quote(folder)}"],
            lambda cfg: outcomes.append(("", train_job(job, folder, start))),
            folder,
        )
    return report(outcomes) if outcomes else code


def _settle(job: Job) -> None:
    from mnistjax.devices import has_large_steps

    if not has_large_steps(job.plan.spec):
        keep_one_device()


def report(outcomes: list[tuple[str, Outcome]]) -> int:
    """The exit code of all jobs together; tells the reason of each that is not done."""
    bad = [(name, outcome) for name, outcome in outcomes if outcome.code]
    if len(outcomes) > 1:
        tell(f"{len(outcomes) - len(bad)} of {len(outcomes)} jobs done")
    for name, outcome in bad:
        tell(f"{name}: {outcome.reason}" if name else str(outcome.reason))
    return max((outcome.code for _, outcome in bad), default=0)
