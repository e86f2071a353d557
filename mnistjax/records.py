"""A run folder: rows, status, summary and checkpoint; atomic, verified, locked.

Every file but `metrics.jsonl` is replaced whole (temporary name, fsync, rename), so a reader never
sees half a file and a full disk leaves the previous one: the OSError is the caller's to judge.
JSON holds no NaN: non-finite floats are the strings "nan", "inf" and "-inf", which `float` reads back.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import yaml

from mnistjax.config import ConfigError, canonical_json, to_plain

Status = Literal["running", "done", "failed", "diverged", "interrupted"]

CONFIG = "config.yaml"
ROWS = "metrics.jsonl"
STATUS = "status.json"
SUMMARY = "summary.json"
CHECKPOINT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"
LOCK = "lock"

DTYPES = {  # safetensors' names; its NumPy reader knows no bfloat16
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
}


class RunLocked(ConfigError):
    """A run folder that a living process owns."""


class CheckpointError(ConfigError):
    """A checkpoint that can't be trusted, or that is of another shape than asked for."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    sha256: str  # of arrays and meta
    path: Path  # the file it was read from: the current one, or the one before it


@contextlib.contextmanager
def lock(folder: str | Path) -> Iterator[None]:
    """Ownership of a run folder, which is made where it is missing; RunLocked if a living process has it.

    The kernel drops the lock of a process that dies, however it dies. The pid inside is for the message.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(Path(folder) / LOCK, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().decode(errors="replace").strip() or "unknown"
            raise RunLocked(f"{folder} is in use by process {owner}; wait for it, or stop it") from None
        try:
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            file.flush()
            yield
        finally:
            file.truncate(0)
            fcntl.flock(file, fcntl.LOCK_UN)  # a forked child may hold the same open file


def is_locked(folder: str | Path) -> bool:
    """Whether a living process owns the run folder."""
    try:
        with open(Path(folder) / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def write_config(folder: str | Path, config: Mapping[str, Any]) -> None:
    """`config.yaml` now holds `config`, its keys in their order."""
    text = yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)
    replace_file(Path(folder) / CONFIG, text.encode())


def read_config(folder: str | Path) -> dict[str, Any]:
    """`config.yaml`."""
    return yaml.safe_load((Path(folder) / CONFIG).read_bytes())


def append_row(folder: str | Path, row: Mapping[str, Any]) -> None:
    """`row` is now the last line of `metrics.jsonl`; a line that a killed writer left torn is cut off first.

    OSError (a full disk) leaves the rows as they were.
    """
    with open(Path(folder) / ROWS, "ab+", buffering=0) as file:
        end = _end_of_whole_lines(file)
        file.truncate(end)
        line = _line(row)
        try:
            written = file.write(line)
            if written != len(line):  # the disk filled up within the line
                raise OSError(f"{Path(folder) / ROWS}: only {written} of {len(line)} bytes could be written")
        except OSError:
            file.truncate(end)
            raise


def read_rows(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` in order, without a torn last line; none where there is no file."""
    path = Path(folder) / ROWS
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise ConfigError(f"{path}, line {number}: not a JSON row; the file is damaged") from None
    return rows


def truncate_rows(folder: str | Path, epoch: int) -> None:
    """`metrics.jsonl` now holds the rows up to and including `epoch` only."""
    kept = [row for row in read_rows(folder) if row["epoch"] <= epoch]
    replace_file(Path(folder) / ROWS, b"".join(map(_line, kept)))


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
    """`status.json` now holds these and this process's pid and host. Times are ISO 8601 in UTC."""
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
    """`status.json`, or None where there is none."""
    return _read_json(Path(folder) / STATUS)


def write_summary(folder: str | Path, summary: Mapping[str, Any]) -> None:
    """`summary.json` now holds `summary`."""
    write_json(Path(folder) / SUMMARY, summary)


def read_summary(folder: str | Path) -> dict[str, Any] | None:
    """`summary.json`, or None where there is none."""
    return _read_json(Path(folder) / SUMMARY)


def find_run(root: str | Path, identity: str) -> Path | None:
    """The run folder at or below `root` with this identity, or None.

    The newest started one that is not done; where all are done, the newest of them.
    """
    found = []
    for folder, subfolders, files in os.walk(root):
        if STATUS not in files:
            continue
        subfolders.clear()  # a run folder holds no other run, but W&B's many files
        try:
            status = read_status(folder) or {}
        except ConfigError:
            continue  # some other run's damage is not this one's error
        if status.get("identity") == identity:
            found.append((status.get("status") != "done", str(status.get("started")), folder))
    return Path(max(found)[-1]) if found else None


