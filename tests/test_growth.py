"""How costs grow with the jobs of a sweep, and the script that measures it."""

import json
import sys
from collections import Counter

import numpy as np
import pytest

import growth
from mnistjax import records
from mnistjax.cli import main, overrides
from mnistjax.data import Split
from mnistjax.sweeps import run
from mnistjax.sweeps.ledger import Ledger

POINTS = {
    "jobs": {
        "10": {"train": 3.5, "resume": 2.25, "memory": 440.0},
        "1000": {"train": 15.0, "resume": 4.5, "memory": 1460.0},
    },
    "parameters": {"16": {"epoch": 0.08, "count": 12730, "memory": 517.0}},
}


def test_the_page_has_tables_and_a_figure(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("<!-- tables: begin -->\n<!-- tables: end -->\nend\n")
    record = {"processor": "P", "jax": "0", "points": POINTS}
    (tmp_path / "growth.json").write_text(json.dumps(record))
    monkeypatch.setattr(growth, "PLACE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["growth.py", "--readme"])
    growth.main()
    text = (tmp_path / "README.md").read_text("utf-8")
    assert "| jobs | sweep (s) | resume (s) | memory (MB) |" in text
    assert "| 1,000 | 15 | 4.5 | 1,460 |" in text
    assert "| 12,730 | 0.08 | 517 |" in text
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md",
        "growth.json",
        "growth.png",
        "growth.svg",
    }


def test_images_are_repeated_with_their_labels():
    part = Split(
        np.arange(3, dtype=np.uint8)[:, None, None] + np.zeros((2, 2), np.uint8), np.arange(3, dtype=np.int32)
    )
    longer = growth.repeat(part, 7)
    assert longer.images.shape == (7, 2, 2)
    assert longer.labels.tolist() == longer.images[:, 0, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.slow
def test_a_sweep_and_lanes_are_measured(tmp_path, monkeypatch, capsys):
    (tmp_path / "README.md").write_text("<!-- tables: begin -->\n<!-- tables: end -->\n")
    monkeypatch.setattr(growth, "PLACE", tmp_path)
    monkeypatch.setattr(growth, "POINTS", {"jobs": (3, 9), "lanes": (2,)})
    monkeypatch.setattr(sys, "argv", ["growth.py", "--only", "jobs", "lanes", "--jobs", "3"])
    growth.main()
    points = json.loads((tmp_path / "growth.json").read_text("utf-8"))["points"]
    assert [*points["jobs"]] == ["3"]
    assert min(points["jobs"]["3"].values()) > 0
    assert points["lanes"]["2"]["epoch"] > 0
    assert points["lanes"]["2"]["memory"] > 50


SWEEP = ["data=digits", "model=neuron", "train.epochs=1", "train.batch_size=all", "sweep.executor=inline"]


def count_calls(monkeypatch, module, name):
    """The first arguments of the calls of a function from now on."""
    calls, real = [], getattr(module, name)
    monkeypatch.setattr(
        module, name, lambda *args, **options: calls.append(args[0]) or real(*args, **options)
    )
    return calls


def test_a_finished_job_is_read_once_when_its_sweep_is_resumed(work, monkeypatch):
    assert main(["-m", *SWEEP, "seed=range(5)", "hydra.sweep.dir=sweep"]) == 0
    before = (work / "sweep" / "results.csv").read_bytes()
    reads = count_calls(monkeypatch, records, "read_record")
    parsed = count_calls(monkeypatch, overrides, "make_parser")
    assert main(["-m", "sweep.resume=sweep"]) == 0
    assert [path.name for path in reads] == ["0", "1", "2", "3", "4"]
    assert len(parsed) < 15  # the 5 words of all jobs and their 5 seeds are parsed once, not 30 words
    assert (work / "sweep" / "results.csv").read_bytes() == before


def test_saving_a_sweep_takes_at_most_a_share_of_its_time(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    sweep = run.Sweep(Ledger(tmp_path, "id", "2026-01-01T00:00:00+00:00", []), run.Options())

    def save():
        now[0] += 2.0

    monkeypatch.setattr(sweep.ledger, "save", save)
    sweep.save()
    assert sweep._next_save == 102.0 + 2.0 / run.SAVE_SHARE
    monkeypatch.setattr(sweep.ledger, "save", lambda: None)
    sweep.save()
    assert sweep._next_save == 102.0 + run.SAVE_SECONDS
    monkeypatch.setattr(sweep.ledger, "save", lambda: now.append(now.pop() + 1000.0))
    sweep.save()
    assert sweep._next_save == 1102.0 + run.MOST_SECONDS


def test_jobs_are_counted_by_status_as_they_change(work, monkeypatch):
    """Also those that an earlier command has stopped, which go on here."""
    seen = []
    real = run.Mirror.log

    def log(self, row, counts):
        assert counts == Counter(entry.status for entry in self._ledger.entries.values())
        seen.append({status: count for status, count in counts.items() if count})
        real(self, row, counts)

    monkeypatch.setattr(run.Mirror, "log", log)
    rates = "optimizer.learning_rate=0.1,0.01,0.001"
    words = ["-m", *SWEEP, "train.epochs=3", rates, "hydra.sweep.dir=sweep"]
    assert main([*words, "sweep.halving=3"]) == 0
    assert seen[-1] == {"stopped": 2, "done": 1}
    assert main(["-m", "sweep.resume=sweep", "sweep.halving=null", "sweep.executor=inline"]) == 0
    assert seen[-1] == {"done": 3}
