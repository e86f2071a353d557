"""Data sets as uint8 images and int32 labels: an open table, fixed splits, the order of an epoch.

N images, H = W = 28 pixels a side, K classes.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mnistjax import files
from mnistjax.checks import shorten
from mnistjax.config import ConfigError, unknown
from mnistjax.data import idx, prepared
from mnistjax.data.arrays import Arrays, DataError, Unreachable, check_arrays, digest
from mnistjax.data.digits import load_digits

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "Row",
    "Split",
    "find_data",
    "list_datasets",
    "load_data",
    "order",
    "register_dataset",
    "to_binary",
]

SPLIT_SEED = 48_12  # of training and validation; never the run's seed
ENTRY_POINTS = "mnistjax.datasets"
BANNER = """\
NOT MNIST: training on the 1,797 small digits embedded in scikit-learn.
MNIST is not prepared, not in a folder, and can't be downloaded here. To get it: connect to the network,
or give the four official files: data=mnist data.raw_dir=FOLDER (or the variable MNISTJAX_RAW_DIR)."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, read-only."""

    images: np.ndarray  # (N, H, W) uint8
    labels: np.ndarray  # (N,) int32


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, split; the same arrays wherever and whenever it is loaded."""

    name: str
    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    sha256: str  # of the decoded arrays and the split; `to_binary` keeps its source's
    banner: str | None = None  # what must be told loudly

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def class_counts(self) -> dict[str, list[int]]:
        """Images of each class in each part: {"train": [n_0, ...], "val": ..., "test": ...}."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {k: np.bincount(part.labels, minlength=self.num_classes).tolist() for k, part in parts.items()}


Load = Callable[[Path, Path | None], Arrays]


@dataclass(frozen=True)
class Row:
    """A row of the table of data sets."""

    load: Load  # from (data_dir, raw_dir)
    reads_raw_dir: bool = False
    find: Load | None = None  # what `load` has prepared, if it prepares anything


def _find_prepared(name: str, data_dir: Path, raw_dir: Path | None) -> Arrays:
    """The arrays that were prepared; DataError if there are none, and nothing is written."""
    try:
        return prepared.read_arrays(name, data_dir / "mnistjax" / name)
    except FileNotFoundError:
        raise DataError(f"{name} is not prepared in {data_dir}") from None
    except OSError as error:
        raise DataError(f"{name} can't be read: {files.describe(error, data_dir)}") from None


DATASETS: dict[str, Row] = {
    **{
        name: Row(partial(prepared.load_prepared, name), True, partial(_find_prepared, name))
        for name in prepared.SHA256
    },
    "digits": Row(lambda data_dir, raw_dir: load_digits()),
    "idx": Row(lambda data_dir, raw_dir: idx.load_files(raw_dir), reads_raw_dir=True),
}
_OURS = frozenset(DATASETS) | {"auto"}

Part = tuple[np.ndarray, np.ndarray]


def register_dataset(name: str, load: Callable[[], tuple[Part, Part, Sequence[str]]]) -> None:
    """Add a data set to the table.

    `load()` returns `(train_images, train_labels), (test_images, test_labels), class_names`, with images
    uint8 (N, 28, 28) and labels 0..K-1; the validation split is ours. A package can instead name `load`
    in its entry-point group "mnistjax.datasets".
    """
    if name in _OURS:
        raise ConfigError(f"data set {name!r} is built in; choose another name")

    def load_arrays(data_dir: Path, raw_dir: Path | None) -> Arrays:
        train, test, class_names = load()
        return Arrays(*train, *test, tuple(class_names))

    DATASETS[name] = Row(load_arrays)


def list_datasets() -> list[str]:
    """Names that `load_data` takes, beside "auto"."""
    return sorted({*DATASETS, *importlib.metadata.entry_points(group=ENTRY_POINTS).names})


def _find_row(name: str) -> Row:
    if name not in DATASETS:
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS, name=name):
            register_dataset(name, entry.load())
    if name not in DATASETS:
        raise unknown("data set", name, ["auto", *list_datasets()])
    return DATASETS[name]


def load_data(
    name: str = "auto", *, data_dir: str | os.PathLike | None = None, raw_dir: str | os.PathLike | None = None
) -> Dataset:
    """A data set by name, loaded once per process.

    `data_dir`: where prepared data lies; default `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
    `raw_dir`: official files, used instead of the network; default `MNISTJAX_RAW_DIR`.
    `auto` is MNIST where it can be had, else the embedded digits with `banner` set.
    """
    home = _find_home(data_dir)
    if name == "auto" and not raw_dir:
        return _load_auto(home)
    name = "mnist" if name == "auto" else name  # a folder given for `auto` is MNIST's
    row = _find_row(name)
    return _load(name, row.load, home, _find_raw_dir(row, raw_dir))


