"""The records of a run: its config, rows, status and summary, each written whole and read with suspicion.

A folder may come from anyone and may have met any accident, so that what is read is checked: its type, its
range, its size, and whether the files fit together. What fails is a `DamagedFile` that names file and reason.
JSON holds no NaN: non-finite floats are the strings "nan", "inf" and "-inf", which `float` reads back.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from mnistjax import checks, files
from mnistjax.checkpoints import CHECKPOINT, PREVIOUS, finite, read_meta
from mnistjax.checks import Check
from mnistjax.config import ConfigError, to_plain
from mnistjax.files import DamagedFile

Status = Literal["running", "done", "failed", "diverged", "interrupted"]
STATUSES: tuple[Status, ...] = ("running", "done", "failed", "diverged", "interrupted")

CONFIG = "config.yaml"
ROWS = "metrics.jsonl"
STATUS = "status.json"
SUMMARY = "summary.json"
LOCK = "lock"
LOG = "mnistjax.log"
FILES = (CONFIG, ROWS, STATUS, SUMMARY, CHECKPOINT, PREVIOUS)  # of a run
HYDRA = (LOG, ".hydra")  # what Hydra writes beside them

LIMITS = {CONFIG: files.MIB, STATUS: files.MIB, SUMMARY: 16 * files.MIB, ROWS: 512 * files.MIB}  # bytes
METRICS = ("loss", "accuracy", "f1")
CURVES = tuple(f"{part}/{name}" for part in ("train", "val") for name in METRICS)
FLOATS = ("seconds", *CURVES)
MOST_CLASSES = 1000
EXACT = 2**53  # whole numbers up to here are exact in a browser

STATUS_FIELDS: dict[str, Check] = {
    "status": checks.choice(*STATUSES),
    "reason": checks.optional(checks.ANY_TEXT),
    "epoch": checks.whole(0),
    "started": checks.TIME,
    "ended": checks.optional(checks.TIME),
    "identity": checks.TEXT,
}
ROW_FIELDS: dict[str, Check] = {
    "epoch": checks.whole(1),
    "examples_seen": checks.whole(0),
    "seconds": checks.SECONDS,
    **dict.fromkeys(CURVES, checks.NUMBER),
}
SUMMARY_FIELDS: dict[str, Check] = {
    **{f"test/{name}": checks.NUMBER for name in (*METRICS, "precision", "recall")},
    "test/count": checks.whole(0),
    "test/confusion_matrix": Check(lambda x: is_square(x), "a square matrix of whole numbers"),
    "kept_epoch": checks.whole(1),
    "seconds_per_epoch": checks.NUMBER,
    "compile_seconds": checks.NUMBER,
    "parameters": checks.whole(0),
    "data": checks.MAPPING,
    "spec": checks.MAPPING,
    "device": checks.MAPPING,
    "seed": checks.SEED,
    "identity": checks.TEXT,
}
DATA_FIELDS: dict[str, Check] = {"name": checks.TEXT, "sha256": checks.TEXT}
SPEC_FIELDS: dict[str, Check] = {
    "model": checks.TEXT,
    "model_options": checks.PAIRS,
    "task": checks.choice("multiclass", "binary"),
    "num_classes": checks.whole(1, highest=100_000),
    "train_count": checks.whole(1),
    "batch_size": checks.whole(1),
}


@dataclass(frozen=True, eq=False)
class Record:
    """What the files of one run say; they fit together."""

    status: dict[str, Any]
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    summary: dict[str, Any] | None  # only of a run that is done


@contextlib.contextmanager
def lock(folder: str | Path) -> Iterator[None]:
    """Owns a run or sweep folder, which is made if it is missing; FolderInUse if a living process has it.

    ConfigError if a link in it leads elsewhere, or if a file with the lock's name is not ours.
    """
    folder = Path(folder)
    if os.path.lexists(folder):
        files.check_links(folder)
    files.make_folder(folder)
    path = folder / LOCK
    try:
        if os.path.lexists(path) and not re.fullmatch(rb"\d*", files.read_bytes(path, limit=20)):
            raise DamagedFile(f"{path} is not ours")
    except DamagedFile:
        raise ConfigError(f"{path} is not the lock of a run; choose another folder") from None
    with files.lock(path):
        files.remove_temporaries(folder)
        yield


def is_locked(folder: str | Path) -> bool:
    """Whether a living process owns the run folder."""
    return files.is_locked(Path(folder) / LOCK)


def check_unused(folder: str | Path, names: Sequence[str]) -> None:
    """ConfigError if a folder without a status has files with names that a run would write: they are not
    ours, or what is left of a run whose status is lost."""
    for name in names:
        if os.path.lexists(path := Path(folder) / name):
            raise DamagedFile(
                f"{path} is there, and no {STATUS} beside it: this is no run of ours, or a damaged one; "
                f"choose another folder"
            )


def write_config(folder: str | Path, config: Mapping[str, Any]) -> None:
    """Writes `config.yaml`, the keys in their order."""
    text = yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)
    files.replace(Path(folder) / CONFIG, text.encode())


def read_config(folder: str | Path) -> dict[str, Any]:
    """`config.yaml`, a nested dict of plain values; FileNotFoundError if it is missing."""
    path = Path(folder) / CONFIG
    return _as_mapping(path, files.read_yaml(path, limit=LIMITS[CONFIG]))


def append_row(folder: str | Path, row: Mapping[str, Any]) -> None:
    """Appends `row` to `metrics.jsonl`; a line that a killed writer left torn is cut off first.

    OSError (a full disk) leaves the rows as they were.
    """
    path = Path(folder) / ROWS
    with open(files.open_plain(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "rb+", buffering=0) as file:
        end = _end_of_whole_lines(file)
        file.truncate(end)
        line = _line(row)
        try:
            written = file.write(line)
            if written != len(line):  # the disk filled up within the line
                raise OSError(f"{path}: only {written} of {len(line)} bytes could be written")
        except OSError as error:
            file.truncate(end)
            error.filename = error.filename or str(path)
            raise


def read_rows(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`, epochs 1, 2, 3, ..., without a torn last line; none without a file."""
    path = Path(folder) / ROWS
    try:
        lines = files.read_bytes(path, limit=LIMITS[ROWS]).split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    rows = []
    for number, line in enumerate(lines, start=1):
        row = files.parse_json(line, f"{path}, line {number}: not a JSON row; the file")
        if not isinstance(row, dict) or row.get("epoch") != number or type(row["epoch"]) is not int:
            raise DamagedFile(f"{path}, line {number}: the row of epoch {number} is expected there")
        rows.append(row)
    return rows


