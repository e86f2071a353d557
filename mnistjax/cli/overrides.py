"""KEY=VALUE words -> configs composed by Hydra, and one-line errors about wrong words."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.resources
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mnistjax.checks import check_value
from mnistjax.cli.hydra_support import lazy_help, version_base
from mnistjax.compose import SCHEMA, flatten, unknown_key
from mnistjax.config import ConfigError, one_line, shorten, to_plain, unknown
from mnistjax.files import describe
from mnistjax.words import explain_quotes

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

TABLES = {  # group -> module of its table, function that lists names, one that lists options, entry points
    "data": ("mnistjax.data", "list_datasets", None, "mnistjax.datasets"),
    "model": ("mnistjax.models", "list_models", "model_options", "mnistjax.models"),
    "optimizer": ("mnistjax.optim", "list_optimizers", "optimizer_options", "mnistjax.optimizers"),
}

MANY = 10**12  # jobs; an error says "over" this number instead of a larger one


def conf_dir() -> Path:
    """The folder of the YAML files: beside the package in a checkout, inside it in an installed wheel."""
    packaged = Path(str(importlib.resources.files("mnistjax"))) / "conf"
    return packaged if packaged.is_dir() else packaged.parents[1] / "conf"


def add_rows() -> None:
    """Registers with Hydra our launcher, and the rows of the open tables that have no file in conf/.

    A table is read only if someone may have added a row, because that imports JAX.
    """
    from hydra.core.config_store import ConfigStore

    from mnistjax.cli.launcher import register

    register()
    for group, (path, names, options, entry_points) in TABLES.items():
        if path not in sys.modules and not importlib.metadata.entry_points(group=entry_points):
            continue
        module = importlib.import_module(path)
        for name in getattr(module, names)():
            if not (conf_dir() / group / f"{name}.yaml").exists():
                defaults = getattr(module, options)(name) if options else {}
                node = {"name": name, **to_plain(defaults)}
                ConfigStore.instance().store(group=group, name=name, node=node)


@contextlib.contextmanager
def composing() -> Iterator[None]:
    """Sets up Hydra for `compose` inside; ConfigError for a value that can't be read there."""
    from hydra import initialize_config_dir
    from omegaconf.errors import OmegaConfBaseException

    add_rows()
    try:
        with initialize_config_dir(str(conf_dir()), job_name="mnistjax", **version_base()):
            yield
    except OmegaConfBaseException as error:
        raise explain_value(error) from None


def compose(overrides: list[str]) -> DictConfig:
    """The composed config with Hydra's node; ConfigError if an override is wrong."""
    import hydra

    try:
        return hydra.compose("config", overrides, return_hydra_config=True)
    except Exception as error:  # Hydra, OmegaConf, YAML and the parser raise many types
        raise explain(error, overrides) from None


@contextlib.contextmanager
def hydra_errors(folder: Path | None) -> Iterator[None]:
    """Turns errors of Hydra and of the disk inside into ConfigErrors; the latter name `folder`."""
    from hydra.errors import HydraException

    try:
        yield
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(describe(error, folder or os.curdir)) from error
    except (HydraException, ValueError) as error:
        raise ConfigError(" ".join(str(error).split())) from error


def call_hydra(
    argv: list[str], task: Callable[[DictConfig], Any] = lambda cfg: None, folder: Path | None = None
) -> int:
    """Runs Hydra's own command, which calls the task for each job; returns the exit code."""
    import hydra
    from hydra.core.utils import env_override

    before, sys.argv = sys.argv, [sys.argv[0], *argv]
    try:
        # With this variable Hydra raises errors instead of printing them.
        with hydra_errors(folder), lazy_help(), env_override({"HYDRA_FULL_ERROR": "1"}):
            hydra.main(config_path=str(conf_dir()), config_name="config", **version_base())(task)()
    except SystemExit as exit:
        return 2 if exit.code else 0
    finally:
        sys.argv = before
    return 0


