"""Runs whose records make no sense, and odd texts, in a report."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from mnistjax.report.dashboard import list_rows, make_data, write_report
from small import SUMMARY, made_run


def without(mapping, *keys):
    return {key: value for key, value in mapping.items() if key not in keys}


GOOD = made_run(0)
LAST = GOOD.rows[-1]
DATA = SUMMARY["data"]
SQUARE = "test/confusion_matrix must be a square matrix"
BROKEN: list[tuple[dict[str, Any], str]] = [
    (
        {"rows": [{**row, "val/loss": None} for row in GOOD.rows]},
        "line 1 is damaged: val/loss must be",
    ),
    ({"rows": [*GOOD.rows[:-1], without(LAST, "train/f1")]}, "line 3 is damaged: train/f1 is missing"),
    ({"rows": [*GOOD.rows[:-1], {**LAST, "val/f1": 10**400}]}, "found 'a number of more than 80 digits'"),
    ({"rows": [*GOOD.rows[:-1], {**LAST, "epoch": 7}]}, "line 3: the row of epoch 3 is expected"),
    ({"rows": [7]}, "line 1: the row of epoch 1 is expected"),
    ({"rows": []}, "kept_epoch is 3 of 0 epochs"),
    ({"summary": [7]}, "summary.json is damaged: a mapping is expected"),
    ({"summary": {**GOOD.summary, "kept_epoch": 4}}, "kept_epoch is 4 of 3 epochs"),
    ({"summary": {**GOOD.summary, "kept_epoch": 0}}, "kept_epoch must be"),
    ({"summary": {**GOOD.summary, "test/accuracy": None}}, "test/accuracy must be a number"),
    ({"summary": without(GOOD.summary, "test/confusion_matrix")}, "test/confusion_matrix is missing"),
    (
        {"summary": {**GOOD.summary, "test/confusion_matrix": [[1, 2], [3]]}},
        SQUARE,
    ),
    (
        {"summary": {**GOOD.summary, "test/confusion_matrix": [[1, 2], [3, "4"]]}},
        SQUARE,
    ),
    (
        {"summary": {**GOOD.summary, "test/confusion_matrix": [[1, 2], [3, -4]]}},
        SQUARE,
    ),
    ({"summary": {**GOOD.summary, "data": {**DATA, "class_names": ["a"]}}}, "class_names must be 2 names"),
    ({"summary": {**GOOD.summary, "data": {**DATA, "class_names": [1, 2]}}}, "class_names must be 2 names"),
]


@pytest.mark.parametrize(
    ("changes", "reason"), BROKEN, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_broken_run_is_shown_as_failed_beside_the_others(tmp_path, changes, reason):
    runs = [made_run(1), dataclasses.replace(made_run(0), **changes), made_run(2)]
    data = make_data(runs)
    assert [run["status"] for run in data["runs"]] == ["done", "failed", "done"]
    assert reason in data["runs"][1]["reason"]
    page, missing = write_report(runs, data, tmp_path / "out", title="runs")
    assert missing
    assert reason.partition(":")[0] in (tmp_path / "out/runs.csv").read_text()
    assert len([*page.parent.glob("figures/*")]) == 4


def test_odd_values_are_listed_as_text(tmp_path):
    values: dict[str, Any] = {
        "nan": float("nan"),
        "huge": 10**5000,
        "half": "\ud800",
        "mapping": {"a": [1]},
        "deep": [[1, 2]],
        "list": [1, "\udcff", None],
        "empty": {},
    }
    half: dict[str, Any] = {"\ud800": "\ud800"}
    runs = [made_run(0, **values), made_run(1), made_run(2, status="\ud800", **half)]
    runs[0] = dataclasses.replace(runs[0], folder=Path(os.fsdecode(b"/runs/\xff")))
    data = make_data(runs)
    found = data["runs"][0]["values"]
    assert found["nan"] == "nan"
    assert found["half"] == "\\ud800"
    assert found["huge"].startswith("0x")
    assert found["list"] == [1, "\\udcff", None]
    assert data["runs"][0]["folder"] == "/runs/\\udcff"
    write_report(runs, data, tmp_path / "out", title="\udcff%data%")
    assert "\\udcff%data%</title>" in (tmp_path / "out/index.html").read_text()
    assert len(list_rows(data)) == 3


def test_odd_class_names_are_drawn(tmp_path):
    run = made_run(0)
    summary: Any = run.summary
    summary["data"] = {**DATA, "class_names": ["$\\frac{$", "\x1b[2J\ud800" + "字" * 500]}
    write_report([run], make_data([run]), tmp_path / "out", title="runs")
    assert {path.stem for path in tmp_path.glob("out/figures/*.svg")} == {"curves", "confusion_matrix"}
