"""Prepared data sets: a locked folder, written whole or not at all, with the decoded arrays.

`<data_dir>/mnistjax/<name>/` has one .npy file per array, `manifest.json`, and `tfds/` (array_record files)
if TFDS knows the data set. The arrays are stored because reading 70,000 records takes 3 to 5 s; reading and
verifying arrays takes 0.1 s.
"""

import contextlib
import errno
import io
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnistjax import files
from mnistjax.checks import FLAG, NAMES, TEXT, TEXTS, list_of, optional, whole
from mnistjax.data import idx
from mnistjax.data.arrays import (
    ARRAYS,
    SIDE,
    VAL_ARRAYS,
    Arrays,
    DataError,
    Unreachable,
    check_arrays,
    digest,
    read_npy,
)

SHA256: dict[str, str] = {  # of the decoded arrays, if we had real files to compute it
    "mnist": "88131c2e075497167ca8604fc743fd2fd768752b08db312cc900e5e6ed2cd86c",
}
MANIFEST = {  # the facts about prepared arrays
    "sha256": TEXT,
    "class_names": NAMES,
    "image_shape": list_of(whole(1), "a list of sides"),
    "has_val": FLAG,
    "left_out": TEXTS,
    "warnings": TEXTS,
    "stamp": optional(TEXT),
}
LARGEST_JSON = 2**20  # bytes; TFDS's have at most 10,000
LARGEST_MANIFEST = 2**26  # bytes; 1,000 and the names of the files that were left out
LARGEST_RECORDS = 2**31  # bytes; TFDS's largest file has 0.6 GB
REFUSED = errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS  # no folder for downloads
log = logging.getLogger(__name__)


class Damaged(DataError):
    """Prepared arrays that have changed since they were written."""


class Recipe(NamedTuple):
    """How a data set is prepared."""

    prepare: Callable[[Path, Path, Path | None], Arrays]  # (a new folder for it, downloads, raw_dir)
    restore: Callable[[Path], Arrays] | None = None  # from what `prepare` left in its folder


def load_prepared(
    name: str, recipe: Recipe, data_dir: Path, raw_dir: Path | None, *, stamp: str | None = None
) -> Arrays:
    """The verified arrays of a data set, which is prepared first if it is missing or damaged.

    With a `stamp`, also if it was prepared with another one: from files that have changed since.
    """
    home = data_dir / "mnistjax"
    with contextlib.suppress(FileNotFoundError, Damaged):
        return read_arrays(name, home / name, stamp)
    try:
        home.mkdir(parents=True, exist_ok=True)
        with files.lock(home / f"{name}.lock", wait=True):
            try:
                return read_arrays(name, home / name, stamp)  # another process may have prepared it meanwhile
            except FileNotFoundError:
                pass
            except Damaged as damage:
                log.warning("%s; preparing %s again", damage, name)
            return _repair(name, recipe, home) or _prepare(name, recipe, home, raw_dir, stamp)
    except OSError as error:
        where = files.describe(error, home)
        kind = Unreachable if raw_dir is None and error.errno in REFUSED else DataError
        raise kind(f"{name} can't be prepared: {where}; choose another folder with data.dir=FOLDER") from None


def read_arrays(name: str, folder: Path, stamp: str | None = None) -> Arrays:
    """The verified arrays in a folder; FileNotFoundError if none were prepared, Damaged if they changed."""
    if not os.path.lexists(folder / "manifest.json"):
        raise FileNotFoundError(folder)
    try:
        manifest = read_manifest(folder)
        arrays = _read_arrays(name, folder, manifest) if manifest["stamp"] == stamp else None
    except (OSError, files.DamagedFile, DataError) as error:
        why = files.describe(error, folder) if isinstance(error, OSError) else error
        raise Damaged(f"{folder}: damaged: {why}") from None
    if arrays is None:
        raise FileNotFoundError(folder)
    expected, found = SHA256.get(name) or manifest["sha256"], digest(arrays)
    if found != expected:
        raise Damaged(f"{folder}: damaged: arrays of SHA-256 {expected} expected, found {found}")
    return arrays


