"""Data sets: an open table of uint8 images and int32 labels, fixed splits, the order of an epoch.

N images, H W their sides in pixels, C channels, K classes. Grey images are (N, H, W), others (N, H, W, C).
"""

import dataclasses
import functools
import importlib.metadata
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mnistjax.checks import FINITE, Check, check_value, optional, whole
from mnistjax.config import ConfigError, Options, freeze, one_line, shorten, to_plain, unknown
from mnistjax.data.arrays import Arrays, DataError, Missing, Unreachable, check_arrays, digest
from mnistjax.data.known import DATASETS, LIGHT_ON_DARK, Find, Load, Row
from mnistjax.data.medmnist import SUBSETS
from mnistjax.data.splits import SPLIT_SEED

AUTO = ("mnist", "digits")  # data sets that "auto" can mean
SHOWN_FILES = 5  # that could not be used
FRACTION = 0.2  # of the training images, held out for validation
VALIDATION = optional(Check(lambda x: FINITE.holds(x) and 0 < x <= 0.5, "a number > 0 and <= 0.5"))
ENTRY_POINTS = "mnistjax.datasets"
BANNER = """\
NOT MNIST: training on the 1,797 small digits embedded in scikit-learn.
MNIST is not prepared, not in a folder, and can't be downloaded here. To get it: connect to the network,
or give the four official files: data=mnist data.raw_dir=FOLDER (or the variable MNISTJAX_RAW_DIR)."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, read-only."""

    images: np.ndarray  # (N, H, W) or (N, H, W, C) uint8
    labels: np.ndarray  # (N,) int32


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with its split; the arrays are the same wherever and whenever it is loaded."""

    name: str
    train: Split = field(repr=False)
    val: Split = field(repr=False)
    test: Split = field(repr=False)
    class_names: tuple[str, ...]
    sha256: str  # of the decoded arrays and the split; `to_binary` keeps it
    banner: str | None = None  # a warning that must not be missed

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """H, W, C: a grey image has one channel."""
        height, width, channels, *_ = (*self.train.images.shape[1:], 1)
        return height, width, channels

    @property
    def light_on_dark(self) -> bool:
        """Whether the images are light ink on a dark ground, like MNIST's."""
        return self.name in LIGHT_ON_DARK

    @property
    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def class_counts(self) -> dict[str, list[int]]:
        """The number of images per class in each split: {"train": [n_0, ...], "val": ..., "test": ...}."""
        count = partial(np.bincount, minlength=self.num_classes)
        return {name: count(split.labels).tolist() for name, split in self.splits.items()}


_OURS = frozenset(DATASETS) | {"auto"}

Pair = tuple[np.ndarray, np.ndarray]


def register_dataset(name: str, load: Callable[[], tuple[Pair, Pair, Sequence[str]]]) -> None:
    """Adds a data set to the table.

    `load()` returns `(train_images, train_labels), (test_images, test_labels), class_names`, with images
    uint8 (N, H, W) or (N, H, W, C) and labels 0..K-1. The validation split is cut off the training split. A
    package can declare `load` in its entry-point group "mnistjax.datasets" instead.
    """
    if name in _OURS:
        raise ConfigError(f"data set {name!r} is built in; choose another name")

    def load_arrays(data_dir: Path, raw_dir: Path | None) -> Arrays:
        returned = load()
        try:
            (train_images, train_labels), (test_images, test_labels), class_names = returned
            names = tuple(class_names)
        except (TypeError, ValueError):
            expected = "(train_images, train_labels), (test_images, test_labels), class_names"
            raise DataError(f"data set {name!r}: load() must return {expected}") from None
        return Arrays(train_images, train_labels, test_images, test_labels, names)

    DATASETS[name] = Row(load_arrays)


def list_options(name: str) -> Mapping[str, tuple[Check, Any]]:
    """The options of a data set besides its folders: name -> (check, default)."""
    return DATASETS[name].options if name in DATASETS else {}


def list_datasets() -> list[str]:
    """The names that `load_data` accepts, except "auto"."""
    return sorted({*DATASETS, *importlib.metadata.entry_points(group=ENTRY_POINTS).names})


def _find_row(name: str) -> Row:
    """The row of a data set, added from an entry point if it is missing; ConfigError for an unknown name."""
    if name not in DATASETS:
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS, name=name):
            try:
                register_dataset(name, entry.load())
            except Exception as error:  # the code of others
                raise DataError(f"data set {name!r}: {one_line(error)}") from None
    if name not in DATASETS:
        raise unknown("data set", name, ["auto", *list_datasets()])
    return DATASETS[name]


