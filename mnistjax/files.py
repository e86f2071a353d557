"""Files in folders that may be a stranger's: plain files only, read up to a limit, replaced whole, locked.

A run or sweep folder can come from anyone. What is read from it is data: a regular file, no link, no device,
no larger than its kind can be, and of JSON's types only. What is written there never goes through a link,
so nothing outside the folder is touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import yaml

from mnistjax.config import ConfigError

TEMPORARY = ".tmp"  # the ending of a file that is being written; its name is random
DEEPEST = 50  # lists and dicts inside one another in a JSON or YAML file
TOO_DEEP = f"more than {DEEPEST} lists or mappings inside one another"
MIB = 2**20  # bytes


class DamagedFile(ConfigError):
    """A file that is not what we wrote: of another type, too large, cut short, changed."""


class FolderInUse(ConfigError):
    """A folder that a living process owns."""


def describe(error: OSError | ValueError, path: str | os.PathLike[str]) -> str:
    """What went wrong with which file: "runs/0/status.json: No space left on device"."""
    reason = (getattr(error, "strerror", None) or str(error)).strip()
    named = getattr(error, "filename", None)
    where = os.fsdecode(named) if isinstance(named, (str, bytes)) and named else os.fspath(path)
    where = where if len(where) <= 300 else f"{where[:100]}...{where[-100:]}"
    return f"{where}: {reason}".replace("\0", "\\0")


def make_folder(path: Path) -> None:
    """Makes a folder and those above it; ConfigError if that can't be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise ConfigError(f"this folder can't be made: {describe(error, path)}") from None


def open_plain(path: str | os.PathLike[str], flags: int, *, follow: bool = False) -> int:
    """A descriptor of a regular file, never of a link, a device or a pipe; DamagedFile for those.

    `follow` takes a link to a regular file, for files that the user has named. What is written must not have
    a second name (a hard link), which may lie outside the folder.
    """
    no_link = 0 if follow else os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags | no_link | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if os.path.islink(path) and not follow:
            raise DamagedFile(f"{path} is a link; a file of its own is expected") from None
        if Path(path).exists() and not Path(path).is_file():  # a socket, say, or a folder to be written
            raise DamagedFile(f"{path} is no regular file") from None
        raise error
    status = os.fstat(descriptor)
    writes = flags & (os.O_WRONLY | os.O_RDWR)
    if not stat.S_ISREG(status.st_mode) or (writes and status.st_nlink > 1):
        os.close(descriptor)
        kind = (
            "has a second name elsewhere (a hard link)"
            if stat.S_ISREG(status.st_mode)
            else "is no regular file"
        )
        raise DamagedFile(f"{path} {kind}")
    return descriptor


def read_bytes(path: str | os.PathLike[str], *, limit: int, follow: bool = False) -> bytes:
    """The content of a regular file of at most `limit` bytes, else DamagedFile; FileNotFoundError if it is
    missing, and OSError if it can't be read."""
    with open(open_plain(path, os.O_RDONLY, follow=follow), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise DamagedFile(f"{path} has {size:,} bytes; at most {limit:,} are read")
        return file.read(min(limit, size + 1))  # not `limit` bytes of memory


def read_json(path: str | os.PathLike[str], *, limit: int) -> Any:
    """The value in a JSON file, of plain JSON types; DamagedFile if it holds none."""
    return parse_json(read_bytes(path, limit=limit), str(path))


def parse_json(content: bytes, where: str) -> Any:
    """The value of a JSON text. DamagedFile, which begins with `where`, for anything else: NaN, a number of
    thousands of digits, half a surrogate pair, or lists too deep."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    try:
        value = json.loads(content, parse_constant=refuse)
        check_plain(value)
        if b"\\u" in content:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{where} is damaged: not JSON ({_short(error)})") from None
    return value


def read_yaml(path: str | os.PathLike[str], *, limit: int) -> Any:
    """The value in a YAML file, of JSON's types only; DamagedFile if it holds none.

    Aliases are refused: a few of them can stand for more values than fit in memory.
    """
    try:
        content, depth = read_bytes(path, limit=limit), 0
        for event in yaml.parse(content, _Loader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("an alias")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError(TOO_DEEP)
        value = yaml.load(content, _Loader)
        check_plain(value)
        json.dumps(value, ensure_ascii=False).encode()
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError, KeyError) as error:
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(f"{path} is damaged: not the YAML that we write ({_short(error)})") from None
    return value


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast


def check_plain(value: Any, depth: int = 0) -> None:
    """ValueError unless a value is of JSON's types, finite, with text as keys, and not too deep."""
    if depth > DEEPEST:
        raise ValueError(TOO_DEEP)
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise ValueError(f"the key {key!r} is no text")
            check_plain(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            check_plain(item, depth + 1)
    elif not (value is None or type(value) in (bool, int, float, str)):
        raise ValueError(f"a {type(value).__name__}")
    elif type(value) is float and not math.isfinite(value):
        raise ValueError("a number that is not finite")


def _short(error: Exception) -> str:
    """One line of at most 100 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:100]


def replace(path: Path, content: bytes, *, previous: Path | None = None, durable: bool = True) -> None:
    """Puts `content` into `path`, whole or not at all; what it held goes to `previous`, if given.

    If `durable` it is on the disk when this returns. A link at `path` is replaced, not followed. OSError (a
    full disk) leaves what was there.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}{TEMPORARY}")
    try:
        with open(open_plain(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if previous is not None and os.path.lexists(path):
            os.replace(path, previous)
        os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # not the temporary one's
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
    """Removes what `replace` left in a folder when its process was killed; the caller owns the folder."""
    for path in folder.glob(f".*{TEMPORARY}"):
        if len(path.stem.rpartition(".")[2]) == 16:
            path.unlink(missing_ok=True)


def check_links(folder: Path) -> None:
    """ConfigError if a link at or below a folder leads out of it: who writes there would write elsewhere."""
    if folder.is_symlink():
        raise ConfigError(f"{folder} is a link; give the folder itself, {folder.resolve()}")
    top = os.path.realpath(folder)
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(place, name)
            if os.path.islink(path) and not os.path.realpath(path).startswith(f"{top}{os.sep}"):
                raise ConfigError(f"{path} is a link out of {folder}; remove it")


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = False) -> Iterator[IO[bytes]]:
    """Holds the lock of a file, which is made if it is missing; FolderInUse if a living process holds it.

    The kernel drops the lock of a process that dies, however it dies. The pid inside is for messages.
    """
    with open(open_plain(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
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
            yield file
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)
            fcntl.flock(file, fcntl.LOCK_UN)  # a forked child may hold the same open file


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
