"""Sweeps: `mnistjax -m`, with our launcher or the one that the user chose."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mnistjax import files, records
from mnistjax.cli.folders import find_folder, owning
from mnistjax.cli.launcher import FusedLauncher
from mnistjax.cli.other_launchers import run_by_launcher
from mnistjax.cli.overrides import (
    base_overrides,
    call_hydra,
    compose,
    composing,
    expand,
    parse_overrides,
    to_plain_config,
    write_as_choices,
)
from mnistjax.cli.plugins import errors_about
from mnistjax.cli.prepare import prepare_jobs
from mnistjax.cli.stored import find_auto, take_arguments, take_jobs
from mnistjax.compose import as_begun, read_sweep
from mnistjax.config import ConfigError, shorten
from mnistjax.job import Job
from mnistjax.progress import flush_stdout, relative, tell
from mnistjax.sweeps.ledger import LEDGER, Ledger, check_unused, final_statuses, find_ledger, load_ledger
from mnistjax.tracking import describe_sweep, drop_agent_run
from mnistjax.words import DATA_KEYS, folder_word, quote, shell_join

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mnistjax.sweeps.run import Sweep
    from mnistjax.sweeps.spawn import Spawned


@dataclass(frozen=True, eq=False)
class Multirun:
    """The sweep of a command line, composed and validated."""

    cfg: DictConfig  # without the keys that differ between jobs
    words: list[str]
    argv: list[str]  # for Hydra
    options: dict[str, Any]  # sweep.*
    folder: Path
    ledger: Ledger | None  # of the sweep to resume
    tasks: list[tuple[str, ...]]  # the overrides of each job
    jobs: dict[tuple[str, ...], Job]  # by their overrides, with the earlier jobs of a resumed sweep


def run_multirun(cfg: DictConfig, words: list[str], resume: str | None) -> int:
    """Runs a new sweep, or continues the one in the folder `resume`; returns the exit code.

    `cfg`: composed of the words without those of sweeps.
    """
    if line := drop_agent_run():
        tell(line)
    # The worker trains, so this process must not reserve a GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    words = [word for word in words if not word.lstrip("+").startswith("sweep.resume=")]
    with contextlib.nullcontext() if resume else spawn_early(cfg) as spawned:
        return run_words(words, resume, spawned)


@contextlib.contextmanager
def spawn_early(cfg: DictConfig) -> Iterator[Spawned | None]:
    """Inside, a worker process imports JAX while this one composes the jobs; None if the sweep needs none."""
    from mnistjax.sweeps.spawn import spawn

    spawned = None
    if cfg.sweep.executor == "processes" and not cfg.sweep.plan and is_ours(cfg):
        with contextlib.suppress(OSError):  # the sweep tries it again
            spawned = spawn()
    try:
        yield spawned
    finally:
        if spawned:
            spawned.kill()


def is_ours(cfg: DictConfig) -> bool:
    """Whether the launcher is ours."""
    return str(cfg.hydra.launcher._target_).endswith(".FusedLauncher")


def run_words(words: list[str], resume: str | None, spawned: Spawned | None) -> int:
    """Runs the sweep of these words, in the process that was `spawned` for it; returns the exit code."""
    ledger = load_ledger(Path(resume).absolute()) if resume else None
    if ledger:
        check_complete(ledger, words)
    multirun = read_multirun(words, ledger)
    cfg = multirun.cfg
    if not is_ours(cfg):
        check_launcher(multirun)
        jobs = {task: multirun.jobs[task] for task in multirun.tasks}
        return run_by_launcher(jobs, [*multirun.argv, "--multirun"])
    check_subdir(cfg)
    return print_groups(multirun) if cfg.sweep.plan else run_fused(multirun, spawned)


def read_multirun(words: list[str], ledger: Ledger | None) -> Multirun:
    """Composes and validates the jobs of these words and those of the ledger to resume."""
    with composing():
        given = parse_overrides(words)
        shared = [o.is_hydra_override() or o.key_or_group.startswith("sweep.") for o in given]
        plain = [o for o in given if is_movable(o.key_or_group) and not o.is_sweep_override()]
        moved = {o.key_or_group: o.input_line for o in plain}
        if ledger and sum(shared) + len(moved) == len(given):  # no word describes jobs: the ledger does
            rest = [o.input_line for o, is_shared in zip(given, shared, strict=True) if is_shared]
            words = [*move(take_arguments(ledger, words), moved), *rest]
        else:
            moved = {key: line for key, line in moved.items() if key not in DATA_KEYS}
        cfg = compose(base_overrides(words))
        options = read_sweep(to_plain_config(cfg))
        own, expanded = expand(words, cfg)
        folder = ledger.folder if ledger else find_sweep_folder(cfg, own, expanded)
        tasks = [tuple(task) for task in expanded]
        earlier = [tuple(move(task, moved)) for task in take_jobs(ledger)] if ledger else []
        known = list(dict.fromkeys([*earlier, *tasks]))  # a resumed job is in both lists
        auto = find_auto(ledger) if ledger else None
        jobs = dict(zip(known, prepare_jobs([[*own, *task] for task in known], auto), strict=True))
        if ledger:
            keep_micro_batches(jobs, {entry.identity for entry in ledger.entries.values()})
            check_data(ledger, [jobs[task] for task in earlier])
        check_halving(options, [*jobs.values()])
        return Multirun(cfg, words, write_as_choices(words, cfg), options, folder, ledger, tasks, jobs)


def keep_micro_batches(jobs: dict[tuple[str, ...], Job], stored: set[str]) -> None:
    """Gives the jobs of a resumed sweep the micro-batches of its `stored` identities.

    A new seed is trained as the earlier seeds of its configuration.
    """
    lost = stored - {job.plan.identity for job in jobs.values()}
    begun = {task: as_begun(job.plan, job.settings, lost) for task, job in jobs.items()} if lost else {}
    specs = {jobs[task].plan.spec: plan.spec for task, plan in begun.items() if plan.identity in lost}
    for task, plan in begun.items():
        job = jobs[task]
        if plan.identity not in stored and job.settings["train.micro_batch"] == "auto":
            plan = replace(plan, spec=specs.get(plan.spec, plan.spec))
        jobs[task] = replace(job, plan=plan)


def find_sweep_folder(cfg: DictConfig, own: list[str], tasks: Sequence[list[str]]) -> Path:
    """The folder of a new sweep, which may be named after values that all its jobs share: ${model.name}."""
    from omegaconf import OmegaConf

    node = cast(dict[str, Any], OmegaConf.to_container(cfg.hydra.sweep, resolve=False))
    keys = re.findall(r"\$\{([\w.]+)\}", str(node["dir"]))
    if not (keys and tasks):
        return find_folder(cfg, "sweep")
    first, last = (compose([*own, *task]) for task in (tasks[0], tasks[-1]))
    for key in keys:
        values = [OmegaConf.select(one, key) for one in (first, last)]
        if values[0] != values[1]:
            differ = f"{key} is {shorten(values[0])} and {shorten(values[1])}"
            raise ConfigError(f"hydra.sweep.dir={node['dir']}: a sweep has one folder, but {differ}")
    return find_folder(first, "sweep")


def check_complete(ledger: Ledger, words: Sequence[str]) -> None:
    """Raises ConfigError if words that describe new jobs of a sweep leave out some of its keys.

    Otherwise `sweep.resume=FOLDER seed=3` would add a job of the default model.
    """

    def list_keys(words: Sequence[str]) -> dict[str, str]:
        keys = {word.lstrip("+~").partition("=")[0]: word for word in words}
        return {k: w for k, w in keys.items() if not (k.startswith(("hydra", "sweep.")) or is_movable(k))}

    given = list_keys(words)
    left = [w for k, w in list_keys(ledger.arguments).items() if not {k, k.partition(".")[0]} & given.keys()]
    if given and left:
        place = folder_word("sweep.resume", relative(ledger.folder))
        raise ConfigError(
            f"new jobs need all keys of the sweep; give {shell_join(left)[:400]} too, or other values: "
            f"{shell_join(['mnistjax', '-m', place, *left, *words])[:1000]}"
        )


def check_halving(options: Mapping[str, Any], jobs: Sequence[Job]) -> None:
    """Raises ConfigError if a halving can't rank these jobs."""
    from mnistjax.sweeps.halving import make_halving  # late, because it imports JAX

    make_halving(dict(enumerate(jobs)), options["halving"], options["rank"])


