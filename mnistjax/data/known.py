"""The table of the data sets that come with the package: how each is loaded, and its options.

TFDS is imported only when it prepares data.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mnistjax import files
from mnistjax.checks import FLAG, TEXT, Check, optional, whole
from mnistjax.data import folder, idx, kannada, medmnist, npz, usps
from mnistjax.data.arrays import Arrays, DataError, check_arrays
from mnistjax.data.digits import load_digits
from mnistjax.data.prepared import Damaged, Recipe, load_prepared, read_arrays, read_manifest

Load = Callable[..., Arrays]
"""(data_dir, raw_dir, **options) -> the arrays."""
Find = Callable[[Path, str], Arrays]
"""(data_dir, SHA-256 of the data set) -> the prepared arrays; DataError if there are none. Writes nothing."""

SIDE = whole(1)
SIZE = Check(
    lambda x: SIDE.holds(x) or (isinstance(x, (list, tuple)) and len(x) == 2 and all(map(SIDE.holds, x))),
    "a side of at least 1 pixel, [height,width]",
)
CHANNELS = Check(lambda x: type(x) is int and x in (1, 3), "1, 3")


@dataclass(frozen=True)
class Row:
    """A row of the table of data sets."""

    load: Load
    reads_raw_dir: bool = False
    expects: str = "a folder with the official files"  # as data.raw_dir
    takes_file: bool = False  # whether data.raw_dir may be a file
    find: Find | None = None  # if `load` prepares anything
    stamp: Callable[[Path], str] | None = None  # changes with the user's own files in data.raw_dir
    options: Mapping[str, tuple[Check, Any]] = field(default_factory=dict)  # their checks and defaults


def find_prepared(name: str, data_dir: Path, sha256: str) -> Arrays:
    """The prepared arrays of a known data set."""
    try:
        return read_arrays(name, data_dir / "mnistjax" / name)
    except FileNotFoundError:
        raise DataError(f"{name} is not prepared in {data_dir}") from None
    except OSError as error:
        raise DataError(f"{name} can't be read: {files.describe(error, data_dir)}") from None


def find_own(kind: str, data_dir: Path, sha256: str) -> Arrays:
    """The prepared arrays of a user's own files, which have this SHA-256."""
    home = data_dir / "mnistjax"
    for place in sorted(home.glob(f"{kind}-*")):
        with contextlib.suppress(OSError, Damaged, files.DamagedFile):
            manifest = read_manifest(place)
            if manifest["sha256"] == sha256:
                return read_arrays(place.name, place, manifest["stamp"])
    raise DataError(f"no {kind} with the SHA-256 {sha256} is prepared in {data_dir}")


def load_own(
    kind: str, stamp: Callable[[Path], str], load: Load, data_dir: Path, raw_dir: Path | None, **options: Any
) -> Arrays:
    """The arrays of a user's own files, prepared again if the files have changed.

    Each path with each choice of options has a folder of its own among the prepared data.
    """
    if raw_dir is None:
        raise DataError(f"data set {kind!r} needs data.raw_dir={'FILE' if kind == 'npz' else 'FOLDER'}")
    chosen = repr((os.path.realpath(raw_dir), sorted(options.items())))
    key = hashlib.sha256(chosen.encode("utf-8", "surrogateescape"))

    def read(folder: Path, downloads: Path, raw_dir: Path | None) -> Arrays:
        return check_arrays(str(raw_dir), load(raw_dir, **options))  # an error names the user's files

    name = f"{kind}-{key.hexdigest()[:16]}"
    return load_prepared(name, Recipe(read), data_dir, raw_dir, stamp=stamp(raw_dir))


def _prepare_records(name: str, folder: Path, downloads: Path, raw_dir: Path | None) -> Arrays:
    from mnistjax.data import builders

    return builders.prepare(name, data_dir=folder / "tfds", downloads=downloads, raw_dir=raw_dir)


def _restore_records(name: str, folder: Path) -> Arrays:
    from mnistjax.data import builders

    return builders.decode(name, folder / "tfds")


def _known(name: str, recipe: Recipe) -> Row:
    return Row(partial(load_prepared, name, recipe), reads_raw_dir=True, find=partial(find_prepared, name))


def _official(read: Callable[..., Arrays]) -> Recipe:
    """The Recipe of a reader of official files, which takes `raw_dir` and `downloads`."""
    return Recipe(lambda folder, downloads, raw_dir: read(raw_dir=raw_dir, downloads=downloads))


def _refuse_medmnist(data_dir: Path, raw_dir: Path | None, subset: str | None = None) -> Arrays:
    """Raises the error for a subset that is no data set."""
    return medmnist.read(subset, raw_dir=raw_dir, downloads=data_dir)


# Those that TFDS knows: in MNIST's format, and others.
IDX_RECORDS = (
    *("mnist", "fashion_mnist", "kmnist", "emnist_balanced", "emnist_letters", "emnist_digits"),
    *("emnist_byclass", "emnist_bymerge", "emnist_mnist"),
)
RECORDS = (*IDX_RECORDS, "cifar10", "cifar100", "svhn_cropped")
HANDWRITING = {*IDX_RECORDS, "digits", "idx", "usps", "kannada_mnist"} - {"fashion_mnist"}
LIGHT_ON_DARK = HANDWRITING | {"fashion_mnist"}  # images like MNIST's, which are shown as dark on light
DATASETS: dict[str, Row] = {
    **{
        name: _known(name, Recipe(partial(_prepare_records, name), partial(_restore_records, name)))
        for name in RECORDS
    },
    **{name: _known(name, _official(partial(medmnist.read, name))) for name in medmnist.SUBSETS},
    "medmnist": Row(_refuse_medmnist, reads_raw_dir=True, options={"subset": (optional(TEXT), None)}),
    "usps": _known("usps", _official(usps.read)),
    "kannada_mnist": _known("kannada_mnist", _official(kannada.read)),
    "npz": Row(
        partial(load_own, "npz", npz.fingerprint, npz.load_npz),
        expects="an npz file, or a folder with one,",
        takes_file=True,
        find=partial(find_own, "npz"),
        stamp=npz.fingerprint,
        options={"group": (optional(TEXT), None)},
    ),
    "digits": Row(lambda data_dir, raw_dir: load_digits()),
    "folder": Row(
        partial(load_own, "folder", folder.fingerprint, folder.load_folder),
        expects="a folder with a folder of pictures for each class",
        find=partial(find_own, "folder"),
        stamp=folder.fingerprint,
        options={
            "size": (optional(SIZE), None),
            "channels": (optional(CHANNELS), None),
            "group": (optional(Check(TEXT.holds, "a regular expression")), None),
            "skip_bad": (FLAG, False),
        },
    ),
    "idx": Row(lambda data_dir, raw_dir: idx.load_files(raw_dir), reads_raw_dir=True, stamp=idx.fingerprint),
}
