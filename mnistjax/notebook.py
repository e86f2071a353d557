"""Sweeps from Python: the runs of `mnistjax -m`, for scripts and notebooks."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnistjax.backend import keep_settings
from mnistjax.config import ConfigError
from mnistjax.progress import tell
from mnistjax.report.runs import Runs, read_runs
from mnistjax.signals import safe_interrupts
from mnistjax.words import make_text, quote, read_words


def sweep(
    choices: Mapping[str, Any],
    *,
    data: str | None = None,
    epochs: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Runs:
    """Trains all combinations of choices, and returns the runs, bit for bit those of `mnistjax -m`.

        choices = {"model": "mlp", "optimizer.learning_rate": [0.01, 0.1], "seed": range(3)}
        runs = mnistjax.sweep(choices, data="mnist", epochs=5)

    `choices` has the keys of the command. A list or a range holds the values to compare; a tuple is one
    value: {"model.hidden": [64, (256, 64)]} compares two networks. `data` and `epochs` are short for the keys
    "data" and "train.epochs". Nothing is sent to W&B unless "wandb.mode" is among the choices.

    With a `folder`, the sweep is kept there, and the same call continues it; jobs that are done stay as they
    are. Without one its files are temporary, and are deleted with the last of the returned runs. A job that
    fails has its status and reason in its record. Ctrl-C stops all jobs, says where their files are, and
    raises KeyboardInterrupt. JAX's settings are as before afterwards.

    The jobs train in a process of their own, where a crash ends one job only; but in this process if a model
    or an optimizer was defined in the script or notebook itself, or if JAX runs on an accelerator, whose
    memory this process may hold. ConfigError for a wrong key or value, before anything is trained.
    """
    from mnistjax.cli import check_surroundings, only_one  # late, because it imports Hydra

    more = {"data": data, "train.epochs": epochs}
    more = {key: value for key, value in more.items() if value is not None}
    for key in more:
        if key in choices:
            raise ConfigError(f"{key} is given twice: in the choices, and as {key.rpartition('.')[2]}=")
    given = {"wandb.mode": "disabled", **choices, **more}
    words = read_words([make_word(key, value) for key, value in given.items()], multirun=True)
    with sweep_folder(folder) as place, only_one(), keep_settings(), safe_interrupts():
        check_surroundings()
        train(words, place, progress=progress, choose="sweep.executor" not in given)
        runs = read_runs(place)
    return runs if folder is not None else delete_with(runs, place)


class Owner:
    """Keeps the folder of a temporary sweep as long as one of its runs refers to this object."""


def delete_with(runs: Runs, place: Path) -> Runs:
    """The runs; their folder is deleted when none of them is left."""
    owner = Owner()
    weakref.finalize(owner, shutil.rmtree, place, ignore_errors=True)
    return Runs(replace(run, owner=owner) for run in runs)


@contextlib.contextmanager
def sweep_folder(folder: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The absolute path of a folder, or of a temporary one, which is removed again after an error."""
    place = Path(folder if folder is not None else tempfile.mkdtemp(prefix="mnistjax-")).absolute()
    try:
        yield place
    except KeyboardInterrupt:
        if place.exists():
            tell(f"interrupted; mnistjax.read_runs({str(place)!r}) has what is done, folder=... continues it")
        raise
    except BaseException:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)
        raise


def train(words: list[str], place: Path, *, progress: bool, choose: bool) -> None:
    """Trains the jobs of these words in a folder, and says which are not done.

    If it may `choose` the executor, it trains in this process where another one could not.
    """
    from mnistjax.cli import launcher, multirun
    from mnistjax.sweeps.ledger import find_ledger
    from mnistjax.sweeps.view import report_jobs

    found = multirun.read_multirun([*words, f"hydra.sweep.dir={quote(place)}"], find_ledger(place))
    if not found.tasks:
        raise ConfigError(f"{multirun.find_sweeper(found)} chooses jobs while it runs: use the command")
    if choose and must_stay():
        found.options["executor"] = "inline"
    with multirun.make_sweep(found) as jobs, jobs:
        for _ in launcher.train(jobs, progress=progress):
            pass
    report_jobs(jobs)


def must_stay() -> bool:
    """Whether jobs must train in this process: another could not import their model, or use the device."""
    import jax

    from mnistjax.sweeps.worker import copy_tables, needs_main

    try:
        return needs_main(copy_tables()) or jax.default_backend() != "cpu"
    except ConfigError:
        return True


def make_word(key: str, value: Any) -> str:
    """KEY=VALUE or KEY=VALUE,VALUE in Hydra's grammar; ConfigError for a key or a value that it lacks."""
    if not isinstance(key, str) or not re.fullmatch(r"\w[\w./@]*", key):
        raise ConfigError(f"a key of the choices must be a text like 'train.epochs'; got {key!r}")
    other = key.startswith("hydra") and not key.startswith(("hydra/sweeper", "hydra.sweeper"))
    if other or key in ("sweep.resume", "sweep.plan"):
        raise ConfigError(f"{key} is for the command mnistjax; the folder of a sweep is folder=...")
    values = list(value) if isinstance(value, (list, range)) or getattr(value, "ndim", 0) else [value]
    if not values:
        raise ConfigError(f"{key} has no values, so there is no job")
    return f"{key}={','.join(make_text(key, one) for one in values)}"