def is_movable(key: str) -> bool:
    """Whether a key only says where a job's data or records are, so that another value makes no other job."""
    return key in (*DATA_KEYS, "resume") or key.startswith("wandb.")


def move(words: Sequence[str], moved: Mapping[str, str]) -> list[str]:
    """The stored words of a sweep, with those of movable keys replaced by those in `moved` (by key)."""
    replaced = [moved.get(word.partition("=")[0], word) for word in words]
    return [*replaced, *(word for word in moved.values() if word not in replaced)]


def check_data(ledger: Ledger, jobs: Sequence[Job]) -> None:
    """Raises ConfigError if the data of a stored job has changed, which would make it another, new job."""
    for entry, job in zip(ledger.entries.values(), jobs, strict=True):
        stored = ledger.groups[entry.group]["data"][1] if entry.group < len(ledger.groups) else None
        found = job.plan.data_sha256
        if entry.identity != job.plan.identity and stored not in (None, found):
            since = f"has changed since {relative(ledger.folder)} was started"
            hashes = f"SHA-256 {stored} there, {found} here"
            raise ConfigError(f"the data of job {entry.number} {since}: {hashes}")


def check_launcher(multirun: Multirun) -> None:
    """Raises ConfigError if a sweep with another launcher than ours has a key that only ours obeys."""
    halving, plan = multirun.options["halving"], multirun.cfg.sweep.plan
    for name, value in (("plan", plan), ("resume", multirun.ledger), ("halving", halving)):
        if value:
            raise ConfigError(f"sweep.{name} works only with our launcher, without another hydra/launcher")


