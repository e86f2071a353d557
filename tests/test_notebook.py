"""Sweeps from Python: the runs of the command, in a folder or a temporary one."""

import gc
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import nbclient
import nbformat
import numpy as np
import pytest

import mnistjax
from mnistjax import notebook, records
from mnistjax.checkpoints import CHECKPOINT
from mnistjax.cli import main
from mnistjax.config import ConfigError
from mnistjax.notebook import make_word
from small import made_up_data
from test_sweep import bits, results, without_times

CHOICES = {"model": "mlp", "optimizer.learning_rate": [0.01, 0.1], "seed": range(2), "train.batch_size": 230}
WORDS = ["model=mlp", "optimizer.learning_rate=0.01,0.1", "seed=0,1", "train.batch_size=230"]
NOTEBOOKS = Path(__file__).parents[1] / "scripts" / "notebooks"
SCRIPT = """
import jax.numpy as jnp
import mnistjax
from flax import linen as nn

jnp.ones(3).sum()  # JAX has started

class Mine(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(self.num_classes)(mnistjax.to_float(images).reshape(len(images), -1))

mnistjax.register_model("mine", Mine)
choices = {"model": ["mine", "neuron"], "seed": [0, 1]}
runs = mnistjax.sweep(choices, data="digits", epochs=EPOCHS, folder="sweep")
print(runs)
"""


def test_runs_have_the_identities_and_bits_of_the_command(work, capsys):
    runs = mnistjax.sweep(CHOICES, data="digits", epochs=2, folder="python")
    assert capsys.readouterr().out.splitlines()[-1].startswith("4/4 jobs")
    assert main(["-m", "data=digits", "train.epochs=2", *WORDS, "hydra.sweep.dir=command"]) == 0
    assert without_times("python") == without_times("command")
    assert [run.folder for run in runs] == [work / "python" / str(number) for number in range(4)]
    for number, run in enumerate(runs):
        assert bits(f"python/{number}") == bits(f"command/{number}")
        assert run.summary["identity"] == run.identity
    assert main(["-m", "sweep.resume=python"]) == 0  # the command continues it


def test_the_same_call_continues_a_folder_and_another_one_adds_to_it(work):
    mnistjax.sweep(CHOICES, data="digits", epochs=1, folder="sweep", progress=False)
    before = Path("sweep/0", CHECKPOINT).stat()
    runs = mnistjax.sweep({**CHOICES, "seed": [1, 2]}, data="digits", epochs=1, folder="sweep")
    assert repr(runs) == "<6 runs: 6 done>"
    assert [run.seed for run in runs] == [0, 1, 0, 1, 2, 2]
    assert Path("sweep/0", CHECKPOINT).stat() == before


def test_a_temporary_sweep_is_deleted_with_its_runs(work, capsys):
    runs = mnistjax.sweep({**CHOICES, "sweep.executor": "inline"}, data="digits", epochs=1, progress=False)
    place = runs[0].folder.parent
    assert capsys.readouterr().out == ""
    _, variables, card = mnistjax.load(str(runs[1].folder))
    assert card.seed == 1
    assert set(variables) == {"params"}
    last = runs[1:][-1]
    del runs
    gc.collect()
    assert last.folder.exists()
    assert last.rows == records.read_rows(last.folder)
    del last
    gc.collect()
    assert not place.exists()
    assert list(work.iterdir()) == []


def test_a_job_that_fails_is_among_the_runs(work, capsys):
    choices = {**CHOICES, "optimizer.learning_rate": [0.1, 3e38], "optimizer": "sgd", "seed": 0}
    runs = mnistjax.sweep(choices, data="digits", epochs=2)
    assert [run.status for run in runs] == ["done", "diverged"]
    assert "job 1 (learning_rate=3e+38 seed=0): diverged" in capsys.readouterr().err
    frame = runs.to_frame()
    assert frame.status.tolist() == ["done", "diverged"]
    assert str(frame.kept_epoch.dtype) == "Int64"
    assert frame["test/accuracy"].notna().tolist() == [True, False]
    for table in (frame, runs.to_frame(epochs=True)):
        assert {key: table[key].dtype.kind for key in table if "/" in key and "train" in key} == {
            "train/loss": "f",
            "train/accuracy": "f",
            "train/f1": "f",
        }
        means: Any = table.groupby("optimizer.learning_rate")["train/loss"].mean()
        assert means.isna().tolist() == [False, True]


def test_jaxs_settings_are_as_before(work):
    """Also those that a `with` of the user hides in this thread."""
    choices = {**CHOICES, "sweep.executor": "inline"}
    before = {**jax.config.values, "jax_enable_x64": True}
    jax.config.update("jax_enable_x64", True)
    try:
        with jax.numpy_dtype_promotion("strict"):
            mnistjax.sweep(choices, data="digits", epochs=1, progress=False)
            assert jax.config.values["jax_numpy_dtype_promotion"] == "strict"
        assert jax.config.values == before
    finally:
        jax.config.update("jax_enable_x64", False)


