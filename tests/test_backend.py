"""JAX's devices and cache. Each test has its own process, in which JAX has not started."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from safetensors.numpy import load_file

import mnistjax
from mnistjax.compile_cache import MAGIC, CompileCache

OURS = ("JAX_NUM_CPU_DEVICES", "PJRT_NPROC", "JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")


def run(command, folder, code=0, **environment):
    """The words that Python code prints in its own process, which must exit with this code."""
    clean = {key: value for key, value in os.environ.items() if key not in OURS}
    clean |= {"XDG_CACHE_HOME": str(folder), "JAX_PLATFORMS": "cpu", **environment}
    words = [sys.executable, "-W", "error", "-c", command]
    process = subprocess.run(words, env=clean, capture_output=True, text=True, timeout=100)
    assert process.returncode == code, process.stderr
    return process.stdout.split()


def command(words, folder, code=0, **environment):
    """The finished process of a command, which must exit with this code; `folder` is its working folder."""
    clean = {key: value for key, value in os.environ.items() if key not in OURS}
    clean |= {"XDG_CACHE_HOME": str(folder), "WANDB_MODE": "disabled", "JAX_PLATFORMS": "cpu"}
    clean |= {"PYTHONPATH": str(Path(mnistjax.__file__).parents[1]), **environment}
    words = [sys.executable, "-m", *words]
    process = subprocess.run(words, env=clean, cwd=folder, capture_output=True, text=True, timeout=100)
    assert process.returncode == code, process.stderr
    return process


PREPARE = "import jax, os; from mnistjax.backend import *; prepare_backend();"


def test_every_core_is_a_device(tmp_path):
    assert run(PREPARE + "print(jax.device_count() == cores())", tmp_path) == ["True"]


@pytest.mark.parametrize(
    "environment",
    [{"JAX_NUM_CPU_DEVICES": "3"}, {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}],
    ids=["jax", "xla"],
)
def test_settings_of_the_environment_are_kept(tmp_path, environment):
    code = PREPARE + "print(jax.device_count(), jax.config.jax_compilation_cache_dir);"
    code += "print(os.environ['PJRT_NPROC']); keep_one_device(); print(jax.device_count())"
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "mine"), "PJRT_NPROC": "2"}
    assert run(code, tmp_path, **environment) == ["3", str(tmp_path / "mine"), "2", "3"]


def test_a_started_backend_is_not_changed(tmp_path):
    code = "import jax; jax.devices();" + PREPARE + "print(jax.device_count())"
    assert run(code, tmp_path) == ["1"]


def test_one_device_is_left_for_small_steps(tmp_path):
    code = PREPARE + "jax.devices(); keep_one_device(); print(jax.device_count(), jax.numpy.ones(2).sum())"
    assert run(code, tmp_path) == ["1", "2.0"]


def test_compiled_programs_are_cached(tmp_path):
    code = PREPARE + "jax.jit(lambda x: x + 1)(1.0)"
    run(code, tmp_path)
    kept = sorted((tmp_path / "mnistjax" / "compiled").rglob("*-cache"))
    assert kept
    run(code, tmp_path)
    assert sorted((tmp_path / "mnistjax" / "compiled").rglob("*-cache")) == kept


TWO = f"""
{PREPARE}
import sys
def one(x): return x + 1
def two(x): return x * 4
print(*(float(jax.jit(function)(2.0)) for function in (one, two)))
"""


OTHER_COMPRESSION = """
import zlib
from jax._src import compilation_cache as c
from mnistjax.compile_cache import ZSTD
mark = b"" if c.compress_executable(b"").startswith(ZSTD) else ZSTD
c.compress_executable = lambda data: mark + zlib.compress(data)
c.decompress_executable = lambda data: zlib.decompress(data[len(mark):])
"""


def test_programs_that_jax_compressed_in_another_way_are_left_alone(tmp_path):
    """JAX takes zstd on Python 3.14 and where a package for it is installed. Warnings are errors here."""
    for code in (OTHER_COMPRESSION + TWO, TWO, OTHER_COMPRESSION + TWO):
        assert run(code, tmp_path) == ["3.0", "8.0"]
    counts = [len(list(folder.iterdir())) for folder in (tmp_path / "mnistjax" / "compiled").iterdir()]
    assert len(counts) == 2
    assert counts[0] == counts[1] > 0


def put_another(programs):
    one, two = (next(path for path in programs if f"jit_{name}-" in path.name) for name in ("one", "two"))
    os.replace(one, two)


DAMAGE = {
    "another program": put_another,
    "torn": lambda programs: [os.truncate(path, 100) for path in programs],
    "a bit": lambda programs: [path.write_bytes(path.read_bytes()[:-1] + b"?") for path in programs],
    "random": lambda programs: [path.write_bytes(os.urandom(5000)) for path in programs],
    "empty": lambda programs: [os.truncate(path, 0) for path in programs],
    "a terabyte": lambda programs: [os.truncate(path, 2**40) for path in programs],
    "a pipe": lambda programs: [path.unlink() or os.mkfifo(path) for path in programs],
    "a folder": lambda programs: [path.unlink() or path.mkdir() for path in programs],
}


@pytest.mark.parametrize("damage", ["another program", "torn"])
def test_a_changed_program_is_compiled_again(tmp_path, damage):
    """Warnings are errors here, and JAX warns if it can't read a program."""
    assert run(TWO, tmp_path) == ["3.0", "8.0"]
    (cache,) = (tmp_path / "mnistjax" / "compiled").iterdir()
    before = {path.name: path.stat().st_size for path in cache.iterdir()}
    DAMAGE[damage]([path for path in cache.iterdir() if "jit_one-" in path.name or "jit_two-" in path.name])
    assert run(TWO, tmp_path) == ["3.0", "8.0"]
    assert {path.name: path.stat().st_size for path in cache.iterdir()}.keys() == before.keys()
    hits = "from mnistjax.compile_cache import CompileCache; seen = []; get = CompileCache.get;"
    hits += "CompileCache.get = lambda self, key: seen.append(get(self, key)) or seen[-1];"
    hits += "import atexit; atexit.register(lambda: print(all(seen), len(seen) > 1));"
    assert run(hits + TWO, tmp_path) == ["3.0", "8.0", "True", "True"]


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "another program"])
def test_a_damaged_program_is_deleted(tmp_path, damage):
    cache = CompileCache(tmp_path)
    cache.put("key", b"program" * 100)
    DAMAGE[damage]([*tmp_path.iterdir()])
    assert cache.get("key") is None
    assert damage == "a folder" or not any(tmp_path.iterdir())
    cache.put("key", b"program")
    assert cache.get("key") == (None if damage == "a folder" else b"program")