def check_subdir(cfg: DictConfig) -> None:
    """Raises ConfigError if the user wants run folders with other names than their numbers."""
    from omegaconf import OmegaConf

    subdir = cast(dict[str, Any], OmegaConf.to_container(cfg.hydra.sweep, resolve=False))["subdir"]
    if subdir != "${hydra.job.num}":
        raise ConfigError(
            f"hydra.sweep.subdir={subdir} works only with hydra/launcher=basic; ours numbers its folders"
        )


def print_groups(multirun: Multirun) -> int:
    """Prints how the sweep would group the jobs that are left; returns the exit code."""
    from mnistjax.sweeps.groups import describe_groups, make_groups
    from mnistjax.sweeps.halving import make_halving

    if multirun.cfg.sweep.plan == "wandb":
        return print_sweep(multirun)
    options = multirun.options
    if not multirun.tasks:
        print(f"the jobs are not known yet: {find_sweeper(multirun)} chooses them while it runs")
        return flush_stdout()
    jobs = dict(enumerate({job.plan.identity: job for job in multirun.jobs.values()}.values()))
    entries, final = multirun.ledger.entries if multirun.ledger else {}, final_statuses(options["halving"])
    over = {entry.identity for entry in entries.values() if entry.status in final}
    left = {number: job for number, job in jobs.items() if job.plan.identity not in over}
    with errors_about("the plan"):  # a model may be too large to be traced
        groups = make_groups(left, mode=options["mode"], lanes=options["lanes"])
        halving = make_halving(jobs, options["halving"], options["rank"])
        lines = describe_groups(groups, left, halving.share if halving else 1.0)
        print("\n".join([*lines, *(halving.describe() if halving else [])]))
    return flush_stdout()


