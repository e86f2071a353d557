"""The launcher of `mnistjax -m`: connects Hydra to our sweep.

Hydra expects a launcher in a module under `hydra_plugins`. The command registers ours under such a name, so
that it works from a wheel, an editable install and a bare checkout.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from mnistjax.cli.overrides import parse_overrides, to_plain_config
from mnistjax.cli.prepare import Preparer
from mnistjax.cli.search import DEFAULTS, SWEEPERS
from mnistjax.cli.stored import find_auto
from mnistjax.files import describe
from mnistjax.progress import tell
from mnistjax.signals import stop_signals
from mnistjax.sweeps.events import JobEnded
from mnistjax.sweeps.ledger import ENDED_WELL

if TYPE_CHECKING:
    from mnistjax.sweeps.run import Sweep

log = logging.getLogger("mnistjax")
LOG_FILE = "mnistjax.progress.LogFile"  # a handler whose file exists only if it has a message
MOST_TEXTS = 10_000  # pieces of YAML that are remembered; a job has about five of its own


class FusedLauncher(Launcher):
    """Trains all jobs of a launch together. As each ends, Hydra writes its `.hydra/` and calls callbacks.

    A job returns its monitored validation metric to the sweeper; NaN if it failed.
    """

    sweep: Sweep  # set by the command

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config
        self._shared = OmegaConf.masked_copy(config, ["hydra"])
        OmegaConf.copy_cache(from_config=config, to_config=self._shared)
        plain: Any = OmegaConf.to_container(self._shared.hydra, enum_to_str=True)
        self._hydra: dict[str, Any] = plain
        self._texts: dict[tuple[Any, ...], str] = {}  # path and repr of a value -> its YAML
        self._prepare = Preparer(find_auto(self.sweep.ledger))
        loader = hydra_context.config_loader
        self._load: Callable[..., DictConfig] = loader.load_sweep_config
        # The sweeper composes each job to check it, in 0.13 s. The command has done that already.
        loader.load_sweep_config = self._load_unless_known

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        numbers, returns = [self._number(list(words)) for words in job_overrides], {}
        for end in train(self.sweep):
            returns[end.number] = self._run_hydra(end)
        for number in numbers:
            if number not in returns:
                end = self.sweep.read_end(number)
                written = (self.sweep.jobs[number].folder / (self._hydra["output_subdir"] or "")).exists()
                returns[number] = (
                    finished(end) if written and end.status in ENDED_WELL else self._run_hydra(end)
                )
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        return [returns[number] for number in numbers]

    def _load_unless_known(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        known = tuple(sweep_overrides) in self.sweep.numbers
        return master_config if known else self._load(master_config, sweep_overrides)

    def _number(self, words: list[str]) -> int:
        """Returns the number of the job of these overrides; composes and adds the job if it is new."""
        if tuple(words) not in self.sweep.numbers:
            config = to_plain_config(self._load(self._config, words))
            self.sweep.add(self._prepare(config, words), words)
        return self.sweep.numbers[tuple(words)]

    def _find_changes(self, number: int) -> dict[str, Any]:
        """The values of Hydra's node that differ between jobs, for one job."""
        task, choices = self.sweep.jobs[number].config, self._hydra["runtime"]["choices"]
        words = self.sweep.ledger.entries[number].overrides
        overrides = parse_overrides(words)
        chosen = {o.key_or_group: o.value() for o in overrides if o.key_or_group in choices} | {
            group: task[group]["name"]
            for group in choices
            if isinstance(task.get(group), dict) and "name" in task[group]
        }
        name = get_overrides_dirname(overrides, **self._hydra["job"]["config"]["override_dirname"])
        return {
            "overrides": {"task": words},
            "job": {"id": str(number), "num": number, "override_dirname": name},
            "runtime": {"choices": chosen},
        }

    def _job_config(self, number: int) -> DictConfig:
        """The config of a job with Hydra's node, equal to one composed by Hydra.

        Hydra copies it, so all jobs share one config, which is changed from one job to the next.
        """
        task, config = self.sweep.jobs[number].config, self._shared
        with read_write(config), open_dict(config):
            for key in config.keys() - {"hydra"}:
                del config[key]
            config.update(task)
            with read_write(config.hydra), open_dict(config.hydra):
                update(config.hydra, self._find_changes(number))
        return config

    def _run_hydra(self, end: JobEnded) -> JobReturn:
        """Runs Hydra's part of a job that has ended: `.hydra/`, its log, its callbacks."""

        def task(_: DictConfig) -> float:
            if end.status not in ENDED_WELL:
                log.error("%s: %s%s", end.status, end.reason, f"\n{end.traceback}" if end.traceback else "")
                raise JobFailed(end.reason)
            return float("nan") if end.value is None else end.value

        try:
            if end.status in ENDED_WELL and self._is_silent:
                self._write_files(end.number)
                return finished(end)
            result = run_job(
                hydra_context=self._context,
                task_function=task,
                config=self._job_config(end.number),
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            result.cfg = result.hydra_cfg = None  # 0.1 MB each, and no sweeper reads them
        except OSError as error:  # a full disk; the run's own files are complete, or the job has failed
            if not self.sweep.refused:
                tell(f"warning: {describe(error, self.sweep.ledger.folder)}; Hydra's files are incomplete")
            self.sweep.refused = True
            result = finished(end)
            if end.status not in ENDED_WELL:
                result.status, result.return_value = JobStatus.FAILED, JobFailed(end.reason)
        return result if result.status == JobStatus.COMPLETED else FailedReturn(**vars(result))

    @functools.cached_property
    def _is_silent(self) -> bool:
        """Whether Hydra would only write `.hydra/` for a job that ended well.

        True without callbacks, if no handler makes a log without a message, and if `hydra.output_subdir` has
        no interpolation.
        """
        node = OmegaConf.to_container(self._config.hydra.job_logging) or {}
        handlers = cast(dict[str, Any], node).get("handlers", {})
        ours = all(handler.get("class") == LOG_FILE for handler in handlers.values())
        plain = "${" not in str(self._hydra["output_subdir"])
        return ours and plain and not self._context.callbacks.callbacks

    def _write_files(self, number: int) -> None:
        """Writes `.hydra/` as `run_job` does, but faster, because it does not copy the config four times."""
        hydra, folder = self._hydra, self.sweep.jobs[number].folder
        if hydra["output_subdir"] is None:
            return
        update(hydra, self._find_changes(number))
        hydra["runtime"]["output_dir"] = os.path.abspath(folder)
        place = folder / hydra["output_subdir"]
        place.mkdir(parents=True, exist_ok=True)
        texts = {
            "config.yaml": self._to_yaml(self.sweep.jobs[number].config),
            "hydra.yaml": self._to_yaml({"hydra": hydra}),
            "overrides.yaml": self._to_yaml(hydra["overrides"]["task"]) or "[]\n",
        }
        for name, text in texts.items():
            (place / name).write_text(text, "utf-8")

    def _to_yaml(self, content: Any, *path: Any) -> str:
        """`OmegaConf.to_yaml` of a mapping or a list, or of its lines at a path in a larger mapping.

        The text of a value that an earlier job had is not made again.
        """
        lines, mapping = [], isinstance(content, dict)
        for key, value in content.items() if mapping else enumerate(content):
            inside = mapping and isinstance(value, (dict, list)) and value
            place = (*path, key, "" if inside else repr(value))
            if place not in self._texts:
                whole: Any = {key: [None] if inside else value} if mapping else [value]
                for name in reversed(path):  # where a long text is folded depends on its depth
                    whole = {name: whole}
                made = OmegaConf.to_yaml(whole).splitlines(keepends=True)[len(path) :]
                if len(self._texts) >= MOST_TEXTS:
                    self._texts.clear()
                self._texts[place] = made[0] if inside else "".join(made)
            lines.append(self._texts[place])
            if inside:
                lines.append(self._to_yaml(value, *path, key))
        return "".join(lines)


def train(sweep: Sweep, *, progress: bool = True) -> Iterator[JobEnded]:
    """Trains the jobs that are not over and yields the end of each; KeyboardInterrupt after a signal."""
    from mnistjax.sweeps.view import show_sweep

    with stop_signals() as stop:
        jobs = sweep.prepare()
        with show_sweep(jobs, sweep.ledger, sweep.halving) if progress else nullcontext() as show:
            for event in sweep.run(stop):
                if show:
                    show(event)
                if isinstance(event, JobEnded):
                    yield event
    if stop.received:
        raise KeyboardInterrupt(stop.received[0])


def update(node: Any, changes: Mapping[str, Any]) -> None:
    """Sets these values in a nested mapping."""
    for key, value in changes.items():
        if isinstance(value, Mapping):
            update(node[key], value)
        else:
            node[key] = value


def finished(end: JobEnded) -> JobReturn:
    """The return of a job whose files in `.hydra/` are written already, or can't be written."""
    result = JobReturn(status=JobStatus.COMPLETED)
    result.return_value = float("nan") if end.value is None else end.value
    return result


class JobFailed(Exception):
    """A job of a sweep failed, diverged or was interrupted."""


class FailedReturn(JobReturn):
    """The return of a failed job. Its value is NaN; that of Hydra's class raises, which ends the sweep."""

    @property
    def return_value(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] (Hydra's raises)
        return float("nan")


@functools.cache  # Hydra 1.4 refuses to register a name twice
def register() -> None:
    """Registers the launcher as `hydra/launcher=fused`, and the sweepers of `mnistjax.cli.search`."""
    name = "hydra_plugins.mnistjax"
    plugins = (FusedLauncher, *SWEEPERS.values())
    try:
        package = importlib.import_module("hydra_plugins")  # exists if another plugin is installed
    except ModuleNotFoundError:
        package = sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
        package.__path__ = []
    sys.modules[name] = sys.modules[__name__]
    package.mnistjax = sys.modules[__name__]  # pyright: ignore[reportAttributeAccessIssue] (made here)
    for plugin in plugins:
        plugin.__module__ = name
        setattr(sys.modules[name], plugin.__name__, plugin)
        Plugins.instance().register(plugin)
    store = functools.partial(ConfigStore.instance().store, provider="mnistjax")
    store(group="hydra/launcher", name="fused", node={"_target_": f"{name}.FusedLauncher"})
    for method, sweeper in SWEEPERS.items():
        node = {"_target_": f"{name}.{sweeper.__name__}", **DEFAULTS, **sweeper.defaults}
        store(group="hydra/sweeper", name=method, node=node)
