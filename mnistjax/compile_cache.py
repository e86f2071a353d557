"""Compiled programs kept in a folder, each checked before it runs.

JAX's own cache of files runs what it finds there, be it a program renamed to another's key; a torn one it
reads, warns of, and never replaces. A file of ours begins with a SHA-256 of its key and content, and is
written whole or not at all; what does not match is deleted, and compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from mnistjax import files

MAGIC = b"mnistjax-compiled-1\n"
SUFFIX = "-cache"  # JAX's own, whose entries from before are replaced
LARGEST = 2**30  # bytes


class CompileCache:
    """What JAX wants of a cache: `get` and `put` by key, and `_path` for its log."""

    def __init__(self, folder: Path) -> None:
        self._path = folder

    def get(self, key: str) -> bytes | None:
        """The program of a key; None if there is none that was put there so."""
        path = self._path / f"{key}{SUFFIX}"
        try:
            content = files.read_bytes(path, limit=LARGEST)
        except FileNotFoundError:
            return None
        except (OSError, files.DamagedFile):
            content = b""
        begin = len(MAGIC) + hashlib.sha256().digest_size
        program = content[begin:]
        if content[:begin] == _head(key, program):
            return program
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return None

    def put(self, key: str, program: bytes) -> None:
        """Keeps the program of a key, unless the disk refuses it."""
        with contextlib.suppress(OSError, files.DamagedFile):
            files.replace(self._path / f"{key}{SUFFIX}", _head(key, program) + program, durable=False)


def _head(key: str, program: bytes) -> bytes:
    return MAGIC + hashlib.sha256(key.encode() + b"\0" + program).digest()


def install(folder: Path) -> None:
    """Makes JAX use our cache in this folder, from here on; OSError if there can be none.

    JAX has no public way to give it a cache (0.10 to 0.12). Should a later version lack the function replaced
    here, AttributeError or ImportError say so.
    """
    import jax
    from jax._src import compilation_cache

    folder.mkdir(parents=True, exist_ok=True)
    theirs = compilation_cache.get_file_cache

    def find_cache(path: str) -> tuple[object, str] | None:
        return (CompileCache(folder), path) if path == str(folder) else theirs(path)

    compilation_cache.get_file_cache = find_cache
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
