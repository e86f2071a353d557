"""Data sets of TFDS, prepared and read without TensorFlow; imported only to prepare data."""

import contextlib
import errno
import io
import logging
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.core.download.util import DownloadError
from tensorflow_datasets.image_classification import mnist as stock

from mnistjax.config import one_line
from mnistjax.data import download, idx
from mnistjax.data.arrays import Arrays, DataError
from mnistjax.data.cifar import Cifar10, Cifar100
from mnistjax.data.download import check_reachable, unreachable
from mnistjax.data.official import Archive, Stored
from mnistjax.data.svhn import SvhnCropped
from mnistjax.data.without_tensorflow import WithoutTensorFlow, load_pinned

READ_AT_ONCE = 4096  # records
DIGITS = "0123456789"
UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CLASSES = {  # from the EMNIST paper (arXiv:1702.05373) and the mapping files in its archive
    "balanced": DIGITS + UPPER + "abdefghnqrt",
    "bymerge": DIGITS + UPPER + "abdefghnqrt",
    "byclass": DIGITS + UPPER + UPPER.lower(),
    "letters": UPPER,
    "digits": DIGITS,
    "mnist": DIGITS,
}


class _IdxBuilder(WithoutTensorFlow, skip_registration=True):
    """A data set in four IDX files."""

    def read_archive(self, path: Path, filename: str) -> Stored:
        (name,) = (name for name, stem in idx.FILES.items() if filename.startswith(stem))
        return {name: (idx.read_file(path, idx.ITEMS[name]), str(path))}


class MNIST(_IdxBuilder, stock.MNIST, skip_registration=True):
    """MNIST."""

    url_infos = load_pinned("url_checksums/mnist.txt")


class FashionMNIST(_IdxBuilder, stock.FashionMNIST, skip_registration=True):
    """Fashion-MNIST."""

    url_infos = load_pinned("url_checksums/fashion_mnist.txt")


class KMNIST(_IdxBuilder, stock.KMNIST, skip_registration=True):
    """Kuzushiji-MNIST."""

    url_infos = load_pinned("url_checksums/kmnist.txt")


# All 145,600 letters of the archive, in 26 equal classes; TFDS takes only 103,600.
LETTERS = stock.EMNISTConfig(
    name="letters",
    class_number=26,
    train_examples=124_800,
    test_examples=20_800,
    description="EMNIST Letters",
)


class EMNIST(_IdxBuilder, stock.EMNIST, skip_registration=True):
    """EMNIST, upright and with labels from 0. Paths are ARCHIVE/gzip/MEMBER, a file in the archive."""

    url_infos = load_pinned("url_checksums/emnist.txt")
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS's name)
        LETTERS if config.name == LETTERS.name else config for config in stock.EMNIST.BUILDER_CONFIGS
    ]

    builder_config: Any

    @property
    def first_label(self) -> int:
        return int(self.builder_config.name == "letters")

    @property
    def class_names(self) -> str:
        return CLASSES[self.builder_config.name]

    @property
    def counts(self) -> tuple[int, int]:
        return self.builder_config.train_examples, self.builder_config.test_examples

    def read_archive(self, path: Path, filename: str) -> Stored:
        arrays = Stored()
        with idx.readable(str(path), "zip"), zipfile.ZipFile(path) as archive:
            for name, stem in idx.FILES.items():
                member = f"gzip/emnist-{self.builder_config.name}-{stem.replace('t10k', 'test')}.gz"
                with archive.open(member) as stream:
                    array = idx.parse(stream, f"{path}/{member}", idx.ITEMS[name])
                upright = array.swapaxes(1, 2) if array.ndim == 3 else array  # stored transposed
                arrays[name] = upright, f"{path}/{member}"
        return arrays


BUILDERS: dict[str, tuple[Any, str | None]] = {
    "mnist": (MNIST, None),
    "fashion_mnist": (FashionMNIST, None),
    "kmnist": (KMNIST, None),
    **{f"emnist_{config}": (EMNIST, config) for config in CLASSES},
    "cifar10": (Cifar10, None),
    "cifar100": (Cifar100, None),
    "svhn_cropped": (SvhnCropped, None),
}


def _archives() -> list[Archive]:
    """The official files of all data sets."""
    builders = dict.fromkeys(builder for builder, _ in BUILDERS.values())
    return [
        Archive(builder.name, info.filename, url, info.size, info.checksum)
        for builder in builders
        for url, info in builder.url_infos.items()
    ]


def prepare(name: str, *, data_dir: Path, downloads: Path, raw_dir: Path | None) -> Arrays:
    """The decoded arrays of a data set, which TFDS writes to `data_dir` as array_record.

    OSError if the disk is full or can't be written.
    """
    builder_class, config = BUILDERS[name]
    url = next(iter(builder_class.url_infos))
    if raw_dir is None:
        check_reachable(url)
    try:
        with quiet(), stall_limit():
            builder = builder_class(data_dir=data_dir, config=config)
            if raw_dir:
                builder.arrays = builder.find_arrays(raw_dir, _archives())
            builder.download_and_prepare(
                download_dir=downloads,
                download_config=tfds.download.DownloadConfig(
                    force_checksums_validation=True, try_download_gcs=False
                ),
                file_format="array_record",
            )
    except NonMatchingChecksumError as error:
        raise DataError(f"{name}: {' '.join(str(error).split('To debug')[0].split())}") from None
    except (requests.RequestException, DownloadError) as error:
        raise unreachable(url, type(error).__name__) from None
    except RuntimeError as error:  # array_record's error for the disk, with the cause in its text
        full = os.strerror(errno.ENOSPC)
        raise OSError(errno.EIO, full if full in str(error) else one_line(error)[:300]) from None
    return decode(name, data_dir)


def decode(name: str, data_dir: Path) -> Arrays:
    """The arrays of a prepared data set, in the official order."""
    builder_class, config = BUILDERS[name]
    with quiet():
        builder = builder_class(data_dir=data_dir, config=config)
        train, test = (_decode_split(builder, split) for split in ("train", "test"))
    return Arrays(*train, *test, tuple(builder.info.features["label"].names))


def _decode_split(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    records = builder.as_data_source(split=split)
    height, width, *channels = builder.image_shape
    shape = (height, width) if channels == [1] else (height, width, *channels)
    images, labels = np.empty((len(records), *shape), np.uint8), np.empty(len(records), np.int32)
    for start in range(0, len(records), READ_AT_ONCE):
        rows = range(start, min(start + READ_AT_ONCE, len(records)))
        for row, record in zip(rows, records.__getitems__(rows), strict=True):
            images[row], labels[row] = record["image"].reshape(shape), record["label"]
    return images, labels


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A context in which TFDS prints only its progress bars, on a terminal's stderr."""
    absl, terminal = logging.getLogger("absl"), sys.stderr.isatty()
    level = absl.level
    absl.setLevel(logging.ERROR)
    tfds.display_progress_bar(terminal)
    try:
        with contextlib.redirect_stdout(sys.stderr if terminal else io.StringIO()):
            yield
    finally:
        absl.setLevel(level)


@contextlib.contextmanager
def stall_limit() -> Iterator[None]:
    """A context in which a download fails after STALL_SECONDS without a byte, because TFDS has no limit."""
    send = requests.Session.send

    def send_bounded(
        self: requests.Session, request: requests.PreparedRequest, **options: Any
    ) -> requests.Response:
        return send(self, request, **{**options, "timeout": options.get("timeout") or download.STALL_SECONDS})

    requests.Session.send = send_bounded
    try:
        yield
    finally:
        requests.Session.send = send
