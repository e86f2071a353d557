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
from mnistjax.data.arrays import CHUNK, SIDE, Arrays, DataError, read_content

IMAGE = (SIDE, SIDE)  # shape of an item in a file of images
LABEL = ()  # shape of an item in a file of labels
MOST = 2_000_000  # items in a file; more means that the header is damaged
# Also raised for a zip file without a member (KeyError) or with an encrypted one (RuntimeError).
DAMAGED_ARCHIVE = zlib.error, lzma.LZMAError, zipfile.BadZipFile, KeyError, RuntimeError
KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
ITEMS = {part: IMAGE if "images" in part else LABEL for part in FILES}


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


def read_file(path: Path, item: tuple[int, ...], *, most: int = MOST) -> np.ndarray:
    """The uint8 array of an IDX file, (N, 28, 28) for IMAGE or (N,) for LABEL; DataError for other files."""
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


def parse(stream: Any, name: str, item: tuple[int, ...], *, size: int = 0, most: int = MOST) -> np.ndarray:
    """The uint8 array of at most `most` items in an IDX stream.

    Allocates as content is read, not what the header claims. `size` is the size of the stream's file, or 0 if
    unknown. It is checked first, because gzip would read zeros after the content to the end, byte by byte.
    """
    zipped = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    stream = gzip.GzipFile(fileobj=stream) if zipped else stream
    length = 4 * (2 + len(item))
    count = _parse_header(bytes(read_content(stream, length)), name, item, most)
    expected = count * math.prod(item)
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
    return np.frombuffer(content, np.uint8).reshape(count, *item)


def _parse_header(header: bytes, name: str, item: tuple[int, ...], most: int) -> int:
    """The number of items according to the header; DataError if it is damaged or of another kind of items."""
    length, magic = 4 * (2 + len(item)), bytes([0, 0, 8, 1 + len(item)])
    if header[:4] != magic[: len(header)] or not header:
        kind = "an HTML page" if header.lstrip()[:1] == b"<" else f"bytes {header[:4].hex(' ') or 'none'}"
        raise DataError(f"{name}: IDX magic {magic.hex(' ')} expected, found {kind}")
    if len(header) < length:
        raise DataError(f"{name}: truncated: a header of {length} bytes expected, found {len(header)}")
    count, *sizes = (int(size) for size in np.frombuffer(header, ">u4", offset=4))
    if tuple(sizes) != item or not 0 < count <= most:
        shape = " x ".join(map(str, (f"1 to {most:,}", *item)))
        raise DataError(f"{name}: dimensions {shape} expected, found {' x '.join(map(str, (count, *sizes)))}")
    return count


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
    """The user's own four IDX files, named as MNIST's, gzipped or not; classes are 0 to the largest label."""
    if raw_dir is None:
        raise DataError("data set 'idx' needs data.raw_dir=FOLDER with your four IDX files")
    found = {part: _find(raw_dir, name, ITEMS[part]) for part, name in FILES.items()}
    for half in ("train", "test"):
        check_pair(*found[f"{half}_images"], *found[f"{half}_labels"])
    parts: dict[str, Any] = {part: array for part, (array, _) in found.items()}
    classes = max(2, 1 + int(max(parts["train_labels"].max(), parts["test_labels"].max())))
    return Arrays(**parts, class_names=tuple(map(str, range(classes))))


def _find(raw_dir: Path, name: str, item: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """The array in the folder or its subfolder `idx`, and its file; DataError if two files of it differ."""
    for folder in (raw_dir / "idx", raw_dir):
        if paths := find_forms(folder, name):
            array, *others = (read_file(path, item) for path in paths)
            if not all(np.array_equal(array, other) for other in others):
                raise DataError(f"{' and '.join(map(str, paths))} differ; keep one of them")
            return array, str(paths[0])
    raise DataError(f"{raw_dir}: {name} or {name}.gz expected, found neither")
