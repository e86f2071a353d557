"""Files of `np.savez`: their arrays, read without pickles, and a user's own data set in one.

N images, H W their sides in pixels, C channels, K classes.
"""

import contextlib
import logging
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnistjax.checks import MOST_CLASSES
from mnistjax.config import shorten
from mnistjax.data import idx
from mnistjax.data.arrays import (
    ARRAYS,
    LARGEST,
    VAL_ARRAYS,
    Arrays,
    DataError,
    check_labels,
    read_npy,
    read_npy_header,
)
from mnistjax.data.splits import hold_out

CLASS_NAMES = "class_names"
PREFIXES = "train_", "test_", "val_", "valid"  # of names that seem to be arrays of a split
log = logging.getLogger(__name__)
MEDMNIST = {name: name for name in (*ARRAYS, *VAL_ARRAYS)}  # names of the arrays in MedMNIST's files
KERAS_NAMES = "x_train", "y_train", "x_test", "y_test", "x_val", "y_val"
KERAS = dict(zip(MEDMNIST, KERAS_NAMES, strict=True))  # and in Keras's


class Header(NamedTuple):
    """What a file of `np.save` says about its array."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}{' in Fortran order' if self.fortran_order else ''}"


class Kind(NamedTuple):
    """What an array may be."""

    allowed: str
    accepts: Callable[[Header], bool]


IMAGES = Kind(
    "uint8 (N, H, W) or (N, H, W, C)",
    lambda header: header.dtype == np.uint8 and len(header.shape) in (3, 4),
)
LABELS = Kind(
    "integers (N,) or (N, 1)",
    lambda header: header.dtype.kind in "iu" and (len(header.shape) == 1 or header.shape[1:] == (1,)),
)
GROUPS = Kind(
    "integers or strings of type <U (N,)",
    lambda header: len(header.shape) == 1 and (header.dtype.kind in "iu" or header.dtype.str[:2] == "<U"),
)
STRINGS = Kind(
    "strings of type <U (K,)", lambda header: len(header.shape) == 1 and header.dtype.str[:2] == "<U"
)


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens a user's file of `np.savez`; errors of reading it become DataErrors that name the file."""
    with (
        idx.readable(str(path), "npz"),
        idx.open_file(path) as file,
        zipfile.ZipFile(file) as archive,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # NumPy warns of files that Python 2 wrote
        yield archive


def read_array(
    archive: zipfile.ZipFile, key: str, item: tuple[int, ...], dtype: Any, most: int
) -> np.ndarray:
    """An array of at most `most` items of this shape and type; KeyError if it is missing, else ValueError."""
    with archive.open(f"{key}.npy") as stream:
        return read_npy(stream, item, np.dtype(dtype), most)


def load_npz(path: Path, group: str | None = None) -> Arrays:
    """The user's own data set in a file of `np.savez`, or in the only .npz file of a folder.

    The arrays have Keras's names (x_train, y_train, x_test, ...) or MedMNIST's (train_images, train_labels,
    ...). If there is no test split, 20 % of the training images become one, then 20 % of the rest the
    validation split if there is none. `group` names an array of the training split; images of equal values
    stay together. The array `class_names` has the K names; without it, they are "0", "1", ...
    """
    file = _find_file(path)
    with open_npz(file) as archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        arrays, labels = {}, []
        for split, images_key, labels_key in _match(file, keys):
            images = arrays[f"{split}_images"] = _read(archive, file, images_key, IMAGES)
            array = _read(archive, file, labels_key, LABELS).reshape(-1)
            idx.check_pair(images, images_key, array, f"{file}:{labels_key}")
            labels.append((f"{split}_labels", f"{file}:{labels_key}", array))
        names = _read_names(archive, file) if CLASS_NAMES in keys else None
        groups = None if group is None else _read_groups(archive, file, keys, group, len(labels[0][-1]))
    for name, where, array in labels:
        check_labels(where, array, range(len(names) if names else MOST_CLASSES))
        arrays[name] = array.astype(np.int32)
    names = names or tuple(map(str, range(1 + max(int(arrays[name].max()) for name, *_ in labels))))
    try:
        return Arrays(**_hold_out_missing(arrays, groups), class_names=names)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def fingerprint(path: Path) -> str:
    """A text that changes if another file is read, or if the file is written again."""
    file = _find_file(path)
    with idx.readable(str(file), "npz"):
        status = os.stat(file)
        return f"{file.name} {status.st_size} {status.st_mtime_ns}"


def _find_file(path: Path) -> Path:
    if not os.path.isdir(path):
        return path
    with idx.readable(str(path), "folder"):
        names = sorted(name for name in os.listdir(path) if name.endswith(".npz"))
    if len(names) != 1:
        found = ", ".join(map(repr, names[:5])) or "none"
        raise DataError(f"{path}: one .npz file expected, found {found}; data.raw_dir may name a file")
    return path / names[0]


def _match(file: Path, keys: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yields each split in the file (train, test or val) with the names of its images and its labels."""
    forms = [form for form in (KERAS, MEDMNIST) if {form[name] for name in ARRAYS[:2]} & {*keys}]
    if len(forms) != 1:
        expected = "x_train, y_train, ... or train_images, train_labels, ..."
        both = ", not both," if forms else ""
        raise DataError(f"{file}: arrays named {expected}{both} expected, found {_list(keys)}")
    (form,) = forms
    for split in ("train", "test", "val"):
        images, labels = form[f"{split}_images"], form[f"{split}_labels"]
        missing = {images, labels}.difference(keys)
        if len(missing) == 1:
            raise DataError(f"{file}: the arrays {images} and {labels} expected, found no {missing.pop()}")
        if not missing:
            yield split, images, labels
    known = {*form.values(), CLASS_NAMES}
    if unused := [key for key in keys if key not in known and key.startswith(("x_", "y_", *PREFIXES))]:
        log.warning("%s: not used: %s; expected names: %s", file, _list(unused), ", ".join(form.values()))


def _list(keys: list[str]) -> str:
    return ", ".join(repr(shorten(key)) for key in keys[:10]) or "none"


def _read(archive: zipfile.ZipFile, file: Path, key: str, kind: Kind) -> np.ndarray:
    """An array whose header the kind accepts; DataError for others."""
    where = f"{file}:{key}"
    with idx.readable(where, "npy"):
        with archive.open(f"{key}.npy") as stream:
            header = Header(*read_npy_header(stream))
        if header.fortran_order or min(header.shape, default=0) < 1 or not kind.accepts(header):
            raise DataError(f"{where}: {kind.allowed} in C order expected, found {header}")
        if (size := math.prod(header.shape) * header.dtype.itemsize) > LARGEST:
            raise DataError(f"{where}: at most {LARGEST:,} bytes expected, found {size:,}")
        return read_array(archive, key, header.shape[1:], header.dtype, header.shape[0])


def _read_names(archive: zipfile.ZipFile, file: Path) -> tuple[str, ...]:
    where = f"{file}:{CLASS_NAMES}"
    with idx.readable(where, "npy"):
        names = tuple(_read(archive, file, CLASS_NAMES, STRINGS).tolist())
    wrong = [name for name in names if not name or not name.isprintable()]
    if wrong:
        raise DataError(f"{where}: printable names expected, found {shorten(wrong[0])!r}")
    return names


def _read_groups(archive: zipfile.ZipFile, file: Path, keys: list[str], key: str, count: int) -> np.ndarray:
    if key not in keys:
        raise DataError(f"{file}: the array {shorten(key)!r} (data.group) expected, found {_list(keys)}")
    groups = _read(archive, file, key, GROUPS)
    if len(groups) != count:
        raise DataError(f"{file}:{key}: a value for each of {count} images expected, found {len(groups)}")
    return groups


def _hold_out_missing(arrays: dict[str, np.ndarray], groups: np.ndarray | None) -> dict[str, Any]:
    """The arrays with a test and a validation split, which are held out of the training split if missing."""
    missing = [split for split in ("test", "val") if f"{split}_images" not in arrays]
    if groups is not None and not missing:
        log.warning("data.group changes nothing: the file has a test and a validation split")
    for split in missing:
        rest, held = hold_out(arrays["train_labels"], groups)
        for kind in ("images", "labels"):
            whole = arrays[f"train_{kind}"]
            arrays = arrays | {f"train_{kind}": whole[rest], f"{split}_{kind}": whole[held]}
        groups = None if groups is None else groups[rest]
    return arrays
