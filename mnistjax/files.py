"""Reads and writes files in untrusted folders: regular files only, of limited size, replaced whole, locked.

A run or sweep folder can come from anyone. A file is read only if it is a regular one, not a link or a
device, and not larger than its kind can be; it must hold JSON's types only. Nothing is written through a
link, so nothing outside of the folder changes.
"""

import contextlib
import fcntl
import json
import math
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mnistjax.config import ConfigError

TEMPORARY = ".tmp"  # suffix of a file that is being written; its name is random
DEEPEST = 50  # levels of lists and mappings in a JSON or YAML file
TOO_DEEP = f"more than {DEEPEST} levels of lists and mappings"
MIB = 2**20  # bytes
PATIENCE = 0.3  # seconds until a locked file counts as owned


class DamagedFile(ConfigError):
    """A file that differs from what we write: it has another type, is too large, truncated or changed."""


class FolderInUse(ConfigError):
    """A folder that a living process owns."""


def describe(error: OSError | ValueError, path: str | os.PathLike[str]) -> str:
    """An error as text, "runs/0/status.json: No space left on device"; `path` is used if it names no file."""
    reason = (getattr(error, "strerror", None) or str(error)).strip()
    named = getattr(error, "filename", None)
    where = os.fsdecode(named) if isinstance(named, (str, bytes)) and named else os.fspath(path)
    where = where if len(where) <= 300 else f"{where[:100]}...{where[-100:]}"
    return f"{where}: {reason}".replace("\0", "\\0")


