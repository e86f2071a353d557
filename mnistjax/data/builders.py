"""TFDS builders that need no TensorFlow, and checks of their files; imported only to prepare data.

TFDS's builders need TensorFlow to unzip, to read files and to encode PNG. Ours keep their URLs, checksums,
counts and versions, but leave the archives as they are, read IDX with NumPy and store raw pixels.
"""

import contextlib
import errno
import io
import logging
import os
import sys
import types
import zipfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.checksums import load_url_infos
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.core.download.util import DownloadError
from tensorflow_datasets.image_classification import mnist as stock

from mnistjax.config import one_line
from mnistjax.data import idx
from mnistjax.data.arrays import SIDE, Arrays, DataError, Unreachable, check_labels
from mnistjax.data.official import Archive, Parts, find_parts
from mnistjax.probe import probe

PROBE_SECONDS = 5.0  # a server that takes longer to answer counts as unreachable
STALL_SECONDS = 60.0  # a download without a byte for so long counts as broken
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


class _WithoutTensorFlow(stock.MNIST, skip_registration=True):
    """The parts of TFDS's builders that ours replace."""

    code_path = None  # else TFDS looks for checksums with importlib_resources, which it does not require
    first_label = 0
    url_infos: Any  # TFDS's size, checksum and file name for each URL
    parts: Parts | None = None  # from the user's folder, verified; None to download them

    def _info(self) -> tfds.core.DatasetInfo:
        info = super()._info()
        image = tfds.features.Tensor(shape=(SIDE, SIDE, 1), dtype=np.uint8, encoding="bytes")
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict({"image": image, "label": self._label(info)}),
            supervised_keys=("image", "label"),
            homepage=info.homepage,
            citation=info.citation,
            disable_shuffling=True,  # keeps the official order in every version of TFDS
        )

    def _label(self, info: Any) -> tfds.features.ClassLabel:
        return info.features["label"]

    def _make_download_manager(self, download_dir: Any, download_config: Any) -> Any:
        """TFDS's, without unzipping; its record of sizes is the same for files from a user's folder."""
        manager = super()._make_download_manager(download_dir, download_config)
        size = sum(info.size for info in self.url_infos.values())
        return types.SimpleNamespace(download=manager.download, downloaded_size=size)

    def _split_generators(self, dl_manager: Any) -> Any:
        parts = self.parts or Parts()
        if not parts:
            urls = {info.filename: url for url, info in self.url_infos.items()}
            for filename, path in dl_manager.download(urls).items():
                parts |= self.read_archive(Path(path), filename)
        halves = zip(("train", "test"), self._counts(), strict=True)
        return {
            half: self._list_examples(count, *parts[f"{half}_images"], *parts[f"{half}_labels"])
            for half, count in halves
        }

    def _counts(self) -> tuple[int, int]:
        """The numbers of training and test images."""
        return stock._TRAIN_EXAMPLES, stock._TEST_EXAMPLES

    def read_archive(self, path: Path, filename: str) -> Parts:
        """The parts in an official file, which has this name in TFDS."""
        (part,) = (part for part, stem in idx.FILES.items() if filename.startswith(stem))
        return {part: (idx.read_file(path, idx.ITEMS[part]), str(path))}

    def _list_examples(
        self, count: int, images: np.ndarray, images_name: str, labels: np.ndarray, labels_name: str
    ) -> Generator[tuple[int, dict[str, Any]], Any, None]:
        idx.check_pair(images, images_name, labels, labels_name)
        if len(images) != count:
            raise DataError(f"{images_name}: {count} images expected, found {len(images)}")
        info: Any = self.info
        first, classes = self.first_label, info.features["label"].num_classes
        check_labels(labels_name, labels, range(first, first + classes))
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image[..., None], "label": int(label) - first}


def _pinned(stock_class: Any) -> dict[str, Any]:
    """The `url_infos` of one of TFDS's builders."""
    return load_url_infos(tfds.core.tfds_path() / "url_checksums" / f"{stock_class.name}.txt")