def find_data(name: str, sha256: str) -> Dataset:
    """The data set that a record names, as this user has it; nothing is downloaded, prepared or written.

    It is looked for in the default places of `load_data`. DataError if it is not there, or is another one
    than the record's `sha256` says.
    """
    if name not in list_datasets():
        raise DataError(f"there is no data set {shorten(name)!r} here")
    row = _find_row(name)
    raw_dir = None if row.find else _find_raw_dir(row, None)
    if name == "idx" and raw_dir is None:
        raise DataError("idx needs MNISTJAX_RAW_DIR=FOLDER with the four IDX files")
    dataset = _load(name, row.find or row.load, _find_home(), raw_dir)
    if dataset.sha256 != sha256:
        raise DataError(f"{name} is another one here, of SHA-256 {dataset.sha256}, recorded: {sha256}")
    return dataset


def _find_home(data_dir: str | os.PathLike | None = None) -> Path:
    """The folder of prepared data."""
    return _find_folder("data.dir", data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def _find_raw_dir(row: Row, given: str | os.PathLike | None) -> Path | None:
    raw_dir = given or (os.environ.get("MNISTJAX_RAW_DIR") if row.reads_raw_dir else None)
    if not raw_dir:
        return None
    source = "data.raw_dir" if given else "MNISTJAX_RAW_DIR"
    folder = _find_folder(source, raw_dir)
    if not os.path.isdir(folder):  # False for a name that is too long, too
        given = shorten(os.fspath(raw_dir))
        raise DataError(f"{source}={given}: a folder with the official files expected, found none")
    return folder


def _find_folder(source: str, path: str | os.PathLike) -> Path:
    """A path with the home folder for ~; DataError if there is none, of a user without an account, say."""
    try:
        return Path(path).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # OSError: the working folder is gone
        raise DataError(f"{source}={shorten(os.fspath(path))}: {error}") from None


def _load_auto(data_dir: Path) -> Dataset:
    row = DATASETS["mnist"]
    try:
        raw_dir = _find_raw_dir(row, None)
    except DataError as error:
        log.warning("%s; going on without it", error)
        raw_dir = None
    if raw_dir and not prepared.is_prepared("mnist", data_dir):
        from mnistjax.data import builders

        if not builders.locate("mnist", raw_dir):
            log.warning("MNISTJAX_RAW_DIR=%s: no file of MNIST is in it; going on without it", raw_dir)
            raw_dir = None
    try:
        return _load("mnist", row.load, data_dir, raw_dir)
    except Unreachable:
        return _load_fallback(data_dir)


@functools.cache
def _load_fallback(data_dir: Path) -> Dataset:
    return dataclasses.replace(_load("digits", DATASETS["digits"].load, data_dir, None), banner=BANNER)


@functools.cache
def _load(name: str, load: Load, data_dir: Path, raw_dir: Path | None) -> Dataset:
    arrays = check_arrays(name, load(data_dir, raw_dir))
    train, val = split(len(arrays.train_labels))
    return Dataset(
        name=name,
        train=_freeze(arrays.train_images[train], arrays.train_labels[train]),
        val=_freeze(arrays.train_images[val], arrays.train_labels[val]),
        test=_freeze(arrays.test_images, arrays.test_labels),
        class_names=arrays.class_names,
        sha256=digest(arrays, (train, val)),
    )


def _freeze(images: np.ndarray, labels: np.ndarray) -> Split:
    images, labels = images.view(), labels.view()  # a stranger's own arrays stay writeable
    images.flags.writeable = labels.flags.writeable = False  # shared by the whole process
    return Split(images, labels)


def split(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, val) int32 indices into `count` training images: 0.8 and 0.2 of them, always the same."""
    shuffled = np.random.RandomState(SPLIT_SEED).permutation(count).astype(np.int32)
    return shuffled[: count * 4 // 5], shuffled[count * 4 // 5 :]


def order(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """(count,) int32 permutation, a function of (seed, epoch) only; 0.8 to 1.4 ms for 48,000.

    RandomState, because NumPy has frozen its stream (NEP 19): Generator's may change with any version, and
    with it every record. It is as fast: swapping elements takes the time, not the random numbers.
    """
    if not (0 <= seed < 2**32 and 0 <= epoch < 2**32):
        raise ConfigError(f"seed and epoch must be in 0 to 4294967295, found seed {seed}, epoch {epoch}")
    return np.random.RandomState([seed, epoch]).permutation(count).astype(np.int32)


def to_binary(dataset: Dataset, positive: int = 0) -> Dataset:
    """`dataset` with label 1 for the class `positive` and 0 for all others; the images are shared."""
    if not isinstance(positive, int) or not 0 <= positive < dataset.num_classes:
        raise ConfigError(
            f"positive class {positive!r}: 0 to {dataset.num_classes - 1} expected for {dataset.name}"
        )

    def relabel(part: Split) -> Split:
        return _freeze(part.images, (part.labels == positive).astype(np.int32))

    return dataclasses.replace(
        dataset,
        train=relabel(dataset.train),
        val=relabel(dataset.val),
        test=relabel(dataset.test),
        class_names=("other", dataset.class_names[positive]),
    )
