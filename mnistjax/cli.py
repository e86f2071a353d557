"""The command `mnistjax`: a Hydra app, and observers wired to `fit`; the only room that imports hydra.

Everything is composed, validated and planned before any folder is made, Hydra's own included.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import logging
import os
import platform
import shlex
import signal
import sys
import time
import tomllib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mnistjax import records
from mnistjax.compose import Settings, differing_keys, flatten, label, plan_run, read_settings, unknown_key
from mnistjax.config import ConfigError, Plan, conf_dir, unknown
from mnistjax.data import Dataset, load_data
from mnistjax.progress import relative, show_banner, show_progress, show_results, tell
from mnistjax.tracking import resolve_mode

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mnistjax.tracking import Examples
    from mnistjax.train import Moment, Result

SAVE_SECONDS = 5.0  # of training between two checkpoints; a segment, about a second, may come on top
TABLES = {  # group -> (module of its open table, its names, the options of one, their entry points)
    "data": ("mnistjax.data", "list_datasets", None, "mnistjax.datasets"),
    "model": ("mnistjax.models", "list_models", "model_options", "mnistjax.models"),
    "optimizer": ("mnistjax.optim", "list_optimizers", "optimizer_options", "mnistjax.optimizers"),
}
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
    wandb: tuple[str, str | None]  # online, offline or disabled; what is to be told about it


class Outcome(NamedTuple):
    code: int  # the exit code
    reason: str | None = None  # why, unless done


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
    flags = [word for word in argv if word not in args.overrides]
    if args.shell_completion or args.hydra_help:
        return call_hydra([*args.overrides, *flags])
    with composing():
        if args.help or args.cfg or args.info:
            compose(args.overrides)
            jobs = None
        else:
            cfg = compose(base_overrides(args.overrides) if args.multirun else args.overrides)
            multirun = args.multirun or str(cfg.hydra.mode) == "RunMode.MULTIRUN"
            jobs = prepare_jobs(expand(args.overrides, cfg) if multirun else [args.overrides])
            words = postpone(args.overrides) if multirun else args.overrides
    if jobs is None:
        return call_hydra([*args.overrides, *flags])
    if multirun:
        return run_sweep(jobs, [*words, "--multirun"])
    return run_single(jobs[0], Path(cfg.hydra.run.dir), words)


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
    """Gives every row of the open tables that has no file in conf/ a config of its options' defaults.

    A table is read only where someone may have added to it, because that imports JAX.
    """
    from hydra.core.config_store import ConfigStore

    for group, (module, names, options, entry_points) in TABLES.items():
        if module not in sys.modules and not importlib.metadata.entry_points(group=entry_points):
            continue
        room = importlib.import_module(module)
        for name in getattr(room, names)():
            if not (conf_dir() / group / f"{name}.yaml").exists():
                defaults = getattr(room, options)(name) if options else {}
                node = {key: _plain(value) for key, value in defaults.items() if _is_plain(value)}
                ConfigStore.instance().store(group=group, name=name, node={"name": name, **node})


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _is_plain(value: Any) -> bool:
    """Whether YAML can hold it; an option that it can't hold keeps its default."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, float, int, str)


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
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    broken = [word for word in overrides if word.startswith("=")]
    if isinstance(error, OverrideParseException) or broken:
        word = getattr(error, "override", *broken[:1])
        return ConfigError(f"{word!r} can't be read; write KEY=VALUE, like train.epochs=5")
    loader, choices, others = GlobalHydra.instance().config_loader(), [], []
    for override in OverridesParser.create(loader).parse_overrides(overrides):
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
    """The overrides that decide how a sweep is made: Hydra's own and the experiment."""
    parsed = parse_overrides(overrides)
    own = [o for o in parsed if o.is_hydra_override() or o.key_or_group == "experiment"]
    return [o.input_line for o in own if not o.is_sweep_override()]


