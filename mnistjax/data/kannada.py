"""Kannada-MNIST: handwritten Kannada digits in MNIST's format, in four npz files with an array `arr_0`.

The files and their checksums are those of a commit of the author's repository. The arrays are verified, not
the files, because copies elsewhere (Zenodo, Kaggle) may be packed otherwise. Prabhu (2019), arXiv:1908.01242;
the repository states no licence.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnistjax.data import idx, npz
from mnistjax.data.arrays import Arrays, DataError
from mnistjax.data.download import File, obtain, start_git_id

COMMIT = "f8390ece0c6990551e6f35189ccc42757bb29c43"
URL = (
    f"https://raw.githubusercontent.com/vinayprabhu/Kannada_MNIST/{COMMIT}/data/output_tensors/MNIST_format/"
)


class ArrayFile(NamedTuple):
    """An npz file with one array of the data set."""

    file: str
    file_id: str  # in Git
    array_id: str  # in Git, of the array as a .npy file
    length: int


FILES = {
    "train_images": ArrayFile(
        "X_kannada_MNIST_train.npz",
        "fbb55cd9a274b4cad741172c50e82031014b4885",
        "03a54f90f74cdc663d66f444ff0ee788ef51f098",
        60_000,
    ),
    "train_labels": ArrayFile(
        "y_kannada_MNIST_train.npz",
        "8ff45845c68fae58e51747543eef19133128816b",
        "09124589b8a8dd51fe708c6b2c8da9d95263e0d6",
        60_000,
    ),
    "test_images": ArrayFile(
        "X_kannada_MNIST_test.npz",
        "aecceb6457d4913f215e8151423a91fbf23681cf",
        "35ab6baa7d456ef1f137359573ae7fbf19b0462f",
        10_000,
    ),
    "test_labels": ArrayFile(
        "y_kannada_MNIST_test.npz",
        "49bbc26591a1e29bbb69f0bb4ccd603570ede323",
        "fb8cbb8b4af9398e485ccc5ec88ba8a90ebdbedd",
        10_000,
    ),
}


def read(*, raw_dir: Path | None, downloads: Path) -> Arrays:
    """The arrays, from the official files in the user's folder or downloaded."""
    arrays: dict[str, Any] = {
        name: obtain(
            "kannada_mnist",
            File(row.file, f"{URL}{row.file}", f"git:{row.file_id}"),
            partial(_read_file, name),
            raw_dir=raw_dir,
            downloads=downloads,
        )
        for name, row in FILES.items()
    }
    return Arrays(**arrays, class_names=tuple("0123456789"))


def _read_file(name: str, path: Path) -> np.ndarray:
    """The verified array of this name: images (N, 28, 28) or labels (N,), uint8."""
    row = FILES[name]
    with npz.open_npz(path) as archive:
        array = npz.read_array(archive, "arr_0", idx.ITEMS[name], np.uint8, row.length)
    found = find_array_id(array)
    if found != row.array_id:
        expected = f"an array of the Git id {row.array_id} expected, found {found}"
        raise DataError(f"{path}: {expected}; replace it by {URL}{row.file}")
    return array


def find_array_id(array: np.ndarray) -> str:
    """The id that Git gives to a uint8 array in a .npy file with the header that NumPy writes since 1.14."""
    described = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {array.shape}, }}".ljust(117) + "\n"
    header = b"\x93NUMPY\x01\x00\x76\x00" + described.encode()
    git_id = start_git_id(len(header) + array.nbytes)
    git_id.update(header)
    git_id.update(np.ascontiguousarray(array).data)
    return git_id.hexdigest()
