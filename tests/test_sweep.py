"""Sweeps through the command: folders, ledger, faults, resume. Real Hydra, real worker processes."""

import csv
import importlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

import faulty
from mnistjax import checkpoints, data, records
from mnistjax.cli import launcher, main
from mnistjax.data import load_data
from mnistjax.models import MODELS
from mnistjax.plan import make_plan
from mnistjax.step import initial_state
from mnistjax.sweeps import trainer
from mnistjax.sweeps.groups import (
    MOST_INTERLEAVED,
    choose_width,
    count_interleaved,
    count_threads,
    lane_bytes,
)
from mnistjax.sweeps.results import short_name, varying
from small import count_traces
from test_folder import make, noise, save

SMALL = ["data=digits", "model=mlp", "model.hidden=8", "train.epochs=2", "train.batch_size=230"]
MATRIX = "test/confusion_matrix"
FAULTY = ["data=digits", "model=faulty", "train.epochs=2", "train.batch_size=230", "schedule=constant"]


def results(folder):
    with open(Path(folder) / "results.csv") as file:
        return list(csv.DictReader(file))


def without_times(folder):
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in results(folder)]


def bits(folder):
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in records.read_rows(folder)]
    return Path(folder, checkpoints.CHECKPOINT).read_bytes(), rows


def status(folder):
    found = records.read_status(folder)
    assert found is not None
    return found["status"]


def test_a_sweep_has_the_folders_and_bits_of_single_runs(work, capsys):
    words = ["optimizer=adam,momentum", "seed=0,3"]
    assert main(["-m", *SMALL, *words, "hydra.sweep.dir=sweep"]) == 0
    table = capsys.readouterr().out
    assert "By val/loss, mean and standard deviation over seeds" in table
    assert main([*SMALL, "optimizer=momentum", "seed=3", "hydra.run.dir=single"]) == 0
    assert bits("sweep/3") == bits("single")
    names, others = ({path.name for path in Path(folder).iterdir()} for folder in ("single", "sweep/3"))
    assert names ^ others <= {checkpoints.PREVIOUS}  # of one that took long
    overrides = Path("sweep/3/.hydra/overrides.yaml").read_text()
    assert "optimizer=momentum" in overrides
    assert "seed=3" in overrides
    assert [(row["optimizer.name"], row["seed"]) for row in results("sweep")] == [
        ("adam", "0"),
        ("adam", "3"),
        ("momentum", "0"),
        ("momentum", "3"),
    ]
    ledger = json.loads(Path("sweep/sweep.json").read_text())
    assert [group["jobs"] for group in ledger["groups"]] == [[0, 1], [2, 3]]
    assert [job["status"] for job in ledger["jobs"]] == ["done"] * 4
    assert [job["attempts"] for job in ledger["jobs"]] == [1] * 4


def test_the_table_has_the_metrics_that_a_task_has(work):
    assert main(["-m", *SMALL, "task=multiclass,binary", "seed=0,1", "hydra.sweep.dir=sweep"]) == 0
    rows = results("sweep")
    for row in rows:
        matrix = np.array(json.loads(Path(f"sweep/{row['number']}/summary.json").read_text())[MATRIX])
        recalls = np.diag(matrix) / matrix.sum(axis=1)
        assert float(row["test/balanced_accuracy"]) == pytest.approx(recalls.mean())
    assert [row["test/auc"] == "" for row in rows] == [True, True, False, False]
    assert all(0 < float(row["test/auc"]) <= 1 for row in rows[2:])


def test_standardized_images_and_weighted_classes_are_groups_of_their_own(work):
    own = ["model.standardize=true,false", "train.class_weights=null,balanced", "seed=0,1"]
    assert main(["-m", *SMALL, *own, "hydra.sweep.dir=sweep"]) == 0
    ledger = json.loads(Path("sweep/sweep.json").read_text())
    assert [group["jobs"] for group in ledger["groups"]] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert {job["status"] for job in ledger["jobs"]} == {"done"}
    assert [row["model.standardize"] for row in results("sweep")[::2]] == ["True", "True", "False", "False"]
    assert main([*SMALL, "model.standardize=true", "seed=1", "hydra.run.dir=single"]) == 0
    assert bits("sweep/1") == bits("single")


