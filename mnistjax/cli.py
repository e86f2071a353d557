"""The command `mnistjax`: a Hydra app that makes jobs; the only room that imports hydra.

Everything is composed, validated and planned before any folder is made, Hydra's own included.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import importlib
import importlib.metadata
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mnistjax import records
from mnistjax.compose import flatten, label, plan_run, read_settings, read_sweep, unknown_key
from mnistjax.config import ConfigError, conf_dir, to_plain, unknown
from mnistjax.data import Dataset, load_data
from mnistjax.job import (
    Job,
    Outcome,
    find_outcome,
    find_version,
    restore,
    run_job,
    stop_signals,
    train_job,
)
from mnistjax.progress import relative, show_banner, tell
from mnistjax.tracking import resolve_mode

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mnistjax.sweep.run import Sweep
    from mnistjax.sweep.worker import Ended

TABLES = {  # group -> (module of its open table, its names, the options of one, their entry points)
    "data": ("mnistjax.data", "list_datasets", None, "mnistjax.datasets"),
    "model": ("mnistjax.models", "list_models", "model_options", "mnistjax.models"),
    "optimizer": ("mnistjax.optim", "list_optimizers", "optimizer_options", "mnistjax.optimizers"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of a command: 0 done, 1 failed, 2 a wrong config or argument, 130 or 143 stopped."""
    try:
        return run_command(sys.argv[1:] if argv is None else list(argv))
    except ConfigError as error:
        tell(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        tell("interrupted")
        return 130
    except BrokenPipeError:  # `mnistjax --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def run_command(argv: list[str]) -> int:
    """The exit code of what the arguments ask for."""
    args = parse_arguments(argv)
    if args.version:
        print(f"mnistjax {find_version()}")
        return 0
    add_rows()
    words, question = args.overrides, args.help or args.cfg or args.info
    if question:
        with composing():
            compose(words)  # for our messages, not Hydra's
    if question or args.shell_completion or args.hydra_help:
        return call_hydra([*words, *(word for word in argv if word not in words)])
    with composing():
        cfg = compose(base_overrides(words) if args.multirun else words)
        multirun = args.multirun or str(cfg.hydra.mode) == "RunMode.MULTIRUN"
        jobs = [] if multirun else prepare_jobs([words])
    return run_multirun(words) if multirun else run_single(jobs[0], Path(cfg.hydra.run.dir))


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError(f"{message}; `mnistjax --help` shows how")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The flags of Hydra's that we pass on, and the KEY=VALUE words in `overrides`.

    Not passed on: another primary config, and --experimental-rerun, which loads a pickle.
    """
    parser = Parser("mnistjax", add_help=False, allow_abbrev=False)
    switches = ("--help", "-h"), ("--multirun", "-m"), ("--run", "-r"), ("--shell-completion", "-sc")
    for names in (*switches, ("--hydra-help",), ("--resolve",), ("--version",)):
        parser.add_argument(*names, action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--package", "-p")
    infos = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=infos)
    parser.add_argument("overrides", nargs="*")
    args, rest = parser.parse_known_intermixed_args(argv)
    if rest:
        known = [name for action in parser._actions for name in action.option_strings]
        raise unknown("flag", rest[0], known)
    if args.resolve and not (args.cfg or args.help):
        raise ConfigError("--resolve goes with --cfg or --help only")
    return args


def add_rows() -> None:
    """Makes the launcher known, and every row of the open tables that has no file in conf/.

    A table is read only where someone may have added to it, because that imports JAX.
    """
    from hydra.core.config_store import ConfigStore

    from mnistjax.launcher import register

    register()
    for group, (module, names, options, entry_points) in TABLES.items():
        if module not in sys.modules and not importlib.metadata.entry_points(group=entry_points):
            continue
        room = importlib.import_module(module)
        for name in getattr(room, names)():
            if not (conf_dir() / group / f"{name}.yaml").exists():
                defaults = getattr(room, options)(name) if options else {}
                node = {"name": name, **to_plain(defaults)}
                ConfigStore.instance().store(group=group, name=name, node=node)


@contextlib.contextmanager
def composing() -> Iterator[None]:
    """Inside, `compose` works."""
    from hydra import initialize_config_dir

    with initialize_config_dir(str(conf_dir()), job_name="mnistjax", version_base="1.3"):
        yield


def compose(overrides: list[str]) -> DictConfig:
    """The composed config, with Hydra's own node; ConfigError says what is wrong with the overrides."""
    import hydra
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return hydra.compose("config", overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError) as error:
        raise explain(error, overrides) from error


def explain(error: Exception, overrides: list[str]) -> ConfigError:
    """The one line for what Hydra raised: the first override to blame, else Hydra's own first line."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import OverrideParseException

    broken = [word for word in overrides if word.startswith("=")]
    if isinstance(error, OverrideParseException) or broken:
        word = getattr(error, "override", *broken[:1])
        return ConfigError(f"{word!r} can't be read; write KEY=VALUE, like train.epochs=5")
    loader, choices, others = GlobalHydra.instance().config_loader(), [], []
    for override in parse_overrides(overrides):
        key, value = override.key_or_group, override.value()
        options = loader.get_group_options(key)
        if override.is_sweep_override():
            return ConfigError(
                f"{override.input_line} has several values; add -m to run them all, or write {key}=[...]"
            )
        if options and not override.is_delete():
            if not isinstance(value, (dict, list)) and str(value) not in options:
                return unknown(key, override.get_value_element_as_str(), options)
            if override.is_add():
                return ConfigError(f"{key} is chosen already; write {key}={value} without the +")
            choices.append(override.input_line)
        elif not override.is_hydra_override():
            others.append(override)
    with contextlib.suppress(Exception):  # what is wrong then is none of the keys
        config = hydra.compose("config", choices)
        known = [key for key, _ in flatten(to_plain_config(config, resolve=False))]
        for override in others:
            key = override.key_or_group
            if override.is_add() and key in known:
                return ConfigError(f"{key} is there already; write {override.input_line[1:]}")
            if key not in known:
                return ConfigError(f"{unknown_key(key, known)}{_owners(key)}")
    lines = [*str(error).splitlines(), *str(error.__cause__ or "").splitlines()[:1]]
    return ConfigError(" ".join(lines[:1] + lines[-1:] if len(lines) > 1 else lines))


def _owners(key: str) -> str:
    """A hint where another choice of the key's group has that key."""
    from omegaconf import OmegaConf

    group, _, option = key.partition(".")
    files = sorted((conf_dir() / group).glob("*.yaml"))
    owners = [f"{group}={file.stem}" for file in files if option in OmegaConf.load(file)]
    return f"; it is a key of {', '.join(owners)}" if owners else ""


def base_overrides(overrides: list[str]) -> list[str]:
    """The overrides that decide how a sweep is made: Hydra's own, sweep.* and the experiment."""
    own = []
    for o in parse_overrides(overrides):
        sweep = o.key_or_group.startswith("sweep.")
        if sweep and o.is_sweep_override():
            raise ConfigError(f"{o.input_line}: a sweep has one {o.key_or_group}")
        if sweep or o.is_hydra_override() or o.key_or_group == "experiment":
            own.append(o)
    return [o.input_line for o in own if not o.is_sweep_override()]


def expand(overrides: list[str], base: DictConfig) -> tuple[list[str], list[list[str]]]:
    """Hydra's own overrides, and those of each job of a sweep, as Hydra's own sweeper will make them.

    No jobs where another sweeper chooses them while it runs: those are validated one by one.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf

    params = [f"{key}={value}" for key, value in (base.hydra.sweeper.get("params") or {}).items()]
    parsed = parse_overrides([*params, *overrides])
    own = [o.input_line for o in parsed if o.is_hydra_override()]
    if base.hydra.sweeper._target_ != BasicSweeperConf._target_:
        return own, []
    task = [o for o in parsed if not o.is_hydra_override()]
    return own, BasicSweeper.split_arguments(task, None)[0]


def postpone(overrides: list[str]) -> list[str]:
    """The overrides of a sweep, values as choices of one, which Hydra leaves to the jobs.

    It would apply a plain value to the defaults too, and refuse
    `-m optimizer=momentum,nesterov optimizer.momentum=0.8` because the default optimizer has no momentum.
    """
    from hydra.core.global_hydra import GlobalHydra

    loader, words = GlobalHydra.instance().config_loader(), []
    for o in parse_overrides(overrides):
        fixed = o.is_hydra_override() or o.is_sweep_override() or o.is_delete()
        if fixed or loader.get_group_options(o.key_or_group):
            words.append(o.input_line)
        else:
            words.append(f"{o.get_key_element()}=choice({o.get_value_element_as_str()})")
    return words


def parse_overrides(overrides: list[str]) -> Any:
    """The overrides, parsed; ConfigError for a word that is no KEY=VALUE."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(overrides)
    except HydraException as error:
        raise explain(error, overrides) from error


def to_plain_config(cfg: DictConfig, *, resolve: bool) -> dict[str, Any]:
    """The config without Hydra's node as a dict; ConfigError for an interpolation that leads nowhere."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    try:
        return cast(dict[str, Any], OmegaConf.to_container(task, resolve=resolve, throw_on_missing=resolve))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error


def prepare_jobs(overrides: list[list[str]]) -> list[Job]:
    """The validated jobs of these overrides; an error names its job where there are several.

    Only when all are valid is anything shown: what a data set or W&B must tell first.
    """
    load, modes, jobs = functools.cache(load_data), functools.cache(resolve_mode), []
    composer = Composer()
    for number, words in enumerate(overrides):
        try:
            jobs.append(prepare_job(composer(words), words, load, modes))
        except ConfigError as error:
            if len(overrides) == 1:
                raise
            raise ConfigError(f"job {number} ({' '.join(words)}): {error}") from None
    for banner in filter(None, {job.dataset.banner for job in jobs}):
        show_banner(banner)
    for line in filter(None, {modes(job.settings["wandb.mode"])[1] for job in jobs}):
        tell(line)
    return jobs


class Composer:
    """Composes the configs of many jobs: once for each choice of groups, then plain values on a copy.

    Hydra takes about 0.13 s for each composition; jobs that differ in plain values take under 1 ms so.
    """

    def __init__(self) -> None:
        self._parsed: dict[str, Any] = {}
        self._bases: dict[tuple[str, ...], tuple[dict[str, Any], bool]] = {}

    def __call__(self, words: list[str]) -> dict[str, Any]:
        """The resolved config of these overrides; ConfigError says what is wrong with them."""
        plain = {word: override for word in words if (override := self._plain(word))}
        rest = tuple(word for word in words if word not in plain)
        if rest not in self._bases:
            composed = compose(list(rest))
            written = flatten(to_plain_config(composed, resolve=False))
            fixed = all("${" not in str(value).replace("${oc.env:", "") for _, value in written)
            self._bases[rest] = to_plain_config(composed, resolve=True), fixed
        base, fixed = self._bases[rest]
        config = copy.deepcopy(base)
        if fixed and all(replace_value(config, o.key_or_group, o.value()) for o in plain.values()):
            return config
        return to_plain_config(compose(words), resolve=True)  # raises what Hydra says

    def _plain(self, word: str) -> Any:
        """The override, if it is one of a plain value: KEY=VALUE, of no group and not Hydra's own."""
        from hydra.core.global_hydra import GlobalHydra

        if word not in self._parsed:
            (override,) = parse_overrides([word])
            groups = GlobalHydra.instance().config_loader().get_group_options(override.key_or_group)
            changes = not (override.is_add() or override.is_delete() or override.is_sweep_override())
            plain = changes and not groups and not override.is_hydra_override()
            self._parsed[word] = override if plain else None
        return self._parsed[word]


def replace_value(config: dict[str, Any], key: str, value: Any) -> bool:
    """Whether this plain value could take the place of another in a resolved config."""
    *path, last = key.split(".")
    for name in path:
        config = config.get(name, {}) if isinstance(config, dict) else {}
    leaf = isinstance(config, dict) and last in config and not isinstance(config[last], dict)
    special = isinstance(value, dict) or any(mark in str(value) for mark in ("${", "???"))
    if leaf and not special:
        config[last] = value
        return True
    return False


def prepare_job(
    config: dict[str, Any], words: list[str], load: Callable[..., Dataset], modes: Callable
) -> Job:
    """The validated job of a resolved config."""
    settings = read_settings(config)
    data = load(settings["data.name"], data_dir=settings["data.dir"], raw_dir=settings["data.raw_dir"])
    dataset = label(data, settings)
    plan = plan_run(settings, dataset)
    return Job(words, config, settings, dataset, plan, modes(settings["wandb.mode"])[0])


def call_hydra(argv: list[str], task: Callable[[DictConfig], None] = lambda cfg: None) -> int:
    """The exit code of Hydra's own main, which makes the folders and calls the task in each."""
    import hydra
    from hydra.errors import HydraException

    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [before[0][0], *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would print
    try:
        hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(task)()
    except SystemExit as exit:
        return 2 if exit.code else 0
    except BrokenPipeError:
        raise
    except (HydraException, OSError, ValueError) as error:
        raise ConfigError(" ".join(str(error).split())) from error
    finally:
        sys.argv = before[0]
        if before[1] is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before[1]
    return 0


def quote(folder: Path) -> str:
    """The folder as the value of an override."""
    return "'" + str(folder).replace("\\", "\\\\").replace("'", "\\'") + "'"


def run_single(job: Job, folder: Path) -> int:
    """The exit code of one run, in its folder or, with resume=true, in that of the run it continues."""
    given = any(word.lstrip("+").startswith("hydra.run.dir=") for word in job.overrides)
    if job.settings["resume"] and not given:
        folder = records.find_run("outputs", job.plan.identity) or folder
    folder, outcomes = folder.absolute(), []
    if outcome := find_outcome(job, folder, resume=job.settings["resume"]):
        if outcome.code == 0:
            print(outcome.reason)
        return report([("", outcome)])
    try:
        with records.lock(folder):  # before Hydra writes there
            start = restore(job.plan, folder)
            code = call_hydra(
                [*job.overrides, f"hydra.run.dir={quote(folder)}"],
                lambda cfg: outcomes.append(("", train_job(job, folder, start))),
            )
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror or error}") from error
    return report(outcomes) if outcomes else code


def run_multirun(words: list[str]) -> int:
    """The exit code of a sweep, by our launcher or by the one that was asked for."""
    from omegaconf import OmegaConf

    from mnistjax.sweep.ledger import LEDGER, Ledger, load_ledger
    from mnistjax.sweep.run import Options, Sweep, show_plan

    # The worker trains; this process must not take a GPU's memory first.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    places = [word.partition("=")[2] for word in words if word.startswith("sweep.resume=")]
    words = [word for word in words if not word.startswith("sweep.resume=")]
    ledger = load_ledger(Path(places[-1]).absolute()) if places else None
    with composing():
        if ledger and not any(map(is_jobs_own, parse_overrides(words))):
            words = [*ledger.arguments, *words]
        cfg = compose(base_overrides(words))
        own, tasks = expand(words, cfg)
        jobs = prepare_jobs([[*own, *task] for task in tasks])
        entries = list(ledger.entries.values()) if ledger else []
        earlier = prepare_jobs([[*own, *entry.overrides] for entry in entries])
        argv = postpone(words)
        options = read_sweep(to_plain_config(cfg, resolve=True))
    if not str(cfg.hydra.launcher._target_).endswith(".FusedLauncher"):
        return run_apart(jobs, [*argv, "--multirun"])
    subdir = cast(dict[str, Any], OmegaConf.to_container(cfg.hydra.sweep, resolve=False))["subdir"]
    if subdir != "${hydra.job.num}":
        raise ConfigError(
            f"hydra.sweep.subdir={subdir} goes with hydra/launcher=basic; ours numbers its folders"
        )
    if cfg.sweep.plan:
        print("\n".join(show_plan(jobs, Options(**options))))
        return 0
    folder = ledger.folder if ledger else Path(cfg.hydra.sweep.dir).absolute()
    place = relative(folder)
    if ledger is None and (folder / LEDGER).exists():
        raise ConfigError(f"{place} holds a sweep already; mnistjax -m sweep.resume={place} goes on with it")
    ledger = ledger or Ledger(folder, f"{datetime.now():%Y-%m-%d_%H-%M-%S}", records.now(), words)
    driver = Driver(Sweep(ledger, Options(**options)))
    for task, job in zip([*(entry.overrides for entry in entries), *tasks], [*earlier, *jobs], strict=True):
        driver.know(task, job)
    try:
        with records.lock(folder), driver:
            code = call_hydra([*argv, f"hydra.sweep.dir={quote(folder)}", "--multirun"])
    except KeyboardInterrupt:
        tell(f"interrupted; to go on: mnistjax -m sweep.resume={shlex.quote(place)}")
        return 128 + driver.signal
    return code or driver.report()


def is_jobs_own(override: Any) -> bool:
    """Whether an override says what the jobs are, and not how the sweep is run."""
    return not (override.is_hydra_override() or override.key_or_group.startswith("sweep."))


class Driver:
    """What the launcher drives: a sweep, with its view and its signals."""

    def __init__(self, sweep: Sweep) -> None:
        from rich.console import Console

        from mnistjax.launcher import FusedLauncher

        self.signal = 2  # that ended the sweep
        self._sweep, self._console = sweep, Console()
        self._numbers: dict[tuple[str, ...], int] = {}
        FusedLauncher.driver = self

    def __enter__(self) -> Driver:
        self._sweep.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._sweep.__exit__(*error)

    def know(self, words: Sequence[str], job: Job) -> None:
        """The job of these overrides is part of the sweep."""
        self._numbers[tuple(words)] = self._sweep.add(job, list(words))

    def number(self, words: Sequence[str], compose: Callable[[], DictConfig]) -> int:
        """The number of the job of these overrides."""
        if tuple(words) not in self._numbers:
            config = to_plain_config(compose(), resolve=True)
            self.know(words, prepare_job(config, list(words), load_data, resolve_mode))
        return self._numbers[tuple(words)]

    def knows(self, words: Sequence[str]) -> bool:
        """Whether these overrides have been composed and validated."""
        return tuple(words) in self._numbers

    def job(self, number: int) -> tuple[list[str], dict[str, Any]]:
        """The overrides and the resolved config of a job."""
        return self._sweep.ledger.entries[number].overrides, self._sweep.jobs[number].config

    def train(self) -> Iterator[Ended]:
        """The end of each job that is trained now; KeyboardInterrupt after a signal."""
        from mnistjax.sweep.view import show_sweep
        from mnistjax.sweep.worker import Ended

        with stop_signals() as received:
            try:
                with show_sweep(self._console, self._sweep.tally()) as show:
                    for report in self._sweep.run(lambda: bool(received)):
                        show(report)
                        if isinstance(report, Ended):
                            yield report
            finally:
                self.signal = (received or [self.signal])[0]
        if received:
            raise KeyboardInterrupt

    def end(self, number: int) -> Ended:
        """The end of a job as the records have it."""
        return self._sweep.end(number)

    def report(self) -> int:
        """Prints the table and the failures; the exit code."""
        from mnistjax.sweep.view import failures, show_table

        entries, rows = self._sweep.entries, self._sweep.results()
        show_table(self._console, rows, self._sweep.monitor)
        place = relative(self._sweep.ledger.folder)
        self._console.print(f"results    {place}/results.csv", highlight=False, soft_wrap=True, markup=False)
        lines = failures(entries, self._sweep.names())
        if lines:
            tell(f"{len(entries) - len(lines)} of {len(entries)} jobs done")
        for line in lines:
            tell(line)
        return int(bool(lines))


def run_apart(jobs: list[Job], argv: list[str]) -> int:
    """The exit code of the runs of a sweep by Hydra's own or another launcher, job by job."""
    from hydra.core.hydra_config import HydraConfig

    waiting, outcomes = iter(jobs), []

    def task(cfg: DictConfig) -> None:
        node = HydraConfig.get()
        words = list(node.overrides.task)
        name = f"job {node.job.num} ({' '.join(words)})"
        print(name, flush=True)
        try:
            job = next(waiting, None) or prepare_job(
                to_plain_config(cfg, resolve=True), words, load_data, resolve_mode
            )
            outcome = run_job(job, Path(node.runtime.output_dir))
        except ConfigError as error:
            outcome = Outcome(2, str(error))
        outcomes.append((name, outcome))
        if outcome.code > 128:
            raise KeyboardInterrupt

    try:
        code = call_hydra(argv, task)
    except KeyboardInterrupt:
        code = 130
    return max(code, report(outcomes))


def report(outcomes: list[tuple[str, Outcome]]) -> int:
    """The exit code of all jobs together; tells the reason of each that is not done."""
    bad = [(name, outcome) for name, outcome in outcomes if outcome.code]
    if len(outcomes) > 1:
        tell(f"{len(outcomes) - len(bad)} of {len(outcomes)} jobs done")
    for name, outcome in bad:
        tell(f"{name}: {outcome.reason}" if name else str(outcome.reason))
    return max((outcome.code for _, outcome in bad), default=0)
