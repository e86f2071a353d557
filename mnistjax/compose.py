"""A composed config -> validated Settings -> a Plan, once the data is loaded. Configuration ends here.

An error about a wrong value is one line: the key, what is allowed, what was given. Cheap checks come first,
so that most errors appear without importing JAX.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistjax.backend import import_jax
from mnistjax.checks import (
    CLASS_WEIGHTS,
    FLAG,
    FOLDER,
    FREEZE,
    PROJECT,
    SEED,
    SHUFFLE,
    STOPPING,
    TAGS,
    TEXT,
    Check,
    check_value,
    choice,
    optional,
    whole,
)
from mnistjax.config import ConfigError, Plan, Stopping, shorten, unknown
from mnistjax.data import VALIDATION, Dataset, list_options, load_data, to_binary
from mnistjax.files import describe

if TYPE_CHECKING:
    from mnistjax.plan import Choice, Start

SCHEMA: dict[str, Check] = {
    "data.name": TEXT,
    "data.dir": optional(FOLDER),
    "data.raw_dir": optional(Check(TEXT.holds, "a folder, a file")),
    "data.validation_fraction": VALIDATION,
    "task.name": choice("multiclass", "binary"),
    **STOPPING,
    "train.batch_size": whole(1, "all"),
    "train.micro_batch": whole(1, "auto"),
    "train.shuffle": SHUFFLE,
    "train.class_weights": CLASS_WEIGHTS,
    "train.freeze": FREEZE,
    "wandb.mode": choice("auto", "online", "offline", "disabled"),
    "wandb.project": PROJECT,
    "wandb.entity": optional(PROJECT),
    "wandb.tags": TAGS,
    "wandb.registry": optional(PROJECT),
    "sweep.mode": choice("auto", "map", "vmap", "chunk"),
    "sweep.lanes": whole(1, "auto"),
    "sweep.halving": whole(2, None),
    "sweep.rank": choice("last", "best"),
    "sweep.max_jobs": whole(1),
    "sweep.plan": Check(lambda x: type(x) is bool or x == "wandb", "true, false or wandb"),
    "sweep.resume": optional(TEXT),
    "sweep.timeout": whole(1),
    "sweep.fail_fast": FLAG,
    "sweep.executor": choice("processes", "inline", "submitit_local", "submitit_slurm"),
    "init_from": optional(Check(TEXT.holds, "a trained model's name, folder or file")),
    "seed": SEED,
    "resume": FLAG,
}
OLD = {  # values of keys that the configs of older runs lack
    "data.validation_fraction": None,
    "train.class_weights": None,
    "train.freeze": [],
    "wandb.registry": None,
    "sweep.halving": None,
    "sweep.rank": "last",
    "init_from": None,
}
SUBMITIT = "sweep.submitit"  # submitit checks its options
OPTIONS = optional(Check(lambda x: isinstance(x, Mapping), "options, such as {timeout_min:60},"))
BINARY = {"task.positive": whole(0)}
OPEN_GROUPS = ("model", "optimizer", "schedule")  # their tables check their options
OPEN = (*OPEN_GROUPS, "augment")  # augment has options, but no name
LARGEST = 2**32 - 1  # largest whole number in a config


@dataclass(frozen=True)
class Settings:
    """A config with known keys and valid values, as far as they can be checked without data."""

    values: Mapping[str, Any]  # by dotted key, as in SCHEMA
    choice: Choice  # of the open groups and augment

    def __getitem__(self, key: str) -> Any:
        return self.values[key]


def read_settings(config: Mapping[str, Any]) -> Settings:
    """The Settings of a resolved config; ConfigError for an unknown or missing key or a wrong value.

    >>> read_settings({"sead": 1})
    Traceback (most recent call last):
    ...
    mnistjax.config.ConfigError: unknown key 'sead'; nearest is 'seed' (allowed: augment, ..., train, wandb)
    """
    values = dict(flatten({key: value for key, value in config.items() if key not in OPEN}))
    for key, value in OLD.items():
        values.setdefault(key, value)
    check_keys(values, find_schema(values))
    groups = read_groups(config)
    for key, value in flatten(config):
        check_size(key, value)
    for key in ("data.dir", "data.raw_dir"):
        check_folder(key, values[key])
    import_jax()  # late, because the errors above need no JAX
    from mnistjax.plan import choose

    with naming_keys(groups["model_options"]):
        return Settings(values, choose(**groups))


def spell_numbers(config: dict[str, Any], choice: Choice) -> dict[str, Any]:
    """The config with whole numbers as floats if the plan takes them so: dropout=0 is 0.0.

    So equal jobs have equal configs, and tables have one row for them.
    """
    used = {"model": dict(choice.model_options), **choice.numbers}

    def spell(group: str, option: str, value: Any) -> Any:
        other = used[group].get(option)
        return other if type(value) is int and type(other) is float else value

    groups = {group: {k: spell(group, k, v) for k, v in config[group].items()} for group in OPEN_GROUPS}
    return {**config, **groups}


def find_schema(values: Mapping[str, Any]) -> dict[str, Check]:
    """The checks of all keys, with those of the task and of the data set's own options."""
    name = values.get("data.name")
    options = list_options(name) if isinstance(name, str) else {}
    own = {f"data.{option}": check for option, (check, _) in options.items()}
    return SCHEMA | own | (BINARY if values.get("task.name") == "binary" else {})


