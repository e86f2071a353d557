"""The lab report beside our runs: comparisons, conclusions, records and the page."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lab_report import figures, record, reproduction, study
from lab_report.conclusions import CONCLUSIONS, Finding
from lab_report.estimates import Estimate, Share, estimate
from lab_report.layers import list_layers
from lab_report.study import EXPERIMENTS, pick
from lab_report.tables import TABLES, Compared, Row, compare, judge, table_cells
from mnistjax import create_model
from mnistjax.cli.overrides import base_overrides, compose, composing, expand
from mnistjax.cli.prepare import Composer
from mnistjax.compose import flatten
from mnistjax.config import ConfigError
from mnistjax.report.figures import save
from mnistjax.report.runs import RunRecord
from mnistjax.seeds import Spread
from sections import replace_section
from test_figures import CLOTHES, drawn, rows, texts

ROOT = Path(__file__).parents[1]


accuracy = study.summary_number("test/accuracy")


def made(value=0.0, status="done", **config):
    """A RunRecord of one epoch."""
    summary = {"test/accuracy": value} if status == "done" else {}
    return RunRecord(Path("x"), status, None, config, [{"epoch": 1, "val/loss": value}], summary)


# Verdicts


def test_the_interval_is_for_one_more_run():
    ours = Spread((0.49, 0.5, 0.51))
    assert ours.next_half_width == pytest.approx(0.043027 * math.sqrt(4 / 3), rel=1e-4)
    assert judge("test/accuracy", 0.5 + 0.049, ours) == "reproduced"
    assert judge("test/accuracy", 0.5 + 0.051, ours) == "not reproduced"
    assert judge("test/accuracy", 0.5 - 0.051, ours) == "better"
    counts = Spread((1.0, 2.0, 3.0))
    assert judge("false positives", 2 + 5.1, counts) == "better"
    assert judge("false positives", 2 - 5.1, counts) == "not reproduced"
    assert judge("test/accuracy", 1.5, Spread((1.0, 2.0))) == "too few runs"


@settings(max_examples=20)
@given(st.integers(3, 8))
def test_one_more_run_lies_inside_as_often_as_the_interval_says(n):
    random = np.random.default_rng(n)
    runs = random.normal(0.99, 0.001, (1500, n + 1))
    inside = [judge("test/accuracy", run[-1], Spread(tuple(run[:-1]))) == "reproduced" for run in runs]
    assert 0.925 < np.mean(inside) < 0.975


def test_a_row_has_the_verdict_of_its_worst_metric_and_explains_it():
    row = Row("x", "width", {}, {"test/accuracy": 0.9, "test/f1": 0.8})
    near, level, far = (Spread((value, value + 0.01, value - 0.01)) for value in (0.9, 0.8, 0.5))
    assert Compared(row, {"test/accuracy": near, "test/f1": level}, 0, None).verdict == "reproduced"
    missed = Compared(row, {"test/accuracy": near, "test/f1": far}, 0, None)
    assert missed.verdict == "not reproduced"
    assert missed.explanation == "F1 -0.3"


def test_seeds_that_do_not_learn_leave_a_row_undecided():
    row = Row("x", "optimizer", {}, {"test/accuracy": 0.9663})
    compared = Compared(row, {"test/accuracy": Spread((0.9697, 0.9762, 0.1135))}, 0, None)
    assert (compared.verdict, compared.explanation) == (
        "undecided",
        "accuracy of our runs 0.9697 and 0.9762 and 0.1135",
    )


def test_failed_runs_are_left_out_and_counted():
    runs = [made(0.9, seed=seed, optimizer="sgd") for seed in range(3)] + [made(status="diverged", seed=3)]
    table = TABLES[-2]  # one row
    (one,) = compare(table, {"multiclass": runs})
    assert one.ours["test/accuracy"].values == (0.9, 0.9, 0.9)
    assert one.failed == 1
    assert "3 (1 not done)" in table_cells(table, [one])[1]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_each_row_of_the_tables_finds_its_seeds_among_the_jobs(experiment):
    """The experiments in conf/ train what the tables compare: five seeds, or three for the CNN."""
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
    first, second = (estimate([made(v) for v in x], accuracy) for x in (one, other))
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


def test_equal_runs_are_certain_except_for_a_tie():
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
    assert study.irregularity(run(falling)) == pytest.approx(0)
    assert study.irregularity(run([x + 0.1 * (i % 2) for i, x in enumerate(falling)])) > 0.05
    assert study.epochs_to_converge(run([1.0, 0.5, 0.108, 0.1, 0.1])) == 3
    with pytest.raises(ConfigError):
        study.irregularity(run(falling[:5]))


# Figures


def test_bands_span_the_seeds_and_name_their_groups(tmp_path):
    runs = [[{**row, "train/f1": 0.5, "val/f1": 0.1 * seed} for row in rows(4)] for seed in (1, 2, 6)]
    shorter = [rows(1)[0] | {"train/f1": 0.5, "val/f1": 0.5}]
    figure = figures.seed_curves({"sgd": runs, "adam": [shorter, *runs]}, title="by optimizer")
    assert {"by optimizer", "sgd", "adam", "training", "validation"} <= set(texts(figure))
    panel: Any = figure.axes[2]
    lines = {line.get_label(): line.get_ydata() for line in panel.lines}
    np.testing.assert_allclose(lines["sgd"], [0.3] * 4)
    np.testing.assert_allclose(lines["adam"], [0.35, 0.3, 0.3, 0.3])
    low, high = panel.collections[1].get_datalim(panel.transData).intervaly
    assert (low, high) == pytest.approx((0.1, 0.6))
    save(figure, tmp_path / "bands")
    assert "mathdefault" not in (tmp_path / "bands.svg").read_text()  # a tick in TeX, which is not set


def test_an_architecture_shows_shapes_and_parameters(tmp_path):
    figure = figures.architecture_figure(list_layers(create_model("cnn")), (28, 28, 1))
    told = "\n".join(texts(figure))
    for text in (
        "image\n28 x 28 x 1",
        "ConvBlock\n12 x 12 x 8",
        "11,584 parameters",
        "rate 0.4",
        "Dense\n10",
    ):
        assert text in told
    save(figure, tmp_path / "architecture")


def test_samples_and_counts_name_the_classes(tmp_path):
    images, labels, _ = drawn(13)
    samples = figures.sample_grid(images, labels, CLOTHES)
    assert [text for text in texts(samples) if text in CLOTHES] == [CLOTHES[label] for label in labels]
    save(samples, tmp_path / "samples")
    counts = {"train": [4800] * 10, "val": [1200] * 10, "test": [1000] * 10}
    figure = figures.class_counts_figure(counts, CLOTHES)
    assert {"train (48,000)", "val (12,000)", "test (10,000)"} <= set(texts(figure))
    save(figure, tmp_path / "counts")


# The page


MULTICLASS = TABLES[-2]  # of one row


def a_record(**study):
    """The record of made-up runs; each experiment took a minute."""
    about = {"data": "mnist", "quick": False, "cores": 2, "seconds": dict.fromkeys(study, 60.0)}
    return record.make_record(study, {}, about)


def multiclass(*accuracies):
    return [made(value, seed=seed) for seed, value in enumerate(accuracies)]


def test_a_record_has_what_the_runs_have():
    study = {"multiclass": [*multiclass(0.95, 0.96, 0.97), made(status="failed")]}
    cells = record.table_texts(json.loads(json.dumps(a_record(**study))))[MULTICLASS.title]
    assert cells == table_cells(MULTICLASS, [*compare(MULTICLASS, study)])
    assert "0.9600 ± 0.0100" in cells[1]


def test_a_newer_record_replaces_what_it_has_runs_for():
    old, new = a_record(multiclass=multiclass(0.9, 0.9, 0.9)), a_record(optimizer=[])
    merged = record.merge_records(old, new)
    assert merged["tables"] == old["tables"]
    assert merged["about"]["seconds"] == {"multiclass": 60, "optimizer": 60}
    better = a_record(multiclass=multiclass(0.95, 0.95))
    assert record.merge_records(old, better)["tables"] == better["tables"]
    timed = record.make_record({}, {MULTICLASS.rows[0].name: 0.5}, old["about"])
    (row,) = record.merge_records(old, timed)["tables"][MULTICLASS.title].values()
    assert (row["seconds"], row["ours"]) == (0.5, {"test/accuracy": [0.9, 0.9, 0.9]})
    with pytest.raises(ConfigError, match="quick"):
        record.merge_records(old, {**new, "about": {**new["about"], "quick": True}})


def test_a_record_replaces_the_readmes_tables(tmp_path, monkeypatch):
    readme, project = tmp_path / "README.md", tmp_path / "project.md"
    for path in (readme, project):
        path.write_text("before\n<!-- lab report: begin -->\nan old table\n<!-- lab report: end -->\nafter\n")
    monkeypatch.setattr(reproduction, "README", readme)
    monkeypatch.setattr(reproduction, "PROJECT_README", project)
    monkeypatch.setattr(reproduction, "RECORD_FILE", tmp_path / "record.json")
    for values in [(0.9, 0.9, 0.9), (0.95, 0.95, 0.95)]:
        reproduction.write_readme(a_record(multiclass=multiclass(*values)))
        text = readme.read_text()
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert "an old table" not in text
        assert text.count(f"{values[0]:.4f} ± 0.0000") == 1
        assert record.HOW_TABLES in text
        assert "16 results: 15 too few runs, 1 " in project.read_text()
    before = reproduction.RECORD_FILE.read_bytes()
    readme.write_text("no marks")
    with pytest.raises(SystemExit, match="has no section"):
        reproduction.write_readme(a_record())
    assert reproduction.RECORD_FILE.read_bytes() == before


def test_the_readmes_show_the_record():
    stored = json.loads(reproduction.RECORD_FILE.read_bytes())
    for path, content in (
        (reproduction.README, record.to_markdown(stored)),
        (reproduction.PROJECT_README, record.summarize(stored)),
    ):
        assert replace_section(path.read_text(), reproduction.SECTION, content) == path.read_text()


@pytest.mark.slow
def test_a_quick_reproduction_writes_its_page_and_can_be_continued(work):
    command = [sys.executable, str(ROOT / "scripts/reproduce.py"), "here", "--quick", "--data", "digits"]
    subprocess.run(command, check=True)
    report = work / "here/report"
    text = (report / "report.html").read_text()
    numbers = ["01", "03", "04", "05", "06", "08", "09", "10", "11", "12", "13", "14", "15a", "15b"]
    assert [number for number in numbers if f'id="figure-{number}"' in text] == numbers
    pictures = sorted(path.stem for path in report.glob("figures/*.svg"))
    assert pictures == [f"figure_{number}" for number in numbers]
    found = json.loads((report / "report.json").read_bytes())
    networks = [row for table in found["tables"].values() for row in table.values()]
    assert all(len(values) == 2 for row in networks for values in row["ours"].values())
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "$ mnistjax" not in again  # all sweeps are over
    other = subprocess.run([*command, "--data", "mnist"], capture_output=True, text=True)
    assert (other.returncode, other.stderr) == (2, f"error: {work / 'here'} was begun with data digits\n")
