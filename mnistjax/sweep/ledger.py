"""A sweep folder: `sweep.json`, the plan and the state of every job, and `results.csv`, a row a job.

Both are replaced whole. `results.csv` is made from the run folders, so it can be made again.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mnistjax import checks, files, records
from mnistjax.checks import Check
from mnistjax.compose import flatten
from mnistjax.config import ConfigError, Spec, freeze, to_plain
from mnistjax.files import DamagedFile

LEDGER = "sweep.json"
RESULTS = "results.csv"
METRICS = ("loss", "accuracy", "f1")
TIMES = ("seconds_per_epoch", "compile_seconds")
SILENT = ("sweep", "wandb", "resume", "seed")  # keys that make no other result, or have a column
LARGEST = 512 * files.MIB  # bytes of a ledger
MOST_JOBS = 10_000_000  # of a sweep, ever

ENTRY_FIELDS: dict[str, Check] = {
    "number": checks.whole(0, highest=MOST_JOBS),
    "identity": checks.TEXT,
    "overrides": checks.TEXTS,
    "seed": checks.SEED,
    "group": checks.whole(0),
    "status": checks.choice("waiting", *records.STATUSES),
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
    status: str = "waiting"  # or as in status.json
    reason: str | None = None
    attempts: int = 0
    wandb: str | None = None  # where its W&B run lies: a URL, or a folder in the sweep's
    config: dict[str, Any] = field(default_factory=dict)  # what differs from other jobs, by dotted key


@dataclass
class Ledger:
    folder: Path
    id: str
    created: str
    arguments: list[str]  # of the first command
    entries: dict[int, Entry] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    ended: str | None = None
    wandb: str | None = None  # where the sweep's own W&B run lies

    def number_of(self, identity: str) -> int | None:
        """The number of the job with this identity."""
        return next((e.number for e in self.entries.values() if e.identity == identity), None)

    def save(self) -> None:
        content = {
            "id": self.id,
            "created": self.created,
            "ended": self.ended,
            "wandb": self.wandb,
            "arguments": self.arguments,
            "machine": self.machine,
            "groups": self.groups,
            "jobs": [asdict(entry) for entry in self.entries.values()],
        }
        records.write_json(self.folder / LEDGER, content)

    def job_folder(self, number: int) -> Path:
        """The run folder of a job."""
        return self.folder / str(number)


def load_ledger(folder: Path) -> Ledger:
    """The ledger of a sweep folder; ConfigError if there is none, DamagedFile if it is not what we wrote."""
    path = folder / LEDGER
    try:
        content = files.read_json(path, limit=LARGEST)
    except FileNotFoundError:
        raise ConfigError(f"{folder} is no sweep folder: it holds no {LEDGER}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} can't be read: {files.describe(error, path)}") from None
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} is damaged: a mapping is expected")
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
    """ConfigError if a folder without a ledger has files with names that a sweep would write."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name in (RESULTS, "multirun.yaml", "submitit") or path.name.isdecimal():
            raise ConfigError(
                f"{path} is there, and no {LEDGER} beside it: this is no sweep of ours, or a damaged one; "
                f"choose another folder with hydra.sweep.dir"
            )


def _read_spec(path: Path, plain: Mapping[str, Any]) -> Spec:
    """The Spec of a group in the ledger."""
    try:
        spec = Spec(**{name: freeze(value) for name, value in plain.items()})
        hash(spec)
    except TypeError as error:
        raise DamagedFile(f"{path} is damaged: the Spec of a group: {error}") from None
    return spec


def varying(configs: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """Of each job's config what is not the same in all jobs, by dotted key; the seed aside.

    Nor what follows from a choice: momentum has no b1, so b1 says no more than the optimizer's name.
    """
    flat = {number: dict(flatten(config)) for number, config in configs.items()}
    keys = list(dict.fromkeys(key for config in flat.values() for key in config))
    keys = [key for key in keys if key.partition(".")[0] not in SILENT]

    def follows(key: str, name: str) -> bool:
        seen: dict[str, str] = {}
        return all(
            seen.setdefault(_text(config.get(name)), _text(config.get(key))) == _text(config.get(key))
            for config in flat.values()
        )

    kept = [key for key in keys if len({_text(config.get(key)) for config in flat.values()}) > 1]
    names = {key.partition(".")[0]: key for key in kept if key.endswith(".name")}
    kept = [
        key
        for key in kept
        if (name := names.get(key.partition(".")[0])) in (None, key) or not follows(key, name)
    ]
    return {number: {key: config[key] for key in kept if key in config} for number, config in flat.items()}


def _text(value: Any) -> str:
    return json.dumps(to_plain(value))


def short_name(config: Mapping[str, Any], seed: int) -> str:
    """A run's name: what differs, in words. {"optimizer.name": "adam"}, 3 -> "adam seed=3"."""
    words = []
    for key, value in config.items():
        last = key.rpartition(".")[2]
        words.append(str(value) if last == "name" else f"{last}={shown(value)}")
    return " ".join([*words, f"seed={seed}"])


def shown(value: Any) -> str:
    return json.dumps(to_plain(value)) if isinstance(value, (list, tuple)) else str(value)


def read_result(entry: Entry, folder: Path) -> dict[str, Any]:
    """A row of `results.csv`."""
    status, reason, rows, summary = entry.status, entry.reason, [], {}
    try:
        record = records.read_record(folder, whole=False)
        rows, summary = record.rows, record.summary or {}
    except FileNotFoundError:
        pass  # not begun
    except (ConfigError, OSError) as error:
        status, reason = ("failed", str(error)) if status == "done" else (status, reason)
    kept = summary.get("kept_epoch", len(rows))
    last = rows[kept - 1] if 0 < kept <= len(rows) else {}
    return {
        "number": entry.number,
        **{key: shown(value) for key, value in entry.config.items()},
        "seed": entry.seed,
        "status": status,
        "reason": reason or "",
        "epoch": len(rows),
        **{f"{part}/{name}": last.get(f"{part}/{name}", "") for part in ("train", "val") for name in METRICS},
        **{f"test/{name}": summary.get(f"test/{name}", "") for name in (*METRICS, "precision", "recall")},
        "parameters": summary.get("parameters", ""),
        **{name: summary.get(name, "") for name in TIMES},
    }


def write_results(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """`results.csv` now holds these rows, with the columns of all of them."""
    rows = sorted(rows, key=lambda row: row["number"])
    own = [key for row in rows for key in row if "." in key]
    first = ["number", *dict.fromkeys(own), "seed"]
    write_csv(folder / RESULTS, rows, first)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], first: Iterable[str] = ()) -> None:
    """The CSV file now holds these rows, with the columns of all of them, the `first` ones first."""
    columns = list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    files.replace(path, text.getvalue().encode())


def _cell(value: Any) -> Any:
    """A value for a table that a spreadsheet may open: text that it would take for a formula is quoted."""
    return f"'{value}" if isinstance(value, str) and re.match(r"[=@\t\r]|[+-](?![\d.]|inf)", value) else value
