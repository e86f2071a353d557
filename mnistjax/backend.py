"""How JAX uses this machine: devices and threads of a CPU, and a cache of compiled programs.

Only our own programs call this: the commands, their workers, the scripts. `import mnistjax` changes nothing.

XLA divides an operation among the threads of a device; here each device has one. For small networks more
threads cost more than they gain: on 2 cores an MLP of width 64 at batch 64 takes 0.15 s an epoch with one
thread and 0.21 s with two; one of width 1,024 takes 1.95 and 1.43 s. Dividing by shards of a batch or by jobs
works better.
"""

import contextlib
import os
import platform
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mnistjax import compile_cache
from mnistjax.config import ConfigError

MOST_DEVICES = 1024  # of a CPU; each has a thread, and starting 100,000 takes minutes
PLAIN = {  # settings that our programs need; they override the environment
    "jax_enable_x64": False,  # with 64 bits dropout draws other numbers
    "jax_numpy_dtype_promotion": "standard",  # Optax divides by an int32
    "jax_transfer_guard": "allow",  # NumPy arrays are passed to JAX
    "jax_default_prng_impl": "threefry2x32",  # this and the next one decide which numbers a seed draws
    "jax_threefry_partitionable": True,
}


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """A context, or a decorator, with the settings in PLAIN for this thread.

    So a user's JAX_ENABLE_X64, for example, changes no bit of what the library computes, and stays as it is.
    """
    import jax

    with contextlib.ExitStack() as stack:
        for name, value in PLAIN.items():
            stack.enter_context(getattr(jax, name.removeprefix("jax_"))(value))
        yield


@contextlib.contextmanager
def keep_settings() -> Iterator[None]:
    """A context after which the settings in PLAIN are as before."""
    import jax

    with ThreadPoolExecutor(1) as pool:  # in this thread contexts of the user may hide them
        before = pool.submit(lambda: {name: jax.config.values[name] for name in PLAIN}).result()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def prepare_backend() -> None:
    """Starts JAX's backend with each core of a CPU as a device, and caches compiled programs in a folder.

    Call it before JAX's first array: a backend that has started keeps its devices. Variables of the
    environment override the devices, the threads and the cache (JAX_NUM_CPU_DEVICES, PJRT_NPROC,
    JAX_COMPILATION_CACHE_DIR), but not the settings in PLAIN. ConfigError if JAX refuses the environment.
    """
    import_jax()
    import jax

    _check_devices()
    os.environ.setdefault("PJRT_NPROC", "1")  # threads besides those of the devices
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
        why = " ".join(str(error).split()) or "no such device"  # for "cuda", JAX's error has no text
        given = _given("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
        raise ConfigError(f"JAX can't start{given}: {why}; JAX_PLATFORMS=cpu uses the CPU") from None


def import_jax() -> None:
    """Imports JAX, which reads the environment; ConfigError if it refuses a value there."""
    try:
        import jax  # noqa: F401  (late, so that a wrong key is refused without it)
    except ValueError as error:
        named = re.search(r"jax_\w+|JAX_\w+", str(error))
        raise ConfigError(f"JAX can't start{_given(named[0].upper()) if named else ''}: {error}") from None


def _given(*variables: str) -> str:
    """The variables that are set, for an error: " with JAX_PLATFORMS=cuda"."""
    given = [f"{name}={os.environ[name]}" for name in variables if name in os.environ]
    return f" with {' '.join(given)}" if given else ""


def _check_devices() -> None:
    """Raises ConfigError if the environment asks for a wrong number of devices."""
    given = os.environ.get("JAX_NUM_CPU_DEVICES", "1")
    if int(given) == 0 or int(given) > MOST_DEVICES:
        raise ConfigError(f"JAX_NUM_CPU_DEVICES must be a whole number from 1 to {MOST_DEVICES}; got {given}")


def _prepare_cache() -> None:
    """Makes JAX cache compiled programs, in our folder unless the environment names another."""
    import jax

    if given := jax.config.values["jax_compilation_cache_dir"]:
        if "://" not in given:
            with contextlib.suppress(OSError):
                os.makedirs(given, exist_ok=True)
            if not os.path.isdir(given):
                raise ConfigError(f"JAX_COMPILATION_CACHE_DIR must be a folder; got {given}")
        return
    # Without a folder (RuntimeError: no home), or with another version of JAX, nothing is cached.
    with contextlib.suppress(OSError, RuntimeError, ImportError, AttributeError):
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        compile_cache.install(home / "mnistjax" / "compiled")


def keep_one_device() -> None:
    """Makes a CPU one device with one thread, for a run with steps that are too small to divide.

    Call it before anything is computed, because it restarts JAX's backend.
    """
    import jax
    from jax.extend.backend import clear_backends

    if jax.default_backend() == "cpu" and jax.device_count() > 1 and not _devices_are_given():
        clear_backends()
        jax.config.update("jax_num_cpu_devices", 1)


def _devices_are_given() -> bool:
    given = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    return given or "JAX_NUM_CPU_DEVICES" in os.environ


def training_devices() -> int:
    """The devices of a process that trains: JAX's, or a CPU's cores if JAX was started otherwise here."""
    import jax

    if jax.default_backend() != "cpu" or _devices_are_given():
        return jax.device_count()
    return max(jax.device_count(), cores())


def cores() -> int:
    """The number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def free_memory() -> int | None:
    """The bytes of this machine's memory that programs can still take; None if it is not Linux."""
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            lines = dict(line.split(":") for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None


def processor() -> str:
    """The name of this machine's processor."""
    described = Path("/proc/cpuinfo")  # on Linux `platform.processor()` is empty
    model = re.search(
        r"model name\s*: (.*)", described.read_text("utf-8", "replace") if described.exists() else ""
    )
    return model[1] if model else platform.processor()


@contextlib.contextmanager
def compile_clock() -> Iterator[list[float]]:
    """The seconds of each trace, lowering and compilation of this thread inside the `with`, as they end."""
    import jax

    seconds: list[float] = []
    thread = threading.get_ident()

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.startswith("/jax/core/compile/") and threading.get_ident() == thread:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
