"""Compiled programs cached in a folder. Each is checked before it runs.

JAX's own cache runs any file that it finds, even a program that was renamed to another key. It warns of a
damaged file, but never replaces it. Our files begin with a SHA-256 of key and content and are written
atomically. A file that does not match is deleted, and its program is compiled again. Each compression has a
folder, because JAX takes what it finds, zstd (with Python 3.14, or a package) or zlib, and reads no other.
"""

import contextlib
import hashlib
from pathlib import Path

from mnistjax import files

MAGIC = b"mnistjax-compiled-1\n"
SUFFIX = "-cache"  # as JAX names its own entries, so that ours replace them
LARGEST = 2**30  # bytes
ZSTD = b"\x28\xb5\x2f\xfd"  # the first bytes of a frame (RFC 8878)


class CompileCache:
    """A cache with the interface that JAX expects: `get` and `put` by key, and `_path` for its log."""

    def __init__(self, folder: Path) -> None:
        self._path = folder

    def get(self, key: str) -> bytes | None:
        """The program that was put under a key; None if it is missing or damaged."""
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
        """Saves the program of a key, unless the disk refuses it."""
        with contextlib.suppress(OSError, files.DamagedFile):
            files.replace(self._path / f"{key}{SUFFIX}", _head(key, program) + program, durable=False)


def _head(key: str, program: bytes) -> bytes:
    return MAGIC + hashlib.sha256(key.encode() + b"\0" + program).digest()


def install(folder: Path) -> None:
    """Makes JAX use our cache in a folder below this one; OSError if the folder can't be created.

    JAX has no public way to set a cache (0.10 to 0.12). AttributeError or ImportError if another version
    lacks the private function that is replaced here.
    """
    import jax
    from jax._src import compilation_cache

    compressed = compilation_cache.compress_executable(b"")
    folder = folder / ("zstd" if compressed.startswith(ZSTD) else "zlib")
    folder.mkdir(parents=True, exist_ok=True)
    theirs = compilation_cache.get_file_cache

    def find_cache(path: str) -> tuple[object, str] | None:
        return (CompileCache(folder), path) if path == str(folder) else theirs(path)

    compilation_cache.get_file_cache = find_cache
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