def test_inline_training_gives_the_same_bits(work):
    words = ["-m", *SMALL, "optimizer=adam,momentum", "seed=0,3"]
    assert main([*words, "hydra.sweep.dir=apart"]) == 0
    assert main([*words, "hydra.sweep.dir=inline", "sweep.executor=inline"]) == 0
    assert without_times("inline") == without_times("apart")
    assert bits("inline/3") == bits("apart/3")


def test_a_sweep_traces_one_program_for_each_spec(work, monkeypatch):
    """Although groups overlap: when one ends, the next starts beside its last job."""
    words = ["optimizer=adam,sgd,momentum", "optimizer.learning_rate=0.1,0.01", "seed=0,1,2"]
    traced = count_traces(monkeypatch)
    same = ["train.batch_size=231", "sweep.executor=inline", "hydra.sweep.dir=sweep"]
    assert main(["-m", *SMALL, *words, *same]) == 0
    assert len(results("sweep")) == 18
    assert len(traced) == 3


def test_jobs_of_one_seed_are_interleaved_with_the_bits_of_single_runs(work, monkeypatch):
    groups = []
    real = trainer.group_interleaved
    monkeypatch.setattr(trainer, "group_interleaved", lambda given: groups.extend(real(given)) or groups)
    words = ["-m", *SMALL, "optimizer=sgd", "optimizer.learning_rate=0.1,0.2,0.3,0.4", "seed=0,1"]
    assert main([*words, "hydra.sweep.dir=alone"]) == 0
    monkeypatch.setattr("mnistjax.sweeps.groups.count_interleaved", lambda *_: 3)
    assert main([*words, "hydra.sweep.dir=sweep", "sweep.executor=inline"]) == 0
    assert [[job.number for job in jobs] for jobs in groups] == [[0, 2, 4], [6], [1, 3, 5], [7]]
    assert without_times("sweep") == without_times("alone")
    for number in range(8):
        assert bits(f"sweep/{number}") == bits(f"alone/{number}")


def test_jobs_are_interleaved_beside_other_specs(work, monkeypatch):
    """Few jobs of a Spec are enough if there are many jobs in all."""
    groups, real = [], trainer.group_interleaved
    monkeypatch.setattr(trainer, "group_interleaved", lambda given: groups.extend(real(given)) or groups)
    monkeypatch.setattr("mnistjax.devices.jax.device_count", lambda: 1)
    words = ["model.hidden=3,4", "optimizer=sgd", "optimizer.learning_rate=0.1,0.2", "seed=0,1"]
    assert main(["-m", *SMALL, *words, "hydra.sweep.dir=sweep", "sweep.executor=inline"]) == 0
    assert [[job.number for job in jobs] for jobs in groups] == [[0, 2], [1, 3], [4, 6], [5, 7]]


@pytest.mark.parametrize("subdir", [".hydra", ".own", "null"])
def test_the_files_of_hydra_are_those_that_hydra_writes(work, monkeypatch, subdir):
    tags = f"wandb.tags=['x: y','007','1e3','{'long text ' * 6}','ünï']"
    words = ["-m", *SMALL, "optimizer=adam,sgd", "seed=0,1", tags, f"+hydra.job.env_set.yes='{'a b ' * 30}'"]
    words += [f"hydra.output_subdir={subdir}", "hydra.job.env_copy=[PATH]"]
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "run_job", None)
        assert main([*words, "hydra.sweep.dir=sweep"]) == 0
    Path("sweep").rename("ours")
    monkeypatch.setattr(launcher.FusedLauncher, "_is_silent", False)
    assert main([*words, "hydra.sweep.dir=sweep"]) == 0
    ours, theirs = (
        {path.relative_to(root): path.read_text("utf-8") for path in Path(root).glob("*/.*/*.yaml")}
        for root in ("ours", "sweep")
    )
    assert len(theirs) == (0 if subdir == "null" else 12)
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("subdir", [".hydra", ".${hydra.job.name}"])
def test_the_files_of_hydra_are_those_of_its_basic_launcher(work, subdir):
    words = [
        "data=digits",
        "experiment=single_neuron,fashion",
        "model=neuron",
        "optimizer=sgd",
        "train.epochs=1",
    ]
    words += ["data.dir=data", "seed=1,2", "train.batch_size=230", f"hydra.output_subdir={subdir}"]
    files = {}
    for name in ("fused", "basic"):
        assert main(["-m", *words, f"hydra/launcher={name}", f"hydra.sweep.dir={work}/sweep"]) == 0
        paths = Path("sweep").glob("*/.*/*.yaml")
        files[name] = {path.relative_to("sweep"): read_hydra_file(path) for path in paths}
        shutil.rmtree("sweep")
    assert len(files["basic"]) == 12
    assert files["fused"] == files["basic"]


