"""What `auto` meant when a run began stays: the digits when MNIST appears, the micro-batch elsewhere."""

import json
import shutil

import numpy as np
import pytest

from mnistjax import records
from mnistjax.cli import main, report
from mnistjax.config import ConfigError
from mnistjax.data import builders, load_data, prepared
from mnistjax.data.arrays import Arrays, Unreachable
from mnistjax.finished import reopen
from mnistjax.models.dense import MLP

WORDS = ["data=auto", "model=mlp", "model.hidden=4", "train.epochs=1"]


@pytest.fixture
def add_mnist(work, monkeypatch):
    """A function that prepares something as MNIST, which can't be downloaded."""

    def no_network(url):
        raise Unreachable(f"{url} is out of reach")

    monkeypatch.delitem(prepared.SHA256, "mnist")

    def add():
        folder = work.parent / "data/mnistjax/mnist"
        folder.mkdir(parents=True)
        images = np.random.default_rng(0).integers(0, 256, (2, 50, 28, 28), np.uint8)
        labels = np.arange(50, dtype=np.int32) % 10
        names = tuple("0123456789")
        prepared.write_arrays(folder, Arrays(images[0], labels, images[1], labels, names))
        assert load_data("auto").name == "mnist"

    monkeypatch.setattr(builders, "check_reachable", no_network)
    return add


def test_the_digits_need_no_data_folder(work):
    """Without a network, where none can be made."""
    found = load_data("auto", data_dir="/proc/nowhere")
    assert (found.name, bool(found.banner)) == ("digits", True)
    with pytest.raises(ConfigError, match=r"mnist can't be prepared: /proc/nowhere.*data.dir=FOLDER"):
        load_data("mnist", data_dir="/proc/nowhere")


@pytest.mark.slow
def test_a_sweep_goes_on_with_the_digits(work, add_mnist, capsys):
    assert main([*WORDS, "-m", "seed=0,1", "hydra.sweep.dir=sweep"]) == 0
    assert "NOT MNIST" in capsys.readouterr().err
    before = [json.loads((work / f"sweep/{job}/summary.json").read_text()) for job in (0, 1)]
    assert records.read_config("sweep/0")["data"]["name"] == "digits"
    add_mnist()
    shutil.rmtree("sweep/1")
    assert main(["-m", "sweep.resume=sweep"]) == 0
    assert "data=auto stays digits, as when this began; now it would be mnist" in capsys.readouterr().err
    assert main([*WORDS, "-m", "seed=0,1,2", "sweep.resume=sweep"]) == 0
    after = [json.loads((work / f"sweep/{job}/summary.json").read_text()) for job in (0, 1, 2)]
    assert [summary["identity"] for summary in after[:2]] == [summary["identity"] for summary in before]
    assert [summary["test/loss"] for summary in after[:2]] == [summary["test/loss"] for summary in before]
    assert {summary["data"]["name"] for summary in after} == {"digits"}
    capsys.readouterr()
    assert report.main(["sweep"]) == 0
    assert "without" not in capsys.readouterr().err
    assert (work / "sweep/report/figures/misclassified.svg").exists()


@pytest.mark.slow
def test_a_run_goes_on_with_the_digits_and_a_new_one_has_mnist(work, add_mnist, capsys):
    assert main([*WORDS, "hydra.run.dir=run"]) == 0
    add_mnist()
    status = json.loads((work / "run/status.json").read_text())
    (work / "run/status.json").write_text(json.dumps(status | {"status": "interrupted", "ended": None}))
    (work / "run/summary.json").rename(work / "summary.json")
    assert main([*WORDS, "hydra.run.dir=run", "resume=true"]) == 0
    assert reopen(work / "run")[1].name == "digits"
    old, new = (json.loads((work / f"{folder}/summary.json").read_text()) for folder in (".", "run"))
    assert old["test/loss"] == new["test/loss"]
    assert main([*WORDS, "train.batch_size=8", "hydra.run.dir=other"]) == 0
    assert reopen(work / "other")[1].name == "mnist"
    capsys.readouterr()
    assert main([*WORDS, "train.batch_size=8", "hydra.run.dir=run", "resume=true"]) == 2
    assert "what differs: train.batch_size (64 there, 8 here)" in capsys.readouterr().err


MICRO = ["data=digits", "model=mlp", "model.hidden=4", "train.epochs=2", "train.batch_size=32"]


def test_a_sweep_keeps_the_micro_batch_of_its_jobs_also_for_more_seeds(work, monkeypatch, capsys):
    sweep = [*MICRO, "-m", "sweep.executor=inline"]
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(MLP, "cpu_micro_batch", 8, raising=False)
        assert main([*sweep, "seed=0,1", "hydra.sweep.dir=sweep"]) == 0
    shutil.rmtree("sweep/1")
    assert main([*sweep, "seed=0,1,2", "sweep.resume=sweep"]) == 0
    assert main([*sweep, "seed=0", "train.micro_batch=auto,32", "sweep.resume=sweep"]) == 0
    assert sorted(path.name for path in work.glob("sweep/[0-9]*")) == [*"0123"]
    summaries = [json.loads((work / f"sweep/{job}/summary.json").read_text()) for job in range(4)]
    assert [one["spec"]["micro_batch"] for one in summaries] == [8, 8, 8, 32]
    assert reopen(work / "sweep/0")[0].spec.micro_batch == 8


def test_a_run_is_resumed_with_its_micro_batch_unless_another_one_is_given(work, monkeypatch, capsys):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(MLP, "cpu_micro_batch", 8, raising=False)
        assert main([*MICRO, "hydra.run.dir=run"]) == 0
        assert main([*MICRO, "seed=1"]) == 0
    (begun,) = work.glob("outputs/*/*/status.json")
    assert main([*MICRO, "seed=1", "resume=true"]) == 0
    assert f"{begun.parent.relative_to(work)} is done already" in capsys.readouterr().out
    again = [*MICRO, "hydra.run.dir=run", "resume=true"]
    assert main(again) == 0
    assert "run is done already; nothing changed" in capsys.readouterr().out
    assert main([*again, "train.micro_batch=8"]) == 0
    assert main([*again, "train.micro_batch=16"]) == 2
    assert (
        "holds another run; what differs: train.micro_batch (auto there, 16 here)" in capsys.readouterr().err
    )