def _read_arrays(name: str, folder: Path, manifest: dict[str, Any]) -> Arrays:
    keys = (*ARRAYS, *VAL_ARRAYS) if manifest["has_val"] else ARRAYS
    arrays: dict[str, Any] = {
        key: _read_array(folder / f"{key}.npy", manifest["image_shape"]) for key in keys
    }
    facts = {field: manifest[field] for field in ("class_names", "left_out", "warnings")}
    return check_arrays(name, Arrays(**arrays, **facts))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The facts about the arrays in a folder; DamagedFile if one is missing or wrong.

    Earlier manifests have only `sha256` and `class_names`; their images are 28 x 28.
    """
    manifest = files.read_json(folder / "manifest.json", limit=LARGEST_MANIFEST)
    default = {"image_shape": [SIDE, SIDE], "has_val": False, "left_out": [], "warnings": [], "stamp": None}
    found = default | manifest if isinstance(manifest, dict) else {}
    for field, check in MANIFEST.items():
        if field not in found or not check.holds(found[field]):
            where = folder / "manifest.json"
            raise files.DamagedFile(f"{where} is damaged: {field} must be {check.allowed}")
    lists = {field: tuple(found[field]) for field in ("class_names", "image_shape", "left_out", "warnings")}
    return found | lists


def _read_array(path: Path, image_shape: tuple[int, ...]) -> np.ndarray:
    """The array in a .npy file that `write_arrays` wrote; DamagedFile for any other file."""
    item, dtype = (image_shape, np.uint8) if "images" in path.name else ((), np.int32)
    with open(files.open_plain(path, os.O_RDONLY), "rb") as file:
        try:
            return read_npy(file, item, np.dtype(dtype), idx.MOST)
        except ValueError as error:
            raise files.DamagedFile(f"{path} is damaged: {error}") from None


def write_arrays(folder: Path, arrays: Arrays, stamp: str | None = None) -> None:
    """Writes the arrays, then the manifest, which makes them count as prepared."""
    for key, array in arrays.by_name.items():
        head = io.BytesIO()  # as np.save writes it, but without a copy of the array
        np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
        files.replace(folder / f"{key}.npy", head.getvalue(), array.data)
    manifest = {
        "sha256": digest(arrays),
        "class_names": arrays.class_names,
        "image_shape": arrays.train_images.shape[1:],
        "has_val": arrays.val_images is not None,
        "left_out": arrays.left_out,
        "warnings": arrays.warnings,
        "stamp": stamp,
    }
    files.replace(folder / "manifest.json", json.dumps(manifest, indent=1).encode())


def _repair(name: str, recipe: Recipe, home: Path) -> Arrays | None:
    """Restores damaged arrays from the records; None if the records are missing or damaged, too."""
    folder = home / name
    try:
        expected = SHA256.get(name) or read_manifest(folder)["sha256"]
        arrays = recipe.restore(folder) if recipe.restore and _is_plain(folder / "tfds") else None
    except Exception:  # TFDS may raise anything for damaged records; the caller prepares from the source
        return None
    if arrays is None or digest(arrays) != expected:
        return None
    for key in arrays.by_name:
        if (path := folder / f"{key}.npy").is_dir():  # a file can't replace a folder
            _remove(path)
    write_arrays(folder, arrays)
    return arrays


def _is_plain(folder: Path) -> bool:
    """Whether a folder has only regular files of plausible sizes; TFDS would wait for a pipe, for example."""
    for place, folders, names in os.walk(folder):
        for path in (os.path.join(place, name) for name in (*folders, *names)):
            status, largest = os.lstat(path), LARGEST_JSON if path.endswith(".json") else LARGEST_RECORDS
            regular = stat.S_ISREG(status.st_mode) and status.st_size <= largest
            if not regular and not stat.S_ISDIR(status.st_mode):
                return False
    return True


def _prepare(name: str, recipe: Recipe, home: Path, raw_dir: Path | None, stamp: str | None) -> Arrays:
    """Prepares the data set from its source and returns its arrays.

    The folder gets its final name when it is complete, so a kill leaves nothing that counts as prepared.
    """
    partial, damaged = home / f"{name}.partial", home / f"{name}.damaged"
    for leftover in (partial, damaged):  # of a process that died; we hold the lock
        _remove(leftover)
    partial.mkdir()
    try:
        arrays = check_arrays(name, recipe.prepare(partial, home / "downloads", raw_dir))
        found = digest(arrays)
        if found != (expected := SHA256.get(name) or found):
            raise DataError(f"{name}: decoded arrays of SHA-256 {expected} expected, found {found}")
        write_arrays(partial, arrays, stamp)
        if os.path.lexists(home / name):
            os.replace(home / name, damaged)
        os.replace(partial, home / name)
    finally:
        for leftover in (partial, damaged):
            _remove(leftover)
    return arrays


def _remove(path: Path) -> None:
    """Removes a folder or a file, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