def read_hydra_file(path):
    """A file of Hydra's, without its launcher and the folder, which ours makes absolute."""
    content = yaml.safe_load(path.read_text("utf-8"))
    if path.name == "hydra.yaml":
        node = content["hydra"]
        del node["launcher"], node["runtime"]["choices"]["hydra/launcher"]
        words, ours = node["overrides"]["hydra"], ("hydra/launcher", "hydra.sweep.dir")
        node["overrides"]["hydra"] = [word for word in words if not word.startswith(ours)]
    return content


def test_jobs_are_interleaved_if_epochs_are_short_and_jobs_are_many():
    data = load_data("digits")
    neuron = make_plan(data, model="neuron").spec
    assert count_interleaved(neuron, 1000, 2) == MOST_INTERLEAVED
    assert count_interleaved(neuron, 24, 2) == 3
    assert count_interleaved(neuron, 7, 2) == 1
    wide = make_plan(data, model="mlp", model_options={"hidden": [4096, 4096, 4096]}).spec
    assert count_interleaved(wide, 1000, 2) == 1


@pytest.mark.parametrize(("room", "each"), [(0.5, 0), (1.5, 1), (2.5, 2)])
def test_only_as_many_jobs_train_at_a_time_as_fit_into_half_of_the_memory(room, each, monkeypatch):
    spec = make_plan(load_data("digits"), model="neuron").spec
    monkeypatch.setattr("mnistjax.sweeps.groups.free_bytes", lambda: 2 * room * lane_bytes(spec))
    devices = jax.device_count()
    assert choose_width(spec, 1000, "vmap", "auto") == max(1, each * devices)
    assert count_threads(spec, 1000) == max(1, min(each, devices))


def test_fail_fast_stops_at_the_first_failure(work, capsys):
    rates = "optimizer.learning_rate=1e30,0.1"
    words = ["-m", *SMALL, "train.epochs=2000", "optimizer=sgd", rates, "seed=0,1,2", "sweep.fail_fast=true"]
    assert main([*words, "hydra.sweep.dir=sweep"]) == 1
    ends = [row["status"] for row in results("sweep")]
    assert "diverged" in ends
    assert "done" not in ends
    assert "waiting" in ends
    assert "0 of 6 jobs done" in capsys.readouterr().err


def test_sweep_plan_trains_and_writes_nothing(work, capsys):
    words = [
        "-m",
        *SMALL,
        "optimizer=adam,sgd",
        "train.batch_size=230,115",
        "seed=range(3)",
        "sweep.plan=true",
    ]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("12 jobs in 4 groups, 4 compiled training programs, about ")
    assert "  not in group 0 because of batch_size (230, 115), micro_batch (230, 115)" in lines
    assert "  not in group 0 because of optimizer (adam, sgd)" in lines
    assert [*work.iterdir()] == []


def test_an_experiment_may_have_the_parameters_of_a_sweep(work, capsys):
    assert main(["-m", "experiment=quickstart", "data=digits", "sweep.plan=true"]) == 0
    assert capsys.readouterr().out.startswith("27 jobs in 3 groups, ")


def test_sweep_plan_tells_apart_images_of_one_kind(work, capsys):
    make(work / "one")
    make(work / "two", classes=("ants", "bees"))
    words = ["data=folder", "data.raw_dir=one,two", "model=neuron", "train.batch_size=8", "sweep.plan=true"]
    assert main(["-m", *words]) == 0
    assert "  not in group 0 because of the data's SHA-256 (" in capsys.readouterr().out


