"""Checkpoints: arrays and facts in one safetensors file, with the SHA-256 of both.

Equal arrays and facts give equal files: no clock is inside. A file whose content is not what its SHA-256 says
is refused, so no damage goes unseen.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mnistjax import files
from mnistjax.config import canonical_json, to_plain

CHECKPOINT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"
LARGEST = 8 * 1024 * files.MIB  # bytes of a checkpoint
HEADER = 16 * files.MIB  # bytes of its header
MALFORMED = (ValueError, KeyError, TypeError, AttributeError)

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


class CheckpointError(files.DamagedFile):
    """A checkpoint that can't be trusted, or that is not the one asked for."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    sha256: str  # of arrays and meta
    path: Path  # the file it was read from: the current one, or the one before it


def save_checkpoint(folder: str | Path, arrays: Mapping[str, np.ndarray], *, meta: Mapping[str, Any]) -> None:
    """Writes the checkpoint of a run folder; the one before it is kept as the previous one.

    OSError (a full disk) leaves both as they were.
    """
    path = Path(folder) / CHECKPOINT
    files.replace(path, encode_checkpoint(arrays, meta), previous=path.with_name(PREVIOUS))


def encode_checkpoint(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> bytes:
    """The safetensors file of arrays and meta, with the SHA-256 of both; equal ones give equal files."""
    from safetensors.numpy import save

    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype not in map(np.dtype, DTYPES.values()):
            raise CheckpointError(f"{name!r}: {array.dtype} can't be kept in a checkpoint")
    plain = finite(meta)
    # One metadata entry only: safetensors writes several in random order.
    record = canonical_json({"meta": plain, "sha256": _digest(arrays, plain)})
    return save(arrays, {"mnistjax": record})


def load_checkpoint(folder: str | Path) -> Checkpoint | None:
    """The newest checkpoint of a run folder whose SHA-256 is right, or None if there is none.

    Falls back to the previous one with a warning; CheckpointError if that is bad too.
    """
    current, previous = (Path(folder) / name for name in (CHECKPOINT, PREVIOUS))
    if not os.path.lexists(current) and not os.path.lexists(previous):
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
        content = files.read_bytes(path, limit=LARGEST)
        tensors = safetensors.deserialize(content)
        arrays = {
            name: np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
            for name, tensor in tensors
        }
        meta, expected = _parse_header(content[8 : 8 + int.from_bytes(content[:8], "little")], path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except files.DamagedFile as error:
        raise CheckpointError(str(error)) from None
    except (safetensors.SafetensorError, *MALFORMED, MemoryError) as error:
        raise CheckpointError(f"{path} is no checkpoint of ours, or damaged ({error!r})") from None
    if _digest(arrays, meta) != expected:
        raise CheckpointError(f"{path} is damaged: its content is not what its SHA-256 says")
    return Checkpoint(arrays, meta, expected, Path(path))


def read_meta(path: str | Path) -> dict[str, Any]:
    """What a checkpoint tells of itself, from its header: the arrays are not read, nothing is verified."""
    try:
        with open(files.open_plain(path, os.O_RDONLY), "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > HEADER:
                raise CheckpointError(f"{path} is no checkpoint of ours, or damaged (its header)")
            return _parse_header(file.read(length), path)[0]
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except MALFORMED as error:
        if isinstance(error, files.DamagedFile):
            raise CheckpointError(str(error)) from None
        raise CheckpointError(f"{path} is no checkpoint of ours, or damaged ({error!r})") from None


def _parse_header(header: bytes, path: str | Path) -> tuple[dict[str, Any], str]:
    """The meta, and the SHA-256 that the content should have."""
    text = files.parse_json(header, str(path))["__metadata__"]["mnistjax"]
    record = files.parse_json(text.encode(), str(path))
    meta, expected = record["meta"], record["sha256"]
    if not isinstance(meta, dict) or not isinstance(expected, str):
        raise CheckpointError(f"{path} is no checkpoint of ours, or damaged (its header)")
    return meta, expected


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


def finite(value: Any) -> Any:
    """`value` as JSON types, with "nan", "inf" and "-inf" for what JSON has no number for."""
    value = to_plain(value)
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
