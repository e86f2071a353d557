"""Sweep objects of W&B: what varies between the jobs of a sweep, and the command of one job."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mnistjax.words import GROUPS, JOB_KEYS

NUMBER = re.compile(r"-?\d+|-?\d*\.?\d+(e-?\d+)?")


def describe_sweep(jobs: Iterable[Sequence[str]], monitor: str, **options: str | None) -> dict[str, Any]:
    """The configuration of a Sweep over the jobs with these overrides, in the form of `wandb sweep`.

    A key with several values is a parameter; keys with one value are part of the command. A parameter has
    the name that the key has in the config of the runs: `optimizer.name` for `optimizer=adam,sgd`. `options`
    are more fields, such as the name. Format: https://docs.wandb.ai/models/sweeps/sweep-config-keys

    >>> describe_sweep([["model=mlp", "seed=0"], ["model=mlp", "seed=1"]], "val/loss")["parameters"]
    {'seed': {'values': [0, 1]}}
    """
    values: dict[str, dict[str, None]] = {}
    for words in jobs:
        for word in words:
            key, _, text = word.partition("=")
            if not key.lstrip("+~").startswith(("sweep.", "hydra.", "hydra/")) and key != "resume":
                values.setdefault(key, {})[text] = None
    varying = {key: [*texts] for key, texts in values.items() if len(texts) > 1} or {"seed": ["0"]}
    fixed = [f"{key}={text}" for key, (text, *_) in values.items() if key not in varying]
    return {
        **{name: option for name, option in options.items() if option},
        "program": "mnistjax",
        "command": ["mnistjax", *fixed, "${args_no_hyphens}", "resume=true"],
        "method": "grid",
        "metric": {"name": monitor, "goal": "minimize" if monitor.endswith("loss") else "maximize"},
        "parameters": {
            f"{key}.name" if key in GROUPS else key: {"values": [_value(text) for text in texts]}
            for key, texts in varying.items()
        },
    }


def keep_safe(words: Iterable[str]) -> list[str]:
    """The overrides that only describe a job; an agent would obey others, which may come from a stranger."""
    safe = []
    for word in words:
        key, _, text = word.removeprefix("+").partition("=")
        known = re.fullmatch(rf"({'|'.join(JOB_KEYS)})(\.\w+)*", key)
        path = key in (*GROUPS, "experiment") and not re.fullmatch(r"\w[\w-]*", text)
        if known and not path and "${" not in text and not key.startswith(("data.dir", "data.raw_dir")):
            safe.append(word)
    return safe


def _value(text: str) -> int | float | str:
    """A value of an override as the agent has to write it: a number, else the text in Hydra's grammar."""
    if not NUMBER.fullmatch(text):
        return text
    return int(text) if re.fullmatch(r"-?\d+", text) else float(text)


def mark_best(run: Any, group: str, best: Sequence[str]) -> None:
    """Gives the tag `best` to these runs of a group in the run's project, and takes it from the others."""
    import wandb

    api: Any = wandb.Api()
    place = f"{run.entity}/{run.project}"
    old = {other.id: other for other in api.runs(place, filters={"group": group, "tags": "best"})}
    for id in {*old, *best}:
        if (id in old) != (id in best):
            other = old.get(id) or api.run(f"{place}/{id}")
            tags = [tag for tag in other.tags if tag != "best"]
            other.tags = [*tags, "best"] if id in best else tags
            other.update()


def find_tags(values: Mapping[str, Any], own: Iterable[str]) -> list[str]:
    """The tags of a run: the user's own, its model, data set, task and optimizer (`values` by dotted key)."""
    names = (values.get(f"{group}.name") for group in ("model", "data", "task", "optimizer"))
    return list(dict.fromkeys([*own, *(str(name)[:64] for name in names if name)]))