def test_a_sweep_is_not_resumed_with_other_data(work, capsys):
    make(work / "pets")
    words = ["data=folder", "data.raw_dir=pets", "model=neuron", "train.epochs=1", "train.batch_size=all"]
    assert main(["-m", *words, "seed=0,1", "hydra.sweep.dir=sweep"]) == 0
    before = (work / "sweep" / "sweep.json").read_bytes()
    save(work / "pets" / "cats" / "new.png", noise(5))
    data._load.cache_clear()
    capsys.readouterr()
    assert main(["-m", "sweep.resume=sweep"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the data of job 0 has changed since sweep was started: SHA-256 ")
    assert (work / "sweep" / "sweep.json").read_bytes() == before


def test_a_sweep_resumes_where_its_data_has_moved(work, capsys):
    make(work / "pets")
    words = ["data=folder", "data.raw_dir=pets", "model=neuron", "train.epochs=1", "train.batch_size=all"]
    assert main(["-m", *words, "seed=0,1", "hydra.sweep.dir=sweep"]) == 0
    first = without_times("sweep")
    (work / "pets").rename(work / "a pet,b")
    capsys.readouterr()
    assert main(["-m", "sweep.resume=sweep"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "data.raw_dir=pets: a folder with a folder of pictures for each class expected" in line
    shutil.rmtree(work / "sweep" / "1")
    assert main(["-m", "sweep.resume=sweep", 'data.raw_dir="a pet,b"']) == 0
    assert without_times("sweep") == first


def test_a_sweep_grows_and_keeps_its_numbers(work, capsys):
    assert main(["-m", *SMALL, "seed=0,1", "hydra.sweep.dir=sweep"]) == 0
    first = without_times("sweep")
    before = {file: file.stat().st_mtime_ns for file in Path("sweep").glob("[01]/*")}
    assert main(["-m", *SMALL, "seed=0,1", "hydra.sweep.dir=sweep"]) == 2
    assert (
        "sweep holds a sweep already; to continue it: mnistjax -m sweep.resume=sweep"
        in capsys.readouterr().err
    )
    assert main(["-m", "sweep.resume=sweep"]) == 0
    assert without_times("sweep") == first
    assert main(["-m", *SMALL, "seed=1,2", "sweep.resume=sweep"]) == 0
    assert [row["seed"] for row in results("sweep")] == ["0", "1", "2"]
    assert without_times("sweep")[:2] == first
    unchanged = {file: file.stat().st_mtime_ns for file in Path("sweep").glob("[01]/*") if file.is_file()}
    assert all(before[file] == stamp for file, stamp in unchanged.items() if file.name != "mnistjax.log")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["sweep.resume=nowhere"], "nowhere is not a sweep folder: it has no sweep.json"),
        (["sweep.mode=map,vmap"], "sweep.mode=map,vmap: a sweep has only one sweep.mode"),
        (["hydra/launcher=basic,fused"], "a sweep has only one hydra/launcher"),
        (["hydra.sweeper.params.seed=range(3)"], "a sweep has only one hydra.sweeper.params.seed"),
        (["hydra.sweeper.params={seed:1}"], "hydra.sweeper.params is for files; write KEY=VALUES instead"),
        (["+hydra.sweeper.params.seed=1"], "hydra.sweeper.params is for files; write KEY=VALUES instead"),
        (["sweep.mode=vmpa", "seed=0,1"], "unknown sweep.mode 'vmpa'; nearest is 'vmap'"),
        (["sweep.timeout=0", "seed=0,1"], "sweep.timeout must be a whole number >= 1; got 0"),
        (["seed=0,1", "train.epochs=-1"], "job 0 "),
        ([f"seed=range(1{'0' * 400},0)"], "has no values, so there is no job"),
    ],
)
def test_a_wrong_sweep_is_one_line_and_writes_nothing(work, capsys, words, error):
    assert main(["-m", *SMALL, *words]) == 2
    told = capsys.readouterr().err
    assert error in told
    assert told.count("\n") == 1
    assert [*work.iterdir()] == []


def marks(seeds):
    """The marks that identify `faulty` runs, by seed."""
    data = load_data("digits")
    plan = make_plan(data, model="faulty", batch_size=230, schedule="constant")
    states = [initial_state(plan.spec, plan.hyper, jax.random.key(seed)) for seed in seeds]
    return [f"{float(state.params['mark']):.5f}" for state in states]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "interleaved"),
    [
        (["sweep.mode=map"], 1),
        (["sweep.mode=map", "train.batch_size=all"], 4),
        (["sweep.mode=chunk", "sweep.lanes=4"], 1),
    ],
)
def test_faults_end_only_their_own_job_and_a_resumed_sweep_is_complete(
    work, monkeypatch, capsys, mode, interleaved
):
    assert faulty.FAULTS not in os.environ
    monkeypatch.setitem(MODELS, "faulty", faulty.Faulty)
    monkeypatch.setattr("mnistjax.sweeps.groups.count_interleaved", lambda *_: interleaved)
    words = ["-m", *FAULTY, *mode, "sweep.timeout=15"]
    assert main([*words, "seed=range(7)", "hydra.sweep.dir=whole"]) == 0
    faults = ["diverge", "raise", "kill", "hang"]
    Path("faults.json").write_text(json.dumps(dict(zip(marks(range(4)), faults, strict=True))))
    monkeypatch.setenv(faulty.FAULTS, str(Path("faults.json").absolute()))
    capsys.readouterr()
    assert main([*words, "seed=range(7)", "hydra.sweep.dir=sweep"]) == 1
    told = capsys.readouterr().err
    assert "3 of 7 jobs done" in told
    assert "job 0 (seed=0): diverged, the loss is not finite in epoch 1" in told
    assert "job 1 (seed=1): failed" in told
    assert "from inside" in told
    assert "job 2 (seed=2): failed, its process was killed by SIGKILL" in told
    assert "job 3 (seed=3): failed, no progress within 15 s" in told
    for seed in range(4, 7):
        assert bits(f"sweep/{seed}") == bits(f"whole/{seed}")
    assert [status(f"sweep/{seed}") for seed in range(4)] == ["diverged", "failed", "failed", "failed"]
    assert "from inside" in Path("sweep/1/mnistjax.log").read_text()
    monkeypatch.delenv(faulty.FAULTS)
    assert main(["-m", "sweep.resume=sweep"]) == 1  # a diverged run stays so
    for seed in range(1, 7):
        assert bits(f"sweep/{seed}") == bits(f"whole/{seed}")
    assert without_times("sweep")[1:] == without_times("whole")[1:]


