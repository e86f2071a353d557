"""`mnistjax-sync` from end to end: W&B's real client over real HTTP, against a stand-in for its server.

The head of wandb_server.py says what is stood in for. Nothing of mnistjax is replaced.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mnistjax import records
from mnistjax.cli import sync
from mnistjax.signals import GRACE_SECONDS
from mnistjax.sweeps.ledger import Entry, Ledger
from mnistjax.tracking import make_run_id
from small import SUMMARY

GOLDEN = Path(__file__).with_name("views.json")


@pytest.fixture
def server(wandb_server):
    return wandb_server


def write_run(folder, identity, *, status: Any = "done", epochs=5, reason=None, **config):
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "seed": 0,
        "wandb": {"project": "mine", "entity": None, "tags": ["a"]},
        "model": {"name": "mlp"},
        **config,
    }
    records.write_config(folder, config)
    for epoch in range(len(records.read_rows(folder)) + 1, epochs + 1):
        row = {"train/loss": 1 / epoch, "val/loss": 2 / epoch, "train/accuracy": 0.9, "val/accuracy": 0.8}
        row |= {"train/f1": 0.9, "val/f1": 0.8, "examples_seen": 100 * epoch, "seconds": 0.5}
        records.append_row(folder, {"epoch": epoch, **row})
    if status == "done":
        tested = {"test/accuracy": 0.9, "test/f1": 0.8, "test/confusion_matrix": [[9, 1], [0, 8]]}
        records.write_summary(folder, {**SUMMARY, **tested, "identity": identity, "kept_epoch": epochs})
    started = "2026-01-01T00:00:00+00:00"
    records.write_status(folder, status, identity=identity, epoch=epochs, started=started, reason=reason)
    return make_run_id(identity, started)


def call(*words, command="sync"):
    """The exit code of `mnistjax-sync`, or another command, in its own process."""
    code = f"import sys; from mnistjax.cli.{command} import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], timeout=120).returncode


def epochs_of(server, name):
    return [line["epoch"] for line in server.history(name)]


@pytest.mark.slow
def test_each_row_arrives_once_however_often_it_is_synced(server, tmp_path):
    name = write_run(tmp_path / "run", "x", status="interrupted", epochs=2)
    assert call(tmp_path / "run") == 0
    assert epochs_of(server, name) == [1, 2]
    assert server.run(name).exit == 255
    assert write_run(tmp_path / "run", "x", epochs=5) == name  # the run was resumed
    for _ in range(2):
        assert call(tmp_path / "run") == 0
        assert epochs_of(server, name) == [1, 2, 3, 4, 5]
        assert [line["val/loss"] for line in server.history(name)] == [2 / epoch for epoch in range(1, 6)]
    run = server.run(name)
    assert run.exit == 0
    assert run.summary["status"] == "done"
    assert run.summary["test/accuracy"] == 0.9
    assert run.config["model"]["value"] == {"name": "mlp"}
    assert run.fields["project"] == "mine"
    assert run.fields["tags"] == ["a", "mlp", "mnist", "done"]
    assert run.fields["jobType"] == "train"
    assert list(server.runs) == [name]


@pytest.mark.slow
def test_a_run_that_goes_on_online_sends_what_it_did_offline(server, work, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    words = ["data=digits", "model=neuron", "train.epochs=200", "train.batch_size=4", "hydra.run.dir=run"]
    command = [sys.executable, "-m", "mnistjax", *words]
    first = subprocess.Popen([*command, "wandb.mode=offline"])
    end = time.monotonic() + 100
    while not Path("run/metrics.jsonl").exists() or len(records.read_rows("run")) < 3:
        assert time.monotonic() < end
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130
    assert 3 <= len(records.read_rows("run")) < 200
    assert subprocess.run([*command, "wandb.mode=online", "resume=true"], timeout=120).returncode == 0
    (name,) = server.runs
    assert [line["epoch"] for line in server.history(name) if "val/loss" in line] == [*range(1, 201)]


@pytest.mark.slow
def test_a_sweep_that_goes_on_online_sends_what_it_did_offline(server, work, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    words = ["-m", "data=digits", "model=neuron", "train.epochs=1", "hydra.sweep.dir=sweep"]
    command = [sys.executable, "-m", "mnistjax"]
    assert subprocess.run([*command, *words, "seed=0,1", "wandb.mode=offline"]).returncode == 0
    more = ["-m", "sweep.resume=sweep", "seed=0,1,2,3", "wandb.mode=online", *words[1:-1]]
    assert subprocess.run([*command, *more], timeout=120).returncode == 0
    (sweep,) = (run for run in server.runs.values() if run.fields["jobType"] == "sweep")

    def list_jobs():
        points = [line for line in server.history(sweep.name) if "job" in line]
        assert [line["jobs/over"] for line in points] == [*range(1, len(points) + 1)]
        return sorted(line["job"] for line in points)

    assert list_jobs() == [0, 1, 2, 3]
    for mode, seed in (("offline", 4), ("online", 5)):  # the tables are steps of the sweep's run, too
        again = ["-m", "sweep.resume=sweep", f"seed={seed}", f"wandb.mode={mode}", *words[1:-1]]
        assert subprocess.run([*command, *again], timeout=120).returncode == 0
    assert list_jobs() == [0, 1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_killed_sync_can_be_continued(server, tmp_path):
    name = write_run(tmp_path / "run", "x", epochs=2000)
    server.hold_after = 700
    code = "import sys; from mnistjax.cli.sync import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], start_new_session=True)
    end = time.monotonic() + 60
    while len(server.run(name).lines) < 700:
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    server.hold_after = None
    assert epochs_of(server, name) == list(range(1, 701))
    assert call(tmp_path) == 0
    assert epochs_of(server, name) == list(range(1, 2001))


@pytest.mark.slow
def test_ctrl_c_waits_some_seconds_for_a_server_that_hangs(server, tmp_path):
    name = write_run(tmp_path / "run", "x")
    server.hold_after = 2
    command = [
        sys.executable,
        "-c",
        "from mnistjax.__main__ import sync; sync()",
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while len(server.run(name).lines) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - began < GRACE_SECONDS + 3
    assert (process.returncode, told.splitlines()[-1]) == (130, "interrupted; the same command continues")
    server.hold_after = None
    assert call(tmp_path) == 0
    assert epochs_of(server, name) == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_rows_that_the_server_does_not_take_are_not_reported_as_sent(server, tmp_path, capfd):
    name = write_run(tmp_path / "run", "x")
    server.hold_after = 2
    code = "import sys, mnistjax.cli.sync as sync; sync.PATIENCE = 8; sys.exit(sync.main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, str(tmp_path / "run")]
    assert subprocess.run(words, timeout=60).returncode == 1
    assert len(server.run(name).lines) <= 2
    assert "0 of 1 runs are at W&B" in capfd.readouterr().err
    server.hold_after = None
    assert call(tmp_path / "run") == 0
    assert epochs_of(server, name) == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_sweep_arrives_as_a_group_and_its_failures_as_such(server, tmp_path):
    ledger = Ledger(tmp_path / "sweep", "2026-01-01", "2026-01-01", [])
    states: list[Any] = ["done", "diverged", "failed", "waiting"]
    for number, status in enumerate(states):
        config = {"optimizer.name": f"o{number}"}
        ledger.entries[number] = Entry(number, str(number), [], seed=0, status=status, config=config)
    names = [
        write_run(ledger.job_folder(number), str(number), status=status, reason="why")
        for number, status in enumerate(states[:3])
    ]
    ledger.save()
    assert call(tmp_path / "sweep") == 1  # one has not ended
    own = make_run_id("2026-01-01", "2026-01-01")
    assert set(server.runs) == {*names, own}
    assert (server.run(own).fields["jobType"], server.run(own).exit) == ("sweep", 1)
    assert [line["jobs/over"] for line in server.history(own) if "jobs/done" in line] == [1, 2, 3]
    found = [server.run(name) for name in names]
    assert [run.exit for run in found] == [0, 1, 1]
    assert [run.summary["status"] for run in found] == states[:3]
    assert {run.fields["groupName"] for run in found} == {"2026-01-01"}
    assert [run.fields["displayName"] for run in found] == [f"o{number} seed=0" for number in range(3)]


def test_without_a_login_nothing_is_done(server, tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "run", "x")
    monkeypatch.delenv("WANDB_API_KEY")
    assert sync.main([str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "error: W&B: no API key (`wandb login` sets one)\n"
    assert not server.runs
    assert not (tmp_path / "run/wandb").exists()


@pytest.mark.slow
def test_runs_without_whole_records_are_left_out_and_the_others_arrive(server, tmp_path, capfd):
    ledger = Ledger(tmp_path / "sweep", "2026-01-01", "2026-01-01", [])
    ledger.entries[0] = Entry(0, "0", [], seed=0, status="failed", reason="lost before it began")
    ledger.folder.mkdir()
    ledger.save()
    name = write_run(tmp_path / "whole", "x")
    write_run(tmp_path / "damaged", "y")
    (tmp_path / "damaged/config.yaml").unlink()
    assert call(tmp_path) == 1
    assert list(server.runs) == [name]
    said = capfd.readouterr().err
    assert "damaged/config.yaml" in said
    assert "1 of 1 runs are at W&B" in said


@pytest.mark.slow
def test_the_dashboard_becomes_a_workspace_and_a_report(server, tmp_path):
    """The server gets the content of tests/views.json; to write it again, delete it and run this test."""
    ledger = Ledger(tmp_path / "sweep", "2026-01-01", "2026-01-01", [])
    for number, name in enumerate(("adam", "sgd")):
        ledger.entries[number] = Entry(number, str(number), [], seed=0, config={"optimizer.name": name})
        write_run(
            ledger.job_folder(number), str(number), optimizer={"name": name, "learning_rate": 0.1 * number}
        )
    ledger.save()
    assert call(tmp_path / "sweep", "--wandb", command="report") == 0
    assert [(view["entityName"], view["projectName"]) for view in server.views] == [("someone", "mine")] * 2
    assert [view["displayName"] for view in server.views] == ["mnistjax sweep"] * 2
    specs = [without_ids(json.loads(view["spec"])) for view in server.views]
    found = dict(zip(("workspace", "report"), specs, strict=True))
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
        pytest.fail(f"{GOLDEN} was written; check it")
    assert found == json.loads(GOLDEN.read_text())
    assert (tmp_path / "sweep/report/index.html").exists()
    first = [view.get("id") for view in server.views]
    assert call(tmp_path / "sweep", "--wandb", command="report") == 0
    assert first == [None] * 2
    saved = json.loads((tmp_path / "sweep/report/wandb.json").read_text())
    assert [view["id"] for view in server.views[2:]] == [saved["workspace"], saved["report"]]
    assert server.views[2]["name"] == saved["workspace_name"]


def without_ids(spec: Any) -> Any:
    """The spec without the random ids of wandb-workspaces."""
    if isinstance(spec, dict):
        return {key: without_ids(value) for key, value in spec.items() if key not in ("__id__", "id")}
    return [without_ids(item) for item in spec] if isinstance(spec, list) else spec
