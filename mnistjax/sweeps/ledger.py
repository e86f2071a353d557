"""The ledger of a sweep folder, `sweep.json`: its groups and the status of each job."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnistjax import checks, files, records
from mnistjax.backend import cores
from mnistjax.checks import Check
from mnistjax.config import ConfigError, Spec, freeze
from mnistjax.files import DamagedFile
from mnistjax.records.fields import STATUSES

LEDGER = "sweep.json"
RESULTS = "results.csv"
LARGEST = 512 * files.MIB  # bytes of a ledger
MOST_JOBS = 10_000_000  # in a sweep, also if it was extended
ENDED_WELL = ("done", "stopped")  # statuses that are no failure

ENTRY_FIELDS: dict[str, Check] = {
    "number": checks.whole(0, highest=MOST_JOBS),
    "identity": checks.TEXT,
    "overrides": checks.TEXTS,
    "seed": checks.SEED,
    "group": checks.whole(0),
    "status": checks.choice("waiting", *STATUSES),
    "reason": checks.optional(checks.ANY_TEXT),
    "attempts": checks.whole(0),
    "wandb": checks.optional(checks.ANY_TEXT),
    "config": checks.MAPPING,
}
GROUP_FIELDS: dict[str, Check] = {
    "spec": checks.MAPPING,
    "data": Check(lambda x: checks.TEXTS.holds(x) and len(x) == 3, "name, SHA-256 and positive class"),
    "jobs": checks.list_of(checks.whole(0, highest=MOST_JOBS), "numbers of jobs"),
    "width": checks.whole(1, highest=65_536),
    "threads": checks.whole(1, highest=65_536),
}
LEDGER_FIELDS: dict[str, Check] = {
    "id": checks.TEXT,
    "created": checks.TIME,
    "ended": checks.optional(checks.TIME),
    "wandb": checks.optional(checks.ANY_TEXT),
    "wandb_sweep": checks.optional(
        Check(
            lambda x: (
                type(x) is dict and x.keys() == {"id", "url", "sha256"} and checks.TEXTS.holds([*x.values()])
            ),
            "a Sweep of W&B with its id, url and sha256",
        )
    ),
    "arguments": checks.TEXTS,
    "machine": checks.MAPPING,
    "groups": checks.list_of(checks.MAPPING, "a list of groups"),
    "jobs": checks.list_of(checks.MAPPING, "a list of jobs"),
}


@dataclass
class Entry:
    """A job in the ledger."""

    number: int
    identity: str
    overrides: list[str]
    seed: int
    group: int = 0
    status: str = "waiting"  # or the status of its run
    reason: str | None = None
    attempts: int = 0
    wandb: str | None = None  # its W&B run: a URL, or a folder in the sweep folder
    config: dict[str, Any] = field(default_factory=dict)  # values that differ between jobs, by dotted key


@dataclass
class Ledger:
    """The content of `sweep.json`."""

    folder: Path
    id: str
    created: str
    arguments: list[str]  # of the first command
    entries: dict[int, Entry] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    ended: str | None = None
    wandb: str | None = None  # the W&B run of the sweep
    wandb_sweep: dict[str, str] | None = None  # its Sweep at W&B: id, url, and a SHA-256 of the runs in it

    def save(self) -> None:
        """Replaces `sweep.json`."""
        content = {name: getattr(self, name) for name in LEDGER_FIELDS if name != "jobs"}
        content["jobs"] = [vars(entry) for entry in self.entries.values()]
        records.write_json(self.folder / LEDGER, content)

    def job_folder(self, number: int) -> Path:
        """The run folder of a job."""
        return self.folder / str(number)


def final_statuses(halving: int | None) -> tuple[str, ...]:
    """The statuses of jobs that a resumed sweep does not train again: with `halving` also "stopped"."""
    return ("done", "diverged") if halving is None else ("done", "diverged", "stopped")


def find_ledger(folder: Path) -> Ledger | None:
    """The ledger in a folder; None if it is not a sweep folder."""
    return load_ledger(folder) if (folder / LEDGER).exists() else None


def load_ledger(folder: Path) -> Ledger:
    """The ledger in a sweep folder; ConfigError if it is missing, DamagedFile if it is damaged."""
    path = folder / LEDGER
    try:
        content = files.read_json(path, limit=LARGEST)
    except FileNotFoundError:
        raise ConfigError(f"{folder} is not a sweep folder: it has no {LEDGER}") from None
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {files.describe(error, path)}") from None
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} is damaged: a mapping is expected")
    content.setdefault("wandb_sweep", None)  # older ledgers lack it
    records.check_fields(str(path), content, LEDGER_FIELDS)
    entries: dict[int, Entry] = {}
    for job in content["jobs"]:
        records.check_fields(f"{path}, job {job.get('number')!r}"[:400], job, ENTRY_FIELDS)
        if job["number"] in entries:
            raise DamagedFile(f"{path} is damaged: two jobs have the number {job['number']}")
        entries[job["number"]] = Entry(**{name: job[name] for name in ENTRY_FIELDS})
    for group in content["groups"]:
        records.check_fields(f"{path}, a group", group, GROUP_FIELDS)
        group["spec"] = _read_spec(path, group["spec"])
    own = {name: content[name] for name in LEDGER_FIELDS if name != "jobs"}
    return Ledger(folder=folder, entries=entries, **own)


def check_unused(folder: Path) -> None:
    """Raises ConfigError if a folder without a ledger has files with names that a sweep would write."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name in (RESULTS, "multirun.yaml", "submitit") or path.name.isdecimal():
            raise ConfigError(
                f"{path} exists without a {LEDGER}: this is not a sweep of ours, or it is damaged; "
                f"choose another folder with hydra.sweep.dir"
            )


def _read_spec(path: Path, plain: Mapping[str, Any]) -> Spec:
    try:
        spec = Spec(**{name: freeze(value) for name, value in plain.items()})
        hash(spec)
    except TypeError as error:
        raise DamagedFile(f"{path} is damaged: the Spec of a group: {error}") from None
    return spec


def describe_machine() -> dict[str, Any]:
    """The machine's fields in the ledger."""
    import jax

    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "devices": jax.device_count(),
        "cores": cores(),
        "host": platform.node(),
        "system": platform.platform(),
        "pid": os.getpid(),
    }