@pytest.mark.slow
def test_a_model_that_a_worker_cannot_import_is_named(work, monkeypatch, capsys):
    source = (
        "from flax import linen as nn\n"
        "class Mine(nn.Module):\n"
        "    num_classes: int = 10\n"
        "    @nn.compact\n"
        "    def __call__(self, images, train=False):\n"
        "        return nn.Dense(self.num_classes)(images.reshape(len(images), -1) / 255)\n"
    )
    Path("mine.py").write_text(source)
    monkeypatch.syspath_prepend(str(work))
    monkeypatch.setitem(MODELS, "mine", importlib.import_module("mine").Mine)
    words = ["data=digits", "model=mine", "train.epochs=1", "seed=0,1"]
    assert main(["-m", *words, "hydra.sweep.dir=good"]) == 0
    Path("mine.py").write_text("raise ImportError('not here')")
    capsys.readouterr()
    assert main(["-m", *words, "hydra.sweep.dir=bad"]) == 1
    told = capsys.readouterr().err
    assert told.count("failed, before it started: its process exited with code 1") == 2


def start(*words, **options):
    return subprocess.Popen([sys.executable, "-m", "mnistjax", "-m", *words], text=True, **options)


def children(pid):
    """The processes below this one."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    ).stdout.split()
    return [int(child) for child in found] + [below for child in found for below in children(int(child))]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


LONG = [
    "data=digits",
    "model=mlp",
    "model.hidden=64",
    "train.epochs=100",
    "train.batch_size=115",
    "seed=range(6)",
]


def over(folder):
    return sum(path.exists() for path in Path(folder).glob("*/summary.json"))


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_process_and_resumes_to_the_same_results(work):
    assert start(*LONG, "hydra.sweep.dir=straight").wait() == 0
    for jobs in (0, 2, 4):
        folder = f"killed{jobs}"
        process = start(*LONG, f"hydra.sweep.dir={folder}")
        wait_until(lambda folder=folder: any(Path(folder).glob("*/metrics.jsonl")))
        wait_until(lambda folder=folder, jobs=jobs: over(folder) >= jobs)
        below = children(process.pid)
        assert below
        process.kill()
        process.wait()
        wait_until(lambda below=below: not any(map(alive, below)), 20)
        assert start(f"sweep.resume={folder}").wait() == 0
        assert without_times(folder) == without_times("straight")
        for number in range(6):
            assert bits(f"{folder}/{number}") == bits(f"straight/{number}")


@pytest.mark.slow
def test_a_signal_stops_a_sweep_which_then_goes_on(work):
    process = start(*LONG, "hydra.sweep.dir=sweep", stderr=subprocess.PIPE)
    wait_until(lambda: over("sweep") >= 1)
    below = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; to continue: mnistjax -m sweep.resume=sweep" in told
    wait_until(lambda: not any(map(alive, below)), 20)  # Python's own resource tracker ends after us
    assert {status(path) for path in Path("sweep").iterdir() if (path / "status.json").exists()} <= {
        "done",
        "interrupted",
    }
    assert start("sweep.resume=sweep").wait() == 0
    assert [row["status"] for row in results("sweep")] == ["done"] * 6


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_a_sweep_whose_worker_has_just_been_started(work, number, code):
    process = start(*LONG, "hydra.sweep.dir=sweep", stderr=subprocess.PIPE, start_new_session=True)
    wait_until(lambda: len(children(process.pid)) > 1)  # the worker and Python's resource tracker
    below = children(process.pid)
    os.killpg(process.pid, number)  # as a terminal does
    _, told = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in told) == (code, False)
    wait_until(lambda: not any(map(alive, below)), 20)
    assert os.listdir() == []


@pytest.mark.slow
@pytest.mark.parametrize("seconds", np.arange(0, 3, 0.4).round(1))
def test_no_ctrl_c_is_lost_while_a_sweep_begins(work, seconds):
    """About 1 in 10 was: JAX's callback for each garbage collection dropped the exception."""
    process = start(*LONG, "train.epochs=1000", "hydra.sweep.dir=sweep", stderr=subprocess.PIPE)
    wait_until(lambda: len(children(process.pid)) > 1)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in told) == (130, False)
    assert "interrupted" in told


