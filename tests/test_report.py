"""The report beside ours: what is read, compared and concluded."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import reproduce
from mnistjax import records
from mnistjax.cli.overrides import base_overrides, compose, composing, expand
from mnistjax.cli.prepare import Composer
from mnistjax.compose import flatten
from mnistjax.config import ConfigError
from mnistjax.report import conclusions, kept
from mnistjax.report.conclusions import CONCLUSIONS, Estimate, Finding, Share, estimate
from mnistjax.report.paper import EXPERIMENTS, TABLES, Compared, Ours, Row, compare, pick, table_cells
from mnistjax.report.runs import RunRecord, name_runs, read_runs
from mnistjax.sweep.ledger import Entry, Ledger
from small import write_run

ROOT = Path(__file__).parents[1]


accuracy = conclusions.tested("test/accuracy")


def made(value=0.0, status="done", **config):
    """A run as it is read, of one epoch."""
    summary = {"test/accuracy": value} if status == "done" else {}
    return RunRecord(Path("x"), status, None, config, [{"epoch": 1, "val/loss": value}], summary)


# Reading


def test_single_runs_and_sweeps_are_read_in_their_order(tmp_path):
    write_run(tmp_path / "single", seed=7)
    sweep = Ledger(tmp_path / "sweep", "id", "2026-01-01", [])
    for number, name in enumerate(("adam", "sgd", "sgd")):
        config = {"optimizer.name": name}
        sweep.entries[number] = Entry(number, str(number), [], seed=number, config=config)
    write_run(sweep.job_folder(0), seed=0, optimizer={"name": "adam"})
    write_run(sweep.job_folder(1), "diverged", seed=1, reason="loss is nan", optimizer={"name": "sgd"})
    sweep.save()
    runs = read_runs([tmp_path])
    assert [run.status for run in runs] == ["done", "done", "diverged", "waiting"]
    assert [run.seed for run in runs] == [7, 0, 1, 2]
    assert [run.reason for run in runs] == [None, None, "loss is nan", None]
    assert [len(run.rows) for run in runs] == [2, 2, 2, 0]
    assert runs[2].summary == {}
    assert len(read_runs([tmp_path / "sweep", tmp_path])) == 4
    assert [run.sweep for run in read_runs([tmp_path / "sweep/0", tmp_path / "sweep"])] == ["id"] * 3
    names = [name for name, _ in name_runs(runs[1:])]
    assert names == ["adam seed=0", "sgd seed=1", "sgd seed=2"]


def test_jobs_that_failed_before_they_began_have_their_reason(tmp_path):
    sweep = Ledger(tmp_path, "id", "2026-01-01", [])
    sweep.entries[0] = Entry(0, "0", [], seed=0, status="failed", reason="lost before it began")
    sweep.save()
    (run,) = read_runs([tmp_path])
    assert (run.status, run.reason) == ("failed", "lost before it began")


def test_a_killed_run_is_not_running_and_a_damaged_one_has_failed(tmp_path):
    write_run(tmp_path / "a", "running", seed=1)
    write_run(tmp_path / "b", "running", seed=2)
    write_run(tmp_path / "c", seed=3)
    (tmp_path / "c/config.yaml").unlink()
    with records.lock(tmp_path / "b"):
        runs = read_runs([tmp_path])
    assert [run.status for run in runs] == ["interrupted", "running", "failed"]
    assert "config.yaml" in str(runs[2].reason)
    assert [run.damaged for run in runs] == [False, False, True]


def test_a_copied_folder_is_the_same_run(tmp_path):
    write_run(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert len(read_runs([tmp_path])) == 1


def test_a_folder_without_runs_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        read_runs([tmp_path])


# Verdicts


def test_the_interval_is_that_of_one_more_run():
    ours = Ours((0.49, 0.5, 0.51))
    assert ours.half_width == pytest.approx(0.043027 * math.sqrt(4 / 3), rel=1e-4)
    assert ours.verdict("test/accuracy", 0.5 + 0.049) == "reproduced"
    assert ours.verdict("test/accuracy", 0.5 + 0.051) == "not reproduced"
    assert ours.verdict("test/accuracy", 0.5 - 0.051) == "better"
    counts = Ours((1.0, 2.0, 3.0))
    assert counts.verdict("false positives", 2 + 5.1) == "better"
    assert counts.verdict("false positives", 2 - 5.1) == "not reproduced"
    assert Ours((1.0, 2.0)).verdict("test/accuracy", 1.5) == "too few runs"


@settings(max_examples=20)
@given(st.integers(3, 8))
def test_one_more_run_lies_inside_as_often_as_the_interval_says(n):
    random = np.random.default_rng(n)
    runs = random.normal(0.99, 0.001, (1500, n + 1))
    inside = [Ours(tuple(run[:-1])).verdict("test/accuracy", run[-1]) == "reproduced" for run in runs]
    assert 0.925 < np.mean(inside) < 0.975


def test_a_row_is_as_good_as_its_worst_metric_and_says_why():
    row = Row("x", "width", {}, {"test/accuracy": 0.9, "test/f1": 0.8})
    near, level, far = (Ours((value, value + 0.01, value - 0.01)) for value in (0.9, 0.8, 0.5))
    assert Compared(row, {"test/accuracy": near, "test/f1": level}, 0, None).verdict == "reproduced"
    missed = Compared(row, {"test/accuracy": near, "test/f1": far}, 0, None)
    assert missed.verdict == "not reproduced"
    assert missed.why == "F1 -0.3"


def test_seeds_that_do_not_learn_decide_nothing():
    row = Row("x", "optimizer", {}, {"test/accuracy": 0.9663})
    compared = Compared(row, {"test/accuracy": Ours((0.9697, 0.9762, 0.1135))}, 0, None)
    assert (compared.verdict, compared.why) == (
        "undecided",
        "accuracy of our runs 0.9697 and 0.9762 and 0.1135",
    )


def test_failed_runs_count_nothing_and_are_told():
    runs = [made(0.9, seed=seed, optimizer="sgd") for seed in range(3)] + [made(status="diverged", seed=3)]
    table = TABLES[-2]  # one row
    (one,) = compare(table, {"multiclass": runs})
    assert one.ours["test/accuracy"].values == (0.9, 0.9, 0.9)
    assert one.failed == 1
    assert "3 (1 not done)" in table_cells(table, [one])[1]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_each_row_of_the_tables_finds_its_seeds_among_the_jobs(experiment):
    """The experiments in conf/ train what the tables compare: five seeds, three of the CNN."""
    words = [f"experiment={experiment}", "data=digits"]
    with composing():
        composer = Composer()
        own, tasks = expand(words, compose(base_overrides(words)))
        jobs = [dict(flatten(composer([*own, *task]))) for task in tasks]
    study = {experiment: [RunRecord(Path("x"), "done", None, config, [], {}) for config in jobs]}
    rows = [row for table in TABLES for row in table.rows if row.experiment == experiment]
    assert rows
    for row in rows:
        seeds = [run.seed for run in pick(study, experiment, row.where)]
        assert seeds == list(range(3 if experiment == "optimizer" else 5)), row
        with composing():
            single = dict(flatten(Composer()([*row.overrides, "data=digits"])))
        assert all(single[key] == value for key, value in row.where.items())
    assert {job["train.epochs"] for job in jobs} == {100}


# Conclusions

FRACTIONS = st.integers(-1000, 1000).map(lambda number: number / 1000)


@given(st.lists(FRACTIONS, min_size=3, max_size=6, unique=True), FRACTIONS)
def test_the_share_is_the_one_sided_test(values, bound):
    found = estimate([made(value) for value in values], accuracy)
    test: Any = stats.ttest_1samp(values, bound, alternative="greater")
    assert found.share(low=bound).inside == pytest.approx(1 - test.pvalue, abs=1e-6)
    assert found.share(low=bound).beyond == pytest.approx(test.pvalue, abs=1e-6)
    assert found.share(low=bound).inside + found.share(high=bound).inside == pytest.approx(1)


@given(
    st.lists(FRACTIONS, min_size=3, max_size=5, unique=True),
    st.lists(FRACTIONS, min_size=3, max_size=5, unique=True),
)
def test_the_share_of_a_difference_is_welchs_test(one, other):
    first, second = (
        estimate([made(v) for v in x], conclusions.tested("test/accuracy")) for x in (one, other)
    )
    test: Any = stats.ttest_ind(one, other, equal_var=False, alternative="greater")
    assert (first - second).share(low=0).inside == pytest.approx(1 - test.pvalue, abs=1e-6)


def test_opinions_follow_the_shares():
    def opinion(*inside):
        return Finding("", [Share(share, 1 - share) for share in inside]).opinion

    assert opinion(0.99, 0.98) == "supported"
    assert opinion(0.97, 0.97) == "undecided"  # their doubts add up to 6 %
    assert opinion(0.6, 0.6, 0.6) == "undecided"
    assert opinion(0.99, 0.01) == "contradicted"
    assert opinion(0.99, 0.04) == "undecided"  # of two parts, one may be so by chance
    wide = Estimate(3.5, 10.0, 2).share(3, 4)
    assert wide.inside < 0.05
    assert Finding("", [wide]).opinion == "undecided"  # it is neither above nor below


def test_equal_runs_are_certain_but_for_a_tie():
    assert Estimate(1.0, 0.0, 4).share(low=0.9) == (1, 0)
    assert Estimate(1.0, 0.0, 4).share(low=1.1) == (0, 1)
    assert Estimate(1.0, 0.0, 4).share(low=1) == (0.5, 0.5)


def test_a_conclusion_without_runs_is_not_judged():
    for one in CONCLUSIONS:
        assert one.judge({})[0] in ("too few runs", "not tested")


def test_a_smooth_curve_is_not_irregular():
    def run(losses):
        rows = [{"val/loss": loss} for loss in losses]
        return RunRecord(Path("x"), "done", None, {}, rows, {})

    falling = list(np.linspace(1, 0.1, 30))
    assert conclusions.irregularity(run(falling)) == pytest.approx(0)
    assert conclusions.irregularity(run([x + 0.1 * (i % 2) for i, x in enumerate(falling)])) > 0.05
    assert conclusions.epochs_to_converge(run([1.0, 0.5, 0.108, 0.1, 0.1])) == 3
    with pytest.raises(ConfigError):
        conclusions.irregularity(run(falling[:5]))


# The page


MULTICLASS = TABLES[-2]  # of one row


def a_record(**study):
    """The record of made-up runs of some experiments, which took a minute each."""
    about = {"data": "mnist", "quick": False, "cores": 2, "seconds": dict.fromkeys(study, 60.0)}
    return kept.make_record(study, {}, about)


def multiclass(*accuracies):
    return [made(value, seed=seed) for seed, value in enumerate(accuracies)]


def test_a_record_tells_what_the_runs_tell():
    study = {"multiclass": [*multiclass(0.95, 0.96, 0.97), made(status="failed")]}
    cells = kept.table_texts(json.loads(json.dumps(a_record(**study))))[MULTICLASS.title]
    assert cells == table_cells(MULTICLASS, [*compare(MULTICLASS, study)])
    assert "0.9600 ± 0.0100" in cells[1]


def test_a_newer_record_replaces_what_it_has_runs_for():
    old, new = a_record(multiclass=multiclass(0.9, 0.9, 0.9)), a_record(optimizer=[])
    merged = kept.merge_records(old, new)
    assert merged["tables"] == old["tables"]
    assert merged["about"]["seconds"] == {"multiclass": 60, "optimizer": 60}
    better = a_record(multiclass=multiclass(0.95, 0.95))
    assert kept.merge_records(old, better)["tables"] == better["tables"]
    timed = kept.make_record({}, {MULTICLASS.rows[0].name: 0.5}, old["about"])
    (row,) = kept.merge_records(old, timed)["tables"][MULTICLASS.title].values()
    assert (row["seconds"], row["ours"]) == (0.5, {"test/accuracy": [0.9, 0.9, 0.9]})
    with pytest.raises(ConfigError, match="quick"):
        kept.merge_records(old, {**new, "about": {**new["about"], "quick": True}})


def test_a_record_replaces_the_readmes_tables(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{reproduce.BEGIN}\nold\n{reproduce.END}\nafter\n")
    monkeypatch.setattr(reproduce, "README", readme)
    monkeypatch.setattr(reproduce, "KEPT", tmp_path / "report.json")
    for values in [(0.9, 0.9, 0.9), (0.95, 0.95, 0.95)]:
        reproduce.write_readme(a_record(multiclass=multiclass(*values)))
        text = readme.read_text()
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert "old" not in text
        assert text.count(f"{values[0]:.4f} ± 0.0000") == 1
        assert kept.HOW_TABLES in text
    before = reproduce.KEPT.read_bytes()
    readme.write_text("no marks")
    with pytest.raises(SystemExit, match="has no place"):
        reproduce.write_readme(a_record())
    assert reproduce.KEPT.read_bytes() == before


def test_the_readme_tells_what_the_kept_record_says():
    record = json.loads(reproduce.KEPT.read_bytes())
    assert f"{reproduce.BEGIN}\n\n{kept.readme_text(record)}\n{reproduce.END}" in reproduce.README.read_text()


@pytest.mark.slow
def test_a_quick_reproduction_writes_its_page_and_goes_on_where_it_was(work):
    command = [sys.executable, str(ROOT / "scripts/reproduce.py"), "here", "--quick", "--data", "digits"]
    subprocess.run(command, check=True)
    report = work / "here/report"
    text = (report / "report.html").read_text()
    numbers = ["01", "03", "04", "05", "06", "08", "09", "10", "11", "12", "13", "14", "15a", "15b"]
    assert [number for number in numbers if f'id="figure-{number}"' in text] == numbers
    drawn = sorted(path.stem for path in report.glob("figures/*.svg"))
    assert drawn == [f"figure_{number}" for number in numbers]
    record = json.loads((report / "report.json").read_bytes())
    rows = [row for table in record["tables"].values() for row in table.values()]
    assert all(len(values) == 2 for row in rows for values in row["ours"].values())
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "$ mnistjax" not in again  # all sweeps are over
    other = subprocess.run([*command, "--data", "mnist"], capture_output=True, text=True)
    assert (other.returncode, other.stderr) == (2, f"error: {work / 'here'} was begun with data digits\n")
