"""Two sweeps, or two versions of the code, compared: nothing is missed, nothing is made up."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import mnistjax
from hostile import MARKUP, list_hostile, poison
from mnistjax.cli import main, report
from mnistjax.config import ConfigError
from mnistjax.report.comparison import compare_results, compare_runs, find_labels
from mnistjax.report.comparison_text import (
    describe_comparison,
    describe_verdict,
    list_lines,
    list_rows,
    show_comparison,
    to_markdown,
)
from mnistjax.report.runs import Runs
from mnistjax.verdicts import compare, compare_sides, share_seeds
from small import made_run, without_seconds

WORDS = ["data=digits", "model=mlp", "model.hidden=4", "train.epochs=2", "wandb.mode=disabled", "-m"]
METRICS = ("test/accuracy", "val/loss")


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    """A folder with a sweep of two rates and three seeds, twice, and one of more epochs and other rates."""
    folder = tmp_path_factory.mktemp("sweeps")
    with contextlib.chdir(folder):
        rates = "optimizer.learning_rate=0.01,0.1"
        assert main([*WORDS, rates, "seed=0,1,2", "hydra.sweep.dir=v1/sweep"]) == 0
        assert main([*WORDS, rates, "seed=0,1,2", "hydra.sweep.dir=v2/sweep"]) == 0
        more = ["optimizer.learning_rate=0.1,0.3", "train.epochs=3", "seed=1,2,3"]
        assert main([*WORDS, *more, "hydra.sweep.dir=other"]) == 0
    return folder


def lines_of(comparison):
    """The lines of a comparison by heading."""
    found, heading = {}, ""
    for name, text in list_lines(comparison):
        heading = name or heading
        found.setdefault(heading, []).append(text)
    return found


def check_agreement(comparison, before, after):
    """Asserts that each result is that of the runs with its rate, by seeds that both sides have."""
    for result in comparison.results:
        rate = float(result.name.removeprefix("learning_rate="))
        sides = []
        for runs in (before, after):
            own = [run for run in runs if run.config["optimizer.learning_rate"] == rate]
            sides.append({run.seed: {**run.summary, **run.kept_row}[result.metric] for run in own})
        shared = sorted(sides[0].keys() & sides[1].keys())
        one, other = ([side[seed] for seed in shared] for side in sides)
        assert (result.before.values, result.after.values) == (tuple(one), tuple(other))
        assert result.difference == pytest.approx(np.mean(other) - np.mean(one), abs=1e-12)
        low, high = result.interval
        assert low <= result.difference <= high
        assert (low + high) / 2 == pytest.approx(result.difference, abs=1e-12)
        assert result.verdict.paired


@pytest.mark.slow
def test_the_same_command_twice_has_the_same_bits(sweeps):
    before, after = mnistjax.read_runs(sweeps / "v1"), mnistjax.read_runs(sweeps / "v2")
    rows = [[without_seconds(run.rows) for run in runs] for runs in (before, after)]
    assert rows[0] == rows[1]
    found = before.compare(after)
    assert (found.config, found.versions, found.only, found.lone_seeds) == ((), (), ((), ()), (0, 0))
    assert (found.bits.compared, found.bits.same) == (6, 6)
    assert [(result.metric, result.equal) for result in found.results] == [
        (metric, True) for metric in METRICS for _ in range(2)
    ]
    assert lines_of(found)["bits"] == ["6 of 6 runs have the same bits"]
    check_agreement(found, before, after)


def test_a_small_change_is_found_with_its_size_and_epoch(sweeps, tmp_path):
    shutil.copytree(sweeps / "v2", tmp_path / "v2")
    path = tmp_path / "v2/sweep/4/metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["val/loss"] += 3e-7
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    summary = json.loads((tmp_path / "v2/sweep/5/summary.json").read_text())
    summary["test/loss"] += 1e-7
    summary["versions"] |= {"jax": "99.0"}
    (tmp_path / "v2/sweep/5/summary.json").write_text(json.dumps(summary))
    found = mnistjax.read_runs(sweeps / "v1").compare(mnistjax.read_runs(tmp_path / "v2"))
    bits = found.bits
    assert (bits.compared, bits.same, bits.epoch, bits.metric) == (6, 4, 2, "val/loss")
    assert bits.largest == pytest.approx(3e-7)
    said = "4 of 6 runs have the same bits; 2 differ, first at epoch 2, at most by 3e-07 in val/loss"
    assert lines_of(found)["bits"] == [said]
    (version,) = found.versions
    assert (version.key, version.after[-1], len(version.before)) == ("jax", "99.0", 1)
    alone = mnistjax.read_runs(sweeps / "v1/sweep/5").compare(mnistjax.read_runs(tmp_path / "v2/sweep/5"))
    assert lines_of(alone)["bits"] == [
        "the only run differs, only in the test, at most by 1e-07 in test/loss"
    ]


def test_other_epochs_and_rates_are_said_and_the_rest_is_compared(sweeps):
    before, after = mnistjax.read_runs(sweeps / "v1"), mnistjax.read_runs(sweeps / "other")
    found = before.compare(after)
    assert {one.key: (one.before, one.after) for one in found.config} == {
        "train.epochs": (("2",), ("3",)),
        "optimizer.learning_rate": (("0.01", "0.1"), ("0.1", "0.3")),
    }
    assert [result.name for result in found.results] == ["learning_rate=0.1"] * 2
    assert found.only == (("learning_rate=0.01",), ("learning_rate=0.3",))
    assert found.lone_seeds == (1, 1)
    assert found.bits.compared == 0
    check_agreement(found, before, after)
    back = after.compare(before)
    assert [result.difference for result in back.results] == pytest.approx(
        [-result.difference for result in found.results]
    )
    assert [result.name for result in before.compare(after, metric="train/f1").results] == [
        "learning_rate=0.1"
    ]
    with pytest.raises(ConfigError, match="unknown metric 'val/acuracy'; nearest is 'val/accuracy'"):
        before.compare(after, metric="val/acuracy")


def test_unfinished_runs_are_counted_and_have_no_results():
    before = [made_run(number, accuracy=0.5 + number / 100) for number in range(3)]
    after = [made_run(0), made_run(1, "diverged"), made_run(2, "interrupted"), made_run(3, "waiting", 0)]
    found = compare_runs(before, after)
    assert found.counts == (3, 4)
    assert found.unfinished == ({}, {"diverged": 1, "interrupted": 1, "waiting": 1})
    (result, _) = found.results
    assert (result.before.n, result.after.n) == (3, 1)
    assert result.verdict is None
    said = "B: 4 runs, 3 of them unfinished (1 diverged, 1 interrupted, 1 waiting)"
    assert lines_of(found)["compared"] == ["A: 3 runs", said]
    assert found.bits.compared == 0  # without an identity
    empty = compare_runs(before, [made_run(0, "failed")])
    assert empty.results == ()
    assert "no configuration is finished in both" in lines_of(empty)["verdicts"][0]
    assert compare_runs([], []).counts == (0, 0)


def test_a_key_that_varies_alike_is_no_difference_and_older_configs_lack_keys():
    rates = [made_run(seed, accuracy=0.5, **{"optimizer.rate": rate}) for seed in (0, 1) for rate in (1, 2)]
    older = [
        dataclasses.replace(run, config={**run.config, "train.keep": None, "augment.flip": False})
        for run in reversed(rates)
    ]
    found = compare_runs(rates, older)
    assert (found.config, found.only) == ((), ((), ()))
    assert [result.name for result in found.results][:2] == ["rate=1", "rate=2"]
    wider = [*older, *(made_run(seed, **{"optimizer.rate": 3}) for seed in (0, 1))]
    (difference,) = compare_runs(rates, wider).config
    assert (difference.key, difference.before, difference.after) == (
        "optimizer.rate",
        ("1", "2"),
        ("2", "1", "3"),
    )


@pytest.mark.parametrize("word", ["nan", "inf", "-inf"])
def test_numbers_that_are_not_finite_are_left_out(word):
    before = [made_run(seed, accuracy=0.5 + seed / 100) for seed in range(3)]
    after = [made_run(0, accuracy=word), made_run(1, accuracy=0.6), made_run(2, accuracy=0.7)]
    after = [dataclasses.replace(run, identity=str(run.seed)) for run in after]
    before = [dataclasses.replace(run, identity=str(run.seed)) for run in before]
    found = compare_runs(before, after, "test/accuracy")
    (result,) = found.results
    assert result.before.values == (0.51, 0.52)
    text = json.dumps(describe_comparison(found), allow_nan=False)
    assert json.loads(text)["tables"][0]["rows"][1][2:4] == [
        f"{spread:.2%}" for spread in (result.before, result.after)
    ]
    assert to_markdown(found)


def test_sides_without_a_finite_number_are_not_equal():
    nothing = {0: float("nan"), 1: float("inf")}
    (result,) = compare_results({(): nothing}, {(): nothing}, "test/loss", {(): "all"}, ("A", "B"))
    assert not result.equal
    assert describe_verdict(result) == "too few seeds"


def test_hostile_runs_are_compared_as_text(capsys):
    found = compare_runs(list_hostile(), [made_run(0), *list_hostile()[3:]], labels=(MARKUP[0], MARKUP[1]))
    json.dumps(describe_comparison(found), allow_nan=False).encode()
    text = to_markdown(found)
    text.encode()
    assert "<img" not in text
    assert "<script" not in text
    show_comparison(found)
    for metric in found.metrics:
        assert all(cell.isprintable() for row in list_rows(found, metric) for cell in row)


@pytest.mark.slow
def test_poisoned_folders_are_compared(sweeps, work, capsys):
    shutil.copytree(sweeps / "v2", work / "v2")
    for path in [*work.rglob("*.json"), *work.rglob("metrics.jsonl"), *work.rglob("config.yaml")]:
        if path.name != "sweep.json":
            poison(path)
    assert report.main([str(sweeps / "v1"), "v2", "--out", "out"]) == 0
    assert "6 of them unfinished (6 failed)" in capsys.readouterr().out
    assert "<script" not in (work / "out/comparison.md").read_text()


@pytest.mark.slow
def test_two_folders_are_compared_and_one_or_three_are_not(sweeps, work, capsys):
    v1, v2, other = (str(sweeps / name) for name in ("v1/sweep", "v2/sweep", "other"))
    assert report.main([v1, v2, "--out", "out"]) == 0
    said, text = capsys.readouterr().out, (work / "out/comparison.md").read_text()
    for words in ("6 of 6 runs have the same bits", "v1: 6 runs", "v2: 6 runs"):
        assert words in said
        assert words in text
    assert "By test/accuracy, mean and standard deviation over seeds:" in said
    assert len((work / "out/runs.csv").read_text().splitlines()) == 13
    for folders in ([v1], [v1, v2, other]):
        assert report.main([*folders, "--out", "out"]) == 0
        assert "compared" not in capsys.readouterr().out
        assert not (work / "out/comparison.md").exists()
    assert report.main([v1, v1, "--out", "out"]) == 0
    assert "A: 6 runs" in capsys.readouterr().out
    assert len((work / "out/runs.csv").read_text().splitlines()) == 7


@pytest.mark.slow
def test_a_comparison_of_others_is_left(sweeps, work, capsys):
    (work / "out").mkdir()
    (work / "out/comparison.md").write_text("mine")
    assert report.main([str(sweeps / "v1"), str(sweeps / "v2"), "--out", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "comparison.md was not written by a report" in line
    (work / "out/comparison.md").unlink()
    assert report.main([str(sweeps / "v1"), "--out", "out"]) == 0
    (work / "out/comparison.md").write_text("mine")
    capsys.readouterr()
    assert report.main([str(sweeps / "v1"), "--out", "out"]) == 2
    assert (work / "out/comparison.md").read_text() == "mine"


def test_a_folder_without_runs_is_one_line_and_nothing_is_written(sweeps, work, capsys):
    (work / "empty").mkdir()
    assert report.main([str(sweeps / "v1"), "empty"]) == 2
    assert report.main([str(sweeps / "v1"), "nowhere", "--out", "out"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "empty holds no run" in first
    assert "nowhere is no folder" in second
    assert [*work.rglob("*")] == [work / "empty"]


@pytest.mark.parametrize(
    ("before", "after", "labels"),
    [
        ("/a/v1/sweep", "/a/v2/sweep", ("v1", "v2")),
        ("/a/first", "/b/second", ("first", "second")),
        ("/a/x", "/a/x", ("A", "B")),
        ("/x", "/a/x", ("A", "B")),
        (f"/a/{'x' * 40}", "/a/b", ("A", "B")),
    ],
)
def test_folders_have_names_that_tell_them_apart(before, after, labels):
    assert find_labels(Path(before), Path(after)) == labels


def test_many_runs_are_compared_in_a_moment():
    many = [
        dataclasses.replace(made_run(seed, **{"optimizer.rate": rate}), identity=f"{seed} {rate}")
        for rate in range(200)
        for seed in range(3)
    ]
    found = Runs(many).compare(Runs(many[:-3]))
    assert len(found.results) == 2 * 199
    assert (found.bits.compared, found.bits.same) == (597, 597)
    assert len(json.dumps(describe_comparison(found))) < 500_000


# The verdicts


def test_two_sides_have_the_verdict_of_a_pair():
    random = np.random.default_rng(0)
    one, other = (dict(enumerate(random.normal(size=5) + shift)) for shift in (0, 3))
    for metric in ("val/loss", "val/accuracy"):
        (expected,) = compare({"A": one, "B": other}, metric)
        assert compare_sides([(one, other)], metric, ("A", "B")) == [expected]
        for sides in ((one, other), (other, one)):
            before, after = ({(): side} for side in sides)
            (result,) = compare_results(before, after, metric, {(): "all"}, ("A", "B"))
            assert result.interval is not None
            assert result.interval[0] < result.difference < result.interval[1]
    more = {**other, 7: 100.0, 8: float("nan")}
    assert compare_sides([(one, more)], "val/loss", ("A", "B")) == compare({"A": one, "B": other}, "val/loss")
    apart = {seed + 10: value for seed, value in other.items()}
    (welch,) = compare_sides([(one, apart)], "val/loss", ("A", "B"))
    assert welch is not None
    assert not welch.paired
    assert compare_sides([({0: 1.0}, other), ({}, {})], "val/loss", ("A", "B")) == [None, None]
    assert share_seeds({0: 1.0, 1: 2.0, 2: 3.0}, {1: 5.0, 2: 6.0}) == ({1: 2.0, 2: 3.0}, {1: 5.0, 2: 6.0})
    assert share_seeds({0: 1.0}, {0: 2.0, 1: 3.0}) == ({0: 1.0}, {0: 2.0, 1: 3.0})


@pytest.mark.parametrize("shift", [0, 10])
def test_false_verdicts_between_sides_are_as_rare_as_stated(shift):
    """Of 200 comparisons of 8 configurations, at most 5 % and two standard errors have a decided verdict."""
    random, wrong = np.random.default_rng(1), 0
    for _ in range(200):
        sides = []
        for _ in range(8):
            common = random.normal(size=4)
            one, other = (common + random.normal(size=4) for _ in range(2))
            sides.append((dict(enumerate(one)), dict(enumerate(other, shift))))
        found = compare_sides(sides, "val/accuracy", ("A", "B"))
        wrong += any(verdict and verdict.decided for verdict in found)
    assert wrong <= 200 * 0.05 + 2 * (200 * 0.05 * 0.95) ** 0.5