CLUSTER = "sweep.executor=submitit_local"


@pytest.mark.slow
def test_a_cluster_gives_the_same_bits_and_the_same_isolation(work, monkeypatch, capsys):
    monkeypatch.setitem(MODELS, "faulty", faulty.Faulty)
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", str(Path(faulty.__file__).parent), prepend=os.pathsep)
    words = ["-m", *FAULTY, "optimizer=adam,sgd", "seed=0,1"]
    assert main([*words, "hydra.sweep.dir=whole"]) == 0
    Path("faults.json").write_text(json.dumps(dict(zip(marks(range(1)), ["kill"], strict=True))))
    monkeypatch.setenv(faulty.FAULTS, str(Path("faults.json").absolute()))
    assert main([*words, CLUSTER, "sweep.submitit={timeout_min:9}", "hydra.sweep.dir=sweep"]) == 1
    told = capsys.readouterr().err
    assert "2 of 4 jobs done" in told
    assert "job 2 (sgd seed=0): failed, its process was killed by SIGKILL" in told
    monkeypatch.delenv(faulty.FAULTS)
    monkeypatch.setenv("PYTHONPATH", before)
    assert main(["-m", "sweep.resume=sweep"]) == 2  # it is for the command line to start programs
    told = capsys.readouterr().err.strip()
    again = "mnistjax -m sweep.resume=sweep sweep.executor=submitit_local 'sweep.submitit={timeout_min:9}'"
    assert told.endswith(again)
    assert main(shlex.split(again)[1:]) == 1
    assert "on the cluster failed: ModuleNotFoundError: No module named 'faulty'" in capsys.readouterr().err
    assert main(["-m", "sweep.resume=sweep", "sweep.executor=processes"]) == 0
    assert without_times("sweep") == without_times("whole")
    for number in range(4):
        assert bits(f"sweep/{number}") == bits(f"whole/{number}")


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["signal", "kill"])
def test_a_cluster_stops_with_its_sweep_which_then_goes_on(work, ending):
    process = start(*LONG, CLUSTER, "hydra.sweep.dir=sweep")
    wait_until(lambda: over("sweep") >= 1)
    below = children(process.pid)
    process.send_signal(signal.SIGINT if ending == "signal" else signal.SIGKILL)
    assert process.wait(60) == (130 if ending == "signal" else -signal.SIGKILL)
    wait_until(lambda: not any(map(alive, below)), 30)
    assert 1 <= over("sweep") < 6
    assert start("sweep.resume=sweep", CLUSTER).wait() == 0
    assert [row["status"] for row in results("sweep")] == ["done"] * 6


