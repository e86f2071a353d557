"""Worker processes of sweeps that a script starts: from standard input, without a guard, from a thread."""

import json
import os
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from flax import linen as nn

import mnistjax
from mnistjax.cli import main, multirun
from mnistjax.config import ConfigError
from mnistjax.models import MODELS
from mnistjax.sweeps.spawn import WORKER, without_main
from mnistjax.sweeps.trainer import JobQueue, split_by_step
from mnistjax.sweeps.worker import copy_tables, needs_main

SMALL = ["data=digits", "model=mlp", "model.hidden=8", "train.epochs=1", "train.batch_size=230"]
CALL = f"""
import sys
from mnistjax.cli import main
SMALL = {SMALL}
code = main(["-m", *SMALL, "seed=0,1", "hydra.sweep.dir=sweep", *sys.argv[1:]])
print("the script goes on", file=sys.stderr)
"""
THREAD = """
import threading
if __name__ == "__main__":
    thread = threading.Thread(target=lambda: exec(CALL))
    thread.start()
    thread.join()
"""
OWN_MODEL = """
import mnistjax
from flax import linen as nn
class Mine(nn.Module):
    num_classes: int = 10
    hidden: int = 8
    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1) / 255)
mnistjax.register_model("mine", Mine)
"""


def run_script(script, *words, file=False):
    """What a script writes to stderr, as lines; it is given in a file, or on standard input."""
    Path("script.py").write_text(script)
    command = [sys.executable, "script.py" if file else "-", *words]
    done = subprocess.run(
        command,
        input=None if file else script,
        env={**os.environ, "PYTHONPATH": str(Path(mnistjax.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    Path("script.py").unlink()
    return done.stderr.splitlines()


def check_sweep():
    assert os.listdir() == ["sweep"]
    assert [job["status"] for job in json.loads(Path("sweep/sweep.json").read_text())["jobs"]] == ["done"] * 2


GOES_ON = "the script goes on"


@pytest.mark.slow
@pytest.mark.parametrize("script", [CALL, f"CALL = {CALL!r}{THREAD}"], ids=["unguarded", "thread"])
@pytest.mark.parametrize("file", [True, False])
def test_a_script_sweeps_and_its_worker_does_not_run_it_again(script, file, work):
    assert run_script(script, file=file) == [GOES_ON]
    check_sweep()


@pytest.mark.slow
def test_a_thread_sends_jobs_to_a_cluster(work):
    assert run_script(f"CALL = {CALL!r}{THREAD}", "sweep.executor=submitit_local") == [GOES_ON]
    check_sweep()


@pytest.mark.slow
def test_a_worker_that_needs_an_unguarded_script_refuses_its_commands(work):
    line, *others = run_script(OWN_MODEL + CALL, "model=mine", file=True)
    assert line.startswith("error: a worker imports ")
    assert line.endswith('script.py, so its commands must be called under `if __name__ == "__main__":`')
    assert others == [GOES_ON, GOES_ON]  # in the worker, and in the command's process
    check_sweep()


@pytest.mark.slow
def test_a_model_of_a_script_without_a_file_is_refused(work):
    (line, end) = run_script(OWN_MODEL + CALL, "model=mine")
    assert line.startswith("error: model 'mine' can't be imported by a worker process; define it at the top")
    assert end == GOES_ON
    assert os.listdir() == []


class Theirs(nn.Module):
    num_classes: int = 10


def test_a_command_starts_its_worker_first_and_leaves_none_behind(work, monkeypatch):
    found = []

    def fail(words, resume, spawned):
        found.append(spawned)
        assert spawned.process.is_alive()
        raise ConfigError("a word is wrong")

    monkeypatch.setattr(multirun, "run_words", fail)
    assert main(["-m", *SMALL, "seed=0,1"]) == 2
    assert not found[0].process.is_alive()
    monkeypatch.setattr(multirun, "run_words", lambda words, resume, spawned: found.append(spawned) or 0)
    for word in ("sweep.executor=inline", "sweep.plan=true", "hydra/launcher=basic"):
        assert main(["-m", *SMALL, "seed=0,1", word]) == 0
        assert found[-1] is None, word


@pytest.mark.parametrize(
    ("path", "name", "importable"),
    [
        (__file__, None, True),
        ("<stdin>", None, False),
        (None, None, False),
        (None, "package.module", True),
        (None, "package.__main__", False),
    ],
)
def test_a_row_of_the_main_module_is_refused_unless_others_can_import_that(
    path, name, importable, monkeypatch
):
    script = types.ModuleType("__main__")
    script.__dict__.update(Theirs=Theirs, **({"__file__": path} if path else {}))
    script.__spec__ = ModuleSpec(name, None) if name else None
    monkeypatch.setitem(sys.modules, "__main__", script)
    monkeypatch.setattr(Theirs, "__module__", "__main__")
    monkeypatch.setitem(MODELS, "theirs", Theirs)
    if importable:
        assert needs_main(copy_tables())
    else:
        with pytest.raises(ConfigError, match="model 'theirs' can't be imported by a worker process"):
            copy_tables()


def test_the_main_module_is_hidden_and_restored():
    script = sys.modules["__main__"]
    assert not needs_main(copy_tables())
    with without_main():
        assert not hasattr(sys.modules["__main__"], "__file__")
    assert sys.modules["__main__"] is script


def test_a_worker_that_calls_a_command_is_refused(work, monkeypatch, capsys):
    monkeypatch.setattr("multiprocessing.current_process", lambda: types.SimpleNamespace(name=WORKER))
    assert main(SMALL) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert os.listdir() == []


def test_jobs_take_turns_only_if_they_are_at_one_step():
    snapshots = [None, {"state": SimpleNamespace(step=np.int32(5))}]
    runs: Any = [SimpleNamespace(snapshot=snapshots[number % 2]) for number in range(4)]
    assert split_by_step(runs) == [runs[::2], runs[1::2]]


def test_a_thread_does_not_wait_for_a_program_while_there_are_other_jobs():
    jobs = [[SimpleNamespace(plan=SimpleNamespace(spec=spec), number=i)] for i, spec in enumerate("aaab")]
    queue = JobQueue(cast(Any, jobs), lambda: False)
    assert [queue.take(), queue.take()] == [jobs[0], jobs[3]]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(queue.take)  # both programs are being compiled
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        queue.mark_compiled(cast(Any, "a"))
        assert waiting.result(10) == jobs[1]
    assert queue.take() == jobs[2]
