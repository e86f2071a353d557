"""Overrides -> resolved configs -> validated jobs with their data, for one run or several."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from mnistjax.backend import prepare_backend
from mnistjax.cli.overrides import compose, list_choices, parse_overrides, to_plain_config
from mnistjax.compose import Settings, flatten, label, load, plan_run, read_settings, spell_numbers
from mnistjax.config import ConfigError, freeze
from mnistjax.data import Dataset
from mnistjax.job import Job
from mnistjax.progress import show_banner, tell
from mnistjax.tracking import resolve_mode


def prepare_jobs(overrides: list[list[str]], auto: str | None) -> list[Job]:
    """Returns the validated jobs of these overrides; shows warnings once, after all jobs are validated.

    With several jobs, an error names the job. `auto` as in `Preparer`.
    """
    composer, prepare, jobs = Composer(), Preparer(auto), []
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
    """Makes validated jobs from resolved configs. Jobs with the same data share one copy of it.

    `auto` is the data set that data=auto means, if the runs have begun already: MNIST can appear later. The
    config of a job has the name of its data set instead of "auto".
    """

    def __init__(self, auto: str | None = None) -> None:
        self._auto = auto
        self._datasets: dict[tuple[Any, ...], Dataset] = {}
        self._modes: dict[str, tuple[str, str | None]] = {}  # wandb.mode -> the resolved mode, a warning

    def __call__(self, config: dict[str, Any], words: list[str]) -> Job:
        """The validated job of a resolved config and its overrides."""
        settings = read_settings(config)
        config = spell_numbers(config, settings.choice)
        dataset = self._load(settings)
        if settings["data.name"] == "auto":
            config = {**config, "data": {**config["data"], "name": dataset.name}}
            settings = replace(settings, values={**settings.values, "data.name": dataset.name})
        prepare_backend()
        plan = plan_run(settings, dataset)
        mode = settings["wandb.mode"]
        if mode not in self._modes:
            self._modes[mode] = resolve_mode(mode)
        return Job(words, config, settings, plan, self._modes[mode][0], dataset)

    def announce(self) -> None:
        """Shows the banners of the data sets and the warnings of W&B."""
        for banner in dict.fromkeys(dataset.banner for dataset in self._datasets.values() if dataset.banner):
            show_banner(banner)
        for _, warning in self._modes.values():
            if warning:
                tell(warning)

    def _load(self, settings: Settings) -> Dataset:
        source = tuple(
            (key, freeze(value)) for key, value in settings.values.items() if key.startswith("data.")
        )
        if source not in self._datasets:
            self._datasets[source] = self._load_begun(settings)
        labelled = (*source, settings.values.get("task.positive"))
        if labelled not in self._datasets:
            self._datasets[labelled] = label(self._datasets[source], settings)
        return self._datasets[labelled]

    def _load_begun(self, settings: Settings) -> Dataset:
        """The data set, or the one that the runs began with if "auto" means another one now."""
        dataset = load(settings)
        if settings["data.name"] != "auto" or self._auto in (None, dataset.name):
            return dataset
        tell(f"data=auto stays {self._auto}, as when this began; now it would be {dataset.name}")
        return load(replace(settings, values={**settings.values, "data.name": self._auto}))


class Composer:
    """Composes the configs of many jobs: once for each choice of groups, then sets plain values in a copy.

    Hydra composes in about 0.1 s; jobs that differ only in plain values take less than 1 ms each.
    """

    def __init__(self) -> None:
        self._parsed: dict[str, Any] = {}
        self._bases: dict[tuple[str, ...], tuple[dict[str, Any], bool]] = {}

    def __call__(self, words: list[str]) -> dict[str, Any]:
        """The resolved config of these overrides; ConfigError if one is wrong."""
        plain = {word: override for word in words if (override := self._plain(word))}
        rest = tuple(word for word in words if word not in plain)
        if rest not in self._bases:
            composed = compose(list(rest))
            written = flatten(to_plain_config(composed, resolve=False))
            fixed = all("${" not in str(value).replace("${oc.env:", "") for _, value in written)
            self._bases[rest] = to_plain_config(composed), fixed
        base, fixed = self._bases[rest]
        config = copy.deepcopy(base)
        if fixed and all(replace_value(config, o.key_or_group, o.value()) for o in plain.values()):
            return config
        return to_plain_config(compose(words))  # raises Hydra's error if there is one

    def _plain(self, word: str) -> Any:
        """The parsed word if it sets one value of a key that is neither a group nor Hydra's, else None."""
        if word not in self._parsed:
            (override,) = parse_overrides([word])
            changes = not (override.is_add() or override.is_delete() or override.is_sweep_override())
            plain = changes and not override.is_hydra_override() and not list_choices(override.key_or_group)
            self._parsed[word] = override if plain else None
        return self._parsed[word]


def replace_value(config: dict[str, Any], key: str, value: Any) -> bool:
    """Sets a plain value in a resolved config if the key exists there; returns whether it did."""
    *path, last = key.split(".")
    for name in path:
        config = config.get(name, {}) if isinstance(config, dict) else {}
    leaf = isinstance(config, dict) and last in config and not isinstance(config[last], dict)
    special = isinstance(value, dict) or any(mark in str(value) for mark in ("${", "???"))
    if leaf and not special:
        config[last] = value
        return True
    return False
