"""Official files that TFDS has no checksums for: verified, from the user's folder or from their server.

Downloads use requests. pooch would wait for a pipe in the folder, take any number of bytes from a server, and
can't verify ids of Git.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from mnistjax import files
from mnistjax.data import idx
from mnistjax.data.arrays import CHUNK, DataError, Missing, Unreachable
from mnistjax.probe import probe

PROBE_SECONDS = 5.0  # a server that takes longer to answer counts as unreachable
STALL_SECONDS = 60.0  # a download without a byte for so long counts as broken
LARGEST = 2**29  # bytes; the largest file, PathMNIST's, has 0.2 GB
TITLES = {"md5": "MD5", "sha256": "SHA-256", "git": "Git id"}  # kinds of checksums
log = logging.getLogger(__name__)

T = TypeVar("T")


class File(NamedTuple):
    """An official file."""

    name: str
    url: str
    checksum: str  # "md5:...", "sha256:..." or "git:...", the id of the file in a Git repository


def obtain(
    dataset: str, file: File, read: Callable[[Path], T], *, raw_dir: Path | None, downloads: Path
) -> T:
    """What `read(path)` returns for an official file of a data set.

    The file is in `raw_dir` or its subfolder named after the data set; `read` must verify it and raise
    DataError for another one. Without a `raw_dir`, it is downloaded. Missing if the folder has no such file.
    """
    if raw_dir is None:
        return read(download(file.url, downloads, file.name, file.checksum))
    problem = None
    for path in (raw_dir / dataset / file.name, raw_dir / file.name):
        if os.path.exists(path):
            try:
                return read(path)
            except DataError as error:
                problem = problem or error
    expected = f"{file.name} expected there or in its subfolder {dataset}"
    raise problem or Missing(f"{raw_dir}: the official files of {dataset} are not in it: {expected}")


def verify(path: Path, file: File) -> None:
    """Raises DataError unless a file of the user has the official checksum."""
    with idx.readable(str(path), "data"), idx.open_file(path) as stream:
        mismatch = _find_mismatch(stream, file.checksum)
    if mismatch:
        raise DataError(f"{path}: {mismatch}; replace it by {file.url}")


def download(url: str, folder: Path, filename: str, checksum: str) -> Path:
    """The path of the verified file in `folder`, which is downloaded if it is missing or damaged.

    `checksum` is as in File. The caller must hold a lock. Unreachable if the file can't be downloaded,
    DataError if it has another checksum, OSError if the disk is full; then nothing of it stays.
    """
    path, partial = folder / filename, folder / f"{filename}.partial"
    with contextlib.suppress(DataError), idx.readable(str(path)), _open_own(path) as stream:
        if not _find_mismatch(stream, checksum):
            return path
    check_reachable(url)
    folder.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)
    try:
        _fetch(url, partial)
        with _open_own(partial) as stream:
            mismatch = _find_mismatch(stream, checksum)
        if mismatch:
            raise DataError(f"{url}: {mismatch}")
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def _open_own(path: Path) -> IO[bytes]:
    """Opens a regular file of ours; DamagedFile for a link, a pipe, ..."""
    return open(files.open_plain(path, os.O_RDONLY), "rb")


def _fetch(url: str, path: Path) -> None:
    """Writes what the server sends to a new file."""
    import requests

    log.info("downloading %s", url)
    options: dict[str, Any] = {"headers": {"Accept-Encoding": "identity"}, "stream": True}
    size, flags = 0, os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with (
            requests.get(url, timeout=STALL_SECONDS, **options) as response,
            open(files.open_plain(path, flags), "wb") as file,
        ):
            response.raise_for_status()
            for chunk in response.iter_content(CHUNK):
                size += len(chunk)
                if size > LARGEST:
                    raise DataError(f"{url}: at most {LARGEST:,} bytes expected, found more")
                file.write(chunk)
    except requests.RequestException as error:
        raise unreachable(url, type(error).__name__) from None


def _find_mismatch(stream: IO[bytes], checksum: str) -> str | None:
    """What is wrong with the checksum of a file, or None."""
    kind, _, expected = checksum.partition(":")
    if (size := os.fstat(stream.fileno()).st_size) > LARGEST:
        return f"at most {LARGEST:,} bytes expected, found {size:,}"
    start = start_git_id(size) if kind == "git" else hashlib.new(kind, usedforsecurity=False)
    found = hashlib.file_digest(stream, lambda: start).hexdigest()  # pyright: ignore[reportArgumentType] # any hash object serves
    if found == expected:
        return None
    stream.seek(0)
    looks = "; it is an HTML page" if stream.read(64).lstrip().startswith(b"<") else ""
    return f"wrong checksum: {TITLES[kind]} {expected} expected, found {found} ({size} bytes{looks})"


def start_git_id(size: int) -> Any:
    """A hash object whose digest of `size` bytes is the id under which Git stores them.

    >>> start_git_id(0).hexdigest()
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def check_reachable(url: str) -> None:
    """Raises Unreachable if `url` can't be downloaded; takes at most PROBE_SECONDS."""
    answer = probe(url, timeout=PROBE_SECONDS)
    if answer not in (200, 405, 501):
        raise unreachable(url, f"HTTP {answer}" if isinstance(answer, int) else answer)


def unreachable(url: str, reason: str) -> Unreachable:
    """The error for a file that can't be downloaded."""
    folder = "give a folder with the official files (data.raw_dir=FOLDER)"
    return Unreachable(f"{url} can't be downloaded ({reason}); {folder} or use data=digits")