def make_folder(path: Path) -> None:
    """Makes a folder and its parents; ConfigError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(f"this folder can't be made: {describe(error, path)}") from None


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError inside into a ConfigError that names this file or folder."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {describe(error, path)}") from None


def open_plain(path: str | os.PathLike[str], flags: int, *, follow: bool = False) -> int:
    """Opens a regular file and returns its descriptor; DamagedFile for a link, a device, a pipe, ...

    `follow` allows a link to a regular file, for paths from the user. A file to be written must not have a
    second name (a hard link), because that may lie outside of the folder.
    """
    no_link = 0 if follow else os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags | no_link | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if os.path.islink(path) and not follow:
            raise DamagedFile(f"{path} is a link; a regular file is expected") from None
        if Path(path).exists() and not Path(path).is_file():  # a socket, or a folder to be written
            raise DamagedFile(f"{path} is not a regular file") from None
        raise error
    status = os.fstat(descriptor)
    reason = None
    if not stat.S_ISREG(status.st_mode):
        reason = "is not a regular file"
    elif flags & (os.O_WRONLY | os.O_RDWR) and status.st_nlink > 1:
        reason = "has a second name elsewhere (a hard link)"
    if reason:
        os.close(descriptor)
        raise DamagedFile(f"{path} {reason}")
    return descriptor


def read_bytes(path: str | os.PathLike[str], *, limit: int, follow: bool = False) -> bytes:
    """The content of a regular file.

    DamagedFile if it has more than `limit` bytes, OSError if it is missing or unreadable.
    """
    with open(open_plain(path, os.O_RDONLY, follow=follow), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise DamagedFile(f"{path} has {size:,} bytes; the limit is {limit:,}")
        return file.read(min(limit, size + 1))  # `limit` bytes would be allocated at once


def read_json(path: str | os.PathLike[str], *, limit: int) -> Any:
    """The value in a JSON file; DamagedFile if its content is not JSON."""
    return parse_json(read_bytes(path, limit=limit), str(path))


def parse_json(content: bytes, where: str) -> Any:
    """The value of a JSON text.

    DamagedFile, which begins with `where`, for NaN, a number of thousands of digits, half a surrogate pair,
    lists that are nested too deeply, and everything else that is not strict JSON.
    """

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(content, parse_constant=refuse)
        check_plain(value)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{where} is damaged: not JSON ({_shorten_error(error)})") from None
    return value


def read_yaml(path: str | os.PathLike[str], *, limit: int) -> Any:
    """The value in a YAML file; DamagedFile unless it consists of JSON's types.

    Aliases are refused, because a few of them can expand to more values than fit in memory.
    """
    content, depth = read_bytes(path, limit=limit), 0
    try:
        for event in yaml.parse(content, _Loader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("an alias")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError(TOO_DEEP)
        value = yaml.load(content, _Loader)
        check_plain(value)
    except Exception as error:  # PyYAML passes on what its constructors raise
        reason = _shorten_error(error)
        raise DamagedFile(f"{path} is damaged: not the YAML that we write ({reason})") from None
    return value


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times as fast


def check_plain(value: Any, depth: int = 0) -> None:
    """Raises ValueError unless a value consists of JSON's types: finite numbers, UTF-8 text, text as keys."""
    if depth > DEEPEST:
        raise ValueError(TOO_DEEP)
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise ValueError(f"the key {key!r} is not text")
            key.encode()
            check_plain(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            check_plain(item, depth + 1)
    elif type(value) is str:
        value.encode()
    elif not (value is None or type(value) in (bool, int, float)):
        raise ValueError(f"a {type(value).__name__}")
    elif type(value) is float and not math.isfinite(value):
        raise ValueError("a number that is not finite")


def _shorten_error(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:100]


def replace(
    path: Path, *content: bytes | memoryview, previous: Path | None = None, durable: bool = True
) -> None:
    """Writes the parts of a content to `path`, whole or not at all; moves the former file to `previous`.

    If `durable`, waits until the content is on the disk. A link at `path` is replaced, not followed. OSError
    (a full disk) leaves the former content.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}{TEMPORARY}")
    try:
        with open(open_plain(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.writelines(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if previous is not None and os.path.lexists(path):
            os.replace(path, previous)
        os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # instead of the temporary file's name
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    if durable:
        sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Removes the temporary files that killed calls of `replace` left in a folder, which must be locked."""
    for path in folder.glob(f".*{TEMPORARY}"):
        if len(path.stem.rpartition(".")[2]) == 16:
            path.unlink(missing_ok=True)


def check_links(folder: Path) -> None:
    """Raises ConfigError if a folder is a link or contains a link that leads out of it.

    Otherwise a program that writes to the folder would write elsewhere. W&B's client makes a link to its log,
    which can be in another run's folder; no program opens that.
    """
    if folder.is_symlink():
        raise ConfigError(f"{folder} is a link; give the folder itself, {folder.resolve()}")
    top = os.path.realpath(folder)
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(place, name)
            if name == "debug-core.log" and f"{os.sep}wandb{os.sep}" in place.removeprefix(str(folder)):
                continue
            if os.path.islink(path) and not os.path.realpath(path).startswith(f"{top}{os.sep}"):
                raise ConfigError(f"{path} is a link out of {folder}; remove it")


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the lock of a file, which is made if it is missing; FolderInUse if a living process holds it.

    The kernel releases the lock when the process dies. The file contains the owner's process id, for
    messages. The package filelock would replace only the two calls of flock: it neither names the owner nor
    refuses hard links and devices, and without flock it uses a file that outlives a killed owner.
    """
    with open(open_plain(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX) if wait else _take_lock(file)
        except BlockingIOError:
            owner = file.read(20).decode(errors="replace").strip()
            owner = owner if owner.isdecimal() else "unknown"
            raise FolderInUse(
                f"{path.parent} is in use by process {owner}; wait for it, or stop it"
            ) from None
        try:
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            file.flush()
            yield
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)
            fcntl.flock(file, fcntl.LOCK_UN)  # a forked child may hold the same open file


def _take_lock(file: Any) -> None:
    """Takes the lock of a file; BlockingIOError if a process holds it for longer than `is_locked` does."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
        time.sleep(0.05)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock of a file."""
    try:
        with open(open_plain(path, os.O_RDONLY), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except (OSError, DamagedFile):
        return False
    return False