class MNIST(_WithoutTensorFlow, skip_registration=True):
    """MNIST."""

    url_infos = _pinned(stock.MNIST)


class FashionMNIST(_WithoutTensorFlow, stock.FashionMNIST, skip_registration=True):
    """Fashion-MNIST."""

    url_infos = _pinned(stock.FashionMNIST)


class KMNIST(_WithoutTensorFlow, stock.KMNIST, skip_registration=True):
    """Kuzushiji-MNIST."""

    url_infos = _pinned(stock.KMNIST)


# All 145,600 letters of the archive, in 26 equal classes; TFDS takes only 103,600.
LETTERS = stock.EMNISTConfig(
    name="letters",
    class_number=26,
    train_examples=124_800,
    test_examples=20_800,
    description="EMNIST Letters",
)


class EMNIST(_WithoutTensorFlow, stock.EMNIST, skip_registration=True):
    """EMNIST, upright and with labels from 0. Paths are ARCHIVE/gzip/MEMBER, a file in the archive."""

    url_infos = _pinned(stock.EMNIST)
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS's name)
        LETTERS if config.name == LETTERS.name else config for config in stock.EMNIST.BUILDER_CONFIGS
    ]

    builder_config: Any

    @property
    def first_label(self) -> int:
        return int(self.builder_config.name == "letters")

    def _label(self, info: Any) -> tfds.features.ClassLabel:
        return tfds.features.ClassLabel(names=list(CLASSES[self.builder_config.name]))

    def _counts(self) -> tuple[int, int]:
        return self.builder_config.train_examples, self.builder_config.test_examples

    def read_archive(self, path: Path, filename: str) -> Parts:
        parts = Parts()
        with idx.readable(str(path), "zip"), zipfile.ZipFile(path) as archive:
            for part, stem in idx.FILES.items():
                member = f"gzip/emnist-{self.builder_config.name}-{stem.replace('t10k', 'test')}.gz"
                with archive.open(member) as stream:
                    array = idx.parse(stream, f"{path}/{member}", idx.ITEMS[part])
                upright = array.swapaxes(1, 2) if array.ndim == 3 else array  # stored transposed
                parts[part] = upright, f"{path}/{member}"
        return parts


BUILDERS: dict[str, tuple[Any, str | None]] = {
    "mnist": (MNIST, None),
    "fashion_mnist": (FashionMNIST, None),
    "kmnist": (KMNIST, None),
    **{f"emnist_{config}": (EMNIST, config) for config in CLASSES},
}


def _archives() -> list[Archive]:
    """The official files of all data sets."""
    builders = dict.fromkeys(builder for builder, _ in BUILDERS.values())
    return [
        Archive(builder.name, info.filename, url, info.size, info.checksum)
        for builder in builders
        for url, info in builder.url_infos.items()
    ]


def check_reachable(url: str) -> None:
    """Raises Unreachable if `url` can't be downloaded; takes at most PROBE_SECONDS."""
    answer = probe(url, timeout=PROBE_SECONDS)
    if answer not in (200, 405, 501):
        raise _unreachable(url, f"HTTP {answer}" if isinstance(answer, int) else answer)


def _unreachable(url: str, reason: str) -> Unreachable:
    folder = "give a folder with the official files (data.raw_dir=FOLDER)"
    return Unreachable(f"{url} can't be downloaded ({reason}); {folder} or use data=digits")


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
                builder.parts = find_parts(builder.name, raw_dir, _archives(), builder.read_archive)
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
        raise _unreachable(url, type(error).__name__) from None
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
    images, labels = np.empty((len(records), SIDE, SIDE), np.uint8), np.empty(len(records), np.int32)
    for start in range(0, len(records), READ_AT_ONCE):
        rows = range(start, min(start + READ_AT_ONCE, len(records)))
        for row, record in zip(rows, records.__getitems__(rows), strict=True):
            images[row], labels[row] = record["image"][..., 0], record["label"]
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
        return send(self, request, **{**options, "timeout": options.get("timeout") or STALL_SECONDS})

    requests.Session.send = send_bounded
    try:
        yield
    finally:
        requests.Session.send = send
