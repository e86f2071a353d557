"""The records of a run: its config, rows, status and summary. Each is written whole and checked when read.

A folder can come from anyone and can be damaged in any way. So every value is checked for type, range and
size, and the files must belong together. If not, a `DamagedFile` names the file and the reason. JSON has no
NaN: non-finite floats are written as "nan", "inf" and "-inf", which `float` understands.
"""

import contextlib
import json
import os
import re
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from mnistjax import files
from mnistjax.checkpoints import CHECKPOINT, PREVIOUS, finite, read_meta
from mnistjax.checks import Check
from mnistjax.config import ConfigError, to_plain
from mnistjax.files import DamagedFile
from mnistjax.records.fields import (
    AGENT_RUN,
    STATUS_FIELDS,
    SUMMARY_FIELDS,
    Status,
    check_epochs,
    check_fields,
    check_mapping,
    check_rows,
    check_summary,
)

CONFIG = "config.yaml"
ROWS = "metrics.jsonl"
STATUS = "status.json"
SUMMARY = "summary.json"
LOCK = "lock"
NOT_FINITE = ("nan", "inf", "-inf")  # numbers that JSON lacks, as texts
LOG = "mnistjax.log"
FILES = (CONFIG, ROWS, STATUS, SUMMARY, CHECKPOINT, PREVIOUS)  # written by a run
HYDRA = (LOG, ".hydra")  # written by Hydra in the same folder
LONGEST_ROW = 2**16  # bytes
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # in C: 0.4 ms a config, not 3 ms
LIMITS = {CONFIG: files.MIB, STATUS: files.MIB, SUMMARY: 16 * files.MIB, ROWS: 512 * files.MIB}  # bytes


@dataclass(frozen=True, eq=False)
class Record:
    """The content of one run's files, which belong together."""

    status: dict[str, Any]
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    summary: dict[str, Any] | None  # None unless the run is done


@contextlib.contextmanager
def lock(folder: str | Path) -> Iterator[None]:
    """Locks a run or sweep folder, which is made if it is missing; FolderInUse if a living process owns it.

    ConfigError if a link in the folder leads elsewhere, or if the file with the lock's name is not ours.
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


def check_unused(folder: str | Path, names: Sequence[str]) -> None:
    """Raises DamagedFile if a folder without a status has a file with a name that a run would write."""
    for name in names:
        if os.path.lexists(path := Path(folder) / name):
            why = f"is not a run's file, or its run is damaged, because {STATUS} is missing"
            raise DamagedFile(f"{path} {why}; choose another folder")


def write_config(folder: str | Path, config: Mapping[str, Any]) -> None:
    """Writes `config.yaml` with the keys in their order."""
    text = yaml.dump(to_plain(config), Dumper=DUMPER, sort_keys=False, allow_unicode=True)
    files.replace(Path(folder) / CONFIG, text.encode())


def read_config(folder: str | Path) -> dict[str, Any]:
    """`config.yaml`, a nested dict of plain values; FileNotFoundError if it is missing."""
    path = Path(folder) / CONFIG
    return check_mapping(str(path), files.read_yaml(path, limit=LIMITS[CONFIG]))


def append_row(folder: str | Path, row: Mapping[str, Any]) -> None:
    """Appends a row to `metrics.jsonl`, after removing an incomplete last line of a killed writer.

    OSError (a full disk) leaves the rows unchanged.
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
    """The rows of `metrics.jsonl`, epochs 1, 2, ..., without an incomplete last line; [] without a file."""
    path = Path(folder) / ROWS
    try:
        lines = files.read_bytes(path, limit=LIMITS[ROWS]).split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    numbered = enumerate(lines, start=1)
    rows = [files.parse_json(line, f"{path}, line {number}: the row") for number, line in numbered]
    check_epochs(str(path), rows)
    return rows


def truncate_rows(folder: str | Path, epoch: int) -> None:
    """Removes the rows after `epoch` from `metrics.jsonl`."""
    path = Path(folder) / ROWS
    if os.path.lexists(path):
        files.replace(path, b"".join(map(_line, read_rows(folder)[:epoch])))


def write_status(
    folder: str | Path,
    status: Status,
    *,
    identity: str,
    epoch: int,
    started: str,
    ended: str | None = None,
    reason: str | None = None,
    continued: Sequence[Mapping[str, Any]] = (),
    wandb: Mapping[str, str | None] | None = None,
) -> None:
    """Writes `status.json`, with this process's id and host. Times are ISO 8601 in UTC.

    `continued` lists the epochs after which the run continued under other conditions, and `wandb` is the W&B
    run if another program has made it. Both are left out if empty.
    """
    content = {"status": status, "reason": reason, "epoch": epoch, "started": started, "ended": ended}
    content |= {"continued": continued} if continued else {}
    content |= {"wandb": wandb} if wandb else {}
    content |= {"identity": identity, "pid": os.getpid(), "host": socket.gethostname()}
    write_json(Path(folder) / STATUS, content)