def read_groups(config: Mapping[str, Any]) -> dict[str, Any]:
    """The names and options of the open groups and the options of augment, as `choose` takes them."""
    augment = config.get("augment", {})
    if not isinstance(augment, Mapping):
        raise ConfigError(f"augment must be options, such as {{shift:2}}; got {shorten(augment)!r}")
    groups: dict[str, Any] = {"augment_options": augment}
    for name in OPEN_GROUPS:
        group = config.get(name)
        if not isinstance(group, Mapping) or not isinstance(group.get("name"), str):
            raise ConfigError(f"{name} must be chosen by a name, {name}=NAME; got {shorten(group)!r}")
        groups[name] = group["name"]
        groups[f"{name}_options"] = {key: value for key, value in group.items() if key != "name"}
    return groups


def check_keys(values: Mapping[str, Any], schema: Mapping[str, Check]) -> None:
    """Raises ConfigError for an unknown or missing key or a wrong value, except for submitit's options."""
    for key in values:
        if key not in schema and key != SUBMITIT and not key.startswith(f"{SUBMITIT}."):
            raise unknown_key(key, [*schema, *OPEN])
    for key, check in schema.items():
        if key not in values:
            raise ConfigError(f"{key} is missing; it must be {check.allowed}")
        check_value(key, values[key], check)


def check_size(key: str, value: Any) -> None:
    """Raises ConfigError for a number that is too large for any array, step or file."""
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, int) and abs(number) > LARGEST:
            raise ConfigError(f"{key} must be at most {LARGEST:,}; got {shorten(number)}")


def check_folder(key: str, folder: str | None) -> None:
    """Raises ConfigError for an impossible path. Whether the folder exists is checked later."""
    try:
        if folder is not None:
            Path(folder).expanduser().stat()
    except RuntimeError:  # no HOME, or ~NAME of an unknown user
        raise ConfigError(
            f"{key}={shorten(folder)}: no such home folder; set HOME, or write the path in full"
        ) from None
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: {describe(error, folder or '')}") from None


