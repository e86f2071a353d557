"""Prepared data sets: a locked folder, written whole or not at all, with TFDS's records and decoded arrays.

`<data_dir>/mnistjax/<name>/` has `tfds/` (array_record files), one .npy file per array, and `manifest.json`.
The arrays are stored because reading 70,000 records takes 3 to 5 s; reading and verifying arrays takes 0.1 s.
"""

import contextlib
import io
import json
import logging
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np

from mnistjax import files
from mnistjax.data import idx
from mnistjax.data.arrays import PARTS, Arrays, DataError, check_arrays, digest, read_npy

SHA256: dict[str, str | None] = {  # of the decoded arrays; None if we had no real files to compute it
    "mnist": "88131c2e075497167ca8604fc743fd2fd768752b08db312cc900e5e6ed2cd86c",
    **dict.fromkeys(["fashion_mnist", "kmnist", "emnist_balanced", "emnist_letters", "emnist_digits"]),
    **dict.fromkeys(["emnist_byclass", "emnist_bymerge", "emnist_mnist"]),
}
LARGEST_JSON = 2**20  # bytes; ours have at most 1,000, TFDS's 10,000
LARGEST_RECORDS = 2**31  # bytes; TFDS's largest file has 0.6 GB
log = logging.getLogger(__name__)


class Damaged(DataError):
    """Prepared arrays that have changed since they were written."""


def load_prepared(name: str, data_dir: Path, raw_dir: Path | None) -> Arrays:
    """The verified arrays of a data set, which is prepared first if it is missing or damaged."""
    home = data_dir / "mnistjax"
    with contextlib.suppress(FileNotFoundError, Damaged):
        return read_arrays(name, home / name)
    try:
        home.mkdir(parents=True, exist_ok=True)
        with files.lock(home / f"{name}.lock", wait=True):
            try:
                return read_arrays(name, home / name)  # another process may have prepared it meanwhile
            except FileNotFoundError:
                pass
            except Damaged as damage:
                log.warning("%s; preparing %s again", damage, name)
            return _repair(name, home) or _prepare(name, home, raw_dir)
    except OSError as error:
        where = files.describe(error, home)
        raise DataError(
            f"{name} can't be prepared: {where}; choose another folder with data.dir=FOLDER"
        ) from None


def read_arrays(name: str, folder: Path) -> Arrays:
    """The verified arrays in a folder; FileNotFoundError if none were prepared, Damaged if they changed."""
    if not os.path.lexists(folder / "manifest.json"):
        raise FileNotFoundError(folder)
    try:
        manifest = _read_manifest(folder)
        parts = {part: _read_array(folder / f"{part}.npy") for part in PARTS}
        arrays = check_arrays(name, Arrays(**parts, class_names=manifest["class_names"]))
    except (OSError, files.DamagedFile, DataError) as error:
        why = files.describe(error, folder) if isinstance(error, OSError) else error
        raise Damaged(f"{folder}: damaged: {why}") from None
    expected, found = SHA256[name] or manifest["sha256"], digest(arrays)
    if found != expected:
        raise Damaged(f"{folder}: damaged: arrays of SHA-256 {expected} expected, found {found}")
    return arrays


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The SHA-256 and the class names in the folder's manifest."""
    manifest = files.read_json(folder / "manifest.json", limit=LARGEST_JSON)
    names = manifest.get("class_names") if isinstance(manifest, dict) else None
    if not isinstance(names, list) or not isinstance(manifest.get("sha256"), str):
        raise files.DamagedFile(f"{folder / 'manifest.json'} is damaged: no SHA-256 and class names")
    return {"sha256": manifest["sha256"], "class_names": tuple(map(str, names))}


def _read_array(path: Path) -> np.ndarray:
    """The array in a .npy file that `write_arrays` wrote; DamagedFile for any other file."""
    dtype = np.dtype(np.uint8 if "images" in path.name else np.int32)
    with open(files.open_plain(path, os.O_RDONLY), "rb") as file:
        try:
            return read_npy(file, idx.ITEMS[path.stem], dtype, idx.MOST)
        except ValueError as error:
            raise files.DamagedFile(f"{path} is damaged: {error}") from None


def write_arrays(folder: Path, arrays: Arrays) -> None:
    """Writes the arrays, then the manifest, which makes them count as prepared."""
    for part in PARTS:
        stream = io.BytesIO()
        np.save(stream, getattr(arrays, part))
        files.replace(folder / f"{part}.npy", stream.getvalue())
    manifest = {"sha256": digest(arrays), "class_names": arrays.class_names}
    files.replace(folder / "manifest.json", json.dumps(manifest, indent=1).encode())


def _repair(name: str, home: Path) -> Arrays | None:
    """Restores damaged arrays from the records; None if the records are missing or damaged, too."""
    folder = home / name
    try:
        expected = SHA256[name] or _read_manifest(folder)["sha256"]
        if not _is_plain(folder / "tfds"):
            return None
        from mnistjax.data import builders

        arrays = builders.decode(name, folder / "tfds")
    except Exception:  # TFDS may raise anything for damaged records; the caller prepares from the source
        return None
    if digest(arrays) != expected:
        return None
    for part in PARTS:
        if (path := folder / f"{part}.npy").is_dir():  # a file can't replace a folder
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


def _prepare(name: str, home: Path, raw_dir: Path | None) -> Arrays:
    """Prepares the data set from its source and returns its arrays.

    The folder gets its final name when it is complete, so a kill leaves nothing that counts as prepared.
    """
    from mnistjax.data import builders

    partial, damaged = home / f"{name}.partial", home / f"{name}.damaged"
    for leftover in (partial, damaged):  # of a process that died; we hold the lock
        _remove(leftover)
    partial.mkdir()
    try:
        downloads = home / "downloads"
        arrays = builders.prepare(name, data_dir=partial / "tfds", downloads=downloads, raw_dir=raw_dir)
        arrays = check_arrays(name, arrays)
        found = digest(arrays)
        if found != (SHA256[name] or found):
            raise DataError(f"{name}: decoded arrays of SHA-256 {SHA256[name]} expected, found {found}")
        write_arrays(partial, arrays)
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
