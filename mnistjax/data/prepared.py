"""Data sets prepared once: a locked, all-or-nothing folder of TFDS's records and of decoded arrays.

`<data_dir>/mnistjax/<name>/` holds `tfds/` (array_record files), one .npy per array and `manifest.json`.
The arrays are there because reading 70,000 records back takes 3 to 5 s; the arrays take 0.1 s, verified.
"""

from __future__ import annotations

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
from mnistjax.data.arrays import PARTS, Arrays, DataError, check_arrays, digest

SHA256: dict[
    str, str | None
] = {  # of the decoded arrays, pinned where we have computed it from the real files
    "mnist": "88131c2e075497167ca8604fc743fd2fd768752b08db312cc900e5e6ed2cd86c",
    "fashion_mnist": None,
    "kmnist": None,
    "emnist_balanced": None,
    "emnist_letters": None,
    "emnist_digits": None,
    "emnist_byclass": None,
    "emnist_bymerge": None,
    "emnist_mnist": None,
}
LARGEST_JSON = 2**20  # bytes; of ours 1,000 at most, of TFDS's 10,000
LARGEST_RECORDS = 2**31  # bytes; the largest of TFDS's has 0.6 GB
log = logging.getLogger(__name__)


class Damaged(DataError):
    """Arrays that are not the ones that were written."""


def load_prepared(name: str, data_dir: Path, raw_dir: Path | None) -> Arrays:
    """The verified arrays of a data set, prepared first where they are not there or damaged."""
    home = data_dir / "mnistjax"
    with contextlib.suppress(FileNotFoundError, Damaged):
        return read_arrays(name, home / name)
    try:
        home.mkdir(parents=True, exist_ok=True)
        with files.lock(home / f"{name}.lock", wait=True):
            try:
                return read_arrays(name, home / name)  # another process has prepared it meanwhile
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


def is_prepared(name: str, data_dir: Path) -> bool:
    """Whether the data set was prepared, be it damaged since."""
    return os.path.lexists(data_dir / "mnistjax" / name / "manifest.json")


def read_arrays(name: str, folder: Path) -> Arrays:
    """The verified arrays in `folder`. FileNotFoundError: none were prepared; Damaged: they changed."""
    if not os.path.lexists(folder / "manifest.json"):
        raise FileNotFoundError(folder)
    try:
        manifest = _read_manifest(folder)
        parts = {part: _read_array(folder / f"{part}.npy", *_kind(part)) for part in PARTS}
        arrays = check_arrays(name, Arrays(**parts, class_names=manifest["class_names"]))
    except (OSError, files.DamagedFile, DataError) as error:
        why = files.describe(error, folder) if isinstance(error, OSError) else error
        raise Damaged(f"{folder}: damaged: {why}") from None
    expected, found = SHA256[name] or manifest["sha256"], digest(arrays)
    if found != expected:
        raise Damaged(f"{folder}: damaged: arrays of SHA-256 {expected} expected, found {found}")
    return arrays


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest = files.read_json(folder / "manifest.json", limit=LARGEST_JSON)
    names = manifest.get("class_names") if isinstance(manifest, dict) else None
    if not isinstance(names, list) or not isinstance(manifest.get("sha256"), str):
        raise files.DamagedFile(f"{folder / 'manifest.json'} is damaged: no SHA-256 and class names")
    return {"sha256": manifest["sha256"], "class_names": tuple(map(str, names))}


def _kind(part: str) -> tuple[np.dtype, tuple[int, ...]]:
    """The type of a part, and the shape of each of its items."""
    return (np.dtype(np.uint8), idx.IMAGE) if "images" in part else (np.dtype(np.int32), idx.LABEL)


def _read_array(path: Path, dtype: np.dtype, item: tuple[int, ...]) -> np.ndarray:
    """The array in a .npy file that `write_arrays` wrote; DamagedFile for any other.

    The number of items is that of the file's size, and the header must be theirs, to the byte: what it
    claims is never parsed, and nothing is allocated that the file does not hold.
    """
    with open(files.open_plain(path, os.O_RDONLY), "rb") as file:
        content = os.fstat(file.fileno()).st_size - len(_header(dtype, (0, *item)))
        count, rest = divmod(content, dtype.itemsize * int(np.prod(item)))
        if rest or not 0 < count <= idx.MOST:
            raise files.DamagedFile(f"{path} is damaged: of {content:,} bytes after its header")
        header = _header(dtype, (count, *item))
        if file.read(len(header)) != header:
            raise files.DamagedFile(f"{path} is damaged: no header of {count:,} items")
        return np.fromfile(file, dtype).reshape(count, *item)


def _header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """What `np.save` writes before the content of a contiguous array."""
    stream = io.BytesIO()
    described = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()


def write_arrays(folder: Path, arrays: Arrays) -> None:
    """Write the arrays, then the manifest that makes them valid."""
    for part in PARTS:
        array = getattr(arrays, part)
        files.replace(folder / f"{part}.npy", _header(array.dtype, array.shape) + array.tobytes())
    manifest = {"sha256": digest(arrays), "class_names": arrays.class_names}
    files.replace(folder / "manifest.json", json.dumps(manifest, indent=1).encode())


def _repair(name: str, home: Path) -> Arrays | None:
    """The arrays read back from the records beside damaged ones; None where there are no good ones."""
    folder = home / name
    try:
        expected = SHA256[name] or _read_manifest(folder)["sha256"]

        if not _is_plain(folder / "tfds"):
            return None

        from mnistjax.data import builders

        arrays = builders.decode(name, folder / "tfds")
    except Exception:  # damaged records may raise anything in TFDS; the source is the next resort
        return None
    if digest(arrays) != expected:
        return None
    for part in PARTS:
        if (path := folder / f"{part}.npy").is_dir():  # which a file can't replace
            _remove(path)
    write_arrays(folder, arrays)
    return arrays


def _is_plain(folder: Path) -> bool:
    """Whether all in a folder are regular files of sizes that TFDS writes: it would wait for a pipe, say."""
    for place, folders, names in os.walk(folder):
        for path in (os.path.join(place, name) for name in (*folders, *names)):
            status, largest = os.lstat(path), LARGEST_JSON if path.endswith(".json") else LARGEST_RECORDS
            if not stat.S_ISDIR(status.st_mode) and not (
                stat.S_ISREG(status.st_mode) and status.st_size <= largest
            ):
                return False
    return True


def _prepare(name: str, home: Path, raw_dir: Path | None) -> Arrays:
    """The arrays from the source. A folder gets its name when it is complete: a kill leaves no half one."""
    from mnistjax.data import builders

    partial, damaged = home / f"{name}.partial", home / f"{name}.damaged"
    for leftover in (partial, damaged):  # of a process that died; nobody else is here, the lock is ours
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
    """Removes a folder, or whatever else has its name, if it can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
