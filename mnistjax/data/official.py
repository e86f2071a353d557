"""The official files of the known data sets in a user's folder, in the forms in which people have them.

A file is what its checksum says, whatever its name: that of the archive that TFDS downloads, or that of the
IDX file in it. The latter also verifies files that were unpacked, packed again, or converted (Keras's npz,
Kaggle's CSV). Files of another known data set are recognised and left alone.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnistjax.data import idx, npz
from mnistjax.data.arrays import ARRAYS, SIDE, DataError, Missing

LARGEST = 2**30  # bytes; the largest official file, EMNIST's archive, has 0.56 GB
LARGEST_CSV = 2**28  # bytes; MNIST's training split has 0.11 GB
MOST = 60_000  # items of an array that is not read from an official archive
TORCHVISION = {  # its folders; it has the files of other data sets in the folder itself
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "emnist": "EMNIST",
}
NPZ = {"x_train": idx.IMAGE, "y_train": idx.LABEL, "x_test": idx.IMAGE, "y_test": idx.LABEL}
CONVERTED = {  # files that Keras and Kaggle make of a data set; verified by CONTENTS
    "mnist": ("mnist.npz", "mnist_train.csv", "mnist_test.csv"),
    "fashion_mnist": ("fashion-mnist_train.csv", "fashion-mnist_test.csv"),
}
CONTENTS = {  # SHA-256 of the unpacked IDX files, in the order of ARRAYS; others are not known to us
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion_mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}

Stored = dict[str, tuple[np.ndarray, str]]
"""By name in Arrays: the array as it is stored, and the name of its file, for errors."""


class Archive(NamedTuple):
    """An official file, as TFDS downloads it."""

    dataset: str  # TFDS's name; "emnist" for all of EMNIST's data sets
    filename: str
    url: str
    size: int  # bytes
    sha256: str

    @property
    def arrays(self) -> set[str]:
        named = {name for name, stem in idx.FILES.items() if self.filename.startswith(stem)}
        split = self.filename.partition("_")[0]  # SVHN has train_32x32.mat and test_32x32.mat
        return named or {name for name in ARRAYS if name.startswith(f"{split}_")} or {*ARRAYS}


def find_arrays(
    dataset: str, raw_dir: Path, archives: Sequence[Archive], read: Callable[[Path, str], Stored]
) -> Stored:
    """The verified arrays of a data set in a folder; DataError if one is missing or can't be verified.

    `archives` are those of all data sets; `read(path, filename)` reads one of this data set. Missing if the
    folder has no file of this data set, not even a damaged one.
    """
    own = {archive.filename: archive for archive in archives if archive.dataset == dataset}
    foreign = [archive.filename for archive in archives if archive.filename not in own]
    found, problem, others = Stored(), None, dict[str, Path]()
    for path, expected in _candidates(dataset, raw_dir, own, foreign):
        try:
            owner, arrays = _identify(path, dataset, archives, read)
        except DataError as error:
            problem = problem or (error if expected else None)
            continue
        found |= arrays
        if len(found) == len(ARRAYS):
            return found
        if owner != dataset:
            others.setdefault(owner, path)
    if problem:
        raise problem
    there = "".join(f" ({path.name} is of {other})" for other, path in others.items())
    missing = [name for name, archive in own.items() if not archive.arrays <= found.keys()]
    forms = f", unpacked or not, or {', '.join(CONVERTED[dataset])}" if dataset in CONTENTS else ""
    text = f"{raw_dir}: the official files of {dataset} are not in it{there}: {', '.join(missing)} expected"
    raise (DataError if found else Missing)(f"{text} there or in its subfolder {dataset}{forms}")


def _candidates(
    dataset: str, raw_dir: Path, own: Iterable[str], foreign: Iterable[str]
) -> Iterator[tuple[Path, bool]]:
    """The files that may have arrays of a data set, and whether they have a name of this data set's files."""
    vision = TORCHVISION.get(dataset, dataset)
    places = dict.fromkeys((dataset, dataset.replace("_", "-"), vision, f"{vision}/raw", "raw", ""))
    folders = [raw_dir / place for place in places]
    for folder in folders:
        yield from ((path, True) for name in own for path in _find_forms(folder, name))
        converted = (folder / name for name in CONVERTED.get(dataset, ()))
        yield from ((path, True) for path in converted if os.path.exists(path))
    for folder in folders:
        yield from ((path, False) for name in foreign for path in _find_forms(folder, name))


