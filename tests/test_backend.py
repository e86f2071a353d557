"""Each in a process of its own, where JAX has not started."""

import os
import subprocess
import sys

import pytest

OURS = ("JAX_NUM_CPU_DEVICES", "PJRT_NPROC", "JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")


def run(command, folder, code=0, **environment):
    """The words that a Python command of its own process prints; it exits with this code."""
    clean = {key: value for key, value in os.environ.items() if key not in OURS}
    clean |= {"XDG_CACHE_HOME": str(folder), "JAX_PLATFORMS": "cpu", **environment}
    words = [sys.executable, "-W", "error", "-c", command]
    process = subprocess.run(words, env=clean, capture_output=True, text=True)
    assert process.returncode == code, process.stderr
    return process.stdout.split()


PREPARE = "import jax, os; from mnistjax.backend import *; prepare_backend();"


def test_every_core_is_a_device(tmp_path):
    assert run(PREPARE + "print(jax.device_count() == cores())", tmp_path) == ["True"]


@pytest.mark.parametrize(
    "environment",
    [{"JAX_NUM_CPU_DEVICES": "3"}, {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}],
    ids=["jax", "xla"],
)
def test_what_the_environment_says_stays(tmp_path, environment):
    code = PREPARE + "print(jax.device_count(), jax.config.jax_compilation_cache_dir);"
    code += "print(os.environ['PJRT_NPROC']); keep_one_device(); print(jax.device_count())"
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "mine"), "PJRT_NPROC": "2"}
    assert run(code, tmp_path, **environment) == ["3", str(tmp_path / "mine"), "2", "3"]


def test_a_started_backend_stays(tmp_path):
    code = "import jax; jax.devices();" + PREPARE + "print(jax.device_count())"
    assert run(code, tmp_path) == ["1"]


def test_one_device_is_left_for_small_steps(tmp_path):
    code = PREPARE + "jax.devices(); keep_one_device(); print(jax.device_count(), jax.numpy.ones(2).sum())"
    assert run(code, tmp_path) == ["1", "2.0"]


def test_compiled_programs_are_kept(tmp_path):
    code = PREPARE + "jax.jit(lambda x: x + 1)(1.0)"
    run(code, tmp_path)
    kept = sorted((tmp_path / "mnistjax" / "compiled").iterdir())
    assert kept
    run(code, tmp_path)
    assert sorted((tmp_path / "mnistjax" / "compiled").iterdir()) == kept


def test_a_killed_process_leaves_no_torn_program(tmp_path):
    """With warnings as errors, and JAX warns of a torn one."""
    code = PREPARE + "jax.jit(lambda x: x + 1)(1.0);"
    cache = tmp_path / "mnistjax" / "compiled"
    killed = run(code + "print(os.getpid(), flush=True); os.kill(os.getpid(), 9)", tmp_path, code=-9)
    assert any(killed[0] in path.name for path in cache.iterdir())
    for path in cache.glob("*-cache"):
        path.write_bytes(path.read_bytes()[:100])
    run(code, tmp_path)
    assert not list(cache.glob("process-*"))
    assert all(path.stat().st_size > 100 for path in cache.glob("*-cache"))


def test_programs_of_a_living_process_stay(tmp_path):
    other = "subprocess.run([sys.executable, '-c', 'from mnistjax.backend import *; prepare_backend()'])"
    code = PREPARE + f"jax.jit(lambda x: x + 1)(1.0); import subprocess, sys; {other};"
    code += "print(any(cache_folder().glob('*-cache')), len(list(cache_folder().glob('process-*'))))"
    assert run(code, tmp_path) == ["True", "1"]


def test_where_no_cache_can_be_nothing_is_kept_and_nothing_said(tmp_path):
    (tmp_path / "mnistjax").write_text("a file")
    assert run(PREPARE + "print(jax.config.jax_compilation_cache_dir)", tmp_path) == ["None"]


def test_importing_the_package_changes_nothing(tmp_path):
    code = "import mnistjax, os; mnistjax.fit; import jax;"
    code += "print(jax.device_count(), 'PJRT_NPROC' in os.environ, jax.config.jax_compilation_cache_dir)"
    assert run(code, tmp_path) == ["1", "False", "None"]
