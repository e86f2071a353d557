"""Each in a process of its own, where JAX has not started."""

import os
import subprocess
import sys

import pytest

OURS = ("JAX_NUM_CPU_DEVICES", "PJRT_NPROC", "JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")


def run(code, folder, **environment):
    clean = {key: value for key, value in os.environ.items() if key not in OURS}
    clean |= {"XDG_CACHE_HOME": str(folder), "JAX_PLATFORMS": "cpu", **environment}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, env=clean, check=True, capture_output=True, text=True).stdout.split()


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
    kept = list((tmp_path / "mnistjax" / "compiled").iterdir())
    assert kept
    run(code, tmp_path)
    assert sorted(kept) == sorted((tmp_path / "mnistjax" / "compiled").iterdir())


def test_importing_the_package_changes_nothing(tmp_path):
    code = "import mnistjax, os; mnistjax.fit; import jax;"
    code += "print(jax.device_count(), 'PJRT_NPROC' in os.environ, jax.config.jax_compilation_cache_dir)"
    assert run(code, tmp_path) == ["1", "False", "None"]