def test_a_cluster_that_takes_no_task_is_said_with_the_command_to_continue(
    work, tmp_path, monkeypatch, capfd
):
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'sbatch: error: no such partition: gpu' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert main(["-m", *SMALL, "seed=0,1", "sweep.executor=submitit_slurm", "hydra.sweep.dir=sweep"]) == 1
    told = capfd.readouterr().err.strip().splitlines()
    assert told[-2] == "error: the cluster takes no task: sbatch: error: no such partition: gpu"
    assert told[-1] == "to continue: mnistjax -m sweep.resume=sweep"
    assert not any("Traceback" in line for line in told)
    assert [row["status"] for row in results("sweep")] == ["waiting"] * 2


def test_wrong_cluster_options_are_refused(work, monkeypatch, capsys):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))  # without Slurm
    for words, error in (
        ([CLUSTER, "sweep.submitit={foo:1}"], "error: sweep.submitit: Parameter 'foo'"),
        ([CLUSTER, "sweep.submitit=3"], "error: sweep.submitit must be options"),
        (["sweep.executor=submitit_slurm"], "error: sweep.submitit: Could not detect"),
    ):
        assert main(["-m", *SMALL, "seed=0,1", *words]) == 2
        assert error in capsys.readouterr().err
    assert [*work.iterdir()] == []


@pytest.mark.slow
def test_a_launcher_with_processes_of_its_own_trains_the_same_jobs(work, capfd):
    words = ["-m", *SMALL, "optimizer=sgd", "optimizer.learning_rate=1e30,0.1", "seed=0,1"]
    other = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=other"]
    assert main([*words, *other]) == 1
    assert "learning_rate=1e+30 seed=0): the loss is not finite in epoch 1" in capfd.readouterr().err
    assert main([*words, "hydra.sweep.dir=ours"]) == 1
    assert [status(f"other/{number}") for number in range(4)] == ["diverged", "diverged", "done", "done"]
    for number in range(4):
        assert bits(f"other/{number}") == bits(f"ours/{number}")


CLIMBER = """
import re
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

class Climber(Sweeper):
    def setup(self, **given):
        self.launcher = Plugins.instance().instantiate_launcher(**given)

    def sweep(self, arguments):
        words = [re.sub(r"choice\\((.*)\\)", r"\\1", word) for word in arguments]
        for step, rate in enumerate((0.001, 0.01, 0.1)):
            (result,) = self.launcher.launch([[*words, f"optimizer.learning_rate={rate}"]], step)
            with open("climb.txt", "a") as file:
                file.write(f"{rate} {result.return_value}\\n")

node = {"_target_": "hydra_plugins.climber.Climber"}
ConfigStore.instance().store(group="hydra/sweeper", name="climber", node=node)
"""