def expand(overrides: list[str], base: DictConfig) -> list[list[str]]:
    """The overrides of each job of a sweep, as Hydra's own sweeper will make them.

    None where another sweeper chooses them while it runs: those jobs are validated one by one.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf

    if base.hydra.sweeper._target_ != BasicSweeperConf._target_:
        return []
    params = [f"{key}={value}" for key, value in (base.hydra.sweeper.get("params") or {}).items()]
    parsed = parse_overrides([*params, *overrides])
    own = [o.input_line for o in parsed if o.is_hydra_override()]
    task = [o for o in parsed if not o.is_hydra_override()]
    return [[*own, *job] for job in BasicSweeper.split_arguments(task, None)[0]]


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
        config = OmegaConf.to_container(task, resolve=resolve, throw_on_missing=resolve)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def prepare_jobs(overrides: list[list[str]]) -> list[Job]:
    """The validated jobs of these overrides; an error names its job where there are several.

    Only when all are valid is anything shown: what a data set or W&B must tell first.
    """
    load, modes, jobs = functools.cache(load_data), functools.cache(resolve_mode), []
    for number, words in enumerate(overrides):
        try:
            jobs.append(prepare_job(compose(words), words, load, modes))
        except ConfigError as error:
            if len(overrides) == 1:
                raise
            raise ConfigError(f"job {number} ({' '.join(words)}): {error}") from None
    for banner in {job.dataset.banner for job in jobs if job.dataset.banner}:
        show_banner(banner)
    for line in {job.wandb[1] for job in jobs if job.wandb[1]}:
        tell(line)
    return jobs


def prepare_job(
    cfg: DictConfig, overrides: list[str], load: Callable[..., Dataset], modes: Callable[[str], tuple]
) -> Job:
    """The validated job of a composed config."""
    config = to_plain_config(cfg, resolve=True)
    settings = read_settings(config)
    source = settings["data.name"], settings["data.dir"], settings["data.raw_dir"]
    dataset = label(load(source[0], data_dir=source[1], raw_dir=source[2]), settings)
    plan = plan_run(settings, dataset)
    return Job(overrides, config, settings, dataset, plan, modes(settings["wandb.mode"]))


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


def run_single(job: Job, folder: Path, overrides: list[str]) -> int:
    """The exit code of one run, in its folder or, with resume=true, in that of the run it continues."""
    given = any(word.lstrip("+").startswith("hydra.run.dir=") for word in overrides)
    if job.settings["resume"] and not given:
        folder = records.find_unfinished("outputs", job.plan.identity) or folder
    folder, outcomes = folder.absolute(), []
    if outcome := find_outcome(job, folder):
        return report([("", outcome)])
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    try:
        with records.lock(folder):
            start = restore(job.plan, folder)
            code = call_hydra(
                [*overrides, f"hydra.run.dir='{quoted}'"],
                lambda cfg: outcomes.append(("", train_job(job, folder, start))),
            )
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror or error}") from error
    return report(outcomes) if outcomes else code


def run_sweep(jobs: list[Job], argv: list[str]) -> int:
    """The exit code of the runs of a sweep, one after the other; an interrupt ends them all."""
    from hydra.core.hydra_config import HydraConfig

    waiting, outcomes = iter(jobs), []

    def task(cfg: DictConfig) -> None:
        node = HydraConfig.get()
        words, folder = list(node.overrides.task), Path(node.runtime.output_dir)
        print(f"job {node.job.num}: {' '.join(words)}", flush=True)
        try:
            job = next(waiting, None) or prepare_job(cfg, words, load_data, resolve_mode)
            with records.lock(folder):
                outcome = find_outcome(job, folder) or train_job(job, folder, restore(job.plan, folder))
        except ConfigError as error:
            outcome = Outcome(2, str(error))
        outcomes.append((f"job {node.job.num} ({' '.join(words)})", outcome))
        if outcome.code > 128:
            raise KeyboardInterrupt

    try:
        code = call_hydra(argv, task)
    except KeyboardInterrupt:
        report(outcomes)
        return outcomes[-1][1].code if outcomes and outcomes[-1][1].code > 128 else 130
    return max(code, report(outcomes))


def report(outcomes: list[tuple[str, Outcome]]) -> int:
    """The exit code of all jobs together; tells the reason of each that is not done."""
    bad = [(name, outcome) for name, outcome in outcomes if outcome.code]
    if len(outcomes) > 1:
        tell(f"{len(outcomes) - len(bad)} of {len(outcomes)} jobs done")
    for name, outcome in bad:
        tell(f"{name}: {outcome.reason}" if name else str(outcome.reason))
    return max((outcome.code for _, outcome in bad), default=0)


def find_outcome(job: Job, folder: Path) -> Outcome | None:
    """The outcome of the run in the folder where it is over; else None.

    ConfigError where the folder holds another run, or this one and `resume` is not set.
    """
    import yaml

    status = records.read_status(folder)
    if status is None:
        return None
    place, state = relative(folder), status["status"]
    if not job.settings["resume"]:
        raise ConfigError(
            f"{place} holds a run already ({state}); resume=true goes on with it, or choose another folder"
        )
    if status["identity"] != job.plan.identity:
        there = yaml.safe_load((folder / records.CONFIG).read_text())
        keys = differing_keys(job.config, there) or ["the data's SHA-256"]
        raise ConfigError(f"{place} holds another run; what differs: {', '.join(keys)}")
    if state == "done":
        print(f"{place} is done already; nothing changed")
        return Outcome(0)
    return Outcome(1, f"{place}: diverged, {status['reason']}") if state == "diverged" else None


class Start(NamedTuple):
    """Where a run begins."""

    started: str  # ISO 8601, of its first process
    snapshot: dict[str, Any] | None  # None at the very beginning
    rows: list[dict[str, Any]]


def restore(plan: Plan, folder: Path) -> Start:
    """Where the run in the folder goes on: at its checkpoint, with the rows up to there."""
    import jax

    from mnistjax.train import init, variables_of

    status = records.read_status(folder)
    if status is None:
        return Start(now(), None, [])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checkpoint = records.load_checkpoint(folder)
    for warning in caught:
        tell(f"warning: {warning.message}")
    records.truncate_rows(folder, int(checkpoint.meta["epoch"]) if checkpoint else 0)
    if checkpoint is None:
        return Start(status["started"], None, [])
    state = init.eval_shape(plan.spec, plan.hyper, jax.random.key(plan.seed))
    kept = any(name.startswith("best/") for name in checkpoint.arrays)
    template = {"state": state, "best": variables_of(state) if kept else None}
    snapshot = records.unflatten(template, checkpoint.arrays)
    return Start(status["started"], snapshot, records.read_rows(folder))


def train_job(job: Job, folder: Path, start: Start) -> Outcome:
    """The outcome of a run trained to its end or to a signal, with its records, progress and results."""
    from rich.console import Console

    from mnistjax.tracking import Tracker
    from mnistjax.train import fit

    plan, wandb, console = job.plan, job.settings, Console()
    recorder = Recorder(folder, plan, start.started)
    run_id = hashlib.sha256(f"{plan.identity} {start.started}".encode()).hexdigest()[:16]
    options = {key: wandb[f"wandb.{key}"] for key in ("project", "entity", "tags")}
    status, code, reason, summary, examples = "failed", 1, None, None, None
    recorder.open(job.config, len(start.rows))
    tracker = Tracker(folder, config=job.config, run_id=run_id, mode=job.wandb[0], tell=tell, **options)
    print(describe_job(job, folder, start), flush=True)
    with stop_signals() as received:
        try:
            with show_progress(console) as progress:
                result = fit(
                    plan.spec,
                    plan.hyper,
                    seed=plan.seed,
                    data=job.dataset,
                    stopping=plan.stopping,
                    snapshot=start.snapshot,
                    rows=start.rows,
                    observers=[recorder, tracker, progress],
                    stop=lambda: bool(received),
                )
            status, reason = result.status, result.reason
            if status == "done":
                summary = summarize_job(job, result)
                examples = None if job.wandb[0] == "disabled" else pick_examples(job, result)
            recorder.close(status, reason, summary)
            code = {"done": 0, "diverged": 1, "interrupted": 128 + (received or [0])[0]}[status]
        except KeyboardInterrupt:
            status, reason, code = "interrupted", "stopped at once", 128 + received[0]
            recorder.close(status, reason)
        except Exception as error:  # a failed run must never look finished
            log.exception("the run failed")
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            recorder.close(status, reason)
            reason = f"failed: {reason} (see {relative(folder / 'mnistjax.log')})"
        tracker.finish(status, summary, examples=examples)
    if summary:
        show_results(console, summary, job.dataset.class_names, find_places(folder, tracker.address))
    if status == "interrupted":
        reason = f"{reason}; to go on: {resume_command(job, folder)}"
    return Outcome(code, reason)


class Recorder:
    """An observer that keeps the run folder. What a full disk refuses is told once and tried again."""

    def __init__(self, folder: Path, plan: Plan, started: str) -> None:
        self._folder, self._plan, self._started = folder, plan, started
        self._waiting: list[dict[str, Any]] = []  # rows that the disk refused
        self._saved = time.monotonic()  # seconds on the clock
        self._epoch, self._told = 0, False

    def open(self, config: dict[str, Any], epoch: int) -> None:
        """The folder says that the run is on."""
        from omegaconf import OmegaConf

        self._epoch = epoch
        if records.read_status(self._folder) is None:
            records.write_config(self._folder, OmegaConf.to_yaml(OmegaConf.create(config)))
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

    def close(
        self, status: records.Status, reason: str | None, summary: dict[str, Any] | None = None
    ) -> None:
        """The folder says how the run ended."""
        try:
            self._write_rows()
            if summary is not None:
                records.write_summary(self._folder, summary)
            self._write_status(status, reason=reason, ended=now())
        except OSError as error:
            if status == "done":
                raise
            tell(f"warning: {self._folder}: {error}")

    def _write_rows(self) -> None:
        while self._waiting:
            records.append_row(self._folder, self._waiting[0])
            del self._waiting[0]

    def _write_status(self, status: records.Status, **more: Any) -> None:
        identity = self._plan.identity
        records.write_status(
            self._folder, status, identity=identity, epoch=self._epoch, started=self._started, **more
        )


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
    return {
        **{f"test/{name}": value for name, value in result.test.items()},
        "kept_epoch": result.kept_epoch,
        "seconds_per_epoch": result.seconds_per_epoch,
        "compile_seconds": result.compile_seconds,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(result.variables["params"])),
        "data": data | ({"banner": dataset.banner} if dataset.banner else {}),
        "spec": plan.spec,
        "hyper": plan.hyper,
        "stopping": plan.stopping,
        "seed": plan.seed,
        "identity": plan.identity,
        "versions": {
            "python": platform.python_version(),
            "mnistjax": find_version(),
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
        "device": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
            "cores": os.cpu_count(),
        },
    }


def pick_examples(job: Job, result: Result) -> Examples:
    """The test images with the kept model's probabilities."""
    from mnistjax.tracking import Examples
    from mnistjax.train import predict

    test = job.dataset.test
    probabilities = predict(job.plan.spec, result.variables, test.images)
    return Examples(test.images, test.labels, probabilities, job.dataset.class_names)


