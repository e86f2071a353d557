"""A run that W&B's agent has started, with the real agent and a stand-in for the server."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mnistjax import records
from mnistjax.cli import main
from mnistjax.tracking import AgentRun, drop_agent_run, take_agent_run

RUN = ["data=digits", "model=mlp", "model.hidden=8", "train.epochs=2", "hydra.run.dir=run"]


@pytest.fixture
def agent(monkeypatch):
    """The variables that `wandb agent` sets."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "r1")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "someone")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "/nowhere/config-r1.yaml")


@pytest.mark.usefixtures("agent")
def test_the_run_of_the_environment_is_taken_once():
    assert take_agent_run() == AgentRun("r1", "s1", "theirs", "someone")
    assert not {"WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"} & os.environ.keys()
    assert take_agent_run() is None


@pytest.mark.usefixtures("agent", "work")
@pytest.mark.parametrize("name", ["WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_PROJECT", "WANDB_ENTITY"])
def test_a_name_that_wandb_refuses_is_one_line(name, monkeypatch, capsys):
    monkeypatch.setenv(name, "a/b")
    assert main(RUN) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {name} must be a name of at most 128 characters")
    assert not Path("run").exists()


@pytest.mark.usefixtures("agent")
def test_a_sweep_leaves_the_run_of_the_environment():
    assert "WANDB_SWEEP_ID, WANDB_RUN_ID, WANDB_SWEEP_PARAM_PATH unset" in str(drop_agent_run())
    assert drop_agent_run() is None
    assert take_agent_run() is None


