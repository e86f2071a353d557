"""Overrides -> resolved configs -> validated jobs with their data, for one run or many."""

from __future__ import annotations

import copy
from typing import Any

from mnistjax.backend import prepare_backend
from mnistjax.cli.overrides import compose, parse_overrides, to_plain_config
from mnistjax.compose import Settings, flatten, label, load, plan_run, read_settings
from mnistjax.config import ConfigError
from mnistjax.data import Dataset
from mnistjax.job import Job
from mnistjax.progress import show_banner, tell
from mnistjax.tracking import resolve_mode


def prepare_jobs(overrides: list[list[str]]) -> list[Job]:
    """The validated jobs of these overrides. If there are several, an error names its job.

    Warnings of the data sets and of W&B are shown once, after all jobs were found valid.
    """
    composer, prepare, jobs = Composer(), Preparer(), []
    for number, words in enumerate(overrides):
        try:
            jobs.append(prepare(composer(words), words))
        except ConfigError as error:
            if len(overrides) == 1:
                raise
            raise ConfigError(f"job {number} ({' '.join(words)}): {error}") from None
    prepare.announce()
    return jobs


class Preparer:
    """Makes validated jobs from resolved configs. Jobs with the same data share one copy of it."""

    def __init__(self) -> None:
        self._datasets: dict[tuple[Any, ...], Dataset] = {}
        self._modes: dict[str, str] = {}  # of W&B: what was asked for -> what it is
        self._warnings: list[str] = []

    def __call__(self, config: dict[str, Any], words: list[str]) -> Job:
        """The validated job of a resolved config and its overrides."""
        settings = read_settings(config)
        dataset = self._load(settings)
        prepare_backend()
        plan = plan_run(settings, dataset)
        return Job(
            overrides=words,
            config=config,
            settings=settings,
            dataset=dataset,
            plan=plan,
            wandb_mode=self._mode(settings["wandb.mode"]),
        )

    def announce(self) -> None:
        """Shows the banners of the data sets, and says if W&B is offline."""
        for banner in dict.fromkeys(dataset.banner for dataset in self._datasets.values() if dataset.banner):
            show_banner(banner)
        for line in self._warnings:
            tell(line)

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
            self._modes[asked], warning = resolve_mode(asked)
            self._warnings += [warning] if warning else []
        return self._modes[asked]


class Composer:
    """Composes the configs of many jobs: once for each choice of groups, then plain values on a copy.

    Hydra takes about 0.1 s for a composition; jobs that differ only in plain values take under 1 ms.
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
        return to_plain_config(compose(words), resolve=True)  # raises Hydra's error, if there is one

    def _plain(self, word: str) -> Any:
        """The override if it sets a plain value: KEY=VALUE, neither a group nor a key of Hydra's."""
        from hydra.core.global_hydra import GlobalHydra

        if word not in self._parsed:
            (override,) = parse_overrides([word])
            groups = GlobalHydra.instance().config_loader().get_group_options(override.key_or_group)
            changes = not (override.is_add() or override.is_delete() or override.is_sweep_override())
            plain = changes and not groups and not override.is_hydra_override()
            self._parsed[word] = override if plain else None
        return self._parsed[word]


def replace_value(config: dict[str, Any], key: str, value: Any) -> bool:
    """Sets a plain value in a resolved config if it has the key, and returns whether it did."""
    *path, last = key.split(".")
    for name in path:
        config = config.get(name, {}) if isinstance(config, dict) else {}
    leaf = isinstance(config, dict) and last in config and not isinstance(config[last], dict)
    special = isinstance(value, dict) or any(mark in str(value) for mark in ("${", "???"))
    if leaf and not special:
        config[last] = value
        return True
    return False
