"""CIFAR-10 and CIFAR-100: records of labels and an image in binary files, in a .tar.gz or unpacked."""

import gzip
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from tensorflow_datasets.image_classification import cifar as stock

from mnistjax.data import idx
from mnistjax.data.arrays import DataError, Missing, read_content
from mnistjax.data.download import File, verify
from mnistjax.data.official import Archive, Stored
from mnistjax.data.without_tensorflow import WithoutTensorFlow, load_pinned

SHAPE = (32, 32, 3)
PIXELS = 32 * 32 * 3  # bytes of an image in a file: all of red, then green, then blue
LARGEST = 2**28  # bytes of an unpacked archive; the official ones have 0.18 GB
MOST_MEMBERS = 100  # of an archive; the official ones have about ten
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FINE_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"""
# Ids of the unpacked files in Git. Independent repositories have the same ones (NTU-ALComLab/IWLS2021 and
# JanHalozan/ConvolutionalNeuralNetwork on GitHub). The files of CIFAR-100 are too large for GitHub.
UNPACKED = {
    "data_batch_1.bin": "git:da09f891072747be90e69e4f00ba7cba870dc87e",
    "data_batch_2.bin": "git:7e958840b7a55df3353574298ebc9ca0e4bba48e",
    "data_batch_3.bin": "git:5259a3e9674ffdf2d5c33a1067f7192ff06c9e2f",
    "data_batch_4.bin": "git:301e7d16d78428f13262e87a5bc78ed45b8224aa",
    "data_batch_5.bin": "git:51fe428dfbdd065852912743ae8b7b63bb1e9d8d",
    "test_batch.bin": "git:e3f3b4653f18f27ada1558cabc3352a3ed1b25cc",
}


class Cifar10(WithoutTensorFlow, stock.Cifar10, skip_registration=True):
    """CIFAR-10."""

    url_infos = load_pinned("url_checksums/cifar10.txt")
    counts = 50_000, 10_000
    image_shape = SHAPE
    class_names = NAMES
    pickles = ("cifar-10-batches-py", "cifar-10-python.tar.gz")

    @property
    def _record(self) -> int:
        """The bytes of a record: its labels and its pixels."""
        return len(self._cifar_info.label_keys) + PIXELS

    def _list_sizes(self) -> dict[str, int]:
        """The sizes of the files in bytes by name, in the official order."""
        splits = zip((self._cifar_info.train_files, self._cifar_info.test_files), self.counts, strict=True)
        return {name: count // len(names) * self._record for names, count in splits for name in names}

    def read_archive(self, path: Path, filename: str) -> Stored:
        folder, sizes = self._cifar_info.prefix, self._list_sizes()
        with idx.readable(str(path), "tar.gz"), open(path, "rb") as file:
            stream: Any = gzip.GzipFile(fileobj=file)
            contents = read_members(stream, {f"{folder}{name}": size for name, size in sizes.items()})
        return self._parse({name: contents[f"{folder}{name}"] for name in sizes}, str(path))

    def find_arrays(self, raw_dir: Path, archives: Sequence[Archive]) -> Stored:
        try:
            return super().find_arrays(raw_dir, archives)
        except Missing as error:
            missing = error
        arrays = self._find_unpacked(raw_dir)
        if arrays is None:
            raise missing
        return arrays

    def _find_unpacked(self, raw_dir: Path) -> Stored | None:
        """The arrays in the unpacked files; None if there are none, DataError if they can't be verified."""
        ((url, info),) = self.url_infos.items()
        archive, names = f"{info.filename} ({url})", [*self._list_sizes()]
        folder = self._cifar_info.prefix
        for place in (raw_dir / self.name / folder, raw_dir / folder, raw_dir / self.name, raw_dir):
            if not any(os.path.exists(place / name) for name in names):
                continue
            if not UNPACKED.keys() >= {*names}:
                raise DataError(f"{place}: unpacked files of {self.name} can't be verified; give {archive}")
            for name in names:
                verify(place / name, File(name, archive, UNPACKED[name]))
            return self._parse({name: (place / name).read_bytes() for name in names}, str(place))
        for path in (raw_dir / place / name for place in (self.name, "") for name in self.pickles):
            if os.path.exists(path):
                raise DataError(f"{path}: pickles are never loaded; give the binary version, {archive}")
        return None

    def _parse(self, contents: dict[str, bytes], where: str) -> Stored:
        """The arrays in the contents of the files by name."""
        arrays, keys = Stored(), self._cifar_info.label_keys
        for split, names in (("train", self._cifar_info.train_files), ("test", self._cifar_info.test_files)):
            content = b"".join(contents[name] for name in names)
            records = np.frombuffer(content, np.uint8).reshape(-1, self._record)
            channels = records[:, len(keys) :].reshape(-1, 3, 32, 32)
            arrays[f"{split}_images"] = np.ascontiguousarray(channels.transpose(0, 2, 3, 1)), where
            arrays[f"{split}_labels"] = records[:, keys.index("label")], where
        return arrays


class Cifar100(Cifar10, stock.Cifar100, skip_registration=True):
    """CIFAR-100 with its 100 fine labels."""

    url_infos = load_pinned("url_checksums/cifar100.txt")
    class_names = tuple(FINE_NAMES.split())
    pickles = ("cifar-100-python", "cifar-100-python.tar.gz")


class _Bounded:
    """A stream that raises EOFError at its end and ValueError after `limit` bytes.

    A tar's headers may claim any size, and tarfile would go on at the end of the stream for hours.
    """

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream, self._limit, self._count = stream, limit, 0

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._count += len(content)
        if not content:
            raise EOFError("truncated")
        if self._count > self._limit:
            raise ValueError(f"more than {self._limit:,} bytes")
        return content


def read_members(stream: IO[bytes], sizes: dict[str, int]) -> dict[str, bytes]:
    """The contents of members of a tar stream by name; ValueError unless they have these sizes in bytes."""
    found = dict[str, bytes]()
    try:
        bounded: Any = _Bounded(stream, LARGEST)
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for number, member in enumerate(archive):
                if number >= MOST_MEMBERS:
                    raise ValueError(f"more than {MOST_MEMBERS} members")
                if member.name in sizes:
                    found[member.name] = _read_member(archive, member, sizes[member.name])
                if len(found) == len(sizes):
                    return found
    except tarfile.TarError as error:
        raise ValueError(str(error)) from None
    raise ValueError(f"no {', '.join(sizes.keys() - found.keys())}")


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> bytes:
    if not member.isreg() or member.issparse() or member.size != size:
        raise ValueError(f"{member.name} of type {member.type!r} and {member.size:,} bytes, not {size:,}")
    stream = archive.extractfile(member)
    content = read_content(stream, size) if stream else b""
    if len(content) < size:
        raise ValueError(f"{member.name} of {len(content):,} bytes, not {size:,}")
    return bytes(content)