@pytest.mark.usefixtures("agent")
def test_a_single_run_is_the_run_of_the_agent(work, monkeypatch, capsys):
    """Its id is in the records, and the same command continues it without the agent."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(RUN) == 0
    given = {"id": "r1", "sweep": "s1", "project": "theirs", "entity": "someone"}
    status = records.read_status("run")
    assert status is not None
    assert status["wandb"] == given
    (folder,) = Path("run/wandb").glob("offline-run-*")
    assert folder.name.endswith("-r1")
    (file,) = folder.glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    runs = [item["run"] for item in map(json.loads, lines) if item["type"] == "run"]
    assert (runs[0]["run_id"], runs[0]["sweep_id"], runs[0]["project"]) == ("r1", "s1", "theirs")
    keys = [key for key in runs[0]["config"]["update"] if not key.startswith("_")]
    assert "model" in keys
    assert not any("." in key for key in keys)

    Path("run/summary.json").unlink()
    records.write_status(
        "run", "interrupted", identity=status["identity"], epoch=2, started=status["started"]
    )
    monkeypatch.setenv("WANDB_RUN_ID", "r2")
    assert main([*RUN, "resume=true"]) == 0
    assert "run has a W&B run of its own; the run r2 is not used" in capsys.readouterr().err
    after = records.read_status("run")
    assert after is not None
    assert "wandb" not in after


@pytest.mark.parametrize(
    "wandb", ["r1", {"id": "r1"}, {"id": "a/b", "sweep": None, "project": None, "entity": None}]
)
def test_a_wrong_run_in_the_records_is_damage(wandb, work):
    Path("run").mkdir()
    started = "2026-01-01T00:00:00+00:00"
    records.write_status("run", "running", identity="x", epoch=0, started=started, wandb=wandb)
    with pytest.raises(records.DamagedFile, match="wandb must be a W&B run"):
        records.read_status("run")


@pytest.fixture
def path(work, wandb_server, monkeypatch):
    """A working folder in which the agent finds `mnistjax`, as a command of this Python."""
    Path("bin").mkdir()
    Path("bin/mnistjax").write_text(f'#!/bin/sh\nexec {sys.executable} -m mnistjax "$@"\n')
    Path("bin/mnistjax").chmod(0o755)
    monkeypatch.setenv("PATH", f"{work}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return work


def make_sweep(server, *words):
    """Makes a Sweep of the jobs with these words, by the two documented commands; returns its id."""
    command = [sys.executable, "-m", "mnistjax", "-m", "data=digits", "model=mlp", *words, "sweep.plan=wandb"]
    with open("sweep.yaml", "w") as file:
        subprocess.run(command, check=True, stdout=file)
    subprocess.run([sys.executable, "-m", "wandb", "sweep", "sweep.yaml"], check=True)
    (name,) = server.sweeps
    return name


def start_agent(name, *words):
    command = [sys.executable, "-m", "wandb", "agent", *words, f"someone/mnistjax/{name}"]
    return subprocess.Popen(command)


@pytest.mark.slow
def test_an_agent_runs_the_jobs_of_a_printed_sweep(path, wandb_server):
    words = ["model.hidden=[8],[4,4]", "train.epochs=2", "wandb.tags=['a b']", "seed=3"]
    name = make_sweep(wandb_server, *words)
    assert start_agent(name).wait(200) == 0
    runs = list(wandb_server.runs.values())
    assert [run.config["model"]["value"]["hidden"] for run in runs] == [[8], [4, 4]]
    for run in runs:
        assert (run.sweep, run.exit, run.state) == (name, 0, "finished")
        assert run.fields["jobType"] == "train"
        assert "a b" in run.fields["tags"]
        assert run.config["seed"]["value"] == 3
        assert [line["epoch"] for line in wandb_server.history(run.name) if "val/loss" in line][:2] == [1, 2]
        assert [version.path for version in wandb_server.used[run.name]]
    found = [records.read_status(file.parent) for file in Path("outputs").rglob("status.json")]
    assert {status["wandb"]["id"] for status in found if status} == set(wandb_server.runs)

    wandb_server.sweeps[name].queue = [{"run_id": "again", "args": {"model.hidden": "[8]"}}]
    assert start_agent(name).wait(100) == 0
    again = wandb_server.runs["again"]
    assert len([*Path("outputs").rglob("status.json")]) == 2  # nothing was trained
    assert (again.sweep, again.exit, again.summary["status"]) == (name, 0, "done")
    assert again.summary["test/accuracy"] == runs[0].summary["test/accuracy"]
    rows = [
        [line["val/loss"] for line in wandb_server.history(id) if "val/loss" in line]
        for id in ("again", runs[0].name)
    ]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_preempted_run_is_queued_again_and_continues(path, wandb_server):
    """The server asks the agent to stop the run, as on a preemptible machine; then an agent gets it again."""
    name = make_sweep(wandb_server, "model.hidden=8", "train.epochs=3000", "train.batch_size=2", "seed=0,1")
    agent = start_agent(name, "--count", "2")
    end = time.monotonic() + 100
    while not (runs := list(wandb_server.runs.values())) or len(runs[0].lines) < 3:
        assert time.monotonic() < end
        time.sleep(0.1)
    wandb_server.stop(runs[0].name)
    while runs[0].exit is None:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert runs[0].preempting
    assert runs[0].exit == 255
    stopped = len(runs[0].lines)
    (file,) = Path("outputs").rglob("status.json")
    status = records.read_status(file.parent)
    assert status is not None
    assert status["status"] == "interrupted"
    assert 3 <= stopped < 3000
    assert agent.wait(200) == 0
    assert list(wandb_server.runs) == [runs[0].name]
    assert [line["epoch"] for line in wandb_server.history(runs[0].name) if "val/loss" in line] == list(
        range(1, 3001)
    )
    assert (runs[0].exit, runs[0].state) == (0, "finished")
    assert [*Path("outputs").rglob("status.json")] == [file]


@pytest.mark.slow
def test_sigterm_is_no_preemption_without_an_agent(path, wandb_server):
    words = [*RUN, "train.epochs=100000", "train.batch_size=2"]
    process = subprocess.Popen([sys.executable, "-m", "mnistjax", *words])
    end = time.monotonic() + 60
    while not (runs := list(wandb_server.runs.values())) or len(runs[0].lines) < 1:
        assert time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert not runs[0].preempting
    assert runs[0].exit == 255