def now() -> str:
    """The current time in the format of `write_status`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_status(folder: str | Path) -> dict[str, Any] | None:
    """`status.json`, or None if it is missing."""
    path = Path(folder) / STATUS
    status = _read_fields(path, STATUS_FIELDS)
    check_fields(str(path), {"wandb": None, **(status or {})}, {"wandb": AGENT_RUN})
    return status


def write_summary(folder: str | Path, summary: Mapping[str, Any]) -> None:
    """Writes `summary.json`."""
    write_json(Path(folder) / SUMMARY, summary)


def read_summary(folder: str | Path) -> dict[str, Any] | None:
    """`summary.json`, or None if it is missing."""
    path = Path(folder) / SUMMARY
    summary = _read_fields(path, SUMMARY_FIELDS)
    if summary is not None:
        check_summary(str(path), summary)
    return summary


def read_record(folder: str | Path, *, whole: bool = True) -> Record:
    """The files of the run in a folder; DamagedFile if one is damaged, or if they don't belong together.

    FileNotFoundError if there is no status. If the run is done, its checkpoint must be the final one; it may
    be missing unless `whole`.
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
        _check_end(folder, status, rows, summary, whole)
    return Record(status, config, rows, summary)


def as_number(value: Any) -> Any:
    """A value of a record, as a float if it is "nan", "inf" or "-inf"."""
    return float(value) if type(value) is str and value in NOT_FINITE else value


def find_kept_row(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row of the epoch that a run keeps, or its last one; empty before the first epoch has ended."""
    epoch = int(summary.get("kept_epoch", len(rows)))
    return rows[epoch - 1] if 0 < epoch <= len(rows) else {}


def _check_end(
    folder: Path, status: Mapping[str, Any], rows: Sequence[Any], summary: Mapping[str, Any], whole: bool
) -> None:
    """Raises DamagedFile unless the files in a finished run's folder all belong to the end of that run."""
    if summary["identity"] != status["identity"]:
        raise DamagedFile(f"{folder / SUMMARY} is of another run than {STATUS}")
    if len(rows) != status["epoch"] or not 1 <= summary["kept_epoch"] <= len(rows):
        raise DamagedFile(f"{folder / ROWS} has {len(rows)} epochs; {STATUS} says {status['epoch']}")
    if os.path.lexists(folder / CHECKPOINT):
        check_final(folder / CHECKPOINT, read_meta(folder / CHECKPOINT), summary, len(rows))
    elif whole:
        raise DamagedFile(f"the run in {folder} is done, but {CHECKPOINT} is missing")


def check_final(path: Path, meta: Mapping[str, Any], summary: Mapping[str, Any], epochs: int) -> None:
    """Raises DamagedFile unless a checkpoint's meta belongs to the summary's run and to its last epoch."""
    if meta.get("identity", summary["identity"]) != summary["identity"]:  # old checkpoints have none
        raise DamagedFile(f"{path} is a checkpoint of another run than {SUMMARY}")
    if meta.get("epoch") != epochs:
        raise DamagedFile(f"{path} is of epoch {meta.get('epoch')}; the run has {epochs}")


def find_run(root: str | Path, identities: Collection[str]) -> Path | None:
    """The run folder at or below `root` with one of these identities, or None.

    Of several, it is the last started one that is not done, or if all are done, the last started one.
    """
    found = []
    for folder, subfolders, names in os.walk(root):
        if STATUS not in names:
            continue
        subfolders.clear()  # a run folder contains no other run, but many files of W&B
        try:
            status = read_status(folder) or {}
        except (ConfigError, OSError):
            continue  # damage to another run does not matter here
        if status.get("identity") in identities:
            found.append((status.get("status") != "done", str(status.get("started")), folder))
    return Path(max(found)[-1]) if found else None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file."""
    files.replace(path, json.dumps(finite(content), indent=1, allow_nan=False).encode() + b"\n")


def _read_fields(path: Path, fields: Mapping[str, Check]) -> dict[str, Any] | None:
    """The JSON object with these fields in a file, or None if the file is missing."""
    try:
        content = check_mapping(str(path), files.read_json(path, limit=LIMITS[path.name]))
    except FileNotFoundError:
        return None
    check_fields(str(path), content, fields)
    return content


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(finite(row), allow_nan=False).encode() + b"\n"


def _end_of_whole_lines(file: Any) -> int:
    """The offset after the last newline, which is among the last LONGEST_ROW bytes."""
    start = max(0, file.seek(0, os.SEEK_END) - LONGEST_ROW)
    file.seek(start)
    return start + file.read().rfind(b"\n") + 1
