"""Sweeps on a real Slurm, which these tests start on this host."""

import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import faulty
from mnistjax import records
from mnistjax.cli import main
from mnistjax.models import MODELS
from mnistjax.sweeps.slurm import ENDED, LIST
from slurm_cluster import MISSING, call, running_cluster
from test_sweep import FAULTY, bits, marks, results, wait_until, without_times

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")]

WORDS = ("data=digits", "model=mlp", "model.hidden=8", "seed=0,1")
FOUR = (*WORDS, "optimizer=adam,sgd", "train.batch_size=115,230", "train.epochs=2")
LONG = (*WORDS, "optimizer=adam,sgd", "train.batch_size=23", "train.epochs=1500")
SLURM = "sweep.executor=submitit_slurm"

begun: list[subprocess.Popen[str]] = []  # the commands of a test


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with running_cluster(tmp_path_factory.mktemp("slurm")) as config:
        yield config


@pytest.fixture
def place(work, cluster, monkeypatch):
    """A working folder from which tasks are submitted; afterwards neither a task nor a command is left."""
    monkeypatch.setenv("SLURM_CONF", cluster)
    yield work
    left = [process for process in begun if process.poll() is None]
    for process in left:
        process.kill()
        process.communicate()
    begun.clear()
    assert not left
    wait_until(lambda: not unfinished())


def unfinished():
    """States and ids of the tasks that have not ended."""
    rows = [row.split("|") for row in call(*LIST).splitlines()]
    return {number: state for number, state, _ in rows if state not in ENDED}


def begin(*words):
    command = [sys.executable, "-m", "mnistjax", "-m", *words]
    begun.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    return begun[-1]


def finish(process):
    """The exit code of a command and what it told; it warns of nothing."""
    told = process.communicate(timeout=300)[1]
    assert not any(word in told.lower() for word in ("sacct", "traceback", "warning")), told
    return process.returncode, told


def epochs(folder):
    """The epochs that the jobs of a sweep have trained, by job."""
    folders = [path.parent for path in Path(folder).glob("*/metrics.jsonl")]
    return {path.name: len(records.read_rows(path)) for path in folders}


@pytest.fixture(scope="module")
def by_processes(tmp_path_factory):
    """A function that gives a folder in which the sweep of these words was trained without a cluster."""
    known = {}

    def train(words):
        if words not in known:
            known[words] = tmp_path_factory.mktemp("processes")
            code, told = finish(begin(*words, f"hydra.sweep.dir={known[words]}"))
            assert code == 0, told
        return known[words]

    return train


def assert_same(folder, other):
    assert without_times(folder) == without_times(other)
    for number in range(len(results(other))):
        assert bits(f"{folder}/{number}") == bits(f"{other}/{number}")


def test_four_groups_are_the_tasks_of_one_array(place, by_processes):
    code, told = finish(begin(*FOUR, SLURM, "hydra.sweep.dir=sweep"))
    assert code == 0, told
    assert [row["status"] for row in results("sweep")] == ["done"] * 8
    names = {path.name for path in Path("sweep/submitit/0").glob("*_submitted.pkl")}
    found = [re.fullmatch(r"(\d+)_(\d+)_submitted.pkl", name) for name in names]
    assert len({match[1] for match in found if match}) == 1
    assert {match[2] for match in found if match} == set("0123")
    assert_same("sweep", by_processes(FOUR))


def test_a_cancelled_task_is_noticed_and_its_jobs_go_on_later(place, by_processes):
    process = begin(*LONG, SLURM, "hydra.sweep.dir=sweep")
    wait_until(lambda: len(epochs("sweep")) >= 2 and max(epochs("sweep").values()) > 5)
    cancelled = min(unfinished())
    call("scancel", cancelled)
    code, told = finish(process)
    assert code == 1
    assert f"its task {cancelled} on the cluster ended without a result (CANCELLED)" in told
    code, told = finish(begin("sweep.resume=sweep", SLURM))
    assert code == 0, told
    assert_same("sweep", by_processes(LONG))


def test_a_task_that_is_out_of_time_is_queued_again(place, monkeypatch):
    monkeypatch.setitem(MODELS, "faulty", faulty.Faulty)
    monkeypatch.setenv("PYTHONPATH", str(Path(faulty.__file__).parent), prepend=os.pathsep)
    words = ["-m", *FAULTY, "train.epochs=2000", "seed=0"]
    assert main([*words, "hydra.sweep.dir=whole"]) == 0
    faults = Path("faults.json").absolute()
    monkeypatch.setenv(faulty.FAULTS, str(faults))
    hanging = json.dumps(dict(zip(marks(range(1)), ["hang"], strict=True)))

    def hang_until_it_is_queued_again():
        wait_until(lambda: epochs("sweep").get("0", 0) > 3)
        faults.write_text(hanging)
        logs = Path("sweep/submitit/0")
        wait_until(lambda: any("Requeued job" in log.read_text() for log in logs.glob("*_log.out")), 120)
        faults.unlink()

    limits = "sweep.submitit={timeout_min:1,slurm_signal_delay_s:40}"
    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(hang_until_it_is_queued_again)
        assert main([*words, SLURM, limits, "hydra.sweep.dir=sweep"]) == 0
        hung.result()
    assert_same("sweep", "whole")


def test_tasks_wait_for_a_drained_node_and_a_signal_ends_the_command(place):
    host = call("sinfo", "-h", "-o", "%n").strip()
    call("scontrol", "update", f"nodename={host}", "state=drain", "reason=test")
    try:
        process = begin(*FOUR, SLURM, "hydra.sweep.dir=sweep")
        wait_until(lambda: len(unfinished()) == 4)
        process.send_signal(signal.SIGINT)
        code, told = finish(process)
        assert code == 130, told
        assert not unfinished()
        process = begin("sweep.resume=sweep", SLURM)
        wait_until(lambda: set(unfinished().values()) == {"PENDING"})
    finally:
        call("scontrol", "update", f"nodename={host}", "state=resume")
    code, told = finish(process)
    assert code == 0, told
    assert [row["status"] for row in results("sweep")] == ["done"] * 8


def test_tasks_of_a_killed_command_stop_and_their_jobs_go_on(place, by_processes):
    process = begin(*LONG, SLURM, "sweep.submitit={slurm_array_parallelism:1}", "hydra.sweep.dir=sweep")
    wait_until(lambda: max(epochs("sweep").values(), default=0) > 5)
    (waiting,) = [number for number, state in unfinished().items() if state == "PENDING"]
    call("scontrol", "hold", waiting)  # it would wait for ever
    process.kill()
    process.communicate()
    code, told = finish(begin("sweep.resume=sweep", SLURM))
    assert code == 0, told
    assert "stopping the tasks of an earlier command on the cluster: " in told
    assert_same("sweep", by_processes(LONG))