def truncate_rows(folder: str | Path, epoch: int) -> None:
    """Cuts `metrics.jsonl` to the rows up to and including `epoch`."""
    path = Path(folder) / ROWS
    if os.path.lexists(path):
        files.replace(path, b"".join(map(_line, read_rows(folder)[:epoch])))


def sync_rows(folder: str | Path) -> None:
    """Waits until the rows are on the disk."""
    with contextlib.suppress(FileNotFoundError):
        files.sync(Path(folder) / ROWS)


def write_status(
    folder: str | Path,
    status: Status,
    *,
    identity: str,
    epoch: int,
    started: str,
    ended: str | None = None,
    reason: str | None = None,
) -> None:
    """Writes `status.json`, with this process's pid and host. Times are ISO 8601 in UTC."""
    content = {
        "status": status,
        "reason": reason,
        "epoch": epoch,
        "started": started,
        "ended": ended,
        "identity": identity,
        "pid": os.getpid(),
        "host": socket.gethostname(),
    }
    write_json(Path(folder) / STATUS, content)


def now() -> str:
    """The time as `write_status` takes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_status(folder: str | Path) -> dict[str, Any] | None:
    """`status.json`, or None if there is none."""
    return _read_fields(Path(folder) / STATUS, STATUS_FIELDS)


def write_summary(folder: str | Path, summary: Mapping[str, Any]) -> None:
    """Writes `summary.json`."""
    write_json(Path(folder) / SUMMARY, summary)


def read_summary(folder: str | Path) -> dict[str, Any] | None:
    """`summary.json`, or None if there is none."""
    path = Path(folder) / SUMMARY
    summary = _read_fields(path, SUMMARY_FIELDS)
    if summary is not None:
        check_summary(str(path), summary)
    return summary


def check_summary(where: str, summary: Any, epochs: int | None = None) -> None:
    """DamagedFile unless a value is the summary of a run, of so many epochs if that is given."""
    if not isinstance(summary, Mapping):
        raise DamagedFile(f"{where} is damaged: a mapping is expected")
    check_fields(where, summary, SUMMARY_FIELDS)
    check_fields(f"{where}, data", summary["data"], DATA_FIELDS)
    check_fields(f"{where}, spec", summary["spec"], SPEC_FIELDS)
    classes, names = len(summary["test/confusion_matrix"]), summary["data"].get("class_names")
    if names is not None and not (checks.NAMES.holds(names) and len(names) == classes):
        raise DamagedFile(f"{where} is damaged: data.class_names must be {classes} names")
    if epochs is not None and summary["kept_epoch"] > epochs:
        raise DamagedFile(f"{where} is damaged: kept_epoch is {summary['kept_epoch']} of {epochs} epochs")


def check_rows(where: str, rows: Sequence[Any]) -> None:
    """DamagedFile unless these are the rows of epochs 1, 2, 3, ..., each with all of its numbers."""
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping) or row.get("epoch") != number or type(row["epoch"]) is not int:
            raise DamagedFile(f"{where}, line {number}: the row of epoch {number} is expected there")
        usual = type(row.get("examples_seen")) is int and all(type(row.get(name)) is float for name in FLOATS)
        if not usual:  # rows are many
            check_fields(f"{where}, line {number}", row, ROW_FIELDS)


def read_record(folder: str | Path, *, whole: bool = True) -> Record:
    """The files of the run in a folder; DamagedFile if one is damaged, or if they don't fit together.

    FileNotFoundError if there is no status. The checkpoint of a run that is done must be that of its end; it
    may be missing unless the run must be `whole`.
    """
    folder = Path(folder)
    status = read_status(folder)
    if status is None:
        raise FileNotFoundError(2, "No such file or directory", str(folder / STATUS))
    try:
        config = read_config(folder)
    except FileNotFoundError:
        raise DamagedFile(f"{folder / CONFIG} is missing") from None
    rows, summary = read_rows(folder), None
    check_rows(str(folder / ROWS), rows)
    if status["status"] == "done":
        summary = read_summary(folder)
        if summary is None:
            raise DamagedFile(f"the run in {folder} is done, but {SUMMARY} is missing")
        check_end(folder, status, rows, summary, whole=whole)
    return Record(status, config, rows, summary)


def check_end(
    folder: Path,
    status: Mapping[str, Any],
    rows: Sequence[Any],
    summary: Mapping[str, Any],
    *,
    whole: bool,
) -> None:
    """DamagedFile unless the files of a run that is done are all of one run and of its end."""
    if summary["identity"] != status["identity"]:
        raise DamagedFile(f"{folder / SUMMARY} is of another run than {STATUS}")
    if len(rows) != status["epoch"] or not 1 <= summary["kept_epoch"] <= len(rows):
        raise DamagedFile(f"{folder / ROWS} has {len(rows)} epochs; {STATUS} says {status['epoch']}")
    if os.path.lexists(folder / CHECKPOINT):
        check_final(folder / CHECKPOINT, read_meta(folder / CHECKPOINT), summary, len(rows))
    elif whole:
        raise DamagedFile(f"the run in {folder} is done, but {CHECKPOINT} is missing")


def check_final(path: Path, meta: Mapping[str, Any], summary: Mapping[str, Any], epochs: int) -> None:
    """DamagedFile unless what a checkpoint tells of itself is of a summary's run, and of its last epoch."""
    if meta.get("identity", summary["identity"]) != summary["identity"]:  # older ones tell none
        raise DamagedFile(f"{path} is a checkpoint of another run than {SUMMARY}")
    if meta.get("epoch") != epochs:
        raise DamagedFile(f"{path} is of epoch {meta.get('epoch')}; the run has {epochs}")


