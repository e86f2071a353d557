"""The data of the dashboard, from made-up runs."""

import base64
import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mnistjax.report.dashboard import importance, make_data
from mnistjax.report.runs import Runs
from small import made_run


def curve_of(data, name, run):
    values = np.frombuffer(base64.b64decode(data["curves"][name]), "<f4")
    return values[data["starts"][run] :][: data["runs"][run]["epochs"]]


def test_each_run_finds_its_own_curves():
    runs = [
        made_run(0, epochs=3),
        made_run(1, epochs=0, status="failed"),
        made_run(2, epochs=5),
        made_run(3, epochs=1),
    ]
    data = make_data(runs)
    for number, run in enumerate(runs):
        expected = [row["val/accuracy"] for row in run.rows]
        np.testing.assert_allclose(curve_of(data, "val/accuracy", number), expected, rtol=1e-6)


@pytest.mark.parametrize(("monitor", "ranking"), [("val/loss", [2, 1, 0]), ("val/accuracy", [0, 1, 2])])
def test_the_best_run_by_the_monitored_metric_is_the_first_of_the_ranking(monitor, ranking):
    """A run with a higher number has lower values."""
    runs = [made_run(number, **{"train.monitor": monitor}) for number in range(3)]
    assert make_data(runs)["ranking"] == ranking


def test_a_repeated_run_is_no_other_seed():
    runs = [replace(made_run(number), identity=str(number)) for number in (0, 1, 0)]
    (one,) = make_data(runs)["configurations"]
    assert one["runs"] == [0, 1, 2]
    assert {count for _, _, count in one["metrics"].values()} == {2}


def test_stopped_runs_count_only_where_none_is_done_and_have_no_letters():
    statuses: Any = {"adam": ["done", "done", "stopped"], "sgd": ["stopped", "stopped"]}
    runs = [
        made_run(seed, status, **{"optimizer.name": name})
        for name, own in statuses.items()
        for seed, status in enumerate(own)
    ]
    found = make_data(runs)["configurations"]
    assert [one["metrics"]["val/loss"][2] for one in found] == [2, 2]
    assert [one["letters"]["val/loss"] for one in found] == ["a", ""]


def test_unfinished_runs_are_listed_but_not_ranked():
    runs = [made_run(0), made_run(1, status="diverged"), made_run(2, status="waiting", epochs=0), made_run(5)]
    data = make_data(runs)
    assert [run["status"] for run in data["runs"]] == ["done", "diverged", "waiting", "done"]
    assert data["ranking"] == [3, 0]  # by the last val/loss
    assert [run["confusion"] is None for run in data["runs"]] == [False, True, True, False]


def test_metrics_that_only_some_runs_have_are_listed():
    runs = [made_run(0), made_run(1), made_run(2)]
    summary: Any = runs[1].summary
    summary |= {"test/balanced_accuracy": 0.75, "test/auc": "nan"}
    data = make_data(runs)
    assert data["runs"][1]["metrics"]["test/balanced_accuracy"] == 0.75
    assert "test/balanced_accuracy" in data["metrics"]
    assert "test/auc" not in data["metrics"]
    assert "test/balanced_accuracy" not in data["runs"][0]["metrics"]


def test_the_page_says_no_more_than_the_values_do():
    """Seeds that differ by 7 of 12,000 images each, in both pairs: that may be chance."""
    runs = []
    for (rate, seed), right in zip(
        itertools.product((0.01, 0.1), (0, 1)), (11_507, 11_521, 11_500, 11_514), strict=True
    ):
        config: dict[str, Any] = {"optimizer.learning_rate": rate}
        made = made_run(seed, **config)
        runs.append(replace(made, rows=[{**row, "val/loss": right / 12_000} for row in made.rows]))
    data = make_data(runs)
    assert data["verdict"].startswith("By val/loss, undecided")
    (verdict,) = Runs(runs).verdicts("val/loss")
    assert f"{verdict:.4f}" in data["verdict"]
    assert [one["letters"]["val/loss"] for one in data["configurations"]] == ["a", "a"]


@pytest.mark.parametrize("word", ["nan", "inf", "-inf"])
def test_non_finite_numbers_are_left_out(word):
    run = made_run(status="diverged")
    rows: Any = run.rows
    rows[-1]["val/loss"] = word
    data = make_data([run, made_run(1)])
    assert "val/loss" not in data["runs"][0]["metrics"]
    assert not np.isfinite(curve_of(data, "val/loss", 0)[-1])
    json.dumps(data, allow_nan=False)


def test_the_decisive_key_has_the_highest_importance():
    random = np.random.default_rng(0)
    runs = []
    for number in range(40):
        rate, name = float(random.choice([0.1, 0.2, 0.3])), str(random.choice(["sgd", "adam"]))
        accuracy = 0.5 + rate + 0.01 * random.normal()
        keys: dict[str, Any] = {"optimizer.learning_rate": rate, "optimizer.name": name}
        runs.append(made_run(number, accuracy=accuracy, **keys))
    rows = importance(runs, ["optimizer.name", "optimizer.learning_rate"], "test/accuracy")
    assert rows[0]["key"] == "optimizer.learning_rate"
    assert rows[0]["importance"] > 0.9
    assert rows[0]["correlation"] > 0.9
    assert sum(row["importance"] for row in rows) == pytest.approx(1, abs=0.01)
    assert {row["key"]: row["correlation"] for row in rows}["optimizer.name"] is None
    assert importance(runs[:5], ["optimizer.name"], "test/accuracy") == []