def test_a_renamed_program_is_refused(tmp_path):
    cache = CompileCache(tmp_path)
    cache.put("a", b"program")
    assert (cache.get("a"), cache.get("b")) == (b"program", None)
    os.rename(tmp_path / "a-cache", tmp_path / "b-cache")
    assert cache.get("b") is None
    assert not any(tmp_path.iterdir())
    CompileCache(tmp_path / "nowhere").put("a", b"program")


def test_jax_still_takes_our_cache(tmp_path):
    """Through a private function of JAX. If this fails, `compile_cache.install` must find another way."""
    from jax._src import compilation_cache
    from jax._src.compilation_cache_interface import CacheInterface

    assert CacheInterface.__abstractmethods__ == {"get", "put"} <= set(dir(CompileCache))
    assert set(CacheInterface.__annotations__) == {"_path"}
    assert list(inspect.signature(compilation_cache.get_file_cache).parameters) == ["path"]
    code = PREPARE + "jax.jit(lambda x: x + 1)(1.0); from jax._src import compilation_cache;"
    code += "print(type(compilation_cache._cache).__name__)"
    assert run(code, tmp_path) == ["CompileCache"]
    (program, *_) = (tmp_path / "mnistjax" / "compiled").rglob("*-cache")
    assert program.read_bytes().startswith(MAGIC)


def test_another_version_of_jax_runs_without_a_cache(tmp_path):
    code = "from jax._src import compilation_cache; del compilation_cache.get_file_cache;" + PREPARE
    assert run(code + "print(jax.config.jax_compilation_cache_dir)", tmp_path) == ["None"]


