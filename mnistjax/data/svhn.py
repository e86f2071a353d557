"""SVHN, cropped to a digit: MATLAB files with images X (32, 32, 3, N) and labels y (N, 1), 10 for digit 0."""

import warnings
from pathlib import Path

import numpy as np
import scipy.io
import tensorflow_datasets as tfds
from tensorflow_datasets.datasets.svhn_cropped import svhn_cropped_dataset_builder as stock

from mnistjax.config import one_line
from mnistjax.data.arrays import DataError, check_labels
from mnistjax.data.official import Stored
from mnistjax.data.without_tensorflow import WithoutTensorFlow, load_pinned

FOLDER = "datasets/svhn_cropped"  # of the builder in TFDS
SHAPE = (32, 32, 3)
MOST = 1_000_000  # images in a file; more means that it is damaged


class SvhnCropped(WithoutTensorFlow, stock.Builder, skip_registration=True):
    """SVHN, cropped, without its extra images."""

    pkg_dir_path = tfds.core.tfds_path() / FOLDER
    url_infos = {  # noqa: RUF012 (TFDS's name)
        url: info
        for url, info in load_pinned(f"{FOLDER}/checksums.tsv").items()
        if info.filename.startswith(("train", "test"))
    }
    counts = 73_257, 26_032
    image_shape = SHAPE

    def read_archive(self, path: Path, filename: str) -> Stored:
        split = filename.partition("_")[0]
        images, labels = read_mat(path)
        check_labels(str(path), labels, range(1, 11))
        return {f"{split}_images": (images, str(path)), f"{split}_labels": (labels % 10, str(path))}


def read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) and labels (N,), both uint8, in a MATLAB file; DataError if it has others.

    The file must be verified: SciPy's reader can crash on one that is damaged.
    """
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")  # SciPy warns of damage and raises or not
            shapes = {name: shape for name, shape, _ in scipy.io.whosmat(file)}
            count = shapes["X"][-1]  # checked before the content is read
            if shapes["X"] != (*SHAPE, count) or shapes["y"] != (count, 1) or not 0 < count <= MOST:
                raise ValueError(f"X {shapes['X']} and y {shapes['y']}")
            file.seek(0)
            arrays = scipy.io.loadmat(file, variable_names=["X", "y"])
            images, labels = arrays["X"], arrays["y"][:, 0].astype(np.uint8)
            if images.dtype != np.uint8 or not np.array_equal(labels, arrays["y"][:, 0]):
                raise ValueError(f"X of {images.dtype}, y of {arrays['y'].dtype}")
    except Exception as error:  # SciPy raises anything
        found = one_line(error)[:300]
        raise DataError(f"{path}: a readable MATLAB file of SVHN expected, found: {found}") from None
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels
