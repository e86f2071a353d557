"""How JAX uses this machine: devices and threads of a CPU, and a cache of compiled programs.

For programs that are ours: the commands, their workers, the scripts. `import mnistjax` changes nothing.

XLA divides an operation among its threads, of which it has one for each device here. For small networks
that costs more than it brings: on 2 cores an MLP of 64 at batch 64 takes 0.15 s an epoch with one thread and
0.21 s with two; one of 1,024 takes 1.95 and 1.43 s. Whole pieces of a batch, or whole jobs, divide better.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_until_exit = contextlib.ExitStack()
atexit.register(_until_exit.close)


def prepare_backend() -> None:
    """Before JAX's first array: each core of a CPU is a device, and compiled programs are kept in a folder.

    What the environment says (JAX_NUM_CPU_DEVICES, PJRT_NPROC, JAX_COMPILATION_CACHE_DIR) is left alone; once
    JAX's backend has started, nothing is changed.
    """
    import jax  # late: a wrong key is told without it

    os.environ.setdefault("PJRT_NPROC", "1")  # threads beside those of the devices
    if not _devices_are_given():
        try:
            jax.config.update("jax_num_cpu_devices", cores())
        except RuntimeError:  # the backend has started
            return
    if jax.config.values["jax_compilation_cache_dir"] is None:
        with contextlib.suppress(OSError):  # no place for it: programs are compiled each time
            _until_exit.enter_context(_writing(cache_folder()))
            jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def keep_one_device() -> None:
    """A CPU is one device with one thread from here on: for a run whose steps are too small to divide.

    To be called before anything is computed, because JAX's backend starts anew.
    """
    import jax
    from jax.extend.backend import clear_backends

    if jax.default_backend() == "cpu" and jax.device_count() > 1 and not _devices_are_given():
        clear_backends()
        jax.config.update("jax_num_cpu_devices", 1)


def _devices_are_given() -> bool:
    given = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    return given or "JAX_NUM_CPU_DEVICES" in os.environ


def cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def processor() -> str:
    """The name of this machine's processor, as the system tells it."""
    described = Path("/proc/cpuinfo")  # on Linux, whose `platform.processor()` is empty
    model = re.search(r"model name\s*: (.*)", described.read_text() if described.exists() else "")
    return model[1] if model else platform.processor()


def cache_folder() -> Path:
    """Where compiled programs lie: in the user's cache, for all projects."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mnistjax" / "compiled"


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """This process writes into the cache, which is said by a locked file there.

    JAX writes a program in place: a process killed meanwhile leaves a torn one, which every later process
    would read, warn of, and never replace. So what is no older than the file of a dead process is deleted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("process-*"):
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            if not _lock(file):
                continue
            for program in folder.glob("*-cache"):
                if program.stat().st_mtime >= os.fstat(file.fileno()).st_mtime:
                    program.unlink(missing_ok=True)
            path.unlink()
    mine = folder / f"process-{os.uname().nodename}-{os.getpid()}"
    with open(mine, "wb") as file:
        _lock(file)
        try:
            yield
        finally:
            mine.unlink(missing_ok=True)


def _lock(file: IO[bytes]) -> bool:
    """Whether the file is ours now; the kernel drops the lock of a process that dies."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
