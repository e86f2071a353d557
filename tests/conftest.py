"""Strict settings for all tests, and an empty working folder for tests of commands."""

import gc
import logging
import os
import signal
import subprocess
from pathlib import Path

import absl.logging
import hypothesis
import jax
import pytest
from hydra.core.config_store import ConfigStore
from jaxtyping import install_import_hook

from mnistjax.backend import prepare_backend
from mnistjax.progress import LogFile
from wandb_server import wandb_server as wandb_server

# Shapes and types of arrays are checked when these are called.
CHECKED = ["batches", "evaluation", "layout", "metrics", "programs", "step"]
install_import_hook([f"mnistjax.{name}" for name in CHECKED], "beartype.beartype")

# Compiling is most of the tests' work, and without optimization it takes half as long. To test the programs
# that users run: XLA_FLAGS=--xla_backend_optimization_level=3
if "optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()
os.environ.setdefault("XDG_CACHE_HOME", str(Path(__file__).parent.parent / ".pytest_cache"))
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
    jax.config.update("jax_num_cpu_devices", int(os.environ["JAX_NUM_CPU_DEVICES"]))
prepare_backend()
hypothesis.settings.register_profile("ours", deadline=None)  # the first example compiles
hypothesis.settings.load_profile("ours")
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background; processes inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
gc.freeze()  # what is imported stays; looking through it again and again takes a sixth of the time
gc.set_threshold(50_000, 20, 20)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working folder, without the user's data and settings of W&B and Hydra."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("MNISTJAX_RAW_DIR", raising=False)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    # Hydra's set-up of logging closes all handlers, and absl's handler would close pytest's stream.
    monkeypatch.setattr(absl.logging.get_absl_handler().python_handler, "close", lambda: None)
    root = logging.getLogger()  # Hydra leaves open handlers on streams that the test closes
    for handler in root.handlers[:]:  # a run outside of such a folder left it; a record would open it again
        if isinstance(handler, LogFile):
            root.removeHandler(handler)
            handler.close()
    before, level = root.handlers[:], root.level
    stored = ConfigStore.instance().repo  # keeps the models that a test registers, when they are gone
    rows = {group: {*stored.get(group, ())} for group in ("model", "optimizer", "data")}
    yield folder
    for group, names in rows.items():
        for name in {*stored.get(group, ())} - names:
            del stored[group][name]
    for handler in root.handlers:
        if handler not in before:
            handler.close()
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a disk with options like `size=3m` and returns its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this user may not mount a disk")
        return folder

    yield mount
    subprocess.run(["umount", "-l", str(folder)], capture_output=True)  # lazily: files may be open


@pytest.fixture
def carrying(monkeypatch):
    """The name of a registered model with batch statistics and dropout."""
    from mnistjax.models import MODELS
    from small import Carrying

    monkeypatch.setitem(MODELS, "carrying", Carrying)
    return "carrying"


@pytest.fixture
def watched(monkeypatch):
    """The name of a registered model that notes who calls it, see `small.Watched`."""
    from mnistjax.models import MODELS
    from small import Watched

    monkeypatch.setitem(MODELS, "watched", Watched)
    Watched.roads.clear()
    return "watched"