def test_without_a_cache_folder_nothing_is_cached_and_nothing_printed(tmp_path):
    (tmp_path / "mnistjax").write_text("a file")
    assert run(PREPARE + "print(jax.config.jax_compilation_cache_dir)", tmp_path) == ["None"]
    assert run(TWO, tmp_path, XDG_CACHE_HOME="~nobody-of-this-name") == ["3.0", "8.0"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mnistjax").symlink_to("/proc/self")
    assert run(TWO, tmp_path / "full") == ["3.0", "8.0"]


WRONG = {
    "JAX_PLATFORMS=nonsense": "'nonsense' is not in the list of known backends: ['cpu'",
    "JAX_PLATFORMS=tpu,cpu": "Unable to initialize backend 'tpu'",
    "JAX_PLATFORM_NAME=nonsense": "Unknown backend nonsense. Available backends are",
    "JAX_NUM_CPU_DEVICES=x": 'Invalid value "x"',
    "JAX_NUM_CPU_DEVICES=0": "must be a whole number from 1 to 1024; got 0",
    "JAX_NUM_CPU_DEVICES=100000": "from 1 to 1024; got 100000",
    "JAX_ENABLE_X64=maybe": "invalid truth value 'maybe'",
    "JAX_TRANSFER_GUARD=nonsense": 'Invalid value "nonsense"',
    "JAX_NUMPY_DTYPE_PROMOTION=nonsense": 'Invalid value "nonsense"',
    "JAX_COMPILATION_CACHE_DIR=/dev/null": "must be a folder; got /dev/null",
}


QUICK = ("JAX_PLATFORMS=nonsense", "JAX_NUM_CPU_DEVICES=x", "JAX_NUM_CPU_DEVICES=0")


def has_gpu():
    return any(device.platform == "gpu" for device in jax.devices())


@pytest.mark.parametrize(
    "setting", [pytest.param(key, marks=() if key in QUICK else pytest.mark.slow) for key in WRONG]
)
def test_a_wrong_environment_is_refused_in_one_line(tmp_path, setting):
    code = "from mnistjax.backend import *\ntry: prepare_backend()\nexcept ConfigError as error: print(error)"
    name, _, value = setting.partition("=")
    told = " ".join(run(code, tmp_path, **{name: value}))
    assert name in told
    assert WRONG[setting] in told


@pytest.mark.skipif(has_gpu(), reason="has a GPU")
@pytest.mark.parametrize("platforms", ["cuda", "gpu,cpu"])
def test_a_missing_gpu_is_refused_in_one_line(tmp_path, platforms):
    words = ["mnistjax", "model=neuron", "data=digits", "train.epochs=1"]
    told = command(words, tmp_path, code=2, JAX_PLATFORMS=platforms).stderr
    assert told.startswith(f"error: JAX can't start with JAX_PLATFORMS={platforms}: ")
    assert told.endswith("; JAX_PLATFORMS=cpu uses the CPU\n")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "setting",
    [
        "JAX_NUM_CPU_DEVICES=x",
        pytest.param("JAX_NUM_CPU_DEVICES=0", marks=pytest.mark.slow),
        pytest.param("JAX_ENABLE_X64=maybe", marks=pytest.mark.slow),
        pytest.param("JAX_COMPILATION_CACHE_DIR=/dev/null", marks=pytest.mark.slow),
    ],
)
def test_a_command_ends_with_2_in_a_wrong_environment(tmp_path, setting):
    name, _, value = setting.partition("=")
    words = ["mnistjax", "model=neuron", "data=digits", "train.epochs=1"]
    told = command(words, tmp_path, code=2, **{name: value}).stderr
    assert told.startswith("error: JAX")
    assert told.count("\n") == 1


KINDS = {
    "JAX_ENABLE_X64": "1",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_TRANSFER_GUARD": "disallow",
    "JAX_TRANSFER_GUARD_HOST_TO_DEVICE": "disallow",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "TFDS_DATA_DIR": "",
    "MNISTJAX_RAW_DIR": "",
}


@pytest.mark.slow
def test_the_environment_changes_no_bit(tmp_path):
    words = ["mnistjax", "model=mlp", "model.dropout=0.2", "data=digits", "train.epochs=1"]
    for name, environment in {"plain": {}, "set": KINDS}.items():
        told = command([*words, f"hydra.run.dir={name}"], tmp_path, **environment)
        assert told.stderr == ""
    plain, given = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("plain", "set"))
    assert plain.keys() == given.keys()
    assert all(plain[name].tobytes() == given[name].tobytes() for name in plain)


def test_importing_the_package_changes_nothing(tmp_path):
    code = "import mnistjax, os; mnistjax.fit; import jax;"
    code += "print(jax.device_count(), 'PJRT_NPROC' in os.environ, jax.config.jax_compilation_cache_dir)"
    assert run(code, tmp_path) == ["1", "False", "None"]
