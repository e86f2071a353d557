"""The decoded arrays of a data set, checked and hashed.

N images, H W their sides in pixels, C channels, K classes. Grey images are (N, H, W), others (N, H, W, C).
"""

import hashlib
import math
from collections.abc import Sequence
from typing import IO, NamedTuple

import numpy as np

from mnistjax.checks import MOST_CLASSES
from mnistjax.config import ConfigError

SIDE = 28  # pixels, of MNIST and the data sets in its format
CHUNK = 1 << 20  # bytes read at once
LARGEST = 2**32  # bytes of an array in a user's file


class DataError(ConfigError):
    """Wrong or missing data; the message, in one line, names the file and what was expected."""


class Unreachable(DataError):
    """The files can't be downloaded; for this error alone, `auto` falls back on the embedded digits."""


class Missing(DataError):
    """No file of a data set in a user's folder; for this error alone, `auto` ignores MNISTJAX_RAW_DIR."""


class Arrays(NamedTuple):
    """A data set as it is stored. If it has no validation split, one is cut off the training split."""

    train_images: np.ndarray  # (N, H, W) or (N, H, W, C) uint8
    train_labels: np.ndarray  # (N,) int32
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]  # K
    val_images: np.ndarray | None = None
    val_labels: np.ndarray | None = None
    left_out: tuple[str, ...] = ()  # files that could not be used, each with the reason
    warnings: tuple[str, ...] = ()  # lines that each command logs

    @property
    def by_name(self) -> dict[str, np.ndarray]:
        """The arrays: those of ARRAYS, and of VAL_ARRAYS if there are any."""
        found = {name: getattr(self, name) for name in (*ARRAYS, *VAL_ARRAYS)}
        return {name: array for name, array in found.items() if array is not None}


ARRAYS, VAL_ARRAYS = Arrays._fields[:4], Arrays._fields[5:7]


TITLES = {"train": ("training", 5), "test": ("test", 1), "val": ("validation", 1)}  # with the fewest images


def check_arrays(name: str, arrays: Arrays) -> Arrays:
    """`arrays` as contiguous uint8 images and int32 labels; DataError unless they are a data set."""
    names = tuple(map(str, arrays.class_names))
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(f"data set {name!r}: at least 2 different class names expected, found {list(names)}")
    if len(names) > MOST_CLASSES:
        raise DataError(f"data set {name!r}: at most {MOST_CLASSES:,} classes expected, found {len(names):,}")
    checked: dict[str, np.ndarray] = {}
    for split, (title, least) in TITLES.items():
        images, labels = (getattr(arrays, f"{split}_{kind}") for kind in ("images", "labels"))
        if images is None and labels is None and split == "val":
            continue
        where = f"data set {name!r}, {title} split"
        images, labels = _check_split(where, images, labels, classes=len(names), least=least)
        checked |= {f"{split}_images": images, f"{split}_labels": labels}
        if images.shape[1:] != (shape := checked["train_images"].shape[1:]):
            raise DataError(
                f"{where}: images of {shape} as in the training split expected, found {images.shape[1:]}"
            )
    return Arrays(**checked, class_names=names, left_out=arrays.left_out, warnings=arrays.warnings)


def _check_split(where: str, images, labels, *, classes: int, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Contiguous images and labels; DataError if shapes, types, labels or their number are wrong."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape[1:]:
        allowed = "uint8 (N, H, W) or (N, H, W, C)"
        raise DataError(f"{where}: images must be {allowed}, found {images.dtype} {images.shape}")
    if images.shape[3:] == (1,):
        images = images[..., 0]
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        expected = f"{len(images)} integer labels"
        raise DataError(f"{where}: {expected} expected, found {labels.dtype} {labels.shape}")
    if len(images) < least:
        raise DataError(f"{where}: at least {least} images expected, found {len(images)}")
    check_labels(where, labels, range(classes))
    return np.ascontiguousarray(images), np.ascontiguousarray(labels, dtype=np.int32)


def read_npy(stream: IO[bytes], item: tuple[int, ...], dtype: np.dtype, most: int) -> np.ndarray:
    """The array of at most `most` items of this shape and type in a file of `np.save`; ValueError for others.

    Allocates as content is read, not what the header claims.
    """
    shape, fortran_order, found = read_npy_header(stream)
    if found != dtype or fortran_order or shape[1:] != item or not 0 < shape[0] <= most:
        raise ValueError(f"{found} {shape}")
    size = math.prod(shape) * dtype.itemsize
    content = read_content(stream, size)
    if len(content) < size or stream.read(1):  # at the end of a zip file's member, this also checks its CRC
        raise ValueError(f"not {size:,} bytes after the header")
    return np.frombuffer(content, dtype).reshape(shape)


def read_npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape, whether it is in Fortran order, and the type in the header of a file of `np.save`.

    ValueError if it is damaged, or not of version 1, which limits its length.
    """
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"version {version}")
    try:
        return np.lib.format.read_array_header_1_0(stream)
    except Exception as error:  # NumPy reads it as Python, so it raises TokenError, TypeError and others
        raise ValueError(f"no header: {error}") from None


def read_content(stream: IO[bytes], size: int) -> bytearray:
    """At most `size` bytes, in chunks: `stream.read(size)` would allocate them all before it reads any."""
    content = bytearray()
    while len(content) < size and (chunk := stream.read(min(CHUNK, size - len(content)))):
        content += chunk
    return content


def check_labels(where: str, labels: np.ndarray, allowed: range) -> None:
    """Raises DataError, which names the first wrong label, unless all labels are in `allowed`."""
    wrong = np.flatnonzero((labels < allowed.start) | (labels >= allowed.stop))
    if wrong.size:
        expected = f"labels {allowed.start} to {allowed.stop - 1} expected"
        raise DataError(f"{where}: {expected}, found {labels[wrong[0]]} (number {wrong[0]})")


def digest(arrays: Arrays, order: Sequence[np.ndarray] = ()) -> str:
    """SHA-256 over class names, types, shapes and bytes of the arrays, and over the `order` of a split."""
    sha256 = hashlib.sha256("\n".join(arrays.class_names).encode())
    for array in (*arrays.by_name.values(), *order):
        sha256.update(f"\n{array.dtype.str} {array.shape}\n".encode())
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()
