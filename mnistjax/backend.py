"""How JAX uses this machine: devices and threads of a CPU, and a cache of compiled programs.

For programs that are ours: the commands, their workers, the scripts. `import mnistjax` changes nothing.

XLA divides an operation among its threads, of which it has one for each device here. For small networks
that costs more than it brings: on 2 cores an MLP of 64 at batch 64 takes 0.15 s an epoch with one thread and
0.21 s with two; one of 1,024 takes 1.95 and 1.43 s. Whole pieces of a batch, or whole jobs, divide better.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path

from mnistjax import compile_cache
from mnistjax.config import ConfigError

MOST_DEVICES = 1024  # of a CPU; each takes a thread, and 100,000 of them minutes
PLAIN = {  # what programs of ours are made for, whatever the environment says for others
    "jax_enable_x64": False,  # else dropout draws other numbers
    "jax_numpy_dtype_promotion": "standard",  # Optax divides by an int32
    "jax_transfer_guard": "allow",  # NumPy arrays go to the device as they are
}


def prepare_backend() -> None:
    """Before JAX's first array: each core of a CPU is a device, and compiled programs are kept in a folder.

    What the environment says of devices, threads and a cache (JAX_NUM_CPU_DEVICES, PJRT_NPROC,
    JAX_COMPILATION_CACHE_DIR) is left alone, what it says of types and transfers is not: see PLAIN. Starts
    JAX's backend; once it has started, nothing is changed. ConfigError if the environment keeps it from that.
    """
    import_jax()
    import jax

    _check_devices()
    os.environ.setdefault("PJRT_NPROC", "1")  # threads beside those of the devices
    if not _devices_are_given():
        try:
            jax.config.update("jax_num_cpu_devices", cores())
        except RuntimeError:  # the backend has started
            return
    for name, value in PLAIN.items():
        jax.config.update(name, value)
    _prepare_cache()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        why = " ".join(str(error).split()) or "no such device"  # of "cuda", an assertion without words
        given = _given("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
        raise ConfigError(f"JAX can't start{given}: {why}; JAX_PLATFORMS=cpu takes the CPU") from None


def import_jax() -> None:
    """Imports JAX, which reads the environment; ConfigError for a value there that it refuses."""
    try:
        import jax  # noqa: F401  (late: a wrong key is told without it)
    except ValueError as error:
        named = re.search(r"jax_\w+|JAX_\w+", str(error))
        raise ConfigError(f"JAX can't start{_given(named[0].upper()) if named else ''}: {error}") from None


def _given(*variables: str) -> str:
    """The variables that are set, for a message: " with JAX_PLATFORMS=cuda"."""
    given = [f"{name}={os.environ[name]}" for name in variables if name in os.environ]
    return f" with {' '.join(given)}" if given else ""


def _check_devices() -> None:
    """ConfigError for a wrong number of devices."""
    given = os.environ.get("JAX_NUM_CPU_DEVICES", "1")
    if int(given) == 0 or int(given) > MOST_DEVICES:
        raise ConfigError(f"JAX_NUM_CPU_DEVICES must be a whole number from 1 to {MOST_DEVICES}; got {given}")


def _prepare_cache() -> None:
    """Compiled programs are kept, in a folder of ours unless the environment names another."""
    import jax

    if given := jax.config.values["jax_compilation_cache_dir"]:
        if "://" not in given and not _is_folder(Path(given)):
            raise ConfigError(f"JAX_COMPILATION_CACHE_DIR must be a folder; got {given}")
        return
    # No place for it, or another JAX: programs are compiled each time.
    with contextlib.suppress(OSError, RuntimeError, ImportError, AttributeError):  # RuntimeError: no home
        compile_cache.install(cache_folder())


def _is_folder(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.mkdir(parents=True, exist_ok=True)
    return os.path.isdir(path)


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
