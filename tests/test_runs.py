"""Reading the runs in folders, whatever happened to them."""

import shutil

import pytest

from mnistjax import records
from mnistjax.config import ConfigError
from mnistjax.report.runs import name_runs, read_run, read_runs
from mnistjax.sweeps.ledger import Entry, Ledger
from small import write_run


def test_single_runs_and_sweeps_are_read_in_their_order(tmp_path):
    write_run(tmp_path / "single", seed=7)
    sweep = Ledger(tmp_path / "sweep", "id", "2026-01-01", [])
    for number, name in enumerate(("adam", "sgd", "sgd")):
        config = {"optimizer.name": name}
        sweep.entries[number] = Entry(number, str(number), [], seed=number, config=config)
    write_run(sweep.job_folder(0), seed=0, optimizer={"name": "adam"})
    write_run(sweep.job_folder(1), "diverged", seed=1, reason="loss is nan", optimizer={"name": "sgd"})
    sweep.save()
    runs = read_runs(tmp_path)
    assert [run.status for run in runs] == ["done", "done", "diverged", "waiting"]
    assert [run.seed for run in runs] == [7, 0, 1, 2]
    assert [run.reason for run in runs] == [None, None, "loss is nan", None]
    assert [len(run.rows) for run in runs] == [2, 2, 2, 0]
    assert runs[2].summary == {}
    assert len(read_runs(tmp_path / "sweep", tmp_path)) == 4
    assert [run.sweep for run in read_runs(tmp_path / "sweep/0", tmp_path / "sweep")] == ["id"] * 3
    names = [name for name, _ in name_runs(runs[1:])]
    assert names == ["adam seed=0", "sgd seed=1", "sgd seed=2"]


def test_jobs_that_failed_before_their_start_have_a_reason(tmp_path):
    sweep = Ledger(tmp_path, "id", "2026-01-01", [])
    sweep.entries[0] = Entry(0, "0", [], seed=0, status="failed", reason="lost before it began")
    sweep.save()
    (run,) = read_runs(tmp_path)
    assert (run.status, run.reason) == ("failed", "lost before it began")


def test_a_killed_run_is_not_running_and_a_damaged_one_has_failed(tmp_path):
    write_run(tmp_path / "a", "running", seed=1)
    write_run(tmp_path / "b", "running", seed=2)
    write_run(tmp_path / "c", seed=3)
    (tmp_path / "c/config.yaml").unlink()
    with records.lock(tmp_path / "b"):
        runs = read_runs(tmp_path)
    assert [run.status for run in runs] == ["interrupted", "running", "failed"]
    assert "config.yaml" in str(runs[2].reason)
    assert [run.damaged for run in runs] == [False, False, True]


def test_a_copied_folder_is_the_same_run(tmp_path):
    write_run(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert len(read_runs(tmp_path)) == 1


@pytest.mark.parametrize("status", ["done", "interrupted"])
def test_of_copies_the_one_that_came_farthest_counts(status, tmp_path):
    """A backup of a run that was stopped, and then continued, is found first."""
    write_run(tmp_path / "a", "interrupted", epochs=1)
    write_run(tmp_path / "b", status)
    write_run(tmp_path / "c", "interrupted", epochs=1)
    (run,) = read_runs(tmp_path)
    assert (run.folder, run.status) == (tmp_path / "b", status)


def test_a_backup_of_a_sweep_adds_no_waiting_jobs(tmp_path):
    sweep = Ledger(tmp_path / "now", "id", "2026-01-01", [])
    for number in range(3):
        sweep.entries[number] = Entry(number, str(number), [], seed=number)
    write_run(sweep.job_folder(0), seed=0)
    sweep.save()
    shutil.copytree(tmp_path / "now", tmp_path / "backup")
    write_run(sweep.job_folder(1), seed=1)
    statuses = [run.status for run in read_runs(tmp_path)]
    assert sorted(statuses) == ["done", "done", "waiting"]
    other = Ledger(tmp_path / "other", "id", "2026-01-02", [])  # begun in the same second
    other.entries[0] = Entry(0, "another", [], seed=0)
    other.folder.mkdir()
    other.save()
    assert len(read_runs(tmp_path)) == 4


def test_a_run_that_ends_while_it_is_read_is_done(tmp_path, monkeypatch):
    write_run(tmp_path / "a", "running")
    write_run(tmp_path / "b")
    read_config = records.read_config

    def read_slowly(folder):
        for name in ("status.json", "summary.json"):
            shutil.copy(tmp_path / "b" / name, folder)
        return read_config(folder)

    monkeypatch.setattr(records, "read_config", read_slowly)
    assert read_run(tmp_path / "a").status == "done"


def test_a_folder_without_runs_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        read_runs(tmp_path)