def load_data(
    name: str = "auto",
    *,
    data_dir: str | os.PathLike | None = None,
    raw_dir: str | os.PathLike | None = None,
    validation_fraction: float | None = None,
    **options: Any,
) -> Dataset:
    """A data set by name, loaded once per process, and again if your own files have changed.

    `data_dir`: the folder of prepared data; default `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
    `raw_dir`: a folder of official files, used instead of the network; default `MNISTJAX_RAW_DIR`.
    `validation_fraction`: the share of the training images that are held out to choose by, > 0 and <= 0.5.
    Default 0.2. It must be left out for "folder", "npz" and data sets with a validation split of their own.
    `options`: those of `data=NAME` on the command line, such as `size` for "folder".
    `auto` is MNIST if it is available, else the embedded digits with `banner` set.
    """
    validation_fraction = to_plain(validation_fraction)  # a number may be NumPy's
    check_value("data.validation_fraction", validation_fraction, VALIDATION)
    home = _find_home(data_dir)
    if name == "auto" and not raw_dir:
        return _load_auto(home, validation_fraction)
    name = "mnist" if name == "auto" else name  # `auto` with a folder of files means MNIST
    row = _find_row(name)
    values = _check_options(name, row, options)
    if name == "medmnist" and values["subset"] in SUBSETS:  # they are data sets with names of their own
        name, values = values["subset"], {}
        row = DATASETS[name]
    return _load_row(name, row, home, _find_raw_dir(row, raw_dir), freeze(values), validation_fraction)