def _find_forms(folder: Path, name: str) -> list[Path]:
    """The files of an official name in a folder; those in IDX may be unpacked, for example."""
    if name.startswith(tuple(idx.FILES.values())):
        return idx.find_forms(folder, name)
    return [folder / name] if os.path.exists(folder / name) else []


def _identify(
    path: Path, dataset: str, archives: Sequence[Archive], read: Callable[[Path, str], Stored]
) -> tuple[str, Stored]:
    """The data set of a file, and its arrays if that is `dataset`; DataError if its checksum is not known."""
    sha256, size, is_html = _inspect(path)
    for archive in archives:
        if archive.sha256 == sha256:
            return archive.dataset, read(path, archive.filename) if archive.dataset == dataset else {}
    try:
        return _identify_content(path, dataset)
    except DataError:
        archive = next((one for one in archives if (one.dataset, one.filename) == (dataset, path.name)), None)
        if archive is None:
            raise
        truncated = "; it is truncated" if size < archive.size else ""
        looks = "; it is an HTML page" if is_html else truncated
        expected = f"SHA-256 {archive.sha256} ({archive.size} bytes)"
        raise DataError(
            f"{path}: wrong checksum: {expected} expected, found {sha256} ({size} bytes{looks}); "
            f"replace it by {archive.url}"
        ) from None


def _inspect(path: Path) -> tuple[str, int, bool]:
    """The SHA-256 and the size of a file, and whether it is an HTML page."""
    with idx.readable(str(path)), idx.open_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > LARGEST:
            raise DataError(f"{path}: at most {LARGEST:,} bytes expected, found {size:,}")
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0)
        return sha256, size, stream.read(64).lstrip().startswith(b"<")


def _identify_content(path: Path, dataset: str) -> tuple[str, Stored]:
    """`_identify` by the checksums of the unpacked IDX files."""
    read = {".npz": _read_npz, ".csv": _read_csv}.get(path.suffix, _read_idx)
    arrays = Stored()
    for where, array in read(path).items():
        sha256 = hashlib.sha256(idx.make_header(array) + array.tobytes()).hexdigest()
        owners = [(name, ARRAYS[row.index(sha256)]) for name, row in CONTENTS.items() if sha256 in row]
        if not owners:
            raise DataError(f"{where}: can't be verified: no official file has the SHA-256 {sha256} unpacked")
        ((owner, name),) = owners
        if owner != dataset:
            return owner, Stored()
        arrays[name] = array, where
    return dataset, arrays


def _read_idx(path: Path) -> dict[str, np.ndarray]:
    """The array in an IDX file by the name for its errors, like the results of the functions below."""
    return {str(path): idx.read_file(path, idx.IMAGE if "images" in path.name else idx.LABEL, most=MOST)}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """The four arrays in a file of `np.savez`, as Keras downloads it."""
    with npz.open_npz(path) as archive:
        return {
            f"{path}:{key}": npz.read_array(archive, key, item, np.uint8, MOST) for key, item in NPZ.items()
        }


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    """The images and labels in a text file with a row for each image: its label, then its pixels."""
    with idx.readable(str(path), "CSV"), idx.open_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns of an empty file
        if (size := os.fstat(file.fileno()).st_size) > LARGEST_CSV:
            raise ValueError(f"{size:,} bytes")
        titles = not file.read(1).isdigit()
        file.seek(0)
        text = io.TextIOWrapper(file, "ascii", errors="replace")
        table = np.loadtxt(text, np.uint8, delimiter=",", comments=None, skiprows=int(titles), ndmin=2)
        if table.shape[1] != 1 + SIDE * SIDE:
            raise ValueError(f"rows of {table.shape[1]} numbers")
    return {f"{path}: images": table[:, 1:].reshape(-1, *idx.IMAGE), f"{path}: labels": table[:, 0]}