def find_sweeper(multirun: Multirun) -> str:
    """The name of the class of a sweep's sweeper."""
    return multirun.cfg.hydra.sweeper._target_.rpartition(".")[2]


def print_sweep(multirun: Multirun) -> int:
    """Prints the file that `wandb sweep` makes a Sweep of the same jobs from; returns the exit code."""
    import yaml

    if not multirun.tasks:
        name = find_sweeper(multirun)
        raise ConfigError(f"sweep.plan=wandb needs the jobs beforehand; {name} chooses them while it runs")
    settings = multirun.jobs[multirun.tasks[0]].settings
    place = {key: settings[f"wandb.{key}"] for key in ("project", "entity")}
    config = describe_sweep(multirun.tasks, settings["train.monitor"], **place)
    config["command"][1:1] = [word for word in multirun.words if word.startswith("hydra.searchpath=")]
    print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=1000), end="")
    return flush_stdout()


def run_fused(multirun: Multirun, spawned: Spawned | None) -> int:
    """Runs the sweep with our launcher; returns the exit code."""
    from mnistjax.sweeps.cluster import NoTask
    from mnistjax.sweeps.view import report_sweep

    folder, resume_command = multirun.folder, find_resume_command(multirun.folder)
    try:
        with make_sweep(multirun, spawned) as FusedLauncher.sweep, FusedLauncher.sweep:
            argv = [*multirun.argv, f"hydra.sweep.dir={quote(folder)}", "--multirun"]
            code = call_hydra(argv, folder=folder)
    except OSError as error:
        tell(f"the sweep could not be saved: {files.describe(error, folder)}")
        report_sweep(FusedLauncher.sweep)
        tell(f"to continue: {resume_command}")
        return 1
    except NoTask as error:
        tell(f"error: {error}")
        tell(f"to continue: {resume_command}")
        return 1
    except KeyboardInterrupt as stop:  # with the number of the signal
        tell(f"interrupted; to continue: {resume_command}")
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    return code or int(report_sweep(FusedLauncher.sweep) > 0 or FusedLauncher.sweep.refused)


def find_resume_command(folder: Path) -> str:
    """The command that continues the sweep in a folder."""
    return shell_join(["mnistjax", "-m", folder_word("sweep.resume", relative(folder))])


@contextlib.contextmanager
def make_sweep(multirun: Multirun, spawned: Spawned | None = None) -> Iterator[Sweep]:
    """The sweep with its jobs, trained in the process that was `spawned` for it; its folder is locked.

    ConfigError if the folder is in use, or if another command has changed it since the jobs were composed.
    """
    from mnistjax.sweeps.run import Options, Sweep

    folder = multirun.folder
    ledger = multirun.ledger or start_ledger(multirun)
    with owning(folder):
        if find_ledger(folder) != multirun.ledger:
            raise ConfigError(f"another command has just changed {relative(folder)}; give this one again")
        sweep = Sweep(ledger, Options(**multirun.options), spawned)
        for task, job in multirun.jobs.items():
            sweep.add(job, task)
        yield sweep


def start_ledger(multirun: Multirun) -> Ledger:
    """The ledger of a new sweep; ConfigError if its folder is in use."""
    folder = multirun.folder
    if (folder / LEDGER).exists():
        to_continue = f"to continue it: {find_resume_command(folder)}"
        raise ConfigError(f"{relative(folder)} holds a sweep already; {to_continue}")
    check_unused(folder)
    arguments = [word for word in multirun.words if not word.lstrip("+").startswith("hydra.sweep.dir=")]
    return Ledger(folder, f"{datetime.now():%Y-%m-%d_%H-%M-%S}", records.now(), arguments)