def _check_options(name: str, row: Row, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a data set; ConfigError for an unknown one or a wrong value."""
    for option in options:
        if option not in row.options:
            raise unknown(f"option of data set {name}", option, row.options)
    values = {option: options.get(option, default) for option, (_, default) in row.options.items()}
    for option, (check, _) in row.options.items():
        check_value(f"data.{option}", values[option], check)
    return values


def find_data(name: str, sha256: str, validation_fraction: float | None = None) -> Dataset:
    """The data set of a record, from the default folders of `load_data`, with its share of validation images.

    Nothing is downloaded, prepared or written. DataError if it is missing or has another SHA-256 than
    recorded.
    """
    if name not in list_datasets():
        raise DataError(f"there is no data set {shorten(name)!r} here")
    row, home = _find_row(name), _find_home()
    if row.find:
        dataset = _find(name, row.find, home, sha256, validation_fraction)
    elif name == "idx" and not os.environ.get("MNISTJAX_RAW_DIR"):
        raise DataError("idx needs MNISTJAX_RAW_DIR=FOLDER with the four IDX files")
    else:
        dataset = _load_row(name, row, home, _find_raw_dir(row, None), (), validation_fraction)
    if dataset.sha256 != sha256:
        raise DataError(f"{name} has the SHA-256 {dataset.sha256} here; recorded: {sha256}")
    return dataset


def _find_home(data_dir: str | os.PathLike | None = None) -> Path:
    return _find_folder("data.dir", data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def _find_raw_dir(row: Row, given: str | os.PathLike | None) -> Path | None:
    """The folder of official files, from the argument or the environment; DataError if it is missing."""
    raw_dir = given or (os.environ.get("MNISTJAX_RAW_DIR") if row.reads_raw_dir else None)
    if not raw_dir:
        return None
    source = "data.raw_dir" if given else "MNISTJAX_RAW_DIR"
    folder = _find_folder(source, raw_dir)
    # Unlike Path.is_dir, these return False for a name that is too long.
    if not os.path.isdir(folder) and not (row.takes_file and os.path.isfile(folder)):
        raise DataError(f"{source}={shorten(os.fspath(raw_dir))}: {row.expects} expected, found none")
    return folder


def _find_folder(source: str, path: str | os.PathLike) -> Path:
    """The absolute path, with ~ expanded; DataError if ~user does not exist."""
    try:
        return Path(path).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # OSError: the working folder was removed
        raise DataError(f"{source}={shorten(os.fspath(path))}: {error}") from None


def _load_auto(data_dir: Path, fraction: float | None) -> Dataset:
    row = DATASETS["mnist"]
    try:
        raw_dir = _find_raw_dir(row, None)
    except DataError as error:
        log.warning("%s; ignoring it", error)
        raw_dir = None
    try:
        try:
            return _load_row("mnist", row, data_dir, raw_dir, (), fraction)
        except Missing:
            log.warning("MNISTJAX_RAW_DIR=%s: no file of MNIST is in it; ignoring it", raw_dir)
            return _load_row("mnist", row, data_dir, None, (), fraction)
    except Unreachable:
        return _load("digits", DATASETS["digits"].load, data_dir, None, (), fraction, "", BANNER)


def _load_row(
    name: str, row: Row, data_dir: Path, raw_dir: Path | None, options: Options, fraction: float | None
) -> Dataset:
    """The data set, once for each state of a user's own files."""
    stamp = row.stamp(raw_dir) if row.stamp and raw_dir else ""
    return _load(name, row.load, data_dir, raw_dir, options, fraction, stamp)


@functools.cache
def _load(
    name: str,
    load: Load,
    data_dir: Path,
    raw_dir: Path | None,
    options: Options,
    fraction: float | None,
    stamp: str,  # of a user's own files, only for the cache
    banner: str | None = None,
) -> Dataset:
    """The checked and split data set, once per process."""
    arrays = load(data_dir, raw_dir, **dict(options))
    for line in arrays.warnings:
        log.warning(line)
    return _make_dataset(name, arrays, fraction, banner)


@functools.cache
def _find(name: str, find: Find, data_dir: Path, sha256: str, fraction: float | None) -> Dataset:
    """The prepared data set, once per process."""
    return _make_dataset(name, find(data_dir, sha256), fraction)


def _make_dataset(name: str, arrays: Arrays, fraction: float | None, banner: str | None = None) -> Dataset:
    """The data set; its validation split is a share of the training images unless it has one of its own."""
    arrays = check_arrays(name, arrays)
    train, order = _freeze(arrays.train_images, arrays.train_labels), ()
    if arrays.val_images is None or arrays.val_labels is None:
        order = split(len(train.labels), FRACTION if fraction is None else fraction)
        train, val = (_freeze(train.images[rows], train.labels[rows]) for rows in order)
    elif fraction is None:
        val = _freeze(arrays.val_images, arrays.val_labels)
    else:
        raise DataError(f"data.validation_fraction must be null: the validation split of {name!r} is fixed")
    return Dataset(
        name=name,
        train=train,
        val=val,
        test=_freeze(arrays.test_images, arrays.test_labels),
        class_names=arrays.class_names,
        sha256=digest(arrays, order),
        banner=banner or _describe_left_out(arrays.left_out),
    )


def _describe_left_out(left_out: Sequence[str]) -> str | None:
    """The warning that files could not be used; None if all could."""
    if not left_out:
        return None
    more = len(left_out) - SHOWN_FILES
    return "\n".join(
        [f"{len(left_out)} files could not be used and are left out:", *left_out[:SHOWN_FILES]]
        + ([f"... and {more} more"] if more > 0 else [])
    )


def _freeze(images: np.ndarray, labels: np.ndarray) -> Split:
    """Read-only views of the arrays, because the whole process shares them; the arrays stay writeable."""
    images, labels = images.view(), labels.view()
    images.flags.writeable = labels.flags.writeable = False
    return Split(images, labels)


def split(count: int, fraction: float = FRACTION) -> tuple[np.ndarray, np.ndarray]:
    """(train, val) int32 indices into `count` training images: always the same for a fraction.

    The images held out by a smaller fraction are among those of a larger one.
    """
    shuffled = np.random.RandomState(SPLIT_SEED).permutation(count).astype(np.int32)
    train = count - max(math.ceil(count * fraction - 1e-6), 1)  # 7.000000000000001 images are 7
    return shuffled[:train], shuffled[train:]


def order(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """A permutation (count,) int32 that depends on (seed, epoch) only; takes 0.8 to 1.4 ms for 48,000.

    It uses RandomState, because NumPy keeps its stream (NEP 19). Any version may change Generator's stream,
    and every record with it. Both are equally fast, because swapping elements takes most of the time.
    """
    if not (0 <= seed < 2**32 and 0 <= epoch < 2**32):
        raise ConfigError(f"seed and epoch must be in 0 to 4294967295, found seed {seed}, epoch {epoch}")
    return np.random.RandomState([seed, epoch]).permutation(count).astype(np.int32)


def to_binary(dataset: Dataset, positive: int = 0) -> Dataset:
    """The data set with label 1 for the class `positive` and 0 for all others; images are shared."""
    positive = to_plain(positive)  # a number may be NumPy's
    if not whole(0, highest=dataset.num_classes - 1).holds(positive):
        raise ConfigError(
            f"positive class {positive!r}: 0 to {dataset.num_classes - 1} expected for {dataset.name}"
        )

    binary = {
        name: _freeze(split.images, (split.labels == positive).astype(np.int32))
        for name, split in dataset.splits.items()
    }
    return dataclasses.replace(dataset, **binary, class_names=("other", dataset.class_names[positive]))