@pytest.mark.slow
def test_a_sweeper_that_optimizes_gets_the_validation_loss(work):
    Path("hydra_plugins").mkdir()
    Path("hydra_plugins/climber.py").write_text(CLIMBER)
    path = os.pathsep.join([str(work), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = [*SMALL, "seed=0", "hydra/sweeper=climber", "hydra.sweep.dir=sweep"]
    assert start(*words, env={**os.environ, "PYTHONPATH": path}).wait() == 0
    told = [line.split() for line in Path("climb.txt").read_text().splitlines()]
    rows = results("sweep")
    assert [[row["optimizer.learning_rate"], row["val/loss"]] for row in rows] == told
    assert len(rows) == 3


def logged(folder):
    """What the offline W&B run of a folder holds, by wandb's own reader."""
    (path,) = Path(folder).glob("wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def test_wandb_has_each_job_and_the_sweep_with_its_best(work):
    words = ["optimizer=adam,momentum", "seed=0,1,2", "wandb.mode=offline", "wandb.tags=[a]"]
    assert main(["-m", *SMALL, *words, "hydra.sweep.dir=sweep"]) == 0
    job = [item["run"] for item in logged("sweep/4") if item["type"] == "run"][-1]
    tags = ["a", "mlp", "digits", "multiclass", "momentum", "done"]
    assert (job["display_name"], job["job_type"], job["tags"]) == ("momentum seed=1", "train", tags)
    ledger = json.loads(Path("sweep/sweep.json").read_text())
    for place, folder in ((ledger["wandb"], "sweep"), (ledger["jobs"][4]["wandb"], "sweep/4")):
        assert list(Path(folder).glob("wandb/offline-run-*")) == [Path("sweep", place)]
    own = logged("sweep")
    run = [item["run"] for item in own if item["type"] == "run"][-1]
    assert run["run_group"] == job["run_group"] == ledger["id"]
    assert (run["job_type"], run["tags"]) == ("sweep", ["a", "done"])
    rows = [item["history"]["item"] for item in own if item["type"] == "history"]
    assert [row["jobs/over"] for row in rows if "jobs/done" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["by_seed.nrows"] for row in rows if "by_seed.nrows" in row] == [2]
    assert [row["jobs.nrows"] for row in rows if "jobs.nrows" in row] == [6]
    ranked = sorted(results("sweep"), key=lambda row: float(row["val/loss"]))
    best = {f"job {row['number']}/test/samples.count" for row in ranked[:3]}
    assert {key for row in rows for key in row if key.endswith("test/samples.count")} == best
    models = [
        item["artifact"] for item in own if item["type"] == "artifact" and item["artifact"]["type"] == "model"
    ]
    assert {model["name"] for model in models} == {f"sweep-{ledger['id']}"}
    aliases = [{"latest", f"job-{row['number']}"} for row in reversed(ranked[:3])]
    assert [{*model["aliases"]} for model in models] == [*aliases[:2], aliases[2] | {"best"}]
    assert any(Path("sweep/wandb").glob("offline-run-*/files/media"))
    assert not any(Path("sweep").glob("[0-5]/wandb/offline-run-*/files/media"))


def test_names_show_what_differs():
    configs = {
        0: {"model": {"name": "mlp", "hidden": [8]}, "seed": 0, "resume": False},
        1: {"model": {"name": "mlp", "hidden": [8, 4]}, "seed": 1, "resume": True},
    }
    assert varying(configs) == {0: {"model.hidden": [8]}, 1: {"model.hidden": [8, 4]}}
    one = {"optimizer": {"name": "adam", "b1": 0.9, "learning_rate": 0.1}}
    two = {"optimizer": {"name": "sgd", "learning_rate": 0.1}}
    other = {"optimizer": {"name": "sgd", "learning_rate": 0.2}}
    assert varying({0: one, 1: two})[0] == {"optimizer.name": "adam"}
    assert varying({0: one, 1: two, 2: other})[0] == {
        "optimizer.name": "adam",
        "optimizer.learning_rate": 0.1,
    }
    assert short_name({"optimizer.name": "adam", "model.hidden": [8, 4]}, 3) == "adam hidden=[8, 4] seed=3"
