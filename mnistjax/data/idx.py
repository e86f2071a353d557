"""IDX files, the format of MNIST: a big-endian header (magic, sizes), then bytes; gzipped or not."""

import contextlib
import gzip
import io
import lzma
import math
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mnistjax import files
from mnistjax.data.arrays import CHUNK, LARGEST, SIDE, Arrays, DataError, read_content

IMAGE = (SIDE, SIDE)  # shape of an item in a file of images
LABEL = ()  # shape of an item in a file of labels
ANY_IMAGE = None  # in place of a shape: images of any sides, and channels if they have four axes
MOST = 2_000_000  # items in a file; more means that the header is damaged
MOST_SIDE = 4096  # pixels
# Also raised for a zip file without a member (KeyError) or with an encrypted one (RuntimeError).
DAMAGED_ARCHIVE = zlib.error, lzma.LZMAError, zipfile.BadZipFile, KeyError, RuntimeError
KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
ITEMS = {name: IMAGE if "images" in name else LABEL for name in FILES}


def find_forms(folder: Path, name: str) -> list[Path]:
    """The files of this name in a folder: gzipped or not, with a dot before "idx" or a hyphen.

    Kaggle has each in a subfolder of its own name.
    """
    stem = name.removesuffix(".gz")
    names = [
        form + end for form in dict.fromkeys((stem, stem.replace("-idx", ".idx"))) for end in (".gz", "")
    ]
    found = []
    for path in (folder / form for form in names):
        inner = [path / form for form in names if os.path.exists(path / form)]
        found += inner or ([path] if os.path.exists(path) else [])
    return found


Item = tuple[int, ...] | None


def read_file(path: Path, item: Item, *, most: int = MOST) -> np.ndarray:
    """The uint8 array (N, *item) of an IDX file; DataError for other files."""
    with readable(str(path)), open_file(path) as stream:
        return parse(stream, str(path), item, size=os.fstat(stream.fileno()).st_size, most=most)


def open_file(path: Path) -> io.BufferedReader:
    """Opens a regular file of the user, which may be behind a link; DataError for a pipe, a device, ..."""
    try:
        return open(files.open_plain(path, os.O_RDONLY, follow=True), "rb")
    except files.DamagedFile:
        kind = KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "a device")
        raise DataError(f"{path}: a file expected, found {kind}") from None


@contextlib.contextmanager
def readable(name: str, kind: str = "IDX") -> Iterator[None]:
    """A context in which errors of opening, unzipping and reading become DataErrors that name the file."""
    try:
        yield
    except DataError:
        raise
    except (OSError, EOFError, ValueError, *DAMAGED_ARCHIVE) as error:
        reason = " ".join((getattr(error, "strerror", None) or str(error)).split())  # NumPy writes lines
        raise DataError(f"{name}: a readable {kind} file expected, found: {reason}") from None