def find_run(root: str | Path, identity: str) -> Path | None:
    """The run folder at or below `root` with this identity, or None.

    The newest started one that is not done; if all are done, the newest of them.
    """
    found = []
    for folder, subfolders, names in os.walk(root):
        if STATUS not in names:
            continue
        subfolders.clear()  # a run folder holds no other run, but W&B's many files
        try:
            status = read_status(folder) or {}
        except (ConfigError, OSError):
            continue  # some other run's damage is not this one's error
        if status.get("identity") == identity:
            found.append((status.get("status") != "done", str(status.get("started")), folder))
    return Path(max(found)[-1]) if found else None


def check_fields(where: str, content: Mapping[str, Any], fields: Mapping[str, Check]) -> None:
    """DamagedFile unless every field is there and of its kind; fields that we don't know are left alone."""
    for name, check in fields.items():
        if name not in content:
            raise DamagedFile(f"{where} is damaged: {name} is missing")
        if not check.holds(content[name]):
            found = checks.shorten(content[name])
            raise DamagedFile(f"{where} is damaged: {name} must be {check.allowed}; found {found!r}")


def is_square(matrix: Any) -> bool:
    """Whether a value is a square matrix of whole numbers, as lists."""
    if type(matrix) is not list or not 1 < len(matrix) <= MOST_CLASSES:
        return False
    return all(
        type(row) is list and len(row) == len(matrix) and all(type(x) is int and 0 <= x <= EXACT for x in row)
        for row in matrix
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file."""
    files.replace(path, json.dumps(finite(content), indent=1, allow_nan=False).encode() + b"\n")


def _read_fields(path: Path, fields: Mapping[str, Check]) -> dict[str, Any] | None:
    """The JSON object in a file with these fields, or None if there is no file."""
    try:
        content = _as_mapping(path, files.read_json(path, limit=LIMITS[path.name]))
    except FileNotFoundError:
        return None
    check_fields(str(path), content, fields)
    return content


def _as_mapping(path: Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DamagedFile(f"{path} is damaged: a mapping is expected, found {checks.shorten(value)!r}")
    return value


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(finite(row), allow_nan=False).encode() + b"\n"


def _end_of_whole_lines(file: Any) -> int:
    """The offset after the last newline, searched from the end."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 4096)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