def save_checkpoint(
    folder: str | Path, arrays: Mapping[str, np.ndarray], *, meta: Mapping[str, int | float | str]
) -> None:
    """The checkpoint now holds `arrays` and `meta`; the one before it is kept as the previous one.

    Equal arrays and meta give equal files. The rows reach the disk first, so that no checkpoint is
    ever ahead of them. OSError (a full disk) leaves both checkpoints as they were.
    """
    path = Path(folder) / CHECKPOINT
    content = encode_checkpoint(arrays, meta)
    with contextlib.suppress(FileNotFoundError):
        _fsync(path.with_name(ROWS))
    replace_file(path, content, previous=path.with_name(PREVIOUS))


def encode_checkpoint(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> bytes:
    """The safetensors file of arrays and meta, with the SHA-256 of both; equal ones give equal files."""
    from safetensors.numpy import save

    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype not in map(np.dtype, DTYPES.values()):
            raise CheckpointError(f"{name!r}: {array.dtype} can't be kept in a checkpoint")
    plain = _finite(meta)
    # One metadata entry only: safetensors writes several in random order.
    record = canonical_json({"meta": plain, "sha256": _digest(arrays, plain)})
    return save(arrays, {"mnistjax": record})


def load_checkpoint(folder: str | Path) -> Checkpoint | None:
    """The newest checkpoint whose SHA-256 is right, or None where there is none.

    Falls back to the previous one with a warning; CheckpointError if that is bad too.
    """
    current, previous = (Path(folder) / name for name in (CHECKPOINT, PREVIOUS))
    if not current.exists() and not previous.exists():
        return None
    try:
        return read_checkpoint(current)
    except CheckpointError as error:
        try:
            checkpoint = read_checkpoint(previous)
        except CheckpointError as second:
            raise CheckpointError(f"no usable checkpoint: {error}; {second}") from None
        warnings.warn(f"{error}; using {previous} instead", RuntimeWarning, stacklevel=2)
        return checkpoint


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint in one safetensors file; CheckpointError unless it is what was written."""
    import safetensors

    try:
        content = Path(path).read_bytes()
        arrays = {
            name: np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
            for name, tensor in safetensors.deserialize(content)
        }
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        record = json.loads(header["__metadata__"]["mnistjax"])
        meta, expected = record["meta"], record["sha256"]
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is no checkpoint of ours, or damaged ({error!r})") from None
    if _digest(arrays, meta) != expected:
        raise CheckpointError(f"{path} is damaged: its content is not what its SHA-256 says")
    return Checkpoint(arrays, meta, expected, Path(path))


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a pytree as host arrays by their path, {"params/Dense_0/kernel": array, ...}."""
    import jax

    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in arrays:
            raise CheckpointError(f"two leaves of the tree have the path {name!r}")
        arrays[name] = np.asarray(leaf)
    return arrays


def unflatten(template: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The tree of `template`'s structure with the leaves from `arrays`; the reverse of `flatten`.

    The template's leaves are arrays or `jax.ShapeDtypeStruct`s. CheckpointError names the path that is
    missing, superfluous, or of another shape or dtype.
    """
    import jax

    paths, structure = jax.tree_util.tree_flatten_with_path(template)
    wanted = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}
    for name in sorted(wanted.keys() ^ arrays.keys()):
        lack = "missing, expected" if name in wanted else "not expected, found"
        raise CheckpointError(f"{name!r} is {lack} {_kind(wanted.get(name, arrays.get(name)))}")
    for name, leaf in wanted.items():
        if _kind(leaf) != _kind(arrays[name]):
            raise CheckpointError(f"{name!r}: expected {_kind(leaf)}, found {_kind(arrays[name])}")
    return structure.unflatten([arrays[name] for name in wanted])


def _kind(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _digest(arrays: Mapping[str, np.ndarray], meta: Any) -> str:
    """SHA-256 of names, dtypes, shapes, bytes and meta."""
    names = sorted(arrays)
    kinds = [[name, arrays[name].dtype.name, list(arrays[name].shape)] for name in names]
    digest = hashlib.sha256(canonical_json([meta, kinds]).encode())
    for name in names:
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _finite(value: Any) -> Any:
    """`value` as JSON types, with "nan", "inf" and "-inf" for what JSON has no number for."""
    value = to_plain(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(_finite(row), allow_nan=False).encode() + b"\n"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """The JSON file now holds `content`."""
    replace_file(path, json.dumps(_finite(content), indent=1, allow_nan=False).encode() + b"\n")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise ConfigError(f"{path} is damaged: not JSON") from None


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


def replace_file(path: Path, content: bytes, *, previous: Path | None = None) -> None:
    """`path` now holds `content`, durably, and `previous`, where given, what it held."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
