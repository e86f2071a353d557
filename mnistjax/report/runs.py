"""The runs in folders, as their records have them: what tables, figures and dashboards are made of."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnistjax import records
from mnistjax.compose import flatten
from mnistjax.config import ConfigError
from mnistjax.sweep.ledger import LEDGER, load_ledger, short_name, varying


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run or a job, whatever became of it."""

    folder: Path
    status: str  # as in status.json; "waiting" of a job that was not begun
    reason: str | None  # why, unless done
    config: Mapping[str, Any]  # by dotted key; of a job that was not begun what its sweep varies
    rows: Sequence[Mapping[str, Any]]  # of metrics.jsonl
    summary: Mapping[str, Any]  # empty unless done
    started: str | None = None  # ISO 8601
    ended: str | None = None
    identity: str | None = None
    sweep: str | None = None  # the id of the sweep that it is a job of
    name: str | None = None  # in that sweep
    wandb: str | None = None  # where its W&B run lies, if the sweep's ledger says so

    @property
    def seed(self) -> int | None:
        return self.config.get("seed")


def read_runs(folders: Iterable[Path]) -> list[RunRecord]:
    """The runs at and below these folders: single ones, and the jobs of sweeps in their order.

    ConfigError where a folder holds none.
    """
    runs: dict[Path, RunRecord] = {}
    for folder in folders:
        found = {run.folder.resolve(): run for run in _read(folder)}
        if not found:
            raise ConfigError(f"{folder} holds no run: no {records.STATUS} and no {LEDGER} at or below it")
        runs |= found
    return list(runs.values())


def _read(top: Path) -> Iterator[RunRecord]:
    for place, subfolders, files in os.walk(top):
        folder = Path(place)
        subfolders.sort()
        if LEDGER in files:
            subfolders.clear()
            ledger = load_ledger(folder)
            for entry in ledger.entries.values():
                run = read_run(ledger.job_folder(entry.number))
                config = run.config or {**entry.config, "seed": entry.seed}
                wandb = entry.wandb and (entry.wandb if "://" in entry.wandb else str(folder / entry.wandb))
                name = short_name(entry.config, entry.seed)
                yield replace(run, config=config, sweep=ledger.id, name=name, wandb=wandb)
        elif records.STATUS in files:
            subfolders.clear()  # W&B's many files
            yield read_run(folder)


def read_run(folder: Path) -> RunRecord:
    """The run in a folder; "waiting" and without a config where it was not begun."""
    status = records.read_status(folder)
    if status is None:
        return RunRecord(folder, "waiting", None, {}, [], {})
    config = dict(flatten(records.read_config(folder)))
    facts = status["started"], status["ended"], status["identity"]
    summary = records.read_summary(folder) or {} if status["status"] == "done" else {}
    rows = records.read_rows(folder)
    return RunRecord(folder, status["status"], status["reason"], config, rows, summary, *facts)


def name_runs(runs: Sequence[RunRecord]) -> list[tuple[str, dict[str, Any]]]:
    """Of each run its name, and what differs from the others that were begun, by dotted key."""
    differing = varying({i: run.config for i, run in enumerate(runs) if run.status != "waiting"})
    keys = list(dict.fromkeys(key for config in differing.values() for key in config))
    own = [{key: run.config[key] for key in keys if key in run.config} for run in runs]
    return [
        (short_name(config, run.config.get("seed", 0)), config) for run, config in zip(runs, own, strict=True)
    ]
