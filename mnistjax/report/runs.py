"""Runs in folders, read from their records."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnistjax import files, records
from mnistjax.compose import flatten
from mnistjax.config import ConfigError
from mnistjax.sweeps.ledger import LEDGER, load_ledger
from mnistjax.sweeps.results import short_name, varying

PLACES = ("data.dir", "data.raw_dir")  # config keys that name folders and change no result


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run, or a job of a sweep, in any state."""

    folder: Path
    status: str  # as in status.json, or "waiting" for a job that has not started
    reason: str | None  # for the status; None if done
    config: Mapping[str, Any]  # by dotted key; if the job has not started, only what its sweep varies
    rows: Sequence[Mapping[str, Any]]  # in metrics.jsonl
    summary: Mapping[str, Any]  # empty unless done
    started: str | None = None  # ISO 8601
    identity: str | None = None
    sweep: str | None = None  # the id of its sweep
    name: str | None = None  # in its sweep
    damaged: bool = False  # its files are unreadable

    @property
    def begun(self) -> bool:
        return self.started is not None

    @property
    def seed(self) -> int | None:
        return self.config.get("seed")


def read_runs(folders: Iterable[Path]) -> list[RunRecord]:
    """The runs in and below these folders: single runs, and the jobs of sweeps in their order.

    Copies of a run's folder count once. ConfigError if a folder holds no run.
    """
    runs: dict[Any, RunRecord] = {}
    for folder in folders:
        found = list(_read(folder))
        if not found:
            raise ConfigError(f"{folder} holds no run: no {records.STATUS} and no {LEDGER} at or below it")
        for run in found:
            begun = (run.identity, run.started) if run.identity else run.folder.resolve()
            known = runs.setdefault(begun, run)
            if run.sweep and not known.sweep:  # it was first found as a single run
                runs[begun] = run
    return list(runs.values())


def _read(top: Path) -> Iterator[RunRecord]:
    for place, subfolders, names in os.walk(top):
        folder = Path(place)
        subfolders.sort()
        if LEDGER in names:
            subfolders.clear()
            ledger = load_ledger(folder)
            for entry in ledger.entries.values():
                run = read_run(ledger.job_folder(entry.number))
                config = run.config or {**entry.config, "seed": entry.seed}
                name = short_name(entry.config, entry.seed)
                if run.status == "waiting" and entry.status == "failed":  # it failed before it had a folder
                    run = replace(run, status=entry.status, reason=entry.reason)
                yield replace(run, config=config, sweep=ledger.id, name=name)
        elif records.STATUS in names:
            subfolders.clear()  # W&B has many files there
            yield read_run(folder)


def read_run(folder: Path) -> RunRecord:
    """The run in a folder; "waiting", without a config, if it has not started.

    A run that was killed is "interrupted"; a run whose files are damaged is "failed".
    """
    state, reason, facts = "failed", None, ()
    config: dict[str, Any] = {}
    try:
        status = records.read_status(folder)
        if status is None:
            return RunRecord(folder, "waiting", None, {}, [], {})
        state, reason, facts = status["status"], status["reason"], (status["started"], status["identity"])
        config = dict(flatten(records.read_config(folder)))
        record = records.read_record(folder, whole=False)
    except (ConfigError, OSError) as error:
        reason = reason if state == "failed" and reason else str(error)
        return RunRecord(folder, "failed", reason, config, [], {}, *facts, damaged=True)
    if state == "running" and not files.is_locked(folder / records.LOCK):
        state, reason = "interrupted", "its process is gone"
    return RunRecord(folder, state, reason, config, record.rows, record.summary or {}, *facts)


def done(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """The runs that are done."""
    return [run for run in runs if run.status == "done"]


def name_runs(runs: Sequence[RunRecord]) -> list[tuple[str, dict[str, Any]]]:
    """The name of each run, and the config values that differ between the runs, by dotted key."""
    configs = [{k: v for k, v in run.config.items() if k not in PLACES} for run in runs]
    # A job that has not started has only the keys that its sweep varies.
    begun = {i: config for i, config in enumerate(configs) if runs[i].begun}
    partial = [config for i, config in enumerate(configs) if i not in begun]
    keys = [key for config in (*varying(begun).values(), *partial) for key in config if key != "seed"]
    keys = list(dict.fromkeys(keys))
    own = [{key: run.config[key] for key in keys if key in run.config} for run in runs]
    return [
        (short_name(config, run.config.get("seed", 0)), config) for run, config in zip(runs, own, strict=True)
    ]
