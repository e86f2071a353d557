"""The W&B run that another program has made for this process, such as `wandb agent`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mnistjax.checks import PROJECT, check_value, optional

AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RESUME")  # set by `wandb agent`


@dataclass(frozen=True)
class AgentRun:
    """A W&B run that `wandb agent`, or another program, has made for this process.

    It is kept in `status.json`, so that all later commands use it.
    """

    id: str
    sweep: str | None = None  # the id of the Sweep whose agent has started this process
    project: str | None = None  # None: those of the config
    entity: str | None = None


def take_agent_run() -> AgentRun | None:
    """The run that the environment names, if any. Removes the variables, so that no other run gets its id.

    wandb would also add the agent's parameters to the config, which has them already. ConfigError for a name
    that W&B would refuse.
    """
    found = {name: os.environ.pop(name, None) for name in AGENT}
    if not found["WANDB_RUN_ID"]:
        return None
    places = {name: os.environ.get(f"WANDB_{name.upper()}") for name in ("project", "entity")}
    names = {**found, "WANDB_PROJECT": places["project"], "WANDB_ENTITY": places["entity"]}
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_PROJECT", "WANDB_ENTITY"):
        check_value(name, names[name], optional(PROJECT))
    return AgentRun(found["WANDB_RUN_ID"], found["WANDB_SWEEP_ID"], **places)


def drop_agent_run() -> str | None:
    """Removes the run of an agent from the environment; returns a line for the user, or None.

    With it the jobs of a sweep would have one id, and overwrite one another.
    """
    found = [name for name in AGENT if os.environ.pop(name, None)]
    if not found:
        return None
    return f"the run of W&B's agent is not used: each job of a sweep has its own ({', '.join(found)} unset)"


def find_options(agent_run: AgentRun | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a Tracker for this run: its id, Sweep and project instead of those in `options`."""
    if agent_run is None:
        return dict(options)
    places = {"project": agent_run.project, "entity": agent_run.entity}
    return {
        **options,
        **{name: place for name, place in places.items() if place},
        "run_id": agent_run.id,
        "sweep": agent_run.sweep,
    }
