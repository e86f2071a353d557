"""USPS: digits scanned from envelopes, 16 x 16 grey pixels, in LIBSVM's text format.

A line is a label 1..10, the digit plus 1, then 256 pixels as INDEX:VALUE, from -1 (background) to 1 (ink).
MD5 sums are torchvision's. Hull (1994), https://doi.org/10.1109/34.291440; no licence is stated.
"""

import bz2
import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mnistjax.data import idx
from mnistjax.data.arrays import Arrays, read_content
from mnistjax.data.download import File, obtain, verify

SIDE = 16  # pixels
LARGEST = 2**26  # bytes of an unpacked file; the larger one has about 0.02 GB
URL = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/"
FILES = {
    "train": File("usps.bz2", f"{URL}usps.bz2", "md5:ec16c51db3855ca6c91edd34d0e9b197"),
    "test": File("usps.t.bz2", f"{URL}usps.t.bz2", "md5:8ea070ee2aca1ac39742fdd1ef5ed118"),
}
COUNTS = {"train": 7_291, "test": 2_007}  # images


def read(*, raw_dir: Path | None, downloads: Path) -> Arrays:
    """The arrays, from the official files in the user's folder or downloaded."""
    train, test = (
        obtain("usps", file, partial(_read_file, split), raw_dir=raw_dir, downloads=downloads)
        for split, file in FILES.items()
    )
    return Arrays(*train, *test, tuple("0123456789"))


def _read_file(split: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 16, 16) uint8 and labels (N,) int32 in the verified file of a split."""
    verify(path, FILES[split])
    with idx.readable(str(path), "LIBSVM"):
        with idx.open_file(path) as file, bz2.BZ2File(file) as stream:
            content = read_content(stream, LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        values, labels = _parse(bytes(content), COUNTS[split])
    images = np.rint((values + 1) * 127.5).astype(np.uint8).reshape(-1, SIDE, SIDE)
    return images, labels.astype(np.int32) - 1


def _parse(content: bytes, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (count, 256) from -1 to 1 and labels (count,) from 1 to 10; ValueError for other lines."""
    from sklearn.datasets import load_svmlight_file

    options: dict[str, Any] = {"n_features": SIDE * SIDE, "zero_based": False}
    try:
        table, labels, *_ = load_svmlight_file(io.BytesIO(content), **options)
    except Exception as error:  # ValueError, OverflowError, ...
        raise ValueError(str(error)) from None
    if len(labels) != count:
        raise ValueError(f"{len(labels)} lines, not {count}")
    values = table.toarray()
    if not (abs(values) <= 1).all():  # also for NaN
        raise ValueError("values outside of -1 to 1")
    wrong = labels[~np.isin(labels, range(1, 11))]
    if wrong.size:
        raise ValueError(f"the label {wrong[0]}, not 1 to 10")
    return values, labels