def parse(stream: Any, name: str, item: Item, *, size: int = 0, most: int = MOST) -> np.ndarray:
    """The uint8 array of at most `most` items in an IDX stream.

    Allocates as content is read, not what the header claims. `size` is the size of the stream's file, or 0 if
    unknown. It is checked first, because gzip would read zeros after the content to the end, byte by byte.
    """
    zipped = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    stream = gzip.GzipFile(fileobj=stream) if zipped else stream
    shape = _parse_header(bytes(read_content(stream, 4)), stream, name, item, most)
    length, expected = 4 * (1 + len(shape)), math.prod(shape)
    if expected > LARGEST:
        raise DataError(f"{name}: at most {LARGEST:,} bytes expected, found {expected:,}")
    if size > length + expected + CHUNK:  # gzip adds less
        limit = f"at most {length + expected:,} bytes, as its header says,"
        raise DataError(f"{name}: {limit} expected, found {size:,}")
    content = read_content(stream, expected)
    if len(content) < expected:
        raise DataError(
            f"{name}: truncated: {expected} bytes after the header expected, found {len(content)}"
        )
    if stream.read(1):  # at the end of a gzip stream, this also checks its CRC
        raise DataError(f"{name}: {expected} bytes expected after the header, found more")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _parse_header(magic: bytes, stream: Any, name: str, item: Item, most: int) -> tuple[int, ...]:
    """The shape in the header that begins with `magic`; DataError if it is damaged or of other items."""
    allowed = [bytes([0, 0, 8, axes]) for axes in ((3, 4) if item is None else (1 + len(item),))]
    if not magic or not any(one.startswith(magic) for one in allowed):
        kind = "an HTML page" if magic.lstrip()[:1] == b"<" else f"bytes {magic.hex(' ') or 'none'}"
        raise DataError(
            f"{name}: IDX magic {' or '.join(m.hex(' ') for m in allowed)} expected, found {kind}"
        )
    length = 4 * (magic[3] if len(magic) == 4 else len(allowed[0]))
    header = bytes(read_content(stream, length))
    if len(header) < length:
        found = len(magic) + len(header)
        raise DataError(f"{name}: truncated: a header of {4 + length} bytes expected, found {found}")
    count, *sizes = (int(size) for size in np.frombuffer(header, ">u4"))
    fits = tuple(sizes) == item if item is not None else all(0 < size <= MOST_SIDE for size in sizes)
    if not fits or not 0 < count <= most:
        sides = [f"1 to {MOST_SIDE}"] * len(sizes) if item is None else item
        shape = " x ".join(map(str, (f"1 to {most:,}", *sides)))
        raise DataError(f"{name}: dimensions {shape} expected, found {' x '.join(map(str, (count, *sizes)))}")
    return count, *sizes


def make_header(array: np.ndarray) -> bytes:
    """The header of a uint8 array in an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()


def check_pair(images: np.ndarray, images_name: str, labels: np.ndarray, labels_name: str) -> None:
    """Raises DataError unless there are as many labels as images."""
    if len(images) != len(labels):
        raise DataError(
            f"{labels_name}: {len(images)} labels expected as in {images_name}, found {len(labels)}"
        )


def load_files(raw_dir: Path | None) -> Arrays:
    """The user's own four IDX files, named as MNIST's, gzipped or not; classes are 0 to the largest label.

    Images may have any sides, and channels as a fourth axis.
    """
    if raw_dir is None:
        raise DataError("data set 'idx' needs data.raw_dir=FOLDER with your four IDX files")
    found = {
        key: _find(raw_dir, name, ANY_IMAGE if "images" in key else LABEL) for key, name in FILES.items()
    }
    for split in ("train", "test"):
        check_pair(*found[f"{split}_images"], *found[f"{split}_labels"])
    train_images, train_labels, test_images, test_labels = (array for array, _ in found.values())
    classes = max(2, 1 + int(max(train_labels.max(), test_labels.max())))
    names = tuple(map(str, range(classes)))
    return Arrays(train_images, train_labels, test_images, test_labels, names)


def fingerprint(raw_dir: Path) -> str:
    """A text that changes if one of the files that `load_files` reads is written again."""
    folders = raw_dir / "idx", raw_dir
    paths = [path for folder in folders for name in FILES.values() for path in _list_files(folder, name)]
    with readable(str(raw_dir), "folder"):
        found = [(path, os.stat(path)) for path in paths]
    return " ".join(f"{path} {status.st_size} {status.st_mtime_ns}" for path, status in found)


def _list_files(folder: Path, name: str) -> list[Path]:
    """The files of this name in a folder; images may have four axes instead of three."""
    names = dict.fromkeys((name, name.replace("idx3", "idx4")))
    return [path for form in names for path in find_forms(folder, form)]


def _find(raw_dir: Path, name: str, item: Item) -> tuple[np.ndarray, str]:
    """The array in the folder or its subfolder `idx`, and its file; DataError if two files of it differ."""
    for folder in (raw_dir / "idx", raw_dir):
        if paths := _list_files(folder, name):
            array, *others = (read_file(path, item) for path in paths)
            if not all(np.array_equal(array, other) for other in others):
                raise DataError(f"{' and '.join(map(str, paths))} differ; keep one of them")
            return array, str(paths[0])
    raise DataError(f"{raw_dir}: {name} or {name}.gz expected, found neither")