def describe_job(job: Job, folder: Path, start: Start) -> str:
    """One line: what is trained on what, and where the records go."""
    spec, dataset = job.plan.spec, job.dataset
    counts = " + ".join(f"{len(part.images):,}" for part in (dataset.train, dataset.val, dataset.test))
    at = f", going on after epoch {len(start.rows)}" if start.snapshot else ""
    return f"{spec.model} on {dataset.name} ({counts} images), {spec.optimizer}{at} -> {relative(folder)}"


def find_places(folder: Path, wandb_address: str | None) -> dict[str, str]:
    """Where everything lies, by name."""
    places = {"run folder": relative(folder)}
    if wandb_address and wandb_address.startswith("http"):
        places["W&B"] = wandb_address
    elif wandb_address:
        places["W&B"] = f"offline; to upload: wandb sync {shlex.quote(relative(Path(wandb_address)))}"
    return places


def resume_command(job: Job, folder: Path) -> str:
    """The command that goes on with a stopped run."""
    own = ("hydra.run.dir=", "hydra.sweep.dir=", "resume=")
    words = [word for word in job.overrides if not word.lstrip("+").startswith(own)]
    return shlex.join(["mnistjax", *words, f"hydra.run.dir={relative(folder)}", "resume=true"])


def find_version() -> str:
    """The version of this package, installed or not."""
    try:
        return importlib.metadata.version("mnistjax")
    except importlib.metadata.PackageNotFoundError:  # a bare checkout
        return tomllib.loads((conf_dir().parent / "pyproject.toml").read_text())["project"]["version"]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
