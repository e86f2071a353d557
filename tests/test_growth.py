"""The script that measures how costs grow with jobs, lanes, images and parameters."""

import json
import sys

import numpy as np
import pytest

import growth
from mnistjax.data import Split

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