def test_a_frame_has_typed_columns(work):
    choices = {**CHOICES, "model.hidden": [4, (8, 4)], "seed": 3, "model.dropout": [0, 0.5]}
    runs = mnistjax.sweep(choices, data="digits", epochs=2, progress=False)
    frame = runs.to_frame()
    assert Counter(frame["model.hidden"]) == {(4,): 4, (8, 4): 4}
    assert {key: frame[key].dtype.kind for key in ("optimizer.learning_rate", "model.dropout", "seed")} == {
        "optimizer.learning_rate": "f",
        "model.dropout": "f",
        "seed": "i",
    }
    assert frame.parameters.dtype.kind == frame.epochs.dtype.kind == "i"
    assert frame["val/loss"].tolist() == [run.rows[-1]["val/loss"] for run in runs]
    assert len(frame.groupby(["model.hidden", "model.dropout"])) == 4
    long = runs.to_frame(epochs=True)
    assert long.epoch.tolist() == [1, 2] * 8
    assert long["train/loss"].tolist() == [row["train/loss"] for run in runs for row in run.rows]
    assert mnistjax.Runs([]).to_frame().empty
    assert [run.name for run in runs[2:4]] == frame.name.tolist()[2:4]


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("seed", range(3), "seed=0,1,2"),
        ("model.hidden", (256, 64), "model.hidden=[256,64]"),
        ("model.hidden", [64, (256, 64)], "model.hidden=64,[256,64]"),
        ("resume", False, "resume=false"),
        ("sweep.halving", None, "sweep.halving=null"),
        ("train.loss", "0.1", "train.loss='0.1'"),
        ("wandb.entity", "a,b' ${x}", r"wandb.entity='a,b\' \${x}'"),
        ("wandb.tags", ("null", "a b"), "wandb.tags=['null','a b']"),
        ("seed", [1.5e-7, True], "seed=1.5e-07,true"),
        ("seed", np.arange(2), "seed=0,1"),
        ("train.epochs", np.int32(4), "train.epochs=4"),
        ("optimizer.learning_rate", [np.float64(0.1), np.float64(1)], "optimizer.learning_rate=0.1,1.0"),
        ("model.hidden", np.array([[8, 4], [6, 2]]), "model.hidden=[8,4],[6,2]"),
        ("optimizer.learning_rate", "tag(log,interval(0.01,1))", None),
    ],
)
def test_values_are_written_in_hydras_grammar(key, value, word):
    assert make_word(key, value) == (word or f"{key}={value}")


@pytest.mark.parametrize(
    ("choices", "part"),
    [
        ({"modle": "mlp"}, "nearest is 'model'"),
        ({"model": ["mlp", "cnm"]}, "nearest is 'cnn'"),
        ({"model": []}, "model has no values"),
        ({"seed": object()}, "seed: a value must be a number"),
        ({"seed": [0, {}]}, "seed: a value must be a number"),
        ({"init_from": made_up_data()}, "got \"Dataset(name='made_up', "),
        ({"seed": ["1\n" * 99, {"x": "1\n" * 99}]}, "seed: a value must be a number"),
        ({3: 4}, "a key of the choices must be a text"),
        ({"seed=1 model": "mlp"}, "a key of the choices must be a text"),
        ({"hydra.run.dir": "x"}, "hydra.run.dir is for the command"),
        ({"sweep.resume": "x"}, "sweep.resume is for the command"),
        ({"data": "digits"}, "data is given twice"),
        ({"train.epochs": 3}, "train.epochs is given twice: in the choices, and as epochs="),
        ({"hydra/sweeper": "tpe", "model": ["mlp", "cnn"]}, "chooses jobs while it runs"),
    ],
)
def test_a_wrong_choice_costs_a_line_and_leaves_nothing(work, tmp_path, monkeypatch, choices, part):
    monkeypatch.setattr(notebook.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for folder in (None, "sweep"):
        with pytest.raises(ConfigError, match=re.escape(part)) as error:
            mnistjax.sweep(choices, data="digits", epochs=1, folder=folder)
        assert len(str(error.value).splitlines()) == 1
    assert [*work.iterdir(), *(tmp_path / "temporary").iterdir()] == []


def test_a_search_and_halving_are_the_commands(work):
    search = {"hydra/sweeper": "sobol", "hydra.sweeper.trials": 4, "sweep.halving": 2, "model": "neuron"}
    choices = {**search, "task": "binary", "optimizer.learning_rate": "tag(log,interval(0.001,1))"}
    runs = mnistjax.sweep(choices, data="digits", epochs=4, progress=False)
    assert len(runs) == 4
    assert {run.status for run in runs} == {"done", "stopped"}


def test_a_model_of_the_script_itself_trains_in_its_process(work):
    """Without a guard, and although JAX has started."""
    Path("script.py").write_text(SCRIPT.replace("EPOCHS", "1").replace('"neuron"', '"mlp"'))
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "<4 runs: 4 done>"


@pytest.mark.slow
def test_ctrl_c_leaves_what_is_done(work):
    script = SCRIPT.replace('"seed": [0, 1]', '"train.epochs": [1, 100_000]').replace(", epochs=EPOCHS", "")
    Path("script.py").write_text(script.replace('["mine", "neuron"]', '"mlp"'))
    process = subprocess.Popen([sys.executable, "script.py"], stderr=subprocess.PIPE, text=True)
    while not (Path("sweep/0/summary.json").exists() and Path("sweep/1/metrics.jsonl").exists()):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in error
    assert f"interrupted; mnistjax.read_runs({str(work / 'sweep')!r}) has what is done" in error
    runs = mnistjax.read_runs("sweep")
    assert [run.status for run in runs] == ["done", "interrupted"]
    assert runs[1].rows == records.read_rows("sweep/1")
    assert [row["status"] for row in results("sweep")] == ["done", "interrupted"]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_notebooks_run(work, path):
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    where = {"metadata": {"path": str(work)}}
    done = nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    shown = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    full = "<progress value=24 max=24></progress> 24/24 jobs"
    assert any(html.startswith(full) for html in shown) == (path.stem == "sweep")
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert ({"image/png", "text/markdown"} <= kinds) == (path.stem == "sweep")
    assert list(work.iterdir()) == []
