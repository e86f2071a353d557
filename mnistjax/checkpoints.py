"""Checkpoints: arrays and facts about them (`meta`) in one safetensors file, with the SHA-256 of both.

Equal arrays and facts give equal files, because no time is written. A file whose content does not match its
SHA-256 is refused, so all damage is noticed.
"""

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

DTYPES = {  # by safetensors' names; its own reader for NumPy has no bfloat16
    "BOOL": np.dtype(bool),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
}


class CheckpointError(files.DamagedFile):
    """A checkpoint that is damaged, or not the expected one."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The content of a checkpoint's file."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    sha256: str  # of arrays and meta
    path: Path  # of the file: the current one or the previous one


def save_checkpoint(folder: str | Path, arrays: Mapping[str, np.ndarray], *, meta: Mapping[str, Any]) -> None:
    """Writes the checkpoint of a run folder, and keeps the current one as the previous one.

    OSError (a full disk) leaves both unchanged.
    """
    path = Path(folder) / CHECKPOINT
    files.replace(path, encode_checkpoint(arrays, meta), previous=path.with_name(PREVIOUS))


def encode_checkpoint(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> bytes:
    """The content of a checkpoint's file; equal for equal arrays and meta."""
    from safetensors.numpy import save

    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype not in DTYPES.values():
            raise CheckpointError(f"{name!r}: {array.dtype} can't be kept in a checkpoint")
    plain = finite(meta)
    # Only one metadata entry, because safetensors writes several in random order.
    record = canonical_json({"meta": plain, "sha256": digest(arrays, plain)})
    return save(arrays, {"mnistjax": record})


def load_checkpoint(folder: str | Path) -> Checkpoint | None:
    """The newest undamaged checkpoint of a run folder; None if the folder has neither of the two files.

    Warns if it is the previous checkpoint; CheckpointError if both are damaged.
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
    """The checkpoint in one safetensors file; CheckpointError if it is damaged or not ours."""
    import safetensors

    try:
        content = files.read_bytes(path, limit=LARGEST)
        arrays = {
            name: np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
            for name, tensor in safetensors.deserialize(content)
        }
        meta, expected = _parse_header(content[8 : 8 + int.from_bytes(content[:8], "little")], path)
    except (OSError, ValueError, KeyError, TypeError, MemoryError, safetensors.SafetensorError) as error:
        raise _refuse(path, error) from None
    if digest(arrays, meta) != expected:
        raise CheckpointError(f"{path} is damaged: its content does not match its SHA-256")
    return Checkpoint(arrays, meta, expected, Path(path))


def read_meta(path: str | Path) -> dict[str, Any]:
    """The meta in a checkpoint's header, without reading the arrays or verifying the SHA-256."""
    try:
        with open(files.open_plain(path, os.O_RDONLY), "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > HEADER:
                raise ValueError(f"a header of {length:,} bytes")
            return _parse_header(file.read(length), path)[0]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _refuse(path, error) from None


def _parse_header(header: bytes, path: str | Path) -> tuple[dict[str, Any], str]:
    """The meta, and the SHA-256 that arrays and meta must have."""
    text = files.parse_json(header, str(path))["__metadata__"]["mnistjax"]
    record = files.parse_json(str(text).encode(), str(path))
    meta, expected = record["meta"], record["sha256"]
    if not isinstance(meta, dict) or not isinstance(expected, str):
        raise ValueError("its header")
    return meta, expected


def _refuse(path: str | Path, error: Exception) -> CheckpointError:
    """The error for a file that is unreadable or not a checkpoint of ours."""
    if isinstance(error, files.DamagedFile):
        return CheckpointError(str(error))
    if isinstance(error, OSError):
        return CheckpointError(f"{path}: {error.strerror or error}")
    return CheckpointError(f"{path} is not a checkpoint of ours, or is damaged ({error!r})")


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
    """A tree with the template's structure and leaves from `arrays`; the inverse of `flatten`.

    The template's leaves are arrays or `jax.ShapeDtypeStruct`s. CheckpointError names a path that is missing,
    unexpected, or of another shape or dtype.
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
    """The dtype and the shape of an array, "float32[2, 3]"."""
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def digest(arrays: Mapping[str, np.ndarray], meta: Any) -> str:
    """SHA-256 of names, dtypes, shapes, bytes and meta."""
    names = sorted(arrays)
    kinds = [[name, arrays[name].dtype.name, list(arrays[name].shape)] for name in names]
    hashed = hashlib.sha256(canonical_json([meta, kinds]).encode())
    for name in names:
        hashed.update(arrays[name].tobytes())
    return hashed.hexdigest()


def finite(value: Any) -> Any:
    """`value` as JSON types, with "nan", "inf" and "-inf" for non-finite numbers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    plain = to_plain(value)
    return plain if plain is value else finite(plain)