def read_sweep(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a sweep: the checked keys `sweep.*` that `sweep.run.Options` has, by name."""
    node, schema = config["sweep"], {key: SCHEMA[key] for key in SCHEMA if key.startswith("sweep.")}
    check_value(SUBMITIT, node.get("submitit"), OPTIONS)
    check_keys(dict(flatten({"sweep": node})), schema)
    return {name: value for name, value in node.items() if name not in ("max_jobs", "plan", "resume")}


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the (dotted key, value) pairs of a nested config."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def unknown_key(key: str, known: Sequence[str]) -> ConfigError:
    """The error for an unknown key, with the keys of its section if that exists, else the nearest keys.

    >>> str(unknown_key("epochs", ["seed", "train.epochs", "augment.epochs"]))
    "unknown key 'epochs'; nearest: train.epochs, augment.epochs"
    """
    key = str(shorten(key))
    if own := [name for name in known if name.startswith(f"{key}.")]:
        return ConfigError(f"{key!r} is a section, set its keys: {', '.join(sorted(own))}")
    section = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == section]
    if section and siblings:
        return unknown("key", key, siblings)
    sections = {name.partition(".")[0] for name in known}
    if not section:
        ends = sorted({name.rpartition(".")[2] for name in known} - sections)
        if key not in ends and difflib.get_close_matches(key, sections):
            ends = []
        if close := difflib.get_close_matches(key, ends, n=1):
            same = [name for name in known if name.endswith(f".{close[0]}")]
            return ConfigError(f"unknown key {key!r}; nearest: {', '.join(same)}")
        return unknown("key", key, sections)
    nearest = str(unknown("key", key, known)).partition(" (allowed")[0]
    return ConfigError(f"{nearest} (allowed: {', '.join(sorted(sections))})")


@contextlib.contextmanager
def naming_keys(options: Iterable[str]) -> Iterator[None]:
    """Adds `model.` to an option at the start of a ConfigError inside: hidden becomes `model.hidden`."""
    try:
        yield
    except ConfigError as error:
        names = "|".join(map(re.escape, options))
        raise ConfigError(re.sub(rf"^(unknown )?({names})(?=[ :])", r"\1model.\2", str(error))) from None


def load(settings: Settings) -> Dataset:
    """The data set, which is prepared if necessary; ConfigError if it is unavailable."""
    options = {option: settings[f"data.{option}"] for option in list_options(settings["data.name"])}
    folders = {"data_dir": settings["data.dir"], "raw_dir": settings["data.raw_dir"]}
    fraction = settings["data.validation_fraction"]
    return load_data(settings["data.name"], **folders, validation_fraction=fraction, **options)


def label(dataset: Dataset, settings: Settings) -> Dataset:
    """The data set with the labels of the task."""
    if settings["task.name"] == "multiclass":
        return dataset
    positive = settings["task.positive"]
    if positive >= dataset.num_classes:
        allowed = f"a class of {dataset.name}, 0 to {dataset.num_classes - 1}"
        raise ConfigError(f"task.positive must be {allowed}; got {shorten(positive)}")
    return to_binary(dataset, positive)


def plan_run(settings: Settings, dataset: Dataset) -> Plan:
    """The Plan of a run on this data set; ConfigError if the settings do not fit the data."""
    from mnistjax.plan import make_plan

    patience, keep, monitor = (settings[f"train.{key}"] for key in ("early_stopping", "keep", "monitor"))
    with naming_keys(dict(settings.choice.model_options)):
        return make_plan(
            dataset,
            settings.choice,
            batch_size=settings["train.batch_size"],
            micro_batch=settings["train.micro_batch"],
            shuffle=settings["train.shuffle"],
            class_weights=settings["train.class_weights"],
            freeze=settings["train.freeze"],
            start=find_start(settings, dataset),
            stopping=Stopping(settings["train.epochs"], patience, keep, monitor),
            positive=settings["task.positive"] if settings["task.name"] == "binary" else None,
            seed=settings["seed"],
        )


def begun_plans(plan: Plan, settings: Settings) -> dict[str, Plan]:
    """The plans with which the run of this plan may have begun, by identity, the plan itself first.

    train.micro_batch=auto chooses by device and version, so a run that began elsewhere may have another one:
    a power of two, or the batch.
    """
    plans = [plan]
    if settings["train.micro_batch"] == "auto":
        batch = plan.spec.batch_size
        sizes = [batch, *(2**power for power in range(batch.bit_length()))]
        plans += [replace(plan, spec=replace(plan.spec, micro_batch=size)) for size in sizes]
    return {one.identity: one for one in plans}


def as_begun(plan: Plan, settings: Settings, identities: Collection[str]) -> Plan:
    """The plan with which the run began, if its identity is among these; else the plan itself."""
    if plan.identity in identities:
        return plan
    plans = begun_plans(plan, settings)
    return next((one for identity, one in plans.items() if identity in identities), plan)


def find_start(settings: Settings, dataset: Dataset) -> Start | None:
    """The trained variables of `init_from`, if given; ConfigError if they can't be read."""
    if (name := settings["init_from"]) is None:
        return None
    from mnistjax.zoo.start import start_from

    return start_from(name, dataset, task=settings["task.name"])


def differing_keys(config: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys in which two resolved configs differ, with both values: "seed (0 there, 1 here)".

    Keys that don't change a run, such as paths, are left out. Older configs lack keys whose default is false.
    """
    here, there = (
        {key: value for key, value in (OLD | dict(flatten(one))).items() if value is not False}
        for one in (config, other)
    )
    own = ("data.dir", "data.raw_dir", "resume")
    return [
        f"{key} ({there.get(key)} there, {here.get(key)} here)"
        for key in sorted({*here, *there})
        if here.get(key) != there.get(key) and key not in own and not key.startswith(("sweep.", "wandb."))
    ]