def explain(error: Exception, overrides: list[str]) -> ConfigError:
    """The one-line error for an error of Hydra: about the first wrong override, else Hydra's own text."""
    import hydra

    for word in overrides:
        if word.startswith("="):
            return unreadable(word)
    choices, others = [word for word in overrides if word.startswith("hydra.searchpath=")], []
    complete = not choices  # whether `list_choices` knows all of them
    for override in parse_overrides(overrides):
        key, value, shown = override.key_or_group, override.value(), shorten(override.input_line)
        options = list_choices(key)
        if override.is_sweep_override():
            takes_list = key.startswith("model.") or (key in SCHEMA and SCHEMA[key].holds([]))
            one = f", or write {shorten(key)}=[...] for one run" if takes_list else ""
            return ConfigError(f"{shown} has several values; add -m for a run of each{one}")
        if options and not override.is_delete():
            if complete and not isinstance(value, (dict, list)) and str(value) not in options:
                return unknown(key, shorten(override.get_value_element_as_str()), options)
            if override.is_add():
                return ConfigError(f"{key} is already chosen; write {shown[1:]} without the +")
            choices.append(override.input_line)
        elif not override.is_hydra_override():
            others.append(override)
    with contextlib.suppress(Exception):  # if composing the choices alone fails, the error is not about a key
        known = [key for key, _ in flatten(to_plain_config(hydra.compose("config", choices), resolve=False))]
        for override in others:
            key = override.key_or_group
            if override.is_add() and key in known:
                return ConfigError(f"{key} already exists; write {shorten(override.input_line)[1:]}")
            if key not in known:
                return ConfigError(f"{unknown_key(key, known)}{suggest_choices(key)}")
    if any(word.lstrip("+").startswith("hydra.sweeper.params") for word in overrides):
        return ConfigError("hydra.sweeper.params is for files; write KEY=VALUES instead")
    lines = [*str(error).splitlines(), *str(error.__cause__ or "").splitlines()[:1]]
    return ConfigError(" ".join(lines[:1] + lines[-1:] if len(lines) > 1 else lines) or one_line(error))


def list_choices(key: str) -> list[str]:
    """The choices of a group, [] if the key is none. Hydra needs 7 ms for that, so the answer is cached."""
    from hydra.core.global_hydra import GlobalHydra

    return _list_choices(GlobalHydra.instance().config_loader(), key)


@functools.lru_cache(1000)
def _list_choices(loader: ConfigLoader, key: str) -> list[str]:
    return loader.get_group_options(key)


def unreadable(word: str) -> ConfigError:
    """The error for a word that Hydra's parser refuses."""
    return ConfigError(f"{shorten(word)!r} can't be read; {explain_quotes(word)}")


def suggest_choices(key: str) -> str:
    """The choices of the key's group that have this key, for an error; "" if there are none."""
    from omegaconf import OmegaConf

    group, _, option = key.partition(".")
    files = sorted((conf_dir() / group).glob("*.yaml"))
    owners = [f"{group}={file.stem}" for file in files if option in OmegaConf.load(file)]
    return f"; it is a key of {', '.join(owners)}" if owners else ""


def base_overrides(overrides: list[str]) -> list[str]:
    """The overrides that apply to a whole sweep: Hydra's own, sweep.* and the experiment."""
    own = []
    for o in parse_overrides(overrides):
        shared = o.key_or_group.startswith("sweep.") or o.is_hydra_override()
        if shared and o.is_sweep_override():
            raise ConfigError(f"{shorten(o.input_line)}: a sweep has only one {shorten(o.key_or_group)}")
        if shared or o.key_or_group == "experiment":
            own.append(o)
    return [o.input_line for o in own if not o.is_sweep_override()]


