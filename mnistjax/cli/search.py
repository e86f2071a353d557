"""Search: sweepers that draw configurations, and repeat each over its seeds.

`hydra/sweeper=sobol` and `random` draw all trials at once, so they are validated and planned like a grid;
`tpe` draws them in batches from the results so far.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from mnistjax.checks import check_value, whole
from mnistjax.config import ConfigError, badness, shorten

MOST_DRAWS = 16  # for each trial, until enough of them differ
DIGITS = 4  # significant, of a number from an interval
TAGS = {"log", "int"}
DRAWN = ("sobol", "random")  # methods that draw all trials at once
OPTIONS = {"trials": whole(1), "seed": whole(0), "batch": whole(1)}


@dataclass(frozen=True)
class Dimension:
    """A key whose values are searched: some words, or an interval of numbers."""

    key: str
    words: tuple[str, ...] = ()  # KEY=VALUE, of a choice or a range
    ordered: bool = False  # whether the words are of a range
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def word(self, place: float) -> str:
        """The word at a place in [0, 1) of the dimension."""
        if self.words:
            return self.words[int(place * len(self.words))]
        low, high = self.low, self.high + self.whole  # a whole number has as much room as any other
        value = low * (high / low) ** place if self.log else low + (high - low) * place
        return self.show(math.floor(value) if self.whole else value)

    def show(self, value: float) -> str:
        """The word of a number, rounded to DIGITS digits inside the interval."""
        if not self.whole:
            value = min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)
        return f"{self.key}={value}"


@dataclass(frozen=True)
class Space:
    """The words of a search in their order: dimensions, and lists of words, which each trial has all of."""

    parts: tuple[Dimension | tuple[str, ...], ...]

    @property
    def dimensions(self) -> list[Dimension]:
        return [part for part in self.parts if isinstance(part, Dimension)]

    def jobs(self, words: Sequence[str]) -> list[list[str]]:
        """The overrides of the jobs of a trial, given by a word for each dimension."""
        left = iter(words)
        lists = [(next(left),) if isinstance(part, Dimension) else part for part in self.parts]
        return [list(job) for job in itertools.product(*lists)]


def read_space(overrides: Sequence[Any]) -> Space:
    """The space of parsed overrides; ConfigError if it has no dimension or a wrong one."""
    parts: dict[str, Dimension | tuple[str, ...]] = {}
    for o in overrides:
        key, shown = o.get_key_element(), shorten(o.input_line)
        if not o.is_sweep_override():
            parts[key] = (f"{key}={o.get_value_element_as_str()}",)
        elif o.is_interval_sweep():
            parts[key] = read_interval(key, o.value(), shown)
        else:
            if tags := getattr(o.value(), "tags", None):
                raise ConfigError(f"{shown}: {', '.join(sorted(tags))} is for interval(...) only")
            words = tuple(f"{key}={value}" for value in o.sweep_string_iterator())
            listed = key == "seed" or len(words) == 1
            parts[key] = words if listed else Dimension(key, words, o.is_range_sweep())
    space = Space(tuple(parts.values()))
    if not space.dimensions:
        raise ConfigError(
            "a search needs a key to search, such as 'optimizer.learning_rate=tag(log,interval(1e-4,1e-1))'"
        )
    return space


def read_interval(key: str, value: Any, shown: Any) -> Dimension:
    """The dimension of an interval; ConfigError if it is empty, or if its tags are wrong."""
    if key == "seed":
        raise ConfigError(f"{shown}: seeds repeat each trial, so they are listed: seed=0,1,2")
    if unknown := value.tags - TAGS:
        raise ConfigError(f"{shown}: unknown tag {min(unknown)!r} (allowed: {', '.join(sorted(TAGS))})")
    low, high, log = value.start, value.end, "log" in value.tags
    is_whole = "int" in value.tags or (type(low) is int and type(high) is int)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{shown}: an interval goes from a number to a larger one")
    if log and low <= 0:
        raise ConfigError(f"{shown}: a logarithmic interval is above 0")
    if is_whole and (low != int(low) or high != int(high)):
        raise ConfigError(f"{shown}: an interval of whole numbers has whole ends")
    number = int if is_whole else float
    return Dimension(key, low=number(low), high=number(high), log=log, whole=is_whole)


def draw(space: Space, method: str, trials: int, seed: int) -> list[list[str]]:
    """The overrides of all jobs of a Sobol or random search; fewer trials if the space has no more.

    Sobol: a scrambled sequence, of which each beginning fills the space evenly. Other searches: none, because
    they choose while they run.
    """
    if method not in DRAWN:
        return []
    known: dict[tuple[str, ...], None] = {}
    for point in itertools.islice(_points(method, len(space.dimensions), seed), MOST_DRAWS * trials):
        words = [one.word(place) for one, place in zip(space.dimensions, point, strict=True)]
        known.setdefault(tuple(words))
        if len(known) == trials:
            break
    return [job for words in known for job in space.jobs(words)]


def _points(method: str, dimensions: int, seed: int) -> Iterator[Sequence[float]]:
    """Points of the unit cube, without end."""
    import numpy as np
    from scipy.stats import qmc

    generator = np.random.default_rng(seed)
    if method == "random":
        while True:
            yield generator.random(dimensions).tolist()
    sampler = qmc.Sobol(dimensions, scramble=True, rng=generator)
    while True:
        yield from sampler.random(1).tolist()


class SearchSweeper(Sweeper):
    """Draws trials and gives their jobs to the launcher."""

    method: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self, trials: int, seed: int, params: Mapping[str, str] | None = None, batch: int | None = None
    ) -> None:
        self.trials, self.seed, self.batch = trials, seed, batch or trials

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.config: Any = config
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from mnistjax.cli.overrides import parse_jobs

        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        self.search(read_space(parse_jobs(arguments, self.config)))

    def search(self, space: Space) -> None:
        """Launches the jobs of all trials."""
        self.launcher.launch(draw(space, self.method, self.trials, self.seed), 0)


class SobolSweeper(SearchSweeper):
    """A scrambled Sobol sequence."""

    method = "sobol"


class RandomSweeper(SearchSweeper):
    """Independent random points."""

    method = "random"


class TpeSweeper(SearchSweeper):
    """Optuna's tree-structured Parzen estimator, in batches."""

    method = "tpe"
    defaults: ClassVar[Mapping[str, Any]] = {"batch": 8}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self.seed, constant_liar=True)
        self._study = optuna.create_study(sampler=sampler)
        self._states = optuna.trial.TrialState

    def search(self, space: Space) -> None:
        """Launches batches of trials; those of a batch are drawn as if the others had ended badly."""
        monitor, count = self.config.train.monitor, 0
        for start in range(0, self.trials, self.batch):
            batch = [self._study.ask() for _ in range(min(self.batch, self.trials - start))]
            jobs = [space.jobs([self._suggest(trial, one) for one in space.dimensions]) for trial in batch]
            words = [job for trial in jobs for job in trial]
            returns = iter(self.launcher.launch(words, count))
            count += len(words)
            for trial, own in zip(batch, jobs, strict=True):
                value = badness(monitor, statistics.fmean(float(next(returns).return_value) for _ in own))
                value = math.inf if math.isnan(value) else value  # a job failed
                if pauses := [epochs for job in own if (epochs := self._find_pause(job))]:
                    trial.report(value, min(pauses))
                    self._study.tell(trial, state=self._states.PRUNED)
                else:
                    self._study.tell(trial, value)

    def _find_pause(self, words: list[str]) -> int | None:
        """The epochs after which a job of ours was stopped at a rung; None if it was not."""
        sweep = getattr(self.launcher, "sweep", None)
        return sweep.find_pause(words) if sweep else None

    def _suggest(self, trial: Any, one: Dimension) -> str:
        """The word of a dimension that Optuna draws."""
        if one.ordered:
            return one.words[trial.suggest_int(one.key, 0, len(one.words) - 1)]
        if one.words:
            return trial.suggest_categorical(one.key, one.words)
        suggest = trial.suggest_int if one.whole else trial.suggest_float
        return one.show(suggest(one.key, one.low, one.high, log=one.log))


SWEEPERS = {sweeper.method: sweeper for sweeper in (SobolSweeper, RandomSweeper, TpeSweeper)}
DEFAULTS = {"trials": 32, "seed": 0, "params": None}


def check_search(sweeper: Any) -> str | None:
    """The method of the node of a sweeper of ours, None for another one; ConfigError if it can't be used."""
    target = sweeper._target_
    method = next((name for name, one in SWEEPERS.items() if target.endswith(f".{one.__name__}")), None)
    for name, check in OPTIONS.items() if method else ():
        if name in sweeper:
            check_value(f"hydra.sweeper.{name}", sweeper[name], check)
    if method == "tpe" and not importlib.util.find_spec("optuna"):
        raise ConfigError('hydra/sweeper=tpe needs optuna: pip install "mnistjax[tpe]"')
    return method
