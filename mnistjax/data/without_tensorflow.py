"""The parts of TFDS's builders that ours replace, because TFDS's need TensorFlow.

TFDS's builders need TensorFlow to unzip, to read files and to encode PNG. Ours keep their URLs, checksums,
counts and versions, but leave the archives as they are, read them with NumPy and store raw pixels.
"""

import types
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.checksums import load_url_infos

from mnistjax.data import idx
from mnistjax.data.arrays import SIDE, DataError, check_labels
from mnistjax.data.official import Archive, Stored, find_arrays


class WithoutTensorFlow(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder whose other base is one of TFDS's."""

    code_path = None  # else TFDS looks for checksums with importlib_resources, which it does not require
    counts = 60_000, 10_000  # training and test images
    class_names = ()  # empty for those of TFDS
    first_label = 0
    image_shape = (SIDE, SIDE, 1)
    url_infos: Any  # TFDS's size, checksum and file name for each URL
    arrays: Stored | None = None  # from the user's folder, verified; None to download them

    def _info(self) -> tfds.core.DatasetInfo:
        stock: Any = super()
        info = stock._info()
        image = tfds.features.Tensor(shape=self.image_shape, dtype=np.uint8, encoding="bytes")
        names = self.class_names
        label = tfds.features.ClassLabel(names=list(names)) if names else info.features["label"]
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            supervised_keys=("image", "label"),
            homepage=info.homepage,
            citation=info.citation,
            disable_shuffling=True,  # keeps the official order in every version of TFDS
        )

    def _make_download_manager(self, download_dir: Any, download_config: Any) -> Any:
        """TFDS's, without unzipping; its record of sizes is the same for files from a user's folder."""
        manager = super()._make_download_manager(download_dir, download_config)
        size = sum(info.size for info in self.url_infos.values())
        return types.SimpleNamespace(download=manager.download, downloaded_size=size)

    def _split_generators(self, dl_manager: Any) -> Any:
        arrays = self.arrays or Stored()
        if not arrays:
            urls = {info.filename: url for url, info in self.url_infos.items()}
            for filename, path in dl_manager.download(urls).items():
                arrays |= self.read_archive(Path(path), filename)
        splits = zip(("train", "test"), self.counts, strict=True)
        return {
            split: self._list_examples(count, *arrays[f"{split}_images"], *arrays[f"{split}_labels"])
            for split, count in splits
        }

    def read_archive(self, path: Path, filename: str) -> Stored:
        """The arrays in an official file, which has this name in TFDS."""
        raise NotImplementedError

    def find_arrays(self, raw_dir: Path, archives: Sequence[Archive]) -> Stored:
        """The verified arrays in a user's folder, see `official.find_arrays`."""
        return find_arrays(self.name, raw_dir, archives, self.read_archive)

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
            yield index, {"image": image.reshape(self.image_shape), "label": int(label) - first}


def load_pinned(file: str) -> dict[str, Any]:
    """The `url_infos` in a file of checksums of TFDS."""
    return load_url_infos(tfds.core.tfds_path() / file)