def expand(overrides: list[str], base: DictConfig) -> tuple[list[str], list[list[str]]]:
    """Hydra's own overrides, and the overrides of each job of a grid, or of a Sobol or random search.

    Another sweeper chooses its jobs while it runs. The list is empty then, and each job is validated later.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf

    from mnistjax.cli.search import check_search, draw, read_space

    sweeper, limit = base.hydra.sweeper, base.sweep.max_jobs
    own = [o.input_line for o in parse_overrides(overrides) if o.is_hydra_override()]
    task = parse_jobs(overrides, base)
    if method := check_search(sweeper):
        for o in task:
            if o.is_discrete_sweep():
                check_limit(count_values(o), limit)
        space = read_space(task)
        check_limit(sweeper.trials * len(space.jobs([""] * len(space.dimensions))), limit)
        return own, draw(space, method, sweeper.trials, sweeper.seed)
    if sweeper._target_ != BasicSweeperConf._target_:
        return own, []
    counts = {o.get_key_element(): count_values(o) for o in task}  # the last one of a key counts
    check_limit(math.prod(counts.values()), limit)
    return own, BasicSweeper.split_arguments(task, None)[0]


def parse_jobs(overrides: Sequence[str], base: DictConfig) -> list[Any]:
    """The parsed overrides of the jobs of a sweep, those of `hydra.sweeper.params` first."""
    params = base.hydra.sweeper.get("params") or {}
    parsed = parse_overrides([*(f"{key}={value}" for key, value in params.items()), *overrides])
    return [o for o in parsed if not o.is_hydra_override()]


def check_limit(jobs: int | float, limit: int) -> None:
    """Raises ConfigError if a sweep has more jobs than the limit."""
    if jobs > limit:
        shown = f"{jobs:,}" if jobs < MANY else f"over {MANY:,}"
        raise ConfigError(
            f"{shown} jobs are more than sweep.max_jobs={limit}; give fewer, or a larger sweep.max_jobs"
        )


def count_values(override: Any) -> int | float:
    """The number of an override's values, infinity for an endless range; ConfigError if it has none."""
    from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, RangeSweep

    value, shown = override.value(), shorten(override.input_line)
    match value:
        case RangeSweep(start=start, stop=stop, step=step):
            start, stop = start or 0, stop or 0
            ends = (start, stop, step)
            endless = step == 0 or any(isinstance(x, float) and not math.isfinite(x) for x in ends)
            count = math.inf if endless else math.ceil((Fraction(stop) - Fraction(start)) / Fraction(step))
        case ChoiceSweep():
            count = len(value.list)
        case Glob():
            count = sum(1 for _ in override.sweep_string_iterator())
        case IntervalSweep():
            raise ConfigError(f"{shown}: a grid has no interval; use range(...), or add hydra/sweeper=sobol")
        case _:
            return 1
    if count < 1:
        raise ConfigError(f"{shown} has no values, so there is no job")
    return count


def write_as_choices(overrides: list[str], base: DictConfig) -> list[str]:
    """The overrides of a sweep, with each plain value written as a choice of one, `choice(0.8)`.

    Hydra applies choices to the jobs only, but plain values also to the defaults. So it would refuse
    `-m optimizer=momentum,nesterov optimizer.momentum=0.8`, because the default optimizer has no momentum.
    Two values stay as they are: a text in quotes whose key is in the `base` config, because a choice loses
    the quotes, and null, because Hydra allows no choice of it.
    """
    words, known = [], {key for key, _ in flatten(to_plain_config(base, resolve=False))}
    for o in parse_overrides(overrides):
        fixed = o.is_hydra_override() or o.is_sweep_override() or o.is_delete()
        if not (fixed or list_choices(o.key_or_group)):
            text = o.get_value_element_as_str()
            if text != "null" and not (text.startswith(("'", '"')) and o.key_or_group in known):
                words.append(f"{o.get_key_element()}=choice({text})")
                continue
        words.append(o.input_line)
    return words


@functools.lru_cache(maxsize=1)
def make_parser(loader: Any) -> Any:
    """Hydra's parser of overrides, which takes 1 ms to make."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create(loader)


def parse_overrides(overrides: list[str]) -> list[Any]:
    """The parsed overrides; ConfigError for a word that is not KEY=VALUE."""
    from hydra.core.global_hydra import GlobalHydra

    loader = GlobalHydra.instance().config_loader()
    return [_parse(loader, word) for word in overrides]


@functools.lru_cache(10_000)  # the jobs of a sweep share most of their words
def _parse(loader: ConfigLoader, word: str) -> Any:
    try:
        (override,) = make_parser(loader).parse_overrides([word])
    except Exception:  # many types, such as Python's ValueError for a number of 5,000 digits
        raise unreadable(word) from None
    return override


def read_resume(cfg: DictConfig) -> str | None:
    """The sweep folder to resume, or None; ConfigError for a value that is no path."""
    resume = to_plain_config(cfg)["sweep"]["resume"]
    check_value("sweep.resume", resume, SCHEMA["sweep.resume"])
    return resume


def to_plain_config(cfg: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """The config as a dict, without Hydra's node; ConfigError for an interpolation without a target."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    try:
        return cast(dict[str, Any], OmegaConf.to_container(task, resolve=resolve, throw_on_missing=resolve))
    except OmegaConfBaseException as error:
        raise explain_value(error) from error


def explain_value(error: OmegaConfBaseException) -> ConfigError:
    """The one-line error for a value that is missing (???) or refers to no key (${KEY})."""
    return ConfigError(f"{error.full_key}: {shorten(str(error).splitlines()[0])}")
